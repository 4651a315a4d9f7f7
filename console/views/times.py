"""Moments and numbers of documents, and an axis of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from tidegate.console.reports import Window
from tidegate.rollouts.charts import Axis
from tidegate.serving.service.records import utc

_TICKS: Final = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 2 * 86_400, 7 * 86_400, 30 * 86_400)


def period(window: Window) -> str:
    """The window's time: "2026-01-02 03:00 to 04:00 UTC"."""
    since, until = (moment(one) for one in (window.watched.since, window.watched.until))
    last = f"{until:%H:%M}" if since.date() == until.date() else f"{until:%Y-%m-%d %H:%M}"
    if last.endswith(" 00:00") and until - since <= timedelta(days=1):
        last = "24:00"
    return f"{since:%Y-%m-%d %H:%M} to {last} UTC"


def date_axis(low: float, high: float) -> Axis:
    """From one moment to another (seconds since the epoch), with ticks at round times in UTC."""
    high = max(high, low + 1)
    step = next((one for one in _TICKS if (high - low) / one <= 5), int(high - low) // 4)  # noqa: PLR2004 - what fits
    first = -(-int(low) // step) * step
    pattern = "%H:%M" if step < 86_400 else "%m-%d"  # noqa: PLR2004 - a day
    at = range(first, int(high) + 1, step)
    return Axis(low, high, tuple((float(one), f"{datetime.fromtimestamp(one, UTC):{pattern}}") for one in at))


def end_of(window: Window) -> float:
    """When a window ended, seconds since the epoch."""
    return moment(window.watched.until).timestamp()


def moment(at: str) -> datetime:
    """A time in ISO 8601; one without a zone is in UTC."""
    return utc(datetime.fromisoformat(at))


def number(value: object) -> float | None:
    """A finite number, or None for anything else that a document may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def seconds_between(since: str, until: str) -> float | None:
    """Between two moments in ISO 8601; None while the second one has not come."""
    return (moment(until) - moment(since)).total_seconds() if since and until else None
