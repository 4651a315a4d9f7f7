"""`mode: guard`: an honest soak, which needs somebody to take part in it."""

from __future__ import annotations

from tidegate.core.config import Rollout
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.judge import judge
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan
from tidegate.rollouts.stats.latency import LatencyLines


def plan() -> RolloutPlan:
    section = Rollout.model_validate(
        {"mode": "guard", "steps": [50], "step": {"min": "10m"}, "guardrails": [_errors()]}
    )
    return make_plan(section, rollout_id="r", block_seconds=60, units_per_minute=20, error_rate=0.0, latency=_LINES)


def _errors() -> dict[str, object]:
    return {"metric": "error_rate", "harm": {"ratio": 1.1, "margin": 0.001}, "safe": {"ratio": 1.5, "margin": 0.002}}


_LINES = LatencyLines((0.01,) * 3, (0.012,) * 3, (1.0,) * 3, 5000)


def blocks(canary: int, stable: int) -> list[Block]:
    return [Block(minute, 50, {"error_rate": Counts(canary, 0, stable, 0)}) for minute in range(40)]


def test_a_soak_with_users_on_both_arms_passes() -> None:
    """Half an hour without harm is what a guard asks for."""
    assert judge(plan(), blocks(5, 5)).decision == "promote"


def test_a_soak_that_nobody_took_part_in_says_cannot_tell() -> None:
    """No data is never a pass, on either arm."""
    for canary, stable in ((0, 0), (0, 10), (10, 0)):
        assert judge(plan(), blocks(canary, stable)).decision == "inconclusive"
