"""Verdicts in sentences that can be quoted without knowing any statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tidegate.core.artifacts import VerdictWord
from tidegate.core.units import span
from tidegate.rollouts.disagreement import worst
from tidegate.rollouts.plan import GoalPlan, Line, RolloutPlan, Stream
from tidegate.rollouts.stats.latency import SHARES
from tidegate.rollouts.verdict import Units

# A design effect that a reader of a forecast should know of.
_NOTABLE = 1.5


def effect_sentence(
    plan: RolloutPlan, stream: Stream, units: Units, *, harm: float, safe: float, word: VerdictWord
) -> str:
    """Say what was seen of one stream, how it lies to its lines and how sure that is."""
    seen = _seen(plan, stream, units)
    worse, within = allowed(stream, stream.harm), allowed(stream, stream.safe)
    if word == "rollback":
        return f"{seen}: worse than the allowed {worse}; evidence {odds(harm)} against the canary."
    if word == "promote":
        return f"{seen}: within the allowed {within}; evidence {odds(safe)} for the canary."
    return (
        f"{seen}: not decided yet (evidence {odds(harm)} that it is worse than {worse}, "
        f"{odds(safe)} that it is within {within})."
    )


def _seen(plan: RolloutPlan, stream: Stream, units: Units) -> str:
    canary, stable = per_cent(units.canary_share), per_cent(units.stable_share)
    users = "users' first requests" if plan.unit == "user" else "requests"
    if stream.metric == "error_rate":
        return f"The canary fails {canary} of {users}, stable {stable}"
    if stream.metric == "invalid_output":
        return f"The canary answers {canary} of {users} without a prediction, stable {stable}"
    if stream.source != "requests":
        return late_seen(stream, units)
    if stream.metric in SHARES and plan.latency is not None:
        at = list(SHARES).index(stream.metric)
        quantile, began = stream.metric.removeprefix("latency_"), plan.latency.stable[at]
        slack = milliseconds(plan.latency.canary[at] - began)
        return (
            f"{canary} of the canary's {users} take longer than stable's {quantile} and {slack}, "
            f"{stable} of stable's longer than its {quantile} ({milliseconds(began)} at the start)"
        )
    if stream.kind == "mean":
        return _means(stream.metric, units)
    return f"{stream.metric}: {canary} of the canary's {users}, {stable} of stable's"


def late_seen(metric: Stream | GoalPlan, units: Units) -> str:
    """What is known of the users who are old enough."""
    with_truth = " with a label" if metric.source == "labels" else ""
    of = f"{units.canary:,} users of the canary and {units.stable:,} of stable{with_truth}"
    canary, stable = (
        f"{share:.4g} on average" if metric.kind == "mean" else per_cent(share)
        for share in (units.canary_share, units.stable_share)
    )
    return f"{metric.metric} of {of}: {canary} with the canary, {stable} with stable"


def _means(metric: str, units: Units) -> str:
    return f"{metric}: {units.canary_share:.4g} on average with the canary, {units.stable_share:.4g} with stable"


def allowed(stream: Stream, line: Line) -> str:
    """The tolerance: "1.1x + 0.1 pp", of the misses where more of the metric is better."""
    if stream.kind == "share":
        missing = f" of what is missing to 100 % {stream.metric}" if stream.better == "higher" else ""
        return f"{line.ratio:g}x" + (f" + {100 * line.margin:g} pp" if line.margin else "") + missing
    return f"{line.ratio:g}x {'-' if stream.better == 'higher' else '+'} {line.margin:g}"


def odds(log_e: float) -> str:
    """The evidence as a bet: "412:1"; past a million it does not matter by how much."""
    if log_e >= math.log(1e6):
        return "over 1,000,000:1"
    value = math.exp(log_e)
    return f"{value:,.0f}:1" if value >= 10 else f"{value:.2g}:1"  # noqa: PLR2004 - two digits are enough below


def per_cent(share: float) -> str:
    """A share with the digits that matter: 8.1 %, 0.42 %, 0 %."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"  # noqa: PLR2004 - whole per cents from 10 on


def milliseconds(seconds: float) -> str:
    """12 ms, 1.4 ms."""
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"  # noqa: PLR2004 - tenths below 10 ms


def shadow_sentence(numbers: Mapping[str, Any]) -> str:
    """What copied traffic has shown, from `ShadowPhase.numbers`."""
    if not numbers["requests"]:
        return "No copied request was answered by both versions."
    failures, refused = numbers["failures"], numbers["refused"]
    parts = [f"{numbers['requests']:,} copied requests: " + (", ".join(_differences(numbers)) or "nothing to compare")]
    parts += _where(numbers)
    parts.append(f"the canary failed {failures['canary']:,}, stable {failures['stable']:,}")
    if refused:
        parts.append(f"it refused {refused:,} that stable answered")
    latency = numbers["latency"]
    if latency["canary"]:
        canary, stable = ("/".join(milliseconds(one) for one in latency[arm].values()) for arm in ("canary", "stable"))
        parts.append(f"{canary} at p50/p90/p99, stable {stable}")
    return "; ".join(parts) + "."


def _where(numbers: Mapping[str, Any]) -> list[str]:
    """The class and the slice with the most disagreement, where there is a choice of them."""
    named = numbers["different"] is not None
    groups = {**({"rows that stable calls": numbers["by_class"]} if named else {}), **numbers["by_slice"]}
    found = []
    for name, values in groups.items():
        most = worst(values)
        if most is not None and most["difference"] > 0:
            how = per_cent(most["difference"]) if named else f"{most['difference']:.3g}"
            found.append(f"most for {name} {most['value']} ({how} of {most['rows']:,})")
    return found


def _differences(numbers: Mapping[str, Any]) -> list[str]:
    found = []
    if numbers["different"] is not None:
        found.append(f"{per_cent(numbers['different'])} of {numbers['rows']:,} rows get another class")
    if numbers["score_difference"] is not None:
        found.append(f"scores differ by {numbers['score_difference']:.3g} on average")
    if numbers["difference"] is not None:
        relative = numbers["relative_difference"]
        about = "" if relative is None else f", {per_cent(relative)} of stable's spread"
        found.append(f"{numbers['rows']:,} predictions differ by {numbers['difference']:.3g} on average{about}")
    return found


def guard_sentence(plan: RolloutPlan, step: int, units: float) -> str:
    """What a guard may claim: never that the canary is safe."""
    from tidegate.rollouts.stats.forecast import miss_probability

    counted = (one for one in plan.streams if one.kind == "share" and one.better == "lower")
    stream = next(counted, plan.streams[0])
    missed = 1.0
    if units > 0 and 2 * stream.baseline < 1:
        missed = miss_probability(
            2 * stream.baseline,
            stream.baseline,
            ratio=stream.harm.ratio,
            margin=stream.harm.margin,
            weight=plan.steps[step],
            units=units / stream.bunching,
            level=plan.alpha,
            diluted=len(plan.steps) * len(plan.guardrails),
        )
    return (
        f"No harm seen in {units:,.0f} users at {plan.steps[step]} %; twice the {stream.metric} of "
        f"{per_cent(stream.baseline)} would have been missed {round(10 * missed)} times in 10."
    )


def goal_sentence(goal: GoalPlan, units: Units, log_e: float) -> str:
    """Say how the goal stands."""
    if goal.kind == "mean" or goal.source != "requests":
        seen = late_seen(goal, units) if goal.source != "requests" else _means(goal.metric, units)
        by = f"{goal.improve_by:g}" if goal.kind == "mean" else f"{100 * goal.improve_by:g} pp"
        return f"{seen}; evidence {odds(log_e)} that it is better by more than {by}."
    return (
        f"{goal.metric}: {per_cent(units.canary_share)} of the canary's users, {per_cent(units.stable_share)} of "
        f"stable's; evidence {odds(log_e)} that it is better by more than {100 * goal.improve_by:g} pp."
    )


def baseline_sentences(plan: RolloutPlan) -> tuple[str, ...]:
    """What the plan knows of the metrics that come late, and when it counts them."""
    found = []
    for one in {metric.metric: metric for metric in plan.late}.values():
        value = per_cent(one.baseline) if one.kind == "share" else f"{one.baseline:.4g} on average"
        known = "" if one.source == "outcomes" else f", known of {per_cent(one.known)} of users"
        bound = "" if one.bound is None else f"; beyond {one.bound:.4g} a value counts as that"
        found.append(
            f"{one.metric} is {value} with the champion{known}{bound}. It is counted when users are {span(one.delay)} "
            "old, so each step takes at least as long."
        )
    return tuple(found)


def bunching_sentence(plan: RolloutPlan) -> str:
    """Why a verdict on latency takes long; empty where slow requests come one by one."""
    worst = max(plan.streams, key=lambda stream: stream.bunching)
    if worst.bunching < _NOTABLE:
        return ""
    return (
        f"Slow requests come in bunches here, as on a busy machine: {worst.metric} needs {worst.bunching:.2g} times "
        "the users that it would need elsewhere."
    )


def ratio_sentence(weight: int, canary: float, total: float) -> str:
    """Say why the sample-ratio check voids the step."""
    return (
        f"{per_cent(canary / max(total, 1))} of new users reached the canary instead of {weight} %: "
        "the arms are not comparable, so nothing was concluded."
    )


def labels_sentence(canary: float, stable: float) -> str:
    """Say why a different share of labelled users voids the rollout."""
    return (
        f"The truth is known of {per_cent(canary)} of the canary's users and of {per_cent(stable)} of stable's: "
        "those with a label are not comparable, so nothing was concluded."
    )


def late_sentence(plan: RolloutPlan, waiting: float) -> str:
    """Say which metrics nobody can know yet in a step that has just begun."""
    names = " and ".join(dict.fromkeys(one.metric for one in plan.late))
    oldest = max(one.delay for one in plan.late)
    return (
        f"Users are judged on {names} when they are {span(oldest)} old; this step's first ones are so in "
        f"{span(max(waiting, 1.0))}."
    )


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign: +0.12 pp, -3 pp, 0 pp."""
    value = 100 * share
    digits = 2 if abs(value) < 1 else 1 if abs(value) < 10 else 0  # noqa: PLR2004 - two or three digits say enough
    return f"{round(value, digits) + 0.0:+.{digits}f} pp" if round(value, digits) else "0 pp"
