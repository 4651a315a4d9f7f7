"""Real serving processes: start, serve, stay responsive, drain, refuse."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from tidegate.serving.service.manifest import Column

# Python that computes without ever giving the interpreter away by itself, 300 ms for each row.
SLOW = """
import time
def respond(predictions):
    end = time.perf_counter() + 0.3 * len(predictions)
    while time.perf_counter() < end:
        sum(range(100))
    return predictions
"""


class Server:
    """One process and a client to it."""

    def __init__(self, bundle: Path, log: Path, **env: str) -> None:
        self.port = free_port()
        self.log = log
        command = [sys.executable, "-m", "tidegate.serving.service", "--bundle", str(bundle), "--port", str(self.port)]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, stderr=stream, env={**os.environ, "TIDEGATE_RELEASE": "r-1", **env}
            )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    def ready(self) -> float:
        """Seconds until /readyz says 200."""
        begun = time.perf_counter()
        while time.perf_counter() - begun < 30:
            try:
                if self.http.get("/readyz").status_code == 200:
                    return time.perf_counter() - begun
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        raise AssertionError(self.log.read_text())

    def stop(self) -> int:
        """SIGTERM and the exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def free_port() -> int:
    """A free port below the ephemeral range."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of a bundle, with more in its environment; it is stopped at the end."""
    running: list[Server] = []

    def begin(bundle: Path, **env: str) -> Server:
        running.append(Server(bundle, tmp_path / f"server{len(running)}.log", **env))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def slow_bundle(maker: Any) -> Path:
    """A Python model whose respond hook takes 300 ms a row and holds the interpreter."""
    frame = pd.DataFrame({"x": np.linspace(-1, 1, 100)})
    columns = [Column("x", "number")]
    model = LogisticRegression().fit(frame, frame["x"] > 0)
    folder = maker.folder(model, columns, task="classification", hooks=SLOW)
    bundle: Path = maker.package(folder, frame, runtime="native", timeout=10.0).bundle
    return bundle


def test_a_bento_process_serves_predictions_and_bentomls_schema(
    start: Callable[[Path], Server], odd: Any, served: Any
) -> None:
    """Ready within 5 seconds, the lane's answer on /predict, BentoML's schema but no page of its, exit 0 at SIGTERM."""
    server = start(odd.bento.bundle)
    assert server.ready() < 5
    reply = server.http.post("/predict", json={"rows": served.rows[:3]})
    assert reply.status_code == 200
    assert reply.json() == served.predict(*served.rows[:3]).json
    assert reply.headers["x-tidegate-release"] == "r-1"
    assert server.http.post("/predict", content=b"x" * 1_000_001).status_code in {413, 415}
    documentation = server.http.get("/docs.json").json()
    assert "/predict" in documentation["paths"]
    assert server.http.get("/livez").status_code == 200
    about = server.http.get("/")
    assert about.headers["content-type"] == "application/json"
    assert about.json()["version"] == int(reply.headers["x-tidegate-version"])
    assert "POST /predict" in about.json()["paths"]
    for path in ("/nothere", "/static_content/index.html", "/docs"):
        missing = server.http.get(path)
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/json")
        assert "GET / names its paths" in missing.text
    assert 'tidegate_requests_total{status="200",arm=""} 1' in server.http.get("/metrics").text
    assert server.stop() == 0


def test_the_serving_process_imports_nothing_heavy() -> None:
    """What it does not need to predict with ONNX: BentoML, pandas, scikit-learn, MLflow."""
    code = "import sys, tidegate.serving.service.server; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"bentoml", "pandas", "sklearn", "mlflow", "starlette", "pydantic"} & set(found)


def test_a_changed_bundle_ends_with_one_clear_line(start: Callable[[Path], Server], odd: Any, tmp_path: Path) -> None:
    """Exit 1 and the reason; it never becomes ready."""
    import shutil

    bundle = tmp_path / "bundle"
    shutil.copytree(odd.bento.bundle, bundle)
    (bundle / "model.onnx").write_bytes(b"something else")
    server = start(bundle)
    assert server.process.wait(20) == 1
    assert "cannot be opened" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_port_that_is_taken_is_an_error(start: Callable[[Path], Server], odd: Any) -> None:
    """Exit 1, and the log says which address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "tidegate.serving.service", "--bundle", str(odd.bento.bundle)]
        done = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def recorded(store: Path) -> list[str]:
    """The ids of all records, which must be readable whatever happened to their writer."""
    import duckdb

    files = [str(path) for path in store.rglob("*.parquet") if not path.name.startswith(".")]
    if not files:
        return []
    with duckdb.connect() as connection:
        return [row[0] for row in connection.read_parquet(files, union_by_name=True).project("id").fetchall()]


def test_a_killed_process_loses_at_most_one_flush_interval_of_records(
    start: Callable[..., Server], odd: Any, served: Any, tmp_path: Path
) -> None:
    """By kill -9 in the middle of the load: all that was answered an interval before is there, whole and once."""
    # The other tests beside this one may hold up a write for a while.
    flush, slack = 1.0, 0.5
    said = {"store": str(tmp_path / "store"), "stream": "demand.local", "flush": flush}
    server = start(odd.bento.bundle, TIDEGATE_CAPTURE=json.dumps(said))
    server.ready()
    answered: list[tuple[float, str]] = []
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        reply = server.http.post("/predict", json={"rows": served.rows[:1]})
        answered.append((time.monotonic(), reply.headers["x-tidegate-prediction-id"]))
    server.process.kill()
    server.process.wait()
    killed = time.monotonic()
    found = recorded(tmp_path / "store")
    safe = {name for at, name in answered if at < killed - flush - slack}
    assert len(safe) > 10
    assert safe <= set(found) <= {name for _, name in answered}
    assert len(set(found)) == len(found)


def test_sigterm_writes_what_was_answered_last(
    start: Callable[..., Server], odd: Any, served: Any, tmp_path: Path
) -> None:
    """A process that is retired keeps all its records, and tells at /metrics how many it has written."""
    said = {"store": str(tmp_path / "store"), "stream": "demand.local", "flush": 600.0}
    server = start(odd.bento.bundle, TIDEGATE_CAPTURE=json.dumps(said))
    server.ready()
    replies = [server.http.post("/predict", json={"rows": served.rows[:1]}) for _ in range(5)]
    page = server.http.get("/metrics").text
    assert "\ntidegate_capture_queue_rows 5\n" in page
    assert "\ntidegate_capture_written_total 0\n" in page
    assert recorded(tmp_path / "store") == []
    assert server.stop() == 0
    assert sorted(recorded(tmp_path / "store")) == sorted(one.headers["x-tidegate-prediction-id"] for one in replies)


@pytest.mark.slow
def test_sigterm_answers_what_is_in_flight(start: Callable[[Path], Server], slow_bundle: Path) -> None:
    """Three slow requests are under way when it comes; all are answered, and the process ends with 0."""
    server = start(slow_bundle)
    server.ready()
    with ThreadPoolExecutor(3) as pool:
        url = f"http://127.0.0.1:{server.port}/predict"
        waiting = [pool.submit(httpx.post, url, json={"rows": [{"x": 0.5}]}, timeout=20) for _ in range(3)]
        time.sleep(0.3)
        assert server.stop() == 0
        assert [reply.result().status_code for reply in waiting] == [200] * 3


@pytest.mark.slow
def test_a_model_that_takes_300_ms_a_row_does_not_delay_healthz(
    start: Callable[[Path], Server], slow_bundle: Path
) -> None:
    """While Python computes without a pause, /healthz answers within 50 ms at the 99th percentile."""
    server = start(slow_bundle)
    server.ready()
    stop = threading.Event()

    def press() -> None:
        with httpx.Client(timeout=20, trust_env=False) as client:
            while not stop.is_set():
                client.post(f"http://127.0.0.1:{server.port}/predict", json={"rows": [{"x": 0.5}]})

    threads = [threading.Thread(target=press) for _ in range(2)]
    for thread in threads:
        thread.start()
    seconds = []
    for _ in range(200):
        begun = time.perf_counter()
        assert server.http.get("/healthz").status_code == 200
        seconds.append(time.perf_counter() - begun)
        time.sleep(0.005)
    stop.set()
    for thread in threads:
        thread.join()
    assert np.quantile(seconds, 0.99) < 0.05, json.dumps([np.median(seconds), *sorted(seconds)[-5:]])
