"""The tests of a plan: harm of each guarded metric, safety of each, then the goal; shares and means side by side.

Each test reads the sums of one metric, turned so that its event is what the test is about: a badness for harm and
safety, the good event for a goal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.rollouts.plan import GoalPlan, RolloutPlan
from tidegate.rollouts.stats.binary import BinaryE
from tidegate.rollouts.stats.mean import MeanE, tuned_scale

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

N1, X1, Q1, N0, X0, Q0 = range(6)
"""Columns of a metric's sums: units, events or sum, squares; canary first."""

# Units that a plan without traffic is made for: they only tune where a mean's test is sharpest.
_UNITS = 1000.0
# A mean is decided, at the latest, in a step's whole time; the test is sharpest at a quarter of it.
_SHARPEST = 0.25
_LEAST_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True)
class _Test:
    """One test: which metric it reads, whether it counts the opposite, its line and what it expects."""

    metric: int
    mean: bool
    turned: bool
    ratio: float
    margin: float
    side: int
    prior: float
    scale: float


class Battery:
    """The running tests of `streams` rollouts of one plan.

    Args:
        plan: of the rollouts.
        streams: how many.
    """

    def __init__(self, plan: RolloutPlan, streams: int) -> None:
        tests = _tests(plan)
        mean = np.array([test.mean for test in tests])
        self._mean, self._counted = np.flatnonzero(mean), np.flatnonzero(~mean)
        self._metric = np.array([test.metric for test in tests])
        self._turned = np.array([test.turned for test in tests])
        starts, shape = len(plan.steps), (streams, len(tests))
        ratio, margin, side, prior, scale = (
            np.broadcast_to(np.array(column, dtype=np.float64), shape)
            for column in zip(*((t.ratio, t.margin, t.side, t.prior, t.scale) for t in tests), strict=True)
        )
        shares, means = np.s_[:, self._counted], np.s_[:, self._mean]
        self._shares = BinaryE(ratio[shares], margin[shares], side[shares], prior[shares], starts=starts)
        self._means = MeanE(ratio[means], margin[means], side[means], scale[means], starts=starts)

    def update(self, sums: Floats, step: Ints, live: npt.NDArray[np.bool_]) -> None:
        """Add a block of each stream that is `live`; the sums of the others are 0.

        Args:
            sums: (streams, metrics, 6).
            step: (streams,), the running step from 0.
            live: (streams,).
        """
        read = sums[:, self._metric]
        start = step[:, None]
        if len(self._counted):
            n1, x1, _, n0, x0, _ = np.moveaxis(read[:, self._counted], -1, 0)
            turned = self._turned[self._counted]
            self._shares.update(
                n1, np.where(turned, n1 - x1, x1), n0, np.where(turned, n0 - x0, x0), start, live=live[:, None]
            )
        if len(self._mean):
            n1, s1, q1, n0, s0, q0 = np.moveaxis(read[:, self._mean], -1, 0)
            sign = np.where(self._turned[self._mean], -1.0, 1.0)
            self._means.update((n1, sign * s1, q1), (n0, sign * s0, q0), start)

    def log_e(self) -> Floats:
        """Log e-values, shape (steps, streams, tests); the tests are harm, safety, goal."""
        found = np.empty((len(self._shares.log_wealth), len(self._shares.units), len(self._metric)))
        if len(self._counted):
            found[..., self._counted] = self._shares.log_e()
        if len(self._mean):
            found[..., self._mean] = self._means.log_e()
        return found

    def state(self) -> dict[str, Any]:
        """JSON."""
        return (
            {"shares": self._shares.state(), "means": self._means.state()}
            if len(self._mean)
            else {"shares": self._shares.state()}
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()` of the same plan."""
        self._shares.restore(state["shares"])
        if len(self._mean):
            self._means.restore(state["means"])


def _tests(plan: RolloutPlan) -> list[_Test]:
    tests = []
    for side in (+1, -1):
        for at, one in enumerate(plan.streams):
            line = one.harm if side > 0 else one.safe
            mean, scale = one.kind == "mean", _scale(one.variance, plan)
            tests.append(_Test(at, mean, one.better == "higher", line.ratio, line.margin, side, one.bad, scale))
    if plan.goal is not None:
        tests.append(_goal(plan.goal, len(plan.streams), plan))
    return tests


def _goal(goal: GoalPlan, at: int, plan: RolloutPlan) -> _Test:
    """Harm of the good event: evidence that the canary has more of it than the line allows."""
    turned = goal.better == "lower"
    good = 1 - goal.baseline if turned else goal.baseline
    return _Test(at, goal.kind == "mean", turned, 1.0, goal.improve_by, +1, good, _scale(goal.variance, plan))


def _scale(variance: float, plan: RolloutPlan) -> float:
    """R of a mean's mixture: V is the variance times h = n w (1 - w) of the units that a quarter of the step brings."""
    weight = plan.steps[-1] / 100 if plan.steps else 0.5
    seconds = plan.step_max[-1] if plan.step_max else 0.0
    units = plan.units_per_minute / 60 * seconds * _SHARPEST or _UNITS
    return tuned_scale(max(variance, _LEAST_VARIANCE) * units * weight * (1 - weight), plan.alpha)
