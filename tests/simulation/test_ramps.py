"""Whole rollouts as users get them: the plan of `init`, weights that follow the verdicts, and what was forecast."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from simulation.closed_loop import Outcome, Rates, run

from tidegate.core.config import Rollout
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan
from tidegate.rollouts.stats.latency import LatencyLines

BASE = np.array([0.005, 0.5, 0.1, 0.01])
LINES = LatencyLines((0.0,) * 3, (0.0,) * 3, (1.0,) * 3, 5000)
RUNS = 300


def plan(units: float, **keys: Any) -> RolloutPlan:
    """The plan that `init` leaves in force, at a measured traffic of new users a minute."""
    section = Rollout.model_validate(keys)
    return make_plan(
        section, rollout_id="r", block_seconds=60, units_per_minute=units, error_rate=BASE[0], latency=LINES
    )


def always(factor: float = 1.0, at: int = 0, since: int = 0) -> Rates:
    """A canary with `factor` times the events of one metric from a weight on."""

    def rates(_: int, weight: int) -> tuple[Any, Any]:
        bad = BASE.copy()
        if weight >= since:
            bad[at] = factor * bad[at]
        return bad, BASE

    return rates


def allowed(rate: float) -> float:
    return rate + 3 * math.sqrt(rate * (1 - rate) / RUNS)


def blocks(made: RolloutPlan) -> int:
    return int(1.5 * sum(made.step_max) / made.block_seconds) + 5


@pytest.mark.parametrize("units", [2, 6, 60, 300, 1200])
def test_the_plan_of_init_is_made_at_any_traffic(units: float) -> None:
    """Where so few users cannot prove anything within two days it only guards, and says so."""
    made = plan(units)
    assert made.steps
    assert (made.mode, bool(made.warnings)) == (("guard", True) if units <= 6 else ("test", False))


@pytest.mark.parametrize(
    ("units", "runs"),
    [pytest.param(60, 40, marks=pytest.mark.long), pytest.param(300, RUNS, marks=pytest.mark.long), (1200, RUNS)],
)
def test_good_canaries_take_about_as_long_as_forecast(units: float, runs: int) -> None:
    """The median of the whole ramp, with the three latencies beside the errors, within a factor of 1.5."""
    made = plan(units)
    assert made.forecast_seconds is not None
    found = run(made, always(), runs=runs, blocks=int(1.6 * made.forecast_seconds / made.block_seconds))
    assert found.rolled_back.mean() <= allowed(made.alpha)
    assert 1 / 1.5 <= float(np.median(found.seconds)) / made.forecast_seconds <= 1.5


@pytest.mark.long
def test_nearly_every_good_canary_is_promoted_before_its_step_is_given_up() -> None:
    """Few are left waiting for a person, who could only guess."""
    made = plan(1200)
    assert run(made, always(), runs=RUNS, blocks=blocks(made)).promoted.mean() >= 0.97


@pytest.mark.long
def test_bad_canaries_are_gone_about_as_soon_as_forecast() -> None:
    """Ten times the errors, three times the slowest per cent: within a factor of 1.5, or two looks."""
    made = plan(1200)
    for factor, at, name in ((10.0, 0, "error_rate x10"), (3.0, 3, "latency_p99 x3")):
        found = run(made, always(factor, at), runs=RUNS, blocks=blocks(made))
        expected = made.forecast[0].rollback_seconds[name]
        assert found.rolled_back.mean() >= 0.99
        assert expected is not None
        assert float(np.median(found.seconds)) <= max(1.5 * expected, 2 * made.block_seconds)


@pytest.mark.long
def test_a_canary_on_the_safe_line_of_one_metric_is_seldom_promoted() -> None:
    """Over a ramp of three steps, whichever metric lies there: at most beta."""
    made = plan(1200, steps=[10, 25, 50])
    for at in (0, 3):
        stream = made.streams[at]
        on_line = stream.safe.at(stream.baseline) / stream.baseline
        found = run(made, always(on_line, at), runs=RUNS, blocks=80)
        assert found.promoted.mean() <= allowed(made.beta)


@pytest.mark.long
def test_a_regression_of_the_last_step_is_caught_before_promotion() -> None:
    """Four times the errors from 50 % on: rolled back as fast as one that was there from the start."""
    made = plan(1200, steps=[10, 50])
    late = run(made, always(4.0, 0, since=50), runs=RUNS, blocks=blocks(made))
    # A few good-looking ones never leave 10 %: past the longest time of a step a person decides.
    assert late.rolled_back.mean() >= 0.95
    assert late.promoted.mean() <= 0.01
    first = run(plan(1200, steps=[50]), always(4.0), runs=RUNS, blocks=60)
    before = run(plan(1200, steps=[10]), always(), runs=RUNS, blocks=blocks(made))
    assert np.median(late.seconds) - np.median(before.seconds) <= np.median(first.seconds) + 2 * made.block_seconds


@pytest.mark.long
def test_a_slow_tail_is_not_promoted_by_a_fast_middle() -> None:
    """Three times as many requests above the p99, half as many above the p50 and p90: never more often than beta."""

    def rates(_: int, __: int) -> tuple[Any, Any]:
        return BASE * np.array([1.0, 0.5, 0.5, 3.0]), BASE

    found: Outcome = run(plan(1200, steps=[25]), rates, runs=RUNS, blocks=120)
    assert found.promoted.mean() <= allowed(0.05)
    assert found.rolled_back.mean() >= 0.9
