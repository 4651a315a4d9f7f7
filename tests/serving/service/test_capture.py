"""What is recorded of predictions: all that were made, none of what must not be kept, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from tidegate.core.errors import TidegateError, UsageError
from tidegate.core.store import Store, open_store
from tidegate.serving.service import capture as capturing
from tidegate.serving.service.batch import Batcher
from tidegate.serving.service.capture import MOST_WAITING, Capture, Settings, parse
from tidegate.serving.service.lane import Lane
from tidegate.serving.service.model import Answer
from tidegate.serving.service.recording import Request, check_columns
from tidegate.serving.service.records import INPUT, PLACES, salt_of, text_hash, unit_hash
from tidegate.serving.telemetry import Hidden, Predictions

STREAM = "demand.local"


def records(store: Store, hours: int = 2) -> list[dict[str, Any]]:
    """Everything that was recorded lately, by id."""
    now = datetime.now(UTC)
    with duckdb.connect() as connection:
        found = Predictions(store, STREAM).relation(connection, now - timedelta(hours=hours), now + timedelta(hours=1))
        rows = found.order("id").fetchall()
        return [dict(zip(found.columns, row, strict=True)) for row in rows]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def begin(store: Store, served: Any) -> Iterator[Callable[..., Capture]]:
    """Starts recording for the odd model; keyword arguments are settings."""
    begun: list[Capture] = []

    def start(manifest: Any = None, **more: Any) -> Capture:
        settings = Settings(store.url, STREAM, **{"flush": 60.0, **more})
        begun.append(Capture(settings, manifest or served.model.manifest, "r-1"))
        return begun[-1]

    yield start
    for one in begun:
        one.close(10)


@pytest.fixture
def tell(served: Any, ask: Any) -> Callable[..., list[Any]]:
    """Sends requests, each a list of rows and headers, to a lane that records; returns the replies."""

    def send(capture: Capture, *requests: tuple[Any, dict[str, str]], predict: Any = None) -> list[Any]:
        async def story() -> list[Any]:
            lane = Lane(release="r-1")
            lane.serve(served.model, Batcher(predict or served.model.predict, 0.2), capture)
            bodies = [(json.dumps({"rows": rows}).encode(), headers) for rows, headers in requests]
            return [await ask(lane, "POST", "/predict", body, headers) for body, headers in bodies]

        replies: list[Any] = asyncio.run(story())
        capture.close(10)
        return replies

    return send


def request(name: str, rows: Any, answer: Answer | None, **more: Any) -> Request:
    """A request as the lane hands it over."""
    status, at = more.get("status", 200), more.get("at", time.time())
    return name.encode(), at, b"", b"", "stable", status, 0.01, rows, None, answer


def test_a_record_has_all_that_is_known_of_a_prediction(
    begin: Callable[..., Capture], tell: Callable[..., list[Any]], store: Store, served: Any
) -> None:
    """Who asked what, when, of which release and arm, and what it answered; the user only as a hash."""
    capture = begin()
    (reply,) = tell(capture, (served.rows[:1], {"x-user-id": "ada", "x-tidegate-arm": "canary"}))
    (record,) = records(store)
    assert list(record)[: len(PLACES)] == list(PLACES)
    assert record["id"] == reply.headers["x-tidegate-prediction-id"]
    assert record["unit"] == unit_hash(salt_of(store), "ada")
    assert abs(record["at"].replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(seconds=60)
    assert (record["arm"], record["release"], record["version"], record["status"]) == ("canary", "r-1", 3, 200)
    assert 0 < record["seconds"] < 5
    assert record["label"] == str(reply.json["predictions"][0]).lower()
    assert record["probabilities"] == pytest.approx(reply.json["probabilities"][0], abs=1e-6)
    assert record["score"] == pytest.approx(reply.json["probabilities"][0][1], abs=1e-6)
    assert (record["value"], record["response"], record["caller"]) == (None, None, None)
    assert {name: record[INPUT + name] for name in served.rows[0]} == served.rows[0]
    assert "ada" not in b"".join(store.read(path) for path in store.list("telemetry")).decode("latin-1")


def test_a_request_of_several_rows_is_several_records(
    begin: Callable[..., Capture], tell: Callable[..., list[Any]], store: Store, served: Any
) -> None:
    """Row k is `<id>.<k>`, and so is the caller's own name for the request."""
    (reply,) = tell(begin(id="X-Order"), (served.rows[:3], {"x-order": "o-7"}))
    name = reply.headers["x-tidegate-prediction-id"]
    found = records(store)
    assert [(one["id"], one["caller"]) for one in found] == [(f"{name}.{k}", f"o-7.{k}") for k in range(3)]
    assert [one["label"] for one in found] == [str(one).lower() for one in reply.json["predictions"]]


def test_a_column_or_a_field_of_the_rows_can_be_the_callers_own_name(
    begin: Callable[..., Capture], tell: Callable[..., list[Any]], store: Store, served: Any
) -> None:
    """Also one that the model does not know, which is an unknown field without `serve.id`; a header goes first."""
    row = served.rows[0]
    assert served.predict({**row, "order": 17}).status == 422
    first, second, third, wrong = tell(
        begin(id="order"),
        ([{**row, "order": 17}, {**row, "order": " x1 "}, row], {}),
        ([{**row, "order": 17}], {"order": "h-1"}),
        ([{**row, "order": 17.0, "a b.c": 1.0}], {}),
        ([{**row, "order": True}], {}),
    )
    assert [reply.status for reply in (first, second, third, wrong)] == [200, 200, 200, 422]
    assert "rows[0].order" in wrong.json["errors"][0]["path"]
    assert first.json["predictions"][0] == served.predict(row).json["predictions"][0]
    assert sorted(str(one["caller"]) for one in records(store)) == ["17", "17", "None", "h-1", "x1"]
    tell(begin(id="città"), ([{**row, "città": "Roma"}], {}))
    assert [one["caller"] for one in records(store)].count("Roma") == 1


def test_only_requests_that_the_model_was_asked_for_are_recorded(
    begin: Callable[..., Capture], tell: Callable[..., list[Any]], store: Store, served: Any
) -> None:
    """A bad row is not; one that the model failed on is, without an answer."""

    def failing(_rows: Any, _shadow: bool) -> Answer:
        raise RuntimeError

    replies = tell(
        begin(), ([{}], {}), (served.rows[:2], {}), (served.rows[:1], {"x-tidegate-arm": "shadow"}), predict=failing
    )
    assert [reply.status for reply in replies] == [422, 500, 500]
    found = records(store)
    assert sorted((one["status"], one["arm"], one["label"]) for one in found) == [
        (500, "", None),
        (500, "", None),
        (500, "shadow", None),
    ]
    assert all(one[INPUT + "label"] is not None for one in found)


def test_a_request_that_was_answered_too_late_is_recorded(
    begin: Callable[..., Capture], tell: Callable[..., list[Any]], store: Store, served: Any
) -> None:
    """With status 504, how long it took, and no answer."""

    def slow(rows: Any, _shadow: bool) -> Answer:
        time.sleep(0.4)
        return Answer([True] * len(rows))

    (reply,) = tell(begin(), (served.rows[:1], {}), predict=slow)
    (record,) = records(store)
    assert (reply.status, record["status"], record["label"]) == (504, 504, None)
    assert record["seconds"] > 0.19


def test_excluded_columns_are_not_written_and_hashed_ones_only_as_hashes(
    begin: Callable[..., Capture], tell: Callable[..., list[Any]], store: Store, served: Any
) -> None:
    """Equal cells have equal hashes, a missing one has none, and nothing can be read from them."""
    rows = [{**served.rows[0], "città": town, "a b.c": 5} for town in ("Xanadu-1", "Xanadu-1", None)]
    tell(begin(exclude=("label",), hash=("città", "a b.c")), (rows, {}))
    found = records(store)
    hashed = text_hash(salt_of(store), "Xanadu-1")
    assert [one["input.città"] for one in found] == [hashed, hashed, None]
    assert {one["input.a b.c"] for one in found} == {text_hash(salt_of(store), "5")}
    assert "input.label" not in found[0]
    now = datetime.now(UTC)
    with duckdb.connect() as connection:
        (said,) = Predictions(store, STREAM).captured(connection, now - timedelta(hours=1), now + timedelta(hours=1))
    assert said.hidden == Hidden.of(["label"], ["città", "a b.c"]), "who compares columns must know how each was kept"
    assert "Xanadu" not in b"".join(store.read(path) for path in store.list("telemetry")).decode("latin-1")


def test_a_name_that_no_column_has_is_refused_when_a_model_is_packaged() -> None:
    """With the column that was meant: a typing mistake must not let a column be written."""
    check_columns(["price"], ["name"], ["name", "price"])
    with pytest.raises(UsageError, match=r"serve\.capture\.exclude names prise") as caught:
        check_columns(["prise"], [], ["name", "price"])
    assert "price" in caught.value.hint
    with pytest.raises(UsageError, match=r"serve\.capture\.hash names x"):
        check_columns([], ["x"], ["name", "price"])


def test_packaging_refuses_a_column_that_is_not_there(maker: Any) -> None:
    """Before anything is built, so before anybody is served by it."""
    frame = pd.DataFrame({"price": [0.0, 1.0] * 20})
    columns = maker.columns(frame, {"price": "number"})
    folder = maker.folder(LogisticRegression().fit(frame, [0, 1] * 20), columns, task="classification")
    with pytest.raises(UsageError, match="prise"):
        maker.package(folder, frame, capture={"hash": ["prise"]})


def test_a_process_that_cannot_tell_which_column_is_meant_records_none(
    begin: Callable[..., Capture],
    tell: Callable[..., list[Any]],
    store: Store,
    served: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Predictions go on, and are recorded with their answers alone; the log says why."""
    (reply,) = tell(begin(hash=("citta",)), (served.rows[:1], {}))
    (record,) = records(store)
    assert (reply.status, record["label"] is None) == (200, False)
    assert [name for name in record if name.startswith(INPUT)] == []
    assert "Did you mean città?" in caplog.text


def test_the_models_own_answer_is_recorded_beside_what_a_hook_made_of_it(
    begin: Callable[..., Capture], store: Store, served: Any
) -> None:
    """Drift and quality are of the model; the shown answer is kept only where it differs."""
    capture = begin()
    row = tuple(served.rows[0].values())
    capture.add(request("a", [row] * 3, Answer(["call", True, {"x": 1}], None, [True, True, False])))
    capture.close(10)
    assert [(one["label"], one["response"]) for one in records(store)] == [
        ("true", '"call"'),
        ("true", None),
        ("false", '{"x":1}'),
    ]


@pytest.mark.parametrize(
    ("task", "predicted", "recorded"),
    [
        ("regression", 2.5, (None, 2.5)),
        ("regression", 3, (None, 3.0)),
        ("regression", float("nan"), (None, None)),
        ("regression", [1.0, 2.0], (None, None)),
        ("custom", 2.5, (None, 2.5)),
        ("custom", "red", ("red", None)),
        ("custom", True, ("true", None)),
        ("classification", 1, ("1", None)),
    ],
)
def test_a_quantity_is_a_value_and_a_class_a_label(
    begin: Callable[..., Capture], served: Any, task: str, predicted: Any, recorded: tuple[Any, Any]
) -> None:
    """Of a custom task numbers are quantities; what is neither is left empty."""
    import msgspec

    capture = begin(msgspec.structs.replace(served.model.manifest, task=task, classes=None))
    capture.add(request("a", [tuple(served.rows[0].values())], Answer([predicted])))
    capture.close(10)
    assert capture._store is not None
    (record,) = records(capture._store)
    assert (record["label"], record["value"], record["score"]) == (*recorded, None)


def test_more_rows_than_the_queue_holds_are_dropped_and_counted(begin: Callable[..., Capture], served: Any) -> None:
    """The newest are; nobody waits."""
    capture = begin()
    rows = [tuple(served.rows[0].values())] * 10_000
    for number in range(7):
        capture.add(request(str(number), rows, None, status=500))
    counts = capture.counts
    assert counts.overflown >= 7 * 10_000 - MOST_WAITING - 10_000
    capture.close(30)
    assert (counts.waiting, counts.written + counts.dropped) == (0, 70_000)
    lane = Lane()
    lane.serve(served.model, Batcher(served.model.predict, 1.0), capture)
    page = lane.page().decode()
    assert f"\ntidegate_capture_dropped_total {counts.dropped:g}\n" in page
    assert f"\ntidegate_capture_written_total {counts.written:g}\n" in page
    assert "\ntidegate_capture_queue_rows 0\n" in page
    assert "\ntidegate_capture_errors_total 0\n" in page


def test_what_a_store_did_not_take_is_written_when_it_does_again(
    store: Store, served: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and no prediction is lost meanwhile."""
    caplog.set_level(logging.INFO)
    place = tmp_path / "store"
    place.write_text("a file where the folder should be")
    capture = Capture(Settings(store.url, STREAM, flush=0.05), served.model.manifest)
    row = tuple(served.rows[0].values())
    capture.add(request("a", [row], None, status=500))
    until(lambda: capture.counts.errors > 2)
    assert caplog.text.count("not recorded now") == 1
    place.unlink()
    until(lambda: capture.counts.written == 1)
    place.rename(tmp_path / "away")
    place.write_text("again")
    capture.add(request("b", [row], None, status=500))
    errors = capture.counts.errors
    until(lambda: capture.counts.errors > errors + 1)
    place.unlink()
    (tmp_path / "away").rename(place)
    capture.close(10)
    assert [one["id"] for one in records(store)] == ["a", "b"]
    assert capture.counts.dropped == 0
    assert caplog.text.count("not recorded now") == 2
    assert caplog.text.count("recorded again") == 2


def test_a_store_that_stays_away_costs_bounded_memory(
    store: Store, served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest files are given up, and counted as dropped; the end says how much was lost."""
    monkeypatch.setattr(capturing, "MOST_BYTES", 20_000)
    salt_of(store)
    capture = Capture(Settings(store.url, STREAM, flush=0.05), served.model.manifest)
    capture._convert()
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").write_text("a file")
    row = tuple(served.rows[0].values())
    for number in range(8):
        written = capture.counts.errors
        capture.add(request(str(number), [row], None, status=500))
        until(lambda written=written: capture.counts.errors > written)  # type: ignore[misc] # the value of this turn
    assert capture.counts.lost > 0
    assert sum(len(file.content) for file in capture._files) <= 20_000
    capture.close(10)
    assert f"{8 - capture.counts.lost} recorded rows were lost" in caplog.text


def test_a_request_that_cannot_be_recorded_takes_no_other_with_it(
    begin: Callable[..., Capture], store: Store, served: Any
) -> None:
    """Text that is no Unicode has no place in Parquet."""
    capture = begin()
    row = served.rows[0]
    for number in range(20):
        town = "\ud800" if number == 7 else "Roma"
        capture.add(request(f"{number:02}", [tuple({**row, "città": town}.values())], None, status=500))
    capture.close(10)
    assert [one["id"] for one in records(store)] == [f"{number:02}" for number in range(20) if number != 7]
    assert (capture.counts.lost, capture.counts.errors) == (1, 1)


def test_records_lie_in_the_hour_that_they_came_in(begin: Callable[..., Capture], store: Store, served: Any) -> None:
    """Also when one flush holds two hours."""
    capture = begin()
    now = time.time()
    for number, at in enumerate((now, now - 3600, now)):
        capture.add(request(str(number), [tuple(served.rows[0].values())], None, status=500, at=at))
    capture.close(10)
    files = store.list(f"telemetry/model={STREAM}")
    hours = [datetime.fromtimestamp(at, UTC).strftime("date=%Y-%m-%d/hour=%H") for at in (now - 3600, now)]
    assert [file.rsplit("/", 1)[0].partition("/model=demand.local/")[2] for file in files] == hours
    assert len(records(store, hours=3)) == 3


def test_a_process_that_drains_writes_at_once(begin: Callable[..., Capture], store: Store, served: Any) -> None:
    """Also what is answered while it does, since it may be killed before it has ended."""
    capture = begin(flush=600.0)
    lane = Lane()
    lane.serve(served.model, Batcher(served.model.predict, 1.0), capture)
    row = tuple(served.rows[0].values())
    capture.add(request("a", [row], None, status=500))
    lane.drain()
    until(lambda: capture.counts.written == 1)
    capture.add(request("b", [row], None, status=500))
    until(lambda: capture.counts.written == 2)
    assert [one["id"] for one in records(store)] == ["a", "b"]


def test_settings_that_are_no_settings_are_refused() -> None:
    """Without any nothing is recorded."""
    assert parse("") is None
    assert parse('{"store": "s", "stream": "demand.local", "hash": ["a"]}') == replace_settings(hash=("a",))
    for text in ("{", '{"store": 1}', '{"store": "s", "stream": "x", "exclud": []}'):
        with pytest.raises(TidegateError, match="TIDEGATE_CAPTURE"):
            parse(text)


def replace_settings(**more: Any) -> Settings:
    return Settings("s", STREAM, **more)


def test_recording_does_not_import_pandas(store: Store) -> None:
    """Else pyarrow would, for one look at a type: half a second and 50 MB of every serving process."""
    code = (
        "import sys\n"
        "from tidegate.serving.service.capture import Capture, Settings\n"
        "from tidegate.serving.service.manifest import Column, Golden, Manifest\n"
        "from tidegate.serving.service.model import Answer\n"
        "columns = [Column('a b', 'number')]\n"
        "manifest = Manifest('m', 1, 'regression', 'onnx', columns, [], Golden([], []))\n"
        f"capture = Capture(Settings({store.url!r}, {STREAM!r}), manifest)\n"
        "capture.add((b'x', 1.0, b'u', b'', '', 200, 0.1, [(1.0,)], None, Answer([2.0])))\n"
        "capture.close(10)\n"
        "assert capture.counts.written == 1, capture.counts\n"
        "print(*sys.modules)\n"
        "import pandas\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "fsspec", "pydantic", "duckdb"} & set(done.stdout.split())


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
