"""Batch prediction with a released version: which bundle it is, then serving/scoring does the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.core.errors import UsageError
from tidegate.core.progress import Progress
from tidegate.core.project import Project

if TYPE_CHECKING:
    from tidegate.core.artifacts import Release
    from tidegate.pipelines.environment import Environment
    from tidegate.serving.scoring import Scored


def predict(
    project: Project, source: Path, target: Path, *, version: int | None, skip_bad: bool, progress: Progress
) -> Scored:
    """Predict every row of `source` into `target` with a released version; None is the champion.

    Raises:
        UsageError: nothing was released yet, or not that version.
        TidegateError: as `scoring.score` does.
    """
    from tidegate.serving.scoring import score

    return score(bundle_for(project, version), source, target, skip_bad=skip_bad, progress=progress)


def bundle_for(project: Project, version: int | None) -> Path:
    """The checked bundle of a released version, or of the champion.

    Raises:
        UsageError: there is none.
    """
    from tidegate.pipelines.bundles import bundle_of
    from tidegate.pipelines.environment import environment_for

    return bundle_of(project, release_for(environment_for(project), version))


def release_for(environment: Environment, version: int | None) -> Release:
    """The newest release of a version, or the champion: an older one may have had other hooks or another threshold.

    Raises:
        UsageError: there is none.
    """
    from tidegate.registry import releases

    state = environment.state()
    if version is None:
        if state.champion is None:
            raise UsageError("There is no champion yet.", "`tidegate ship` releases the first version.")
        return releases.load(environment.store, state.champion)
    found = [one for one, number in state.versions.items() if number == version]
    if not found:
        known = ", ".join(str(number) for number in sorted(set(state.versions.values()))) or "none"
        raise UsageError(
            f"Version {version} was never released; released are: {known}.", "`tidegate release list` shows more."
        )
    return releases.load(environment.store, found[-1])
