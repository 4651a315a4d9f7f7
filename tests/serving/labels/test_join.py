"""Each prediction gets at most one truth, the same whatever the order in which labels came."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.core.store import Store, open_store
from tidegate.serving.labels import ingest_labels, ingest_outcomes, joined, outcomes, truths
from tidegate.serving.telemetry import salt_of, unit_hash, write_records

STREAM = "demand.local"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER = NOON + timedelta(days=1)


def minutes(count: float) -> datetime:
    return NOON + timedelta(minutes=count)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def predicted(store: Store, *records: dict[str, Any]) -> None:
    whole = [{"arm": "stable", "status": 200, "label": "up", "release": "r-1", "version": 1, **one} for one in records]
    write_records(store, STREAM, whole, classes=["down", "up"], task="classification")


def labelled(store: Store, *rows: dict[str, Any], received: datetime = LATER) -> None:
    assert ingest_labels(store, STREAM, rows, received).rejected == ()


def truth(store: Store, since: datetime = NOON, until: datetime = NOON + HOUR, **more: Any) -> dict[str, str | None]:
    with duckdb.connect() as connection:
        rows = joined(connection, store, STREAM, since, until, **more).project("id, truth").fetchall()
    assert len(rows) == len(dict(rows)), "a prediction is there twice"
    return dict(rows)


def test_a_label_by_prediction_id_joins_that_prediction_and_a_missing_one_is_null(store: Store) -> None:
    """The class is compared as text, so 1.0 of a CSV file is the 1 of the model."""
    predicted(store, {"id": "a", "at": minutes(1)}, {"id": "b", "at": minutes(2)})
    labelled(store, {"prediction_id": "a", "label": 1.0, "at": minutes(10).isoformat()})
    assert truth(store) == {"a": "1", "b": None}


def test_without_any_label_every_prediction_is_there_unlabelled(store: Store) -> None:
    """No labels yet is no error."""
    predicted(store, {"id": "a", "at": minutes(1)})
    assert truth(store) == {"a": None}


def test_copies_and_failures_are_not_predictions_that_anybody_got(store: Store) -> None:
    """A shadow's copy has the caller's id of the request it copies, and must not take its label."""
    predicted(
        store,
        {"id": "a", "at": minutes(1), "caller": "order-1"},
        {"id": "copy", "at": minutes(2), "caller": "order-1", "arm": "shadow"},
        {"id": "broken", "at": minutes(3), "caller": "order-1", "status": 500},
    )
    labelled(store, {"id": "order-1", "label": "up", "at": minutes(9)})
    assert truth(store) == {"a": "up"}


def test_the_newest_label_counts_whichever_came_first(store: Store) -> None:
    """A correction is newer by its own time, even if it is received before what it corrects."""
    predicted(store, {"id": "a", "at": minutes(1)})
    labelled(store, {"prediction_id": "a", "label": "up", "at": minutes(20)}, received=minutes(30))
    labelled(store, {"prediction_id": "a", "label": "down", "at": minutes(10)}, received=minutes(40))
    assert truth(store) == {"a": "up"}


def test_of_two_labels_for_the_same_moment_the_one_received_last_corrects_the_other(store: Store) -> None:
    """Dates without a time are common, and a retry of the older file afterwards changes nothing."""
    predicted(store, {"id": "a", "at": minutes(1)})
    first, second = ({"prediction_id": "a", "label": label, "at": "2026-11-25"} for label in ("up", "down"))
    labelled(store, first, received=minutes(30))
    labelled(store, second, received=minutes(40))
    labelled(store, first, received=minutes(50))
    assert truth(store) == {"a": "down"}


def test_of_two_lines_of_one_file_about_the_same_moment_the_later_one_counts(store: Store) -> None:
    """As somebody who appends to a list means it."""
    predicted(store, {"id": "a", "at": minutes(1)})
    labelled(store, *({"prediction_id": "a", "label": label} for label in ("up", "zebra", "down")))
    assert truth(store) == {"a": "down"}


def test_a_label_for_a_prediction_that_is_not_recorded_yet_waits_for_it(store: Store) -> None:
    """It is kept, and joins when the prediction appears."""
    labelled(store, {"prediction_id": "a", "label": "up"}, {"id": "order-1", "label": "down"})
    predicted(store, {"id": "a", "at": minutes(1)}, {"id": "b", "at": minutes(2), "caller": "order-1"})
    assert truth(store) == {"a": "up", "b": "down"}


def test_a_retried_request_gives_its_label_to_the_last_answer_before_it(store: Store) -> None:
    """One name, two predictions, one truth: counted once, and said to be ambiguous."""
    predicted(store, *({"id": name, "at": minutes(n), "caller": "order-1"} for n, name in enumerate("ab", 1)))
    labelled(store, {"id": "order-1", "label": "up", "at": minutes(30)})
    with duckdb.connect() as connection:
        rows = truths(connection, store, STREAM, NOON, NOON + HOUR).project("id, truth, ambiguous").fetchall()
    assert rows == [("b", "up", True)]


def test_a_name_that_is_used_again_later_keeps_its_truths_apart(store: Store) -> None:
    """Each label belongs to the newest prediction before it, in whichever window that one is asked for."""
    predicted(store, {"id": "a", "at": minutes(1), "caller": "basket"})
    predicted(store, {"id": "b", "at": minutes(90), "caller": "basket"})
    labelled(store, {"id": "basket", "label": "up", "at": minutes(20)})
    labelled(store, {"id": "basket", "label": "down", "at": minutes(100)})
    assert truth(store) == {"a": "up"}
    assert truth(store, NOON + HOUR, NOON + 2 * HOUR) == {"b": "down"}


def test_a_label_after_both_uses_of_a_name_counts_in_one_window_only(store: Store) -> None:
    """The prediction before the window of the newer one gets nothing, and neither window counts it twice."""
    predicted(store, {"id": "a", "at": minutes(1), "caller": "basket"})
    predicted(store, {"id": "b", "at": minutes(90), "caller": "basket"})
    labelled(store, {"id": "basket", "label": "down", "at": minutes(100)})
    assert truth(store) == {"a": None}
    assert truth(store, NOON + HOUR, NOON + 2 * HOUR) == {"b": "down"}


def test_a_label_older_than_every_prediction_of_its_name_joins_the_oldest(store: Store) -> None:
    """Truth may be known before the question is asked; it belongs to one window here, too."""
    predicted(store, {"id": "a", "at": minutes(1), "caller": "basket"})
    predicted(store, {"id": "b", "at": minutes(90), "caller": "basket"})
    labelled(store, {"id": "basket", "label": "up", "at": minutes(-5)})
    assert truth(store) == {"a": "up"}
    assert truth(store, NOON + HOUR, NOON + 2 * HOUR) == {"b": None}


def test_labels_by_both_names_of_a_prediction_are_one_truth(store: Store) -> None:
    """The newest counts, whatever it is called by."""
    predicted(store, {"id": "a", "at": minutes(1), "caller": "order-1"})
    labelled(store, {"prediction_id": "a", "label": "up", "at": minutes(20)})
    labelled(store, {"id": "order-1", "label": "down", "at": minutes(25)})
    assert truth(store) == {"a": "down"}


def test_asked_for_labels_within_an_age_the_answer_does_not_change_later(store: Store) -> None:
    """A correction after that age is left out, and what was known in time still counts."""
    predicted(store, {"id": "a", "at": minutes(1)}, {"id": "b", "at": minutes(2)})
    labelled(store, {"prediction_id": "a", "label": "up"}, received=minutes(20))
    labelled(
        store, {"prediction_id": "a", "label": "down"}, {"prediction_id": "b", "label": "up"}, received=minutes(50)
    )
    assert truth(store, within=timedelta(minutes=30)) == {"a": "up", "b": None}
    assert truth(store) == {"a": "down", "b": "up"}


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int, int]:
    """Predictions that share names and moments, labels of all kinds, a seed, and a number of files."""
    moments, names = st.integers(0, 120), st.sampled_from(["x", "y", None])
    made = draw(st.lists(st.tuples(moments, names), min_size=1, max_size=6))
    predictions = [{"id": f"p{n}", "at": minutes(at), "caller": name} for n, (at, name) in enumerate(made)]
    one = st.tuples(st.sampled_from(["p0", "p1", "p9", "x", "y"]), st.sampled_from("ABC"), st.integers(-10, 150))
    drawn = draw(st.lists(one, max_size=8, unique_by=lambda label: (label[0], label[2])))
    labels = [
        {"prediction_id" if key[0] == "p" else "id": key, "label": label, "at": minutes(at)} for key, label, at in drawn
    ]
    return predictions, labels, draw(st.integers(0, 1000)), draw(st.integers(1, 4))


def expected(predictions: Sequence[dict[str, Any]], labels: Sequence[dict[str, Any]]) -> dict[str, str | None]:
    """The rules of the join, in plain Python."""
    found: dict[str, list[tuple[datetime, str]]] = {one["id"]: [] for one in predictions}
    for label in labels:
        if "prediction_id" in label:
            meant = [one for one in predictions if one["id"] == label["prediction_id"]]
        else:
            of_name = sorted(
                (one for one in predictions if one["caller"] == label["id"]), key=lambda one: (one["at"], one["id"])
            )
            before = [one for one in of_name if one["at"] <= label["at"]]
            # Of several at the very same moment the greatest id stands for them all.
            oldest = [one for one in of_name if one["at"] == of_name[0]["at"]]
            meant = before[-1:] or oldest[-1:]
        for one in meant:
            found[one["id"]].append((label["at"], label["label"]))
    return {name: max(given)[1] if given else None for name, given in found.items()}


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(worlds())
def test_any_order_and_any_split_into_files_gives_the_same_truths_once(
    tmp_path_factory: pytest.TempPathFactory, world: tuple[list[dict[str, Any]], list[dict[str, Any]], int, int]
) -> None:
    """Sent twice, before or after the predictions, over windows that meet: every label counts at most once."""
    predictions, labels, seed, count = world
    order = random.Random(seed)
    store = open_store(str(tmp_path_factory.mktemp("world")))
    sent = labels + order.sample(labels, len(labels) // 2)
    order.shuffle(sent)
    steps: list[Any] = [sent[number::count] for number in range(count)]
    steps.insert(order.randrange(len(steps) + 1), None)
    for number, step in enumerate(steps):
        if step is None:
            predicted(store, *predictions)
        else:
            ingest_labels(store, STREAM, step, LATER + timedelta(seconds=number))
    halves = [(NOON, NOON + HOUR), (NOON + HOUR, NOON + 3 * HOUR)]
    got = dict(itertools.chain.from_iterable(truth(store, *half).items() for half in halves))
    wanted = expected(predictions, labels)
    # Labels of one moment by two names of a prediction are settled by when they came; the property is about the rest.
    settled = {name for name in wanted if not _contested(name, predictions, labels)}
    assert {name: got[name] for name in settled} == {name: wanted[name] for name in settled}
    assert seed % 4 or truth(store, NOON, NOON + 3 * HOUR) == got


def _contested(name: str, predictions: Sequence[dict[str, Any]], labels: Sequence[dict[str, Any]]) -> bool:
    (one,) = (one for one in predictions if one["id"] == name)
    own = {label["at"] for label in labels if label.get("prediction_id") == name}
    called = {label["at"] for label in labels if one["caller"] and label.get("id") == one["caller"]}
    return bool(own & called)


def events(store: Store, since: datetime = NOON, until: datetime = NOON + HOUR) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        found = outcomes(connection, store, STREAM, since, until)
        return found.project("unit, prediction, name, value").order("all").fetchall()


def test_an_event_sent_twice_counts_once_and_another_time_or_value_is_another_event(store: Store) -> None:
    """A retry of a post cannot double the revenue."""
    once = {"unit": "ada", "name": "revenue", "value": 5, "at": minutes(3)}
    for number, rows in enumerate([[once, once], [once], [{**once, "value": 7}], [{**once, "at": minutes(4)}]]):
        ingest_outcomes(store, STREAM, rows, minutes(10 + number))
    ada = unit_hash(salt_of(store), "ada")
    assert events(store) == [(ada, None, "revenue", 5.0), (ada, None, "revenue", 5.0), (ada, None, "revenue", 7.0)]


def test_an_event_that_names_a_prediction_belongs_to_the_user_who_got_it(store: Store) -> None:
    """By its id or by the caller's; unknown ones are there without a user."""
    predicted(
        store,
        {"id": "a", "at": minutes(1), "unit": 7},
        {"id": "b", "at": minutes(2), "unit": 8, "caller": "order-1"},
    )
    named = [{"prediction_id": "a"}, {"id": "order-1"}, {"id": "order-2"}]
    ingest_outcomes(store, STREAM, [{**one, "name": "conversion", "at": minutes(5)} for one in named], minutes(9))
    found = events(store)
    assert sorted(found, key=str) == sorted(
        [(7, "a", "conversion", 1.0), (8, "b", "conversion", 1.0), (None, None, "conversion", 1.0)], key=str
    )


def test_events_are_those_whose_own_time_lies_in_the_window(store: Store) -> None:
    """Whenever they were received."""
    rows = [{"unit": "ada", "name": "conversion", "at": minutes(at)} for at in (-1, 0, 59, 60)]
    ingest_outcomes(store, STREAM, rows, LATER)
    assert len(events(store)) == 2
