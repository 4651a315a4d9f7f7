"""How long a verdict will take, before the rollout starts.

An e-value that is the mixture of several processes grows, on average, as ``sum_k w_k exp(u d_k)`` after u units of
traffic, where w_k is the weight of grid distance k and d_k its expected log increment for each unit under the true
(p1, p0): the increment is linear in the counts, so it is the increment of the expected block. The time u* at which
that reaches 1 / level is the mean of a crossing; crossings of a random walk with drift d and variance s are about
inverse Gaussian with mean u* and shape (d u*)^2 / s (Wald 1947; Chhikara & Folks 1989), and the forecast is that
distribution's median, which lies 10 to 25 % below the mean. Seeded simulations put observed medians within a factor of
1.5 of it.

The stable arm's rate is taken as known and the overshoot of the last block is left away.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr, ndtr

from tidegate.rollouts.stats.binary import GRID, LOG_WEIGHTS, Floats, log_increments, log_mixture, project
from tidegate.rollouts.stats.mean import WARM_UP, half_normal_log_e, tuned_scale


def drift(p1: float, p0: float, *, ratio: float, margin: float, side: int, weight: int) -> Floats:
    """Expected log e-value for each unit of traffic (both arms together), for each grid distance.

    Expectation is linear in the counts, so it is the log increment of a block with the expected counts.
    """
    n1, n0 = weight / 100, 1 - weight / 100
    return log_increments(p0, (n1, n1 * p1, n0, n0 * p0), ratio=ratio, margin=margin, side=side)


def spread(p1: float, p0: float, *, ratio: float, margin: float, side: int, weight: int) -> Floats:
    """Variance of the log e-value for each unit of traffic, for each grid distance."""
    n1, n0 = weight / 100, 1 - weight / 100
    line = ratio * p0 + margin
    t1 = 1 / (1 + (1 - line) / line * np.exp(-side * np.asarray(GRID)))
    s1, s0 = project(t1, p0, n1, n0, ratio=ratio, margin=margin)
    a1 = np.log(t1 * (1 - s1) / (s1 * (1 - t1)))
    a0 = np.log(p0 * (1 - s0) / (s0 * (1 - p0)))
    variance: Floats = n1 * p1 * (1 - p1) * a1**2 + n0 * p0 * (1 - p0) * a0**2
    return variance


def units_to_evidence(
    p1: float, p0: float, *, ratio: float, margin: float, side: int, weight: int, level: float, diluted: float = 1.0
) -> float:
    """Units of traffic until the e-value reaches 1 / level in half of all rollouts; infinity if it is not expected to.

    Args:
        p1: the canary's true rate.
        p0: the stable arm's.
        ratio: of the line.
        margin: of the line.
        side: +1 rollback, -1 passing.
        weight: per cent on the canary.
        level: alpha or beta.
        diluted: how many processes beside it, with no evidence of their own, the e-value is averaged with.
    """
    growth = drift(p1, p0, ratio=ratio, margin=margin, side=side, weight=weight)
    best = int(growth.argmax())
    if growth[best] <= 0:
        return math.inf
    needed = math.log(diluted / level)
    low, high = 0.0, (needed - float(LOG_WEIGHTS[best])) / float(growth[best])
    for _ in range(50):
        middle = 0.5 * (low + high)
        reached = float(log_mixture(growth * middle)) >= needed
        low, high = (low, middle) if reached else (middle, high)
    variance = float(spread(p1, p0, ratio=ratio, margin=margin, side=side, weight=weight)[best])
    return _median_crossing(high, float(growth[best]) ** 2 * high / variance if variance > 0 else math.inf)


def units_to_mean_evidence(beyond: float, variance: float, *, weight: int, level: float, diluted: float = 1.0) -> float:
    """Units of traffic until the mixture of `mean.MeanE` reaches 1 / level when S is what it is expected to be.

    S grows with h = units w (1 - w) as ``h beyond``, V as ``h variance``, and the mixture is tuned to that moment.
    Infinity if the mean does not lie beyond its line.

    Args:
        beyond: how far the canary's mean lies on the other side of the line, in the metric's own unit.
        variance: of one unit.
        weight: per cent on the canary.
        level: alpha or beta.
        diluted: as in `units_to_evidence`.
    """
    if beyond <= 0:
        return math.inf
    needed = math.log(diluted / level)

    def evidence(h: float) -> float:
        v = h * variance
        return float(half_normal_log_e(h * beyond, v, tuned_scale(v, min(level, 0.4))))

    low, high = 0.0, 1.0
    while evidence(high) < needed:
        low, high = high, 2 * high
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if evidence(middle) >= needed else (middle, high)
    share = weight / 100
    return max(high / (share * (1 - share)), WARM_UP / min(share, 1 - share))


def _median_crossing(mean: float, roundness: float) -> float:
    """Median of the inverse Gaussian distribution of that mean and shape ``roundness * mean``."""
    if roundness > 1e3:  # noqa: PLR2004 - the distribution is a point to three digits
        return mean
    low, high = 0.0, 1.0
    for _ in range(40):
        t = 0.5 * (low + high)
        root = math.sqrt(roundness / t)
        below = ndtr(root * (t - 1)) + math.exp(2 * roundness + float(log_ndtr(-root * (t + 1))))
        low, high = (t, high) if below < 0.5 else (low, t)  # noqa: PLR2004 - one half is what a median is
    return mean * high


def miss_probability(
    p1: float, p0: float, *, ratio: float, margin: float, weight: int, units: float, level: float, diluted: float = 1.0
) -> float:
    """How likely a harm test has NOT rejected after `units`, with a normal log e-value of the luckiest grid distance.

    An upper estimate: it looks at the end only, the test looks after each block.
    """
    needed = math.log(diluted / level) - LOG_WEIGHTS
    mean = drift(p1, p0, ratio=ratio, margin=margin, side=1, weight=weight) * units
    deviation = np.sqrt(spread(p1, p0, ratio=ratio, margin=margin, side=1, weight=weight) * units) + 1e-12
    return float(ndtr((needed - mean) / deviation).min())
