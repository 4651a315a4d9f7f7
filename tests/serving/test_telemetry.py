"""Recorded predictions lie in the store by hour, and are read whole, once, and by time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tidegate.core.store import Store, open_store
from tidegate.serving.service.records import KINDS, PLACES
from tidegate.serving.telemetry import Predictions, label_text, salt_of, unit_hash, write_records

STREAM = "demand.local"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def record(number: int, at: datetime, **more: Any) -> dict[str, Any]:
    return {"id": f"p{number}", "at": at, "arm": "stable", "status": 200, "label": "up", "input.price": 1.5, **more}


def write(store: Store, *records: dict[str, Any]) -> list[str]:
    return write_records(store, STREAM, records, classes=["down", "up"], task="classification")


def ids(store: Store, since: datetime, until: datetime) -> list[str]:
    with duckdb.connect() as connection:
        relation = Predictions(store, STREAM).relation(connection, since, until)
        return [row[0] for row in relation.project("id").order("id").fetchall()]


def test_a_record_lies_in_the_hour_of_its_own_time_in_utc(store: Store) -> None:
    """Whatever zone its clock is in, a record is filed by UTC."""
    berlin = timezone(timedelta(hours=1))
    files = write(store, record(1, datetime(2026, 11, 25, 0, 30, tzinfo=berlin)))
    assert files[0].startswith(f"telemetry/model={STREAM}/date=2026-11-24/hour=23/")


def test_a_window_is_read_from_its_first_moment_to_before_its_last(store: Store) -> None:
    """Two windows that meet share no record."""
    write(store, *(record(minute, NOON + timedelta(minutes=minute)) for minute in range(0, 181, 60)))
    assert ids(store, NOON, NOON + timedelta(minutes=120)) == ["p0", "p60"]
    assert ids(store, NOON + timedelta(seconds=1), NOON + timedelta(minutes=121)) == ["p120", "p60"]


def test_a_window_without_records_is_empty_and_still_has_the_fixed_columns(store: Store) -> None:
    """No traffic is no error, and a query on it still runs."""
    with duckdb.connect() as connection:
        relation = Predictions(store, STREAM).relation(connection, NOON, NOON + timedelta(hours=1))
        assert relation.fetchall() == []
        assert {"id", "at", "label", "score"} <= set(relation.columns)


def test_a_column_that_only_newer_records_have_is_null_in_the_older_ones(store: Store) -> None:
    """A new version may ask for another column."""
    write(store, record(1, NOON))
    write(store, record(2, NOON, **{"input.colour": "red"}))
    with duckdb.connect() as connection:
        relation = Predictions(store, STREAM).relation(connection, NOON, NOON + timedelta(hours=1))
        rows = relation.order("id").project('"input.colour"').fetchall()
    assert rows == [(None,), ("red",)]


def test_a_prediction_is_found_by_its_id_whenever_it_was(store: Store) -> None:
    """A request of several rows by itself or by a row; part of an id, or quotes in it, find nothing."""
    write(store, record(1, NOON), record(2, NOON - timedelta(days=20)))
    write(store, *({**record(0, NOON), "id": f"many.{k}", "score": k / 10} for k in range(12)))
    telemetry = Predictions(store, STREAM)
    for asked, found in (("p1", "p1"), ("p2", "p2"), ("many", "many.0"), ("many.11", "many.11")):
        record_of = telemetry.find(asked)
        assert record_of is not None
        assert (record_of["id"], record_of["input.price"]) == (found, 1.5)
    assert [telemetry.find(asked) for asked in ("p", "many.12", "p1.0", "'; --", "")] == [None] * 5
    assert Predictions(store, "other.local").find("p1") is None


def test_the_predictions_of_a_release_are_counted(store: Store) -> None:
    """Those that users got: no copies of a shadow phase, no failures; whenever they were."""
    write(store, *(record(n, NOON - timedelta(days=n), release="r-1") for n in range(40)))
    write(store, record(50, NOON, release="r-2"), record(51, NOON, release="r-2", arm="shadow"))
    write(store, record(52, NOON, release="r-2", status=500))
    assert Predictions(store, STREAM).counts() == {"r-1": 40, "r-2": 1}
    assert Predictions(store, "other.local").counts() == {}


def test_a_long_time_is_listed_as_a_short_one_is(store: Store) -> None:
    """Hour by hour or at once, the same records in the same order."""
    write(store, *(record(n, NOON - timedelta(hours=7 * n)) for n in range(20)))
    telemetry = Predictions(store, STREAM)
    since = NOON - timedelta(days=7)
    pieces = [telemetry.files(since + timedelta(hours=h), since + timedelta(hours=h + 1)) for h in range(169)]
    assert telemetry.files(since, NOON + timedelta(hours=1)) == [file for piece in pieces for file in piece]
    assert len([file for piece in pieces for file in piece]) == 20


def test_the_page_names_every_column_with_its_type() -> None:
    """As they are written."""
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    table: dict[str, str] = {}
    for names, kinds in re.findall(r"^\| (`[^|]+) \| ([A-Z].*?) \|", page, re.MULTILINE):
        table |= dict(zip(re.findall(r"`([^`]+)`", names), kinds.split(", "), strict=True))
    assert table == dict(PLACES)
    assert ", ".join(KINDS.values()) in page


def test_the_secret_of_a_store_is_made_once_and_tells_users_apart(store: Store) -> None:
    """A user is found again in the same store, and in no other."""
    salt = salt_of(store)
    assert salt_of(store) == salt
    assert len({unit_hash(salt, "ada"), unit_hash(salt, "bob"), unit_hash(b"x" * 32, "ada")}) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1.0", "1"),
        (True, "true"),
        ("TRUE", "true"),
        ("007", "007"),
        ("1e3", "1e3"),
        (" red ", "red"),
        (0.5, "0.5"),
        ("-2.0", "-2"),
    ],
)
def test_a_class_has_one_text_however_it_arrives(value: Any, text: str) -> None:
    """A label from a CSV file meets the prediction that came as a number."""
    assert label_text(value) == text
