"""When the records of a file were made, by its footer: a minute is read from its own files, not from all of an hour."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from tidegate.core.store import Store
from tidegate.serving.service.records import utc

# Names and two moments: some 50 MB at the most, months of files.
_MOST: Final = 200_000
_known: dict[tuple[str, str], tuple[datetime, datetime] | None] = {}


def may_hold(store: Store, file: str, since: datetime, until: datetime) -> bool:
    """Whether a file may hold records of [since, until), both in UTC.

    A footer is read once: a file keeps its name and, unless a user is erased from it, its records.
    """
    key = store.url, file
    if key not in _known:
        if len(_known) >= _MOST:
            _known.clear()
        _known[key] = _times(store, file)
    times = _known[key]
    return times is None or (times[0] < until and times[1] >= since)


def _times(store: Store, file: str) -> tuple[datetime, datetime] | None:
    """The first and the last `at`; None where the footer does not say, or nobody can read it now."""
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(store.location(file), filesystem=store.filesystem)
    except (OSError, ValueError):
        return None
    column = footer.schema.names.index("at") if "at" in footer.schema.names else -1
    groups = [footer.row_group(number).column(column) for number in range(footer.num_row_groups)] if column >= 0 else []
    found = [one.statistics for one in groups]
    if not found or any(one is None or not one.has_min_max for one in found):
        return None
    return min(utc(one.min) for one in found), max(utc(one.max) for one in found)
