"""A store in a bucket, on a real server that speaks S3: what the ledger, the records and their readers stand on."""

from __future__ import annotations

import io
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pyarrow.parquet as pq
import pytest

from tidegate.core.store import StoreError, open_store
from tidegate.registry.ledger import Draft, Ledger
from tidegate.serving import upkeep
from tidegate.serving.deploy import Revision
from tidegate.serving.deploy.local import LocalDeployer
from tidegate.serving.telemetry import Predictions, salt_of, unit_hash, write_records

STREAM = "demand.local"


def at_once(count: int, work: Any) -> None:
    """Call `work` with each number in a thread of its own, all at the same moment."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> None:
        barrier.wait()
        work(number)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_eight_who_create_a_file_at_once_one_wins(s3: str) -> None:
    """Each round anew, and what everybody reads is the winner's."""
    for turn in range(5):
        wins: list[int] = []

        def race(number: int, turn: int = turn, wins: list[int] = wins) -> None:
            if open_store(s3).put_if_absent(f"ledger/{turn}", str(number).encode()):
                wins.append(number)

        at_once(8, race)
        assert len(wins) == 1
        assert open_store(s3).read(f"ledger/{turn}") == str(wins[0]).encode()


def test_who_wrote_reads_it_at_once_and_so_does_everybody(s3: str) -> None:
    """By name and in a listing, a change and a removal too."""
    one, other = open_store(s3), open_store(s3)
    for number in range(20):
        one.write(f"a/{number}", b"%d" % number)
        assert (one.read(f"a/{number}"), other.read(f"a/{number}")) == (b"%d" % number,) * 2
        assert len(one.list("a")) == len(other.list("a")) == number + 1
    one.delete("a/3")
    assert (other.exists("a/3"), len(other.list("a"))) == (False, 19)


def test_no_reader_sees_half_a_file(s3: str) -> None:
    """While somebody replaces it again and again, it is always one whole content."""
    store = open_store(s3)
    store.write("state", b"0" * 300_000)
    torn: list[int] = []
    done = threading.Event()

    def work(number: int) -> None:
        own = open_store(s3)
        if number == 0:
            for turn in range(15):
                own.write("state", str(turn % 10).encode() * 300_000)
            done.set()
        while not done.is_set():
            content = own.read("state")
            if len(content) != 300_000 or len(set(content)) != 1:
                torn.append(len(content))

    at_once(3, work)
    assert torn == []


def test_a_ledger_in_a_bucket_has_one_order_of_events(s3: str) -> None:
    """Writers on several machines lose no event and take no number twice."""

    def write(number: int) -> None:
        ledger = Ledger(open_store(s3), STREAM)
        for turn in range(3):
            ledger.append(lambda _, turn=turn: Draft("note", {"by": number, "turn": turn}))  # type: ignore[misc] # the turn's own

    at_once(4, write)
    events = Ledger(open_store(s3), STREAM).events()
    assert [event.seq for event in events] == list(range(12))
    assert {(event.data["by"], event.data["turn"]) for event in events} == {(n, t) for n in range(4) for t in range(3)}


@pytest.mark.slow
def test_a_serving_process_records_into_a_bucket_and_duckdb_reads_it(s3: str, bundle: Path, tmp_path: Path) -> None:
    """With a flush as on disk; nothing is fetched beforehand, and the stream can be found, compacted and erased in."""
    said = {"store": s3, "stream": STREAM, "flush": 0.3}
    deployer = LocalDeployer(tmp_path / "run", tmp_path / "logs", capture=said)
    deployer.start(Revision("r-1", 1, bundle))
    store = open_store(s3)
    telemetry = Predictions(store, STREAM)
    try:
        end = time.monotonic() + 60
        while not ((found := deployer.find("r-1")) and found.ready):
            assert time.monotonic() < end, (tmp_path / "logs" / "r-1.log").read_text()
            time.sleep(0.05)
        url = f"http://127.0.0.1:{found.port}/predict"
        body = {"rows": [{"price": 0.5, "volume": 1.0}]}
        with httpx.Client(trust_env=False) as client:
            first = client.post(url, json=body, headers={"x-user-id": "ada"})
            while not store.list(f"telemetry/model={STREAM}"):
                assert time.monotonic() < end
                time.sleep(0.05)
            second = client.post(url, json=body)
    finally:
        deployer.stop("r-1")
    names = {reply.headers["x-tidegate-prediction-id"] for reply in (first, second)}
    now = datetime.now(UTC)
    with duckdb.connect() as connection:
        for _ in range(2):
            rows = telemetry.relation(connection, now - timedelta(hours=2), now + timedelta(hours=1)).fetchall()
            assert {row[0] for row in rows} == names
    record = telemetry.find(first.headers["x-tidegate-prediction-id"])
    assert record is not None
    assert (record["input.price"], record["unit"]) == (0.5, unit_hash(salt_of(store), "ada"))
    assert telemetry.counts() == {"r-1": 2}
    assert upkeep.compact(store, STREAM, now + timedelta(hours=2)) == 2
    assert upkeep.erase(store, STREAM, unit_hash(salt_of(store), "ada")).predictions == 1
    assert telemetry.find(first.headers["x-tidegate-prediction-id"]) is None
    assert telemetry.counts() == {"r-1": 1}


def test_labels_and_classes_survive_a_bucket(s3: str) -> None:
    """The metadata of a file is what was written."""
    store = open_store(s3)
    record = {"id": "p", "at": datetime.now(UTC), "status": 200, "arm": "stable", "label": "up"}
    (file,) = write_records(store, STREAM, [record], classes=["down", "up"], task="classification")
    metadata = pq.read_metadata(io.BytesIO(store.read(file))).metadata
    assert json.loads(metadata[b"tidegate.classes"]) == ["down", "up"]


def test_a_bucket_that_is_not_there_is_said(s3: str) -> None:
    """A mistyped name must not become a new bucket."""
    store = open_store(s3.replace("tidegate-", "another-"))
    with pytest.raises(StoreError, match="There is no bucket another-"):
        store.write("a", b"x")
    with pytest.raises(StoreError, match="There is no bucket another-"):
        store.put_if_absent("a", b"x")
