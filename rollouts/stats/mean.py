"""Sequential test of two means against a tolerance line, for losses and revenue.

S adds up, over blocks, ``h (y1 - ratio y0 - margin)`` with ``h = n1 n0 / (n1 + n0)``; V adds up its variance ``h^2
(v1/n1 + ratio^2 v0/n0)``. The one-sided half-normal mixture of exp(l S - l^2 V / 2), l > 0, is

    log e = log 2 + .5 log(r / (r + V)) + S^2 / (2 (V + r)) + log Phi(S / sqrt(V + r))

Sources: Robbins (1970) for the mixture; Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit
theory and asymptotic confidence sequences" (Annals of Statistics 2024) for using estimated variances; Howard, Ramdas,
McAuliffe & Sekhon (2021) for the choice of r.

Asymptotic: needs 50 units that are not all alike in each arm before it begins, and winsorised values; with heavy tails
the error stays only near alpha. Both arms are given the larger of their variances: where most units are 0, as with
revenue, an arm that had no sale yet would else seem to have none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from tidegate.rollouts.stats.binary import begun_rows

Floats = npt.NDArray[np.float64]
Numbers = npt.ArrayLike

# Below this many units in an arm the normal approximation of its mean is not to be trusted.
WARM_UP = 50
# A variance below this share of the mean square is what rounding leaves of none.
_ROUNDING = 1e-9


def half_normal_log_e(s: Numbers, v: Numbers, r: Numbers) -> Floats:
    """Log e-value of a sum `s` with variance `v`: one-sided mixture, E <= 1 when s drifts down or not at all."""
    s, v, r = (np.asarray(a, dtype=np.float64) for a in (s, v, r))
    log_e: Floats = math.log(2) + 0.5 * np.log(r / (r + v)) + s * s / (2 * (v + r)) + log_ndtr(s / np.sqrt(v + r))
    return log_e


def tuned_scale(planned_variance: float, alpha: float) -> float:
    """The mixture's r that makes the boundary tightest when V reaches `planned_variance`: V / (a + log(1 + a)).

    ``a = 2 log(1 / (2 alpha))``, one-sided (Howard et al. 2021, section 3.5). Choose it before the start and keep it.
    """
    a = 2 * math.log(1 / (2 * alpha))
    return planned_variance / (a + math.log1p(a))


class MeanE:
    """Running test of a mean, vectorised over tests and starts: 2 numbers for each start, 6 for each test.

    Args:
        ratio: of each test's line; the arguments broadcast to the shape of the tests.
        margin: of each test's line.
        side: +1 tests for harm (H0: y1 <= line), -1 for safety.
        scale: r of the mixture, see `tuned_scale`.
        starts: how many times each test may be started, see `update`.
    """

    def __init__(self, ratio: Numbers, margin: Numbers, side: Numbers, scale: Numbers, *, starts: int = 1) -> None:
        self.ratio, self.margin, self.side, self.scale = np.broadcast_arrays(
            *(np.asarray(v, dtype=np.float64) for v in (ratio, margin, side, scale))
        )
        self.s: Floats = np.zeros((starts, *self.ratio.shape))
        self.v: Floats = np.zeros((starts, *self.ratio.shape))
        # Rows: canary, stable; columns: units, sum, sum of squares.
        self.moments: Floats = np.zeros((2, 3, *self.ratio.shape))

    def update(
        self, canary: tuple[Numbers, Numbers, Numbers], stable: tuple[Numbers, Numbers, Numbers], start: Numbers = 0
    ) -> Floats:
        """Add one block and return `log_e()`; an empty arm, or one that is not warm yet, adds no contrast.

        Args:
            canary: units, sum, sum of squares; broadcast to the tests' shape.
            stable: the same of the stable arm.
            start: the newest start of each test, from 0; a start to come gains nothing.
        """
        shape = self.ratio.shape
        block = np.array(
            [[np.broadcast_to(np.asarray(v, dtype=np.float64), shape) for v in arm] for arm in (canary, stable)]
        )
        # What begins to count is decided by the blocks before: a first sale must not choose its own block.
        warm = self._warm()
        self.moments = self.moments + block
        variance = self._variance().max(axis=0)
        (n1, s1, _), (n0, s0, _) = block
        counted = warm & (n1 > 0) & (n0 > 0) & begun_rows(len(self.s), start, shape)
        n1, n0 = np.maximum(n1, 1), np.maximum(n0, 1)
        h = n1 * n0 / (n1 + n0)
        self.s = self.s + np.where(counted, h * (s1 / n1 - self.ratio * s0 / n0 - self.margin), 0.0)
        self.v = self.v + np.where(counted, h * h * variance * (1 / n1 + self.ratio**2 / n0), 0.0)
        return self.log_e()

    def log_e(self) -> Floats:
        """Log e-values, shape ``(starts, *tests)``; 0, no evidence, until both arms were warm for a block."""
        return np.where(self.v > 0, half_normal_log_e(self.side * self.s, self.v, self.scale), 0.0)

    def _variance(self) -> Floats:
        """Of one unit, in each arm."""
        n, total, squares = (self.moments[:, k] for k in range(3))
        n = np.maximum(n, 1)
        raw = squares / n - (total / n) ** 2
        return np.where(raw > _ROUNDING * squares / n, raw, 0.0)

    def _warm(self) -> npt.NDArray[np.bool_]:
        """Whether both arms have enough units, and these are not all alike."""
        return np.asarray(((self.moments[:, 0] >= WARM_UP) & (self._variance() > 0)).all(axis=0))

    def state(self) -> dict[str, Any]:
        """What JSON keeps; floats survive exactly."""
        return {"s": self.s.tolist(), "v": self.v.tolist(), "moments": self.moments.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state()` of the same tests."""
        s, v, moments = (np.asarray(state[k], dtype=np.float64) for k in ("s", "v", "moments"))
        if (s.shape, v.shape, moments.shape) != (self.s.shape, self.s.shape, self.moments.shape):
            raise ValueError(f"this state is of tests shaped {s.shape[1:]}, not {self.ratio.shape}")
        self.s, self.v, self.moments = s, v, moments
