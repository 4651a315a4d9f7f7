"""Errors that come in bursts, request after request of the same user: counted once, they are one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tidegate.core.config import Rollout
from tidegate.rollouts.blocks import BlockBuilder, Exposure
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan

pytestmark = pytest.mark.long

RUNS, MINUTES, USERS, BURST = 30, 20, 60, 8
GUARDRAIL = {"metric": "error_rate", "harm": {"ratio": 1.1, "margin": 0.001}, "safe": {"ratio": 1.5, "margin": 0.002}}


def plan(unit: str) -> RolloutPlan:
    section = Rollout.model_validate(
        {"unit": {"per": unit}, "steps": [50], "guardrails": [GUARDRAIL], "step": {"max": "10h"}}
    )
    return make_plan(section, rollout_id="r", block_seconds=60, units_per_minute=USERS, error_rate=0.1)


def rolled_back(made: RolloutPlan, rng: np.random.Generator) -> bool:
    """An equal canary: one user in ten has a minute in which all its requests fail, on either arm."""
    builder, running, user = BlockBuilder(made, 0.0, 50), Judge(made), 0
    for minute in range(MINUTES):
        for _ in range(USERS):
            user += 1
            arm, status = ("canary" if rng.random() < 0.5 else "stable"), (500 if rng.random() < 0.1 else 200)
            begin = 60 * minute + 50 * rng.random()
            builder.add(Exposure(begin + index, f"u{user}", arm, status, 0.01, served_by=arm) for index in range(BURST))
        for block in builder.close(60.0 * (minute + 1)):
            running.add(block)
    return running.verdict().decision == "rollback"


def test_bursts_of_a_user_count_once() -> None:
    """Judged by users an equal canary stays; judged by requests as if they were independent, it often goes."""
    rng = np.random.default_rng(12)
    by_user = np.mean([rolled_back(plan("user"), rng) for _ in range(RUNS)])
    assert by_user <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
    by_request = np.mean([rolled_back(plan("request"), rng) for _ in range(RUNS // 2)])
    assert by_request > 0.2
