"""tidegate's own judge on many runs side by side: `rollouts/panel.py`, followed as the loop does; no canary is dead."""

from __future__ import annotations

import numpy as np

from tidegate.rollouts.panel import CONTINUE, INCONCLUSIVE, ROLLBACK, Panel, Row
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.simulation.policy import PROMOTED, ROLLED_BACK, Ints, Mask, running
from tidegate.rollouts.simulation.traffic import Shown, View, metrics_of


class Tidegate:
    """The judge of a plan.

    Args:
        plan: of every run.
        runs: how many.
        view: how units are counted; anything but the plan's own unit shows what the rule is there for.
        name: as the table says it.
        ratio_check: whether users are counted against the weight; requests and early labels are no users.
    """

    def __init__(
        self, plan: RolloutPlan, runs: int, *, view: View = "first", name: str = "tidegate", ratio_check: bool = True
    ) -> None:
        self.name, self.view, self.plan = name, view, plan
        self.weight: Ints = np.full(runs, plan.steps[0], dtype=np.int64)
        self.waits: Mask = np.zeros(runs, dtype=np.bool_)
        self._panel = Panel(plan, runs)
        self._columns = [metrics_of(plan).index(stream.metric) for stream in plan.streams]
        # The judge counts a metric as it is named, the traffic what is bad about it.
        self._turned = np.array([stream.better == "higher" for stream in plan.streams])
        self._ratio_check = ratio_check

    def see(self, shown: Shown) -> None:
        """Take in a block of each run that is not over, and set the weights that follow from the verdicts."""
        live = running(self.weight)
        step = np.minimum(np.searchsorted(self.plan.steps, self.weight), len(self.plan.steps) - 1)
        n1, x1, n0, x0 = np.moveaxis(shown.counts[self.view][:, self._columns], -1, 0)
        x1, x0 = np.where(self._turned, n1 - x1, x1), np.where(self._turned, n0 - x0, x0)
        sums = np.stack([n1, x1, x1, n0, x0, x0], axis=-1).astype(np.float64)
        index, none = np.full(live.shape, shown.index), np.zeros(live.shape, dtype=np.int64)
        weighed = live & self._ratio_check
        self._panel.add(Row(index, step, sums, weighed, dead=none.astype(np.bool_), skipped=none, present=live))
        self._follow(live, step)

    def _follow(self, live: Mask, step: Ints) -> None:
        """As `Judge` says which weight is next."""
        decision, action = self._panel.decision, self.plan.on_inconclusive
        cannot = decision == INCONCLUSIVE
        back = (decision == ROLLBACK) | (cannot & (action == "rollback"))
        stay = (decision == CONTINUE) | (cannot & ((action == "hold") | self._panel.voided))
        following = np.where(stay, self.weight, np.array([*self.plan.steps, PROMOTED])[step + 1])
        self.weight = np.where(live, np.where(back, ROLLED_BACK, following), self.weight)
        self.waits = running(self.weight) & cannot & stay
