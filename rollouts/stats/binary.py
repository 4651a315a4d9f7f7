"""Sequential test of two event rates against a tolerance line; exact for any block size and any drift.

The null of every yes/no metric is a half plane of (p1, p0), the canary's and the stable arm's rate in one block:

* harm, ``side = +1``: H0 ``p1 <= ratio * p0 + margin``
* safe, ``side = -1``: H0 ``p1 >= ratio * p0 + margin``

For an alternative t beyond the line and its KL projection s on the line, the likelihood ratio of a block

    x1 log(t1/s1) + (n1-x1) log((1-t1)/(1-s1)) + x0 log(t0/s0) + (n0-x0) log((1-t0)/(1-s0))

has E[exp] <= 1 everywhere on the null: log E = n1 log(1 + (p1-s1) D1) + n0 log(1 + (p0-s0) D0), D = (t-s)/(s(1-s)),
is concave in (p1, p0), 0 at s, and by the KKT conditions its gradient at s points out of the null. So products over
blocks are test supermartingales (Ville's inequality), whatever the rates do from block to block.

Sources: Turner, Ly & Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional
stopping" (2021) for the two-sample e-variable; Grünwald, de Heide & Koolen, "Safe testing" (2019) for the projection;
Miettinen & Nurminen (1985) for the closed form without margin.

Assumes independent units inside a block and an assignment that does not depend on the outcome.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, xlogy

Floats = npt.NDArray[np.float64]
Numbers = npt.ArrayLike

# Log-odds distances of the alternatives from the line: .1 is a rate 10 % beyond it, 3 is twenty times.
GRID: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
# How likely each distance is before the start: log-normal around .6, because what lines are drawn against (twice the
# errors, three times the slow requests, an equal canary below its safe line) lies .4 to 1.1 from them. Against equal
# weights that saves 10 to 15 % of the users until a verdict; a tenfold error needs as many as before.
_TYPICAL, _WIDTH = 0.6, 0.7
# Where the line comes closer to 0 or 1 than this, the projection is not valid and the block counts nothing.
EDGE = 1e-6
# Newton needs 4 to 8 rounds; bisection inside the bracket would need 50.
_ROUNDS = 60
_TINY = 1e-12
# Rounding makes some roots hop by their last digits for ever: 13 digits cost a quarter of the rounds that 16 do.
_PRECISE = 1e-13


def project(
    t1: Numbers, t0: Numbers, n1: Numbers, n0: Numbers, *, ratio: Numbers, margin: Numbers
) -> tuple[Floats, Floats]:
    """Return the point (s1, s0) of the line ``s1 = ratio * s0 + margin`` that is nearest to (t1, t0).

    Nearest means the minimum over q of ``n1 KL(t1 || ratio q + margin) + n0 KL(t0 || q)``. All arguments broadcast;
    rates lie in (0, 1), `n1` and `n0` are positive, and the line passes through the unit square.

    Without a margin the minimum is the root of a quadratic (Miettinen & Nurminen 1985, the restricted maximum
    likelihood of a risk ratio). With one it is the only root of a cubic between t0 and (t1 - margin) / ratio, found by
    Newton's method kept inside that bracket.
    """
    t1, t0, n1, n0, ratio, margin = (np.asarray(v, dtype=np.float64) for v in (t1, t0, n1, n0, ratio, margin))
    q = (
        _root_without_margin(t1, t0, n1, n0, ratio)
        if not margin.any()
        else _root(t1, t0, n1, n0, ratio=ratio, margin=margin)
    )
    return ratio * q + margin, q


def _root_without_margin(t1: Floats, t0: Floats, n1: Floats, n0: Floats, ratio: Floats) -> Floats:
    a = (n1 + n0) * ratio
    minus_b = n1 * ratio + n1 * t1 + n0 + n0 * t0 * ratio
    c = n1 * t1 + n0 * t0
    root: Floats = 2 * c / (minus_b + np.sqrt(np.maximum(minus_b * minus_b - 4 * a * c, 0)))
    return root


def _root(t1: Floats, t0: Floats, n1: Floats, n0: Floats, *, ratio: Floats, margin: Floats) -> Floats:
    """Solve ``n1 ratio (p - t1) q (1 - q) + n0 (q - t0) p (1 - p) = 0`` with ``p = ratio q + margin``."""
    a1 = (t1 - margin) / ratio
    low = np.maximum(np.maximum(0.0, -margin / ratio), np.minimum(t0, a1))
    high = np.minimum(np.minimum(1.0, (1.0 - margin) / ratio), np.maximum(t0, a1))
    # Start where two normal distributions would agree: the means weighted by their information.
    i1, i0 = n1 * ratio * ratio / (t1 * (1 - t1)), n0 / (t0 * (1 - t0))
    q = np.clip((i1 * a1 + i0 * t0) / (i1 + i0), low, high)
    m1 = n1 * ratio
    for _ in range(_ROUNDS):
        p = ratio * q + margin
        d1, d0, v1, v0 = p - t1, q - t0, p * (1 - p), q * (1 - q)
        value = m1 * d1 * v0 + n0 * d0 * v1
        slope = m1 * (ratio * v0 + d1 * (1 - 2 * q)) + n0 * (v1 + d0 * ratio * (1 - 2 * p))
        above = value > 0
        high, low = np.where(above, q, high), np.where(above, low, q)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = q - value / slope
        # NaN fails both comparisons, so a flat slope falls back to the middle too.
        following = np.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        done = np.abs(following - q) <= _PRECISE * following
        q = following
        if done.all():
            break
    return q


def log_mean(log_e: Floats) -> Floats:
    """Log of the mean of e-values along the last axis: an e-value whatever their dependence (Vovk & Wang 2021)."""
    top = log_e.max(axis=-1)
    mixed: Floats = top + np.log(np.exp(log_e - top[..., None]).mean(axis=-1))
    return mixed


def _log_weights() -> Floats:
    where = np.log(np.asarray(GRID))
    weights = np.exp(-0.5 * ((where - np.log(_TYPICAL)) / _WIDTH) ** 2) * np.gradient(where)
    return np.asarray(np.log(weights / weights.sum()))


LOG_WEIGHTS: Floats = _log_weights()
"""Log of the share of the wealth that starts at each distance of `GRID`."""


def log_mixture(log_e: Floats) -> Floats:
    """Log of the mixture of e-values over the grid, the last axis: an e-value, as any fixed mixture is."""
    mixed: Floats = logsumexp(log_e + LOG_WEIGHTS, axis=-1)
    return mixed


def log_increments(
    rate: Numbers,
    counts: tuple[Numbers, Numbers, Numbers, Numbers],
    *,
    ratio: Numbers,
    margin: Numbers,
    side: Numbers,
    grid: tuple[float, ...] = GRID,
) -> Floats:
    """Return the log e-values of one block, one for each distance of the grid: shape ``(..., len(grid))``.

    Args:
        rate: what the stable arm's rate is believed to be, from PAST blocks only.
        counts: ``(n1, x1, n0, x0)``, canary units and events, then the stable arm's.
        ratio: of the tolerance line.
        margin: of the tolerance line.
        side: +1 tests for harm, -1 for safety.
        grid: log-odds distances of the alternatives.

    A block with an empty arm, and a block whose line at `rate` leaves (0, 1), give 0: no evidence. The second rule
    looks at the past only, so it cannot bias the test; without it an incident in both arms rolls back every time.
    """
    rate, ratio, margin, side, n1, x1, n0, x0 = (
        np.asarray(v, dtype=np.float64)[..., None] for v in (rate, ratio, margin, side, *counts)
    )
    t0 = np.clip(rate, EDGE, 1 - 1e-3)
    line = ratio * t0 + margin
    counted = (line > EDGE) & (line < 1 - EDGE) & (n1 > 0) & (n0 > 0)
    # A harmless stand-in keeps the arithmetic finite in the blocks that are thrown away.
    t0, ratio, margin = (np.where(counted, v, w) for v, w in ((t0, 0.5), (ratio, 1.0), (margin, 0.0)))
    line = np.where(counted, line, 0.5)
    t1 = 1 / (1 + (1 - line) / line * np.exp(-side * np.asarray(grid)))
    s1, s0 = project(t1, t0, np.maximum(n1, _TINY), np.maximum(n0, _TINY), ratio=ratio, margin=margin)
    log_e = (
        xlogy(x1, t1 / s1)
        + xlogy(n1 - x1, (1 - t1) / (1 - s1))
        + xlogy(x0, t0 / s0)
        + xlogy(n0 - x0, (1 - t0) / (1 - s0))
    )
    kept: Floats = np.where(counted, log_e, 0.0)
    return kept


class BinaryE:
    """Running tests of event rates, vectorised over tests and over the moments at which they were started.

    The state is O(1) in the number of blocks: one log wealth for each (start, test, grid distance) and the decayed
    (events, units) of the stable arm that predict its next rate. A mis-set prior costs power, never validity.

    Args:
        ratio: of each test's line; the arguments broadcast to the shape of the tests.
        margin: of each test's line.
        side: +1 harm, -1 safe.
        prior_rate: the stable arm's rate before the first block.
        starts: how many times each test may be started, see `update`.
        prior_units: how many units the prior is worth.
        half_life: blocks with stable units after which an observation weighs half as much in the predicted rate.
    """

    def __init__(
        self,
        ratio: Numbers,
        margin: Numbers,
        side: Numbers,
        prior_rate: Numbers,
        *,
        starts: int = 1,
        prior_units: float = 200.0,
        half_life: float = 30.0,
    ) -> None:
        self.ratio, self.margin, self.side, prior = np.broadcast_arrays(
            *(np.asarray(v, dtype=np.float64) for v in (ratio, margin, side, prior_rate))
        )
        self.decay = 0.5 ** (1.0 / half_life)
        self.events: Floats = prior * prior_units
        self.units: Floats = np.full(prior.shape, prior_units)
        self.log_wealth: Floats = np.zeros((starts, *prior.shape, len(GRID)))

    def update(
        self,
        n1: Numbers,
        x1: Numbers,
        n0: Numbers,
        x0: Numbers,
        start: npt.ArrayLike = 0,
        *,
        live: npt.ArrayLike = True,
    ) -> Floats:
        """Add one block and return `log_e()`; all arguments broadcast to the tests' shape.

        Args:
            n1: canary units.
            x1: canary events.
            n0: stable units.
            x0: stable events.
            start: the newest start of each test, from 0: the rows of `log_wealth` up to it gain, a start to come
                keeps its 1.
            live: which tests have a block; the counts of the others are 0, and nothing of theirs changes.
        """
        gained = log_increments(
            self.events / self.units, (n1, x1, n0, x0), ratio=self.ratio, margin=self.margin, side=self.side
        )
        begun = begun_rows(len(self.log_wealth), start, self.ratio.shape)
        self.log_wealth = self.log_wealth + np.where(begun[..., None], gained, 0.0)
        # An idle block is no news of the rate, and is not kept for a replay.
        decay = np.where(np.asarray(live) & (np.asarray(n0) > 0), self.decay, 1.0)
        self.events = self.events * decay + np.asarray(x0, dtype=np.float64)
        self.units = self.units * decay + np.asarray(n0, dtype=np.float64)
        return self.log_e()

    def log_e(self) -> Floats:
        """Log e-values, shape ``(starts, *tests)``: the mixture over the grid of each start's wealth."""
        return log_mixture(self.log_wealth)

    def state(self) -> dict[str, Any]:
        """What JSON keeps; floats survive exactly."""
        return {"events": self.events.tolist(), "units": self.units.tolist(), "log_wealth": self.log_wealth.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state()` of the same tests."""
        events, units, wealth = (np.asarray(state[k], dtype=np.float64) for k in ("events", "units", "log_wealth"))
        if (events.shape, units.shape, wealth.shape) != (self.events.shape, self.units.shape, self.log_wealth.shape):
            raise ValueError(f"this state is of tests shaped {events.shape}, not {self.events.shape}")
        self.events, self.units, self.log_wealth = events, units, wealth


def begun_rows(starts: int, start: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Which of the `starts` rows have begun for each test of `shape` whose newest start is `start`."""
    rows = np.arange(starts).reshape(starts, *(1 for _ in shape))
    begun: npt.NDArray[np.bool_] = rows <= np.broadcast_to(np.asarray(start), shape)
    return begun
