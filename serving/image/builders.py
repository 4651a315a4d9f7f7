"""docker, podman and buildah behind one table: build, save as an archive, push, remove."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.core.errors import TidegateError, UsageError
from tidegate.core.progress import Progress

CHOICE: Final = "TIDEGATE_BUILDER"
OPTIONS: Final = "TIDEGATE_BUILD_OPTIONS"
"""More options of the build, for a machine with a network of its own: `--network host`."""
_LAST_LINES: Final = 12


@dataclass(frozen=True, slots=True)
class Builder:
    """One tool, as words of its command lines; `{image}`, `{file}` and `{digest}` are filled in.

    `epoch` gives every file and the image itself one time, for equal digests; BuildKit reads it from a build argument.
    """

    name: str
    build: tuple[str, ...]
    epoch: tuple[str, ...]
    save: tuple[str, ...]
    push: tuple[tuple[str, ...], ...]


# OCI's format, since Docker's writes the name of the build's container into the config, and no digest is ever the same;
# OCI has no place for the health check, which clusters do not read. `--layers`: what models share is a layer.
_OWN: Final = ("build", "--format", "oci", "--layers")
_BUILDERS: Final = {
    "docker": Builder(
        "docker",
        ("buildx", "build", "--load", "--provenance=false"),
        ("--build-arg", "SOURCE_DATE_EPOCH={epoch}"),
        ("save", "--output", "{file}", "{image}"),
        (("push", "{image}"), ("inspect", "--format", "{{{{index .RepoDigests 0}}}}", "{image}")),
    ),
    "podman": Builder(
        "podman",
        _OWN,
        ("--timestamp", "{epoch}"),
        ("save", "--format", "docker-archive", "--output", "{file}", "{image}"),
        (("push", "--digestfile", "{digest}", "{image}"),),
    ),
    "buildah": Builder(
        "buildah",
        _OWN,
        ("--timestamp", "{epoch}"),
        ("push", "{image}", "docker-archive:{file}:{image}"),
        (("push", "--digestfile", "{digest}", "{image}", "docker://{image}"),),
    ),
}


def find() -> Builder:
    """The tool that TIDEGATE_BUILDER names, else the first that is installed.

    Raises:
        UsageError: there is none, or not the one that was asked for.
    """
    wanted = os.environ.get(CHOICE)
    if wanted and wanted not in _BUILDERS:
        raise UsageError(f"{CHOICE} is {wanted}, which builds no images here.", f"Use one of {', '.join(_BUILDERS)}.")
    for name, builder in _BUILDERS.items():
        if wanted in {None, "", name} and _works(name):
            return builder
    raise UsageError(
        f"{wanted or 'None of docker, podman and buildah'} works here, so no image can be built or read.",
        "Install one: `apt-get install buildah`, or https://podman.io for other systems.",
    )


def runner() -> Builder:
    """The tool that runs what `find` built: buildah only builds, and podman finds its images.

    Raises:
        UsageError: there is none.
    """
    found = find()
    if found.name != "buildah":
        return found
    if _works("podman"):
        return _BUILDERS["podman"]
    raise UsageError("buildah built the image, and podman is not here to run it.", "`apt-get install podman`")


def _works(name: str) -> bool:
    """Whether a tool is installed and, for Docker, its daemon answers: many machines have the client alone."""
    if not shutil.which(name):
        return False
    return name != "docker" or not subprocess.run([name, "version"], capture_output=True, check=False).returncode


def start(builder: Builder, image: str, name: str, port: int) -> None:
    """Run `image` as the container `name`, listening on this machine's `port` only, and as little as it may be.

    Raises:
        TidegateError: it does not start.
    """
    words = ["run", "--detach", "--name", "{name}", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]  # noqa: S108
    words += ["--security-opt", "no-new-privileges", "--network", "host"]
    words += ["--env", "TIDEGATE_HOST=127.0.0.1", "--env", "TIDEGATE_PORT={port}", "{image}"]
    _call(builder, words, f"{image} does not start.", image=image, name=name, port=port)


def lives(builder: Builder, name: str) -> bool:
    """Whether the container `name` still runs."""
    return _call(builder, ("inspect", "--format", "{{{{.State.Running}}}}", name), f"{name} is gone.").strip() == "true"


def logs(builder: Builder, name: str) -> str:
    """The last lines that the container `name` printed."""
    command = [builder.name, "logs", "--tail", str(_LAST_LINES), name]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return (done.stdout + done.stderr).strip()


def stop(builder: Builder, name: str) -> None:
    """Send SIGTERM to the container `name` and wait until it has ended.

    Raises:
        TidegateError: it did not end.
    """
    _call(builder, ("stop", "--time", "15", name), f"{name} did not stop.")


def discard(builder: Builder, name: str) -> None:
    """Remove the container `name`, running or not."""
    subprocess.run([builder.name, "rm", "--force", name], capture_output=True, check=False)


def build(builder: Builder, context: Path, image: str, secrets: Mapping[str, str], progress: Progress) -> None:
    """Build `context` as `image`; each line of the log is shown while it happens.

    Args:
        builder: from `find`.
        context: folder with a `Containerfile`.
        image: name and tag.
        secrets: content by id, there for the build's commands only.
        progress: where the log goes.

    Raises:
        TidegateError: the build failed; the message ends with the last lines of its log.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
    with _secret_options(secrets) as hidden, progress.task(f"build {image} with {builder.name}") as task:
        command = [builder.name, *builder.build, *(word.format(epoch=epoch) for word in builder.epoch)]
        command += ["--file", str(context / "Containerfile"), "--tag", image]
        command += [*hidden, *shlex.split(os.environ.get(OPTIONS, "")), str(context)]
        lines: list[str] = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as running:
            for line in running.stdout or ():
                lines.append(_hidden(line.rstrip(), secrets))
                task.advance(0, lines[-1][-100:])
        if running.returncode:
            end = "\n".join(lines[-_LAST_LINES:])
            raise TidegateError(
                f"{builder.name} could not build {image}:\n{end}",
                "A package that cannot be found: set image.index. A certificate that is not trusted: set image.ca. "
                "A base that cannot be pulled: set image.base.",
            )


def save(builder: Builder, image: str, file: Path) -> None:
    """Write `image` as a Docker archive, a tar of its layers.

    Raises:
        TidegateError: there is no such image here.
    """
    _call(builder, builder.save, f"There is no image {image} here.", image=image, file=file)


def has(builder: Builder, image: str) -> bool:
    """Whether `image` is on this machine."""
    kind = ("image",) if builder.name == "docker" else ()
    command = [builder.name, *kind, "inspect", *(("--type", "image") if not kind else ()), image]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def pull(builder: Builder, image: str) -> None:
    """Get `image` from its registry.

    Raises:
        TidegateError: the registry refused.
    """
    _call(builder, ("pull", "{image}"), f"{image} could not be pulled.", image=image)


def push(builder: Builder, image: str) -> str:
    """Push `image`; gives the digest of its manifest, `sha256:...`, by which it is pulled.

    Raises:
        TidegateError: the registry refused.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-push-") as scratch:
        digest = Path(scratch) / "digest"
        for words in builder.push:
            said = _call(builder, words, f"{image} could not be pushed.", image=image, digest=digest)
        found = digest.read_text(encoding="utf-8") if digest.is_file() else said.rpartition("@")[2]
    return found.strip()


def remove(builder: Builder, image: str) -> None:
    """Remove `image` from this machine, if it is here."""
    subprocess.run([builder.name, "rmi", "--force", image], capture_output=True, check=False)


def _call(builder: Builder, words: Sequence[str], otherwise: str, **filled: object) -> str:
    command = [builder.name, *(word.format(**filled) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise TidegateError(
            f"{otherwise} {builder.name} says: {done.stderr.strip()[-500:]}", f"Try `{shlex.join(command)}`."
        )
    return done.stdout


@contextmanager
def _secret_options(secrets: Mapping[str, str]) -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory(prefix="tidegate-secret-") as scratch:
        options = []
        for name, content in secrets.items():
            file = Path(scratch) / name
            file.touch(0o600)
            file.write_text(content, encoding="utf-8")
            options += ["--secret", f"id={name},src={file}"]
        yield options


def _hidden(line: str, secrets: Mapping[str, str]) -> str:
    """The line without the index, which pip prints."""
    index = secrets.get("index", "").strip()
    return line.replace(index, "(image.index)") if index else line


def reference(release: str, model: str, repository: str | None) -> str:
    """`REPOSITORY:r-...`: where it is pushed to, else a name of this machine only."""
    safe = json.dumps(model).strip('"').lower().replace("_", "-")
    return f"{repository or f'localhost/tidegate/{safe}'}:{release}"
