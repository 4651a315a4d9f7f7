"""Which stretch of time is looked at: windows of one length on a grid that begins with 1970, in UTC.

Everybody who asks gets the same windows, whenever they ask, so a window is looked at once, whoever does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tidegate.core.errors import UsageError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """From `since` to before `until`, both in UTC."""

    since: datetime
    until: datetime

    @property
    def name(self) -> str:
        """What its folder of reports is called."""
        return f"{self.since:%Y%m%dT%H%M%SZ}"


def containing(moment: datetime, seconds: float) -> Window:
    """The window of the grid that a moment lies in."""
    length = timedelta(seconds=seconds)
    since = _EPOCH + (moment - _EPOCH) // length * length
    return Window(since, since + length)


def closed(begin: datetime, now: datetime, seconds: float, grace: float) -> Iterator[Window]:
    """The windows from `begin` on that are over, oldest first.

    Args:
        begin: a window that began before it is not looked at, unless `begin` is in the first that is.
        now: the time.
        seconds: the length of a window.
        grace: seconds that records may come late; a window is over this long after its end.
    """
    window = containing(begin, seconds)
    while window.until + timedelta(seconds=grace) <= now:
        yield window
        window = Window(window.until, window.until + timedelta(seconds=seconds))


def without_gaps(windows: Iterator[Window], empty: Callable[[Window], bool]) -> Iterator[Window]:
    """The same, but neighbours without a record are one: an idle month is one entry of the ledger, not 720."""
    gap: Window | None = None
    for window in windows:
        if empty(window):
            gap = Window(gap.since if gap else window.since, window.until)
            continue
        if gap:
            yield gap
        gap = None
        yield window
    if gap:
        yield gap


def parse(text: str) -> Window:
    """The window that a person types, `FROM..UNTIL` in ISO 8601; a time without a zone is in UTC.

    Raises:
        UsageError: it is none.
    """
    since, dots, until = text.partition("..")
    try:
        window = Window(_moment(since), _moment(until))
    except ValueError as error:
        raise UsageError(f"{text!r} is no window: {error}.", _EXAMPLE) from error
    if not dots or window.since >= window.until:
        raise UsageError(f"{text!r} is no window: it must end after it begins.", _EXAMPLE)
    return window


_EXAMPLE: Final = "Write `--window 2026-11-25T10:00..2026-11-25T11:00`."


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text.strip())
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
