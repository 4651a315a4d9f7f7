"""What the simulation draws is what the scenario says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tidegate.core.config import Rollout
from tidegate.rollouts.simulation.scenario import Regulars, Scenario, plan_for
from tidegate.rollouts.simulation.traffic import Pool, Shown, Traffic

ERRORS = {"metric": "error_rate", "harm": {"ratio": 1.1, "margin": 0.001}, "safe": {"ratio": 1.5, "margin": 0.002}}
LABELS = ERRORS | {"metric": "accuracy"}


def scenario(**more: Any) -> Scenario:
    policy = Rollout.model_validate({"steps": [20, 50], "guardrails": [ERRORS], **more.pop("rollout", {})})
    return Scenario.model_validate({"runs": 200, "units_per_minute": 600.0, "rollout": policy, **more})


def drawn(case: Scenario, weights: list[int], seed: int = 3) -> list[Shown]:
    traffic = Traffic(case, plan_for(case), np.random.default_rng(seed))
    return [traffic.block(index, np.full(case.runs, weight)) for index, weight in enumerate(weights)]


def shares(shown: Shown, metric: int = 0, view: str = "first") -> tuple[float, float]:
    """The canary's and the stable arm's share of bad events over all runs."""
    n1, x1, n0, x0 = shown.counts[view][:, metric].sum(axis=0)  # type: ignore[index]
    return x1 / n1, x0 / n0


def test_each_arm_gets_its_weight_and_its_rate() -> None:
    """600 users a minute, a fifth of them on a canary that fails four times as often."""
    [shown] = drawn(scenario(error_rate=0.05, effect={"error_rate": 4.0}), [20])
    n1, _, n0, _ = shown.counts["first"][:, 0].mean(axis=0)
    assert (n1, n0) == (pytest.approx(120, rel=0.03), pytest.approx(480, rel=0.02))
    assert shares(shown) == (pytest.approx(0.2, rel=0.05), pytest.approx(0.05, rel=0.05))
    assert shown.exposed["first"].tolist() == shown.counts["first"][:, 0, 0].tolist()


def test_an_effect_waits_for_its_weight_and_an_incident_hits_both_arms() -> None:
    """At 20 % the arms are equal; from the third minute on two fifths of requests fail in both."""
    case = scenario(
        error_rate=0.02,
        effect={"error_rate": 5.0},
        effect_from_weight=50,
        incident={"start": 120.0, "lasts": 60.0, "rate": 0.4},
    )
    before, after, during = drawn(case, [20, 50, 50])
    assert shares(before)[0] == pytest.approx(0.02, rel=0.1)
    assert shares(after)[0] == pytest.approx(0.1, rel=0.05)
    assert shares(during) == (pytest.approx(0.4, rel=0.02), pytest.approx(0.4, rel=0.02))


def test_errors_swing_with_the_day() -> None:
    """A quarter into the period they are at their height."""
    shown = drawn(scenario(error_rate=0.05, daily_cycle={"amplitude": 0.8, "period": 1200.0}), [20] * 16)
    assert shares(shown[5])[1] == pytest.approx(0.09, rel=0.05)
    assert shares(shown[15])[1] == pytest.approx(0.01, rel=0.15)


def test_slow_requests_are_nested() -> None:
    """Who is slower than the p99 is slower than the p90, also where an effect moves the tail alone."""
    latency = {"metric": "latency", "harm": {"ratio": 1.1}, "safe": {"ratio": 1.5}}
    case = scenario(effect={"latency_p99": 20.0}, rollout={"guardrails": [ERRORS, latency]})
    [shown] = drawn(case, [20])
    x = shown.counts["first"][:, 1:, 1]
    assert (x[:, 0] >= x[:, 1]).all()
    assert (x[:, 1] >= x[:, 2]).all()
    assert shares(shown, 3) == (pytest.approx(0.2, rel=0.05), pytest.approx(0.01, rel=0.2))


def test_regulars_keep_their_arm_and_are_first_once() -> None:
    """1,000 users are seen for the first time 1,000 times, and the canary's share of their requests is its own."""
    who = Regulars(users=1000, requests_per_minute=0.5, error_rate=0.1)
    pool, weight = Pool(who, 60.0, 50, np.random.default_rng(4)), np.full(50, 20)
    visits = [pool.visit(weight) for _ in range(60)]
    first, more = (sum(visit[at] for visit in visits) for at in (0, 1))
    assert (first.sum(axis=1) == 1000).all()
    assert (first + more).sum(axis=1).mean() == pytest.approx(1000 * 0.5 * 60, rel=0.02)
    canary = first[:, 0] / 1000
    assert canary.std() == pytest.approx((0.2 * 0.8 / 1000) ** 0.5, rel=0.4), "a hash is drawn once for each user"
    requests = (first + more)[:, 0] / (first + more).sum(axis=1)
    assert np.corrcoef(canary, requests)[0, 1] > 0.95
    assert not any(visit[2].any() for visit in visits), "nobody switched while the weight stood"


def test_only_users_between_two_weights_switch() -> None:
    """From 20 to 50 %: 30 of 100 users who were known to the stable arm turn up in the canary, each once."""
    who = Regulars(users=1000, requests_per_minute=5.0, error_rate=0.1)
    pool = Pool(who, 60.0, 50, np.random.default_rng(4))
    for _ in range(10):
        pool.visit(np.full(50, 20))
    switched = sum(pool.visit(np.full(50, 50))[2][:, 0] for _ in range(10))
    assert switched.mean() == pytest.approx(300, rel=0.02)


def test_labels_are_scored_once_at_their_age() -> None:
    """Nothing is scored before maturity; then each cohort with both arms alike, and none of a step that is over."""
    case = scenario(
        rollout={"guardrails": [LABELS]},
        labels={"wrong": 0.1, "wrong_after": 60.0, "right_after": 600.0, "maturity": 300.0},
    )
    shown = drawn(case, [20] * 8 + [50] * 7)
    scored = [int(one.counts["first"][:, 0, 2].sum()) for one in shown]
    assert scored[:5] == [0] * 5
    assert all(scored[5:8])
    assert scored[8:13] == [0] * 5, "exposed at 20 %"
    assert all(scored[13:])
    both = shares(shown[7])
    assert both == (pytest.approx(case.baseline, rel=0.1), pytest.approx(case.baseline, rel=0.1))
    early = shares(shown[0], view="requests")
    assert min(early) > 1.5 * case.baseline, "wrong ones are heard of first"


def test_traffic_is_the_seeds() -> None:
    """Equal seeds draw equal traffic, other seeds other traffic."""
    case = scenario()
    one, same, other = (drawn(case, [20], seed)[0].counts["first"] for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
