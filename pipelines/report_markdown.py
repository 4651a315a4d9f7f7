"""A report as GitHub Markdown. The first line is the answer, the second says why: more of a comment is seldom read.

What comes from data (names of columns, values) is shown as text whatever it holds: no mark-up, no mention of a person.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tidegate.pipelines.gate import Comparison, Facts
    from tidegate.pipelines.report import Cost, Report

_MARKER: Final = "<!-- tidegate report of {model} in {env} -->"
_MARKER_PATTERN: Final = re.compile(r"^<!-- tidegate report of [\w.-]+ in [\w.-]+ -->$", re.MULTILINE)
_SPECIAL: Final = re.compile(r"[\\`*_\[\]|@#~]")
# Slices and columns beyond this are a page that nobody reads; the worst come first.
_ROWS: Final = 12
_REASONS: Final = 12


def render(report: Report) -> str:
    """The whole text; it ends with the marker by which the comment is found again."""
    parts = [
        _answer(report),
        _reasons(report),
        _metrics(report.facts),
        _slices(report.facts),
        _data(report),
        _cost(report.cost),
        _plots(report),
        _MARKER.format(model=report.model, env=report.env),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def marker_of(text: str) -> str | None:
    """The marker that a rendered report ends with; None if the text is none."""
    found = _MARKER_PATTERN.findall(text)
    return found[-1] if found else None


def plain(text: object) -> str:
    """Any text on one line, shown as it is: neither Markdown nor HTML, and nobody is mentioned."""
    flat = html.escape(" ".join(str(text).split()), quote=False)
    return _SPECIAL.sub(lambda match: f"&#{ord(match.group())};", flat)


def _answer(report: Report) -> str:
    """Two lines: may it be merged, and the first reason."""
    name = plain(report.model)
    if report.passed:
        return f"### {name}: the gate passes\n{_best(report)}"
    what = "cannot be judged" if report.problem else "the data breaks its contract"
    if report.gate is not None and not report.failed:
        what = "the gate refuses this model"
    return f"### {name}: {what}\n**{plain(report.reasons[0].removeprefix('refused: '))}**"


def _best(report: Report) -> str:
    """The decisive metric in one sentence."""
    facts = report.facts
    assert facts is not None  # noqa: S101 - it passed, so it was measured
    decisive = next((one for one in facts.comparisons if one.metric == facts.metric and not one.slice), None)
    if decisive is None:
        return f"{plain(facts.metric)} is {facts.value:.4g} on the holdout; there is no champion to compare with."
    return (
        f"{plain(facts.metric)} is {decisive.challenger:.4g}, version {facts.champion} has {decisive.champion:.4g} "
        f"(difference {_interval(decisive)}; {decisive.tolerance:.4g} worse is tolerated)."
    )


def _reasons(report: Report) -> str:
    """Every other reason, and what to do about a refusal."""
    lines = [f"- {plain(one)}" for one in report.reasons[0 if report.passed else 1 :]]
    more = len(lines) - _REASONS
    shown = lines[:_REASONS] + ([f"- and {more} more"] if more > 0 else [])
    advice = [] if report.passed else [f"- {plain(line)}" for line in report.advice.splitlines()]
    return "\n".join(shown + (["", "What to do next:", "", *advice] if advice else [])).strip("\n")


def _metrics(facts: Facts | None) -> str:
    """Each compared metric; the others of the evaluation below them, without a champion's value."""
    if facts is None:
        return ""
    compared = [one for one in facts.comparisons if not one.slice]
    rows = [_compared_row(one, one.metric == facts.metric) for one in compared]
    known = {one.metric for one in compared}
    rows += [
        [plain(name), f"{value:.4g}", "", "", "", ""] for name, value in facts.metrics.items() if name not in known
    ]
    version = f"version {facts.champion}" if facts.champion else "champion"
    head = ["metric", "this", version, "difference (95 % bounds)", "tolerated", ""]
    note = "* decides. A positive difference is better, whichever way the metric points."
    return _section("Metrics", _table(head, rows), note)


def _compared_row(one: Comparison, decides: bool) -> list[str]:
    name = f"{plain(one.metric)} &#42;" if decides else plain(one.metric)
    return [name, *_values(one)]


def _values(one: Comparison) -> list[str]:
    word = "ok" if one.holds else "**worse**"
    return [f"{one.challenger:.4g}", f"{one.champion:.4g}", _interval(one), f"{one.tolerance:.4g}", word]


def _interval(one: Comparison) -> str:
    if not (math.isfinite(one.advantage_low) and math.isfinite(one.advantage_high)):
        return "too few rows"
    return f"{one.advantage_low:+.4g} to {one.advantage_high:+.4g}"


def _slices(facts: Facts | None) -> str:
    """The slices, those that are worst first."""
    if facts is None:
        return ""
    found = [one for one in facts.comparisons if one.slice]
    # NaN compares with nothing; a slice that could not be judged is among the worst.
    found.sort(key=lambda one: one.advantage_low if math.isfinite(one.advantage_low) else -math.inf)
    rows = [[plain(one.slice), f"{one.rows:,}", *_values(one)] for one in found]
    head = ["slice", "rows", "this", "champion", "difference (95 % bounds)", "tolerated", ""]
    return _section(f"Slices of {plain(facts.metric)}", _table(head, rows))


def _data(report: Report) -> str:
    """Rows, columns and promises."""
    promises = f"{report.contract - len(report.failed):,} of {report.contract:,} promises of the contract hold."
    if report.failed:
        promises = f"The contract is broken: {len(report.failed):,} findings in {report.contract:,} promises."
    data = report.data
    if data is None:
        return _section("Data", promises, f"Not compared: {plain(report.data_problem)}" if report.data_problem else "")
    if not data["changed"]:
        return _section("Data", f"The same data as in `{plain(data['before']['revision'])}`. {promises}")
    sides = [data[side]["rows"] for side in ("before", "after")]
    counted = " to ".join("none" if rows is None else f"{rows:,}" for rows in sides)
    table = _table(
        ["column", "change", "before", "after"],
        [[plain(one[key]) for key in ("column", "change", "before", "after")] for one in data["columns"]],
    )
    return _section("Data", f"{plain(data['path'])}: {counted} rows. {promises}", table)


def _cost(cost: Cost | None) -> str:
    if cost is None:
        return ""
    trained = f"{cost.rows:,} rows in {cost.seconds:.1f} s on {cost.processors} processors"
    rows = [["training", trained]]
    if cost.size is not None:
        rows.append(["size of the packaged model", f"{cost.size / 1e6:.3g} MB"])
    if cost.latency_p99 is not None:
        rows.append(["one row, 99th percentile", f"{cost.latency_p99 * 1e3:.3g} ms"])
    return _section("Cost", _table(["", ""], rows))


def _plots(report: Report) -> str:
    links = ", ".join(f"[{plain(name)}](<{_address(address)}>)" for name, address in report.plots.items())
    run = f"MLflow run `{plain(report.run_id)}`" if report.run_id else ""
    return " · ".join(part for part in (f"Plots: {links}" if links else "", run) if part)


def _address(address: str) -> str:
    """An address inside <>, which ends at the first of these."""
    return address.replace("<", "%3C").replace(">", "%3E").replace("\n", "%0A")


def _section(title: str, *parts: str) -> str:
    body = "\n\n".join(part for part in parts if part)
    return f"#### {title}\n\n{body}" if parts and parts[0] else ""


def _table(head: Sequence[str], rows: Sequence[Iterable[Any]]) -> str:
    """A table, or nothing without rows; the rest of a long one is counted."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows[:_ROWS]]
    text = "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
    left = len(rows) - _ROWS
    return f"{text}\n\nand {left:,} more" if left > 0 else text
