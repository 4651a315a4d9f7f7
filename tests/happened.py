"""A project in which much has happened, by the repository's own functions, and its console on a real port."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fakes import log_line
from recorded import BAD, GOOD, Recorder, plan

from tidegate.console.app import create_app
from tidegate.console.auth import Access
from tidegate.console.reports import folder_name
from tidegate.core.artifacts import DatasetRef, Release
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases
from tidegate.registry.ledger import Draft
from tidegate.serving.deploy.local import free_port
from tidegate.serving.labels import ingest_labels
from tidegate.serving.telemetry import write_records

OPERATOR, VIEWER = "operator-token-of-a-test", "viewer-token-of-a-test"
CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\n"
PREDICTION = "5f0c1f9e-0d7e-4c1c-9f39-0d5a1c9b7a10"
# What data may hold, and what a browser must never run.
HOSTILE = '<img src=x onerror="document.title=1">"\'</script><script>document.title=2</script>'
RELEASE = Release(
    model="demand",
    version=3,
    run_id="0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    bento="demand:abc123",
    bundle="9" * 64,
    git_commit="4f1d2c3b4a5968778695a4b3c2d1e0f1a2b3c4d5",
    git_dirty=True,
    data=(DatasetRef("data/train.csv", "d41d8cd98f00b204e9800998ecf8427e", 45312),),
    files={},
    config={},
    contract={},
)
INPUTS = ("price", "demand", "transfer", "day", "period", "weekday", "temperature", "holiday", "region", "tariff")
OUTCOMES = {"holiday": "new_category", "tariff": "missing_column", "region": "all_null"}


def empty(root: Path) -> Environment:
    (root / "tidegate.yaml").write_text(CONFIG)
    return opened(root)


def opened(root: Path) -> Environment:
    return Environment(open_project(root))


def access() -> Access:
    return Access([("viewer", VIEWER), ("operator", OPERATOR)], b"k" * 32, 8401)


@contextmanager
def served(environment: Environment, who: Access | None = None) -> Iterator[str]:
    """The console on a real port of this machine, and its address."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(environment, who or access()), port=port, log_level="error", timeout_graceful_shutdown=2
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "it does not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def get(address: str, token: str = "") -> int:
    """The status of one request on a connection of its own."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.get(address, headers=headers, timeout=30).status_code


def client(address: str, token: str = "") -> httpx.Client:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=address, headers=headers, timeout=30)


def fill(environment: Environment, hostile: str = "") -> Environment:
    """Let things happen; with `hostile` it is in every text that comes from data or from people."""
    say(environment, "registered", {"release": "r-1", "version": 1, "run_id": "aaa", "gate": ["roc_auc 0.81: passed."]})
    say(environment, "registered", {"release": "r-2", "version": 2, "run_id": "bbb", "gate": ["roc_auc 0.83: passed."]})
    say(environment, "deployed", {"release": "r-1"})
    recorder(environment, "o-0bad").run(BAD)
    say(environment, "frozen", {"reason": hostile or "a sale is on"}, f"{hostile}ada@desk")
    say(environment, "unfrozen", {"reason": "the sale is over"}, "ada@desk")
    watch(environment, 30, hostile)
    predict(environment, 400)
    say(environment, "retrain_started", {"retrain": "t-1f2e3d4c", "reason": hostile or "drift in 3 windows in a row"})
    releases.save(environment.store, RELEASE, {})
    registered = {"release": RELEASE.id, "version": 3, "run_id": RELEASE.run_id, "gate": ["roc_auc 0.85: passed."]}
    say(environment, "registered", registered)
    ended = {"retrain": "t-1f2e3d4c", "outcome": "registered", "release": RELEASE.id, "data": "d41d8cd9", "reasons": []}
    say(environment, "retrain_ended", ended)
    running = recorder(environment, "o-1a2b", steps=[5, 20, 50])
    running.run(GOOD, most=6)
    gateway = environment.gateway_dir
    gateway.mkdir(parents=True)
    cluster = f"stable/{RELEASE.id}/127.0.0.1:8500"
    (gateway / "access.jsonl").write_bytes(log_line(prediction=PREDICTION, cluster=cluster, unit=hostile or "ada"))
    return environment


def recorder(environment: Environment, rollout: str, **section: Any) -> Recorder:
    return Recorder(environment.store, environment.stream, plan(rollout, **section), units=900)


def say(environment: Environment, kind: str, data: dict[str, Any], actor: str = "judge") -> None:
    environment.ledger.append(lambda _: Draft(kind, data, actor))


def predict(environment: Environment, count: int) -> None:
    """Predictions of the last hours, two thirds of which have their label after some minutes."""
    rng = random.Random(3)
    now = datetime.now(UTC)
    first = now - timedelta(hours=3)
    made = [
        {
            "id": f"p-{k}",
            "at": first + k * timedelta(hours=3) / count,
            "unit": k,
            "arm": "stable",
            "release": "r-1",
            "version": 1,
            "status": 200,
            "seconds": 0.002,
            "label": "1",
        }
        for k in range(count)
    ]
    write_records(environment.store, environment.stream, made, classes=["0", "1"], task="classification")
    for minutes in (10, 30, 60):
        due = [one for one in made if rng.random() < 0.4]
        labels = [{"prediction_id": one["id"], "label": 1, "at": one["at"]} for one in due]
        ingest_labels(environment.store, environment.stream, labels, now - timedelta(minutes=70 - minutes))


def watch(environment: Environment, count: int, hostile: str = "") -> None:
    """So many hours of live data, until the present one."""
    rng = random.Random(7)
    first = datetime.fromtimestamp(time.time() // 3600 * 3600, UTC) - timedelta(hours=count)
    for k in range(count):
        since, until = first + timedelta(hours=k), first + timedelta(hours=k + 1)
        document = drift(rng, since, until, max(0.0, (k - count + 8) / 8), hostile)
        path = f"reports/{environment.stream}/{folder_name(since.isoformat())}"
        environment.store.write(f"{path}/drift.json", json.dumps(document).encode())
        environment.store.write(
            f"{path}/evidently.html", b"<!doctype html><script>parent.document.title = 'x'</script>"
        )
        watched = {
            "window": since.isoformat(),
            "until": until.isoformat(),
            **{name: document[name] for name in ("outcome", "share", "retrain", "report")},
            "lost": any(one["lost"] for one in document["quality"]["versions"]),
        }
        say(environment, "watched", watched, "monitor")


def drift(rng: random.Random, since: datetime, until: datetime, moved: float, hostile: str) -> dict[str, Any]:
    """The document of `monitor run`; `moved` 0 to 1 says how far the world is from the training data."""
    # While the world moves nobody sleeps, whatever the hour of the test.
    night = since.hour == 3 and moved < 0.4
    columns = [column(rng, name, place, moved, hostile) for place, name in enumerate(INPUTS)]
    share = sum(one["importance"] for one in columns if one["drifted"])
    word = "cannot_tell" if night else "drift" if share >= 0.3 else "no_drift"
    value = 0.86 - 0.16 * moved + rng.uniform(-0.01, 0.01)
    version = {
        "version": 1,
        "release": "r-1",
        "metric": "accuracy",
        "value": None if night else value,
        "low": None if night else value - 0.02,
        "high": None if night else value + 0.02,
        "labelled": 0 if night else 3_120,
        "predictions": 180 if night else 4_000,
        "share_labelled": 0.0 if night else 0.78,
        "reference": 0.861,
        "lost": value + 0.02 < 0.811 and not night,
        "cannot_tell": "too few labels" if night else None,
    }
    reason = {"drift": "3 windows in a row drifted", "no_drift": "no drift", "cannot_tell": "180 rows of 500 needed"}
    return {
        "kind": "drift",
        "window": {"from": since.isoformat(), "to": until.isoformat(), "rows": 180 if night else 4_000},
        "version": 1,
        "release": "r-1",
        "outcome": word,
        "columns": columns,
        "predictions": [{**column(rng, "score", 1, moved, hostile), "importance": None}],
        "drifted": word == "drift",
        "share": None if night else round(share, 3),
        "quality": {"metric": "accuracy", "versions": [version]},
        "retrain": {"asked": word == "drift" and moved > 0.8, "reason": hostile or reason[word]},
        "report": f"reports/demand.local/{folder_name(since.isoformat())}",
    }


def column(rng: random.Random, name: str, place: int, moved: float, hostile: str) -> dict[str, Any]:
    floor, threshold = 0.01 + 0.002 * place, 0.1
    value = floor * rng.uniform(0.4, 1.0) + (moved * 0.5 / (1 + place) if place < 5 else 0.0)
    outcome = "drifted" if value - floor > threshold else "ok"
    if moved > 0.6 and name in OUTCOMES:
        outcome, value = OUTCOMES[name], None if name != "holiday" else 0.03
    return {
        "name": f"{hostile}{name}",
        "method": "wasserstein" if place < 7 else "jensenshannon",
        "value": value,
        "floor": floor,
        "threshold": threshold,
        "drifted": outcome not in {"ok", "new_category"},
        "outcome": outcome,
        "importance": round(0.4 / (place + 1), 3),
        "note": f"{hostile}easter: 3 % of rows" if outcome == "new_category" else "",
    }
