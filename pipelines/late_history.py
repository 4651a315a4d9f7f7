"""What the champion showed lately of metrics that are known late: the baseline of a plan, or why there is none yet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import Inconclusive, TidegateError
from tidegate.core.units import format_duration

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.config import Config
    from tidegate.pipelines.environment import Environment
    from tidegate.pipelines.own_live import OwnFunctions
    from tidegate.registry.state import RolloutState
    from tidegate.rollouts.late import Own
    from tidegate.rollouts.late_reading import Exposure, LateReading
    from tidegate.rollouts.plan import Source
    from tidegate.rollouts.planning import Measured

_DAYS: Final = 7
"""How far back one looks; the newest users of that time are enough."""
_MOST: Final = 20_000
_LEAST: Final = 50
"""Users whose value must be known: a mean's test needs as many before it begins."""
_SETTLE: Final = 2.0
"""Seconds on top of the interval at which records are written, for the writing itself."""
# Means are winsorised where one user in a thousand lies beyond.
_RARE: Final = 0.999


def late_metrics(config: Config) -> tuple[str, ...]:
    """The metrics of `rollout` that are known late."""
    from tidegate.rollouts.plan import source_of

    rollout = config.rollout
    named = [one.metric for one in rollout.guardrails] + ([rollout.goal.metric] if rollout.goal else [])
    return tuple(dict.fromkeys(name for name in named if source_of(name) != "requests"))


def settle(config: Config) -> float:
    """Seconds until a prediction is sure to be in the store."""
    return config.serve.capture.flush + _SETTLE


def ages(config: Config) -> dict[Source, float]:
    """How old users are, in seconds, when each kind of late metric is counted."""
    labels, window = config.monitor.labels.maturity, config.rollout.unit.window
    return {"labels": labels, "outcomes": window, "own": max(labels, window)}


def reading(environment: Environment, own: Own) -> LateReading:
    """Who knows what became of this environment's users; `own` calls the user's functions."""
    from tidegate.rollouts.late_reading import LateReading

    return LateReading(environment.store, environment.stream, own)


def reading_of(environment: Environment, rollout: RolloutState) -> LateReading:
    """The same for a rollout: the user's functions are what they were when it began."""
    from tidegate.pipelines.own_code import Kept
    from tidegate.pipelines.own_live import OwnFunctions

    digest = str(rollout.plan.get("code") or "")
    kept = Kept(environment.store, rollout.id, digest) if digest else None
    return reading(environment, OwnFunctions(environment.project, kept=kept))


def measured(environment: Environment, champion: str, own: OwnFunctions | None = None) -> dict[str, Measured]:
    """What the champion's users of the last days showed, for each late metric of `rollout`.

    Args:
        environment: where.
        champion: a release.
        own: calls the user's functions, and knows their code afterwards.

    Raises:
        Inconclusive: too few of its users are known in this way; says what to do.
        OwnMetricFailed: a function of the user's failed.
    """
    from tidegate.pipelines.own_live import OwnFunctions
    from tidegate.rollouts.plan import source_of

    own = own or OwnFunctions(environment.project)
    config, found = environment.project.config, {}
    metrics = late_metrics(config)
    for source, age in ages(config).items():
        mine = [name for name in metrics if source_of(name) == source]
        if not mine:
            continue
        exposed = list(_exposed(environment, champion, age + settle(config)))
        if not exposed:
            raise _nobody(mine, age)
        frame = reading(environment, own).frame(exposed, age, settle(config), inputs=source == "own")
        found.update({name: _measured(own, name, source, age, frame) for name in mine})
    return found


def _exposed(environment: Environment, champion: str, age: float) -> Iterator[Exposure]:
    """The first prediction of each user who is old enough, newest users first."""
    from tidegate.rollouts.blocks import Exposed
    from tidegate.rollouts.late_reading import Exposure
    from tidegate.serving.labels import answered
    from tidegate.serving.small_reads import small_connection

    until = datetime.fromtimestamp(time.time() - age, UTC)
    block = environment.project.config.advanced.block
    with small_connection("What became of the champion's users") as connection:
        known = answered(connection, environment.store, environment.stream, until - timedelta(days=_DAYS), until)
        rows = (
            known.filter(f"release = '{champion}' and unit is not null and arm is not null")
            .aggregate('unit, min("at") as first, arg_min(arm, "at") as arm, arg_min(id, "at") as id', "unit")
            .order("first desc")
            .limit(_MOST)
            .fetchall()
        )
    for unit, first, arm, prediction in rows:
        at = first.replace(tzinfo=UTC).timestamp()
        yield Exposure(Exposed(0, 0, arm, unit, prediction.partition(".")[0], at), at + block)


def _measured(own: OwnFunctions, name: str, source: Source, age: float, frame: pd.DataFrame) -> Measured:
    import numpy as np

    from tidegate.rollouts.late import OUTCOME, values
    from tidegate.rollouts.planning import Measured, kind_of

    if source == "outcomes" and OUTCOME + name not in frame:
        raise _nobody([name], age, users=len(frame))
    answers: dict[str, Any] = {}

    def ask(metric: str, rows: pd.DataFrame) -> Any:
        answers["better"] = "higher" if (answer := own.ask(metric, rows)).higher_is_better else "lower"
        return answer.told

    told = values(name, frame, ask)
    if source == "own":
        _require_whole(own, name, frame)
    told = told[~np.isnan(told)]
    if len(told) < _LEAST:
        raise _too_few(name, source, len(told), len(frame), age)
    kind = kind_of(name)
    if source == "own":
        kind = "share" if np.isin(told, (0.0, 1.0)).all() else "mean"
    late: Mapping[str, Any] = {"source": source, "delay": age, "known": len(told) / len(frame), "kind": kind, **answers}
    if kind == "share":
        # One of each on top: an arm that was never wrong is not known to be never wrong.
        return Measured((float(told.sum()) + 1) / (len(told) + 2), **late)
    size = np.abs(told)
    # Where fewer than one user in a thousand has any, the largest of them bounds the next one.
    bound = float(np.quantile(size, _RARE)) or float(size.max()) or None
    if bound is not None:
        told = np.clip(told, -bound, bound)
    return Measured(float(told.mean()), variance=float(told.var()), bound=bound, **late)


def _require_whole(own: OwnFunctions, name: str, frame: pd.DataFrame) -> None:
    """Refuse a function that needs more than its modules: a rollout keeps these, and calls it by them alone."""
    from tidegate.rollouts.late import OwnMetricFailed

    try:
        own.alone().ask(name, frame)
    except TidegateError as error:
        raise OwnMetricFailed(
            f"The metric {name} answers in the project's folder and not by its Python modules alone, which are what a "
            f"rollout keeps: {error.message}",
            "Write what it reads from other files into its module, or take it from the frame.",
        ) from error


def _nobody(names: Sequence[str], age: float, users: int = 0) -> Inconclusive:
    seen = f"None of its {users:,} users has such an event" if users else "No user's prediction is recorded yet"
    return Inconclusive(
        f"{' and '.join(names)} of the champion is not known: {seen}, among those who came at least "
        f"{format_duration(round(age))} ago in the last {_DAYS} days.",
        _INGEST,
    )


def _too_few(name: str, source: Source, known: int, users: int, age: float) -> Inconclusive:
    what = f"a label in time that {name} can be computed from" if source == "labels" else "a value"
    return Inconclusive(
        f"{name} of the champion is not known well enough: {known:,} of its {users:,} users who came at least "
        f"{format_duration(round(age))} ago have {what}, and {_LEAST} are needed.",
        _INGEST,
    )


_INGEST = (
    "Let the champion serve users, then `tidegate labels ingest FILE` their labels, or outcomes with `--outcomes`, or "
    "post them to the console (docs/labels.md). Or leave the metric out of `rollout` until then."
)
