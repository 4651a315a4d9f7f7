"""Rollouts on the laptop: a person's decisions go into the ledger, `tidegate up` follows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import Conflict
from tidegate.core.store import Store
from tidegate.registry.ledger import Decide, Draft, Event, Ledger
from tidegate.registry.state import Decision, RolloutState, State, deciding, fold, on_open, start
from tidegate.rollouts.checkpoint import read_checkpoint

if TYPE_CHECKING:
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
        """Write that the rollout begins; `replace` ends a running one first, if the new one may begin.

        Raises:
            Conflict: one runs already, there is no champion, or rollouts are frozen.
        """
        begin = start(release, plan.to_dict(), self._keep, by_hand=by_hand)
        if replace:
            self._ledger.append(_replaced(begin))
        self._ledger.append(deciding(begin))
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
            "log_e_harm": verdict.get("log_e_harm", 0.0),
            "srm": verdict.get("srm", {"log_e": 0.0, "ok": True}),
            "forecast_seconds": _left(found, checkpoint),
            "units": verdict.get("units", {"stable": 0, "canary": 0}),
            "late_labels": (checkpoint.get("cohorts") or {}).get("late", 0),
            "decision": verdict.get("decision", "continue"),
            "shadow": _shadow(found, checkpoint),
            "steps": [asdict(result) for result in found.results],
            "plan": {"steps": list(found.steps), "step": found.step},
            "reasons": list(found.reasons) or verdict.get("reasons", []),
            "started_at": found.started_at,
            "ended_at": found.ended_at or None,
        }

    def promote(self, *, full: bool, reason: str, actor: str = "", seen: RolloutState | None = None) -> RolloutState:
        """Pass the running step, or the whole rollout with `full`.

        Raises:
            Conflict: no rollout runs (any more), or it has left the step; says what happened to it.
        """
        seen = seen or self._seen()

        def draft(_: State, current: RolloutState) -> Draft:
            here = (current.step, current.shadowing)
            if not full and seen is not None and here != (seen.step, seen.shadowing):
                raise Conflict(
                    f"Rollout {current.id} went on to {current.weight} % meanwhile.",
                    "`tidegate events` shows who decided; promote again to pass this step too.",
                )
            data = {"rollout": current.id, "reasons": [reason], **self._shown(current)}
            if not full and current.shadowing:
                return Draft("shadow", data, actor)
            if full or current.step + 1 == len(current.steps):
                return Draft("promoted", {**data, "keep": current.keep}, actor)
            return Draft("step_passed", {**data, "step": current.step + 1}, actor)

        self._ledger.append(deciding(on_open(seen.id if seen else None, draft)))
        return self._newest()

    def abort(self, reason: str, actor: str = "", seen: RolloutState | None = None) -> RolloutState:
        """End the rollout; the champion keeps everybody.

        Raises:
            Conflict: no rollout runs (any more); says what happened to it.
        """
        seen = seen or self._seen()

        def draft(_: State, current: RolloutState) -> Draft:
            return Draft("aborted", {"rollout": current.id, "reasons": [reason], **self._shown(current)}, actor)

        self._ledger.append(deciding(on_open(seen.id if seen else None, draft)))
        return self._newest()

    def _seen(self) -> RolloutState | None:
        """The rollout as the person sees it: another step or a later rollout must not be hit by their answer."""
        return self._state().rollout

    def _shown(self, rollout: RolloutState) -> dict[str, Any]:
        """What the loop knows of the step that ends: users, or in a shadow phase what the copies showed."""
        checkpoint = read_checkpoint(self._store, rollout.id) or {}
        units = {"units": checkpoint.get("verdict", {}).get("units", {})}
        return {**units, "shadow": _numbers(checkpoint)} if rollout.shadowing else units

    def _state(self) -> State:
        return fold(self._ledger.events())

    def _newest(self) -> RolloutState:
        rollout = self._state().rollout
        if rollout is None:
            raise Conflict("There is no rollout.", "`tidegate events` shows what happened.")
        return rollout


def _numbers(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    numbers: dict[str, Any] = (checkpoint.get("shadow") or {}).get("numbers", {})
    return numbers


def _shadow(rollout: RolloutState, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the copies show, as far as anybody knows; None where there are no copies."""
    if not rollout.plan.get("shadow_min"):
        return None
    numbers = _numbers(checkpoint) if rollout.shadow is None else rollout.shadow
    return {"running": rollout.open and rollout.shadowing, **numbers}


def _left(rollout: RolloutState, checkpoint: Mapping[str, Any]) -> float | None:
    """Seconds until a good canary passes the phase or step of now."""
    if not rollout.open:
        return None
    part = "shadow" if rollout.shadowing else "verdict"
    left: float | None = (checkpoint.get(part) or {}).get("forecast_seconds")
    return left


def _replaced(begin: Decision) -> Decide:
    """End the running rollout, if there is one and the new one may begin without it."""

    def decide(events: Sequence[Event]) -> Draft | None:
        state = fold(events)
        current = state.open_rollout
        if current is None:
            return None
        begin(replace(state, rollouts=state.rollouts[:-1]))
        return Draft("replaced", {"rollout": current.id, "reasons": ["replaced by a newer one"]})

    return decide
