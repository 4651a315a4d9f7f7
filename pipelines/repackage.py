"""`tidegate package`: the Bento of a release again, byte for byte, from what the release and the registry keep.

A release names its bundle by its hash, so what is built again is the same or it is refused: nothing else was gated.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.core.errors import TidegateError
from tidegate.core.git import git, is_repository, toplevel
from tidegate.core.project import Project, open_project
from tidegate.pipelines.bundles import bento_home, bundle_of
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.predict import release_for

if TYPE_CHECKING:
    from tidegate.core.artifacts import Release
    from tidegate.core.progress import Progress
    from tidegate.serving.package import BentoRef


@dataclass(frozen=True, slots=True)
class Packaged:
    """Where the Bento of a release is; `built` says whether it had to be built again."""

    release: Release
    bundle: Path
    built: bool


def package(environment: Environment, version: int | None, progress: Progress) -> Packaged:
    """Make sure that the Bento of a released version is on this machine; None is the champion.

    Raises:
        UsageError: nothing was released yet, or not that version.
        TidegateError: what can be built here is another one.
    """
    project = environment.project
    release = release_for(environment, version)
    with contextlib.suppress(TidegateError):
        return Packaged(release, bundle_of(project, release), built=False)
    # Missing, or changed and therefore of no use to anybody.
    shutil.rmtree(_folder(project, release), ignore_errors=True)
    with progress.task(f"check out release {release.id}"), _checked_out(environment, release) as old:
        made = _build(environment, release, old, progress)
    if made.tag != release.bento:
        raise TidegateError(
            f"Version {release.version} packaged here is {made.tag}, but release {release.id} was {release.bento}.",
            "The libraries differ from those it was made with, and what was not gated is not served. Install the "
            "versions of the project's requirements, or make a new release with `tidegate ship`.",
        )
    return Packaged(release, bundle_of(project, release), built=True)


def _folder(project: Project, release: Release) -> Path:
    name, _, version = release.bento.partition(":")
    return bento_home(project) / "bentos" / name / version


def _build(environment: Environment, release: Release, old: Project, progress: Progress) -> BentoRef:
    from tidegate.pipelines.steps.evaluate import holdout
    from tidegate.pipelines.steps.train import prepare_data
    from tidegate.serving import package as packaging

    project = environment.project
    registry = environment.registry
    with progress.task(f"fetch version {release.version}"):
        folder = registry.fetch(registry.get(release.version), project.state_dir / "models")
    prepared = prepare_data(old)
    frame = holdout(prepared)
    source = packaging.Source(
        folder, release.model, release.version, task=old.config.task, columns=prepared.interface.columns
    )
    truth = prepared.table.target.loc[frame.index]
    home = bento_home(project)
    return packaging.package(source, frame, truth, serve=old.config.serve, bento_home=home, progress=progress)


@contextmanager
def _checked_out(environment: Environment, release: Release) -> Iterator[Project]:
    """The project as it was when the release was made, in a folder that is gone afterwards."""
    from tidegate.pipelines import dvc_repo
    from tidegate.registry import releases

    root = environment.project.root
    inside = root.relative_to(toplevel(root)) if is_repository(root) else Path()
    with tempfile.TemporaryDirectory(prefix="tidegate-release-") as scratch:
        into = Path(scratch).resolve() / "release"
        try:
            releases.checkout(environment.store, release, root, into)
            dvc_repo.bring_in(into / inside, root)
            yield open_project(into / inside, environment.project.env)
        finally:
            if release.git_commit and into.exists():
                git(root, "worktree", "remove", "--force", str(into))
