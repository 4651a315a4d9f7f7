"""Whole rollouts whose labels come late, wrong answers sooner than right ones, through the builder of live cohorts.

Users are drawn one by one, their labels wait, `late.cohorts` sums up what is known at one age, and the panel judges it
in the block in which it matures. The ramp goes by the clock, so the newest cohorts are always younger than the rest:
who takes labels as they come, compares the canary's young users with the stable arm's old ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from tidegate.core.config import Rollout
from tidegate.rollouts.blocks import LABELLED, Cohort
from tidegate.rollouts.late import cohorts
from tidegate.rollouts.panel import PROMOTE, ROLLBACK, Late, Panel, Row
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import Measured, make_plan

RUNS, BLOCKS, UNITS, AGE = 120, 60, 100, 10
WRONG_AFTER, RIGHT_AFTER = 5.0, 20.0
WRONG = 0.1
STEPS = (10, 30, 50)
LINES = {"harm": {"ratio": 1.1, "margin": 0.01}, "safe": {"ratio": 1.5, "margin": 0.05}}


def plan() -> RolloutPlan:
    """Accuracy alone, labels ten blocks after their users."""
    section = {
        "guardrails": [{"metric": "accuracy", **LINES}],
        "steps": list(STEPS),
        "step": {"min": "1m", "max": "9h"},
    }
    heard = [1 - math.exp(-AGE / mean) for mean in (WRONG_AFTER, RIGHT_AFTER)]
    share = WRONG * heard[0] / (WRONG * heard[0] + (1 - WRONG) * heard[1])
    return make_plan(
        Rollout.model_validate(section),
        rollout_id="o-1",
        block_seconds=60,
        units_per_minute=UNITS,
        error_rate=0.0,
        others={"accuracy": Measured(1 - share, source="labels", delay=60.0 * AGE)},
    )


def weights() -> npt.NDArray[np.int64]:
    """Of each block: three steps of the same length."""
    return np.repeat(STEPS, BLOCKS // len(STEPS))


Users = tuple[pd.DataFrame, npt.NDArray[np.float64]]


def users(rng: np.random.Generator, factor: float = 1.0, since: int = 0) -> Users:
    """One rollout's users as the store tells of them when each is `AGE` old, and how long their labels took.

    The canary is wrong `factor` times as often from the weight `since` on.
    """
    block = np.repeat(np.arange(BLOCKS), UNITS)
    weight = weights()[block]
    canary = rng.random(len(block)) < weight / 100
    wrong = rng.random(len(block)) < WRONG * np.where(canary & (weight >= since), factor, 1.0)
    after = rng.exponential(np.where(wrong, WRONG_AFTER, RIGHT_AFTER))
    truth = np.where(wrong, "0", "1").astype(object)
    frame = pd.DataFrame(
        {
            "block": block,
            "weight": weight,
            "arm": np.where(canary, "canary", "stable"),
            "prediction": "1",
            "truth": np.where(after <= AGE, truth, None),
        }
    )
    frame.attrs["classes"] = ["0", "1"]
    return frame, after


def judged(made: RolloutPlan, each: list[tuple[Cohort, ...]], arrives: int = AGE) -> Panel:
    """Every run's cohorts, each judged `arrives` blocks after its own."""
    runs, steps = len(each), np.searchsorted(STEPS, weights())
    panel, yes = Panel(made, runs), np.ones(runs, dtype=np.bool_)
    none = np.zeros(runs, dtype=np.int64)
    for block in range(BLOCKS + arrives):
        now = min(block, BLOCKS - 1)
        late = []
        if 0 <= block - arrives < BLOCKS:
            due = [run[block - arrives] for run in each]
            sums = np.array([[one.metrics["accuracy"].row] for one in due])
            labelled = np.array([one.metrics[LABELLED].row for one in due])[:, [0, 1, 3, 4]]
            late = [Late(np.full(runs, steps[block - arrives]), sums, labelled)]
        new = np.full((runs, 2), UNITS / 2)
        panel.add(
            Row(
                np.full(runs, block),
                np.full(runs, steps[now]),
                np.zeros((runs, 1, 6)),
                weighed=~yes,
                dead=~yes,
                skipped=none,
                present=yes,
                new=new,
                late=tuple(late),
            )
        )
    return panel


def own(metric: str, _frame: pd.DataFrame) -> Any:
    raise AssertionError(metric)


@pytest.fixture(scope="module")
def equal() -> list[Users]:
    """Rollouts of a canary that is as good as the stable arm."""
    rng = np.random.default_rng(11)
    return [users(rng) for _ in range(RUNS)]


def allowed(rate: float) -> float:
    return rate + 3 * math.sqrt(rate * (1 - rate) / RUNS)


def test_an_equal_canary_is_seldom_rolled_back_by_cohorts_of_one_age(equal: list[Any]) -> None:
    """At most alpha, though wrong answers are heard of four times as soon and the ramp never stands still."""
    made = plan()
    panel = judged(made, [cohorts(made.late, frame, own) for frame, _ in equal])
    assert (panel.decision == ROLLBACK).mean() <= allowed(made.alpha)
    assert (panel.decision == PROMOTE).mean() > 0.5
    assert not panel.unlike.any()


def test_the_same_users_at_two_ages_would_be_called_unequal(equal: list[Any]) -> None:
    """What the rule is there for: a young cohort's labels are the wrong ones. Rolled back, or void for their number."""
    made, early = plan(), []
    for frame, after in equal:
        young = (frame["arm"] == "canary") & (after > AGE / 4)
        early.append(cohorts(made.late, frame.assign(truth=frame["truth"].mask(young)), own))
    panel = judged(made, early)
    assert (panel.decision == ROLLBACK).mean() > 0.1
    assert ((panel.decision == ROLLBACK) | panel.unlike).mean() > 0.9


def test_a_canary_that_gets_worse_at_the_last_step_is_not_promoted_by_its_earlier_users() -> None:
    """Four times as wrong from 50 % on: cohorts of 30 %, which mature during that step, prove nothing about it."""
    rng, made = np.random.default_rng(5), plan()
    panel = judged(made, [cohorts(made.late, users(rng, 4.0, since=50)[0], own) for _ in range(RUNS)])
    assert (panel.final & (panel.decision == PROMOTE)).mean() <= allowed(made.beta)
    assert (panel.decision == ROLLBACK).mean() > 0.9


def test_a_canary_on_the_safe_line_is_seldom_promoted() -> None:
    """Over the whole ramp at most beta."""
    rng, made = np.random.default_rng(7), plan()
    stream = made.streams[0]
    heard = [1 - math.exp(-AGE / mean) for mean in (WRONG_AFTER, RIGHT_AFTER)]
    share = stream.safe.at(stream.bad)
    odds = share / (1 - share) * heard[1] / heard[0]
    panel = judged(made, [cohorts(made.late, users(rng, odds / (1 + odds) / WRONG)[0], own) for _ in range(RUNS)])
    assert (panel.final & (panel.decision == PROMOTE)).mean() <= allowed(made.beta)
