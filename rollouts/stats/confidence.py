"""How large the effect is: a confidence sequence, which may be looked at after every block.

It covers the running average, weighted by ``h = n1 n0 / (n1 + n0)``, of the blocks' differences p1 - p0 at all times
together with probability 1 - alpha, asymptotically. Differences are taken inside a block, so a changing weight, a
daily cycle and an incident in both arms cancel. It is for people to read: verdicts come from the e-values, which are
exact.

With S the sum of h (x1/n1 - x0/n0) and V its variance, the two-sided normal mixture gives

    |S - sum h (p1 - p0)| <= sqrt((V + r) log((V + r) / (r alpha^2)))

Sources: Robbins (1970); Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (Annals of Statistics 2024), asymptotic
confidence sequences; Agresti & Coull (1998) for the variance, two successes and two failures added to each arm,
without which an arm with no event would have no width.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Numbers = npt.ArrayLike

# Units in the smaller arm before an interval is shown.
WARM_UP = 50


def tuned_scale(planned_variance: float, alpha: float) -> float:
    """The mixture's r that makes the interval tightest when V reaches `planned_variance`.

    ``r = V / (b + log(1 + b))`` with ``b = -2 log alpha`` (Howard, Ramdas, McAuliffe & Sekhon 2021, section 3.5).
    """
    b = -2 * math.log(alpha)
    return planned_variance / (b + math.log1p(b))


class Effect:
    """Running estimate of the difference canary minus stable, vectorised: 9 numbers of state for each metric.

    Args:
        scale: r of the mixture for each metric, see `tuned_scale`; its shape is that of the metrics.
        alpha: how often, over all looks together, the interval may miss.
        means: which of the metrics are means of a quantity, not shares; broadcasts to that shape.
    """

    def __init__(self, scale: Numbers, alpha: float, means: npt.ArrayLike = False) -> None:
        self.scale: Floats = np.asarray(scale, dtype=np.float64)
        self.alpha = alpha
        self.means = np.broadcast_to(np.asarray(means, dtype=np.bool_), self.scale.shape)
        # Rows: S, sum of h, V, then n1, x1, q1, n0, x0, q0 added up.
        self.sums: Floats = np.zeros((9, *self.scale.shape))

    @property
    def totals(self) -> Floats:
        """(n1, x1, q1, n0, x0, q0) of all blocks: units, events or sum, squares."""
        return self.sums[3:]

    def update(self, block: Floats) -> None:
        """Add one block: shape (..., 6), units, events or sum, and squares of the canary, then of the stable arm.

        An empty arm adds to the totals only.
        """
        sums = self.sums.copy()
        n1, x1, _, n0, x0, _ = rows = np.moveaxis(block, -1, 0)
        sums[3:] += rows
        both = (n1 > 0) & (n0 > 0)
        m1, m0 = np.maximum(n1, 1e-12), np.maximum(n0, 1e-12)
        h = np.where(both, m1 * m0 / (m1 + m0), 0.0)
        sums[0] += h * (x1 / m1 - x0 / m0)
        sums[1] += h
        sums[2] += h * h * (self._variance(sums[3:6]) / m1 + self._variance(sums[6:]) / m0)
        self.sums = sums

    def _variance(self, arm: Floats) -> Floats:
        """Of one unit, from the totals of its arm."""
        n, x, q = arm
        share = (x + 2) / (n + 4)
        average = x / np.maximum(n, 1)
        spread = np.maximum(q / np.maximum(n, 1) - average**2, 0.0)
        return np.asarray(np.where(self.means, spread, share * (1 - share)))

    def interval(self) -> tuple[Floats, Floats, Floats]:
        """Return (effect, low, high) for each metric; NaN where there is nothing to say yet."""
        s, h, v, n1, _, _, n0, _, _ = self.sums
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = np.where(h > 0, s / h, np.nan)
            width = np.sqrt((v + self.scale) * np.log((v + self.scale) / (self.scale * self.alpha**2))) / h
        width = np.where(np.minimum(n1, n0) >= WARM_UP, width, np.nan)
        most = np.where(self.means, np.inf, 1.0)
        return effect, np.maximum(effect - width, -most), np.minimum(effect + width, most)
