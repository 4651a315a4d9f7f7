"""Windows of live data: columns over time as a heat map, and one window's columns as bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from tidegate.console.reports import Window
from tidegate.console.views.times import date_axis, end_of, number, period
from tidegate.console.views.words import Look
from tidegate.rollouts.charts import Axis, Chart, Line

COLUMN_WORDS: Final[Mapping[str, str]] = {
    "ok": "no drift",
    "drifted": "drifted",
    "missing_column": "missing",
    "all_null": "only nulls",
    "type_changed": "another type",
    "new_category": "new category",
    "too_few_rows": "too few rows",
    "no_reference": "nothing to compare with",
    "not_comparable": "recorded in another way",
}
# Neither good nor bad: nobody can tell.
_UNTOLD: Final = frozenset({"too_few_rows", "no_reference", "not_comparable"})
_MARKS: Final[Mapping[str, str]] = {
    "missing_column": "M",
    "all_null": "N",
    "type_changed": "T",
    "new_category": "C",
    "too_few_rows": "?",
    "no_reference": "?",
    "not_comparable": "?",
}
# Steps of the heat map: 1 is where a column counts as drifted.
_HEAT: Final = (0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0)
_MOST_COLUMNS: Final = 60
LIMIT: Final = 40
"""Where a bar's limit is drawn, of 100; what is 2.5 times as far fills the bar."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One column in one window: `heat` is 0 to 8, or -1 where there is no value; `mark` is one letter or none."""

    heat: int
    mark: str
    text: str


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One column over the windows."""

    name: str
    answer: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Columns by windows; `left_out` columns had no room."""

    windows: tuple[Window, ...]
    rows: tuple[HeatRow, ...]
    left_out: int


def heat_map(windows: Sequence[Window], most: int = _MOST_COLUMNS) -> HeatMap:
    """Every column over the windows, those that moved most in the newest ones first."""
    found = [{(bool(one.get("answer")), str(one["name"])): one for one in window.columns} for window in windows]
    names = dict.fromkeys(name for columns in reversed(found) for name in columns)
    ranked = sorted(names, key=lambda name: -max(_size(columns.get(name)) for columns in found[-6:]))
    rows = [
        HeatRow(
            name[1],
            name[0],
            tuple(_cell(columns.get(name), window) for columns, window in zip(found, windows, strict=True)),
        )
        for name in ranked[:most]
    ]
    return HeatMap(tuple(windows), tuple(rows), max(0, len(names) - most))


def importance(column: Mapping[str, Any]) -> float | None:
    """How much the model uses a column, as far as the reference knows."""
    return number(column.get("importance"))


def _cell(column: Mapping[str, Any] | None, window: Window) -> Cell:
    if column is None:
        return Cell(-1, "", f"{period(window)}: not compared")
    outcome = outcome_of(column)
    word = COLUMN_WORDS.get(outcome, outcome.replace("_", " "))
    value = number(column.get("value"))
    if value is None:
        return Cell(-1, _MARKS.get(outcome, "?"), f"{period(window)}: {word}")
    size = _size(column)
    heat = sum(size >= limit for limit in _HEAT) + 1 if size > 0 else 0
    limit = (number(column.get("floor")) or 0.0) + (number(column.get("threshold")) or 0.0)
    return Cell(heat, _MARKS.get(outcome, ""), f"{period(window)}: {value:.3g}, drifts from {limit:.3g}: {word}")


def outcome_of(column: Mapping[str, Any]) -> str:
    """The named outcome of a column."""
    return str(column.get("outcome") or ("drifted" if column.get("drifted") else "ok"))


def _size(column: Mapping[str, Any] | None) -> float:
    """How far the value is above its noise floor, in thresholds: at 1 the column drifts."""
    if column is None:
        return 0.0
    value, floor, threshold = (number(column.get(one)) for one in ("value", "floor", "threshold"))
    if value is None:
        return 0.0 if outcome_of(column) in {"ok", *_UNTOLD} else 1.0
    return max(0.0, value - (floor or 0.0)) / (threshold or 1.0)


@dataclass(frozen=True, slots=True)
class Bar:
    """A column's value against its limit.

    `numbers` are value, floor and threshold; `value` and `floor` are drawn on a scale of 100 on which every column's
    limit lies at `LIMIT`, so that bars can be compared.
    """

    name: str
    method: str
    outcome: str
    word: str
    look: Look
    importance: float | None
    answer: bool
    numbers: tuple[float | None, float | None, float | None]
    value: float
    floor: float
    detail: str


def bars(window: Window) -> list[Bar]:
    """The columns of one window, those that moved most first."""
    return [_bar(one) for one in sorted(window.columns, key=_size, reverse=True)]


def _bar(column: Mapping[str, Any]) -> Bar:
    value, floor, threshold = (number(column.get(one)) for one in ("value", "floor", "threshold"))
    outcome, limit = outcome_of(column), (floor or 0.0) + (threshold or 0.0)
    scale = LIMIT / max(limit, 1e-12)
    look: Look = "good" if outcome == "ok" else "plain" if outcome in _UNTOLD else "bad"
    return Bar(
        str(column["name"]),
        str(column.get("method") or ""),
        outcome,
        COLUMN_WORDS.get(outcome, outcome.replace("_", " ")),
        look,
        importance(column),
        bool(column.get("answer")),
        (value, floor, threshold),
        min(100.0, scale * (value or 0.0)),
        min(100.0, scale * (floor or 0.0)),
        str(column.get("note") or ""),
    )


def share_chart(windows: Sequence[Window], limit: float) -> Chart | None:
    """The weight of the drifted columns over the windows, against what counts as drift; None if too few."""
    points = [(end_of(one), 100 * one.watched.share) for one in windows if one.watched.share is not None]
    if len(points) < 2:  # noqa: PLR2004 - a line needs two points
        return None
    axis = date_axis(points[0][0], points[-1][0])
    limits = Line("threshold", f"drift from {100 * limit:g} %", [(axis.low, 100 * limit), (axis.high, 100 * limit)])
    ticks = tuple((float(at), str(at)) for at in (0, 25, 50, 75, 100))
    return Chart(
        "Share of the model's inputs that drifted",
        f"Over {len(points)} windows; {points[-1][1]:.0f} % in the newest.",
        axis,
        Axis(0, 104, ticks, "per cent, weighted by importance"),
        [limits, Line("effect", "drifted share", points)],
    )


def gaps(windows: Iterable[Window]) -> int:
    """How many windows nobody looked at between those there are."""
    return sum(before.watched.until != after.watched.since for before, after in pairwise(windows))
