"""Making a plan: from `rollout:` of tidegate.yaml and what was measured on the stable arm, or the reason why not.

What cannot be measured, lies outside (0, 1) or cannot be judged is refused here, before a user sees the canary; what
is possible but hopeless is said in the plan's warnings. Pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tidegate.core.config_types import MEAN_METRICS
from tidegate.core.errors import UsageError
from tidegate.rollouts.plan import (
    GoalPlan,
    GuardrailPlan,
    Line,
    RolloutPlan,
    Source,
    StepForecast,
    Stream,
    total_seconds,
)
from tidegate.rollouts.stats.latency import SHARES, LatencyLines

if TYPE_CHECKING:
    from tidegate.core.config import Goal, Guardrail, Rollout

WHOLE = 100
HORIZON = 48 * 3600.0
"""Seconds: nobody waits longer for one step."""
PATIENCE = 4.0
"""`step.max: auto` is this many forecasts: 99 in 100 good canaries prove errors and latency in that time."""

# A ladder that ends within this many seconds, or this many times the quickest one's, is quick enough for anybody.
_SOON = 3600.0
_CAREFUL = 3.0
# A ladder that half of all good canaries climb within 48 hours decides nothing for the other half; nearly all of them
# need less than twice the forecast.
_SURE = 2.0
# Most careful first.
_LADDERS = ((1, 5, 25, 50), (5, 25, 50), (10, 50), (25, 50), (50,))
_EFFECTS: dict[str, tuple[float, ...]] = {"error_rate": (2.0, 10.0), "latency_p99": (3.0,), "accuracy": (1.5, 2.0)}
_MISSES = {"accuracy": "wrong labels"}
# What a new version may win, as a part of what the stable arm has.
_WINS = (0.05, 0.1, 0.2, 0.5)
_HIGHER_IS_BETTER = ("accuracy", "conversion", "revenue")
# One block may be the edge of a burst.
_SHADOW_BLOCKS = 2
# Log-odds of 0 do not exist.
_LEAST_RATE = 5e-4
_RARE = ("error_rate", "invalid_output")
_TOO_FEW = (
    "{:g} new users a minute cannot prove a canary safe within 48 h: this is `mode: guard`, which only looks for harm. "
    "A looser safe line or more traffic would allow a test."
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the stable arm was seen to do: a share or a mean of the metric as named, and a mean's variance.

    `kind` and `better` are only said of one of the user's own metrics, whose name does not tell. The rest is about
    metrics that are known late, as in `plan.Stream`.
    """

    value: float
    variance: float = 1.0
    kind: Literal["share", "mean"] | None = None
    better: Literal["lower", "higher"] | None = None
    source: Source = "requests"
    delay: float = 0.0
    known: float = 1.0
    bound: float | None = None


def make_plan(
    rollout: Rollout,
    *,
    rollout_id: str,
    block_seconds: float,
    units_per_minute: float,
    error_rate: float,
    latency: LatencyLines | None = None,
    others: Mapping[str, Measured] | None = None,
    settle: float = 0.0,
) -> RolloutPlan:
    """Make the plan, or say why there cannot be one.

    Args:
        rollout: `rollout:` of tidegate.yaml.
        rollout_id: the salt of the assignment, unique for this rollout.
        block_seconds: the length of a block, `advanced.block`.
        units_per_minute: NEW users (not requests) a minute on both arms together, as measured lately; 0 if unknown.
        error_rate: the stable arm's share of failing first requests, as measured lately.
        latency: from `freeze_latency`; needed if latency is a guardrail.
        others: every other metric that somebody counts, by name.
        settle: seconds that a recorded prediction may take to reach the store.

    Raises:
        UsageError: a metric that cannot be measured yet, a line outside (0, 1), steps that cannot be.
    """
    if not (math.isfinite(units_per_minute) and units_per_minute >= 0 and 0 <= error_rate <= 1 and block_seconds > 0):
        raise UsageError(
            f"{units_per_minute} units a minute, an error rate of {error_rate}, and {block_seconds} s blocks?",
            "They are measured on the gateway's log; --units-per-minute overrides the first.",
        )
    counted = {"error_rate": Measured(error_rate), **(others or {})}
    guardrails = tuple(_guardrail(g, counted, latency) for g in rollout.guardrails)
    for guardrail in guardrails:
        for stream in guardrail.streams:
            check_lines(stream)
    draft = RolloutPlan(
        rollout=rollout_id,
        steps=(),
        step_min=rollout.step.min,
        step_max=(),
        on_inconclusive=rollout.step.on_inconclusive,
        mode=rollout.mode,
        alpha=rollout.alpha,
        beta=rollout.beta,
        block_seconds=block_seconds,
        unit=rollout.unit.per,
        guardrails=guardrails,
        goal=None if rollout.goal is None else _goal(rollout.goal, counted),
        latency=latency,
        units_per_minute=units_per_minute,
        shadow_min=max(rollout.step.min, _SHADOW_BLOCKS * block_seconds) if rollout.shadow else 0.0,
        settle=settle,
    )
    if rollout.steps == "auto":
        draft = _choose_steps(draft)
    else:
        draft = dataclasses.replace(draft, steps=_checked_steps(rollout.steps))
    draft = dataclasses.replace(draft, forecast=forecast(draft))
    maximum = rollout.step.max
    step_max = tuple(_step_max(step, draft) if maximum == "auto" else float(maximum) for step in draft.forecast)
    draft = dataclasses.replace(draft, step_max=step_max)
    return dataclasses.replace(draft, warnings=draft.warnings + _doubts(draft))


def check(rollout: Rollout) -> None:
    """Refuse what no traffic could make a plan of, before minutes go into a training.

    Raises:
        UsageError: a goal that cannot be one, or steps that cannot be.
    """
    if rollout.goal is not None and rollout.goal.metric == "latency":
        raise _no_goal()
    if rollout.steps != "auto":
        _checked_steps(rollout.steps)


def _no_goal() -> UsageError:
    return UsageError("Latency cannot be a goal: it is three metrics.", "Make it a guardrail.")


def kind_of(metric: str) -> Literal["share", "mean"]:
    """Whether the metric is the share of units with an event, or the mean of a quantity."""
    return "mean" if metric in MEAN_METRICS else "share"


def better(metric: str) -> Literal["lower", "higher"]:
    """Which way the metric is better; one of the user's own counts what is bad."""
    return "higher" if metric in _HIGHER_IS_BETTER else "lower"


def _baseline(metric: str, seen: Measured) -> float:
    """What the stable arm is believed to show; one that showed no error is believed to have a few."""
    return max(seen.value, _LEAST_RATE) if metric in _RARE else seen.value


def _guardrail(guardrail: Guardrail, counted: Mapping[str, Measured], latency: LatencyLines | None) -> GuardrailPlan:
    metric = guardrail.metric
    harm = Line(guardrail.harm.ratio, guardrail.harm.margin)
    safe = Line(guardrail.safe.ratio, guardrail.safe.margin)
    if metric != "latency":
        seen = _seen(metric, counted)
        stream = Stream(metric, harm, safe, _baseline(metric, seen), **_measured(metric, seen))
        return GuardrailPlan(metric, (stream,))
    if latency is None:
        raise UsageError(
            "Latency is a guardrail, but nobody has measured how fast the stable arm is.",
            "A start needs 1,000 requests of the stable arm: wait for traffic, or run `tidegate dev traffic`.",
        )
    return GuardrailPlan(
        "latency",
        tuple(
            Stream(name, harm, safe, share, bunching)
            for (name, share), bunching in zip(SHARES.items(), latency.bunching, strict=True)
        ),
    )


def _goal(goal: Goal, counted: Mapping[str, Measured]) -> GoalPlan:
    if goal.metric == "latency":
        raise _no_goal()
    seen = _seen(goal.metric, counted)
    return GoalPlan(goal.metric, goal.improve_by, seen.value, **_measured(goal.metric, seen))


def _measured(metric: str, seen: Measured) -> dict[str, Any]:
    """What a guarded metric and a goal have in common."""
    return {
        "kind": seen.kind or kind_of(metric),
        "better": seen.better or better(metric),
        "variance": seen.variance,
        "source": seen.source,
        "delay": seen.delay,
        "known": seen.known,
        "bound": seen.bound,
    }


def _seen(metric: str, counted: Mapping[str, Measured]) -> Measured:
    if metric not in counted:
        raise UsageError(
            f"Nobody has measured {metric} on the stable arm, so there is nothing to compare with.",
            "Errors, invalid output and latency are measured on requests, the rest on labels and outcomes.",
        )
    return counted[metric]


def check_lines(stream: Stream) -> None:
    """Refuse lines that could never decide: outside (0, 1) at the baseline, or harm outside safe."""
    of = stream.metric if stream.better == "lower" else f"1 - {stream.metric}"
    for name, line in (("harm", stream.harm), ("safe", stream.safe)):
        if stream.kind == "share" and not 0 < line.at(stream.bad) < 1:
            raise UsageError(
                f"The {name} line of {of} lies at {line.at(stream.bad):.3g} when the stable arm has "
                f"{stream.bad:.3g}: no share is outside 0 to 1, so it could never decide.",
                f"Choose a smaller ratio or margin for {name}"
                + (": for the p50 a ratio stays below 2." if stream.metric == "latency_p50" else "."),
            )
    if stream.harm.at(stream.bad) > stream.safe.at(stream.bad):
        raise UsageError(
            f"The harm line of {of} lies outside its safe line at the stable arm's {stream.bad:.3g}.",
            "Give harm the smaller ratio and margin: a canary between the lines is neither rolled back nor promoted.",
        )


def _checked_steps(steps: tuple[int, ...]) -> tuple[int, ...]:
    # Many people write the 100 that follows the last step by itself.
    steps = steps[:-1] if steps[-1:] == (WHOLE,) else steps
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[-1] >= WHOLE:
        raise UsageError(
            f"Steps {list(steps)} cannot be judged: each needs users on both arms and more canary than the one before.",
            "Write whole per cents from 1 to 99 that grow, such as [5, 25, 50]; 100 % follows the last by itself.",
        )
    return steps


def _choose_steps(draft: RolloutPlan) -> RolloutPlan:
    """Take the most careful ladder that ends within `_SOON` or three times the quickest one's time, and 48 hours.

    The quickest is always 50 % at once; careful means that fewer users meet a bad canary first.
    """
    if draft.units_per_minute <= 0:
        raise UsageError(
            "`steps: auto` needs to know how many new users come in a minute, and none came lately.",
            "Send traffic (`tidegate dev traffic`), give --units-per-minute, or write steps such as [5, 25, 50].",
        )
    ladders = {steps: forecast(dataclasses.replace(draft, steps=steps)) for steps in _LADDERS}
    decided = {
        steps: seconds
        for steps, made in ladders.items()
        if (seconds := total_seconds(made)) is not None
        # How long to wait for labels is the user's own choice; what cannot be decided is a matter of evidence.
        and _SURE * (seconds - sum(step.delay for step in made)) <= HORIZON
    }
    if decided and draft.mode == "test":
        limit = max(_SOON, _CAREFUL * min(decided.values()))
        return dataclasses.replace(draft, steps=next(steps for steps, seconds in decided.items() if seconds <= limit))
    if draft.mode == "guard":
        return dataclasses.replace(draft, steps=_LADDERS[1])
    return dataclasses.replace(
        draft,
        steps=_LADDERS[1],
        mode="guard",
        warnings=(_TOO_FEW.format(draft.units_per_minute),),
    )


def forecast(plan: RolloutPlan) -> tuple[StepForecast, ...]:
    """Forecast each step of `plan.steps` from its streams and units a minute."""
    return tuple(_forecast_step(plan, weight) for weight in plan.steps)


def _forecast_step(plan: RolloutPlan, weight: int) -> StepForecast:
    per_second = plan.units_per_minute / 60
    units_of = {s: _units(s, s.bad, side=-1, weight=weight, level=plan.beta) for s in plan.streams}
    passing = {s: units / per_second + s.delay if per_second > 0 else units for s, units in units_of.items()}
    slowest = max(passing, key=lambda stream: passing[stream])
    # The goal's effect is not known, but when its first users are old enough is.
    delay = max([slowest.delay, *([plan.goal.delay] if plan.goal else [])])
    promote = None
    if per_second > 0 and math.isfinite(passing[slowest]):
        promote = max(passing[slowest], delay, plan.step_min, plan.block_seconds)
    rollback = {
        f"{_MISSES.get(s.metric, s.metric)} x{factor:g}": _rollback_seconds(plan, s, factor, weight)
        for s in plan.streams
        for factor in _EFFECTS.get(s.metric, ())
        # What the harm line allows is not harm, so there is nothing to roll back.
        if s.harm.at(s.bad) < s.bad * factor < 1
    }
    units = None if promote is None else promote * per_second * weight / 100
    return StepForecast(weight, promote, units, rollback, slowest.metric, delay, _goal_seconds(plan, weight))


def _goal_seconds(plan: RolloutPlan, weight: int) -> dict[str, float | None]:
    """Seconds until the goal is proven, for a few improvements that are beyond what it asks for."""
    goal = plan.goal
    if goal is None or plan.units_per_minute <= 0:
        return {}
    up = goal.better == "higher"
    found: dict[str, float | None] = {}
    stable = max(goal.baseline, _LEAST_RATE) if goal.metric in _RARE else goal.baseline
    for part in _WINS:
        won = part * abs(stable)
        canary = stable + (won if up else -won)
        if won <= goal.improve_by or (goal.kind == "share" and not 0 < canary < 1):
            continue
        seconds = _goal_units(plan, goal, stable, canary, weight) * 60 / plan.units_per_minute + goal.delay
        name = f"{goal.metric} {'+' if up else '-'}{part:.0%}".replace("%", " %")
        found[name] = max(seconds, plan.block_seconds) if seconds <= HORIZON + goal.delay else None
    return found


def _goal_units(plan: RolloutPlan, goal: GoalPlan, stable: float, canary: float, weight: int) -> float:
    """Units of both arms until half of all such canaries have proven it: as `battery` tests it, in one step."""
    from tidegate.rollouts.stats.forecast import units_to_evidence, units_to_mean_evidence

    beyond = abs(canary - stable) - goal.improve_by
    if goal.kind == "mean":
        return units_to_mean_evidence(beyond, goal.variance, weight=weight, level=plan.alpha) / goal.known
    better, now = (canary, stable) if goal.better == "higher" else (1 - canary, 1 - stable)
    if not 0 < now + goal.improve_by < 1:
        return math.inf
    line = {"ratio": 1.0, "margin": goal.improve_by}
    return units_to_evidence(better, now, **line, side=+1, weight=weight, level=plan.alpha) / goal.known


def _units(stream: Stream, bad: float, *, side: int, weight: int, level: float, diluted: float = 1.0) -> float:
    """Units of both arms until half of all canaries with that badness are decided; infinity if they are not."""
    from tidegate.rollouts.stats.forecast import units_to_evidence, units_to_mean_evidence

    line = stream.harm if side > 0 else stream.safe
    if stream.kind == "mean":
        beyond = side * (bad - line.at(stream.bad))
        variance = stream.variance * max(1.0, line.ratio**2)
        return units_to_mean_evidence(beyond, variance, weight=weight, level=level, diluted=diluted) / stream.known
    return (stream.bunching / stream.known) * units_to_evidence(
        bad,
        stream.bad,
        ratio=line.ratio,
        margin=line.margin,
        side=side,
        weight=weight,
        level=level,
        diluted=diluted,
    )


def _rollback_seconds(plan: RolloutPlan, stream: Stream, factor: float, weight: int) -> float | None:
    family = next(len(g.streams) for g in plan.guardrails if stream in g.streams)
    diluted = len(plan.steps) * len(plan.guardrails) * family
    units = _units(stream, stream.bad * factor, side=+1, weight=weight, level=plan.alpha, diluted=diluted)
    if plan.units_per_minute <= 0 or not math.isfinite(units):
        return None
    return max(units * 60 / plan.units_per_minute + stream.delay, plan.block_seconds)


def with_traffic(plan: RolloutPlan, units_per_minute: float) -> RolloutPlan:
    """The plan as `step.max: auto` makes it at another traffic."""
    draft = dataclasses.replace(plan, units_per_minute=units_per_minute)
    draft = dataclasses.replace(draft, forecast=forecast(draft))
    return dataclasses.replace(draft, step_max=tuple(_step_max(step, draft) for step in draft.forecast))


def _step_max(step: StepForecast, plan: RolloutPlan) -> float:
    if plan.mode == "guard":
        # A guard proves nothing by waiting: half an hour shows a leak or a crash. Late metrics are looked at too.
        return max(plan.step_min, 1800.0 + max((one.delay for one in plan.late), default=0.0))
    if step.promote_seconds is None:
        return max(HORIZON + step.delay, plan.step_min)
    evidence = step.promote_seconds - step.delay
    return max(min(PATIENCE * evidence, HORIZON) + step.delay, plan.step_min, plan.block_seconds)


def _about(seconds: float) -> str:
    """Hours, minutes or seconds, whichever says it with a number a reader takes in."""
    size, unit = next(
        (size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= size or size == 1
    )
    return f"{seconds / size:.3g} {unit}"


def _doubts(plan: RolloutPlan) -> tuple[str, ...]:
    if plan.mode == "guard":
        return ()
    return _slow_steps(plan) + _far_goal(plan)


def _far_goal(plan: RolloutPlan) -> tuple[str, ...]:
    """That even the largest improvement of the forecast is not expected to be proven in the last step."""
    if not plan.forecast or not plan.forecast[-1].goal_seconds:
        return ()
    step, maximum = plan.forecast[-1], plan.step_max[-1]
    name, seconds = list(step.goal_seconds.items())[-1]
    if seconds is not None and seconds <= maximum:
        return ()
    needs = "more than 48 h" if seconds is None else _about(seconds)
    doubt = f"The goal is not expected to be proven: {name} needs {needs} at {step.weight} % and the step ends after "
    return (f"{doubt}{_about(maximum)}. Use a longer step.max, more traffic, or a goal that asks for less.",)


def _slow_steps(plan: RolloutPlan) -> tuple[str, ...]:
    return tuple(
        f"The step at {step.weight} % is not expected to decide: {step.slowest} of a good canary needs "
        + ("longer than anybody can wait" if step.promote_seconds is None else _about(step.promote_seconds))
        + f" and the step ends after {_about(maximum)}. Use a larger weight, a looser safe line or more traffic."
        for step, maximum in zip(plan.forecast, plan.step_max, strict=True)
        if step.promote_seconds is None or step.promote_seconds > maximum
    )
