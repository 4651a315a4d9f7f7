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
def server(arm: Callable[[str, str], str]) -> Iterator[str]:
    """A server that sends each user, asking it by a host's name, to an arm; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("x-tidegate-arm", arm(self.headers["x-user-id"], self.headers["host"]))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{serving.server_port}"
        finally:
            serving.shutdown()


@contextmanager
def gateway(environment: Environment, arm: Arm) -> Iterator[None]:
    """An `up` that names a server which sends each user to `arm(user)`."""
    project = environment.project
    with server(lambda user, _: arm(user)) as at:
        address = {"kind": "stack", "processes": [], "gateway": at}
        with control.serve(control.socket_path(project.root, project.env), {"ps": lambda: address}):
            yield


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


def test_the_route_of_a_cluster_is_asked_by_its_hostname(environment: Environment) -> None:
    """At the address that is given, since the name may lead elsewhere; the id of the ledger is the salt."""
    import dataclasses

    from tidegate.core.errors import UsageError
    from tidegate.pipelines.traffic_check import check

    file = environment.project.root / "tidegate.yaml"
    file.write_text(
        f"{file.read_text()}environments:\n"
        f"  prod: {{hostname: model.example, store: {environment.project.store_url}}}\n  bare: {{}}\n"
    )
    prod = Environment(open_project(environment.project.root, "prod"))
    for event in environment.ledger.events():
        prod.ledger.append(lambda _, event=event: Draft(event.kind, event.data))
    asked = set()

    def arm(user: str, host: str) -> str:
        asked.add(host)
        return assigned_arm("o-1", user, 20)

    with server(arm) as address:
        seen = check(prod, 200, address)
    assert (seen.rollout, seen.found.problems(), asked) == ("o-1", (), {"model.example"})
    bare = Environment(dataclasses.replace(prod.project, env="bare"))
    with pytest.raises(UsageError, match="has no hostname"):
        check(bare, 10)
