"""What was decided about a rollout, by whom and why: the ledger's events that changed it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.registry.ledger import Event
from tidegate.registry.state import RolloutState, State, fold


@dataclass(frozen=True, slots=True)
class Decision:
    """One event.

    Attributes:
        at: ISO 8601 in UTC.
        kind: the event's, as in the ledger's grammar.
        actor: `judge`, or the person.
        weight: per cent on the canary from then on.
        reasons: sentences.
    """

    at: str
    kind: str
    actor: str
    weight: int
    reasons: tuple[str, ...]


def decisions(events: Sequence[Event], rollout: str) -> tuple[Decision, ...]:
    """Every decision about a rollout, from its start to its end, oldest first; none if the ledger does not know it."""
    state, known, found = State(), None, []
    for count, event in enumerate(events, 1):
        state = fold(events[:count], state)
        now = _of(state, rollout)
        if now is not None and now != known:
            reasons = tuple(map(str, event.data.get("reasons", ())))
            found.append(Decision(event.at, event.kind, event.actor, now.weight, reasons))
        known = now
    return tuple(found)


def _of(state: State, rollout: str) -> RolloutState | None:
    return next((one for one in reversed(state.rollouts) if one.id == rollout), None)
