"""The floor of a verdict is what chance makes at these sizes, no less and not much more."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tidegate.monitors import distances, noise
from tidegate.monitors.facts import category_seasons, of_numbers


def test_chance_passes_the_noise_of_wasserstein_hardly_ever() -> None:
    """In 300 windows from the reference's own distribution less than 1 % do, and the noise is no wild guess."""
    random = np.random.default_rng(7)
    reference = np.sort(random.exponential(size=4_000))
    floor = noise.wasserstein_noise(noise.wasserstein_unit(reference), 4_000, 600)
    found = [distances.wasserstein(reference, np.sort(random.exponential(size=600))) for _ in range(300)]
    assert sum(value > floor for value in found) <= 3
    assert floor < 2 * np.quantile(found, 0.99)


@pytest.mark.parametrize("method", ["jensenshannon", "psi"])
@pytest.mark.parametrize(("categories", "rows"), [(8, 2_000), (1_000, 500)])
def test_chance_passes_the_noise_of_counts_hardly_ever(method: noise.Method, categories: int, rows: int) -> None:
    """With full bins by the chi-square law, with a thousand nearly empty ones by dealing the rows anew."""
    random = np.random.default_rng(9)
    shares = np.full(categories, 1 / categories)
    distance = {"jensenshannon": distances.jensen_shannon, "psi": distances.psi}[method]
    passed = 0
    for _ in range(40):
        reference, window = random.multinomial(5_000, shares), random.multinomial(rows, shares)
        passed += distance(reference, window) > noise.shares_noise(method, reference, window)
    assert passed <= 1


def test_a_limit_shrinks_to_the_threshold_as_samples_grow() -> None:
    """With many rows only the effect size is left."""
    limits = [noise.limit("wasserstein", 0.1, 3 * math.sqrt(2 / rows)) for rows in (500, 5_000, 500_000)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == pytest.approx(0.1, abs=0.001)


def test_a_column_without_spread_has_no_noise() -> None:
    """A constant cannot differ from itself by chance."""
    assert noise.wasserstein_unit(np.ones(100)) == 0
    assert noise.shares_noise("jensenshannon", np.array([10, 0]), np.array([20, 0])) == 0


def test_a_season_inside_the_reference_is_known_and_shuffled_rows_have_none() -> None:
    """Blocks that differ from the rest raise the floor only where the order is that of time."""
    random = np.random.default_rng(4)
    year = np.sin(np.arange(20_000) / 20_000 * 2 * math.pi) * 2 + random.normal(size=20_000)
    known = of_numbers(year, "number", ordered=True)
    shuffled = of_numbers(random.permutation(year), "number", ordered=True)
    unordered = of_numbers(year, "number", ordered=False)
    assert known.season_of("wasserstein", 2_000) > 0.5
    assert max(shuffled.season_of(method, 2_000) for method in ("wasserstein", "jensenshannon", "psi")) < 0.05  # type: ignore[arg-type]  # all three are methods
    assert unordered.season_of("wasserstein", 2_000) == 0


def test_a_season_of_categories_is_known_too() -> None:
    """Whoever sells coats in winter only has no drift each winter."""
    winter = np.repeat([0, 1], 10_000)
    known = category_seasons(winter, 2)
    assert known["jensenshannon"]["2000"] > 0.3
    assert category_seasons(np.random.default_rng(1).permutation(winter), 2)["jensenshannon"]["2000"] < 0.02
