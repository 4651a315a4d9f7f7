"""The loop's part of a shadow phase: pairs in, and what the ledger should say of it, if anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.rollouts.health import Health
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.shadow import ShadowPhase
from tidegate.serving.pairs import PairReader

_ON_INCONCLUSIVE = {"hold": "held", "rollback": "inconclusive", "promote": "shadow"}


@dataclass(frozen=True, slots=True)
class Ending:
    """An event that ends, or holds, the phase, and why."""

    kind: str
    reason: str


class Copies:
    """Follows the phase of one rollout.

    Args:
        plan: of the rollout.
        folder: where processes leave their halves.
        state: JSON of a former `state()`.
    """

    def __init__(self, plan: RolloutPlan, folder: Path, state: Mapping[str, Any] | None = None) -> None:
        self._plan = plan
        self._phase = ShadowPhase(plan, state["phase"] if state else None)
        self._reader = PairReader(folder, plan.rollout, state["reader"] if state else None)
        self._saved = float("-inf")

    def read(self, now: float, health: Health) -> None:
        """Count what is new at `now`, seconds since the epoch."""
        if health.canary_ready:
            self._phase.look(now)
        self._phase.add(self._reader.read(now))

    def ending(self, now: float, health: Health, *, held: bool) -> Ending | None:
        """What follows from the pairs so far; a person decides about a phase that is `held`."""
        broken = self._phase.why_stop(stable_ready=health.stable_ready)
        if broken:
            return Ending("rolled_back", f"{broken} No user met it: this was the shadow phase.")
        if held:
            return None
        doubt = self._phase.why_doubtful(now) if self._phase.passed(now) else ""
        if doubt:
            return Ending(_ON_INCONCLUSIVE[self._plan.on_inconclusive], doubt)
        if self._phase.passed(now):
            return Ending("shadow", self.numbers(now)["sentence"])
        over = self._phase.why_over()
        return Ending(_ON_INCONCLUSIVE[self._plan.on_inconclusive], over) if over else None

    def due(self, now: float) -> bool:
        """Whether a block has passed since the state was kept."""
        return now - self._saved >= self._plan.block_seconds

    def numbers(self, now: float) -> dict[str, Any]:
        """JSON, as `ShadowPhase.numbers`."""
        return self._phase.numbers(now)

    def state(self, now: float) -> dict[str, Any]:
        """JSON: what a new one goes on with, and what a person is shown meanwhile."""
        self._saved = now
        shown = {"numbers": self.numbers(now), "forecast_seconds": self._phase.left(now)}
        return {"phase": self._phase.state(), "reader": self._reader.state(), **shown}
