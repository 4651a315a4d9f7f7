"""Ctrl-C: what goes on, what was kept, what to type next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tidegate.cli import interrupted
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases
from tidegate.registry.ledger import Draft

CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\n"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """A command in a process of its own, ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def call(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tidegate.cli", *arguments]
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, cwd=cwd, stdout=pipe, stderr=pipe, text=True, env=environ))
        return running[-1]

    yield call
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def environment(git_repo: Path) -> Environment:
    """Version 2 is a canary at 25 %; nobody moves it on."""
    (git_repo / "tidegate.yaml").write_text(CONFIG)
    found = Environment(open_project(git_repo))
    made = [
        releases.Release("demand", version, f"run{version}", "demand:1", "00", "", False, (), {}, {}, {})  # noqa: FBT003
        for version in (1, 2)
    ]
    for release in made:
        releases.save(found.store, release, {})
        data = {"release": release.id, "version": release.version, "run_id": release.run_id}
        found.ledger.append(lambda _, data=data: Draft("registered", data))
    found.ledger.append(lambda _: Draft("deployed", {"release": made[0].id}))
    begun = {"rollout": "o-1", "stable": made[0].id, "canary": made[1].id, "steps": [25, 50], "plan": {}}
    found.ledger.append(lambda _: Draft("rollout_started", begun))
    return found


def stopped(process: subprocess.Popen[str], stream: str) -> tuple[int, str, str]:
    """Ctrl-C once it has said something; exit code, stdout and stderr."""
    readable: Any = getattr(process, stream)
    first = readable.readline()
    assert first
    time.sleep(0.3)  # it waits for the rollout now
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(("line", "speaks"), [(["rollout", "watch"], "stdout"), (["ship", "--release"], "stderr")])
def test_a_rollout_goes_on_without_those_who_watch_it(
    environment: Environment, start: Start, line: list[str], speaks: str
) -> None:
    """Not an error: it says where the rollout stands, how to follow it again, and how to end it."""
    rollout = environment.state().open_rollout
    assert rollout is not None
    arguments = [*line, rollout.canary] if line[0] == "ship" else line
    code, _, err = stopped(start(*arguments, cwd=environment.project.root), speaks)
    assert code == 130
    assert "rollout o-1 of version 2 goes on at 25 % while `tidegate up` runs" in err
    assert "`tidegate rollout watch` follows it again" in err
    assert "`tidegate rollout abort` ends it and gives every user version 1" in err
    assert "Error" not in err
    assert Environment(environment.project).state().open_rollout is not None


def test_a_script_gets_the_same_as_the_last_line_of_the_stream(environment: Environment, start: Start) -> None:
    """JSON Lines to the end."""
    code, out, _ = stopped(start("rollout", "watch", "--json", cwd=environment.project.root), "stdout")
    last = json.loads(out.splitlines()[-1])
    assert (code, last["kind"], last["exit_code"]) == (130, "error", 130)
    assert "goes on at 25 %" in last["message"]


def test_a_rollout_that_ended_meanwhile_is_not_said_to_go_on(environment: Environment) -> None:
    """Somebody aborted it in the very moment; one that is held waits for a person."""
    environment.ledger.append(lambda _: Draft("held", {"rollout": "o-1", "reasons": ["no users"]}))
    assert "waits for a person at 25 %" in interrupted.watching(environment, "o-1").message
    environment.ledger.append(lambda _: Draft("aborted", {"rollout": "o-1", "reasons": ["no"]}))
    assert "rollout o-1 is over" in interrupted.watching(environment, "o-1").message


def test_a_ship_that_was_stopped_before_its_rollout_says_how_far_it_came(environment: Environment) -> None:
    """Registered and nothing started; or, when nothing was registered, that the same command goes on."""
    environment.ledger.append(lambda _: Draft("aborted", {"rollout": "o-1", "reasons": ["no"]}))
    before = environment.state()
    said = interrupted.shipping(KeyboardInterrupt(), environment, before)
    assert "Everything that had finished is kept" in said.message
    assert "`tidegate ship` goes on from there" in said.hint
    environment.ledger.append(lambda _: Draft("registered", {"release": "r-3", "version": 3, "run_id": "run3"}))
    said = interrupted.shipping(KeyboardInterrupt(), environment, before)
    assert "Version 3 is registered as release r-3; no rollout was started" in said.message
    assert "`tidegate rollout start r-3`" in said.hint
