"""`doctor traffic` compares what a gateway does with what the ledger says it should do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.assignment import assigned_arm
from tidegate.core.project import open_project
from tidegate.pipelines import control
from tidegate.pipelines.environment import Environment
from tidegate.registry.ledger import Draft
from tidegate.registry.state import deciding, start

Cli = Callable[..., Any]
Arm = Callable[[str], str]


@pytest.fixture
def environment(git_repo: Path) -> Environment:
    """A rollout o-1 at 20 % in the ledger."""
    (git_repo / "tidegate.yaml").write_text("model: demand\ndata: {path: data.csv, target: class}\n")
    environment = Environment(open_project(git_repo, "local"))
    for kind, data in (
        ("registered", {"release": "r-1", "version": 1, "run_id": "a"}),
        ("deployed", {"release": "r-1"}),
        ("registered", {"release": "r-2", "version": 2, "run_id": "b"}),
    ):
        environment.ledger.append(lambda _, kind=kind, data=data: Draft(kind, data))
    plan = {"rollout": "o-1", "steps": [20, 50]}
    environment.ledger.append(deciding(start("r-2", plan, 0.0, by_hand=False)))
    return environment


@contextmanager
def gateway(environment: Environment, arm: Arm) -> Iterator[None]:
    """An `up` that names a server which sends each user to `arm(user)`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("x-tidegate-arm", arm(self.headers["x-user-id"]))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = {"kind": "stack", "processes": [], "gateway": f"http://127.0.0.1:{server.server_port}"}
        project = environment.project
        try:
            with control.serve(control.socket_path(project.root, project.env), {"ps": lambda: address}):
                yield
        finally:
            server.shutdown()


def test_a_gateway_that_splits_as_planned_is_ok(cli: Cli, environment: Environment) -> None:
    """Exit 0, with the counts."""
    with gateway(environment, lambda user: assigned_arm("o-1", user, 20)):
        done = cli("doctor", "traffic", "--users", "300", "--json", cwd=environment.project.root)
        said = cli("doctor", "traffic", "--users", "50", cwd=environment.project.root)
    assert done.exit_code == 0, done.stdout
    found = done.json
    assert (found["kind"], found["ok"], found["rollout"], found["weight"]) == ("doctor_traffic", True, "o-1", 20)
    assert (found["users"], found["requests"], found["problems"]) == (300, 900, [])
    assert found["low"] <= found["canary"] <= found["high"]
    assert "every user has one arm" in said.stdout


@pytest.mark.parametrize(
    ("arm", "problem"),
    [
        (lambda _: "stable", "0 of 300 users got the canary; 20 % means"),
        (lambda user: assigned_arm("o-2", user, 20), "users did not get the arm of the formula"),
        (lambda _: "", "900 of 900 answers do not say which arm they come from"),
    ],
)
def test_a_broken_promise_is_one_sentence_and_exit_1(
    cli: Cli, environment: Environment, arm: Arm, problem: str
) -> None:
    """Nobody on the canary, another salt, or somebody else's server."""
    with gateway(environment, arm):
        done = cli("doctor", "traffic", "--users", "300", cwd=environment.project.root)
    assert done.exit_code == 1
    assert problem in " ".join(done.stdout.split())
    assert "tidegate logs gateway" in done.stdout


def test_without_a_stack_it_says_how_to_start_one(cli: Cli, environment: Environment) -> None:
    """One line with what to type."""
    done = cli("doctor", "traffic", cwd=environment.project.root)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "`tidegate up -d`" in done.stderr
