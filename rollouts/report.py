"""All that is known of one rollout, from what the store keeps: the page and the JSON of `rollout report` show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tidegate.core.errors import Conflict, UsageError
from tidegate.core.store import Store
from tidegate.registry.ledger import Event
from tidegate.registry.state import fold
from tidegate.rollouts.block_files import damaged, read_blocks
from tidegate.rollouts.checkpoint import read_checkpoint
from tidegate.rollouts.decisions import Decision, decisions
from tidegate.rollouts.history import History, history
from tidegate.rollouts.plan import RolloutPlan


@dataclass(frozen=True, slots=True)
class Report:
    """One rollout.

    Attributes:
        model: its name.
        status: the document of `rollout status`.
        plan: what the judge went by.
        history: what it knew after each block.
        decisions: who decided what.
        began: when block 0 began, seconds since the epoch.
    """

    model: str
    status: Mapping[str, Any]
    plan: RolloutPlan
    history: History
    decisions: tuple[Decision, ...]
    began: float

    def seconds(self, decision: Decision) -> float:
        """How long after the beginning of block 0 it was taken; what came before that has a negative time."""
        return datetime.fromisoformat(decision.at).timestamp() - self.began

    def to_dict(self) -> dict[str, Any]:
        """JSON: `status` with the verdict of the recorded blocks, every decision and one row of `series` a block."""
        return {
            **self.status,
            "kind": "report",
            "model": self.model,
            "began_at": datetime.fromtimestamp(self.began, UTC).isoformat(),
            "verdict": self.history.verdict.to_dict(),
            "decisions": [{**asdict(one), "seconds": round(self.seconds(one), 3)} for one in self.decisions],
            "series": [asdict(moment) for moment in self.history.moments],
        }


def report(model: str, status: Mapping[str, Any], events: Sequence[Event], store: Store) -> Report:
    """Bring together what is known of the rollout that `status` (a document of `rollout status`) is about.

    Raises:
        Conflict: its plan is of another version of tidegate.
        TidegateError: its blocks are damaged.
    """
    rollout = str(status["id"])
    taken = decisions(events, rollout)
    known = next(one for one in fold(events).rollouts if one.id == rollout)
    try:
        plan = RolloutPlan.from_dict(known.plan)
    except (KeyError, TypeError) as error:
        raise Conflict(
            f"The plan of rollout {rollout} cannot be read: {type(error).__name__}: {error}.",
            f"Another version of tidegate made it; `tidegate rollout status {rollout}` shows what it decided.",
        ) from error
    try:
        judged = history(plan, read_blocks(store, rollout))
    except UsageError as error:
        raise damaged(store, rollout, error.message.rstrip(".")) from error
    return Report(model, status, plan, judged, taken, _began(store, rollout, taken))


def _began(store: Store, rollout: str, taken: Sequence[Decision]) -> float:
    """From the loop's checkpoint; before the first block from the decision that began the first step."""
    builder = (read_checkpoint(store, rollout) or {}).get("builder")
    if builder:
        return float(builder["start"])
    first = next((one for one in reversed(taken) if one.kind == "shadow"), taken[0])
    return datetime.fromisoformat(first.at).timestamp()
