"""`up`: what it prints, and that nobody who stops it is left with half a stack."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from tidegate.cli.commands.stack import _print_ready
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.registry.ledger import Draft
from tidegate.serving.deploy.local import free_port

CONFIG = "model: demand\ndata: {{path: data/train.csv, target: class}}\nadvanced: {{gateway_port: {port}}}\n"


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A project whose champion can never be ready: its bundle was not built here."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG.format(port=free_port()))
    found = Environment(open_project(tmp_path))
    registered = {"release": "r-1", "version": 1, "run_id": "x"}
    for kind, data in (("registered", registered), ("deployed", {"release": "r-1"})):
        found.ledger.append(lambda _, kind=kind, data=data: Draft(kind, data))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_stops_a_start_in_the_background_ends_it(environment: Environment, number: signal.Signals) -> None:
    """Ctrl-C, a script that is ended, a terminal that closes: `up` is in a session of its own and would live on."""
    root = environment.project.root
    parent = subprocess.Popen(
        [sys.executable, "-m", "tidegate.cli", "-C", str(root), "up", "-d"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        children = _children(parent.pid)
        parent.send_signal(number)
        assert parent.wait(60) == 130
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    finally:
        parent.kill()
        parent.wait()


def _children(pid: int) -> list[psutil.Process]:
    """The processes below `pid`, once it has had time to note that it started one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [child for child in psutil.Process(pid).children() if child.cmdline()[-1:] == ["up"]]
        if found:
            time.sleep(0.1)
            return psutil.Process(pid).children(recursive=True)
        time.sleep(0.01)
    raise AssertionError("it starts nothing")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (None, "mlflow ui --backend-store-uri sqlite:///"),
        ("https://ada:s3cret@mlflow.example.org", "MLflow's pages: https://ada:***@mlflow.example.org"),
        ("postgresql://ada:s3cret@db.example.org/mlflow", "MLflow's pages: postgresql://ada:***@db.example.org/mlflow"),
    ],
)
def test_no_password_is_printed(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, uri: str | None, said: str
) -> None:
    """MLFLOW_TRACKING_URI may hold one, and a terminal's output ends up in logs."""
    monkeypatch.setattr("tidegate.pipelines.example_request.curl", lambda *_: "curl")
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    out = io.StringIO()
    _print_ready(Console(file=out, width=200), {"gateway": "http://127.0.0.1:1", "console": None}, environment)
    assert said in out.getvalue()
    assert "s3cret" not in out.getvalue()
