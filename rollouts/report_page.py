"""The report as one HTML page that needs nothing else: no network, no script, no font. Pure.

Every text that comes from data goes through `html.escape`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from tidegate.core.units import span
from tidegate.rollouts.charts import figure
from tidegate.rollouts.decisions import Decision
from tidegate.rollouts.history import Moment
from tidegate.rollouts.plan import Stream
from tidegate.rollouts.report import Report
from tidegate.rollouts.report_charts import (
    effect_chart,
    evidence_chart,
    harm_chart,
    ratio_chart,
    units_chart,
    weight_chart,
)
from tidegate.rollouts.report_style import STYLE
from tidegate.rollouts.stats.latency import SHARES
from tidegate.rollouts.words import allowed, milliseconds, odds, per_cent, points

_MOST_ROWS = 60
"""Of a table of numbers; `--json` holds every block."""

_LOOKS = {"promoted": "good", "rolled_back": "bad", "aborted": "bad"}
_DECIDED = {
    "rollout_started": "started",
    "shadow": "shadow phase passed",
    "held": "held for a person",
    "inconclusive": "ended without an answer",
    "replaced": "replaced by a newer rollout",
    "rollback": "rolled back at once, unjudged",
}

_READ_RAMP = "Numbers are the decisions of the list below. A user who met the canary stays there while the share grows."
_READ_UNITS = "Each user counts once, in the arm and at the time of the first request."
_READ_EFFECT = (
    "The line is how much more often it happens on the canary; the band is where the true difference lies, and may be "
    "looked at after every block. A band wholly below the safe line looks safe, one wholly above the harm line looks "
    "harmful, one that touches both says: cannot tell yet. It begins very wide and is cut off there."
)
_READ_EFFECT_AGAIN = "A band below the safe line looks safe, above the harm line harmful; else: cannot tell yet."
_READ_EVIDENCE_AGAIN = "As odds, against the dotted line."
_READ_GOAL = (
    "The line is how much more often it happens on the canary; a band wholly above the dashed line reaches the goal."
)
_READ_GOAL_ODDS = "How strongly the data say that the goal is reached, as odds; a step needs it at the dotted line."
_READ_RATIO = (
    "Did each arm get the share of new users that its weight says? At 1,000:1 against it the arms are not comparable, "
    "and nothing is concluded. Well below is as it should be."
)


def page(report: Report) -> str:
    """The whole document."""
    title = f"Rollout {report.status['id']}: {_state(report)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style></head>\n"
        f"<body><main>\n{top(report)}{evidence(report)}</main></body></html>\n"
    )


def evidence(report: Report) -> str:
    """Its sections below the top: decisions, and every metric with its charts and numbers."""
    charts = _charts(report) if report.history.moments else [_EMPTY]
    return f"{_decisions(report)}{''.join(charts)}{_foot(report)}"


_EMPTY = (
    "<section><h2>No users have been judged yet</h2><p>There is no block of this rollout, so there is nothing to draw: "
    "the first one appears when users have met the canary for one interval.</p></section>\n"
)


def _state(report: Report) -> str:
    return str(report.status["state"]).replace("_", " ")


def _headline(report: Report) -> str:
    status = report.status
    new, old = (f"version {status['arms'][arm]['version']}" for arm in ("canary", "stable"))
    if (status["shadow"] or {}).get("running"):
        return f"In its shadow phase: {new} gets copies of requests, no user gets its answers"
    return {
        "running": f"Running: {new} answers {status['weight']} % of users",
        "held": f"Held at {status['weight']} %: a person must decide about {new}",
        "promoted": f"Promoted: {new} took over from {old}",
        "rolled_back": f"Rolled back: {new} was taken back, every user has {old}",
        "inconclusive": f"Not decided: {new} was taken back, every user has {old}",
        "aborted": f"Aborted: {new} was taken back",
        "replaced": f"Replaced by a newer rollout before {new} was decided",
    }[status["state"]]


def top(report: Report) -> str:
    """Its top: the headline, the reasons and the facts."""
    status, plan = report.status, report.plan
    reasons = "".join(f"<li>{escape(str(reason))}</li>" for reason in status["reasons"])
    copies = (status["shadow"] or {}).get("sentence")
    shadow = f"<p>Shadow phase: {escape(str(copies))}</p>{_disagreement(status['shadow'])}" if copies else ""
    moments = report.history.moments
    users = f"{moments[-1].canary:,} canary, {moments[-1].stable:,} stable" if moments else "none yet"
    facts = [
        ("Canary", _arm(report, "canary")),
        ("Stable", _arm(report, "stable")),
        ("Started", _when(status["started_at"])),
        ("Ended", _when(status["ended_at"]) if status["ended_at"] else "goes on"),
        ("Users judged", users),
        ("Planned ramp", ", ".join(f"{weight} %" for weight in plan.steps)),
        ("Blocks", f"{len(moments):,} of {plan.block_seconds:g} s"),
        ("Decides at", f"{1 / plan.alpha:,.0f}:1 for harm, {1 / plan.beta:,.0f}:1 for safe"),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return (
        f'<p class="kicker">{escape(report.model)} · rollout {escape(str(status["id"]))}</p>'
        f'<h1 class="{_LOOKS.get(status["state"], "open")}">{escape(_headline(report))}</h1>\n'
        f'<ul class="reasons">{reasons}</ul>{shadow}<dl>{listed}</dl>\n'
    )


def _disagreement(shadow: Mapping[str, Any]) -> str:
    """Of the copies: rows and difference by the class that stable predicts, and by the values of each slice."""
    groups = {"stable predicts": shadow.get("by_class") or (), **(shadow.get("by_slice") or {})}
    named = shadow.get("different") is not None
    tables = []
    for name, values in groups.items():
        rows = "".join(
            f"<tr><td>{escape(str(one['value']))}</td><td>{one['rows']:,}</td>"
            f"<td>{per_cent(one['difference']) if named else format(one['difference'], '.3g')}</td></tr>"
            for one in values
        )
        heading = (
            f"<tr><th>{escape(str(name))}</th><th>rows</th><th>{'another class' if named else 'differ by'}</th></tr>"
        )
        tables += [f'<div class="wide"><table>{heading}{rows}</table></div>'] if rows else []
    return f"<details><summary>Where the versions disagree</summary>{''.join(tables)}</details>" if tables else ""


def _arm(report: Report, arm: str) -> str:
    told = report.status["arms"][arm]
    return f"version {told['version']} ({told['release']})"


def _decisions(report: Report) -> str:
    rows = "".join(_decision(report, number, one) for number, one in enumerate(report.decisions, 1))
    charts = ""
    if report.history.moments:
        charts = figure("ramp", weight_chart(report), _READ_RAMP) + figure("units", units_chart(report), _READ_UNITS)
    return (
        f'<section><h2>Decisions</h2><div class="pair">{charts}</div><div class="wide"><table class="decisions">'
        "<tr><th>#</th><th>when</th><th>what</th><th>canary</th><th>by</th><th>because</th></tr>"
        f"{rows}</table></div></section>\n"
    )


def _decision(report: Report, number: int, decision: Decision) -> str:
    what = _DECIDED.get(decision.kind, decision.kind.replace("_", " "))
    after = report.seconds(decision)
    when = _when(decision.at) + (f", after {span(after)}" if after > 0 else "")
    because = " ".join(decision.reasons)
    cells = [str(number), when, what, f"{decision.weight} %", decision.actor, because]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _charts(report: Report) -> list[str]:
    sections, at = [], 0
    for guardrail, told in zip(report.plan.guardrails, report.history.verdict.metrics, strict=False):
        parts = [
            _stream(report, at + n, stream, again=n > 0, alone=len(guardrail.streams) == 1)
            for n, stream in enumerate(guardrail.streams)
        ]
        at += len(parts)
        sections.append(_section(guardrail.metric, told.sentence, parts))
    if report.plan.goal is not None:
        told = report.history.verdict.metrics[-1]
        sections.append(
            _section(
                f"{report.plan.goal.metric} (goal)", told.sentence, [_pair(report, at, _READ_GOAL, _READ_GOAL_ODDS)]
            )
        )
    return [*sections, _together(report), _ratio(report)]


def _section(name: str, sentence: str, parts: Iterable[str]) -> str:
    return f"<section><h2>{escape(name)}</h2><p>{escape(sentence)}</p>{''.join(parts)}</section>\n"


def _stream(report: Report, at: int, stream: Stream, *, again: bool, alone: bool) -> str:
    how = (_READ_EFFECT_AGAIN, _READ_EVIDENCE_AGAIN) if again else (_READ_EFFECT, _read_evidence(report))
    lines = f"Harm line {allowed(stream, stream.harm)}, safe line {allowed(stream, stream.safe)} of stable's share."
    heading = "" if alone else f"<h3>{escape(_quantile(report, stream))}</h3>"
    return f'{heading}<p class="note">{escape(lines)}</p>{_pair(report, at, *how)}'


def _quantile(report: Report, stream: Stream) -> str:
    latency = report.plan.latency
    if stream.metric not in SHARES or latency is None:
        return stream.metric
    threshold = milliseconds(latency.stable[list(SHARES).index(stream.metric)])
    return f"{stream.metric.removeprefix('latency_')}: requests slower than {threshold} at the start"


def _pair(report: Report, at: int, effect: str, evidence: str) -> str:
    left = figure(f"effect{at}", effect_chart(report, at), effect)
    right = figure(f"evidence{at}", evidence_chart(report, at), evidence)
    return f'<div class="pair">{left}{right}</div>{_numbers(report, at)}'


def _read_evidence(report: Report) -> str:
    plan = report.plan
    harm = "Harm, averaged over everything that is guarded, rolls back"
    if len(plan.streams) == 1:
        harm = "Harm rolls back"
    safe = (
        "this rollout only guards, so safety is shown and decides nothing."
        if plan.mode == "guard"
        else "a step passes when every safety line is there. Safety begins anew at each step."
    )
    return f"How strongly the data speak, as odds: at the dotted line they decide. {harm}; {safe}"


def _together(report: Report) -> str:
    if len(report.plan.streams) == 1:
        return ""
    how = (
        f"The mean of every metric's evidence that the canary harms. At {1 / report.plan.alpha:,.0f}:1 it is rolled "
        "back; a sound canary gets there in at most "
        f"{per_cent(report.plan.alpha)} of rollouts, however often one looks."
    )
    chart = figure("harm", harm_chart(report), how)
    return f'<section><h2>All guardrails together</h2><div class="pair">{chart}</div></section>\n'


def _ratio(report: Report) -> str:
    chart = figure("ratio", ratio_chart(report), _READ_RATIO)
    headings = ("time", "weight", "new canary", "new stable", "canary", "stable", "odds against the ratio")
    rows = [
        (
            *_place(one),
            *(f"{users:,.0f}" for users in (one.new_canary, one.new_stable, one.canary, one.stable)),
            odds(one.log_e_ratio),
        )
        for one in _few(report.history.moments)
    ]
    return f'<section><h2>Sample ratio</h2><div class="pair">{chart}</div>{_table(report, headings, rows)}</section>\n'


def _numbers(report: Report, at: int) -> str:
    shown = ("time", "weight", "canary", "stable", "difference", "from", "to")
    headings = (*shown, "harm line", "safe line", "odds harm", "odds safe")
    rows = []
    for moment in _few(report.history.moments):
        one = moment.readings[at]
        shares = (per_cent(one.canary), per_cent(one.stable))
        differences = tuple(map(_points, (one.effect, one.low, one.high, one.harm, one.safe)))
        harm = "-" if one.log_e_harm is None else odds(one.log_e_harm)
        rows.append((*_place(moment), *shares, *differences, harm, odds(one.log_e_safe)))
    return _table(report, headings, rows)


def _points(share: float | None) -> str:
    return "-" if share is None else points(share)


def _place(moment: Moment) -> tuple[str, str]:
    return span(moment.seconds), f"{moment.weight} %"


def _few(moments: Sequence[Moment]) -> list[Moment]:
    """Every so many, with the first and the last of each step."""
    every = math.ceil(len(moments) / _MOST_ROWS)
    ends = {0, len(moments) - 1}
    for at, (before, after) in enumerate(pairwise(moments)):
        if before.step != after.step:
            ends |= {at, at + 1}
    return [moment for at, moment in enumerate(moments) if at % every == 0 or at in ends]


def _table(report: Report, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    total = len(report.history.moments)
    some = f"{len(rows)} of {total:,} blocks; `tidegate rollout report --json` has all" if len(rows) < total else ""
    head = "".join(f"<th>{escape(one)}</th>" for one in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f"<details><summary>The numbers{': ' if some else ''}{escape(some)}</summary>"
        f'<div class="wide"><table><tr>{head}</tr>{body}</table></div></details>'
    )


def _foot(report: Report) -> str:
    plan = report.plan
    text = (
        f"Over all looks together a sound canary is rolled back in at most {per_cent(plan.alpha)} of rollouts"
        + (
            f", and one on its safe line is promoted in at most {per_cent(plan.beta)}."
            if plan.mode == "test"
            else "; a canary that passes a guard was not proven safe."
        )
        + " Bands are asymptotic and for reading; verdicts come from the evidence, which is exact."
    )
    return f'<p class="note">{escape(text)}</p>\n'


def _when(at: str) -> str:
    return f"{at[:10]} {at[11:19]} UTC"
