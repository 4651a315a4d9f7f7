"""`up`, `down`, `ps` and `logs` with real processes, also after rude ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time

import httpx
import psutil
import pytest
from journeys.journey import Journey, living, wait_until

pytestmark = pytest.mark.slow


def test_ps_says_what_runs_and_logs_what_it_printed(stack: Journey) -> None:
    """The document that scripts rely on."""
    document = stack.must("ps", "--json").json
    console = f"http://127.0.0.1:{stack.port + 1}"
    assert (document["kind"], document["gateway"], document["console"]) == ("stack", stack.address, console)
    found = {one["name"]: one for one in document["processes"]}
    assert {"up", "gateway", "stable"} <= set(found)
    assert all({"name", "pid", "port", "ready", "version"} <= set(one) for one in document["processes"])
    assert found["stable"]["version"] == stack.state.versions[stack.champion]
    assert all(living(one["pid"]) for one in document["processes"])
    lines = [json.loads(line) for line in stack.must("logs", "--json").stdout.splitlines()]
    assert {"up", "gateway", stack.champion} & {one["name"] for one in lines}
    wrong = stack.cli("logs", "nobody")
    assert (wrong.exit_code, "There are logs of" in wrong.stderr) == (2, True)


def test_a_second_up_is_refused_and_harms_nothing(stack: Journey) -> None:
    """In the background and in the foreground."""
    stack.console()
    before = stack.ps()
    for arguments in (("up", "-d"), ("up",)):
        refused = stack.cli(*arguments)
        assert (refused.exit_code, "The stack runs already" in refused.stderr) == (1, True), refused
    assert stack.ps() == before


def test_down_ends_what_a_killed_up_left(stack: Journey) -> None:
    """Also a service and an Envoy that it was killed too early to note."""
    pids = stack.kill("up")
    others = {one.pid for one in stack.processes()}
    assert others
    (stack.environment.run_dir / "gateway" / "envoy.pid").unlink()
    for file in (stack.environment.run_dir / "revisions").glob("*.json"):
        file.unlink()
    assert stack.must("down", "--json").json == {"kind": "down", "was_up": True}
    wait_until(lambda: not stack.processes(), lambda: f"{stack.processes()} still run")
    assert not any(living(pid) for pid in {*others, *pids.values()})
    assert stack.must("down", "--json").json == {"kind": "down", "was_up": False}
    gone = stack.cli("ps")
    assert (gone.exit_code, "not running" in gone.stderr) == (1, True)


def test_the_console_is_kept_and_nobody_who_is_served_depends_on_it(stack: Journey) -> None:
    """Killed it is started again; it outlives a killed `up`, and the next one goes on with the same process."""
    first = stack.console()
    stack.kill("console")
    wait_until(lambda: stack.ps().get("console", {}).get("ready"), "it does not come back")
    second = stack.console()
    assert second["pid"] != first["pid"]
    assert "The console stopped" in stack.must("logs", "up", "-n", "50").stdout
    token = (stack.environment.run_dir / "console.token").read_text()
    headers = {"authorization": f"Bearer {token}"}
    status = httpx.get(f"http://127.0.0.1:{stack.port + 1}/api/status", headers=headers, timeout=30).json()
    assert (status["up"], status["champion"]["release"]) == (True, stack.champion)
    assert {"up", "gateway", "stable", "console"} <= {one["name"] for one in status["processes"]}
    stack.kill("up")
    assert living(second["pid"])
    stack.up()
    stack.settled()
    assert stack.console()["pid"] == second["pid"]


def test_a_console_that_cannot_start_is_said_and_ends_nothing(project: Journey) -> None:
    """Its port is taken: users are answered, `up` names the holder, and it starts once the port is free."""
    project.cli("down")
    wait_until(lambda: not project.processes(), "the stack goes on")
    with socket.create_server(("127.0.0.1", project.port + 1)):
        project.up()
        project.settled()
        said = f"Port {project.port + 1} on 127.0.0.1 is taken by process {os.getpid()}"
        wait_until(lambda: said in project.must("logs", "up", "-n", "50").stdout, "it is not said")
        assert "console" not in project.ps()
    assert project.console()["port"] == project.port + 1


def test_a_taken_port_is_named_with_its_holder(project: Journey) -> None:
    """Nothing is left behind, and it works once the port is free."""
    project.cli("down")
    wait_until(lambda: not project.processes(), "the stack goes on")
    with socket.create_server(("127.0.0.1", project.port)):
        refused = project.cli("up", "-d")
        assert refused.exit_code == 1
        assert f"Port {project.port} on 127.0.0.1 is taken by process {os.getpid()}" in refused.stderr
        assert "advanced.gateway_port" in refused.stderr
        assert project.processes() == []
    project.up()
    project.settled()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_foreground_ends_everything(project: Journey, number: signal.Signals) -> None:
    """Ctrl-C: exit code 0, users first told what answers, then nothing left."""
    project.cli("down")
    child = project.start("up", "--json")
    wait_until(lambda: project.cli("ps").exit_code == 0, "it does not start")
    project.settled()
    child.send_signal(number)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr
    assert json.loads(stdout)["kind"] == "stack"
    wait_until(lambda: not project.processes(), lambda: f"{project.processes()} still run")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can take the disk from a running process")
def test_a_full_disk_stops_the_judge_but_not_the_users(stack: Journey) -> None:
    """No file can grow while a rollout runs: it says so, decides nothing, and goes on when there is room."""
    canary = stack.other()
    with stack.rollout_running(canary) as load:
        up = psutil.Process(stack.ps()["up"]["pid"])
        rollout, events = stack.rollout.id, len(stack.environment.ledger.events())
        up.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        full = time.time()
        stored = stack.environment.store
        checkpoint = stored.read(f"rollouts/{rollout}/checkpoint.json")
        answered = load.report.answered
        wait_until(lambda: load.report.answered > answered + 600, "nobody is answered")
        assert len(stack.environment.ledger.events()) == events
        assert up.is_running()
        assert stack.rollout.open
        assert time.time() - full < 90
        up.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        over = stack.ended()
        assert stored.read(f"rollouts/{rollout}/checkpoint.json") != checkpoint
    assert (over.state, stack.champion) == ("promoted", canary)
    assert "Cannot write" in stack.must("logs", "up", "-n", "200").stdout
    assert (load.report.failed, load.report.unsent, set(load.report.statuses)) == (0, 0, {200})
    assert stack.switched_back(rollout) == []
