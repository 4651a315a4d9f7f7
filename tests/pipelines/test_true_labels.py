"""`dev traffic --labels`: the truth of what was sent is in the store when the load ends."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.true_labels import TrueLabels
from tidegate.serving.http_client import Answer
from tidegate.serving.labels import stored
from tidegate.serving.traffic import TrafficPlan, make_traffic


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (tmp_path / "tidegate.yaml").write_text("version: 1\nmodel: demand\ndata: {path: data/train.csv, target: class}\n")
    return Environment(open_project(tmp_path))


@pytest.fixture
def model() -> Iterator[str]:
    """A server that names each answer by the row it was asked about, and fails for one of them."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(_answer, sock=listener), loop).result(10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
    loop.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    count = 0
    while head := await reader.readuntil(b"\r\n\r\n"):
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        row = json.loads(await reader.readexactly(length))["rows"][0]["row"]
        count += 1
        name = f"x-tidegate-prediction-id: {row}-{id(writer)}-{count}\r\n"
        status = "500 Wrong" if row == "b" else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\n{name}content-length: 0\r\n\r\n".encode())


def labels(environment: Environment) -> list[tuple[str, str]]:
    with duckdb.connect() as connection:
        return stored.reading(
            environment.store,
            "labels",
            environment.stream,
            connection,
            lambda rows: rows.project("key, label").fetchall(),
        )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # connections end with the load
def test_every_answer_gets_the_target_of_its_own_row_and_a_failure_gets_none(
    environment: Environment, model: str
) -> None:
    """Whatever order rows are sent in."""
    bodies = [json.dumps({"rows": [{"row": name}]}).encode() for name in "abc"]
    truths = TrueLabels(environment, [1, 0, True])
    plan = TrafficPlan(model, bodies, rps=100, users_per_minute=600, requests=120, heard=truths.heard)
    with truths:
        report = make_traffic(plan)
    found = labels(environment)
    assert truths.kept == len(found) == report.statuses[200]
    assert {(key[0], label) for key, label in found} == {("a", "1"), ("c", "true")}


def test_a_store_that_cannot_be_written_is_an_error_of_the_load(environment: Environment) -> None:
    """Labels that are lost in silence would look like a model that nobody labels."""
    (environment.project.root / ".tidegate").write_text("no folder")
    truths = TrueLabels(environment, [1])
    answer = Answer(200, b"http/1.1 200 ok\r\nx-tidegate-prediction-id: p1\r\n", b"")
    with pytest.raises(OSError, match="Not a directory"), truths:
        truths.heard(0, answer)
