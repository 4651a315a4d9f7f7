"""`retrain.git: branch`: what a retrain changed, as a commit on its own branch; the user's branch is left alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidegate.core import git
from tidegate.core.errors import TidegateError

if TYPE_CHECKING:
    from tidegate.core.project import Project

_REMOTE: Final = "origin"


def push(project: Project, retrain: str, reason: str) -> str:
    """Commit the data's pointer and dvc.lock on top of HEAD as `tidegate/retrain-<id>`, and push that branch only.

    Neither the working tree, the index nor the branch that is checked out changes.

    Returns:
        What became of it, a sentence; a branch that cannot be pushed is kept here.
    """
    root = project.root
    branch = f"tidegate/retrain-{retrain}"
    if not git.is_repository(root) or not git.head(root):
        return "retrain.git is branch, but there is no commit to put one on"
    names = [name for name in (f"{project.config.data.path}.dvc", "dvc.lock") if (root / name).is_file()]
    with tempfile.TemporaryDirectory() as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git.git(root, "read-tree", "HEAD", env=env)
        git.git(root, "add", "--", *names, env=env)
        tree = git.git(root, "write-tree", env=env).decode().strip()
    message = f"Retrain {retrain} on new data\n\n{reason}\n"
    commit = git.git(root, "commit-tree", tree, "-p", "HEAD", "-F", "-", content=message.encode()).decode().strip()
    git.git(root, "update-ref", f"refs/heads/{branch}", commit)
    try:
        git.git(root, "push", "--quiet", _REMOTE, f"{commit}:refs/heads/{branch}")
    except TidegateError as error:
        return f"the branch {branch} is here, and could not be pushed: {error.message}"
    return f"pushed the branch {branch}"
