"""Processes of this machine that outlive their supervisor, and are never mistaken for others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tidegate.serving.deploy import Revision
from tidegate.serving.deploy.local import LocalDeployer, Process, free_port

SLEEPER = "import time; time.sleep(120)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(120)"
)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start a Python program that is ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(text: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


@pytest.fixture
def deployer(tmp_path: Path) -> LocalDeployer:
    return LocalDeployer(tmp_path / "revisions", tmp_path / "logs")


def record(deployer: LocalDeployer, release: str, **fields: Any) -> None:
    """What `start` leaves behind."""
    deployer._folder.mkdir(parents=True, exist_ok=True)
    deployer._file(release).write_text(json.dumps({"port": 20_001, "version": 1, "release": release, **fields}))


def identity(pid: int) -> dict[str, Any]:
    one = Process.of(pid)
    return {"pid": one.pid, "started": one.started}


def test_a_process_is_found_by_somebody_who_did_not_start_it(
    deployer: LocalDeployer, tmp_path: Path, program: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """After kill -9 of `up` the next one goes on with what lives; it is not ready, since nobody answers there."""
    child = program(SLEEPER)
    record(deployer, "r-1", **identity(child.pid))
    found = LocalDeployer(tmp_path / "revisions", tmp_path / "logs").find("r-1")
    assert found is not None
    assert (found.pid, found.ready) == (child.pid, False)


def test_a_pid_that_another_process_has_got_is_not_ours(
    deployer: LocalDeployer, program: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """The start time differs, so it is neither found nor ended."""
    child = program(SLEEPER)
    record(deployer, "r-1", **identity(child.pid) | {"started": time.time() - 3600})
    assert deployer.find("r-1") is None
    deployer.stop("r-1")
    assert child.poll() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"pid": "x"}', '{"pid": 1}'])
def test_a_torn_record_is_no_process(deployer: LocalDeployer, content: str) -> None:
    """A file that a crash left half-written means that nothing runs, and it can be started again."""
    deployer._folder.mkdir(parents=True)
    deployer._file("r-1").write_text(content)
    assert (deployer.find("r-1"), deployer.running()) == (None, ())


def test_a_process_that_died_is_gone_at_once(
    deployer: LocalDeployer, program: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """Also as a zombie of this very process."""
    child = program(SLEEPER)
    record(deployer, "r-1", **identity(child.pid))
    os.kill(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while deployer.find("r-1") is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert deployer.find("r-1") is None


def test_a_process_that_ignores_the_polite_way_is_killed(program: Callable[[str], subprocess.Popen[bytes]]) -> None:
    """After its patience is over."""
    child = program(STUBBORN)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    one = Process.of(child.pid)
    one.end(0.3)
    assert not one.alive()


def test_a_free_port_is_one_that_the_system_does_not_hand_out() -> None:
    """Below 32768, and nobody listens there."""
    port = free_port()
    assert port < 32768
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_what_the_process_prints_is_kept(deployer: LocalDeployer, tmp_path: Path) -> None:
    """A bundle that is none ends the process, and its log says why."""
    deployer.start(Revision("r-1", 1, tmp_path / "nothing here"))
    deadline = time.monotonic() + 60
    while deployer.find("r-1") is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert deployer.find("r-1") is None
    said = (tmp_path / "logs" / "r-1.log").read_text()
    assert "nothing here" in said
    assert "Traceback" not in said


def test_a_process_that_cannot_be_noted_is_ended(deployer: LocalDeployer, tmp_path: Path) -> None:
    """Nobody would find it again, and each attempt would start one more."""
    (tmp_path / "revisions" / "r-1.tmp").mkdir(parents=True)
    with pytest.raises(OSError, match=r"r-1\.tmp"):
        deployer.start(Revision("r-1", 1, tmp_path / "nothing here"))
    assert deployer.end_unrecorded() == 0


def test_secrets_of_the_gateway_do_not_reach_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code is somebody's, and it needs no API keys; what else is in the environment it may need."""
    import psutil

    monkeypatch.setenv("THE_KEYS", "s3cret")
    monkeypatch.setenv("A_SETTING", "plain")
    deployer = LocalDeployer(tmp_path / "revisions", tmp_path / "logs", hidden={"THE_KEYS"})
    shown: dict[str, str] = {}
    # A process without a bundle ends soon, and then it has no environment to show.
    for _ in range(50):
        deployer.start(Revision("r-1", 1, tmp_path / "nothing here"))
        found = deployer.find("r-1")
        with contextlib.suppress(psutil.Error):
            shown = psutil.Process(found.pid).environ() if found else {}
        if shown:
            break
    deployer.stop("r-1")
    assert "THE_KEYS" not in shown
    assert (shown["A_SETTING"], shown["TIDEGATE_RELEASE"]) == ("plain", "r-1")
