"""Several processes behind one port: all are used and counted, a dead one is replaced, none outlives the parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from tidegate.serving.deploy import Revision
from tidegate.serving.deploy.local import LocalDeployer, free_port
from tidegate.serving.service.workers import Place, merge

pytestmark = pytest.mark.slow


class Group:
    """A parent with two workers."""

    def __init__(self, bundle: Path, log: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = log
        command = [sys.executable, "-m", "tidegate.serving.service", "--bundle", str(bundle), "--workers", "2"]
        with log.open("wb") as stream:
            self.process = subprocess.Popen([*command, "--port", self.url.rpartition(":")[2]], stderr=stream)

    def get(self, path: str) -> httpx.Response:
        """Over a connection of its own, so that any worker may answer."""
        return httpx.get(f"{self.url}{path}", timeout=20, trust_env=False)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until it holds; connections may be refused meanwhile."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def ready(self) -> None:
        """Until /readyz says so."""
        self.wait(lambda: self.get("/readyz").status_code == 200)

    def workers(self) -> list[psutil.Process]:
        """Its living children."""
        return [one for one in psutil.Process(self.process.pid).children() if one.status() != psutil.STATUS_ZOMBIE]

    def counts(self) -> dict[str, int]:
        """Requests answered with 200, by worker."""
        text = self.get("/metrics").text
        found = re.findall(r'tidegate_requests_total\{status="200",arm="",worker="(\d)"\} (\d+)', text)
        return {worker: int(count) for worker, count in found}

    def stop(self) -> int:
        """SIGTERM and the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


@pytest.fixture
def group(odd: Any, tmp_path: Path) -> Iterator[Group]:
    """Two workers of a small model, ready."""
    made = Group(odd.bento.bundle, tmp_path / "log")
    try:
        made.ready()
        yield made
    finally:
        made.stop()


def test_workers_share_the_port_and_their_counters(group: Group, served: Any) -> None:
    """Every answer is right, and whichever worker is asked for /metrics tells those of both; SIGTERM ends with 0."""
    expected = served.predict(*served.rows[:2]).json
    for _ in range(60):
        reply = httpx.post(f"{group.url}/predict", json={"rows": served.rows[:2]}, timeout=20, trust_env=False)
        assert reply.json() == expected
    group.wait(lambda: sum(group.counts().values()) == 60)
    assert group.get("/metrics").text.count("# TYPE tidegate_requests_total counter") == 1
    assert group.stop() == 0


def test_a_dead_worker_is_replaced_while_the_other_answers(group: Group) -> None:
    """After kill -9 of one worker, /readyz stays 200 and there are two again."""
    first, second = group.workers()
    first.kill()
    group.wait(lambda: len(group.workers()) == 2 and first.pid not in {one.pid for one in group.workers()})
    assert group.get("/readyz").status_code == 200
    assert second.is_running()


def test_no_worker_outlives_a_killed_parent(group: Group) -> None:
    """After kill -9 of the parent its workers end by themselves and leave nothing behind."""
    workers = group.workers()
    folder = Place.parse(workers[0].cmdline()[-1]).folder
    os.kill(group.process.pid, signal.SIGKILL)
    group.process.wait()
    _, living = psutil.wait_procs(workers, timeout=20)
    assert not living
    assert not folder.exists()


def test_a_bundle_that_cannot_be_served_ends_the_parent(tmp_path: Path) -> None:
    """Exit 1 as with one process, and no worker is left."""
    broken = Group(tmp_path / "nothing", tmp_path / "log")
    assert broken.process.wait(60) == 1
    assert "Traceback" not in broken.log.read_text()


def test_a_revision_gets_as_many_processes_as_it_says(odd: Any, served: Any, tmp_path: Path) -> None:
    """The local deployer starts them behind one port and ends them all, when each has written what it recorded."""
    said = {"store": str(tmp_path / "store"), "stream": "demand.local", "flush": 600.0}
    deployer = LocalDeployer(tmp_path / "run", tmp_path / "logs", capture=said)
    deployer.start(Revision("r-1", 7, odd.bento.bundle, workers=2))
    try:
        deadline = time.monotonic() + 60
        while not ((found := deployer.find("r-1")) and found.ready):
            assert time.monotonic() < deadline, (tmp_path / "logs" / "r-1.log").read_text()
            time.sleep(0.05)
        workers = psutil.Process(found.pid).children()
        assert len(workers) == 2
        asked = {"url": f"http://127.0.0.1:{found.port}/predict", "json": {"rows": served.rows[:1]}}
        # Each on a connection of its own, so that both workers get some.
        names = {httpx.post(**asked, trust_env=False).headers["x-tidegate-prediction-id"] for _ in range(40)}
    finally:
        deployer.stop("r-1")
    files = [str(path) for path in (tmp_path / "store").rglob("*.parquet")]
    assert {row["id"] for file in files for row in pq.read_table(file, columns=["id"]).to_pylist()} == names
    assert len({file.rsplit("/", 1)[1].split("-")[0] for file in files}) == 2
    assert not psutil.wait_procs(workers, timeout=20)[1]


def test_merged_pages_keep_families_together() -> None:
    """Prometheus refuses a page that names a family twice."""
    page = b'# HELP a A.\n# TYPE a counter\na 1\n# HELP b B.\n# TYPE b gauge\nb{x="1"} 2\n'
    assert merge({0: page, 1: page}).decode().splitlines() == [
        "# HELP a A.",
        "# TYPE a counter",
        'a{worker="0"} 1',
        'a{worker="1"} 1',
        "# HELP b B.",
        "# TYPE b gauge",
        'b{x="1",worker="0"} 2',
        'b{x="1",worker="1"} 2',
    ]
