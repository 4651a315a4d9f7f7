"""Latency is judged by thresholds that follow the stable arm: a change of load decides nothing, a slow canary does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from tidegate.core.config import Rollout
from tidegate.rollouts.blocks import BlockBuilder, Exposure
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan
from tidegate.rollouts.stats.latency import SLACK, freeze_latency

BLOCK, USERS = 5.0, 2000
Load = Callable[[float], float]


@cache
def plan(before: float) -> RolloutPlan:
    """One step at 50 %; the lines were frozen when requests took `before` times as long as they do later."""
    rng = np.random.default_rng(7)
    section = Rollout.model_validate({"steps": [50], "step": {"min": "5s", "max": "300s"}})
    return make_plan(
        section,
        rollout_id="r",
        block_seconds=BLOCK,
        units_per_minute=USERS * 60 / BLOCK,
        error_rate=0.0,
        latency=freeze_latency(before * service(rng, 5000)),
    )


def service(rng: np.random.Generator, n: int) -> np.ndarray:
    return 0.003 * rng.lognormal(0.0, 0.6, n)


def decide(seed: int, before: float, load: Load, extra: float) -> str:
    """The end of a rollout in which both arms get slower and faster by `load` and the canary takes `extra` longer."""
    rng = np.random.default_rng(seed)
    blocks, judge = BlockBuilder(plan(before), 0.0, 50), Judge(plan(before))
    for index in range(60):
        seconds = load(index * BLOCK) * service(rng, USERS)
        canary = rng.random(USERS) < 0.5
        times = index * BLOCK + np.sort(rng.uniform(0, BLOCK - 0.01, USERS))
        blocks.add(
            Exposure(t, f"{index}.{n}", arm, 200, s + extra * (arm == "canary"), served_by=arm)
            for n, (t, s, arm) in enumerate(zip(times, seconds, np.where(canary, "canary", "stable"), strict=True))
        )
        for block in blocks.close((index + 1) * BLOCK):
            if judge.add(block):
                return judge.verdict().decision
    return judge.verdict().decision


@pytest.mark.parametrize("before", [0.3, 1.0, 5.0])
def test_lines_frozen_under_another_load_still_promote_a_good_canary(before: float) -> None:
    """A stable arm that became five times faster, or three times slower, is no reason for "cannot tell"."""
    assert [decide(seed, before, lambda _: 1.0, 0.0) for seed in range(4)] == ["promote"] * 4


def test_a_load_that_swings_rolls_nobody_back_at_the_edge_of_the_slack() -> None:
    """The canary uses up the whole slack while both arms swing by a factor of three: it is no worse than allowed."""
    swing: Load = lambda t: 1.0 + 2.0 * float(np.sin(t / 25.0) ** 2)  # noqa: E731 - a formula
    ends = [decide(seed, 1.0, swing, SLACK) for seed in range(12)]
    assert ends.count("rollback") <= 1


def test_twenty_milliseconds_are_caught_whatever_the_load_did() -> None:
    """Moving thresholds follow the stable arm only, so a slow canary stays slow."""
    swing: Load = lambda t: 1.0 + 2.0 * float(np.sin(t / 25.0) ** 2)  # noqa: E731 - a formula
    assert [decide(seed, 5.0, swing, 0.02) for seed in range(6)] == ["rollback"] * 6
