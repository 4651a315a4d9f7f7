"""What `up` starts by itself: when, one at a time, and never in the way of the loop."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.config import load
from tidegate.core.project import Project
from tidegate.pipelines import retrain
from tidegate.pipelines.acts import ACTS
from tidegate.pipelines.environment import Environment, environment_for
from tidegate.pipelines.schedule import Schedule
from tidegate.registry.ledger import Draft

CONFIG = """
version: 1
model: demand
task: classification
data: {path: data/train.csv, target: class}
train: {entrypoint: train.py:train}
monitor: {window: 1h, labels: {command: python labels.py, every: 6h}}
notify: [{on: [promoted], webhook: env:HOOK}]
"""
# Five minutes past an hour that all intervals end with.
BEGIN = datetime(2026, 3, 1, 12, 5, tzinfo=UTC).timestamp()


class Act:
    """A process that ends when it is told to."""

    pid = 0

    def __init__(self) -> None:
        self.code: int | None = None

    def poll(self) -> int | None:
        return self.code


class Loop:
    """A schedule with a clock of its own, and what it started."""

    def __init__(self, environment: Environment) -> None:
        self.environment, self.now = environment, BEGIN
        self.started: list[tuple[str, Act]] = []
        self.notes: list[str] = []
        self.schedule = Schedule(environment, self.notes.append, lambda: self.now, self._start)

    def _start(self, name: str) -> Any:
        self.started.append((name, Act()))
        return self.started[-1][1]

    def after(self, minutes: float, *, end: bool = True, code: int = 0) -> list[str]:
        """The names of what is started in this time, a tick every half minute; each act ends by the next tick."""
        before = len(self.started)
        for _ in range(round(minutes * 2)):
            self.now += 30
            for _, act in self.started:
                act.code = code if end and act.code is None else act.code
            self.schedule.tick(self.environment.state())
        return [name for name, _ in self.started[before:]]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    return environment_for(Project(tmp_path, load(tmp_path)))


@pytest.fixture
def loop(environment: Environment) -> Loop:
    tell(environment, "registered", release="r-1", version=1, run_id="a", gate=[])
    tell(environment, "deployed", release="r-1")
    return Loop(environment)


def tell(environment: Environment, kind: str, **data: Any) -> None:
    environment.ledger.append(lambda _: Draft(kind, data))


def asked(environment: Environment) -> None:
    retrain = {"asked": True, "reason": "accuracy was lost"}
    times = {"window": "2026-03-01T11:00:00+00:00", "until": "2026-03-01T12:00:00+00:00"}
    tell(environment, "watched", **times, outcome="no_drift", lost=True, retrain=retrain)


def answered(environment: Environment) -> None:
    tell(environment, "retrain_started", retrain="t-1", reason="x", window="2026-03-01T11:00:00+00:00")
    tell(environment, "retrain_ended", retrain="t-1", outcome="kept", reasons=[])


def test_nothing_is_watched_before_there_is_a_champion(environment: Environment) -> None:
    """Nobody answers, so nobody is asked."""
    assert Loop(environment).after(180) == []


def test_each_act_has_its_hour(loop: Loop) -> None:
    """What a stopped stack missed comes a minute after it began, then windows, labels and upkeep in their rhythm."""
    first = loop.after(10)
    assert sorted(set(first) - {"notify", "monitor"}) == ["labels", "upkeep"]
    assert "labels" not in loop.after(60)
    assert loop.after(6 * 60).count("labels") == 1
    assert loop.after(3 * 60).count("upkeep") == 3


def test_one_act_at_a_time_with_labels_and_messages_beside_it(loop: Loop) -> None:
    """An hour of training delays the next window, and neither the user's own command nor the word about a rollback."""
    asked(loop.environment)
    assert loop.after(0.5, end=False) == ["notify", "retrain"]
    assert loop.after(180, end=False) == ["labels"]
    loop.started[0][1].code = 0
    tell(loop.environment, "frozen", reason="launch day")
    assert loop.after(0.5, end=False) == ["notify"]


def test_a_window_that_asked_gets_its_retrain_and_a_freeze_stops_it(loop: Loop) -> None:
    """As long as the ledger wants one and no brake is on."""
    tell(loop.environment, "frozen", reason="launch day")
    asked(loop.environment)
    assert "retrain" not in loop.after(5)
    tell(loop.environment, "unfrozen", reason="it went well")
    assert "retrain" in loop.after(1)
    answered(loop.environment)
    assert "retrain" not in loop.after(30)


def test_a_retrain_comes_before_the_next_window(loop: Loop) -> None:
    """On a machine so busy that a look takes as long as a window, windows must not keep it waiting for ever."""
    assert "monitor" in loop.after(65, end=False)
    asked(loop.environment)
    loop.now += 3600
    assert "monitor" not in loop.after(0.5)
    assert loop.started[-1][0] == "retrain"
    answered(loop.environment)
    assert loop.after(0.5) == ["notify", "monitor"]


def test_a_window_is_drawn_once_and_after_what_is_more_urgent(loop: Loop) -> None:
    """Drawing takes longer than judging: at most once a minute, never before a retrain, and the newest window only."""
    assert "draw" not in loop.after(5)
    asked(loop.environment)
    assert "draw" not in loop.after(0.5)
    answered(loop.environment)
    assert "draw" in loop.after(1)
    assert "draw" not in loop.after(50)
    later = {"asked": False, "reason": "nothing drifted"}
    for minute in (30, 40):
        times = {"window": f"2026-03-01T12:{minute - 10}:00+00:00", "until": f"2026-03-01T12:{minute}:00+00:00"}
        tell(loop.environment, "watched", **times, outcome="no_drift", lost=None, retrain=later)
    assert loop.after(20).count("draw") == 1


def test_a_killed_retrain_is_taken_up_unless_somebody_is_at_it(loop: Loop) -> None:
    """Open in the ledger, and no process holds its lock."""
    tell(loop.environment, "retrain_started", retrain="t-1", reason="x")
    with retrain._alone(loop.environment):
        assert "retrain" not in loop.after(5)
    assert "retrain" in loop.after(1)


def test_an_act_that_fails_is_said_and_does_not_come_back_at_once(loop: Loop) -> None:
    """A retrain that fails at its first line must not spin."""
    tell(loop.environment, "retrain_started", retrain="t-1", reason="x")
    tried = loop.after(2, code=1).count("retrain")
    assert 1 <= tried <= 4
    assert "`tidegate step retrain` ended with exit code 1; its own words are above." in loop.notes


def test_every_act_is_a_step_that_the_command_line_knows(environment: Environment, cli: Any) -> None:
    """The names that the schedule uses are those that `tidegate step` has."""
    assert {"labels", "monitor", "draw", "retrain", "notify", "upkeep"} <= set(ACTS)
    for name in ("draw", "retrain", "notify", "upkeep"):
        assert cli("step", name, cwd=environment.project.root).exit_code == 0


def test_stopping_ends_the_act_and_does_not_count_it_as_killed(environment: Environment) -> None:
    """A training that is stopped with its stack is taken up by the next `up`, however often that happens."""
    for kind, data in (
        ("registered", {"release": "r-1", "version": 1, "run_id": "a", "gate": []}),
        ("deployed", {"release": "r-1"}),
        ("retrain_started", {"retrain": "t-1", "reason": "x"}),
    ):
        tell(environment, kind, **data)
    counted = environment.run_dir / "retrain.json"
    counted.parent.mkdir(parents=True)
    counted.write_text("{}")
    processes: list[subprocess.Popen[bytes]] = []

    def start(_: str) -> subprocess.Popen[bytes]:
        sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
        processes.append(subprocess.Popen(sleeper, start_new_session=True))
        return processes[-1]

    schedule = Schedule(environment, print, lambda: BEGIN, start)
    schedule.tick(environment.state())
    schedule.stop()
    assert processes
    assert all(process.poll() is not None for process in processes)
    assert not counted.exists()


def test_a_labels_command_that_hangs_keeps_no_window_from_being_watched(loop: Loop) -> None:
    """It has a lane of its own, and is not started again before it has ended."""
    for _ in range(5 * 120):
        loop.now += 30
        for name, act in loop.started:
            act.code = None if name == "labels" else 0
        loop.schedule.tick(loop.environment.state())
    started = [name for name, _ in loop.started]
    assert started.count("labels") == 1
    assert started.count("monitor") >= 4
