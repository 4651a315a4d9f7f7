"""The documented rules of other tools, and of a person who watches a graph: what they decide on the same traffic.

None of them has steps that end with evidence. Each walks the plan's steps by the clock, in equal parts of the
simulated time, and promotes at the end unless its rule said no. All count requests, as their queries do, and look at
errors alone (of late labels: at those that arrived).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tidegate.rollouts.simulation.policy import PROMOTED, ROLLED_BACK, Ints, Mask, Policy, running
from tidegate.rollouts.simulation.scenario import MINUTE
from tidegate.rollouts.simulation.traffic import Shown, View

Floats = npt.NDArray[np.float64]

_N1, _X1, _N0, _X0 = range(4)
# One-sided 5 %: somebody who asks only whether the canary is worse.
_Z_ONE_SIDED = 1.6449
# The upper end of a two-sided 98 % interval.
_Z_98 = 2.3263
_TOLERANCE = 0.25
# Spinnaker's canary stages look every some minutes at all minutes since their beginning, for an hour or two.
_LOOK_MINUTES, _LOOKBACK_MINUTES = 10, 120
# Pairs of minutes held at once: some 100 MB.
_PAIRS = 8_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """When a rule that only time moves on goes to the next weight: `blocks` of `block_seconds` for all `steps`."""

    steps: tuple[int, ...]
    blocks: int
    block_seconds: float
    runs: int

    @property
    def per_minute(self) -> int:
        """Blocks in a minute."""
        return round(MINUTE / self.block_seconds)

    @property
    def ends(self) -> list[int]:
        """After how many blocks each step ends."""
        return [self.blocks * (at + 1) // len(self.steps) for at in range(len(self.steps))]


class Peer:
    """A rule that may only say no; the clock does the rest."""

    view: View = "requests"

    def __init__(self, name: str, clock: Clock) -> None:
        self.name, self.clock = name, clock
        self.weight: Ints = np.full(clock.runs, clock.steps[0], dtype=np.int64)
        self.waits: Mask = np.zeros(clock.runs, dtype=np.bool_)

    def see(self, shown: Shown) -> None:
        """Take in a block: roll back what the rule refuses, move on what has had its time."""
        done, ends = shown.index + 1, self.clock.ends
        refused = self.refuses(shown.counts[self.view][:, 0], done)
        self.weight = np.where(running(self.weight) & refused, ROLLED_BACK, self.weight)
        if done in ends:
            following = (*self.clock.steps, PROMOTED)[ends.index(done) + 1]
            self.weight = np.where(running(self.weight), following, self.weight)

    def refuses(self, errors: Ints, done: int) -> Mask:
        """Which runs the rule would roll back now.

        Args:
            errors: counts of the block, shape (runs, 4).
            done: blocks so far, this one included.
        """
        raise NotImplementedError


class SuccessRate(Peer):
    """Checks of ``success rate of the canary >= least``; the n-th that fails rolls back. No data fails a check.

    Argo Rollouts' documented AnalysisTemplate (docs/features/analysis.md: interval 5m, ``result[0] >= 0.95``,
    failureLimit 3, in the background of all steps) fails when MORE than three measurements failed; 0/0 is NaN, which
    is not >= .95. Flagger's (docs, "Metrics Analysis" and "How it works": interval 1m, request-success-rate min 99,
    threshold 5) rolls back at the fifth failed check of the rollout, and counts a check without values as failed.

    Args:
        name: as the table says it.
        clock: of the steps.
        least: success rate that passes.
        minutes: between checks; each looks at the minutes since the last.
        failures: so many failed checks roll back.
    """

    def __init__(self, name: str, clock: Clock, *, least: float, minutes: int, failures: int) -> None:
        super().__init__(name, clock)
        self._least, self._failures, self._every = least, failures, minutes * clock.per_minute
        self._since = np.zeros((2, clock.runs), dtype=np.int64)
        self._failed = np.zeros(clock.runs, dtype=np.int64)

    def refuses(self, errors: Ints, done: int) -> Mask:
        """Whether too many checks have failed."""
        self._since = self._since + errors[:, (_N1, _X1)].T
        if done % self._every == 0:
            requests, failed = self._since
            passed = (requests > 0) & (1 - failed / np.maximum(requests, 1) >= self._least)
            self._failed = self._failed + ~passed
            self._since = np.zeros_like(self._since)
        found: Mask = self._failed >= self._failures
        return found


class PeekedZ(Peer):
    """A one-sided two-proportion z-test at 5 % on everything so far, looked at every minute.

    What a dashboard with a p-value does to somebody who acts on it: pooled variance, no correction for the looks, all
    steps in one table.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(name, clock)
        self._sums = np.zeros((clock.runs, 4), dtype=np.int64)

    def refuses(self, errors: Ints, done: int) -> Mask:
        """Whether the canary is "significantly" worse."""
        self._sums = self._sums + errors
        if done % self.clock.per_minute:
            return np.zeros(self.clock.runs, dtype=np.bool_)
        n1, x1, n0, x0 = self._sums.T
        m1, m0 = np.maximum(n1, 1), np.maximum(n0, 1)
        share = (x1 + x0) / (m1 + m0)
        error = np.sqrt(share * (1 - share) * (1 / m1 + 1 / m0))
        found: Mask = (n1 > 0) & (n0 > 0) & (x1 / m1 - x0 / m0 > _Z_ONE_SIDED * error) & (error > 0)
        return found


class Kayenta(Peer):
    """A Mann-Whitney U test of the error rates of single minutes, canary against stable.

    Rolls back when a minute's error rate is classified High: the lower end of the 98 % interval of the shift lies
    above a quarter of its Hodges-Lehmann estimate (Kayenta's NetflixACAJudge: confidence 98 %, tolerance .25). Looked
    at every ten minutes and when a step ends, over the step so far, two hours at most. The interval is that of Moses
    (1965): order statistics of the pairwise differences, by the normal approximation without ties. A minute without
    requests counts as 0 errors, Kayenta's way to replace missing values.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(name, clock)
        self._minute = np.zeros((clock.runs, 4), dtype=np.int64)
        self._rates: list[Floats] = []
        self._starts = [start for start, _ in pairwise([0, *clock.ends])]

    def refuses(self, errors: Ints, done: int) -> Mask:
        """Whether this look classifies the canary's errors as High."""
        nobody = np.zeros(self.clock.runs, dtype=np.bool_)
        if done - 1 in self._starts:
            self._rates, self._minute = [], np.zeros_like(self._minute)
        self._minute = self._minute + errors
        if done % self.clock.per_minute == 0:
            n, x = self._minute[:, (_N1, _N0)], self._minute[:, (_X1, _X0)]
            self._rates = [*self._rates[1 - _LOOKBACK_MINUTES :], x / np.maximum(n, 1)]
            self._minute = np.zeros_like(self._minute)
        looks = done % (_LOOK_MINUTES * self.clock.per_minute) == 0 or done in self.clock.ends
        live = np.flatnonzero(running(self.weight))
        if not looks or not self._rates or not live.size:
            return nobody
        nobody[live] = high(np.stack(self._rates, axis=-1)[live])
        return nobody


def high(rates: Floats, *, tolerance: float = _TOLERANCE) -> Mask:
    """Whether Kayenta calls the canary's rates High; `rates` has shape (runs, 2, minutes), canary first."""
    runs, _, minutes = rates.shape
    size = max(1, _PAIRS // minutes**2)
    return np.concatenate([_high(rates[at : at + size], tolerance) for at in range(0, runs, size)])


def _high(rates: Floats, tolerance: float) -> Mask:
    minutes = rates.shape[-1]
    pairs = minutes**2
    differences = (rates[:, 0, :, None] - rates[:, 1, None, :]).reshape(len(rates), pairs)
    rank = int(pairs / 2 - _Z_98 * np.sqrt(pairs * (2 * minutes + 1) / 12))
    if rank < 1:
        return np.zeros(len(rates), dtype=np.bool_)
    middle = ((pairs - 1) // 2, pairs // 2)
    ordered = np.partition(differences, (rank - 1, *middle), axis=-1)
    estimate = ordered[:, middle].mean(axis=-1)
    found: Mask = ordered[:, rank - 1] > tolerance * np.abs(estimate)
    return found


def peers(clock: Clock) -> list[Policy]:
    """Every rule of this module, on one clock."""
    return [
        SuccessRate("Argo Rollouts, success >= 95 %", clock, least=0.95, minutes=5, failures=4),
        SuccessRate("Argo Rollouts, success >= 99 %", clock, least=0.99, minutes=5, failures=4),
        SuccessRate("Flagger, success >= 99 %", clock, least=0.99, minutes=1, failures=5),
        Kayenta("Kayenta, Mann-Whitney", clock),
        PeekedZ("z-test, peeked each minute", clock),
    ]
