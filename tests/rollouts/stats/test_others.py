"""Means, sample ratio, intervals, forecasts and frozen latency."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tidegate.core.assignment import assigned_arm
from tidegate.core.errors import UsageError
from tidegate.rollouts.stats import confidence, ratio
from tidegate.rollouts.stats.forecast import miss_probability, units_to_evidence
from tidegate.rollouts.stats.latency import design_effect, freeze_latency
from tidegate.rollouts.stats.mean import MeanE, tuned_scale


def _mean_test(shift: float, runs: int = 400) -> np.ndarray:
    """The largest log e of each run: 40 blocks of 30 against 270 exponential losses, allowed 5 % more."""
    rng = np.random.default_rng(8)
    test = MeanE(1.05, 0.0, 1, np.full(runs, tuned_scale(27 * 40, 0.05)))
    best = np.full(runs, -np.inf)
    for _ in range(40):
        y1, y0 = rng.exponential(1 + shift, (30, runs)), rng.exponential(1, (270, runs))
        arms = [(float(len(y)), y.sum(0), (y**2).sum(0)) for y in (y1, y0)]
        best = np.maximum(best, test.update(arms[0], arms[1])[0])
    return best


def test_mean_rejects_harm_and_seldom_anything_else() -> None:
    """On the line itself a mean is called harmful in at most alpha (+3 SE) of runs; 40 % more is found in 9 of 10."""
    crossing = math.log(1 / 0.05)
    assert (_mean_test(0.05) >= crossing).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert (_mean_test(0.4) >= crossing).mean() >= 0.9


def test_mean_state_survives_json() -> None:
    """A restored mean test goes on with the same bits; before 50 units it says nothing."""
    test, other = MeanE(1.0, 0.1, [1, -1], 3.0), MeanE(1.0, 0.1, [1, -1], 3.0)
    assert test.update((30.0, 60.0, 130.0), (30.0, 50.0, 99.0)).tolist() == [[0.0, 0.0]]
    test.update((30.0, 60.0, 130.0), (30.0, 50.0, 99.0))
    other.restore(json.loads(json.dumps(test.state())))
    more = ((5.0, 9.0, 20.0), (50.0, 90.0, 200.0))
    assert test.update(*more).tolist() == other.update(*more).tolist()
    with pytest.raises(ValueError, match="tests shaped"):
        MeanE(1.0, 0.0, 1, 3.0).restore(test.state())


@pytest.mark.parametrize(("weight", "users", "rate"), [(1, 1000, 0.01), (5, 100, 0.01), (10, 60, 0.02)])
def test_revenue_that_most_users_do_not_bring_rolls_nobody_back(weight: int, users: int, rate: float) -> None:
    """One user in a hundred buys: until the canary's first sale its variance looks like none, and is not believed."""
    runs, rng = 300, np.random.default_rng(9)
    planned = users * 7 * weight / 100 * (1 - weight / 100) * 100**2 * rate
    test, best = MeanE(1.0, 0.0, [[-1.0], [1.0]], tuned_scale(planned, 0.05) * np.ones((2, runs))), np.zeros((2, runs))
    for _ in range(60):
        n1 = rng.binomial(users, weight / 100, runs)
        sales = [100.0 * rng.binomial(n, rate) for n in (n1, users - n1)]
        arms = [(n, s, 100.0 * s) for n, s in zip((n1, users - n1), sales, strict=True)]
        best = np.maximum(best, test.update(arms[0], arms[1])[0])
    assert ((best >= math.log(1 / 0.05)).mean(axis=1) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)).all()


@pytest.mark.parametrize("canary", [0.0, 1.0, 1.2])
def test_units_that_are_all_alike_prove_nothing(canary: float) -> None:
    """Without any variance there is nothing to measure a difference in: no verdict, also after a million units."""
    test = MeanE(1.0, 0.0, [1, -1], 3.0)
    for _ in range(20):
        log_e = test.update((5e4, 5e4 * canary, 5e4 * canary**2), (5e4, 5e4, 5e4))
    assert log_e.tolist() == [[0.0, 0.0]]


def test_sample_ratio_accepts_the_gateways_hash_and_finds_a_lost_tenth() -> None:
    """20,000 users dealt by the hash are no evidence; losing a tenth of the canary's voids."""
    canary = sum(assigned_arm("r1", f"u{i}", 20) == "canary" for i in range(20_000))
    assert ratio.log_e(canary, 20_000, 20) < 1
    assert ratio.log_e(0.9 * canary, 20_000 - 0.1 * canary, 20) > ratio.VOID


def test_intervals_cover_at_all_times() -> None:
    """Looked at after every one of 100 blocks, the interval misses the true difference in at most alpha of runs."""
    runs, rng = 500, np.random.default_rng(11)
    for p1, p0, n1, n0 in ((0.004, 0.004, 60, 240), (0.06, 0.05, 100, 100), (0.0, 0.0005, 40, 160)):
        scale = confidence.tuned_scale(2000 * 0.8 * max(p0, 0.001), 0.05)
        effect, missed = confidence.Effect(np.full(runs, scale), 0.05), np.zeros(runs, bool)
        for _ in range(100):
            x1, x0 = rng.binomial(n1, p1, runs), rng.binomial(n0, p0, runs)
            arms = (np.full(runs, n1), x1, x1, np.full(runs, n0), x0, x0)
            effect.update(np.stack(arms, axis=-1).astype(float))
            _, low, high = effect.interval()
            missed |= (low > p1 - p0) | (high < p1 - p0)
        assert missed.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_forecast_of_a_good_canary_matches_the_documented_users() -> None:
    """About 2,300 to 4,200 canary users prove errors safe; the p99 at 1.5 needs 3,700 to 8,000."""
    for weight, low, high in ((5, 2100, 2500), (50, 3900, 4400)):
        units = units_to_evidence(0.005, 0.005, ratio=1.5, margin=0.002, side=-1, weight=weight, level=0.05)
        assert low <= units * weight / 100 <= high
    for weight, low, high in ((20, 4300, 4900), (50, 7500, 8400)):
        units = units_to_evidence(0.01, 0.01, ratio=1.5, margin=0.0, side=-1, weight=weight, level=0.05)
        assert low <= units * weight / 100 <= high


def test_what_cannot_be_decided_takes_for_ever() -> None:
    """A canary on the wrong side of the line never gives evidence, and a harm test with few users misses nearly all."""
    line = {"ratio": 1.5, "margin": 0.0}
    assert units_to_evidence(0.02, 0.01, **line, side=-1, weight=50, level=0.05) == math.inf
    assert miss_probability(0.02, 0.01, ratio=1.1, margin=0.0, weight=50, units=200, level=0.05) > 0.9
    assert miss_probability(0.02, 0.01, ratio=1.1, margin=0.0, weight=50, units=200_000, level=0.05) < 0.01


def test_frozen_latency_leaves_the_stable_arm_its_shares() -> None:
    """Fresh requests pass the thresholds in a little over 50, 10 and 1 %, and the canary has 2 ms more."""
    rng = np.random.default_rng(2)
    lines = freeze_latency(rng.lognormal(-7, 0.5, 4000))
    fresh = rng.lognormal(-7, 0.5, 200_000)
    shares = [(fresh > threshold).mean() for threshold in lines.stable]
    assert shares == pytest.approx([0.508, 0.105, 0.0115], rel=0.25)
    assert np.subtract(lines.canary, lines.stable) == pytest.approx([0.002] * 3)
    slow = freeze_latency(rng.lognormal(0, 0.5, 4000))
    assert slow.canary[0] == pytest.approx(1.02 * slow.stable[0])


def test_latency_needs_a_thousand_sound_requests() -> None:
    """Too few requests, or a negative duration, are refused with what to do."""
    with pytest.raises(UsageError, match="1,000 requests"):
        freeze_latency([0.01] * 999)
    with pytest.raises(UsageError, match="not a number"):
        freeze_latency([0.01] * 1000 + [float("nan")])


def test_design_effect_sees_stalls_and_ignores_noise() -> None:
    """Independent slow requests have no design effect; ten that come together have one near ten."""
    rng = np.random.default_rng(4)
    at = np.sort(rng.uniform(0, 60, 24_000))
    assert design_effect(rng.random(24_000) < 0.01, at) == pytest.approx(1.0, abs=0.3)
    stalled = np.zeros(24_000, bool)
    for start in rng.integers(0, 23_990, 24):
        stalled[start : start + 10] = True
    assert 5 <= design_effect(stalled, at) <= 10
    assert design_effect(np.zeros(100, bool), np.arange(100)) == 1.0
