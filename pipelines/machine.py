"""What this machine lacks for the local road: every check answers with one finding, and a fix if it needs one.

Nothing here changes anything, but for a probe file in the store that is removed again.
"""

from __future__ import annotations

import importlib.util
import platform
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tidegate.core.config import Advanced, Config
from tidegate.core.errors import ConfigError, TidegateError
from tidegate.core.git import git
from tidegate.core.project import Project
from tidegate.pipelines import control

Status = Literal["ok", "warning", "problem"]
OLDEST_PYTHON: Final = (3, 11)
# A library's import name, and what tidegate does with it.
LIBRARIES: Final = {
    "bentoml": "serve",
    "dvc": "train",
    "great_expectations": "train",
    "mlflow": "train",
    "onnxruntime": "serve",
    "pandas": "train",
    "sklearn": "train",
    "skl2onnx": "train",
}
# A first `ship` writes some hundred megabytes; below one gigabyte it may stop half-way.
_LITTLE_DISK: Final = 1_000_000_000
_SOME_DISK: Final = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `fix` says what to type when it is not fine."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def examine(start: Path, open_project: Callable[[], Project]) -> Iterator[Finding]:
    """Look at everything, one finding at a time; works outside a project too.

    Args:
        start: folder whose disk is looked at.
        open_project: opens the project, or raises what is wrong with it.
    """
    yield python()
    yield from git_findings()
    yield libraries()
    yield envoy()
    project: Project | None = None
    try:
        project = open_project()
    except ConfigError as error:
        yield Finding("config", "problem", "; ".join((error.message, *error.problems)), error.hint)
    except TidegateError as error:
        yield Finding("config", "warning", error.message, error.hint)
    else:
        yield Finding("config", "ok", f"{project.root} as {project.env}")
    advanced, own = project.config.advanced if project else Advanced(), own_ports(project) if project else frozenset()
    yield port("gateway port", advanced.gateway_port, "advanced.gateway_port", own)
    yield port("console port", advanced.console_port, "advanced.console_port", own)
    yield disk(project.root if project else start)
    if project:
        yield gateway(project.config, project.root)
        yield store(project.store_url)
        yield mlflow(project.mlflow_uri)


def python() -> Finding:
    """The interpreter's version."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("python", "problem", platform.python_version(), "Install Python 3.11 or newer.")
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def git_findings() -> Iterator[Finding]:
    """Whether git is there, and whether it knows who commits."""
    try:
        version = git(Path(), "--version").decode().strip().removeprefix("git version ")
    except TidegateError as error:
        yield Finding("git", "problem", error.message, "Install git (Debian: apt-get install git).")
        return
    yield Finding("git", "ok", version)
    try:
        name = git(Path(), "var", "GIT_AUTHOR_IDENT").decode().rpartition(" <")[0]
        yield Finding("git identity", "ok", name)
    except TidegateError:
        fix = 'git config --global user.name "Your Name"; git config --global user.email you@example.org'
        yield Finding("git identity", "warning", "git does not know who you are", fix)


def libraries() -> Finding:
    """Whether the optional libraries are installed; none of them is imported."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(sorted({LIBRARIES[name] for name in missing}))
        return Finding("libraries", "problem", f"missing: {', '.join(missing)}", f"pip install 'tidegate[{extras}]'")
    return Finding("libraries", "ok", ", ".join(LIBRARIES))


def envoy() -> Finding:
    """Whether there is an Envoy that knows the sticky split."""
    from tidegate.serving.gateway.binary import envoy_version, find_envoy

    try:
        binary = find_envoy()
        return Finding("envoy", "ok", f"{'.'.join(map(str, envoy_version(binary)))} at {binary}")
    except TidegateError as error:
        return Finding("envoy", "problem", error.message, error.hint)


def gateway(config: Config, root: Path) -> Finding:
    """Whether Envoy takes what the config says of the gateway, its API keys included."""
    from tidegate.serving.gateway.process import validate
    from tidegate.serving.gateway.state import GatewaySettings

    try:
        validate(GatewaySettings.from_config(config, root))
    except TidegateError as error:
        return Finding("gateway", "problem", error.message, error.hint)
    return Finding("gateway", "ok", "Envoy takes its configuration")


def own_ports(project: Project) -> frozenset[int]:
    """The ports on which this project's `up` listens now; none if it does not answer."""
    try:
        stack = control.ask(control.socket_path(project.root, project.env), "ps", timeout=2.0)
    except TidegateError:
        return frozenset()
    return frozenset(process["port"] for process in stack["processes"] if process["port"])


def port(name: str, number: int, key: str, own: Container[int] = ()) -> Finding:
    """Whether a local port can be listened on, or is one of our own."""
    if number in own:
        return Finding(name, "ok", f"{number} is this project's own, `tidegate up` listens there")
    with socket.socket() as probe:
        # As servers do: a port whose connections are only just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            fix = f"Stop what listens there, or set {key}."
            return Finding(name, "warning", f"{number} is taken: {error.strerror}", fix)
    return Finding(name, "ok", f"{number} is free")


def disk(folder: Path) -> Finding:
    """Free space where the project is."""
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free at {folder}"
    if free < _SOME_DISK:
        status: Status = "problem" if free < _LITTLE_DISK else "warning"
        return Finding("disk", status, text, "Free some space; `dvc gc --workspace` removes data no commit uses.")
    return Finding("disk", "ok", text)


def store(url: str) -> Finding:
    """Whether the store can be written and lets exactly one of two writers win."""
    from tidegate.core.store import open_store

    path = f"probe/{secrets.token_hex(8)}"
    fix = "Check `store` in tidegate.yaml, its permissions and its credentials."
    try:
        opened = open_store(url)
        first, second = opened.put_if_absent(path, b"first"), opened.put_if_absent(path, b"second")
        content = opened.read(path)
        opened.delete(path)
    except Exception as error:  # noqa: BLE001 - each kind of bucket has a library with errors of its own
        return Finding("store", "problem", f"{url}: {error}".splitlines()[0], fix)
    if not first or second or content != b"first":
        detail = f"{url} lets two writers both win, so decisions could be lost"
        return Finding("store", "problem", detail, "Use a store with conditional writes (disk, S3, GCS, Azure).")
    return Finding("store", "ok", f"{url} can be written, one writer wins")


def mlflow(uri: str) -> Finding:
    """Whether MLflow's database is sound, or its server answers."""
    from tidegate.registry.sqlite_probe import probe

    shown = uri.rpartition("@")[2]
    try:
        if uri.startswith(("http://", "https://")):
            _ask(uri)
            return Finding("mlflow", "ok", f"{shown} answers")
        detail = f"{shown} is sound" if probe(uri) else f"{shown} does not exist yet; the first training makes it"
    except TidegateError as error:
        return Finding("mlflow", "problem", error.message, error.hint)
    except (OSError, ValueError) as error:
        fix = "Check `mlflow` in tidegate.yaml, or MLFLOW_TRACKING_URI."
        return Finding("mlflow", "problem", f"{shown} does not answer: {error}", fix)
    return Finding("mlflow", "ok", detail)


def _ask(address: str) -> None:
    """One GET of the server's health page; any HTTP answer below 500 means that it is there."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        with urlopen(f"{address.rstrip('/')}/health", timeout=5):  # noqa: S310 - the scheme was checked above
            return
    except HTTPError as error:
        if error.code >= 500:  # noqa: PLR2004 - HTTP's server errors
            raise
