"""What git knows of the working tree: the commit, and everything that is not in it.

Nothing here changes the user's branch, index or files.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tidegate.core.errors import TidegateError

# A patch that `git apply` takes everywhere, whatever the user's taste in colours, prefixes and diff programs.
_PATCH = (
    *("diff", "--cached", "--binary", "--full-index", "--relative", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--no-renames", "--unified=3", "--src-prefix=a/", "--dst-prefix=b/"),
)
# Keys and the usual file of passwords, in any folder.
_SECRETS = tuple(f":(exclude,glob,icase)**/{name}" for name in (".env", "*.pem", "*.key"))


@dataclass(frozen=True, slots=True)
class WorkTree:
    """The commit (empty before the first one) and the binary patch from it to the files as they are."""

    commit: str
    diff: bytes

    @property
    def dirty(self) -> bool:
        """Whether the files differ from the commit, untracked ones included."""
        return bool(self.diff)


def git(root: Path, *arguments: str, env: dict[str, str] | None = None, content: bytes | None = None) -> bytes:
    """Run git in `root` and return what it printed; its complaint becomes a TidegateError."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            input=content,
            capture_output=True,
            check=True,
            env={**os.environ, **(env or {})},
        )
    except FileNotFoundError as error:
        raise TidegateError("git is not installed.", "Install git, then run the same command again.") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        raise TidegateError(f"git {arguments[0]}: {said}", f"It was run in {root}.") from error
    return done.stdout


def is_repository(root: Path) -> bool:
    """Whether `root` is inside a git working tree."""
    try:
        return git(root, "rev-parse", "--is-inside-work-tree").strip() == b"true"
    except TidegateError:
        return False


def toplevel(root: Path) -> Path:
    """The folder of the working tree that `root` is in."""
    return Path(git(root, "rev-parse", "--show-toplevel").decode().strip())


def head(root: Path) -> str:
    """The commit's full hash, or an empty string before the first commit."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode().strip()
    except TidegateError:
        return ""


def work_tree(root: Path, left_out: Iterable[str] = ()) -> WorkTree:
    """Commit and patch of the project's own folder, untracked files included, ignored ones and secrets not.

    The patch is made through a temporary index, so that the user's own is left alone. It is kept where others read it,
    so files that usually are secrets stay out, and what `left_out` names (paths relative to `root`), whether git
    follows them or not.
    """
    wanted = (".", *_SECRETS, *(f":(exclude,literal){path}" for path in left_out))
    commit = head(root)
    with tempfile.TemporaryDirectory() as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        if commit:
            git(root, "read-tree", commit, env=env)
        git(root, "add", "--all", "--", *wanted, env=env)
        # Before the first commit it is compared with the empty tree, whose hash is the repository's own kind.
        base = commit or git(root, "hash-object", "-t", "tree", "--stdin", content=b"").decode().strip()
        diff = git(root, *_PATCH, base, "--", ".", env=env)
    return WorkTree(commit, diff)
