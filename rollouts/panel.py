"""The rules of a verdict, on arrays of rollouts: one that runs, or thousands that were recorded.

Rules, for which docs/decisions and rollouts/stats give the reasons:

* A test of harm and one of safety run for each metric; every step starts them once more.
* Harm has one alpha for the whole rollout: the mean over all planned steps of the process started at that step (1
  before it starts), over the three latency quantiles, and over the guardrails. Means of e-values are e-values
  whatever the dependence. Roll back at 1 / alpha.
* Safety restarts at each step, without splitting beta: the last step's test alone bounds a wrong promotion. A step
  passes when every guardrail, and every latency quantile, reaches 1 / beta and `step.min` is over.
* A metric that is known late is counted for cohorts of users who are old enough, with the step in which they were
  new: harm may still come from a step that is over, safety is asked of the running step's users only.
* Guardrails that are known at different ages share alpha by their number, and the mean is taken within each age: an
  e-process that lags behind another is none for somebody who knows the other already.
* Rollback wins a tie; the first crossing is final. No data is never a pass and never a failure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tidegate.core.artifacts import VerdictWord
from tidegate.core.errors import UsageError
from tidegate.rollouts.battery import N0, N1
from tidegate.rollouts.blocks import DEAD
from tidegate.rollouts.evidence import Evidence
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.stats import ratio
from tidegate.rollouts.stats.binary import log_mean

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

CONTINUE, PROMOTE, ROLLBACK, INCONCLUSIVE = range(4)
WORDS: Final[tuple[VerdictWord, ...]] = ("continue", "promote", "rollback", "inconclusive")
"""What each number in `Panel.decision` says."""


UNEVEN, UNLIKE = 1, 2
"""Why a step is void: the arms' shares of users, or of labels."""


@dataclass(frozen=True, slots=True)
class Late:
    """A matured cohort of each stream.

    Attributes:
        step: in which its users were new, shape (streams,).
        sums: (streams, metrics, 6); zeros for what is not known late, and where a stream has no cohort.
        labelled: all users and those whose truth is known, (n1, x1, n0, x0) of each stream; zeros without labels.
    """

    step: Ints
    sums: Floats
    labelled: Floats


@dataclass(frozen=True, slots=True)
class Row:
    """One block of each stream, as arrays whose first axis are the streams.

    Attributes:
        index: of the interval.
        step: index of the plan's step whose weight held.
        sums: (streams, metrics, 6), see `battery`; zeros where nothing was counted.
        weighed: whether the step's weight is known.
        dead: whether the canary needs no statistics to be stopped.
        skipped: how many intervals right before it nobody watched.
        present: which streams have a block at all.
        new: users who were new, canary and stable, shape (streams, 2); default: those of the first metric.
        late: cohorts that matured since the block before.
    """

    index: Ints
    step: Ints
    sums: Floats
    weighed: Mask
    dead: Mask
    skipped: Ints
    present: Mask
    new: Floats | None = None
    late: tuple[Late, ...] = ()


class Panel:
    """The running judgement of many rollouts of one plan.

    Attributes:
        decision: of each stream, an index into `WORDS`.
        final: whether nothing will change it: rolled back, or the last step has passed.
        step: index of the running step; -1 before the first block.
        begun: the block that began it.
        skipped: how many of its intervals nobody watched; they are no time of the step.
        last: the newest block, -1 before the first.
        decided: the block of the newest decision other than `continue`; -1 without one.
        void: whether the running step was ever found void, however even the arms became afterwards: 0 never, 1 for
            their shares of users, 2 for their shares of labels.

    Args:
        plan: of the rollouts.
        streams: how many.
        step_max: seconds until each step of each stream is given up, shape (streams, steps); default: the plan's.
    """

    def __init__(self, plan: RolloutPlan, streams: int = 1, step_max: Floats | None = None) -> None:
        self.plan = plan
        self.evidence = Evidence(plan, streams)
        self.decision: Ints = np.full(streams, CONTINUE)
        self.final: Mask = np.zeros(streams, dtype=np.bool_)
        self.step: Ints = np.full(streams, -1)
        self.begun: Ints = np.zeros(streams, dtype=np.int64)
        self.skipped: Ints = np.zeros(streams, dtype=np.int64)
        self.last: Ints = np.full(streams, -1)
        self.decided: Ints = np.full(streams, -1)
        self.void: Ints = np.zeros(streams, dtype=np.int64)
        limits = np.asarray(plan.step_max if step_max is None else step_max, dtype=np.float64)
        self._step_max = np.broadcast_to(limits, (streams, len(plan.steps)))
        self._rows = np.arange(streams)
        sources = [guardrail.source for guardrail in plan.guardrails]
        self._ages = [np.flatnonzero([one == source for one in sources]) for source in dict.fromkeys(sources)]

    def add(self, row: Row) -> Mask:
        """Add a block of each stream and decide; returns which streams took theirs.

        A stream that is final, or whose block is not newer than its newest, takes none and does not change.

        Raises:
            UsageError: a block belongs to a step before the running one.
        """
        newer = (row.index > self.last) | ((row.index == self.last) & (row.step > self.step))
        live: Mask = row.present & ~self.final & newer
        self._refuse_going_back(row, live)
        begins = live & (row.step > self.step)
        self.begun = np.where(begins, row.index, self.begun)
        self.skipped = np.where(begins, 0, self.skipped + np.where(live, row.skipped, 0))
        self.decision = np.where(begins, CONTINUE, self.decision)
        self.void = np.where(begins, 0, self.void)
        self.step = np.where(begins, row.step, self.step)
        self.last = np.where(live, row.index, self.last)
        for late in row.late:
            self.evidence.mature(
                np.where(live[:, None, None], late.sums, 0.0),
                np.minimum(late.step, self.step),
                np.where(live[:, None], late.labelled, 0.0),
            )
        sums = np.where(live[:, None, None], row.sums, 0.0)
        new = sums[:, 0][:, [N1, N0]] if row.new is None else np.where(live[:, None], row.new, 0.0)
        self.evidence.count(sums, self.step, new, live=live, weighed=row.weighed)
        self._decide(live, row.dead)
        return live

    @property
    def elapsed(self) -> Floats:
        """Seconds of the running step of each stream, those that somebody watched."""
        blocks = np.where(self.step >= 0, self.last - self.begun + 1 - self.skipped, 0)
        return np.asarray(blocks * self.plan.block_seconds, dtype=np.float64)

    @property
    def harm(self) -> Floats:
        """Log e-values of all guardrails together: log(1 / alpha) rolls back."""
        harm = self.evidence.harm
        shares = [log_mean(harm[:, age]) + math.log(len(age) / harm.shape[1]) for age in self._ages]
        return np.asarray(np.max(shares, axis=0))

    @property
    def proven(self) -> Mask:
        """Whether every guardrail is proven safe in the running step, and the goal reached."""
        safe, goal = self.evidence.safe.min(axis=-1) >= -math.log(self.plan.beta), self.evidence.goal
        return np.asarray(safe if goal is None else safe & (goal >= -math.log(self.plan.alpha)))

    @property
    def voided(self) -> Mask:
        """Whether the arms cannot be compared: they did not get their shares of users, or of labels."""
        return np.asarray((self.evidence.sample_ratio() >= ratio.VOID) | self.unlike)

    @property
    def unlike(self) -> Mask:
        """Whether the truth is known of another share of users in one arm than in the other."""
        return np.asarray(self.evidence.label_ratio() >= ratio.VOID)

    @property
    def met(self) -> Mask:
        """Whether users of this step met both arms: a soak that nobody took part in guards nothing."""
        canary, both = np.moveaxis(self.evidence.users[self._rows, self.step], -1, 0)
        enough: Mask = np.minimum(canary, both - canary) >= DEAD
        known: Floats = self.evidence.known[self._rows, self.step].min(axis=(-2, -1), initial=np.inf)
        return np.asarray(enough & (known >= DEAD))

    def state(self) -> dict[str, Any]:
        """JSON from which a panel of the same plan goes on and decides the same."""
        numbers = {name: getattr(self, name).tolist() for name in _NUMBERS}
        return {**numbers, "final": self.final.tolist(), "evidence": self.evidence.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Read what `state` wrote."""
        for name in _NUMBERS:
            # A state that is older than `void` was never found so.
            known = state.get(name, self.void) if name == "void" else state[name]
            setattr(self, name, np.asarray(known, dtype=np.int64))
        self.final = np.asarray(state["final"], dtype=np.bool_)
        self.evidence.restore(state["evidence"], self.step)

    def _decide(self, live: Mask, dead: Mask) -> None:
        plan, elapsed = self.plan, self.elapsed
        stop = live & (dead | (self.harm >= -math.log(plan.alpha)))
        undecided = live & ~stop & (self.decision == CONTINUE)
        over = elapsed >= self._step_max[self._rows, self.step]
        passed = over & self.met if plan.mode == "guard" else (elapsed >= plan.step_min) & self.proven
        passed &= self.evidence.heard(self.step)
        found = np.where(self.unlike, UNLIKE, np.where(self.voided, UNEVEN, 0))
        self.void = np.where(live & (self.void == 0), found, self.void)
        void = self.void > 0
        decision = np.where(stop, ROLLBACK, self.decision)
        decision = np.where(undecided & ~void & passed, PROMOTE, decision)
        decision = np.where(undecided & (void | (over & ~passed)), INCONCLUSIVE, decision)
        self.decided = np.where(decision != self.decision, self.last, self.decided)
        self.decision = decision
        last = self.step == len(plan.steps) - 1
        self.final = self.final | (decision == ROLLBACK) | ((decision == PROMOTE) & last)

    def _refuse_going_back(self, row: Row, live: Mask) -> None:
        back = np.flatnonzero(live & (row.step < self.step))
        if back.size:
            weight = self.plan.steps[int(row.step[back[0]])]
            raise UsageError(
                f"Block {row.index[back[0]]} has {weight} % on the canary, after a step with more.",
                "The share only grows in a rollout; abort it and start another to go back.",
            )


_NUMBERS: Final = ("decision", "step", "begun", "skipped", "last", "decided", "void")
