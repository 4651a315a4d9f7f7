"""What `up` starts by itself and when: each act is a process of its own, one at a time, and the loop never waits.

Nothing is remembered that matters: what is due follows from the clock, the ledger and the store, so a restart starts
an act once too often at worst, and every act may be started twice. Messages have a lane of their own: a training that
takes an hour must not keep anybody from hearing of a rollback.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tidegate.monitors.trigger import brake, unanswered

if TYPE_CHECKING:
    from tidegate.core.config import Config
    from tidegate.pipelines.environment import Environment
    from tidegate.registry.state import State

# A window's records are complete a flush interval after its end, and flushing takes a moment itself.
_GRACE: Final = 3.0
_UPKEEP_SECONDS: Final = 3600.0
# Evidently's page takes ten seconds of a processor, which short windows would not leave to anybody else.
_DRAW_SECONDS: Final = 60.0
_FIRST_SECONDS: Final = {"labels": 60.0, "monitor": 60.0, "upkeep": 300.0}
# An act that the ledger still wants right after it ended has failed: it is not started again at once.
_AGAIN_SECONDS: Final = 30.0
_PATIENCE: Final = 10.0

Clock = Callable[[], float]
Start = Callable[[str], "subprocess.Popen[bytes]"]


@dataclass
class Schedule:
    """The acts of one environment.

    Args:
        environment: whose.
        note: told in one line what could not be done.
        clock: seconds since the epoch.
        start: begins an act.
    """

    environment: Environment
    note: Callable[[str], None]
    clock: Clock = time.time
    start: Start | None = None
    _running: dict[str, tuple[str, subprocess.Popen[bytes]]] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)
    _told: int = -1
    _drawn: str | None = None
    _born: float = 0.0

    def __post_init__(self) -> None:
        """Know when it began."""
        self._born = self.clock()

    def tick(self, state: State) -> None:
        """Start what is due; `state` is what the ledger says now."""
        for lane, (name, process) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[lane]
            if code:
                self.note(f"`tidegate step {name}` ended with exit code {code}; its own words are above.")
        if state.champion is None:
            return
        if self._drawn is None:
            self._drawn = state.watched.since if state.watched else ""
        if "messages" not in self._running and self._has_news(state):
            self._begin("messages", "notify")
            self._told = state.length
        if "labels" not in self._running and self._labels_due():
            self._begin("labels", "labels")
        due = self._due(state) if "work" not in self._running else None
        if due is not None:
            self._begin("work", due)
        if due == "draw" and state.watched is not None:
            self._drawn = state.watched.since

    def stop(self) -> None:
        """End what runs; a retrain is taken up again by the next `up`."""
        for _, process in self._running.values():
            _end(process)
        if any(name == "retrain" for name, _ in self._running.values()):
            # It was not killed by what it does, which is what is counted there.
            (self.environment.run_dir / "retrain.json").unlink(missing_ok=True)
        self._running.clear()

    def _labels_due(self) -> bool:
        """The user's own command has a lane of its own: one that hangs must not keep windows from being watched."""
        labels = self.environment.project.config.monitor.labels
        return labels.command is not None and self._passed("labels", labels.every, 0.0)

    def _due(self, state: State) -> str | None:
        """The most urgent act whose time has come."""
        config, now = self.environment.project.config, self.clock()
        # First: where a look takes as long as a window (a busy machine), windows alone would fill the lane for ever.
        if self._wants_retrain(state, now):
            return "retrain"
        if self._passed("monitor", config.monitor.window, _delay(config)):
            return "monitor"
        if self._passed("upkeep", _UPKEEP_SECONDS, 0.0):
            return "upkeep"
        undrawn = state.watched is not None and state.watched.since != self._drawn
        return "draw" if undrawn and now - self._last.get("draw", 0.0) >= _DRAW_SECONDS else None

    def _passed(self, name: str, every: float, delay: float) -> bool:
        """Whether an end of an interval, counted from 1970, lies between its last start and now.

        What came to its end before this `up` is seen to a while after it began, which is when it has time for it.
        """
        now, last = self.clock(), self._last.get(name)
        if last is None and now - self._born > _FIRST_SECONDS[name]:
            return True
        return (now - delay) // every > ((last or self._born) - delay) // every

    def _wants_retrain(self, state: State, now: float) -> bool:
        if now - self._last.get("retrain", -_AGAIN_SECONDS) < _AGAIN_SECONDS:
            return False
        if state.open_retrain is not None:
            from tidegate.pipelines import retrain

            if retrain.is_frozen(state):
                return False
            # Killed, unless somebody is at it in another terminal.
            return not retrain.is_running(self.environment)
        policy = self.environment.project.config.retrain
        stopped = brake(state, policy, datetime.fromtimestamp(now, UTC), trains=False)
        return unanswered(state) is not None and not stopped

    def _has_news(self, state: State) -> bool:
        return bool(self.environment.project.config.notify) and state.length != self._told

    def _begin(self, lane: str, name: str) -> None:
        self._last[name] = self.clock()
        self._running[lane] = (name, (self.start or self._start)(name))

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        project = self.environment.project
        command = [sys.executable, "-m", "tidegate.cli", "-C", str(project.root), "--env", project.env, "step", name]
        # Its words go where ours go; a group of its own, so that what it starts ends with it.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def _delay(config: Config) -> float:
    return config.serve.capture.flush + _GRACE


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
            process.wait(_PATIENCE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
