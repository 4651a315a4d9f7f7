"""Labels in the store: once, whole or not at all, and few files out of many without losing or doubling one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tidegate.core.errors import Conflict
from tidegate.core.store import Store, open_store
from tidegate.core.store.lease import leased
from tidegate.serving.labels import ingest_labels, ingest_outcomes, joined, stored
from tidegate.serving.labels.status import status
from tidegate.serving.telemetry import write_records
from tidegate.serving.upkeep import erase

STREAM = "demand.local"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def label(number: int, text: str = "up", **more: Any) -> dict[str, Any]:
    return {"prediction_id": f"p{number}", "label": text, **more}


def kept(store: Store, kind: stored.Kind = "labels") -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return stored.reading(
            store, kind, STREAM, connection, lambda rows: rows.project("key, label").order("all").fetchall()
        )


def test_the_same_rows_again_are_known_and_write_nothing(store: Store) -> None:
    """With times of their own or without, on the same day or another one."""
    for rows in ([label(1), label(2)], [label(3, at=NOON), label(4, at=NOON)]):
        assert ingest_labels(store, STREAM, rows, NOON).accepted == 2
        for later in (timedelta(0), timedelta(hours=1), DAY):
            again = ingest_labels(store, STREAM, rows, NOON + later)
            assert (again.accepted, again.duplicates, again.file) == (0, 2, None)
    assert len(stored.files(store, "labels", STREAM)) == 2


def test_of_rows_that_are_known_in_part_only_the_new_ones_are_kept(store: Store) -> None:
    """A command may print all it knows every day, and the store holds it once."""
    ingest_labels(store, STREAM, [label(1), label(2)], NOON)
    done = ingest_labels(store, STREAM, [label(1), label(2, "down"), label(3), label(3)], NOON + DAY)
    assert (done.accepted, done.duplicates) == (2, 2)
    assert kept(store) == [("p1", "up"), ("p2", "down"), ("p2", "up"), ("p3", "up")]


def test_bad_rows_are_counted_with_their_line_and_the_others_are_kept(store: Store) -> None:
    """One wrong cell does not cost a day of labels."""
    done = ingest_labels(store, STREAM, [label(1), {"label": "up"}, label(2, "")], NOON)
    assert done.accepted == 1
    assert [(one.line, one.why) for one in done.rejected] == [
        (2, "it names no prediction: give one of prediction_id, id"),
        (3, "the label is missing"),
    ]


def test_many_small_files_become_one_and_the_old_ones_go_ten_minutes_later(store: Store) -> None:
    """Whoever listed them before can still read them, and nobody reads a label twice."""
    for number in range(5):
        ingest_labels(store, STREAM, [label(number)], NOON + timedelta(seconds=number))
    before = kept(store)
    later = NOON + timedelta(minutes=1)
    assert stored.compact(store, "labels", STREAM, later, few=5) == 5
    assert len(stored.files(store, "labels", STREAM)) == 1
    assert len(store.list("labels")) == 6
    assert kept(store) == before
    assert stored.compact(store, "labels", STREAM, later + timedelta(minutes=9), few=5) == 0
    assert len(store.list("labels")) == 6
    stored.compact(store, "labels", STREAM, later + timedelta(minutes=10), few=5)
    assert len(store.list("labels")) == 1
    assert kept(store) == before


def test_a_day_that_is_over_is_compacted_from_two_files_on_and_compacted_again(store: Store) -> None:
    """What comes late to an old compacted file joins it, whatever was deleted when."""
    ingest_labels(store, STREAM, [label(1)], NOON)
    ingest_labels(store, STREAM, [label(2), label(1, "down")], NOON + timedelta(seconds=1))
    assert stored.compact(store, "labels", STREAM, NOON + DAY) == 2
    ingest_labels(store, STREAM, [label(3)], NOON + timedelta(seconds=2))
    assert stored.compact(store, "labels", STREAM, NOON + DAY + timedelta(seconds=9)) == 2
    expected = [("p1", "down"), ("p1", "up"), ("p2", "up"), ("p3", "up")]
    assert kept(store) == expected
    stored.compact(store, "labels", STREAM, NOON + 2 * DAY)
    assert (kept(store), len(store.list("labels"))) == (expected, 1)


class Killed(BaseException):
    """A process that ended here."""


class Dying:
    """A store that is killed at its n-th change."""

    def __init__(self, inner: Store, changes: int) -> None:
        self._inner, self._left = inner, changes

    def __getattr__(self, name: str) -> Any:
        if name in {"put_if_absent", "delete", "write"}:
            if not self._left:
                raise Killed
            self._left -= 1
        return getattr(self._inner, name)


@pytest.mark.parametrize("changes", range(12))
def test_killed_at_any_change_compaction_loses_and_doubles_nothing(store: Store, changes: int) -> None:
    """Nor does the next one, nor the one after it."""
    for number in range(3):
        ingest_labels(store, STREAM, [label(number)], NOON + timedelta(seconds=number))
    stored.compact(store, "labels", STREAM, NOON + DAY)
    ingest_labels(store, STREAM, [label(9)], NOON + timedelta(seconds=9))
    before = kept(store)
    dying: Any = Dying(store, changes)
    try:
        stored.compact(dying, "labels", STREAM, NOON + DAY + timedelta(hours=1))
        stored.compact(dying, "labels", STREAM, NOON + DAY + timedelta(hours=2))
    except Killed:
        pass
    assert kept(store) == before
    for path in store.list("leases"):  # a process that is gone holds none
        store.delete(path)
    for hours in (3, 4):
        stored.compact(store, "labels", STREAM, NOON + DAY + timedelta(hours=hours))
        assert kept(store) == before
    assert len(store.list("labels")) == 1


def test_two_compactions_at_once_leave_every_label_there_once(store: Store) -> None:
    """Both may win: what both hold is the same statement."""
    for number in range(3):
        ingest_labels(store, STREAM, [label(number)], NOON + timedelta(seconds=number))
    names = store.list("labels")
    stored.compact(store, "labels", STREAM, NOON + DAY)
    ingest_labels(store, STREAM, [label(3)], NOON + timedelta(seconds=3))
    late = [name for name in store.list("labels") if "compact" not in name]
    stored._merge(store, "labels", late, NOON + DAY)
    assert set(names) < set(late)
    stored.compact(store, "labels", STREAM, NOON + 2 * DAY)
    stored.compact(store, "labels", STREAM, NOON + 3 * DAY)
    assert kept(store) == [(f"p{n}", "up") for n in range(4)]


def test_old_days_are_forgotten_whole(store: Store) -> None:
    """With the predictions they belong to."""
    for days in range(3):
        ingest_labels(store, STREAM, [label(days)], NOON + days * DAY)
    stored.maintain(store, STREAM, NOON + 3 * DAY, timedelta(days=2))
    assert kept(store) == [("p1", "up"), ("p2", "up")]


def test_a_file_that_goes_while_it_is_read_is_looked_for_again(store: Store) -> None:
    """A compaction elsewhere took its place."""
    ingest_labels(store, STREAM, [label(1)], NOON)
    seen = []

    def use(rows: Any) -> list[Any]:
        seen.append(1)
        if len(seen) == 1:
            raise duckdb.IOException("gone")
        found: list[Any] = rows.fetchall()
        return found

    with duckdb.connect() as connection:
        assert len(stored.reading(store, "labels", STREAM, connection, use)) == 1
    assert len(seen) == 2


def test_a_store_in_a_bucket_keeps_and_gives_labels_the_same_way() -> None:
    """Anything that fsspec speaks to; here a store in memory."""
    store = open_store("memory://labels-test")
    for number in range(2):
        ingest_labels(store, STREAM, [label(number)], NOON + timedelta(seconds=number))
    assert stored.compact(store, "labels", STREAM, NOON + DAY) == 2
    assert kept(store) == [("p0", "up"), ("p1", "up")]
    record = {"id": "p1", "at": NOON, "arm": "stable", "status": 200, "label": "up"}
    write_records(store, STREAM, [record], classes=["down", "up"], task="classification")
    with duckdb.connect() as connection:
        rows = joined(connection, store, STREAM, NOON, NOON + DAY)
        assert rows.project("id, truth").fetchall() == [("p1", "up")]
        assert status(connection, store, STREAM, NOON + DAY).unknown == 1


def test_while_a_user_is_erased_nothing_is_compacted(store: Store) -> None:
    """A compaction that read the rows before would bring them back after."""
    for number in range(2):
        ingest_labels(store, STREAM, [label(number)], NOON + timedelta(seconds=number))
    with leased(store, f"telemetry-{STREAM}", 0.0, Conflict):
        assert stored.compact(store, "labels", STREAM, NOON + DAY) == 0
    assert stored.compact(store, "labels", STREAM, NOON + DAY) == 2


def test_an_erased_user_stays_erased_in_compacted_labels_too(store: Store) -> None:
    """In the compacted file, and in those it stands for, which are still there."""
    records = [{"id": f"p{n}", "unit": n, "at": NOON, "arm": "stable", "status": 200} for n in range(3)]
    write_records(store, STREAM, records, classes=None, task="custom")
    for number in range(3):
        ingest_labels(store, STREAM, [label(number)], NOON + timedelta(seconds=number))
    stored.compact(store, "labels", STREAM, NOON + DAY)
    erase(store, STREAM, 1)
    assert {key for key, _ in kept(store)} == {"p0", "p2"}
    for days in (2, 3):
        stored.compact(store, "labels", STREAM, NOON + days * DAY)
        assert {key for key, _ in kept(store)} == {"p0", "p2"}


INGEST = """
import sys
from datetime import UTC, datetime
from tidegate.core.store import open_store
from tidegate.serving.labels import ingest_labels
rows = [{"prediction_id": f"p{n}", "label": n % 2} for n in range(40_000)]
print("ready", flush=True)
ingest_labels(open_store(sys.argv[1]), "demand.local", rows, datetime(2026, 11, 25, 12, tzinfo=UTC))
"""


def test_an_ingest_that_is_killed_leaves_all_or_nothing_and_the_next_one_completes_it(store: Store) -> None:
    """By kill -9 at moments all over it; the rerun keeps each label once."""
    rng = random.Random(1)
    wholes = set()
    for _ in range(2):
        command = [sys.executable, "-c", INGEST, store.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.random() * 0.8)
            os.kill(process.pid, signal.SIGKILL)
        wholes.add(len(kept(store)))
    assert wholes <= {0, 40_000}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert len(kept(store)) == 40_000
    assert len(store.list("labels")) == 1


def test_an_outcome_needs_its_time(store: Store) -> None:
    """Without one, a retry would count twice."""
    done = ingest_outcomes(store, STREAM, [{"unit": "ada", "name": "conversion"}], NOON)
    assert [one.why for one in done.rejected] == ["an outcome needs its time, or one sent twice would count twice"]
