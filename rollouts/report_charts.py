"""Which lines, bands and marks the charts of a report hold. Shares become percentage points, evidence becomes odds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from tidegate.rollouts.charts import Axis, Band, Chart, Line, Mark, Point, number_axis, odds_axis, time_axis
from tidegate.rollouts.history import Moment, Reading
from tidegate.rollouts.report import Report
from tidegate.rollouts.stats.ratio import VOID

# Odds beyond these say nothing more to anybody.
_LEAST, _MOST = -3.0, 6.0
# A rollout that nobody served any more may have been ended days later; its blocks are the subject. A decision follows
# its block by the grace for late lines.
_LONGEST_TAIL, _GRACE = 0.25, 5.0


def effect_chart(report: Report, at: int) -> Chart:
    """The confidence sequence of one stream (its place in the plan) against its lines."""
    moments = report.history.moments
    readings = [moment.readings[at] for moment in moments]
    name = readings[-1].name

    def line(value: Callable[[Reading], float | None]) -> list[Point]:
        found = ((moment.seconds, value(one)) for moment, one in zip(moments, readings, strict=True))
        return [(x, 100 * y) for x, y in found if y is not None]

    low, high = line(lambda one: one.low), line(lambda one: one.high)
    harm, safe, effect = line(lambda one: one.harm), line(lambda one: one.safe), line(lambda one: one.effect)
    lines = [Line("zero", "", [(0.0, 0.0), (end(report), 0.0)]), Line("safe", "safe line", safe)]
    lines += [Line("harm", "harm line", harm)] if harm else []
    return Chart(
        f"{name}: canary minus stable",
        f"Difference of the shares with its confidence sequence, against the lines, over time. {_last(readings[-1])}",
        time_axis(end(report)),
        number_axis(*_range(harm, safe, effect, low, high), "percentage points"),
        [*lines, Line("effect", "difference", effect)],
        [Band("interval", "confidence sequence", low, high)],
        marks(report),
    )


def evidence_chart(report: Report, at: int) -> Chart:
    """Both e-values of one stream against what decides."""
    name = report.history.moments[-1].readings[at].name
    safe = _odds(report, lambda moment: moment.readings[at].log_e_safe)
    harm = _odds(report, lambda moment: moment.readings[at].log_e_harm)
    lines = [Line("safe-odds", "it is safe", safe)] + ([Line("harm-odds", "it harms", harm)] if harm else [])
    levels = {-math.log(report.plan.alpha), -math.log(report.plan.beta)}
    return _against(report, f"{name}: evidence", lines, levels)


def harm_chart(report: Report) -> Chart:
    """The evidence that rolls back: the mean over all guardrails."""
    harm = _odds(report, lambda moment: moment.log_e_harm)
    lines = [Line("harm-odds", "the canary harms", harm)]
    return _against(report, "All guardrails together: evidence of harm", lines, {-math.log(report.plan.alpha)})


def ratio_chart(report: Report) -> Chart:
    """The evidence that users were not dealt by the weights."""
    lines = [Line("ratio-odds", "the arms got other shares", _odds(report, lambda moment: moment.log_e_ratio))]
    return _against(report, "Sample ratio: evidence against it", lines, {VOID})


def units_chart(report: Report) -> Chart:
    """Users of each arm so far."""
    moments = report.history.moments
    canary = [(0.0, 0.0), *((one.seconds, float(one.canary)) for one in moments)]
    stable = [(0.0, 0.0), *((one.seconds, float(one.stable)) for one in moments)]
    most = max(moments[-1].canary, moments[-1].stable, 1)
    return Chart(
        "Users of each arm so far",
        f"In the end {moments[-1].canary:,} of the canary and {moments[-1].stable:,} of the stable arm.",
        time_axis(end(report)),
        number_axis(0, most, "users", lambda value: f"{value:,.0f}"),
        [Line("stable", "stable", stable), Line("canary", "canary", canary)],
        (),
        marks(report),
    )


def weight_chart(report: Report) -> Chart:
    """The canary's share over time, as it was decided."""
    points, share = [], 0
    for decision in report.decisions:
        at = min(max(report.seconds(decision), 0.0), end(report))
        points += [(at, float(share)), (at, float(decision.weight))]
        share = decision.weight
    points.append((end(report), float(share)))
    steps = ", ".join(f"{decision.weight} %" for decision in report.decisions)
    numbered = [mark for mark in marks(report) if mark.number is not None]
    ticks = tuple((float(at), str(at)) for at in (0, 25, 50, 75, 100))
    return Chart(
        "Share of users on the canary",
        f"After each decision: {steps}.",
        time_axis(end(report)),
        Axis(0, 108, ticks, "per cent"),
        [Line("canary", "canary", points)],
        (),
        numbered,
    )


def marks(report: Report) -> list[Mark]:
    """Where a step begins, and every decision after the start with its number in the list of decisions."""
    moments = report.history.moments
    pairs = pairwise(moments)
    begun = [Mark(before.seconds, f"{after.weight} %") for before, after in pairs if before.step != after.step]
    taken = ((number, one, report.seconds(one)) for number, one in enumerate(report.decisions, 1))
    decided = [Mark(min(at, end(report)), one.kind, number) for number, one, at in taken if at > 0]
    return [*begun, *decided]


def end(report: Report) -> float:
    """Seconds that the charts show: every block, and the last decision unless it came long after."""
    blocks = report.history.moments[-1].seconds
    last = report.seconds(report.decisions[-1])
    return max(blocks, min(last, blocks + max(_GRACE, _LONGEST_TAIL * blocks)))


def _against(report: Report, title: str, lines: Sequence[Line], levels: Iterable[float]) -> Chart:
    """Odds and the odds that decide (natural logarithms)."""
    needed = sorted(level / math.log(10) for level in levels)
    values = [y for line in lines for _, y in line.points]
    right = end(report)
    thresholds = [Line("threshold", f"decides: {10**level:,.0f}:1", [(0.0, level), (right, level)]) for level in needed]
    last = ", ".join(f"{line.label} {_words(line.points[-1][1])}" for line in lines)
    return Chart(
        title,
        f"Odds over time; in the end: {last}. It decides at {10 ** needed[-1]:,.0f}:1.",
        time_axis(right),
        odds_axis(min(values, default=0.0), max([*values, needed[-1] + 0.3])),
        [*thresholds, *lines],
        (),
        marks(report),
    )


def _odds(report: Report, log_e: Callable[[Moment], float | None]) -> list[Point]:
    """Decimal logarithms, within what anybody wants to know; none where there is no such evidence."""
    found = ((moment.seconds, log_e(moment)) for moment in report.history.moments)
    rest = [(x, min(max(value / math.log(10), _LEAST), _MOST)) for x, value in found if value is not None]
    return [(0.0, 0.0), *rest] if rest else []


def _words(power: float) -> str:
    return f"{10**power:,.0f}:1" if power >= 1 else f"{10**power:.2g}:1"


def _last(reading: Reading) -> str:
    if reading.effect is None:
        return "Nothing has been seen yet."
    text = f"In the end {100 * reading.effect:+.2f} percentage points"
    if reading.low is None or reading.high is None:
        return f"{text}."
    return f"{text}, between {100 * reading.low:+.2f} and {100 * reading.high:+.2f}."


def _range(*lines: Sequence[Point]) -> tuple[float, float]:
    """What to show of the vertical axis: zero, and every line from a quarter of its points on.

    All begin with so few users that the rest would be flat beside it; what is beyond is cut off.
    """
    values = [0.0, *(y for line in lines for _, y in line[len(line) // 4 :])]
    air = 0.06 * (max(values) - min(values)) or 0.1
    return min(values) - air, max(values) + air
