"""A minute is read from its own files: footers say which those are, and a file that does not say is always read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tidegate.core.store import open_store
from tidegate.serving.record_times import may_hold
from tidegate.serving.telemetry import Predictions, write_records

BEGAN = datetime(2026, 11, 20, 10, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_only_files_of_the_time_in_question_are_read(tmp_path: Path) -> None:
    """By the first and last record of each; the ends belong as the records' own do."""
    store = open_store(str(tmp_path))
    for number in range(4):
        records = [{"id": f"{number}-{k}", "at": BEGAN + number * MINUTE + timedelta(seconds=k)} for k in (0, 30)]
        write_records(store, "m.local", records, classes=None, task="custom", writer=f"w{number}")
    found = Predictions(store, "m.local")

    def names(since: timedelta, until: timedelta) -> list[str]:
        return [path.rsplit("/", 1)[1][:2] for path in found.files(BEGAN + since, BEGAN + until)]

    assert names(timedelta(0), timedelta(hours=1)) == ["w0", "w1", "w2", "w3"]
    assert names(MINUTE, 2 * MINUTE) == ["w1"]
    assert names(timedelta(seconds=30), MINUTE + timedelta(microseconds=1)) == ["w0", "w1"]
    assert names(timedelta(seconds=31), MINUTE) == []


def test_a_file_without_times_may_hold_anything(tmp_path: Path) -> None:
    """One that is torn, absent or of another make is left to the reader, which says what is wrong with it."""
    store = open_store(str(tmp_path))
    store.write("torn.parquet", b"PAR1")
    assert may_hold(store, "absent.parquet", BEGAN, BEGAN + MINUTE)
    assert may_hold(store, "torn.parquet", BEGAN, BEGAN + MINUTE)
