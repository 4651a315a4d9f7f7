"""The gate's decision: measured facts and the `gate` section in, a GateResult with every reason out. No I/O.

Nothing that could not be measured passes: a metric that is no number or has no bound, and a latency or size that is
limited but was not measured, are reasons to refuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidegate.core.artifacts import GateResult

if TYPE_CHECKING:
    from tidegate.core.config import Gate
    from tidegate.core.metrics import Direction

# Rows below which nothing is judged by itself: AUC of 50 rows moves by several points by chance.
LEAST_ROWS = 100


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of both models on the same rows.

    Args:
        metric: its name.
        challenger: its value.
        champion: its value.
        advantage_low: the 95 % lower bound of how much better the challenger is; NaN if there is none.
        tolerance: how much worse is accepted, in the metric's unit.
        slice: which rows, as `column = value`; empty for all of them.
        rows: how many.
        advantage_high: the 95 % upper bound; it decides nothing, reports show it.
    """

    metric: str
    challenger: float
    champion: float
    advantage_low: float
    tolerance: float
    slice: str = ""
    rows: int = 0
    advantage_high: float = math.nan

    @property
    def holds(self) -> bool:
        """Whether it is surely not worse than is tolerated; a hair of float noise must not refuse an equal model."""
        return math.isfinite(self.advantage_low) and -self.advantage_low <= self.tolerance + 1e-12


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a request: its kind, and whether it may be missing."""

    name: str
    kind: str
    nullable: bool


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of the rows held out, those that the champion learnt from: they say nothing about it, so they are left out.

    Args:
        rows: how many are held out.
        learnt: how many of them it learnt from; None if that is not known.
        unknown: why it is not.
    """

    rows: int
    learnt: int | None
    unknown: str = ""

    @property
    def left(self) -> int:
        """The rows to compare on."""
        return self.rows - (self.learnt or 0)

    @property
    def enough(self) -> bool:
        """Whether so many speak for all: a tenth of the rows and 100 of them, or half of a small holdout."""
        return self.left >= min(max(LEAST_ROWS, self.rows / 10), self.rows / 2)


@dataclass(frozen=True, slots=True)
class Problem:
    """What could not be measured, a sentence, and what its reader can do about it."""

    text: str
    advice: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything measured about a challenger, and about the champion where there is one.

    Args:
        metric: the decisive metric; `value` is the challenger's, `direction` says which way is better.
        champion: the version compared with, None if the model has none.
        comparisons: of the decisive metric, the checks and the slices.
        overlap: which rows they were compared on; None without a champion.
        problems: what could not be measured.
        notes: what a reader should know, a sentence each.
        latency_p99: seconds for one row; None if it was not measured, which refuses where the gate limits it.
        size: bytes of the model; None as above.
        columns, champion_columns: what callers send to each.
        classes, champion_classes: what each can answer; empty where it is a number, or not known.
    """

    metric: str
    value: float
    direction: Direction
    champion: int | None = None
    comparisons: Sequence[Comparison] = ()
    overlap: Overlap | None = None
    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()
    latency_p99: float | None = None
    size: int | None = None
    columns: Sequence[Column] = ()
    champion_columns: Sequence[Column] = ()
    classes: Sequence[object] = ()
    champion_classes: Sequence[object] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Finding:
    """`advice`: what its reader can change, a sentence; only said of a refusal."""

    good: bool
    text: str
    advice: str = ""


def decide(facts: Facts, gate: Gate) -> GateResult:
    """Pass only if nothing speaks against it; every reason is given, refusals first."""
    findings = [
        *(_Finding(good=False, text=one.text, advice=one.advice) for one in facts.problems),
        *_required(facts, gate),
        *_overlap(facts),
        *(_compared(one, facts) for one in facts.comparisons),
        *_schema(facts),
        *_classes(facts),
        *_budgets(facts, gate),
        *(_Finding(good=True, text=note) for note in facts.notes),
    ]
    if facts.champion is None:
        findings.append(_Finding(good=True, text="there is no champion to compare with"))
    ordered = sorted(findings, key=lambda finding: finding.good)
    return GateResult(
        passed=all(finding.good for finding in findings),
        reasons=tuple(("ok: " if one.good else "refused: ") + one.text for one in ordered),
        champion=facts.champion,
        metrics={**facts.metrics, facts.metric: facts.value},
        advice=tuple(dict.fromkeys(one.advice for one in findings if one.advice and not one.good)),
    )


def _required(facts: Facts, gate: Gate) -> list[_Finding]:
    # Also without a requirement: the first champion would otherwise be one that nobody measured.
    if not math.isfinite(facts.value):
        advice = "Hold out more rows (data.split.holdout), or choose another gate.metric."
        return [_Finding(good=False, text=f"{facts.metric} is not defined on the holdout", advice=advice)]
    if gate.required is None:
        return []
    higher = facts.direction == "higher"
    good = facts.value >= gate.required if higher else facts.value <= gate.required
    word = "at least" if higher else "at most"
    text = f"{facts.metric} is {facts.value:.4g}, {word} {gate.required:.4g} is required"
    return [_Finding(good, text, f"gate.required in tidegate.yaml draws that line: {gate.required:.4g}.")]


def _overlap(facts: Facts) -> list[_Finding]:
    """On which rows the models were compared, or that there are too few of them."""
    if facts.overlap is None:
        return []
    rows, learnt, left = facts.overlap.rows, facts.overlap.learnt, facts.overlap.left
    champion = f"version {facts.champion}"
    if facts.overlap.enough and not facts.comparisons:
        return []  # another reason says why
    if learnt is None:
        text = f"which of the {rows:,} rows held out {champion} learnt from is not known ({facts.overlap.unknown})"
        return [_Finding(good=True, text=f"{text}; it may look better than it is")]
    if facts.overlap.enough:
        of = f"the {left:,} of {rows:,} rows held out" if learnt else f"{rows:,} rows"
        return [_Finding(good=True, text=f"compared on {of} that {champion} did not learn from")]
    return [
        _Finding(
            good=False,
            text=f"{champion} was trained on {learnt:,} of the {rows:,} rows held out, and {left:,} others are too few "
            "to compare it on",
            advice="Keep data.split and the columns as they were, so that the same rows stay held out; or hold out "
            f"newer rows (`by: time`), which {champion} has not seen. A column that names each row keeps it on its "
            "side whatever else changes: `split: {by: group, column: NAME}`.",
        )
    ]


def _compared(one: Comparison, facts: Facts) -> _Finding:
    where = f" where {one.slice} ({one.rows:,} rows)" if one.slice else ""
    text = f"{one.metric}{where} is {one.challenger:.4g}, version {facts.champion} has {one.champion:.4g}"
    if not math.isfinite(one.advantage_low):
        advice = "Hold out more rows (data.split.holdout)" + (", or leave that slice out." if one.slice else ".")
        return _Finding(good=False, text=f"{text}; too few rows to say how much worse it could be", advice=advice)
    worse = -one.advantage_low
    could = f"worse by at most {worse:.4g}" if worse > 0 else f"better by at least {abs(worse):.4g}"
    if worse == 0:
        could = "not worse"
    return _Finding(
        good=one.holds,
        text=f"{text}: {could} (95 %), {one.tolerance:.4g} is tolerated",
        advice=f"To accept a model that much worse, set {_tolerance(one, facts)} in tidegate.yaml to {_up(worse)}"
        f" (now {one.tolerance:.4g}).",
    )


def _tolerance(one: Comparison, facts: Facts) -> str:
    """Where the config says how much worse this may be."""
    if one.slice:
        return f"the tolerance of the slice {one.slice} under gate.slices"
    return "gate.tolerance" if one.metric == facts.metric else f"the tolerance of {one.metric} under gate.checks"


def _up(worse: float) -> str:
    """The next larger number of two digits: what has to be tolerated for this to pass."""
    step = 10.0 ** (math.floor(math.log10(worse)) - 1) if worse > 0 else 1.0
    return f"{math.ceil(worse / step) * step:.2g}"


def _schema(facts: Facts) -> list[_Finding]:
    """Whether requests that the champion answers can be answered by the challenger: both get the same ones."""
    if facts.champion is None:
        return []
    new, old = ({column.name: column for column in side} for side in (facts.columns, facts.champion_columns))
    findings = []
    advice = (
        f"Both versions get the same requests: keep the columns of version {facts.champion}, or make a new one "
        "optional by rows in which it is missing."
    )
    for name, column in new.items():
        before = old.get(name)
        if before is None:
            text = f"column {name!r} is new; callers of version {facts.champion} do not send it"
            text += ", and it may be missing" * column.nullable
            findings.append(_Finding(good=column.nullable, text=text, advice=advice))
        elif not _accepts(column.kind, before.kind):
            text = f"column {name!r} changed from {before.kind} to {column.kind}"
            findings.append(_Finding(good=False, text=text, advice=advice))
        elif before.nullable and not column.nullable:
            text = f"column {name!r} may be missing in requests to version {facts.champion}, but not any more"
            findings.append(_Finding(good=False, text=text, advice=advice))
    findings += [
        _Finding(
            good=False, text=f"column {name!r} is gone; callers of version {facts.champion} send it", advice=advice
        )
        for name in old
        if name not in new
    ]
    return findings or [_Finding(good=True, text="callers send the same columns")]


def classes_changed(new: Sequence[object], old: Sequence[object]) -> str:
    """Which classes are new and which are gone; empty if none, or if one side is not known."""
    # By how they are written: to the caller who reads JSON, 1, true and "1" are three answers.
    now, before = ({repr(one) for one in side} for side in (new, old))
    if not now or not before:
        return ""
    parts = [("new", sorted(now - before)), ("gone", sorted(before - now))]
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in parts if names)


def _classes(facts: Facts) -> list[_Finding]:
    """Whether both give the same answers; metrics of different questions cannot be compared either."""
    changed = classes_changed(facts.classes, facts.champion_classes)
    if facts.champion is None or not changed:
        return []
    return [
        _Finding(
            good=False,
            text=f"the classes are others than those of version {facts.champion}: {changed}",
            advice=f"Callers of version {facts.champion} know its classes only: find out why the target has others, or "
            "give the new model a name of its own (`model` in tidegate.yaml).",
        )
    ]


def _accepts(new: str, old: str) -> bool:
    return new == old or (new, old) == ("number", "integer")


def _budgets(facts: Facts, gate: Gate) -> list[_Finding]:
    findings = []
    if gate.latency_p99 is not None:
        allowed = f"{gate.latency_p99 * 1e3:.3g} ms is allowed"
        if facts.latency_p99 is None or not math.isfinite(facts.latency_p99):
            findings.append(_Finding(good=False, text=f"the latency of one row was not measured, {allowed}"))
        else:
            text = f"one row takes {facts.latency_p99 * 1e3:.3g} ms at p99, {allowed}"
            limit = "gate.latency_p99 in tidegate.yaml draws that line; a smaller model answers faster."
            findings.append(_Finding(facts.latency_p99 <= gate.latency_p99, text, limit))
    if gate.size is not None:
        allowed = f"{gate.size / 1e6:.3g} MB is allowed"
        if facts.size is None:
            findings.append(_Finding(good=False, text=f"the size of the model was not measured, {allowed}"))
        else:
            text = f"the model has {facts.size / 1e6:.3g} MB, {allowed}"
            findings.append(_Finding(facts.size <= gate.size, text, "gate.size in tidegate.yaml draws that line."))
    return findings
