"""Releases in the store: written once, whole, and enough to restore the project they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tidegate.core.artifacts import Release
from tidegate.core.errors import Conflict, TidegateError, UsageError
from tidegate.core.git import git, is_repository
from tidegate.core.identifiers import RELEASE, whole
from tidegate.core.store import Store

# The patch from the commit to the files as they were, beside the project's own files.
DIFF = ".git-dirty.diff"
# No part of a file's path: `` is an absolute path or a double slash, and git runs what it finds in `.git`.
_OUTSIDE = frozenset({"", ".", "..", ".git"})


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """The sha256 of each file, as `Release.files` holds them."""
    return {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())}


def save(store: Store, release: Release, files: Mapping[str, bytes]) -> None:
    """Store the release and its files; the description comes last, so a release is whole or absent.

    Raises:
        TidegateError: a file's path leads out of the release; nothing was written.
    """
    _check_paths(release.id, files)
    for path, content in files.items():
        store.write(_file(release.id, path), content)
    store.put_if_absent(_description(release.id), json.dumps(release.to_json(), indent=1).encode())


def load(store: Store, release_id: str) -> Release:
    """Read a release and check that it still is what its id says.

    Raises:
        UsageError: there is none of that id.
        TidegateError: its description was changed, or names files outside the release.
    """
    try:
        content = store.read(_description(release_id))
    except FileNotFoundError as error:
        raise UsageError(f"There is no release {release_id}.", "`tidegate release list` shows them.") from error
    try:
        release = Release.from_json(json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise _tampered(release_id, _description(release_id)) from error
    if release.id != release_id:
        raise _tampered(release_id, _description(release_id))
    # A Bento's tag is a folder and one in it, which `tidegate package` replaces.
    _check_paths(release_id, (*release.files, release.bento.replace(":", "/")))
    return release


def ids(store: Store) -> list[str]:
    """Every release in the store."""
    return [path.split("/")[1] for path in store.list("releases") if path.endswith("/release.json")]


def resolve(store: Store, typed: str) -> str:
    """The whole id of the release that a person means: its id, or a beginning of it that no other release has.

    Raises:
        UsageError: none begins like that, or several do; the message names them.
    """
    found = whole(typed, ids(store), RELEASE)
    if found is None:
        raise UsageError(f"There is no release {typed}.", "`tidegate release list` shows them.")
    return found


def files_of(store: Store, release: Release) -> dict[str, bytes]:
    """The stored files of a release, each checked against its sha256.

    Raises:
        TidegateError: one is missing or was changed, or its path leads out of the release.
    """
    _check_paths(release.id, release.files)
    contents = {}
    for path, expected in release.files.items():
        try:
            content = store.read(_file(release.id, path))
        except FileNotFoundError as error:
            raise _tampered(release.id, _file(release.id, path), "is missing") from error
        if hashlib.sha256(content).hexdigest() != expected:
            raise _tampered(release.id, _file(release.id, path))
        contents[path] = content
    return contents


def checkout(store: Store, release: Release, root: Path, into: Path) -> None:
    """Restore the project of a release in the new folder `into`; the user's own tree is not touched.

    The commit comes from the repository at `root` as a git worktree, then the uncommitted patch,
    then the release's own files. A release made before the first commit becomes a repository of its own,
    one made without git a plain folder.

    Raises:
        Conflict: `into` exists.
        TidegateError: the release was changed, or its commit is not in this repository any more.
    """
    if into.exists():
        raise Conflict(f"{into} exists already.", "Name a new folder: `tidegate release checkout R --to DIR`.")
    files = files_of(store, release)
    diff = files.pop(DIFF, b"")
    prefix = git(root, "rev-parse", "--show-prefix").decode().strip() if is_repository(root) else ""
    if release.git_commit:
        # Forced, since git still remembers a folder that was checked out here before and deleted by hand.
        git(root, "worktree", "add", "--force", "--detach", str(into), release.git_commit)
    else:
        into.mkdir(parents=True)
        if diff:
            git(into, "init", "--quiet")
    project = into / prefix
    project.mkdir(parents=True, exist_ok=True)
    if diff:
        where = [f"--directory={prefix.rstrip('/')}"] if prefix else []
        git(into, "apply", "--binary", "--whitespace=nowarn", *where, "-", content=diff)
    _restore(release.id, files, project)


def _restore(release_id: str, files: Mapping[str, bytes], project: Path) -> None:
    root = project.resolve()
    for path, content in files.items():
        target = project / path
        # The commit or the patch may have put a link in the way.
        if not target.resolve().is_relative_to(root):
            raise _tampered(release_id, f"the file {path!r}", "would lie outside its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _description(release_id: str) -> str:
    return f"releases/{release_id}/release.json"


def _file(release_id: str, path: str) -> str:
    return f"releases/{release_id}/files/{path}"


def _check_paths(release_id: str, paths: Iterable[str]) -> None:
    """A release only names files below its project: whoever wrote another path did not make it with us."""
    for path in paths:
        parts = path.split("/")
        if not _OUTSIDE.isdisjoint(parts) or parts[0].endswith(":") or "\\" in path or "\0" in path:
            raise _tampered(release_id, f"the file {path!r}", "would lie outside its folder")


def _tampered(release_id: str, path: str, what: str = "was changed") -> TidegateError:
    return TidegateError(
        f"Release {release_id} is not what was recorded: {path} {what}.",
        "It will not be served. Restore the store from a backup, or ship again.",
    )
