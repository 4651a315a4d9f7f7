"""Latency as three yes/no metrics: is a request slower than the stable arm's frozen p50, p90, p99?

A ratio line multiplies the share of slow requests, so a regression of the tail alone is seen where it happens; a band
around the whole distribution cannot see one that touches 1 % of requests. Each quantile is one `BinaryE`: harm takes
the mean of the three e-values, safety the smallest.

The canary is held against the stable arm's quantile PLUS a slack: p0 = P(stable > q), p1 = P(canary > q + slack). A
canary that adds at most the slack to every request then has p1 <= p0 whatever the distribution, so a difference that
nobody can feel never counts as harm, while the stable arm's share stays at 50, 10 and 1 %, where the test has power.
(One threshold for both at q + slack would leave the stable arm near 0, and a ratio of nothing cannot be judged.) See
docs/decisions/0005-latency-lines.md.

Slow requests come in bunches: one stall delays all that wait for it. Bunched counts are worth fewer units, and the
judge divides counts by the design effect measured here, as Rao & Scott, "A simple method for the analysis of
clustered binary data" (Biometrics 1992).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.core.errors import UsageError

SHARES: dict[str, float] = {"latency_p50": 0.5, "latency_p90": 0.1, "latency_p99": 0.01}
"""The metric's name and the share of the stable arm's requests above its threshold."""

MINIMUM = 1000
"""Requests needed to freeze: ten of them lie above the p99."""

SLACK = 0.002
"""Seconds the canary may be slower for free. Two processes of one model differ by tens to hundreds of microseconds
(cold
caches, fuller batches, a neighbour's core); people feel from about 10 ms."""

RELATIVE_SLACK = 0.02
"""The same as a share of the quantile, for services whose requests take longer than 100 ms."""

# Lengths of the intervals in which slow requests may bunch, and how many of them make an estimate.
_INTERVALS = (0.1, 0.5, 2.0)
_ENOUGH_INTERVALS = 30
# Beyond this the record holds one incident, not a habit; dividing by more would stop the judge.
_LARGEST_EFFECT = 10.0


@dataclass(frozen=True, slots=True)
class LatencyLines:
    """What is slow, for each arm. Seconds, in the order of `SHARES`.

    Attributes:
        stable: thresholds of the stable arm.
        canary: the same plus the slack.
        bunching: design effect of each, 1 where slow requests come independently.
        requests: how many stable requests were measured.
    """

    stable: tuple[float, ...]
    canary: tuple[float, ...]
    bunching: tuple[float, ...]
    requests: int


def freeze_latency(
    seconds: Sequence[float],
    at: Sequence[float] | None = None,
    *,
    slack: float = SLACK,
    relative_slack: float = RELATIVE_SLACK,
) -> LatencyLines:
    """Choose the thresholds from the stable arm's recent requests; only ever from the past of the blocks they judge.

    Args:
        seconds: how long each of at least 1,000 requests took.
        at: when each began, seconds of any clock, in any order; without it slow requests count as independent.
        slack: seconds the canary may be slower for free.
        relative_slack: the same as a share of the quantile; the larger of both counts.

    Each quantile leans to the low side by one standard error of its share, because a threshold that is a little too
    high
    starves the test, and one that is a little too low only makes "slow" a little less rare.

    Raises:
        UsageError: there are too few requests, or one is not a duration.
    """
    values = np.asarray(seconds, dtype=np.float64)
    if values.size < MINIMUM:
        raise UsageError(
            f"Latency needs {MINIMUM:,} requests of the stable arm to know what is slow; there are {values.size:,}.",
            "Wait for more traffic (`tidegate dev traffic` makes some), or leave latency out of rollout.guardrails.",
        )
    if not (np.isfinite(values) & (values >= 0)).all():
        raise UsageError("A request's duration is negative or not a number.", "The gateway's log is damaged.")
    shares = [share + math.sqrt(share * (1 - share) / values.size) for share in SHARES.values()]
    stable = np.quantile(values, [1 - share for share in shares], method="higher")
    times = None if at is None else np.asarray(at, dtype=np.float64)
    return LatencyLines(
        stable=tuple(stable.tolist()),
        canary=tuple((stable + np.maximum(slack, relative_slack * stable)).tolist()),
        bunching=tuple(1.0 if times is None else design_effect(values > threshold, times) for threshold in stable),
        requests=int(values.size),
    )


def design_effect(events: Sequence[bool] | np.ndarray, at: Sequence[float] | np.ndarray) -> float:
    """How many times larger the variance of a count of `events` is than if they were independent: 1 to 10.

    The mean Pearson ratio ``sum (x_b - n_b p)^2 / (p (1 - p) n)`` over intervals b of .1, .5 and 2 seconds, the largest
    of those with 30 intervals or more. What lies within twice its own standard error, sqrt(2 / intervals), of 1 is
    noise.
    """
    happened, times = np.asarray(events, dtype=np.float64), np.asarray(at, dtype=np.float64)
    share = happened.mean() if happened.size else 0.0
    if not 0 < share < 1:
        return 1.0
    largest = 1.0
    for length in _INTERVALS:
        _, interval = np.unique(np.floor((times - times.min()) / length), return_inverse=True)
        n, x = np.bincount(interval), np.bincount(interval, weights=happened)
        if n.size < _ENOUGH_INTERVALS:
            continue
        ratio = float(((x - n * share) ** 2).sum() / (share * (1 - share) * n.sum()))
        if ratio > 1 + 2 * math.sqrt(2 / n.size):
            largest = max(largest, ratio)
    return min(largest, _LARGEST_EFFECT)
