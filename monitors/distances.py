"""How far apart two samples of one column are, as an effect size: no p-values, so no sample size makes it grow.

Every function is pure and takes the whole of both samples.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[Any]

BINS: Final = 10
"""Bins of a numeric column, on the reference's deciles: the usual number for PSI, and few enough for 500 rows."""
# A sample's quantile beyond which values are pulled in before the robust spread is measured.
_WINSOR: Final = 0.05
# The standard deviation of a normal distribution that is winsorised there, sqrt(.9 - 2 z phi(z) + .1 z^2), z = 1.645.
_CONSISTENT: Final = 0.9117
# Of a normal column 1, of an exponential one 1.1, of a lognormal one 1.45, of Student's t with 2 degrees 2.8.
_HEAVY: Final = 1.25
_FENCE_HEAVY, _FENCE = 5.0, 10.0


def spread(values: Floats) -> tuple[float, bool]:
    """The unit of `wasserstein` for a reference column, and whether its tails are heavy.

    The standard deviation, as in Evidently, unless it is mostly made by the tails: then it grows with the sample
    (without a limit where the variance is infinite) and would hide every shift. Heavy-tailed columns are measured by
    the standard deviation after winsorising 5 % on each side, scaled to agree with the plain one on a normal column
    (Tukey 1962; Wilcox, Introduction to Robust Estimation, 2022, chapter 2).

    Args:
        values: the reference, without missing values.

    Returns:
        The unit in that of the values; 0 for a constant column.
    """
    deviation = float(np.std(values))
    low, high = np.quantile(values, [_WINSOR, 1 - _WINSOR])
    robust = float(np.std(np.clip(values, low, high))) / _CONSISTENT
    heavy = robust > 0 and deviation > _HEAVY * robust
    return (robust, True) if heavy else (deviation, False)


def fences(values: Floats, scale: float, *, heavy: bool) -> tuple[float, float]:
    """Where values are pulled in before they are compared: 10 units from the median, 5 where tails are heavy.

    One absurd value in a window then moves the distance by no more than its share times ten; on columns with light
    tails nothing lies so far out, and the distance is the plain one.
    """
    reach = (_FENCE_HEAVY if heavy else _FENCE) * scale
    middle = float(np.median(values))
    return middle - reach, middle + reach


def wasserstein(one: Floats, other: Floats) -> float:
    """The exact first Wasserstein distance of two sorted samples: the area between their distribution functions.

    What `scipy.stats.wasserstein_distance` gives, for samples that are sorted already.
    """
    every = np.concatenate([one, other])
    order = np.argsort(every, kind="stable")  # two sorted runs: one merge
    widths = np.diff(every[order])
    # Between equal values, where the order is by chance, the width is 0.
    passed = np.cumsum(order < len(one))[:-1]
    apart = passed / len(one)
    apart -= (np.arange(1, len(every)) - passed) / len(other)
    np.abs(apart, out=apart)
    return float(apart @ widths)


def jensen_shannon(reference: Counts, window: Counts) -> Any:
    """The Jensen-Shannon distance of counts, the root of the divergence in nats: 0 to .83 (Endres, Schindelin 2003).

    Args:
        reference: counts of each bin, shape (..., bins).
        window: the same bins, the same shape.
    """
    p, q = _shares(reference), _shares(window)
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=-1) / 2
    return np.sqrt(np.maximum(divergence, 0.0))


def psi(reference: Counts, window: Counts) -> Any:
    """The population stability index of counts, sum (q - p) ln(q / p); 0.1 is called small, 0.25 large (Siddiqi 2006).

    Half a row is added to each bin, so that an empty one costs something finite (Jeffreys' prior).
    """
    p, q = _shares(reference + 0.5), _shares(window + 0.5)
    return ((q - p) * np.log(q / p)).sum(axis=-1)


def edges_of(ordered: Floats) -> Floats:
    """The inner borders of a numeric column's bins, from its sorted reference; a bin holds its upper border.

    Fewer than nine where values repeat: a value that fills a tenth of the rows or more gets a bin of its own.
    """
    inner = np.quantile(ordered, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf")
    return np.unique(inner[inner < ordered[-1]])


def binned(ordered: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    """How many values of a sorted sample each bin holds."""
    through = np.searchsorted(ordered, edges, side="right")
    return np.diff(np.concatenate([[0], through, [len(ordered)]])).astype(np.int64)


def _shares(counts: Counts) -> Floats:
    shares: Floats = counts / counts.sum(axis=-1, keepdims=True)
    return shares
