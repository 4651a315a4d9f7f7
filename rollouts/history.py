"""How a rollout's evidence grew: the plan and the recorded blocks, judged again one by one. Pure.

The judge is a function of both, so what is told afterwards is what it knew at the time, look by look.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import starmap

from tidegate.core.artifacts import VerdictWord
from tidegate.rollouts.blocks import Block
from tidegate.rollouts.judge import Judge, new_of
from tidegate.rollouts.plan import GoalPlan, RolloutPlan, Stream
from tidegate.rollouts.verdict import MetricVerdict, Verdict


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric, or one quantile of latency, after a block.

    Shares and their differences are fractions of users; a line is the difference ``(ratio - 1) p0 + margin`` at which
    the canary lies on it, with the stable arm's share so far as p0.

    Attributes:
        name: as in the plan.
        canary: share of the canary's users with the event, since the rollout began.
        stable: the same of the stable arm's.
        effect: difference canary - stable; None before there is data.
        low: lower end of its confidence sequence; None while too few users came.
        high: upper end.
        harm: the harm line; None for a goal.
        safe: the safe line; for a goal the difference to be exceeded.
        log_e_harm: log evidence that the harm line is passed; None for a goal.
        log_e_safe: log evidence, of this step, that the safe line is kept, or the goal reached.
    """

    name: str
    canary: float
    stable: float
    effect: float | None
    low: float | None
    high: float | None
    harm: float | None
    safe: float
    log_e_harm: float | None
    log_e_safe: float


@dataclass(frozen=True, slots=True)
class Moment:
    """What was known when a block had been judged.

    Attributes:
        index: of the block.
        seconds: from the beginning of block 0 to the block's end.
        step: index of the step.
        weight: per cent on the canary.
        new_canary: users who met the canary for the first time in this block.
        new_stable: the same of the stable arm.
        canary: users of the canary so far.
        stable: users of the stable arm so far.
        readings: one for each stream of the plan, then the goal.
        log_e_harm: of all guardrails together.
        log_e_ratio: log evidence that users were not dealt by the weights.
        decision: the judge's.
    """

    index: int
    seconds: float
    step: int
    weight: int
    new_canary: float
    new_stable: float
    canary: int
    stable: int
    readings: tuple[Reading, ...]
    log_e_harm: float
    log_e_ratio: float
    decision: VerdictWord


@dataclass(frozen=True, slots=True)
class History:
    """Every moment, oldest first, and the verdict on all of them."""

    moments: tuple[Moment, ...]
    verdict: Verdict


def history(plan: RolloutPlan, blocks: Iterable[Block]) -> History:
    """Judge recorded blocks one by one; what is final ends it, as it ended the rollout.

    Raises:
        UsageError: a block cannot be of this plan.
    """
    running = Judge(plan)
    verdict, moments = running.verdict(), []
    for block in blocks:
        verdict = running.update(block)
        moments.append(_moment(block, plan, verdict))
        if verdict.final:
            break
    return History(tuple(moments), verdict)


def _moment(block: Block, plan: RolloutPlan, verdict: Verdict) -> Moment:
    new_canary, new_stable = new_of(block, plan)
    streams = [stream for metric in verdict.metrics for stream in metric.parts or (metric,)]
    return Moment(
        index=block.index,
        seconds=(block.index + 1) * plan.block_seconds,
        step=verdict.step,
        weight=verdict.weight,
        new_canary=float(new_canary),
        new_stable=float(new_stable),
        canary=verdict.units["canary"],
        stable=verdict.units["stable"],
        readings=tuple(starmap(_reading, zip(streams, plan.metrics, strict=True))),
        log_e_harm=verdict.log_e_harm,
        log_e_ratio=verdict.srm.log_e,
        decision=verdict.decision,
    )


def _reading(told: MetricVerdict, metric: Stream | GoalPlan) -> Reading:
    stable = told.units.stable_share
    if isinstance(metric, GoalPlan):
        harm, safe = None, metric.improve_by if metric.better == "higher" else -metric.improve_by
    else:
        harm, safe = metric.shift(metric.harm, stable), metric.shift(metric.safe, stable)
    return Reading(
        name=told.name,
        canary=told.units.canary_share,
        stable=stable,
        effect=told.effect,
        low=told.low,
        high=told.high,
        harm=harm,
        safe=safe,
        log_e_harm=told.log_e_harm,
        log_e_safe=told.log_e_safe,
    )
