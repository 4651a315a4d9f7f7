"""What has been counted so far and what it proves: the judge's whole memory, O(1) in blocks and users."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.core.artifacts import VerdictWord
from tidegate.rollouts.blocks import Counts
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.stats import confidence, ratio
from tidegate.rollouts.stats.binary import BinaryE, log_mean
from tidegate.rollouts.verdict import MetricVerdict, Units
from tidegate.rollouts.words import effect_sentence, goal_sentence

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Proof:
    """Log e-values of one guardrail and, in `parts`, of its streams as (harm, safe)."""

    harm: float
    safe: float
    parts: tuple[tuple[float, float], ...]


class Evidence:
    """Tests, effects and sample ratio of one rollout.

    Row j of the tests holds the processes started at step j. Safety reads the newest row only; harm the mean over all
    planned steps, a step to come counting 1.
    """

    def __init__(self, plan: RolloutPlan) -> None:
        self.plan = plan
        goal = [plan.goal.metric] if plan.goal else []
        self.names = [s.metric for s in plan.streams] + goal
        self._bunching = np.array([s.bunching for s in plan.streams] + [1.0] * len(goal))
        # Which counts each test reads: one harm and one safety test for a stream, one test for the goal.
        streams = range(len(plan.streams))
        self._order = [*streams, *streams, *range(len(streams), len(self.names))]
        self._tests = _tests(plan)
        self.proofs = self._prove()
        """Log e-values of each guardrail: harm is the mean of its streams, safety the least."""
        self._effect = confidence.Effect(_effect_scale(plan), plan.alpha)
        # For each step begun: new users in the canary, and in both arms.
        self.ratio: list[list[float]] = []

    def begin_step(self) -> None:
        """Start every test once more."""
        if self.ratio:
            self._tests.begin()
        self.ratio.append([0.0, 0.0])
        self.proofs = self._prove()

    def count(self, counts: list[Counts], *, weighed: bool) -> None:
        """Add a block's counts, in the order of `names`; `weighed` says that the step's weight is known."""
        table = np.array([(c.n1, c.x1, c.n0, c.x0) for c in counts], dtype=np.float64).T
        columns = table / self._bunching
        self._tests.update(*columns[:, self._order])
        self._effect.update(*columns)
        self.proofs = self._prove()
        if weighed:
            row = self.ratio[-1]
            row[0], row[1] = row[0] + counts[0].n1, row[1] + counts[0].n1 + counts[0].n0

    def _prove(self) -> tuple[Proof, ...]:
        rows, streams = self._tests.log_e(), len(self.plan.streams)
        to_come = np.zeros((len(self.plan.steps) - len(rows), streams))
        padded = np.vstack([rows[:, :streams], to_come])
        harms: list[float] = log_mean(padded.T).tolist()
        safes = rows[-1, streams : 2 * streams].tolist()
        found, at = [], 0
        for guardrail in self.plan.guardrails:
            part = slice(at, at := at + len(guardrail.streams))
            parts = tuple(zip(harms[part], safes[part], strict=True))
            found.append(Proof(float(log_mean(np.array(harms[part]))), min(safes[part]), parts))
        return tuple(found)

    def goal(self) -> float | None:
        """Log e-value of this step that the goal is reached; None without one."""
        return float(self._tests.log_e()[-1, -1]) if self.plan.goal else None

    def sample_ratio(self) -> float:
        """Log e-value, over all steps, that users were not dealt by the weights."""
        rows = zip(self.ratio, self.plan.steps, strict=False)
        return sum(ratio.log_e(n1, n, weight) for (n1, n), weight in rows if n)

    def metrics(self) -> tuple[MetricVerdict, ...]:
        """Every guardrail, then the goal, with effect, interval, evidence and a sentence."""
        interval, units, at = self._effect.interval(), self._units(), 0
        found = []
        for guardrail, proof in zip(self.plan.guardrails, self.proofs, strict=True):
            parts = tuple(self._metric(at + i, *pair, interval, units) for i, pair in enumerate(proof.parts))
            at += len(parts)
            word = self._word(proof.harm, proof.safe)
            several = MetricVerdict.of_parts(guardrail.metric, proof.harm, proof.safe, verdict=word, parts=parts)
            found.append(parts[0] if len(parts) == 1 else several)
        goal = self.goal()
        if self.plan.goal is not None and goal is not None:
            word = "promote" if goal >= -math.log(self.plan.alpha) else "continue"
            effect, low, high = (_number(column[at]) for column in interval)
            sentence = goal_sentence(self.plan.goal, units[at], goal)
            found.append(MetricVerdict(self.plan.goal.metric, effect, low, high, None, goal, word, units[at], sentence))
        return tuple(found)

    def state(self) -> dict[str, Any]:
        """JSON."""
        return {
            "tests": self._tests.state(),
            "effect": self._effect.sums.tolist(),
            "ratio": [list(row) for row in self.ratio],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()` of the same plan."""
        self._tests.restore(state["tests"])
        self._effect.sums = np.asarray(state["effect"], dtype=np.float64)
        self.ratio = [list(row) for row in state["ratio"]]
        self.proofs = self._prove()

    def _metric(
        self, at: int, harm: float, safe: float, interval: tuple[Floats, Floats, Floats], units: list[Units]
    ) -> MetricVerdict:
        stream, word = self.plan.streams[at], self._word(harm, safe)
        effect, low, high = (_number(column[at]) for column in interval)
        sentence = effect_sentence(self.plan, stream, units[at], harm=harm, safe=safe, word=word)
        return MetricVerdict(stream.metric, effect, low, high, harm, safe, word, units[at], sentence)

    def _word(self, harm: float, safe: float) -> VerdictWord:
        if harm >= -math.log(self.plan.alpha):
            return "rollback"
        return "promote" if safe >= -math.log(self.plan.beta) else "continue"

    def _units(self) -> list[Units]:
        totals = self._effect.sums[3:] * self._bunching
        return [Units(*(round(float(v)) for v in column)) for column in totals.T]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _tests(plan: RolloutPlan) -> BinaryE:
    streams = plan.streams
    rows = [(s.harm.ratio, s.harm.margin, 1, s.baseline) for s in streams]
    rows += [(s.safe.ratio, s.safe.margin, -1, s.baseline) for s in streams]
    if plan.goal is not None:
        rows.append((1.0, plan.goal.improve_by, 1, plan.goal.baseline))
    return BinaryE(*np.array(rows, dtype=np.float64).T)


def _effect_scale(plan: RolloutPlan) -> Floats:
    """Make the intervals tightest when the first step is forecast to pass: V = h p (1 - p), h = n w (1 - w)."""
    step = plan.forecast[0] if plan.forecast else None
    units = 1000.0 if step is None or step.canary_units is None else step.canary_units
    share = 0.5 if step is None else 1 - step.weight / 100
    rates = np.array([s.baseline for s in plan.streams] + ([plan.goal.baseline] if plan.goal else []))
    variances = units * share * np.maximum(rates * (1 - rates), 1e-4)
    return np.array([confidence.tuned_scale(float(v), plan.alpha) for v in variances])
