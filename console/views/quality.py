"""How good the answers of each window were, by the labels that came."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.console.reports import Window
from tidegate.console.views.times import date_axis, end_of, number
from tidegate.console.views.words import Look
from tidegate.rollouts.charts import Band, Chart, Line, number_axis


@dataclass(frozen=True, slots=True)
class QualityRow:
    """Quality of one version in one window."""

    window: Window
    version: str
    arm: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    reference: float | None
    labelled: int
    predictions: int
    share: float | None
    look: Look
    word: str
    better: str = ""


def quality_rows(windows: Sequence[Window]) -> list[QualityRow]:
    """Every version in every window, newest first."""
    return [_quality(window, one) for window in reversed(windows) for one in window.qualities]


def _quality(window: Window, told_of: Mapping[str, Any]) -> QualityRow:
    why, lost, value = told_of.get("cannot_tell"), told_of.get("lost"), number(told_of.get("value"))
    look: Look = "bad" if lost else "plain" if why or value is None else "good"
    word = "lost" if lost else f"cannot tell: {why}" if why else "kept" if value is not None else "no labels yet"
    return QualityRow(
        window,
        str(told_of.get("version", "?")),
        str(told_of.get("arm") or ""),
        str(told_of.get("metric") or (window.document.get("quality") or {}).get("metric") or ""),
        value,
        number(told_of.get("low")),
        number(told_of.get("high")),
        number(told_of.get("reference")),
        int(number(told_of.get("labelled")) or 0),
        int(number(told_of.get("predictions")) or 0),
        number(told_of.get("share_labelled")),
        look,
        word,
        str(told_of.get("better") or ""),
    )


def quality_charts(rows: Sequence[QualityRow], tolerance: float, *, higher_is_better: bool) -> list[Chart]:
    """For each version that was measured twice or more, the newest first: value with its interval, and its limit."""
    charts = []
    for one in dict.fromkeys(row.version for row in rows):
        seen = sorted(
            (row for row in rows if row.version == one and row.value is not None and row.arm != "canary"),
            key=lambda row: end_of(row.window),
        )
        if len(seen) > 1:
            charts.append(_quality_chart(one, seen, tolerance if higher_is_better else -tolerance))
    return charts


def _quality_chart(name: str, rows: Sequence[QualityRow], tolerance: float) -> Chart:
    def line(of: Callable[[QualityRow], float | None]) -> list[tuple[float, float]]:
        return [(end_of(row.window), value) for row in rows if (value := of(row)) is not None]

    axis = date_axis(end_of(rows[0].window), end_of(rows[-1].window))
    value = line(lambda row: row.value)
    reference = line(lambda row: row.reference)
    limit = [(x, y - tolerance) for x, y in reference]
    whole = [row for row in rows if row.low is not None and row.high is not None]
    low, high = ([(end_of(row.window), number(of(row)) or 0.0) for row in whole] for of in (_low, _high))
    heights = [y for points in (value, reference, limit, low, high) for _, y in points]
    air = 0.06 * (max(heights) - min(heights)) or 0.01
    metric = rows[-1].metric
    lines = [Line("safe", "on the holdout", reference), Line("harm", "lost beyond this", limit)] if reference else []
    return Chart(
        f"Version {name}: {metric}",
        f"Over {len(rows)} windows; {value[-1][1]:.3g} in the newest.",
        axis,
        number_axis(min(heights) - air, max(heights) + air, metric),
        [*lines, Line("effect", metric, value)],
        [Band("interval", "95 % interval", low, high)],
    )


def _low(row: QualityRow) -> float | None:
    return row.low


def _high(row: QualityRow) -> float | None:
    return row.high
