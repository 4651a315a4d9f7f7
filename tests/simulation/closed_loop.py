"""Many rollouts of one plan at once, whose weights follow the judge's own decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from tidegate.rollouts.panel import PROMOTE, ROLLBACK, Panel, Row
from tidegate.rollouts.plan import RolloutPlan

Floats = npt.NDArray[np.float64]
Rates = Callable[[int, int], tuple[Floats, Floats]]
"""(block, weight in per cent) -> the canary's and the stable arm's rate of each metric."""


@dataclass(frozen=True)
class Outcome:
    """Of each run: promoted and rolled back at the end, and seconds until the first of both; infinity for neither."""

    promoted: npt.NDArray[np.bool_]
    rolled_back: npt.NDArray[np.bool_]
    seconds: Floats


def run(plan: RolloutPlan, rates: Rates, *, runs: int, blocks: int, seed: int = 1) -> Outcome:
    """Draw the same number of new users in each block and let every run climb as its verdicts say."""
    rng, panel = np.random.default_rng(seed), Panel(plan, runs)
    step, seconds = np.zeros(runs, dtype=np.int64), np.full(runs, np.inf)
    for block in range(blocks):
        yes = np.ones(runs, dtype=np.bool_)
        sums = _sums(plan, partial(rates, block), step, rng)
        panel.add(Row(np.full(runs, block), step, sums, weighed=yes, dead=~yes, skipped=0 * step, present=yes))
        seconds = np.where(panel.final & np.isinf(seconds), (block + 1) * plan.block_seconds, seconds)
        step = np.where(
            (panel.decision == PROMOTE) & ~panel.final, np.minimum(panel.step + 1, len(plan.steps) - 1), step
        )
        if panel.final.all():
            break
    rolled_back = panel.decision == ROLLBACK
    return Outcome(panel.final & ~rolled_back, rolled_back, seconds)


def _sums(
    plan: RolloutPlan,
    rates: Callable[[int], tuple[Floats, Floats]],
    step: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Floats:
    """A block of each run, in the columns of the judge."""
    units, weight = round(plan.units_per_minute * plan.block_seconds / 60), np.array(plan.steps)[step]
    bad, good = (np.empty((len(step), len(plan.streams))) for _ in range(2))
    for one in np.unique(weight):
        bad[weight == one], good[weight == one] = rates(int(one))
    n1 = rng.binomial(units, weight / 100)[:, None]
    x1, x0 = rng.binomial(n1, bad), rng.binomial(units - n1, good)
    return np.stack(np.broadcast_arrays(n1, x1, x1, units - n1, x0, x0), axis=-1).astype(float)
