"""Draws what each run sees, block by block, at the weight that its policy asks for. Seeded; reads and writes nothing.

Users who come once are Poisson counts. Regulars are a pool: the hash of a user, a whole per cent as in
`core/assignment.py`, is drawn once and stays, so the canary's set of them only ever grows and an unlucky draw of heavy
users stays in its arm for the whole rollout. Members of a pool differ in their hash alone, so counts for each per cent
hold everything that is to know about them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.simulation.scenario import ERRORS, MINUTE, LateLabels, Regulars, Scenario, known_by
from tidegate.rollouts.stats.latency import SHARES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
View = Literal["first", "once_per_arm", "requests"]
"""How a policy counts: a user once, in the arm met first; a user once in each arm; every request."""

WHOLE = 100


@dataclass(frozen=True, slots=True)
class Shown:
    """One block of every run; counts have shape (runs, metrics, 4) and hold (n1, x1, n0, x0), canary first.

    Attributes:
        index: of the block.
        counts: for each way of counting. Of late labels, `first` are those that matured now, whose cohort was exposed
            at the weight of now, and `requests` those that arrived now.
        exposed: users (`first`, `once_per_arm`) and requests that met the canary, shape (runs,).
    """

    index: int
    counts: dict[View, Ints]
    exposed: dict[View, Ints]


class Traffic:
    """The traffic of `scenario.runs` rollouts under one policy.

    Args:
        scenario: what happens.
        plan: names the metrics; errors (or labels) are drawn in any case, and come first.
        rng: all randomness comes from here.
    """

    def __init__(self, scenario: Scenario, plan: RolloutPlan, rng: np.random.Generator) -> None:
        self.scenario, self._rng = scenario, rng
        self.metrics = metrics_of(plan)
        self._latency = [name for name in SHARES if name in self.metrics]
        self._pools = [Pool(one, scenario.block, scenario.runs, rng) for one in scenario.regulars]
        self._labels = Labels(scenario.labels, scenario.block, scenario.runs, rng) if scenario.labels else None

    def block(self, index: int, weight: Ints) -> Shown:
        """Draw block `index` with `weight` whole per cents of each run on the canary, shape (runs,)."""
        share = weight / WHOLE
        split = np.stack([share, 1 - share], axis=-1)
        new = self._rng.poisson(split * self.scenario.units_per_minute * self.scenario.block / MINUTE)
        if self._labels:
            return self._labelled(index, weight, new)
        bases = [self.scenario.error_rate, *(one.error_rate for one in self.scenario.regulars)]
        rates = [self._rates(ERRORS, base, index, weight) for base in bases]
        visits = [pool.visit(weight) for pool in self._pools]
        first, more, twice = (
            self._counted([*extra, *(visit[at] for visit in visits)], chances, index, weight)
            for at, (extra, chances) in enumerate((([new], rates), ([], rates[1:]), ([], rates[1:])))
        )
        counts: dict[View, Ints] = {"first": first, "once_per_arm": first + twice, "requests": first + more}
        return Shown(index, counts, {view: seen[:, 0, 0] for view, seen in (counts | {"once_per_arm": first}).items()})

    def _counted(self, groups: list[Ints], rates: list[Floats], index: int, weight: Ints) -> Ints:
        """Draw what happens to groups of requests (runs, 2), each with its own share of errors."""
        n, failed = (np.zeros((len(weight), 2), dtype=np.int64) for _ in range(2))
        for group, rate in zip(groups, rates, strict=True):
            n, failed = n + group, failed + self._rng.binomial(group, rate)
        return table(n, [failed, *self._slow(n, index, weight)])

    def _labelled(self, index: int, weight: Ints, new: Ints) -> Shown:
        assert self._labels is not None  # noqa: S101 - the caller looked
        wrong = self._rng.binomial(new, self._rates("accuracy", self._labels.wrong, index, weight))
        matured, arrived = self._labels.expose(weight, new, wrong)
        counts: dict[View, Ints] = {"first": matured, "once_per_arm": matured, "requests": arrived}
        return Shown(index, counts, dict.fromkeys(counts, new[:, 0]))

    def _rates(self, metric: str, base: float, index: int, weight: Ints) -> Floats:
        """Shares of the bad event in (canary, stable): shape (runs, 2)."""
        scenario, seconds = self.scenario, index * self.scenario.block
        if scenario.daily_cycle and metric not in SHARES:
            base *= 1 + scenario.daily_cycle.amplitude * math.sin(2 * math.pi * seconds / scenario.daily_cycle.period)
        factor = scenario.factor(metric)
        canary = base * np.where(weight >= scenario.effect_from_weight, factor, 1.0)
        rates = np.stack([canary, np.full(canary.shape, base)], axis=-1)
        incident = scenario.incident
        if incident and incident.start <= seconds < incident.start + incident.lasts:
            rates = np.maximum(rates, incident.rate)
        clipped: Floats = np.clip(rates, 0.0, 1.0)
        return clipped

    def _slow(self, n: Ints, index: int, weight: Ints) -> list[Ints]:
        """Requests beyond each quantile: who is beyond the p99 is beyond the p90 and the p50."""
        rates = [self._rates(name, SHARES[name], index, weight) for name in self._latency]
        rates = list(np.maximum.accumulate(rates[::-1], axis=0)[::-1]) if rates else []
        found, among, before = [], n, np.ones(n.shape)
        for rate in rates:
            among = self._rng.binomial(among, np.minimum(rate / before, 1.0))
            before = rate
            found.append(among)
        return found


class Pool:
    """Regulars of each run by the per cent of their hash.

    Args:
        who: how many, and how often they come.
        block: seconds.
        runs: how many pools.
        rng: of the traffic.
    """

    def __init__(self, who: Regulars, block: float, runs: int, rng: np.random.Generator) -> None:
        self._rng, self._mean = rng, who.requests_per_minute * block / MINUTE
        self._comes = -math.expm1(-self._mean)
        # Requests beyond the first of a user who came at all in a block.
        self._beyond = self._mean / self._comes - 1
        self._unseen = rng.multinomial(who.users, np.full(WHOLE, 1 / WHOLE), runs)
        self._seen = np.zeros_like(self._unseen)
        self._in_canary = np.zeros(runs, dtype=np.int64)

    def visit(self, weight: Ints) -> tuple[Ints, Ints, Ints]:
        """One block: users seen for the first time, further requests, users seen first in the canary after the other.

        Each of shape (runs, 2), canary and stable.
        """
        canary = np.arange(WHOLE) < weight[:, None]
        first = self._rng.binomial(self._unseen, self._comes)
        new, known = _by_arm(first, canary), _by_arm(self._seen, canary)
        more = self._rng.poisson(self._mean * known + self._beyond * new)
        switched = self._rng.binomial(np.maximum(known[:, 0] - self._in_canary, 0), self._comes)
        self._in_canary = self._in_canary + switched + new[:, 0]
        self._unseen, self._seen = self._unseen - first, self._seen + first
        return new, more, np.stack([switched, np.zeros_like(switched)], axis=-1)


class Labels:
    """Labels on their way; delays are exponential, so what is outstanding has no age.

    Args:
        labels: how long they take.
        block: seconds.
        runs: how many rollouts.
        rng: of the traffic.
    """

    def __init__(self, labels: LateLabels, block: float, runs: int, rng: np.random.Generator) -> None:
        self.wrong = labels.wrong
        self._rng = rng
        after = (labels.wrong_after, labels.right_after)
        self._in_a_block = [known_by(block, mean) for mean in after]
        self._at_maturity = [known_by(labels.maturity, mean) for mean in after]
        self._age = max(1, round(labels.maturity / block))
        self._cohorts: deque[tuple[Ints, Ints]] = deque()
        self._outstanding = [np.zeros((runs, 2), dtype=np.int64)] * 2

    def expose(self, weight: Ints, new: Ints, wrong: Ints) -> tuple[Ints, Ints]:
        """Expose `new` users (runs, 2) of whom `wrong` get a wrong answer: what matured now, and what arrived now."""
        groups = [wrong, new - wrong]
        known = [self._rng.binomial(n, p) for n, p in zip(groups, self._at_maturity, strict=True)]
        self._cohorts.append((weight, table(known[0] + known[1], [known[0]])))
        outstanding = [old + n for old, n in zip(self._outstanding, groups, strict=True)]
        heard = [self._rng.binomial(n, p) for n, p in zip(outstanding, self._in_a_block, strict=True)]
        self._outstanding = [n - out for n, out in zip(outstanding, heard, strict=True)]
        return self._matured(weight), table(heard[0] + heard[1], [heard[0]])

    def _matured(self, weight: Ints) -> Ints:
        """The cohort that is old enough; of a step that is over, it says nothing about the step of now."""
        if len(self._cohorts) <= self._age:
            return np.zeros_like(self._cohorts[0][1])
        exposed_at, counts = self._cohorts.popleft()
        return np.where((exposed_at == weight)[:, None, None], counts, 0)


def metrics_of(plan: RolloutPlan) -> tuple[str, ...]:
    """What is drawn under a plan: errors or labels first, which every policy looks at, then latency if it is judged."""
    judged = [stream.metric for stream in plan.streams]
    first = "accuracy" if "accuracy" in judged else ERRORS
    return (first, *(name for name in SHARES if name in judged))


def table(n: Ints, events: list[Ints]) -> Ints:
    """Counts (runs, metrics, 4) from units (runs, 2) and the events of each metric."""
    rows = [np.stack([n[:, 0], x[:, 0], n[:, 1], x[:, 1]], axis=-1) for x in events]
    return np.stack(rows, axis=1)


def _by_arm(users: Ints, canary: npt.NDArray[np.bool_]) -> Ints:
    """Sum users by per cent (runs, 100) into (canary, stable)."""
    inside = np.where(canary, users, 0).sum(axis=1)
    found: Ints = np.stack([inside, users.sum(axis=1) - inside], axis=-1)
    return found
