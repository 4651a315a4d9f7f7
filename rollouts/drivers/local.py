"""Rollouts on the laptop: a person's decisions go into the ledger, `tidegate up` follows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tidegate.core.errors import Conflict
from tidegate.core.store import Store
from tidegate.registry.ledger import Draft, Event, Ledger
from tidegate.registry.state import RolloutState, State, deciding, fold, on_open, start
from tidegate.rollouts.loop import read_checkpoint
from tidegate.rollouts.plan import RolloutPlan


class LocalDriver:
    """Decides by compare-and-append on the ledger, so of two terminals one wins and the other is told.

    Args:
        ledger: of the environment.
        store: where the loop leaves its checkpoints.
        keep_previous: seconds that the loser stays warm after a promotion.
    """

    def __init__(self, ledger: Ledger, store: Store, keep_previous: float) -> None:
        self._ledger, self._store, self._keep = ledger, store, keep_previous

    def start(self, release: str, plan: RolloutPlan, *, by_hand: bool, replace: bool) -> RolloutState:
        """Write that the rollout begins; `replace` ends a running one first.

        Raises:
            Conflict: one runs already, there is no champion, or rollouts are frozen.
        """
        if replace:
            self._ledger.append(_replaced)
        self._ledger.append(deciding(start(release, plan.to_dict(), self._keep, by_hand=by_hand)))
        return self._newest()

    def status(self, rollout: str | None = None) -> dict[str, Any]:
        """Ledger and newest verdict of a rollout as one document.

        Raises:
            Conflict: there is none.
        """
        state = self._state()
        found = next((one for one in reversed(state.rollouts) if rollout in {None, one.id}), None)
        if found is None:
            raise Conflict("There is no such rollout.", "`tidegate ship` or `tidegate rollout start` begins one.")
        checkpoint = read_checkpoint(self._store, found.id) or {}
        verdict = checkpoint.get("verdict", {})
        return {
            "kind": "rollout",
            "id": found.id,
            "state": found.state,
            "weight": found.weight,
            "arms": {
                "stable": {"version": state.versions.get(found.stable), "release": found.stable},
                "canary": {"version": state.versions.get(found.canary), "release": found.canary},
            },
            "metrics": verdict.get("metrics", []),
            "srm": verdict.get("srm", {"log_e": 0.0, "ok": True}),
            "forecast_seconds": verdict.get("forecast_seconds") if found.open else None,
            "units": verdict.get("units", {"stable": 0, "canary": 0}),
            "decision": verdict.get("decision", "continue"),
            "steps": [asdict(result) for result in found.results],
            "plan": {"steps": list(found.steps), "step": found.step},
            "reasons": list(found.reasons) or verdict.get("reasons", []),
            "started_at": found.started_at,
            "ended_at": found.ended_at or None,
        }

    def promote(self, *, full: bool, reason: str) -> RolloutState:
        """Pass the running step, or the whole rollout with `full`.

        Raises:
            Conflict: no rollout runs (any more); says what happened to it.
        """

        def draft(_: State, current: RolloutState) -> Draft:
            data = {"rollout": current.id, "reasons": [reason], "units": self._units(current.id)}
            if full or current.step + 1 == len(current.steps):
                return Draft("promoted", {**data, "keep": current.keep})
            return Draft("step_passed", {**data, "step": current.step + 1})

        self._ledger.append(deciding(on_open(self._open_id(), draft)))
        return self._newest()

    def abort(self, reason: str) -> RolloutState:
        """End the rollout; the champion keeps everybody.

        Raises:
            Conflict: no rollout runs (any more); says what happened to it.
        """

        def draft(_: State, current: RolloutState) -> Draft:
            return Draft("aborted", {"rollout": current.id, "reasons": [reason], "units": self._units(current.id)})

        self._ledger.append(deciding(on_open(self._open_id(), draft)))
        return self._newest()

    def _open_id(self) -> str | None:
        """The rollout the person is looking at: a later one must not be hit by their answer."""
        rollout = self._state().rollout
        return rollout.id if rollout else None

    def _units(self, rollout: str) -> dict[str, int]:
        units: dict[str, int] = (read_checkpoint(self._store, rollout) or {}).get("verdict", {}).get("units", {})
        return units

    def _state(self) -> State:
        return fold(self._ledger.events())

    def _newest(self) -> RolloutState:
        rollout = self._state().rollout
        if rollout is None:
            raise Conflict("There is no rollout.", "`tidegate events` shows what happened.")
        return rollout


def _replaced(events: Sequence[Event]) -> Draft | None:
    current = fold(events).open_rollout
    return Draft("replaced", {"rollout": current.id, "reasons": ["replaced by a newer one"]}) if current else None
