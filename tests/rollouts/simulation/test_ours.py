"""The judge of the simulation is the judge of rollouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tidegate.core.config import Rollout
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.simulation.ours import Tidegate
from tidegate.rollouts.simulation.policy import running
from tidegate.rollouts.simulation.scenario import Scenario, plan_for
from tidegate.rollouts.simulation.traffic import Shown, Traffic

ERRORS = {"metric": "error_rate", "harm": {"ratio": 1.1, "margin": 0.001}, "safe": {"ratio": 1.5, "margin": 0.002}}
SHORT = {"min": 120.0, "max": 900.0}


def scenario(*, rollout: dict[str, Any] | None = None, **more: Any) -> Scenario:
    policy = Rollout.model_validate({"steps": [20, 50], "step": SHORT, **(rollout or {})})
    return Scenario.model_validate({"runs": 12, "duration": 2700.0, "error_rate": 0.01, "rollout": policy, **more})


def judged(judge: Judge, shown: Shown, run: int, weight: int) -> tuple[int, bool]:
    """The weight that `Judge` asks for after the same block, and whether it waits for a person."""
    names = [stream.metric for stream in judge.plan.streams]
    rows = shown.counts["first"][run].tolist()
    verdict = judge.update(Block(shown.index, weight, {n: Counts(*row) for n, row in zip(names, rows, strict=True)}))
    following = weight if verdict.next_weight is None else verdict.next_weight
    return following, verdict.decision == "inconclusive" and following == weight


@pytest.mark.parametrize(
    "case",
    [
        scenario(),
        scenario(effect={"error_rate": 2.0, "latency_p99": 2.0}, effect_from_weight=50),
        scenario(effect={"error_rate": 1.4}, rollout={"step": SHORT | {"on_inconclusive": "promote"}}),
        scenario(effect={"error_rate": 1.4}, rollout={"step": SHORT | {"on_inconclusive": "rollback"}}),
        scenario(units_per_minute=20.0, rollout={"mode": "guard", "guardrails": [ERRORS], "alpha": 0.2}),
    ],
    ids=["same", "late", "promotes anyway", "rolls back anyway", "guard"],
)
def test_every_block_is_decided_as_the_judge_decides_it(case: Scenario) -> None:
    """Weight and waiting of 12 runs agree after each of 45 blocks, whatever the policy does when it cannot tell."""
    plan = plan_for(case)
    ours, judges = Tidegate(plan, case.runs), [Judge(plan) for _ in range(case.runs)]
    traffic = Traffic(case, plan, np.random.default_rng(5))
    for index in range(case.blocks):
        weight = ours.weight.copy()
        shown = traffic.block(index, weight)
        ours.see(shown)
        for run in np.flatnonzero(running(weight)):
            expected = judged(judges[run], shown, run, int(weight[run]))
            assert (ours.weight[run], ours.waits[run]) == expected, (index, run)
    assert len(set(ours.weight.tolist())) + ours.waits.any() > 1 or not running(ours.weight).any()


def test_a_wrong_sample_ratio_is_held_as_the_judge_holds_it() -> None:
    """A canary that gets 30 % of users instead of 20 % waits for a person in both, though it would pass."""
    case = scenario(rollout={"step": {"min": 120.0, "on_inconclusive": "promote"}})
    plan = plan_for(case)
    ours, judge = Tidegate(plan, case.runs), Judge(plan)
    traffic = Traffic(case, plan, np.random.default_rng(5))
    for index in range(10):
        shown = traffic.block(index, np.full(case.runs, 30))
        ours.see(shown)
        expected = judged(judge, shown, 0, 20)
    assert expected == (20, True)
    assert ours.waits.all()
    assert (ours.weight == 20).all()
    unchecked = Tidegate(plan, case.runs, ratio_check=False)
    unchecked.see(shown)
    assert not unchecked.waits.any()
