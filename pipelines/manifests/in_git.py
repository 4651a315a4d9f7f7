"""`tidegate rollout start --git DIR`: the objects of a rollout as a commit, for whoever applies what is in git.

The commit is made in a work tree of its own on a new branch `tidegate/ROLLOUT`: nobody's checkout changes, no branch
that exists moves, and nothing is pushed unless asked. Who merges it begins the rollout; until Argo CD or Flux has
applied it, the ledger's rollout waits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.core.errors import Conflict, UsageError
from tidegate.core.git import git, is_repository, toplevel
from tidegate.pipelines.manifests.render import write


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit on a branch; `pushed` says whether the repository's `origin` has it."""

    branch: str
    commit: str
    files: tuple[str, ...]
    pushed: bool = False


def require_folder(folder: Path) -> Path:
    """The rendered folder, inside a git repository with a commit.

    Raises:
        UsageError: it is not.
    """
    place = folder.absolute()
    if not place.is_dir() or not is_repository(place):
        raise UsageError(
            f"{folder} is no folder of a git repository.",
            "Render into one first: `tidegate render --env NAME --out DIR`, commit it, and name that folder.",
        )
    return place


def commit(
    folder: Path, rollout: str, documents: Sequence[Mapping[str, Any]], message: str, *, push: bool
) -> Committed:
    """Commit the objects on a new branch; the same objects give the same tree.

    Args:
        folder: where `render --out` writes.
        rollout: the ledger's id.
        documents: the objects.
        message: of the commit.
        push: to `origin`, as this branch and no other.

    Raises:
        Conflict: the branch is there already.
        UsageError: nothing changed, or git refused.
    """
    place = require_folder(folder)
    root, branch = toplevel(place), f"tidegate/{rollout}"
    if git(root, "branch", "--list", branch).strip():
        raise Conflict(f"The branch {branch} is there already.", f"`git branch -D {branch}` removes it.")
    with tempfile.TemporaryDirectory(prefix="tidegate-git-") as scratch:
        tree = Path(scratch).resolve() / "tree"
        git(root, "worktree", "add", "--quiet", "-b", branch, str(tree), "HEAD")
        try:
            files, made = _committed(tree, tree / place.resolve().relative_to(root.resolve()), documents, message)
            if push:
                git(tree, "push", "--quiet", "origin", f"{branch}:{branch}")
        except BaseException:
            git(root, "worktree", "remove", "--force", str(tree))
            git(root, "branch", "-D", branch)
            raise
        git(root, "worktree", "remove", "--force", str(tree))
    return Committed(branch, made, files, push)


def _committed(
    tree: Path, folder: Path, documents: Sequence[Mapping[str, Any]], message: str
) -> tuple[tuple[str, ...], str]:
    written = write([dict(one) for one in documents], folder)
    git(tree, "add", "--all", str(folder))
    if not git(tree, "status", "--porcelain").strip():
        raise UsageError("The folder holds this already, so there is nothing to commit.", "`git log` shows it.")
    git(tree, "commit", "--quiet", "--message", message)
    return written.files, git(tree, "rev-parse", "HEAD").decode().strip()
