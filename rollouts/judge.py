"""Blocks and a plan in, a verdict out. Pure: the laptop's loop, the cluster's judge and a replay give the same answer.

Rules (design and proofs: docs/decisions and rollouts/stats):

* A test of harm and one of safety run for each metric; every step starts them once more.
* Harm has one alpha for the whole rollout: the mean over all planned steps of the process started at that step (1 before
  it starts), the mean over the three latency quantiles, the mean over the guardrails. Means of e-values are e-values
  whatever the dependence. Roll back at 1 / alpha.
* Safety restarts at each step, without splitting beta: the last step's test alone bounds a wrong promotion. A step
  passes when every guardrail, and every latency quantile, reaches 1 / beta and `step.min` is over.
* Rollback wins a tie; the first crossing is final. No data is never a pass and never a failure.

The state is O(1) in blocks and users.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.core.artifacts import VerdictWord
from tidegate.core.errors import UsageError
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.stats import confidence, ratio
from tidegate.rollouts.stats.binary import BinaryE
from tidegate.rollouts.verdict import MetricVerdict, SampleRatio, Units, Verdict
from tidegate.rollouts.words import effect_sentence, guard_sentence

Floats = npt.NDArray[np.float64]

DEAD = 20
"""Attempts on the canary in one block that all failed: no statistics are needed to stop."""

_NONE = Counts()
_STATE = 1


class Judge:
    """The running judgement of one rollout.

    Args:
        plan: of the rollout.
        state: JSON of a former `state()`; None at the start.
    """

    def __init__(self, plan: RolloutPlan, state: Mapping[str, Any] | None = None) -> None:
        self.plan = plan
        self._streams = plan.streams
        self._tests = _tests(plan)
        names = [s.metric for s in self._streams] + ([plan.goal.metric] if plan.goal else [])
        self._names = names
        self._bunching = np.array([s.bunching for s in self._streams] + ([1.0] if plan.goal else []))
        self._effect = confidence.Effect(_effect_scale(plan), plan.alpha)
        self._step = -1
        self._begun = 0
        self._last = (-1, -1)
        self._ratio: list[list[float]] = []
        self._decision: VerdictWord = "continue"
        self._reasons: tuple[str, ...] = ()
        self._final = False
        self._recent = 0.0
        if state is not None:
            self._restore(state)

    def update(self, block: Block) -> Verdict:
        """Add the next block and say what follows. A block that was added before, or is older, changes nothing.

        Raises:
            UsageError: the block is of another rollout's weight, or lacks a metric of the plan.
        """
        step = self._step_of(block)
        if self._final or (block.index, step) <= self._last:
            return self.verdict()
        if step < self._step:
            raise UsageError(
                f"Block {block.index} has {block.weight} % on the canary, after a step with more.",
                "The share only grows in a rollout; abort it and start another to go back.",
            )
        counts = self._counts(block)
        while self._step < step:
            self._begin_step(block.index)
        self._last = (block.index, step)
        self._count(block, counts)
        self._decide(block, counts)
        return self.verdict()

    def verdict(self) -> Verdict:
        """The verdict on the blocks so far."""
        step = max(self._step, 0)
        harm, safe, goal = self._evidence()
        metrics = self._metrics(harm, safe, goal)
        log_e = self._sample_ratio()
        return Verdict(
            decision=self._decision,
            final=self._final,
            step=step,
            weight=self.plan.steps[step],
            next_weight=self._next_weight(),
            elapsed_seconds=self._elapsed(),
            metrics=metrics,
            log_e_harm=_log_mean(np.array([m.log_e_harm for m in metrics if m.log_e_harm is not None])),
            srm=SampleRatio(log_e, log_e < ratio.VOID),
            reasons=self._reasons,
            forecast_seconds=self._remaining(safe),
        )

    def state(self) -> dict[str, Any]:
        """JSON from which a new Judge of the same plan goes on and decides the same."""
        return {
            "format": _STATE,
            "step": self._step,
            "begun": self._begun,
            "last": list(self._last),
            "decision": self._decision,
            "reasons": list(self._reasons),
            "final": self._final,
            "recent": self._recent,
            "ratio": [list(row) for row in self._ratio],
            "tests": self._tests.state(),
            "effect": self._effect.sums.tolist(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state.get("format") != _STATE:
            raise UsageError(
                "The judge's stored state is of another version of tidegate.", "Abort the rollout and start it again."
            )
        self._step, self._begun, self._last = state["step"], state["begun"], (state["last"][0], state["last"][1])
        self._decision, self._reasons = state["decision"], tuple(state["reasons"])
        self._final, self._recent = state["final"], state["recent"]
        self._ratio = [list(row) for row in state["ratio"]]
        self._tests.restore(state["tests"])
        self._effect.sums = np.asarray(state["effect"], dtype=np.float64)

    def _step_of(self, block: Block) -> int:
        if block.weight is None and len(self.plan.steps) == 1:
            return 0
        if block.weight not in self.plan.steps:
            raise UsageError(
                f"Block {block.index} has {block.weight} % on the canary; the plan's steps are {list(self.plan.steps)}.",
                "Blocks say which step they belong to by their weight.",
            )
        return self.plan.steps.index(block.weight)

    def _counts(self, block: Block) -> list[Counts]:
        known = block.metrics
        missing = [name for name in self._names if name not in known]
        # No metric at all is an interval without data; one of several is a mistake of the source.
        if missing and known:
            raise UsageError(
                f"Block {block.index} has no counts of {', '.join(missing)}.",
                "Every block carries every metric of the plan.",
            )
        return [known.get(name, _NONE) for name in self._names]

    def _begin_step(self, index: int) -> None:
        self._step += 1
        self._begun = index
        self._ratio.append([0.0, 0.0])
        if self._step > 0:
            self._tests.begin()
        self._decision, self._reasons = "continue", ()

    def _count(self, block: Block, counts: list[Counts]) -> None:
        table = np.array([(c.n1, c.x1, c.n0, c.x0) for c in counts], dtype=np.float64).T
        n1, x1, n0, x0 = table / self._bunching
        streams = len(self._streams)
        order = [*range(streams), *range(streams), *range(streams, len(counts))]
        self._tests.update(n1[order], x1[order], n0[order], x0[order])
        self._effect.update(n1, x1, n0, x0)
        first = counts[0]
        self._recent = first.n1 + first.n0
        if block.weight is not None:
            row = self._ratio[self._step]
            row[0], row[1] = row[0] + first.n1, row[1] + first.n1 + first.n0

    def _decide(self, block: Block, counts: list[Counts]) -> None:
        harm, safe, goal = self._evidence()
        dead = self._hard_stop(block)
        overall = _log_mean(np.array([e for e, _ in harm]))
        if dead:
            self._end("rollback", (dead,))
        elif overall >= -math.log(self.plan.alpha):
            self._end("rollback", self._harm_reasons(harm, safe, goal))
        elif self._decision == "continue":
            self._decide_step(safe, goal)
        if self._decision == "continue":
            self._reasons = self._waiting(block, counts)

    def _decide_step(self, safe: list[tuple[float, list[float]]], goal: float | None) -> None:
        plan, elapsed = self.plan, self._elapsed()
        bar = -math.log(plan.beta)
        if self._sample_ratio() >= ratio.VOID:
            self._end("inconclusive", (self._ratio_reason(),))
        elif plan.mode == "guard":
            if elapsed >= plan.step_max[self._step]:
                self._pass((guard_sentence(plan, self._step, self._units_seen()),))
        elif (
            elapsed >= plan.step_min
            and all(e >= bar for e, _ in safe)
            and (goal is None or goal >= -math.log(plan.alpha))
        ):
            self._pass(tuple(m.sentence for m in self.verdict().metrics))
        elif elapsed >= plan.step_max[self._step]:
            self._end(
                "inconclusive",
                (
                    f"{elapsed / 60:.0f} minutes at {plan.steps[self._step]} % gave evidence for neither answer.",
                    *(m.sentence for m in self.verdict().metrics if m.verdict != "promote"),
                ),
            )

    def _pass(self, reasons: tuple[str, ...]) -> None:
        self._decision, self._reasons = "promote", reasons
        self._final = self._step == len(self.plan.steps) - 1

    def _end(self, decision: VerdictWord, reasons: tuple[str, ...]) -> None:
        # An inconclusive step can be moved on by a person, and harm may still show while it waits.
        self._decision, self._reasons, self._final = decision, reasons, decision == "rollback"

    def _hard_stop(self, block: Block) -> str:
        if not block.ready:
            return "The canary is not ready: its process does not answer the readiness check."
        a = block.attempts
        if a.n1 >= DEAD and a.x1 >= a.n1:
            return f"All {a.n1:.0f} requests to the canary failed within {self.plan.block_seconds:g} seconds."
        return ""

    def _harm_reasons(self, harm: list[tuple[float, list[float]]], safe: Any, goal: float | None) -> tuple[str, ...]:
        metrics = sorted(self._metrics(harm, safe, goal), key=lambda m: -(m.log_e_harm or 0.0))
        found = [m.sentence for m in metrics if (m.log_e_harm or 0.0) >= -math.log(self.plan.alpha)]
        return tuple(found or [metrics[0].sentence])

    def _waiting(self, block: Block, counts: list[Counts]) -> tuple[str, ...]:
        reasons = []
        if counts[0].n1 + counts[0].n0 == 0:
            reasons.append("No new users came in the last block: without them there is no evidence.")
        if block.misrouted:
            reasons.append(f"{block.misrouted} requests were answered by the other arm and count as failures.")
        return tuple(reasons)

    def _ratio_reason(self) -> str:
        n1, n = self._ratio[self._step]
        return (
            f"{100 * n1 / max(n, 1):.1f} % of new users reached the canary instead of {self.plan.steps[self._step]} %: "
            "the arms are not comparable, so nothing was concluded."
        )

    def _evidence(self) -> tuple[list[tuple[float, list[float]]], list[tuple[float, list[float]]], float | None]:
        """Log e-values for harm and for safety: of each guardrail and of its streams; and the goal's."""
        rows = self._tests.log_e()
        streams, started = len(self._streams), max(self._step + 1, 1)
        # Processes of steps to come hold e = 1.
        padded = np.vstack([rows[:started, :streams], np.zeros((len(self.plan.steps) - started, streams))])
        harm_of = np.array([_log_mean(padded[:, i]) for i in range(streams)])
        safe_of = rows[-1, streams : 2 * streams]
        harm, safe, at = [], [], 0
        for guardrail in self.plan.guardrails:
            part = slice(at, at := at + len(guardrail.streams))
            harm.append((_log_mean(harm_of[part]), harm_of[part].tolist()))
            safe.append((float(safe_of[part].min()), safe_of[part].tolist()))
        return harm, safe, float(rows[-1, -1]) if self.plan.goal else None

    def _metrics(
        self, harm: list[tuple[float, list[float]]], safe: list[tuple[float, list[float]]], goal: float | None
    ) -> tuple[MetricVerdict, ...]:
        effect, low, high = self._effect.interval()
        units, at, found = self._units(), 0, []
        for guardrail, (log_harm, harms), (log_safe, safes) in zip(self.plan.guardrails, harm, safe, strict=True):
            parts = tuple(
                self._metric(at + i, stream.metric, h, s, (effect, low, high), units)
                for i, (stream, h, s) in enumerate(zip(guardrail.streams, harms, safes, strict=True))
            )
            at += len(parts)
            found.append(
                parts[0]
                if len(parts) == 1
                else MetricVerdict.of_parts(guardrail.metric, log_harm, log_safe, self._word(log_harm, log_safe), parts)
            )
        if self.plan.goal is not None and goal is not None:
            reached = goal >= -math.log(self.plan.alpha)
            e = (_number(effect[at]), _number(low[at]), _number(high[at]))
            found.append(
                MetricVerdict(
                    self.plan.goal.metric,
                    *e,
                    None,
                    goal,
                    "promote" if reached else "continue",
                    units[at],
                    f"{self.plan.goal.metric}: the canary has {100 * units[at].canary_share:.3g} %, stable "
                    f"{100 * units[at].stable_share:.3g} %; evidence {math.exp(min(goal, 50)):.3g}:1 that it is better.",
                )
            )
        return tuple(found)

    def _metric(
        self, at: int, name: str, harm: float, safe: float, interval: tuple[Floats, Floats, Floats], units: list[Units]
    ) -> MetricVerdict:
        effect, low, high = (_number(column[at]) for column in interval)
        word = self._word(harm, safe)
        sentence = effect_sentence(self.plan, self._streams[at], units[at], harm, safe, word)
        return MetricVerdict(name, effect, low, high, harm, safe, word, units[at], sentence)

    def _word(self, harm: float, safe: float) -> VerdictWord:
        if harm >= -math.log(self.plan.alpha):
            return "rollback"
        return "promote" if safe >= -math.log(self.plan.beta) else "continue"

    def _units(self) -> list[Units]:
        n1, x1, n0, x0 = self._effect.sums[3:] * self._bunching
        return [Units(*(round(float(v)) for v in row)) for row in zip(n1, x1, n0, x0, strict=True)]

    def _units_seen(self) -> float:
        return self._ratio[self._step][1] if self._ratio else 0.0

    def _sample_ratio(self) -> float:
        return sum(
            ratio.log_e(n1, n, weight) for (n1, n), weight in zip(self._ratio, self.plan.steps, strict=False) if n
        )

    def _elapsed(self) -> float:
        return (self._last[0] - self._begun + 1) * self.plan.block_seconds if self._step >= 0 else 0.0

    def _next_weight(self) -> int | None:
        """What the gateway should have now: None is as it is."""
        if self._decision == "rollback":
            return 0
        voided = self._sample_ratio() >= ratio.VOID
        action = self.plan.on_inconclusive
        if self._decision == "inconclusive" and (action == "hold" or (voided and action == "promote")):
            return None
        if self._decision == "inconclusive" and action == "rollback":
            return 0
        if self._decision == "continue":
            return None
        return (*self.plan.steps, 100)[self._step + 1]

    def _remaining(self, safe: list[tuple[float, list[float]]]) -> float | None:
        """Seconds until a good canary passes this step, from the forecast, what is proven and the traffic now."""
        if self._decision != "continue" or not self.plan.forecast:
            return 0.0 if self._decision != "continue" else None
        step = self.plan.forecast[max(self._step, 0)]
        planned = self.plan.units_per_minute * self.plan.block_seconds / 60
        if step.promote_seconds is None or (self._step >= 0 and self._recent <= 0):
            return None
        pace = planned / self._recent if self._recent > 0 else 1.0
        proven = min(e for e, _ in safe) / -math.log(self.plan.beta)
        left = step.promote_seconds * pace * (1 - min(max(proven, 0.0), 1.0))
        return max(left, self.plan.step_min - self._elapsed(), 0.0)


def judge(plan: RolloutPlan, blocks: Iterable[Block]) -> Verdict:
    """Judge recorded blocks: the first crossing of the last step, or of harm, is final."""
    running = Judge(plan)
    for block in blocks:
        if running.update(block).final:
            break
    return running.verdict()


def _tests(plan: RolloutPlan) -> BinaryE:
    """One harm and one safety test for each stream, then the goal's."""
    streams = plan.streams
    rows = [(s.harm.ratio, s.harm.margin, 1, s.baseline) for s in streams]
    rows += [(s.safe.ratio, s.safe.margin, -1, s.baseline) for s in streams]
    if plan.goal is not None:
        rows.append((1.0, plan.goal.improve_by, 1, plan.goal.baseline))
    lines = np.array(rows, dtype=np.float64).T
    return BinaryE(lines[0], lines[1], lines[2], lines[3])


def _effect_scale(plan: RolloutPlan) -> Floats:
    """Make the intervals tightest when the first step is forecast to pass: V = h p (1 - p), h = n w (1 - w)."""
    step = plan.forecast[0] if plan.forecast else None
    units = 1000.0 if step is None or step.canary_units is None else step.canary_units
    share = 0.5 if step is None else 1 - step.weight / 100
    rates = np.array([s.baseline for s in plan.streams] + ([plan.goal.baseline] if plan.goal else []))
    variances = units * share * np.maximum(rates * (1 - rates), 1e-4)
    return np.array([confidence.tuned_scale(float(v), plan.alpha) for v in variances])


def _log_mean(log_e: Floats) -> float:
    top = float(log_e.max())
    return top + math.log(float(np.exp(log_e - top).mean()))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
