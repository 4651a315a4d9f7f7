"""Labels and outcomes by HTTP: kept before the answer, good ones whatever the others are, many posts in few files."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import duckdb
import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from tidegate.console import intake
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.serving.labels import stored
from tidegate.serving.telemetry import salt_of, unit_hash

YAML = "version: 1\nmodel: demand\ndata: {path: data/train.csv, target: class}\n"


class Client:
    """Posts to an app in this process, in one event loop."""

    def __init__(self, app: FastAPI) -> None:
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def post(self, path: str, **request: Any) -> httpx.Response:
        return self._runner.run(self._client.post(path, **request))


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (tmp_path / "tidegate.yaml").write_text(YAML)
    return Environment(open_project(tmp_path))


@pytest.fixture
def client(environment: Environment) -> Iterator[Client]:
    with Client(app_of(environment)) as made:
        yield made


def app_of(environment: Environment) -> FastAPI:
    app = FastAPI()
    app.include_router(intake.router(environment))
    return app


def kept(environment: Environment, kind: stored.Kind = "labels") -> list[dict[str, Any]]:
    with duckdb.connect() as connection:
        return stored.reading(
            environment.store, kind, environment.stream, connection, lambda rows: rows.to_arrow_table().to_pylist()
        )


def test_one_label_is_in_the_store_when_it_is_answered(environment: Environment, client: Client) -> None:
    """Whoever has the answer may forget the label."""
    answer = client.post("/labels", json={"prediction_id": "p1", "label": True, "at": "2026-01-05T10:00:00+01:00"})
    assert (answer.status_code, answer.json()) == (200, {"kind": "labels", "accepted": 1, "rejected": []})
    (row,) = kept(environment)
    received = row.pop("received")
    assert row == {"by": "prediction", "key": "p1", "label": "true", "at": datetime(2026, 1, 5, 9)}  # noqa: DTZ001
    assert abs(datetime.now(UTC).replace(tzinfo=None) - received) < timedelta(minutes=1)


def test_json_lines_and_lists_are_taken_and_a_users_name_is_kept_as_its_hash(
    environment: Environment, client: Client
) -> None:
    """Nobody finds a user in the store by trying names."""
    first = b'{"unit": "ada", "name": "conversion", "at": 1767600000}'
    lines = first + b'\n\n{"id": 7, "name": "sold", "value": 2, "at": "2026-01-05"}\n'
    assert client.post("/outcomes", content=lines, headers={"content-type": "application/x-ndjson"}).status_code == 200
    rows = sorted(kept(environment, "outcomes"), key=lambda row: row["by"])
    assert [(row["by"], row["key"], row["unit"], row["name"], row["value"]) for row in rows] == [
        ("caller", "7", None, "sold", 2.0),
        ("unit", None, unit_hash(salt_of(environment.store), "ada"), "conversion", 1.0),
    ]


def test_bad_rows_are_named_by_their_path_and_the_good_ones_of_the_post_are_kept(
    environment: Environment, client: Client
) -> None:
    """And the answer says so, since a 422 elsewhere means that nothing was done."""
    rows = [
        {"prediction_id": "p1", "label": "up"},
        {"prediction_id": "p2", "lable": "up"},
        {"label": "up"},
        {"id": "x", "label": "up", "at": 1e13},
        7,
    ]
    answer = client.post("/labels", json=rows)
    assert answer.status_code == 422
    assert answer.json()["message"] == "4 of 5 cannot be used; the other 1 are kept."
    assert answer.json()["rejected"] == [
        {"path": "[1].lable", "why": 'unknown field "lable", did you mean "label"?'},
        {"path": "[2].prediction_id", "why": "it names no prediction: give one of prediction_id, id"},
        {
            "path": "[3].at",
            "why": "10000000000000.0 lies in the future; seconds are needed, these look like milliseconds",
        },
        {"path": "[4]", "why": "it is no JSON object"},
    ]
    assert [row["key"] for row in kept(environment)] == ["p1"]


@pytest.mark.parametrize(
    ("content", "type_", "status"),
    [
        (b"{", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"", "application/x-ndjson", 422),
        (b"[" * 100_000, "application/json", 422),
        (b'{"prediction_id": "\\ud800", "label": 1}', "application/json", 422),
        (b'{"prediction_id": "p", "label": 1, "\\ud800": 1}', "application/json", 422),
        (b'{"prediction_id": "p", "label": NaN}', "application/json", 422),
        (b'{"unit": "u", "name": "n", "at": 1' + b"0" * 400 + b"}", "application/json", 422),
        (b'{"prediction_id": "p", "label": 1' + b"0" * 5000 + b"}", "application/json", 422),
        (b'{"prediction_id": "p", "label": 1}', "text/plain", 415),
        (b" " * (intake.MAX_BODY + 1), "application/json", 413),
        (json.dumps([{}] * (intake.MOST + 1)).encode(), "application/json", 413),
    ],
)
def test_nothing_that_is_sent_is_a_500(client: Client, content: bytes, type_: str, status: int) -> None:
    """A type that a form of another site can send is refused, so that no page can post labels for its visitor."""
    answer = client.post("/labels", content=content, headers={"content-type": type_})
    assert answer.status_code == status


def test_where_the_model_asks_for_a_key_the_intake_asks_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label decides what is promoted; nobody unknown may write one."""
    (tmp_path / "tidegate.yaml").write_text(YAML + "serve: {auth: {api_keys: env:KEYS}}\n")
    monkeypatch.setenv("KEYS", "first,second")
    row = {"prediction_id": "p1", "label": 1}
    with Client(app_of(Environment(open_project(tmp_path)))) as client:
        given = [client.post("/labels", json=row, headers=h).status_code for h in ({}, {"x-api-key": "firs"})]
        assert given == [401, 401]
        assert client.post("/labels", json=row, headers={"x-api-key": "second"}).status_code == 200


def test_a_store_that_cannot_be_written_is_a_503_that_says_to_send_it_again(
    environment: Environment, client: Client
) -> None:
    """Never a 200 for what is lost."""
    (environment.project.root / ".tidegate").write_text("a file where the folder of the store should be")
    answer = client.post("/labels", json={"prediction_id": "p1", "label": 1})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["hint"] == "Nothing was kept; send it again."


def test_a_later_post_corrects_an_earlier_one_and_the_last_row_of_a_post_counts(
    environment: Environment, client: Client
) -> None:
    """Without times of their own, labels are as new as their post."""
    client.post("/labels", json=[{"prediction_id": "p1", "label": label} for label in ("a", "b")])
    client.post("/labels", json={"prediction_id": "p1", "label": "a"})
    assert [row["label"] for row in sorted(kept(environment), key=lambda row: row["received"])] == ["b", "a"]


def test_posts_to_a_real_server_at_once_share_files(environment: Environment) -> None:
    """200 posts of 20 clients are all kept and answered, by five writes a second at most."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app_of(environment), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        _until(lambda: server.started)
        began = time.monotonic()
        answers = asyncio.run(_post_all(address))
        seconds = time.monotonic() - began
        server.should_exit = True
        thread.join(10)
    assert answers == [200] * 200
    assert {row["key"] for row in kept(environment)} == {f"p{n}" for n in range(200)}
    assert len(stored.files(environment.store, "labels", environment.stream)) <= seconds / 0.2 + 2


async def _post_all(address: str) -> list[int]:
    limits = httpx.Limits(max_connections=20)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=30, trust_env=False) as client:
        rows = ({"prediction_id": f"p{n}", "label": n % 2} for n in range(200))
        return [answer.status_code for answer in await asyncio.gather(*(client.post("/labels", json=r) for r in rows))]


def _until(holds: Any) -> None:
    limit = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.02)
