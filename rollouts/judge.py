"""Blocks and a plan in, a verdict out. Pure: a loop, a cluster's judge and a replay give the same answer.

Rules, for which docs/decisions and rollouts/stats give the reasons:

* A test of harm and one of safety run for each metric; every step starts them once more.
* Harm has one alpha for the whole rollout: the mean over all planned steps of the process started at that step (1
  before it starts), over the three latency quantiles, and over the guardrails. Means of e-values are e-values
  whatever the dependence. Roll back at 1 / alpha.
* Safety restarts at each step, without splitting beta: the last step's test alone bounds a wrong promotion. A step
  passes when every guardrail, and every latency quantile, reaches 1 / beta and `step.min` is over.
* Rollback wins a tie; the first crossing is final. No data is never a pass and never a failure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tidegate.core.artifacts import VerdictWord
from tidegate.core.errors import UsageError
from tidegate.core.units import format_duration
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.evidence import Evidence
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.stats import ratio
from tidegate.rollouts.stats.binary import log_mean
from tidegate.rollouts.verdict import SampleRatio, Verdict
from tidegate.rollouts.words import guard_sentence, ratio_sentence

DEAD = 20
"""Attempts on the canary in one block that all failed: no statistics are needed to stop."""

_NONE = Counts()
_SMOOTH = 0.7
"""Weight of the past in the running mean of users a block, which only the forecast uses."""

_FORMAT = 1


class Judge:
    """The running judgement of one rollout.

    Args:
        plan: of the rollout.
        state: JSON of a former `state()`; None at the start.
    """

    def __init__(self, plan: RolloutPlan, state: Mapping[str, Any] | None = None) -> None:
        self.plan = plan
        self._evidence = Evidence(plan)
        self._step = -1
        self._begun = 0
        self._last = (-1, -1)
        self._decision: VerdictWord = "continue"
        self._reasons: tuple[str, ...] = ()
        self._final = False
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
        step = self._step_of(block)
        if self._final or (block.index, step) <= self._last:
            return self._final
        if step < self._step:
            raise UsageError(
                f"Block {block.index} has {block.weight} % on the canary, after a step with more.",
                "The share only grows in a rollout; abort it and start another to go back.",
            )
        counts = self._counts(block)
        while self._step < step:
            self._begin_step(block.index)
        self._last = (block.index, step)
        self._recent = counts[0].n1 + counts[0].n0
        # A change of weight cuts a block in two, so one block alone may hold few users.
        self._pace = self._recent if self._pace == 0 else _SMOOTH * self._pace + (1 - _SMOOTH) * self._recent
        self._evidence.count(counts, weighed=block.weight is not None)
        self._decide(block)
        return self._final

    def verdict(self) -> Verdict:
        """The verdict on the blocks so far."""
        step = max(self._step, 0)
        log_e = self._evidence.sample_ratio()
        return Verdict(
            decision=self._decision,
            final=self._final,
            step=step,
            weight=self.plan.steps[step],
            next_weight=self._next_weight(),
            elapsed_seconds=self._elapsed(),
            metrics=self._evidence.metrics(),
            log_e_harm=self._harm(),
            srm=SampleRatio(log_e, log_e < ratio.VOID),
            reasons=self._reasons,
            forecast_seconds=self._remaining(),
        )

    def state(self) -> dict[str, Any]:
        """JSON from which a new Judge of the same plan goes on and decides the same."""
        return {
            "format": _FORMAT,
            "step": self._step,
            "begun": self._begun,
            "last": list(self._last),
            "decision": self._decision,
            "reasons": list(self._reasons),
            "final": self._final,
            "recent": self._recent,
            "pace": self._pace,
            "evidence": self._evidence.state(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state.get("format") != _FORMAT:
            raise UsageError(
                "The judge's stored state is of another version of tidegate.", "Abort the rollout and start it again."
            )
        self._step, self._begun, self._last = state["step"], state["begun"], (state["last"][0], state["last"][1])
        self._decision, self._reasons = state["decision"], tuple(state["reasons"])
        self._final, self._recent, self._pace = state["final"], state["recent"], state["pace"]
        self._evidence.restore(state["evidence"])

    def _step_of(self, block: Block) -> int:
        if block.weight is None and len(self.plan.steps) == 1:
            return 0
        if block.weight not in self.plan.steps:
            raise UsageError(
                f"Block {block.index} has {block.weight} % on the canary; the steps are {list(self.plan.steps)}.",
                "Blocks say which step they belong to by their weight.",
            )
        return self.plan.steps.index(block.weight)

    def _counts(self, block: Block) -> list[Counts]:
        names, known = self._evidence.names, block.metrics
        missing = [name for name in names if name not in known]
        # No metric at all is an interval without data; one of several is a mistake of the source.
        if missing and known:
            raise UsageError(
                f"Block {block.index} has no counts of {', '.join(missing)}.",
                "Every block carries every metric of the plan.",
            )
        return [known.get(name, _NONE) for name in names]

    def _begin_step(self, index: int) -> None:
        self._step += 1
        self._begun = index
        self._evidence.begin_step()
        self._decision, self._reasons = "continue", ()

    def _decide(self, block: Block) -> None:
        dead = self._hard_stop(block)
        if dead:
            self._say("rollback", dead)
        elif self._harm() >= -math.log(self.plan.alpha):
            self._say("rollback", *self._harm_reasons())
        elif self._decision == "continue":
            self._decide_step()
        self._final = self._decision == "rollback" or (
            self._decision == "promote" and self._step == len(self.plan.steps) - 1
        )
        if self._decision == "continue":
            self._say("continue", *self._doubts(block))

    def _decide_step(self) -> None:
        plan, elapsed = self.plan, self._elapsed()
        over = elapsed >= plan.step_max[self._step]
        if self._voided():
            self._say("inconclusive", ratio_sentence(plan.steps[self._step], *self._evidence.ratio[-1]))
        elif plan.mode == "guard" and over and self._met():
            self._say("promote", guard_sentence(plan, self._step, self._evidence.ratio[-1][1]))
        elif plan.mode == "test" and elapsed >= plan.step_min and self._proven():
            self._say("promote", *(metric.sentence for metric in self._evidence.metrics()))
        elif over:
            self._say(
                "inconclusive",
                f"{format_duration(round(elapsed))} at {plan.steps[self._step]} % gave evidence for neither answer.",
                *(metric.sentence for metric in self._evidence.metrics() if metric.verdict != "promote"),
            )

    def _say(self, decision: VerdictWord, *reasons: str) -> None:
        self._decision, self._reasons = decision, reasons

    def _harm(self) -> float:
        return float(log_mean(np.array([proof.harm for proof in self._evidence.proofs])))

    def _proven(self) -> bool:
        goal = self._evidence.goal()
        safe = all(proof.safe >= -math.log(self.plan.beta) for proof in self._evidence.proofs)
        return safe and (goal is None or goal >= -math.log(self.plan.alpha))

    def _met(self) -> bool:
        """Whether users of this step met both arms: a soak that nobody took part in guards nothing."""
        canary, both = self._evidence.ratio[-1]
        return min(canary, both - canary) >= DEAD

    def _voided(self) -> bool:
        return self._evidence.sample_ratio() >= ratio.VOID

    def _hard_stop(self, block: Block) -> str:
        if not block.ready:
            return "The canary is not ready: its process does not answer the readiness check."
        attempts = block.attempts
        if attempts.n1 >= DEAD and attempts.x1 >= attempts.n1:
            return f"All {attempts.n1:.0f} requests to the canary failed within {self.plan.block_seconds:g} seconds."
        return ""

    def _harm_reasons(self) -> list[str]:
        metrics = sorted(self._evidence.metrics(), key=lambda m: -(m.log_e_harm or 0.0))
        found = [m.sentence for m in metrics if m.verdict == "rollback"]
        return found or [metrics[0].sentence]

    def _doubts(self, block: Block) -> list[str]:
        doubts = []
        if self._recent == 0:
            doubts.append("No new users came in the last block: without them there is no evidence.")
        if block.misrouted:
            doubts.append(f"{block.misrouted} requests were answered by the other arm and count as failures.")
        return doubts

    def _elapsed(self) -> float:
        return (self._last[0] - self._begun + 1) * self.plan.block_seconds if self._step >= 0 else 0.0

    def _next_weight(self) -> int | None:
        action = self.plan.on_inconclusive
        undecided = self._decision == "inconclusive"
        if self._decision == "rollback" or (undecided and action == "rollback"):
            return 0
        if self._decision == "continue" or (undecided and (action == "hold" or self._voided())):
            return None
        return (*self.plan.steps, 100)[self._step + 1]

    def _remaining(self) -> float | None:
        """Seconds until a good canary passes this step: the forecast, less what is proven, at the traffic of now."""
        if self._decision != "continue":
            return 0.0
        if not self.plan.forecast or (self._step >= 0 and self._pace <= 0):
            return None
        step = self.plan.forecast[max(self._step, 0)]
        if step.promote_seconds is None:
            return None
        planned = self.plan.units_per_minute * self.plan.block_seconds / 60
        pace = planned / self._pace if self._pace > 0 else 1.0
        proven = min(proof.safe for proof in self._evidence.proofs) / -math.log(self.plan.beta)
        left = step.promote_seconds * pace * (1 - min(max(proven, 0.0), 1.0))
        return max(left, self.plan.step_min - self._elapsed(), 0.0)


def judge(plan: RolloutPlan, blocks: Iterable[Block]) -> Verdict:
    """Judge recorded blocks: what is final ends it."""
    running = Judge(plan)
    for block in blocks:
        if running.add(block):
            break
    return running.verdict()
