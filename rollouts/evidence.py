"""What has been counted so far and what it proves: the judge's whole memory, O(1) in blocks and users.

Arrays over many rollouts ("streams") of one plan, so that thousands of recorded ones are judged in one process; the
rollout that runs is the only stream of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.core.artifacts import VerdictWord
from tidegate.rollouts.battery import N0, N1, X0, Battery
from tidegate.rollouts.plan import GoalPlan, RolloutPlan, Stream
from tidegate.rollouts.stats import confidence, ratio
from tidegate.rollouts.stats.binary import BinaryE, log_mean
from tidegate.rollouts.verdict import MetricVerdict, Units
from tidegate.rollouts.words import effect_sentence, goal_sentence

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# How far apart the arms' shares of labelled users may be, and what that share is believed to be at the start.
_UNLIKE, _LABELLED = 1.1, 0.5
# A share of 0 or 1 would have no scale.
_LEAST_SHARE_VARIANCE = 1e-4


class Evidence:
    """Tests, effects and sample ratios.

    Every test has one process for each planned step, started when the step begins; one to come counts 1. Safety and
    the goal read the running step's, harm the mean over all of them. A late metric's cohort counts for the processes
    that had begun when its users were new.

    Attributes:
        names: the metrics, guardrails' first.
        harm: log e-values of each guardrail, the mean of its parts: shape (streams, guardrails).
        safe: the least of its parts.
        parts: log e-values of each guarded metric, as (harm, safe).
        goal: log e-values that the goal is reached, shape (streams,); None without a goal.
        users: new users of each step in the canary and in both arms, shape (streams, steps, 2).
        dealt: those of them who came while the step's weight was known.
        known: users of each step whose late metrics are known, shape (streams, steps, late metrics, 2).
        events: the stable arm's events, or sums, of each step and late metric, shape (streams, steps, late metrics).
        labelled: (n1, x1, n0, x0) of all cohorts that labels are for: users, and those whose truth is known.
    """

    def __init__(self, plan: RolloutPlan, streams: int = 1) -> None:
        self.plan = plan
        self._metrics = plan.metrics
        self.names = [metric.metric for metric in self._metrics]
        self._late = np.flatnonzero([metric.source != "requests" for metric in self._metrics])
        self._bunching = np.array([getattr(metric, "bunching", 1.0) for metric in self._metrics])
        self._tests = Battery(plan, streams)
        self._effect = confidence.Effect(
            np.broadcast_to(_effect_scale(plan, self._metrics), (streams, len(self.names))),
            plan.alpha,
            means=np.array([metric.kind == "mean" for metric in self._metrics]),
        )
        self.users: Floats = np.zeros((streams, len(plan.steps), 2))
        self.dealt: Floats = np.zeros((streams, len(plan.steps), 2))
        self.known: Floats = np.zeros((streams, len(plan.steps), len(self._late), 2))
        self.events: Floats = np.zeros((streams, len(plan.steps), len(self._late)))
        self._reported = np.array([self._metrics[at].source == "outcomes" for at in self._late], dtype=np.bool_)
        self.labelled: Floats = np.zeros((streams, 4))
        # More, or fewer, of the canary's users than of the stable arm's have a truth: by a tenth and beyond.
        self._labels = BinaryE(np.broadcast_to([_UNLIKE, 1 / _UNLIKE], (streams, 2)), 0.0, [+1.0, -1.0], _LABELLED)
        self._prove(np.zeros(streams, dtype=np.int64))

    def count(self, sums: Floats, step: Ints, new: Floats, *, live: Mask, weighed: Mask) -> None:
        """Add a block of each stream that is `live`.

        Args:
            sums: shape (streams, metrics, 6); zeros where a stream has no block.
            step: the running step of each stream, from 0; -1 before the first.
            new: users who were new, canary and stable, shape (streams, 2).
            live: which streams have a block.
            weighed: of which of them the step's weight is known, so that users can be counted against it.
        """
        # Squares shrink with the units, so that a mean and its variance stay what they are.
        sums = sums / self._bunching[:, None]
        self._tests.update(sums, step, live)
        self._effect.update(sums)
        came = np.stack([new[:, 0], new.sum(axis=-1)], axis=-1)
        rows = np.arange(len(step))
        self.users[rows, step] += np.where(live[:, None], came, 0.0)
        self.dealt[rows, step] += np.where((live & weighed)[:, None], came, 0.0)
        self._prove(step)

    def mature(self, sums: Floats, step: Ints, labelled: Floats) -> None:
        """Add a cohort of each stream that is old enough; call `count` for the block it is judged with afterwards.

        Args:
            sums: shape (streams, metrics, 6); zeros for metrics that are not late, and where there is no cohort.
            step: in which its users were new.
            labelled: shape (streams, 4), see the attribute; zeros without labels.
        """
        there: Mask = np.asarray((sums[:, :, [N1, N0]] > 0).any(axis=(-2, -1)))
        self._tests.update(sums, step, there)
        self._effect.update(sums)
        np.add.at(self.known, (np.arange(len(step)), step), sums[:, self._late][:, :, [N1, N0]])
        np.add.at(self.events, (np.arange(len(step)), step), np.abs(sums[:, self._late, X0]))
        n1, x1, n0, x0 = (labelled[:, None, at] for at in range(4))
        self._labels.update(n1, x1, n0, x0, live=(n1 + n0) > 0)
        self.labelled += labelled

    def _prove(self, step: Ints) -> None:
        log_e, m = self._tests.log_e(), len(self.plan.streams)
        rows = np.arange(len(step))
        now = log_e[step, rows]
        harms, safes = log_mean(np.moveaxis(log_e[..., :m], 0, -1)), now[:, m : 2 * m]
        slices = _slices(self.plan)
        self.parts = harms, safes
        self.harm = np.stack([log_mean(harms[:, part]) for part in slices], axis=-1)
        self.safe = np.stack([safes[:, part].min(axis=-1) for part in slices], axis=-1)
        self.goal = now[:, -1] if self.plan.goal else None

    def sample_ratio(self) -> Floats:
        """Log e-values, over all steps, that users were not dealt by the weights: shape (streams,)."""
        against: Floats = ratio.log_e(self.dealt[..., 0], self.dealt[..., 1], self.plan.steps).sum(axis=-1)
        return against

    def label_ratio(self) -> Floats:
        """Log e-values that the truth is known of another share of users in one arm: shape (streams,).

        The mean of two tests, of more and of fewer; each allows for a tenth, which moves a share of wrong labels by no
        more than a tenth of itself.
        """
        return np.asarray(log_mean(self._labels.log_e()[0]))

    def heard(self, step: Ints) -> Mask:
        """Whether the stable arm of the step had an event of every outcome: shape (streams,).

        Users without one count as 0, and so does everybody while events do not arrive: a feed that broke would look
        like two arms that are alike. Known before the next cohort comes, so no test's promise is touched by it.
        """
        told = self.events[np.arange(len(step)), np.maximum(step, 0)] > 0
        return np.asarray((told | ~self._reported).all(axis=-1))

    @property
    def units(self) -> Floats:
        """All users so far, canary and stable: shape (streams, 2)."""
        canary, both = np.moveaxis(self.users.sum(axis=1), -1, 0)
        return np.stack([canary, both - canary], axis=-1)

    def metrics(self, stream: int = 0) -> tuple[MetricVerdict, ...]:
        """Every guardrail of a stream, then the goal, with effect, interval, evidence and a sentence."""
        told = [self._told(stream, at) for at in range(len(self.names))]
        found = []
        for at, (guardrail, part) in enumerate(zip(self.plan.guardrails, _slices(self.plan), strict=True)):
            harm, safe = float(self.harm[stream, at]), float(self.safe[stream, at])
            several = MetricVerdict.of_parts(
                guardrail.metric, harm, safe, verdict=self._word(harm, safe), parts=tuple(told[part])
            )
            found.append(told[part][0] if len(told[part]) == 1 else several)
        return (*found, *told[len(self.plan.streams) :])

    def _told(self, stream: int, at: int) -> MetricVerdict:
        metric, units = self._metrics[at], self._units(stream, at)
        effect, low, high = (_number(column[stream, at]) for column in self._effect.interval())
        if isinstance(metric, GoalPlan):
            reached = float(self.goal[stream]) if self.goal is not None else 0.0
            word: VerdictWord = "promote" if reached >= -math.log(self.plan.alpha) else "continue"
            sentence = goal_sentence(metric, units, reached)
            told = MetricVerdict(metric.metric, effect, low, high, None, reached, word, units, sentence)
            return replace(told, labelled=self._labelled(stream, at))
        harm, safe = (float(side[stream, at]) for side in self.parts)
        word = self._word(harm, safe)
        sentence = effect_sentence(self.plan, metric, units, harm=harm, safe=safe, word=word)
        told = MetricVerdict(metric.metric, effect, low, high, harm, safe, word, units, sentence)
        return replace(told, labelled=self._labelled(stream, at))

    def _labelled(self, stream: int, at: int) -> Units | None:
        """Users old enough and those of them with a truth, for a metric that needs it."""
        if self._metrics[at].source not in {"labels", "own"}:
            return None
        n1, x1, n0, x0 = (round(float(v)) for v in self.labelled[stream])
        return Units(n1, x1, n0, x0)

    def state(self) -> dict[str, Any]:
        """JSON."""
        state = {
            "tests": self._tests.state(),
            "effect": self._effect.sums.tolist(),
            "users": self.users.tolist(),
            "dealt": self.dealt.tolist(),
        }
        if len(self._late):
            late = {"known": self.known.tolist(), "events": self.events.tolist(), "labelled": self.labelled.tolist()}
            state |= {**late, "labels": self._labels.state()}
        return state

    def restore(self, state: Mapping[str, Any], step: Ints) -> None:
        """Go on from a `state()` of the same plan."""
        self._tests.restore(state["tests"])
        self._effect.sums = np.asarray(state["effect"], dtype=np.float64)
        self.users, self.dealt = (np.asarray(state[name], dtype=np.float64) for name in ("users", "dealt"))
        if len(self._late):
            for name in ("known", "events", "labelled"):
                setattr(self, name, np.asarray(state[name], dtype=np.float64))
            self._labels.restore(state["labels"])
        self._prove(step)

    def _word(self, harm: float, safe: float) -> VerdictWord:
        if harm >= -math.log(self.plan.alpha):
            return "rollback"
        return "promote" if safe >= -math.log(self.plan.beta) else "continue"

    def _units(self, stream: int, at: int) -> Units:
        n1, x1, _, n0, x0, _ = (float(v) for v in self._effect.totals[:, stream, at] * self._bunching[at])
        if self._metrics[at].kind == "share":
            x1, x0 = round(x1), round(x0)
        return Units(round(n1), x1, round(n0), x0)


def _slices(plan: RolloutPlan) -> list[slice]:
    """Which metrics belong to each guardrail."""
    ends = list(itertools.accumulate(len(guardrail.streams) for guardrail in plan.guardrails))
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _effect_scale(plan: RolloutPlan, metrics: tuple[Stream | GoalPlan, ...]) -> Floats:
    """Make the intervals tightest when the first step is forecast to pass: V = h p (1 - p), h = n w (1 - w)."""
    step = plan.forecast[0] if plan.forecast else None
    units = 1000.0 if step is None or step.canary_units is None else step.canary_units
    share = 0.5 if step is None else 1 - step.weight / 100
    variances = [
        one.variance if one.kind == "mean" else max(one.baseline * (1 - one.baseline), _LEAST_SHARE_VARIANCE)
        for one in metrics
    ]
    return np.array([confidence.tuned_scale(units * share * variance, plan.alpha) for variance in variances])
