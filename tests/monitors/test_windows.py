"""Windows lie on one grid, are looked at when they are over, and an idle month is one of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from tidegate.core.errors import UsageError
from tidegate.monitors.windows import Window, closed, containing, parse, without_gaps

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def test_everybody_gets_the_same_windows() -> None:
    """Whenever one asks, an hour begins at the full hour of UTC."""
    found = containing(NOON + timedelta(minutes=34, seconds=5), 3600)
    assert (found.since, found.until) == (NOON, NOON + timedelta(hours=1))
    assert found.name == "20261125T120000Z"


def test_a_window_is_over_when_late_records_are_in() -> None:
    """The last flush comes some seconds after the window's end."""
    end = NOON + timedelta(hours=1)
    assert list(closed(NOON, end + timedelta(seconds=6), 3600, 7)) == []
    assert [one.since for one in closed(NOON, end + timedelta(seconds=7), 3600, 7)] == [NOON]


def test_windows_follow_each_other_without_a_gap() -> None:
    """Each begins where the one before ended."""
    found = list(closed(NOON, NOON + timedelta(hours=5), 3600, 0))
    assert len(found) == 5
    assert all(one.until == following.since for one, following in pairwise(found))


def test_neighbours_without_a_record_are_one_window() -> None:
    """An idle night is one entry of the ledger."""
    hours = list(closed(NOON, NOON + timedelta(hours=6), 3600, 0))
    busy = {hours[0], hours[4]}
    found = list(without_gaps(iter(hours), lambda one: one not in busy))
    assert found == [hours[0], Window(hours[1].since, hours[3].until), hours[4], hours[5]]


@pytest.mark.parametrize("text", ["", "now", "2026-11-25T10:00", "2026-11-25T10:00..2026-11-25T09:00", "a..b"])
def test_what_is_no_window_is_refused_with_an_example(text: str) -> None:
    """The hint shows how one is written."""
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert "--window 2026" in refused.value.hint


def test_a_window_is_typed_in_any_zone() -> None:
    """Without a zone it is in UTC."""
    assert parse("2026-11-25T13:00+01:00..2026-11-25T13:00") == Window(NOON, NOON + timedelta(hours=1))
