"""How good the live answers are: the newest window whose labels are final, each version against its own holdout."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import TidegateError
from tidegate.monitors.candidates import formers
from tidegate.monitors.quality import metric_for, newest_mature, window_quality

if TYPE_CHECKING:
    from tidegate.pipelines.environment import Environment
    from tidegate.registry.state import State


def newest(environment: Environment, now: datetime) -> dict[str, Any]:
    """The quality of the newest window that is mature at `now`, as `monitor run` prints it, with its `from` and `to`.

    A window is judged by data when it ends and by labels when these are final, which is `monitor.labels.maturity`
    later: what a window's document says of quality is of the window before, as a rule.
    """
    from functools import partial

    from tidegate.monitors import own_quality
    from tidegate.monitors.tables import connection
    from tidegate.pipelines.own_live import OwnFunctions

    config = environment.project.config
    monitor = config.monitor
    since, until = newest_mature(now, monitor.window, monitor.labels.maturity)
    with connection() as opened:
        found = window_quality(
            opened,
            environment.store,
            environment.stream,
            since,
            until,
            metric=metric_for(config.task, monitor.quality.metric),
            tolerance=monitor.quality.tolerance,
            maturity=monitor.labels.maturity,
            references=references(environment, environment.state()),
            now=now,
            own=partial(own_quality.judge, ask=OwnFunctions(environment.project).measure),
        )
    return {**found.to_json(), "from": since.isoformat(), "to": until.isoformat()}


def of_champion(quality: Mapping[str, Any] | None, champion: str | None) -> Mapping[str, Any]:
    """What is said of the champion, nothing where the window has no labels of it.

    Labels come late: after a promotion they are of the version before for a while, whose loss is not the new one's.
    """
    versions = (quality or {}).get("versions") or ()
    return next((one for one in versions if one.get("release") == champion), {})


def lost(quality: Mapping[str, Any] | None, champion: str | None) -> bool | None:
    """Whether the champion has lost quality; None: nobody can tell."""
    answer = of_champion(quality, champion).get("lost")
    return None if answer is None else bool(answer)


def references(environment: Environment, state: State) -> dict[str, Mapping[str, float]]:
    """What the releases that may have answered lately measured on their holdouts."""
    rollout = state.rollout
    arms = (rollout.stable, rollout.canary) if rollout is not None else ()
    found: dict[str, Mapping[str, float]] = {}
    for release in {one for one in (state.champion, *arms, *formers(state)) if one is not None}:
        try:
            found[release] = _holdout(environment, state, release)
        except TidegateError:
            continue  # MLflow lost it: without a reference its quality is told, and never called lost
    return found


def _holdout(environment: Environment, state: State, release_id: str) -> Mapping[str, float]:
    """Of what is served, threshold and all, as its reference says; of an older release what its training measured."""
    from tidegate.monitors import reference
    from tidegate.registry import releases

    release = releases.load(environment.store, release_id)
    if release.reference is not None:
        return reference.load(environment.store, release.reference).metrics
    return environment.registry.get(state.versions[release_id]).metrics
