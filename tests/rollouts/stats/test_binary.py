from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import comb

from tidegate.rollouts.stats.binary import GRID, BinaryE, log_increments, log_mixture, project

rates = st.floats(1e-4, 0.98)
ratios = st.floats(0.4, 2.5)
margins = st.one_of(st.just(0.0), st.floats(-0.05, 0.2))


def _divergence(  # noqa: PLR0917 - scipy passes them by position
    q: float, t1: float, t0: float, n1: float, n0: float, ratio: float, margin: float
) -> float:
    p = ratio * q + margin
    total = n1 * (t1 * np.log(t1 / p) + (1 - t1) * np.log((1 - t1) / (1 - p)))
    return float(total + n0 * (t0 * np.log(t0 / q) + (1 - t0) * np.log((1 - t0) / (1 - q))))


def _binomial(x: np.ndarray, n: int, p: float) -> np.ndarray:
    """The probability of x events; scipy.stats overflows at the subnormal p that hypothesis likes."""
    return np.asarray(comb(n, x) * p**x * (1 - p) ** (n - x))


@given(rates, st.floats(-3, 3), st.floats(1, 1e4), st.floats(1, 1e4), ratios, margins)
@settings(max_examples=150, deadline=None)
def test_projection_is_nearest_in_relative_entropy(  # noqa: PLR0917 - hypothesis fills them
    t0: float, distance: float, n1: float, n0: float, ratio: float, margin: float
) -> None:
    """No point of the line is nearer to the alternative than the projection."""
    line = ratio * t0 + margin
    assume(1e-3 < line < 1 - 1e-3)
    t1 = 1 / (1 + (1 - line) / line * np.exp(-distance))
    s1, s0 = (float(v) for v in project(t1, t0, n1, n0, ratio=ratio, margin=margin))
    low, high = max(0.0, -margin / ratio), min(1.0, (1 - margin) / ratio)
    best = minimize_scalar(
        _divergence,
        args=(t1, t0, n1, n0, ratio, margin),
        method="bounded",
        bounds=(low + 1e-12, high - 1e-12),
        options={"xatol": 1e-12},
    )
    assert s1 == pytest.approx(ratio * s0 + margin)
    assert _divergence(s0, t1, t0, n1, n0, ratio, margin) <= best.fun + 1e-9 * (n1 + n0)


def test_newton_equals_bisection() -> None:
    """The safeguarded Newton iteration and 200 halvings of the bracket agree to 1e-9, in 20,000 random cases."""
    rng = np.random.default_rng(3)
    ratio, margin = rng.uniform(0.3, 3, 20_000), rng.uniform(-0.05, 0.2, 20_000)
    t0 = 10 ** rng.uniform(-5, -0.05, 20_000)
    line = ratio * t0 + margin
    inside = (line > 1e-6) & (line < 1 - 1e-6)
    ratio, margin, t0, line = (v[inside] for v in (ratio, margin, t0, line))
    t1 = 1 / (1 + (1 - line) / line * np.exp(-rng.choice([0.1, 1, 3, -0.1, -1, -3], t0.size)))
    n1, n0 = 10 ** rng.uniform(0, 5, (2, t0.size))
    _, newton = project(t1, t0, n1, n0, ratio=ratio, margin=margin)
    a1 = (t1 - margin) / ratio
    low = np.maximum(np.maximum(0, -margin / ratio), np.minimum(t0, a1))
    high = np.minimum(np.minimum(1, (1 - margin) / ratio), np.maximum(t0, a1))
    for _ in range(200):
        q = (low + high) / 2
        p = ratio * q + margin
        above = n1 * ratio * (p - t1) * q * (1 - q) + n0 * (q - t0) * p * (1 - p) > 0
        low, high = np.where(above, low, q), np.where(above, q, high)
    np.testing.assert_allclose(newton, q, rtol=1e-9)


def test_closed_form_equals_newton_without_margin() -> None:
    """The quadratic and the cubic give one answer where both apply: a margin of 1e-300 chooses Newton."""
    t0 = np.geomspace(1e-5, 0.5, 50)
    t1 = 1.4 * t0
    exact = project(t1, t0, 100, 900, ratio=1.2, margin=0.0)
    newton = project(t1, t0, 100, 900, ratio=1.2, margin=1e-300)
    np.testing.assert_allclose(exact, newton, rtol=1e-9)


@given(
    rates,
    st.integers(0, 9),
    st.integers(0, 9),
    ratios,
    margins,
    st.sampled_from([1, -1]),
    st.floats(0, 1),
    st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_expected_e_value_is_at_most_one_on_the_null(  # noqa: PLR0917 - hypothesis fills them
    rate: float, n1: int, n0: int, ratio: float, margin: float, side: int, at: float, beyond: float
) -> None:
    """Summed exactly over all outcomes of a block, E[e] <= 1 for every pair of rates on the null and any plug-in."""
    p0 = at
    line = ratio * p0 + margin
    p1 = beyond * min(line, 1.0) if side > 0 else max(line, 0.0) + beyond * (1 - max(line, 0.0))
    assume(0 <= p1 <= 1 and (p1 <= line if side > 0 else p1 >= line))
    x1, x0 = (np.array(v) for v in zip(*itertools.product(range(n1 + 1), range(n0 + 1)), strict=True))
    counts = (np.full(x1.size, n1), x1, np.full(x0.size, n0), x0)
    e = np.exp(log_mixture(log_increments(np.full(x1.size, rate), counts, ratio=ratio, margin=margin, side=side)))
    probability = _binomial(x1, n1, p1) * _binomial(x0, n0, p0)
    assert float((probability * e).sum()) <= 1 + 1e-9


def test_line_outside_zero_to_one_is_no_evidence() -> None:
    """A block whose line leaves (0, 1) at the past rate counts nothing, whatever it holds."""
    counts = (50.0, 50.0, 50.0, 10.0)
    assert not log_increments(0.9, counts, ratio=1.25, margin=0.0, side=1).any()
    assert not log_increments(0.01, counts, ratio=1.0, margin=-0.05, side=-1).any()
    assert log_increments(0.5, counts, ratio=1.25, margin=0.0, side=1).any()


def test_an_empty_arm_is_no_evidence() -> None:
    """Without a control there is nothing to compare with."""
    assert not log_increments(0.1, (50.0, 50.0, 0.0, 0.0), ratio=1.0, margin=0.0, side=1).any()


def test_restored_state_goes_on_exactly() -> None:
    """A test that went through JSON in the middle ends with the same bits, also beside a second start."""
    rng = np.random.default_rng(5)
    whole, parted = (BinaryE([1.1, 1.5], [0.001, 0.002], [1, -1], 0.005, starts=2) for _ in range(2))
    for block in range(20):
        counts = (60.0, float(rng.binomial(60, 0.01)), 600.0, float(rng.binomial(600, 0.005)))
        start = int(block >= 7)
        whole.update(*counts, start)
        parted.update(*counts, start)
        other = BinaryE([1.1, 1.5], [0.001, 0.002], [1, -1], 0.005, starts=2)
        other.restore(json.loads(json.dumps(parted.state())))
        parted = other
    assert whole.log_e().tolist() == parted.log_e().tolist()
    assert whole.log_wealth.shape == (2, 2, len(GRID))
    with pytest.raises(ValueError, match="tests shaped"):
        BinaryE(1.1, 0.0, 1, 0.005).restore(whole.state())
