"""How large a distance chance alone makes between two samples of one distribution: the floor of every verdict.

A distance grows as samples shrink: 500 rows of a column with 1,000 categories lie .5 from the very data they were
drawn from. So each verdict has a limit of its own: the threshold above what chance makes at these sample sizes in 999
of 1,000 windows, and above what the reference does to itself from block to block (a season).
"""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
from scipy.special import chdtri

from tidegate.monitors.distances import Counts, Floats, jensen_shannon, psi

Method = Literal["wasserstein", "jensenshannon", "psi"]

TAIL: Final = 0.001
"""Of windows from the reference's own distribution, the share whose distance passes the noise."""
_Z: Final = 3.090
"""The normal quantile of 1 - TAIL."""
_PATHS, _GRID, _DRAWS, _SEED = 4_000, 128, 100, 20_240
# Cochran's rule: with fewer rows expected in a bin, the chi-square law does not hold.
_EXPECTED: Final = 5


def wasserstein_unit(ordered: Floats) -> float:
    """The noise of `wasserstein` against this sorted reference, in the values' own unit, for 1/n + 1/m = 1.

    Times sqrt(1/n + 1/m) it is what n reference and m window rows of one distribution stay below in 999 of 1,000
    cases: the distance is then the area under |B(F(x))| for a Brownian bridge B (del Barrio, Gine, Matran, Annals of
    Probability 27, 1999), drawn here on the reference's own F, whatever its shape.
    """
    grid = grid_of(ordered)
    if len(grid) < 2:  # noqa: PLR2004 - a constant
        return 0.0
    below = np.searchsorted(ordered, grid[:-1], side="right") / len(ordered)
    steps = np.sqrt(np.diff(below, prepend=0.0, append=1.0))
    walk = np.cumsum(np.random.default_rng(_SEED).standard_normal((_PATHS, len(steps))) * steps, axis=1)
    bridge = walk[:, :-1] - below * walk[:, -1:]
    return float(np.quantile(np.abs(bridge) @ np.diff(grid), 1 - TAIL))


def grid_of(ordered: Floats) -> Floats:
    """Some hundred places that stand for a sorted sample: its quantiles, ends included."""
    return np.unique(np.quantile(ordered, np.linspace(0, 1, _GRID), method="inverted_cdf"))


def wasserstein_noise(unit: float, reference: int, window: int) -> float:
    """The noise for these numbers of rows; `unit` is that of `wasserstein_unit`."""
    return unit * math.sqrt(1 / reference + 1 / window)


def shares_noise(method: Method, reference: Counts, window: Counts) -> float:
    """The noise of `jensenshannon` or `psi` for these counts, bin by bin.

    With enough rows in each bin, PSI / (1/n + 1/m) and eight times the divergence / (1/n + 1/m) follow the chi-square
    law of bins - 1 (Yurdakul 2018, chapter 4; both are chi-square statistics to second order). In sparse tables, such
    as 1,000 categories in 500 rows, the rows of both samples are dealt anew by chance instead, which is exact for
    any counts, and the law's upper end is read from a chi-square of the same mean and variance (Box 1954).
    """
    n, m = int(reference.sum()), int(window.sum())
    both = reference + window
    both = both[both > 0]
    if len(both) < 2:  # noqa: PLR2004 - one bin holds everything
        return 0.0
    if both.min() * min(n, m) / (n + m) >= _EXPECTED:
        square = (1 / n + 1 / m) * float(chdtri(len(both) - 1, TAIL))
        return math.sqrt(square / 8) if method == "jensenshannon" else square
    dealt = np.random.default_rng(_SEED).multivariate_hypergeometric(both, m, size=_DRAWS, method="marginals")
    if method == "jensenshannon":
        return math.sqrt(_upper(jensen_shannon(both - dealt, dealt) ** 2))
    return _upper(psi(both - dealt, dealt))


def _upper(draws: Floats) -> float:
    """The 1 - TAIL quantile of the scaled chi-square with the draws' mean and variance."""
    mean, variance = float(np.mean(draws)), float(np.var(draws))
    if mean <= 0 or variance <= 0:
        return mean
    return variance / (2 * mean) * float(chdtri(2 * mean**2 / variance, TAIL))


def share_noise(share: float, reference: int, window: int) -> float:
    """How far two shares of about `share` differ by chance."""
    return _Z * math.sqrt(share * (1 - share) * (1 / reference + 1 / window))


def limit(method: Method, threshold: float, noise: float, season: float = 0.0) -> float:
    """What a distance must pass to be drift.

    Chance and a real difference add up like the sides of a right triangle in distances that are roots of something
    quadratic (Wasserstein around a shift, Jensen-Shannon), plainly in PSI. A season adds up plainly: it is no chance.

    Args:
        method: of the distance.
        threshold: the effect size that counts as drift.
        noise: what chance makes at these sample sizes.
        season: what blocks of the reference differ from the rest of it, beyond chance.
    """
    by_chance = threshold + noise if method == "psi" else math.hypot(threshold, noise)
    return by_chance + season


def beyond(method: Method, value: float, noise: float) -> float:
    """What of a distance is not chance; the inverse of how `limit` adds noise to an effect."""
    if method == "psi":
        return max(0.0, value - noise)
    return math.sqrt(max(0.0, value**2 - noise**2))
