"""A pod's working copy: one commit of the project, and the data of a retrain in place of the commit's."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tidegate.core.errors import Permanent, Temporary, TidegateError, UsageError
from tidegate.core.git import git

TOKEN: Final = "TIDEGATE_GIT_TOKEN"  # noqa: S105 - a variable's name
_USER: Final = "TIDEGATE_GIT_USER"
# Read by git from the environment each time it is asked, so that the token is in no file and on no command line.
_HELPER: Final = f'!f() {{ echo "username=${{{_USER}:-x-access-token}}"; echo "password=${TOKEN}"; }}; f'


@dataclass(frozen=True, slots=True)
class Place:
    """Where a project is: `folder` is its path inside the repository, `revision` a commit or HEAD."""

    repository: str
    revision: str
    folder: str = "."

    def __post_init__(self) -> None:
        """Refuse what git would take for an option, and folders outside the repository."""
        inside = Path(self.folder)
        if self.repository.startswith("-") or self.revision.startswith("-"):
            raise UsageError("A repository or revision cannot begin with a dash.", "Give an address and a commit.")
        if inside.is_absolute() or ".." in inside.parts:
            raise UsageError(f"{self.folder} is not inside the repository.", "Give a path relative to its top.")


def check_out(place: Place, into: Path) -> Path:
    """Bring one commit into the empty folder `into`; gives the project's folder in it.

    Raises:
        Temporary: the repository did not answer, or does not have the commit (yet).
        Permanent: the commit has no such folder.
    """
    use_token(os.environ)
    into.mkdir(parents=True, exist_ok=True)
    git(into, "init", "--quiet")
    if b"origin" not in git(into, "remote").split():
        git(into, "remote", "add", "origin", place.repository)
    try:
        _fetch(into, place.revision)
    except TidegateError as error:
        raise Temporary(
            f"{place.repository} did not give the commit {place.revision}: {error.message}",
            f"Was it pushed? A private repository needs a deploy token: {TOKEN} in the pod's environment.",
        ) from error
    git(into, "checkout", "--quiet", "--detach", "--force", "FETCH_HEAD")
    project = into / place.folder
    if not (project / "tidegate.yaml").is_file():
        raise Permanent(
            f"The commit {place.revision} has no tidegate.yaml in the folder {place.folder}.",
            "Is it the right commit of the right repository?",
        )
    return project


def use_token(environment: MutableMapping[str, str]) -> None:
    """Let every git below this process log in with the deploy token, if there is one; it never asks a person."""
    environment["GIT_TERMINAL_PROMPT"] = "0"
    if environment.get(TOKEN):
        helper = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "credential.helper", "GIT_CONFIG_VALUE_0": _HELPER}
        environment.update(helper)


def forget_token() -> None:
    """Keep the deploy token from the user's own code, which runs in this process."""
    os.environ.pop(TOKEN, None)


def pin_data(root: Path, path: str, md5: str) -> None:
    """Make the project's pointer name the data with this md5, as the retrain that made it left it.

    Raises:
        Permanent: the data has no pointer of its own.
    """
    pointer = root / f"{path}.dvc"
    if not pointer.is_file():
        raise Permanent(
            f"{path} has no pointer {pointer.name}, so no retrain can name new data.", "`dvc add` makes it."
        )
    document: dict[str, Any] = yaml.safe_load(pointer.read_text(encoding="utf-8"))
    out = next(one for one in document["outs"] if one["path"] == Path(path).name)
    if out["md5"] != md5:
        out["md5"] = md5
        out.pop("size", None)  # of the data before
        pointer.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def _fetch(into: Path, revision: str) -> None:
    """The one commit, or everything from a server that gives no single commits away."""
    try:
        git(into, "fetch", "--quiet", "--depth", "1", "origin", revision)
    except TidegateError:
        git(into, "fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*")
        git(into, "fetch", "--quiet", ".", revision)
