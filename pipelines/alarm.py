"""What a closed window means for retraining: what the monitor saw, former champions, and the brakes of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import TidegateError
from tidegate.core.metrics import DIRECTIONS
from tidegate.monitors.candidates import formers
from tidegate.monitors.trigger import Signs, decide
from tidegate.pipelines import contest, live_quality
from tidegate.registry.state import State

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.pipelines.environment import Environment

Document = Mapping[str, Any]
"""What `monitor run` prints of a window."""


def decider(environment: Environment, progress: Progress) -> Callable[[State, Document], Mapping[str, Any]]:
    """How the monitor asks: (the ledger's state, the window's document) -> {asked, reason}.

    The answer about former champions is found once, however often the ledger makes the monitor decide again.
    """
    former: list[str] = []

    def ask(state: State, document: Document) -> Mapping[str, Any]:
        if not former:
            former.append(_former(environment, state, progress))
        config, now = environment.project.config, datetime.now(UTC)
        best, tolerance = best_former(environment, state), config.monitor.quality.tolerance
        quality = live_quality.of_champion(document.get("quality"), state.champion)
        seen = signs(document, quality, former=former[0], best=best, tolerance=tolerance)
        return decide(state, seen, config.retrain, config.monitor, now).to_json()

    return ask


def signs(
    document: Document,
    quality: Mapping[str, Any],
    *,
    former: str = "",
    best: tuple[int, float] | None = None,
    tolerance: float = 0.0,
) -> Signs:
    """The signs of a window.

    Args:
        document: what the monitor saw.
        quality: what it saw of the champion, `live_quality.of_champion`.
        former: who answers better, a sentence; empty if nobody.
        best: version and holdout metric of the best former champion, in the metric that is watched.
        tolerance: of quality.
    """
    return Signs(
        since=document["window"]["from"],
        outcome=document["outcome"],
        lost=quality.get("lost"),
        drift="; ".join(document.get("reasons", ())[:2]),
        quality=_said(quality),
        former=former,
        short=_short(quality, best, tolerance),
    )


def best_former(environment: Environment, state: State) -> tuple[int, float] | None:
    """Version and holdout metric of the former champion that was best in its time; None if there is none."""
    name = contest.metric_of(environment)
    if name not in DIRECTIONS:
        return None  # nobody has said yet which way it is better
    found = []
    for release in formers(state):
        try:
            version = environment.registry.get(state.versions[release])
        except TidegateError:
            continue  # MLflow lost it: what it was is not known
        if name in version.metrics:
            found.append((version.version, version.metrics[name]))
    sign = 1.0 if DIRECTIONS[name] == "higher" else -1.0
    return max(found, key=lambda one: sign * one[1], default=None)


def _said(quality: Mapping[str, Any]) -> str:
    if quality.get("value") is None:
        return ""
    value, low, high = (quality[name] for name in ("value", "low", "high"))
    where = "" if quality.get("reference") is None else f", {quality['reference']:.4g} on the holdout"
    return f"{quality['metric']} is {value:.4g} ({low:.4g} to {high:.4g}) on matured labels{where}"


def _short(quality: Mapping[str, Any], best: tuple[int, float] | None, tolerance: float) -> str:
    """Whether the whole interval is worse than what a former champion was in its time."""
    if best is None or quality.get("value") is None:
        return ""
    version, reference = best
    higher = (quality.get("better") or DIRECTIONS.get(quality["metric"])) == "higher"
    worse = quality["high"] < reference - tolerance if higher else quality["low"] > reference + tolerance
    return f"{_said(quality)}, and version {version} had {reference:.4g} in its time" if worse else ""


def _former(environment: Environment, state: State, progress: Progress) -> str:
    """Who answers the newest matured rows better; what cannot be compared is said, and stops no monitor."""
    if ":" in contest.metric_of(environment):
        # It would be called hundreds of times, in this process; a retrain does that.
        return ""
    try:
        rows = contest.newest(environment, 1, datetime.now(UTC))
        choice = contest.contest(environment, rows, formers(state), progress)
    except TidegateError as error:
        progress.note(f"Former champions were not compared: {error.message}")
        return ""
    return choice.winner.sentence if choice is not None and choice.winner is not None else ""
