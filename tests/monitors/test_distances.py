"""Distances are effect sizes: exact, the same at every size, and not led astray by tails."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from tidegate.monitors import distances


@pytest.mark.parametrize("decimals", [15, 1, 0])
def test_the_distance_is_that_of_scipy_with_and_without_ties(decimals: int) -> None:
    """Values that repeat, in one sample or both, change nothing."""
    random = np.random.default_rng(3)
    one = np.sort(random.normal(size=900).round(decimals))
    other = np.sort(random.normal(0.3, 2, size=400).round(decimals))
    assert distances.wasserstein(one, other) == pytest.approx(wasserstein_distance(one, other), abs=1e-12)


def test_the_distance_of_counts_is_that_of_scipy() -> None:
    """In nats, as Evidently gives it."""
    reference, window = np.array([50, 30, 20, 0]), np.array([5, 5, 5, 5])
    expected = jensenshannon(reference / 100, window / 20)
    assert distances.jensen_shannon(reference, window) == pytest.approx(expected)


def test_psi_stays_finite_where_a_bin_is_empty() -> None:
    """A category that is gone is a large number, not infinity."""
    found = distances.psi(np.array([500, 500]), np.array([1000, 0]))
    assert 1 < found < 10


def test_a_shift_of_a_standard_deviation_is_one_on_a_normal_column_of_any_size() -> None:
    """An effect size, whatever the number of rows."""
    for rows in (2_000, 200_000):
        values = np.sort(np.random.default_rng(1).normal(10, 4, rows))
        scale, heavy = distances.spread(values)
        assert not heavy
        assert distances.wasserstein(values, values + 4) / scale == pytest.approx(1, abs=0.05)


def test_the_unit_of_a_heavy_tailed_column_is_not_made_by_its_tails() -> None:
    """The standard deviation of Student's t with two degrees grows with the sample; the unit does not."""
    random = np.random.default_rng(5)
    units = [distances.spread(random.standard_t(2, rows)) for rows in (5_000, 500_000)]
    assert [heavy for _, heavy in units] == [True, True]
    assert units[0][0] == pytest.approx(units[1][0], rel=0.1)


def test_one_absurd_value_moves_a_window_by_little() -> None:
    """It is pulled in to the fence, ten units from the median."""
    values = np.sort(np.random.default_rng(2).normal(size=5_000))
    scale, heavy = distances.spread(values)
    low, high = distances.fences(values, scale, heavy=heavy)
    wild = np.sort(np.append(values[:999], 1e12))
    clipped = [np.clip(part, low, high) for part in (values[:999], wild)]
    assert distances.wasserstein(*clipped) / scale < 0.02


def test_a_value_that_fills_the_column_has_a_bin_of_its_own() -> None:
    """Of a column that is mostly 0, the zeros are told from the rest."""
    values = np.sort(np.concatenate([np.zeros(800), np.linspace(1, 2, 200)]))
    edges = distances.edges_of(values)
    assert distances.binned(values, edges)[0] == 800
    assert distances.binned(values, edges).sum() == 1000
