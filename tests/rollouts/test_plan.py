from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
import pytest

from tidegate.core.config import Rollout
from tidegate.core.config_live import GUARDRAILS
from tidegate.core.errors import UsageError
from tidegate.rollouts.battery import Battery
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import Measured, check, make_plan
from tidegate.rollouts.stats.latency import LatencyLines
from tidegate.rollouts.words import bunching_sentence

LATENCY = LatencyLines((0.01, 0.02, 0.05), (0.012, 0.022, 0.052), (1.0, 1.0, 2.5), 5000)
DAYS_2 = 48 * 3600


def plan(units: float = 24_000, error_rate: float = 0.004, **rollout: Any) -> RolloutPlan:
    section = Rollout.model_validate(rollout)
    return make_plan(
        section, rollout_id="r1", block_seconds=5, units_per_minute=units, error_rate=error_rate, latency=LATENCY
    )


def test_a_plan_survives_json_exactly() -> None:
    """It is stored in the ledger and must mean the same ever after, also with forecasts that have no end."""
    for each in (plan(), plan(units=0, steps=[5]), plan(units=6), plan(shadow=True)):
        assert RolloutPlan.from_dict(json.loads(json.dumps(each.to_dict(), allow_nan=False))) == each


@pytest.mark.parametrize("units", [6, 60, 300, 1200])
def test_the_default_plan_is_never_refused(units: float) -> None:
    """With little traffic it becomes a guard and says so; else every step can decide within its time."""
    each = plan(units)
    assert each.mode == ("guard" if units == 6 else "test")
    assert bool(each.warnings) == (units == 6)
    assert all(5 <= maximum <= DAYS_2 for maximum in each.step_max)


def test_more_traffic_begins_more_carefully() -> None:
    """The first weight falls as the users come faster."""
    first = [plan(units).steps[0] for units in (60, 300, 1200, 24_000)]
    assert first == sorted(first, reverse=True)
    assert first[-1] == 1


def test_a_good_canary_of_the_demo_is_forecast_within_two_and_a_half_minutes() -> None:
    """400 new users a second, steps 20 and 50, independent slow requests."""
    lines = LatencyLines(LATENCY.stable, LATENCY.canary, (1.0, 1.0, 1.0), 5000)
    section = Rollout.model_validate({"steps": [20, 50], "step": {"min": "10s"}})
    each = make_plan(
        section, rollout_id="r1", block_seconds=5, units_per_minute=24_000, error_rate=0.004, latency=lines
    )
    assert each.forecast_seconds is not None
    assert each.forecast_seconds <= 150
    assert each.step_max == pytest.approx([4 * (f.promote_seconds or 0) for f in each.forecast])


def goal(units: float = 6000, improve_by: float = 0.0, steps: tuple[int, ...] = (25, 50), **seen: Any) -> RolloutPlan:
    lines = {"metric": "error_rate", "harm": {"margin": 0.01}, "safe": {"margin": 0.02}}
    section = {"guardrails": [lines], "goal": {"metric": "conversion", "improve_by": improve_by}, "steps": list(steps)}
    return make_plan(
        Rollout.model_validate(section),
        rollout_id="r1",
        block_seconds=5,
        units_per_minute=units,
        error_rate=0.004,
        others={"conversion": Measured(**({"value": 0.05, "source": "outcomes"} | seen))},
    )


def test_the_goal_is_forecast_for_a_few_improvements() -> None:
    """Larger ones sooner, later by the age at which users are counted; what the goal does not ask for has no time."""
    first, last = goal().forecast
    seconds = list(last.goal_seconds.values())
    assert list(last.goal_seconds) == ["conversion +5 %", "conversion +10 %", "conversion +20 %", "conversion +50 %"]
    assert None not in seconds
    assert seconds == sorted(seconds, key=lambda one: -(one or 0.0))
    assert (first.goal_seconds["conversion +20 %"] or 0) > (last.goal_seconds["conversion +20 %"] or 0)
    late = goal(delay=600.0).forecast[-1].goal_seconds
    assert late["conversion +50 %"] == pytest.approx((last.goal_seconds["conversion +50 %"] or 0) + 600)
    assert list(goal(improve_by=0.006).forecast[-1].goal_seconds) == ["conversion +20 %", "conversion +50 %"]
    half = goal(known=0.5).forecast[-1].goal_seconds["conversion +5 %"]
    assert half == pytest.approx(2 * (last.goal_seconds["conversion +5 %"] or 0))


def test_a_goal_that_no_step_can_prove_is_doubted() -> None:
    """With the improvement, the time that it needs, and what to change; one that can be proven is not."""
    assert not any("The goal is not expected" in warning for warning in goal(units=60_000).warnings)
    (said,) = [one for one in goal(units=60_000, value=0.0001).warnings if "The goal" in one]
    assert said.startswith("The goal is not expected to be proven: conversion +50 % needs ")


@pytest.mark.parametrize("kind", ["share", "mean"])
def test_half_of_all_canaries_prove_the_goal_in_about_the_time_that_is_forecast(kind: Literal["share", "mean"]) -> None:
    """400 made-up steps at 50 %, the canary 20 % better: the median lies within 1.5 of the forecast."""
    random, units, streams = np.random.default_rng(5), 200, 400
    made = goal(units=units * 12, steps=(50,), value=0.05, kind=kind, variance=0.05)
    expected = made.forecast[0].goal_seconds["conversion +20 %"]
    assert expected is not None
    battery, decided = Battery(made, streams), np.full(streams, np.inf)
    step, live = np.zeros(streams, dtype=np.int64), np.ones(streams, dtype=np.bool_)
    for block in range(int(3 * expected / 5)):
        sums = np.zeros((streams, 2, 6))
        for column, rate in ((0, 0.06), (3, 0.05)):
            happened = random.binomial(units // 2, rate, streams)
            sums[:, 1, column : column + 3] = np.stack([np.full(streams, units // 2), happened, happened], axis=1)
        battery.update(sums, step, live)
        reached = battery.log_e()[0, :, -1] >= -np.log(made.alpha)
        decided = np.where(reached & np.isinf(decided), 5.0 * (block + 1), decided)
    assert expected / 1.5 < np.median(decided) < expected * 1.5


def test_a_shadow_phase_is_part_of_the_forecast() -> None:
    """`step.min` more, and the steps stay as they were."""
    before, after = plan(), plan(shadow=True)
    assert (before.shadow_min, after.shadow_min) == (0, 120)
    assert after.forecast_seconds == pytest.approx((before.forecast_seconds or 0) + 120)
    assert (after.steps, after.forecast, after.step_max) == (before.steps, before.forecast, before.step_max)
    assert plan(units=0, steps=[5], shadow=True).forecast_seconds is None


def test_bunched_slow_requests_make_the_forecast_longer() -> None:
    """A design effect of 2.5 on the p99 takes 2.5 times the users, and there is a sentence that says why."""
    assert "latency_p99 needs 2.5 times the users" in bunching_sentence(plan(60))
    each = plan(60, steps=[50]).forecast[0]
    errors = plan(60, steps=[50], guardrails=[GUARDRAILS[0].model_dump()]).forecast[0]
    assert (each.slowest, errors.slowest) == ("latency_p99", "error_rate")
    assert pytest.approx(each.promote_seconds, rel=0.05) == 7960 * 2 / 60 * 60 * 2.5


def test_a_forced_plan_that_cannot_decide_says_so() -> None:
    """Explicit steps are kept, with a warning that names the step, the metric and the hours."""
    each = plan(60, steps=[5], step={"max": "1h"})
    assert (each.steps, each.mode) == ((5,), "test")
    assert "The step at 5 % is not expected to decide: latency_p99 of a good canary needs" in each.warnings[0]


def test_what_cannot_be_is_refused_before_the_start() -> None:
    """Lines outside (0, 1), unknown traffic with automatic steps, unmeasured metrics and latency, a step of 100."""
    accuracy = {"metric": "accuracy", "harm": {"margin": 0.01}, "safe": {"margin": 0.02}}
    for wrong, message in (
        ({"guardrails": [accuracy]}, "Nobody has measured accuracy"),
        ({"goal": {"metric": "conversion"}}, "Nobody has measured conversion"),
        ({"units": 0}, "steps: auto"),
        ({"error_rate": 0.9}, "harm line of error_rate|safe line of error_rate"),
        ({"units": -1}, "units a minute"),
        ({"steps": [100]}, "cannot be judged"),
    ):
        with pytest.raises(UsageError, match=message):
            plan(**wrong)
    with pytest.raises(UsageError, match="how fast the stable arm is"):
        make_plan(Rollout(), rollout_id="r", block_seconds=60, units_per_minute=60, error_rate=0.0)


def test_what_no_traffic_can_mend_is_refused_before_a_training() -> None:
    """A goal that is three metrics and a step of 100; what has to be measured, lines and labels, waits for it."""
    for wrong in ({"goal": {"metric": "latency"}}, {"steps": [100]}):
        with pytest.raises(UsageError):
            check(Rollout.model_validate(wrong))
    check(Rollout.model_validate({"steps": [20, 50, 100]}))
    check(Rollout.model_validate({"goal": {"metric": "conversion"}}))
    check(Rollout())


def test_the_hundred_that_follows_by_itself_may_be_written() -> None:
    """Many people end the ladder with it."""
    assert plan(steps=[20, 50, 100]).steps == (20, 50)
