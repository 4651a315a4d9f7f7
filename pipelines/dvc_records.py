"""What DVC wrote down about a file, read as text: the md5 in `PATH.dvc` and `dvc.lock`, now and at a git revision.

No DVC is needed for that, so asking is cheap; and the hash is our own, because DVC believes some objects unread.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Final

import yaml

from tidegate.core.errors import UsageError

CHUNK: Final = 1 << 20  # bytes hashed at a time: large enough for speed, small enough for any machine


def file_md5(path: Path) -> str:
    """The md5 of a file's bytes, as DVC 3 records it."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as source:
        while block := source.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def hash_matches(path: Path, md5: str) -> bool:
    """Whether the bytes of `path` have this md5, by our own reading of them."""
    return file_md5(path) == md5


def md5_in_pointer(text: str, path: str) -> str | None:
    """The md5 of `path` in the text of its .dvc file; None if it is about something else."""
    outs = (yaml.safe_load(text) or {}).get("outs") or []
    for out in outs:
        if out.get("path") == Path(path).name:
            return str(out.get("md5") or "") or None
    return None


def md5_in_lock(text: str, path: str) -> str | None:
    """The md5 of `path` in the text of a dvc.lock; None if no stage makes it."""
    for stage in ((yaml.safe_load(text) or {}).get("stages") or {}).values():
        for out in stage.get("outs") or []:
            if out.get("path") == path:
                return str(out.get("md5") or "") or None
    return None


def git_show(root: Path, revision: str, path: str) -> str | None:
    """The text of a file at a revision; None if it was not there.

    Raises:
        UsageError: git does not know the revision.
    """
    command = ["git", "-C", str(root), "show", f"{revision}:./{path}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode == 0:
        return shown.stdout
    if subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
        capture_output=True,
        check=False,
    ).returncode:
        raise UsageError(f"git knows no revision {revision}", "`git log --oneline` lists them.")
    return None


def git_root(root: Path) -> Path:
    """The top folder of the git repository around `root`."""
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def in_git(root: Path, path: str) -> str:
    """`path`, relative to `root`, as git names it."""
    return Path(os.path.relpath((root / path).resolve(), git_root(root).resolve())).as_posix()


def relative(root: Path, path: Path) -> str:
    """An absolute path as seen from the project, with forward slashes."""
    return Path(os.path.relpath(path.resolve(), root.resolve())).as_posix()
