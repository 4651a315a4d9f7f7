"""Records that are rewritten meet a reader once, whoever is killed where; what is to be gone is gone everywhere."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.core.config import Config
from tidegate.core.errors import Conflict
from tidegate.core.store import Store, open_store
from tidegate.core.store.lease import leased
from tidegate.serving import upkeep
from tidegate.serving.telemetry import COMPACTED, Predictions, write_records

STREAM = "demand.local"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=2)
ADA, BOB = 7_777_777, 22


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def record(number: int, at: datetime, unit: int = BOB, **more: Any) -> dict[str, Any]:
    inputs = {"input.price": 1.5, "input.colour": "red"}
    return {"id": f"p{number}", "at": at, "unit": unit, "arm": "stable", "status": 200, "label": "up", **inputs, **more}


def fill(store: Store, files: int = 6, hours: int = 2) -> None:
    """Files of two records each, the first of Ada."""
    for number in range(files * hours):
        at = NOON + timedelta(hours=number // files, seconds=number)
        rows = [record(2 * number, at, ADA, caller=f"o{number}"), record(2 * number + 1, at)]
        write_records(store, STREAM, rows, classes=["down", "up"], task="classification")


def ids(store: Store) -> list[str]:
    with duckdb.connect() as connection:
        since = NOON - timedelta(days=2)
        relation = Predictions(store, STREAM).relation(connection, since, since + timedelta(days=4), ["id"])
        return [row[0] for row in relation.order("id").fetchall()]


def everything(store: Store) -> str:
    """All that physically lies in the store, as text."""
    tables = [pq.read_table(io.BytesIO(store.read(path))) for path in store.list("") if path.endswith(".parquet")]
    return str([table.to_pylist() for table in tables])


def test_the_files_of_a_past_hour_become_one_and_no_record_changes(store: Store) -> None:
    """The running hour is left alone; what was replaced goes when nobody can be reading it any more."""
    fill(store)
    before = ids(store)
    assert upkeep.compact(store, STREAM, NOON + timedelta(hours=1), LATER) == 6
    assert ids(store) == before
    first, second = Predictions(store, STREAM).hours().values()
    assert (len(first), len(second)) == (7, 6)
    assert len(Predictions(store, STREAM).live(first)) == 1
    assert upkeep.compact(store, STREAM, NOON + timedelta(hours=1), LATER + timedelta(hours=1)) == 0
    (only,) = next(iter(Predictions(store, STREAM).hours().values()))
    assert ids(store) == before
    table = pq.read_table(io.BytesIO(store.read(only)), partitioning=None)
    assert table.schema.metadata[b"tidegate.classes"] == b'["down", "up"]'
    assert (table.num_rows, table.column("input.colour").to_pylist()[0]) == (12, "red")


def test_records_that_come_late_join_an_hour_that_was_compacted(store: Store) -> None:
    """A store was away, say; the hour is compacted again, also when nothing was cleared in between."""
    fill(store, hours=1)
    upkeep.compact(store, STREAM, LATER, LATER)
    write_records(store, STREAM, [record(99, NOON)], classes=["down", "up"], task="classification")
    before = ids(store)
    assert upkeep.compact(store, STREAM, LATER, LATER) == 2
    assert ids(store) == before
    upkeep.compact(store, STREAM, LATER, LATER + timedelta(hours=1))
    assert ids(store) == before
    assert len(store.list("telemetry")) == 1


def test_files_whose_columns_or_classes_differ_stay_apart(store: Store) -> None:
    """Probabilities would mean something else, and a hashed column is no number."""
    rows = [record(1, NOON)]
    for classes, more in ((["a", "b"], {}), (["b", "a"], {}), (["a", "b"], {"input.price": "0f"})):
        for number in range(2):
            changed = [{**row, "id": f"{classes}{more}{number}", **more} for row in rows]
            write_records(store, STREAM, changed, classes=classes, task="classification")
    before = ids(store)
    assert upkeep.compact(store, STREAM, LATER, LATER) == 6
    assert len(Predictions(store, STREAM).live(next(iter(Predictions(store, STREAM).hours().values())))) == 3
    assert ids(store) == before


def test_a_large_hour_gets_several_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a rewrite needs bounded memory."""
    fill(store, files=9, hours=1)
    before = ids(store)
    one = pq.read_metadata(io.BytesIO(store.read(store.list("telemetry")[0]))).row_group(0).total_byte_size
    monkeypatch.setattr(upkeep, "MOST_BYTES", int(3.5 * one))
    assert upkeep.compact(store, STREAM, LATER, LATER) == 9
    assert sum(COMPACTED in file for file in store.list("telemetry")) == 3
    assert ids(store) == before


def test_what_is_older_than_its_time_goes_by_whole_hours(store: Store) -> None:
    """With the files that compaction left."""
    fill(store)
    upkeep.compact(store, STREAM, NOON + timedelta(hours=1), LATER)
    assert upkeep.expire(store, STREAM, NOON + timedelta(minutes=59)) == 0
    assert upkeep.expire(store, STREAM, NOON + timedelta(hours=1)) == 7
    assert len(ids(store)) == 12


def test_the_schedule_compacts_and_expires_as_the_config_says(store: Store) -> None:
    """And does nothing while somebody else does."""
    raw = {"model": "demand", "data": {"path": "d.csv", "target": "y"}}
    config = Config.model_validate({**raw, "serve": {"capture": {"retention": 7200.0}}})
    fill(store, hours=3)
    now = NOON + timedelta(hours=3, minutes=5)
    with leased(store, f"telemetry-{STREAM}", 0.0, Conflict):
        assert upkeep.maintain(store, STREAM, config, now) == upkeep.Kept()
    assert upkeep.maintain(store, STREAM, config, now) == upkeep.Kept(compacted=6, expired=6)
    assert len(Predictions(store, STREAM).files(NOON, LATER + timedelta(hours=1))) == 7


def outcome(by: str, key: str | None, unit: int | None) -> dict[str, Any]:
    return {"by": by, "key": key, "unit": unit, "name": "conversion", "value": 1.0, "at": NOON, "received": NOON}


def put(store: Store, path: str, rows: list[dict[str, Any]]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    store.write(path, buffer.getvalue())


def fill_events(store: Store) -> None:
    """Labels and outcomes of Ada by prediction, by her order and by her name, and one of each of Bob."""
    labels = [("prediction", "p0"), ("caller", "o1"), ("prediction", "p1"), ("caller", "bob-1")]
    put(
        store,
        f"labels/{STREAM}/date=2026-11-25/aa.parquet",
        [{"by": by, "key": key, "label": "up", "at": NOON, "received": NOON} for by, key in labels],
    )
    put(store, f"labels/{STREAM}/date=2026-11-25/bb.parquet", [{"by": "prediction", "key": "p2", "label": "up"}])
    events = [outcome("unit", None, ADA), outcome("unit", None, BOB), outcome("prediction", "p4", None)]
    put(store, f"outcomes/{STREAM}/date=2026-11-25/cc.parquet", events)


def test_a_user_is_erased_from_predictions_labels_and_outcomes(store: Store) -> None:
    """In old and in compacted files, and in those that compaction has left; nobody else loses anything."""
    fill(store)
    fill_events(store)
    upkeep.compact(store, STREAM, NOON + timedelta(hours=1), LATER)
    others = [name for name in ids(store) if int(name[1:]) % 2]
    assert upkeep.erase(store, STREAM, ADA) == upkeep.Erased(predictions=12, labels=3, outcomes=2)
    assert ids(store) == others
    left = everything(store)
    assert str(ADA) not in left
    assert all(name not in left for name in ("'o1'", "'p0'", "'p2'", "'p4'"))
    assert left.count("'bob-1'") == left.count("conversion") == 1
    assert upkeep.erase(store, STREAM, ADA) == upkeep.Erased(0, 0, 0)
    assert upkeep.compact(store, STREAM, LATER, LATER) > 0
    assert ids(store) == others


class Killed(BaseException):
    """As kill -9: nothing after it runs."""


class Mortal:
    """A store whose user is killed before the given change of a file, and does nothing more."""

    def __init__(self, store: Store, last: int) -> None:
        self._store, self._left = store, last

    def __getattr__(self, name: str) -> Any:
        found: Callable[..., Any] = getattr(self._store, name)
        if name not in {"write", "delete", "put_if_absent"}:
            return found

        def change(*values: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise Killed
            return found(*values)

        return change


@pytest.mark.parametrize("what", ["compact", "erase"])
def test_who_is_killed_at_any_step_loses_and_doubles_nothing(tmp_path: Path, what: str) -> None:
    """Readers see every record once right after it, and the same command does the rest."""
    steps = 0
    while True:
        store = open_store(str(tmp_path / str(steps)))
        fill(store, files=3, hours=2 if what == "compact" else 1)
        fill_events(store)
        upkeep.compact(store, STREAM, NOON + timedelta(hours=1), LATER)
        before = ids(store)
        others = [name for name in before if int(name[1:]) % 2]
        mortal: Any = Mortal(store, steps)
        try:
            done = act(mortal, what)
        except Killed:
            done = None
        found = ids(store)
        assert max(Counter(found).values()) == 1
        assert set(others) <= set(found) <= set(before)
        if what == "compact":
            assert found == before
        for path in store.list("leases"):
            store.delete(path)  # as for a holder that is dead
        act(store, what)
        if what == "erase":
            assert ids(store) == others
            assert "'o1'" not in everything(store)
        else:
            assert ids(store) == before
        if done is not None:
            break
        steps += 1
    assert steps > 5


def act(store: Store, what: str) -> object:
    """Compact so late that what was replaced goes too, or erase."""
    if what == "compact":
        return upkeep.compact(store, STREAM, LATER + timedelta(hours=1), LATER + timedelta(hours=1))
    return upkeep.erase(store, STREAM, ADA)
