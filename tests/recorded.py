"""A rollout as a store keeps it: users are drawn, the judge decides, ledger, blocks and checkpoint are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from tidegate.core.config import Rollout
from tidegate.core.store import Store
from tidegate.registry.ledger import Draft, Ledger
from tidegate.registry.state import deciding, start
from tidegate.rollouts.block_files import write_blocks
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.checkpoint import checkpoint_path
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan
from tidegate.rollouts.stats.latency import LatencyLines
from tidegate.rollouts.verdict import Verdict

BEGAN = 1_800_000_000.0
LATENCY = LatencyLines((0.01, 0.02, 0.05), (0.012, 0.022, 0.052), (1.0, 1.0, 1.0), 5000)
STABLE = {"error_rate": 0.004, "latency_p50": 0.5, "latency_p90": 0.1, "latency_p99": 0.01}
GOOD = {"error_rate": 0.004, "latency_p50": 0.4, "latency_p90": 0.07, "latency_p99": 0.007}
BAD = GOOD | {"error_rate": 0.03}


def plan(
    rollout: str = "o-1a2b", *, block: float = 5, units_per_minute: float = 24_000, **section: object
) -> RolloutPlan:
    """Errors and latency, at 20 % and then 50 %."""
    made = Rollout.model_validate({"steps": [20, 50], "step": {"min": "10s"}, **section})
    return make_plan(
        made,
        rollout_id=rollout,
        block_seconds=block,
        units_per_minute=units_per_minute,
        error_rate=0.004,
        latency=LATENCY,
    )


class Recorder:
    """Writes the rollout of `plan` into a store, as `up` does.

    Args:
        store: gets everything.
        stream: of the ledger: model and environment.
        plan: what is judged.
        seed: of the users.
        units: new users in a block.
    """

    def __init__(self, store: Store, stream: str, plan: RolloutPlan, *, seed: int = 1, units: int = 2000) -> None:
        self.store, self.plan, self.units = store, plan, units
        self.now, self._rng, self._next = BEGAN, np.random.default_rng(seed), 0
        self.ledger = Ledger(store, stream, lambda: datetime.fromtimestamp(self.now, UTC))
        self._judge, self.weight = Judge(plan), plan.steps[0]
        if not self.ledger.events():
            for release, version in (("r-1", 1), ("r-2", 2)):
                data = {"release": release, "version": version, "run_id": "x"}
                self.say("registered", data)
            self.say("deployed", {"release": "r-1"})
        self.ledger.append(deciding(start("r-2", plan.to_dict(), 60.0, by_hand=False)))

    def say(self, kind: str, data: Mapping[str, object], actor: str = "judge") -> None:
        """Write an event."""
        self.ledger.append(lambda _: Draft(kind, data, actor))

    def run(self, canary: Mapping[str, float], most: int = 400) -> Verdict:
        """Let users of a canary with these rates come, until the judge has decided or `most` blocks are over."""
        verdict = self._judge.verdict()
        for _ in range(most):
            block = self._block(canary)
            self.now = BEGAN + (block.index + 1) * self.plan.block_seconds
            write_blocks(self.store, self.plan.rollout, [block])
            verdict = self._judge.update(block)
            self._act(verdict)
            if verdict.decision != "continue" and verdict.next_weight in {None, 0, 100}:
                break
        document = {"builder": {"start": BEGAN}, "verdict": verdict.to_dict()}
        self.store.write(checkpoint_path(self.plan.rollout), json.dumps(document).encode())
        return verdict

    def _block(self, canary: Mapping[str, float]) -> Block:
        rng, n1 = self._rng, int(self._rng.binomial(self.units, self.weight / 100))
        n0 = self.units - n1
        counts = {
            name: Counts(n1, int(rng.binomial(n1, canary[name])), n0, int(rng.binomial(n0, STABLE[name])))
            for name in (stream.metric for stream in self.plan.streams)
        }
        self._next += 1
        return Block(self._next - 1, self.weight, counts, Counts(n1, 0, n0, 0))

    def _act(self, verdict: Verdict) -> None:
        data = {"rollout": self.plan.rollout, "reasons": list(verdict.reasons), "units": verdict.units}
        if verdict.decision == "rollback":
            self.say("rolled_back", data)
        elif verdict.decision == "inconclusive":
            self.say("held", data)
        elif verdict.decision == "promote" and verdict.final:
            self.say("promoted", {**data, "keep": 60.0})
        elif verdict.decision == "promote":
            self.say("step_passed", {**data, "step": verdict.step + 1})
            self.weight = verdict.next_weight or self.weight
