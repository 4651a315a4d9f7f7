"""Blocks and a plan in, a verdict out. Pure: a loop, a cluster's judge and a replay give the same answer.

The rules are `panel`'s; here is the one rollout that runs, with the reasons for a person.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tidegate.core.artifacts import VerdictWord
from tidegate.core.errors import UsageError
from tidegate.core.units import format_duration
from tidegate.rollouts.battery import N0, N1
from tidegate.rollouts.blocks import LABELLED, Block, Cohort, Counts
from tidegate.rollouts.panel import UNLIKE, WORDS, Late, Panel, Row
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.stats import ratio
from tidegate.rollouts.verdict import SampleRatio, Verdict
from tidegate.rollouts.words import guard_sentence, labels_sentence, late_sentence, ratio_sentence

_SMOOTH = 0.7
"""Weight of the past in the running mean of users a block, which only the forecast uses."""

_FORMAT = 2


class Judge:
    """The running judgement of one rollout.

    Args:
        plan: of the rollout.
        state: JSON of a former `state()`; None at the start.
    """

    def __init__(self, plan: RolloutPlan, state: Mapping[str, Any] | None = None) -> None:
        self.plan = plan
        self._panel = Panel(plan)
        self._reasons: tuple[str, ...] = ()
        self._recent = self._pace = 0.0
        if state is not None:
            self._restore(state)

    def update(self, block: Block) -> Verdict:
        """Add the next block and say what follows. A block that was added before, or is older, changes nothing.

        Raises:
            UsageError: the block is of another rollout's weight, goes back a step, or lacks a metric of the plan.
        """
        self.add(block)
        return self.verdict()

    def add(self, block: Block) -> bool:
        """Do what `update` does without describing the verdict; return whether it is final."""
        panel, step = self._panel, step_of(block.index, block.weight, self.plan)
        sums, new = sums_of(block, self.plan), new_of(block, self.plan)
        before, began = self._decision, int(panel.step[0])
        row = Row(
            index=np.array([block.index]),
            step=np.array([step]),
            sums=sums[None],
            weighed=np.array([block.weight is not None]),
            dead=np.array([block.dead or not block.ready]),
            skipped=np.array([block.skipped]),
            present=np.array([True]),
            new=new[None],
            late=tuple(_late(cohort, self.plan) for cohort in block.matured),
        )
        if panel.add(row)[0]:
            self._recent = float(new.sum())
            # A change of weight cuts a block in two, so one block alone may hold few users.
            self._pace = self._recent if self._pace == 0 else _SMOOTH * self._pace + (1 - _SMOOTH) * self._recent
            if self._decision == "continue" or (self._decision, step) != (before, began):
                self._reasons = self._explain(block)
        return bool(panel.final[0])

    def verdict(self) -> Verdict:
        """The verdict on the blocks so far."""
        panel = self._panel
        step, log_e = max(int(panel.step[0]), 0), float(panel.evidence.sample_ratio()[0])
        canary, stable = panel.evidence.units[0]
        return Verdict(
            decision=self._decision,
            final=bool(panel.final[0]),
            step=step,
            weight=self.plan.steps[step],
            next_weight=self._next_weight(step),
            elapsed_seconds=float(panel.elapsed[0]),
            metrics=panel.evidence.metrics(),
            log_e_harm=float(panel.harm[0]),
            srm=SampleRatio(log_e, log_e < ratio.VOID),
            reasons=self._reasons,
            forecast_seconds=self._remaining(),
            units={"stable": round(float(stable)), "canary": round(float(canary))},
        )

    def state(self) -> dict[str, Any]:
        """JSON from which a new Judge of the same plan goes on and decides the same."""
        return {
            "format": _FORMAT,
            "reasons": list(self._reasons),
            "recent": self._recent,
            "pace": self._pace,
            "panel": self._panel.state(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state.get("format") != _FORMAT:
            raise UsageError(
                "The judge's stored state is of another version of tidegate.", "Abort the rollout and start it again."
            )
        self._reasons, self._recent, self._pace = tuple(state["reasons"]), state["recent"], state["pace"]
        self._panel.restore(state["panel"])

    @property
    def _decision(self) -> VerdictWord:
        return WORDS[int(self._panel.decision[0])]

    def _explain(self, block: Block) -> tuple[str, ...]:
        if self._decision == "continue":
            return self._doubts(block)
        dead = stop_reason(block, self.plan)
        return (dead,) if dead else reasons(self._panel)

    def _doubts(self, block: Block) -> tuple[str, ...]:
        doubts = []
        if self._recent == 0:
            doubts.append("No new users came in the last block: without them there is no evidence.")
        if block.misrouted:
            doubts.append(f"{block.misrouted} requests were answered by the other arm and count as failures.")
        waiting = max((one.delay for one in self.plan.late), default=0.0) - float(self._panel.elapsed[0])
        if waiting > 0 and int(self._panel.step[0]) >= 0:
            doubts.append(late_sentence(self.plan, waiting))
        return tuple(doubts)

    def _next_weight(self, step: int) -> int | None:
        action, decision = self.plan.on_inconclusive, self._decision
        undecided = decision == "inconclusive"
        if decision == "rollback" or (undecided and action == "rollback"):
            return 0
        if decision == "continue" or (undecided and (action == "hold" or bool(self._panel.void[0]))):
            return None
        return (*self.plan.steps, 100)[step + 1]

    def _remaining(self) -> float | None:
        """Seconds until a good canary passes this step: the forecast, less what is proven, at the traffic of now."""
        begun = int(self._panel.step[0])
        if self._decision != "continue":
            return 0.0
        if not self.plan.forecast or (begun >= 0 and self._pace <= 0):
            return None
        step = self.plan.forecast[max(begun, 0)]
        if step.promote_seconds is None:
            return None
        planned = self.plan.units_per_minute * self.plan.block_seconds / 60
        pace = planned / self._pace if self._pace > 0 else 1.0
        proven = float(self._panel.evidence.safe[0].min()) / -math.log(self.plan.beta)
        elapsed = float(self._panel.elapsed[0])
        evidence = (step.promote_seconds - step.delay) * pace * (1 - min(max(proven, 0.0), 1.0))
        return max(evidence + max(step.delay - elapsed, 0.0), self.plan.step_min - elapsed, 0.0)


def reasons(panel: Panel, stream: int = 0) -> tuple[str, ...]:
    """Why the panel decided as it did about a stream, in sentences; nothing while it continues."""
    plan, step = panel.plan, max(int(panel.step[stream]), 0)
    metrics, decision = panel.evidence.metrics(stream), WORDS[int(panel.decision[stream])]
    canary, both = panel.evidence.users[stream, step]
    if decision == "rollback":
        worst = sorted(metrics, key=lambda metric: -(metric.log_e_harm or 0.0))
        return tuple(m.sentence for m in worst if m.verdict == "rollback") or (worst[0].sentence,)
    if decision == "promote" and plan.mode == "guard":
        return (guard_sentence(plan, step, both),)
    if decision == "promote":
        return tuple(metric.sentence for metric in metrics)
    if decision == "inconclusive" and panel.void[stream]:
        n1, x1, n0, x0 = panel.evidence.labelled[stream]
        unlike = panel.void[stream] == UNLIKE
        return (labels_sentence(x1 / n1, x0 / n0) if unlike else ratio_sentence(plan.steps[step], canary, both),)
    if decision == "inconclusive":
        waited = format_duration(round(float(panel.elapsed[stream])))
        undecided = (metric.sentence for metric in metrics if metric.verdict != "promote")
        return (f"{waited} at {plan.steps[step]} % gave evidence for neither answer.", *undecided)
    return ()


def stop_reason(block: Block, plan: RolloutPlan) -> str:
    """Why the canary is stopped without statistics; empty if it is not."""
    if not block.ready:
        return "The canary is not ready: its process does not answer the readiness check."
    if block.dead:
        return f"All {block.attempts.n1:.0f} requests to the canary failed within {plan.block_seconds:g} seconds."
    return ""


def step_of(index: int, weight: int | None, plan: RolloutPlan) -> int:
    """Which step of the plan a block at a weight belongs to.

    Raises:
        UsageError: none has its weight.
    """
    if weight is None and len(plan.steps) == 1:
        return 0
    if weight not in plan.steps:
        raise UsageError(
            f"Block {index} has {weight} % on the canary; the steps are {list(plan.steps)}.",
            "Blocks say which step they belong to by their weight.",
        )
    return plan.steps.index(weight)


def new_of(block: Block, plan: RolloutPlan) -> np.ndarray:
    """The users who were new in a block, canary and stable."""
    counted = block.metrics.get(plan.counted, Counts()).row
    return np.array([counted[N1], counted[N0]], dtype=np.float64)


def sums_of(block: Block, plan: RolloutPlan) -> np.ndarray:
    """The block's sums of each metric of the plan, shape (metrics, 6).

    Zeros for an interval without data, and for what is known late.

    Raises:
        UsageError: it has some of the metrics, but not all: a mistake of the source.
    """
    wanted = [one.metric for one in plan.metrics if one.source == "requests"]
    missing = [name for name in wanted if name not in block.metrics]
    if missing and block.metrics:
        raise UsageError(
            f"Block {block.index} has no counts of {', '.join(missing)}.",
            "Every block carries every metric of the plan.",
        )
    nothing = Counts()
    known = {} if missing else {name: block.metrics[name] for name in wanted}
    return np.array([known.get(one.metric, nothing).row for one in plan.metrics], dtype=np.float64)


def _late(cohort: Cohort, plan: RolloutPlan) -> Late:
    nothing = Counts()
    rows = [
        (nothing if one.source == "requests" else cohort.metrics.get(one.metric, nothing)).row for one in plan.metrics
    ]
    n1, x1, _, n0, x0, _ = cohort.metrics.get(LABELLED, nothing).row
    step = step_of(cohort.index, cohort.weight, plan)
    return Late(np.array([step]), np.array([rows], dtype=np.float64), np.array([[n1, x1, n0, x0]], dtype=np.float64))


def judge(plan: RolloutPlan, blocks: Iterable[Block]) -> Verdict:
    """Judge recorded blocks: what is final ends it."""
    running = Judge(plan)
    for block in blocks:
        if running.add(block):
            break
    return running.verdict()
