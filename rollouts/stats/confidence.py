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
    """Running estimate of p1 - p0, vectorised over metrics: 7 numbers of state for each.

    Args:
        scale: r of the mixture for each metric, see `tuned_scale`.
        alpha: how often, over all looks together, the interval may miss.
    """

    def __init__(self, scale: Numbers, alpha: float) -> None:
        self.scale: Floats = np.asarray(scale, dtype=np.float64)
        self.alpha = alpha
        # Rows: S, sum of h, V, then n1, x1, n0, x0 added up.
        self.sums: Floats = np.zeros((7, *self.scale.shape))

    def update(self, n1: Floats, x1: Floats, n0: Floats, x0: Floats) -> None:
        """Add one block; an empty arm adds to the totals only."""
        sums = self.sums.copy()
        sums[3:] += (n1, x1, n0, x0)
        both = (n1 > 0) & (n0 > 0)
        m1, m0 = np.maximum(n1, 1e-12), np.maximum(n0, 1e-12)
        h = np.where(both, m1 * m0 / (m1 + m0), 0.0)
        sums[0] += h * (x1 / m1 - x0 / m0)
        sums[1] += h
        share1, share0 = (sums[4] + 2) / (sums[3] + 4), (sums[6] + 2) / (sums[5] + 4)
        sums[2] += h * h * (share1 * (1 - share1) / m1 + share0 * (1 - share0) / m0)
        self.sums = sums

    def interval(self) -> tuple[Floats, Floats, Floats]:
        """Return (effect, low, high) for each metric; NaN where there is nothing to say yet."""
        s, h, v, n1, _, n0, _ = self.sums
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = np.where(h > 0, s / h, np.nan)
            width = np.sqrt((v + self.scale) * np.log((v + self.scale) / (self.scale * self.alpha**2))) / h
        width = np.where(np.minimum(n1, n0) >= WARM_UP, width, np.nan)
        return effect, np.maximum(effect - width, -1.0), np.minimum(effect + width, 1.0)
