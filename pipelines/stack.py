"""`tidegate up`: keeps the processes of the laptop as the ledger wants them.

One loop, a few times a second: fold the ledger, start what is missing, split the traffic, let the judge
read what happened, stop what is no longer needed. All of its memory is in files, so `kill -9` at any
point loses nothing: the next `up` finds the processes that still live and goes on.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from tidegate.core.errors import Conflict, Temporary, TidegateError
from tidegate.pipelines import control
from tidegate.pipelines.bundles import bundle_of
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.revisions import Wanted, routing, wanted
from tidegate.registry import releases
from tidegate.registry.ledger import Draft
from tidegate.registry.state import State, deciding
from tidegate.rollouts.loop import Health, RolloutLoop
from tidegate.serving.deploy import Revision, Running
from tidegate.serving.gateway.process import Gateway
from tidegate.serving.gateway.state import GatewaySettings, GatewayState

_TICK = 0.25
# A revision that dies again and again is started ever less often, at least this often.
_MAX_BACKOFF = 30.0
_ROTATE_SECONDS = 10.0
# A busy machine may miss one readiness check; users must not change arm for that.
_UNREADY_SECONDS = 3.0

Note = Callable[[str], None]


@dataclass
class _Attempts:
    """How often a release was started, and when it may be again (monotonic seconds)."""

    count: int = 0
    next: float = 0.0


@dataclass
class Stack:
    """The supervised processes of one environment.

    Args:
        environment: whose stack it is.
        note: told in one line what happens.
    """

    environment: Environment
    note: Note
    _running: dict[str, Running] = field(default_factory=dict)
    _attempts: dict[str, _Attempts] = field(default_factory=dict)
    _answered: dict[str, float] = field(default_factory=dict)
    _routed: GatewayState = field(default_factory=lambda: GatewayState(None))
    _loop: RolloutLoop | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _rotated: float = 0.0
    _told: str | None = None
    _telling: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        """Open nothing yet; processes start in `run`."""
        self.gateway = gateway_of(self.environment)

    def run(self, ready: Callable[[], None]) -> None:
        """Supervise until `stop`, then end every process; `ready` is called once traffic can be answered.

        Raises:
            Conflict: another `up` of this project runs.
            TidegateError: the gateway cannot start.
        """
        with ExitStack() as closing:
            closing.enter_context(only_one(self.environment))
            closing.callback(self._end)
            self._adopt_gateway()
            path = control.socket_path(self.environment.project.root, self.environment.project.env)
            closing.enter_context(control.serve(path, {"ps": self.ps, "down": self._down}))
            announced = False
            while not self._stop.is_set():
                self.tick()
                if not announced and self._serves():
                    announced = True
                    ready()
                self._stop.wait(_TICK)

    def stop(self) -> None:
        """Make `run` return."""
        self._stop.set()

    def ps(self) -> dict[str, Any]:
        """The document of `tidegate ps`."""
        processes = [
            {
                "name": role,
                "release": one.release,
                "version": one.version,
                "pid": one.pid,
                "port": one.port,
                "ready": one.ready,
            }
            for role, one in self._roles()
        ]
        gateway = {"name": "gateway", "pid": self.gateway.pid, "port": self.gateway.settings.port, "version": None}
        up = {"name": "up", "pid": os.getpid(), "port": None, "ready": True, "version": None}
        gateway["ready"] = self.gateway.ready()
        return {
            "kind": "stack",
            "processes": [up, gateway, *processes],
            "gateway": self.gateway.address,
            "console": None,
        }

    def tick(self) -> None:
        """One round of the loop."""
        now = datetime.now(UTC)
        state = self.environment.state()
        asked = wanted(state, now)
        self._keep_running(asked)
        state = self._guard_champion(state, asked)
        self._follow_rollout(state)
        state = self.environment.state()
        asked = wanted(state, now)
        self._route(asked)
        if self._loop is not None:
            self._loop.applied(self._routed.weight)
        self._retire(asked)
        self._tell_registry(state)
        self._rotate_log()

    def _roles(self) -> Iterator[tuple[str, Running]]:
        routed = self._routed
        names = {
            one.release: role for role, one in (("canary", routed.canary), ("stable", routed.stable)) if one is not None
        }
        for release, one in sorted(self._running.items()):
            yield names.get(release, "warm"), one

    def _serves(self) -> bool:
        """Whether there is nothing to serve yet, or what there is answers."""
        state = self.environment.state()
        if state.champion is None:
            return True
        running = self._running.get(state.champion)
        routed = self._routed.stable
        return running is not None and running.ready and routed is not None and routed.release == state.champion

    def _down(self) -> dict[str, Any]:
        self.stop()
        return {"kind": "down"}

    def _adopt_gateway(self) -> None:
        self._running = {one.release: one for one in self.environment.deployer.running()}
        self._told = self.environment.state().champion
        self._routed = routing(wanted(self.environment.state(), datetime.now(UTC)), self._running, None)
        if self.gateway.start(self._routed):
            self.note("Found the running gateway and went on with it.")

    def _keep_running(self, asked: Wanted) -> None:
        """Start what should run and does not, and see who is ready."""
        if not self.gateway.pid:
            self.note("The gateway is gone; starting it again.")
            self.gateway.start(self._routed)
        deployer = self.environment.deployer
        for release in asked.releases:
            found = deployer.find(release)
            if found is None:
                self._running.pop(release, None)
                self._answered.pop(release, None)
                self._start(release)
            else:
                self._running[release] = self._debounced(found)

    def _debounced(self, found: Running) -> Running:
        """A revision that was ready stays so until it has not answered for a while."""
        now = time.monotonic()
        if found.ready:
            self._answered[found.release] = now
        recently = now - self._answered.get(found.release, -_UNREADY_SECONDS) < _UNREADY_SECONDS
        return replace(found, ready=found.ready or recently)

    def _start(self, release: str) -> None:
        attempts = self._attempts.setdefault(release, _Attempts())
        if time.monotonic() < attempts.next or self._canary_failed(release):
            return
        attempts.count += 1
        attempts.next = time.monotonic() + min(2.0**attempts.count, _MAX_BACKOFF)
        if attempts.count > 1:
            self.note(f"Release {release} is not running; start number {attempts.count}.")
        found = releases.load(self.environment.store, release)
        self.environment.deployer.start(Revision(release, found.version, bundle_of(self.environment.project, found)))

    def _canary_failed(self, release: str) -> bool:
        """A canary that died while it was judged is not started again: its rollout is about to end."""
        return self._loop is not None and self._loop.lost(release)

    def _guard_champion(self, state: State, asked: Wanted) -> State:
        """Right after a promotion there is no control arm, so a dead champion goes back at once."""
        champion, warm = state.champion, asked.warm
        if champion is None or warm is None or champion in self._running or state.open_rollout is not None:
            return state
        before = self._running.get(warm)
        if before is None or not before.ready or self._attempts.get(champion, _Attempts()).count < 1:
            return state
        reason = f"release {champion} died while {warm} was still warm"

        def back(now: State) -> Draft | None:
            return Draft("rollback", {"release": warm, "reasons": [reason]}) if now.champion == champion else None

        self.environment.ledger.append(deciding(back))
        self.note(f"Rolled back to {warm}: {reason}.")
        return self.environment.state()

    def _follow_rollout(self, state: State) -> None:
        rollout = state.open_rollout
        if rollout is None:
            self._loop = None
            return
        if self._loop is None or self._loop.id != rollout.id:
            self._loop = RolloutLoop(rollout, self.environment.ledger, self.environment.store, self.gateway.log)
        stable, canary = self._running.get(rollout.stable), self._running.get(rollout.canary)
        said = self._loop.tick(rollout, Health(_is_ready(stable), canary is not None, _is_ready(canary)))
        for line in said:
            self.note(line)

    def _route(self, asked: Wanted) -> None:
        current = self._routed.stable.release if self._routed.stable else None
        state = routing(asked, self._running, current)
        if state == self._routed:
            return
        try:
            self.gateway.apply(state)
        except Temporary as error:
            self.note(f"{error.message} Trying again.")
            return
        self._routed = state

    def _retire(self, asked: Wanted) -> None:
        """Stop what nobody wants and nobody uses."""
        used = {one.release for one in (self._routed.stable, self._routed.canary) if one is not None}
        for release in [one for one in self._running if one not in asked.releases and one not in used]:
            self.environment.deployer.stop(release)
            del self._running[release]
            self._attempts.pop(release, None)

    def _tell_registry(self, state: State) -> None:
        """Let MLflow's aliases follow a new champion, in a process of its own: MLflow is heavy and may hang."""
        if self._telling is not None and self._telling.poll() is None:
            return
        if state.champion == self._told:
            return
        root, env = self.environment.project.root, self.environment.project.env
        command = [sys.executable, "-m", "tidegate.cli", "-C", str(root), "--env", env, "step", "aliases"]
        # Its words go where ours go.
        self._telling = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._told = state.champion

    def _rotate_log(self) -> None:
        if time.monotonic() - self._rotated < _ROTATE_SECONDS:
            return
        self._rotated = time.monotonic()
        with suppress(Temporary):
            self.gateway.rotate(unread_from=self._loop.position.sequence if self._loop else 1 << 62)

    def _end(self) -> None:
        """Stop taking requests first, then the processes that answer them."""
        self.gateway.stop()
        for one in self.environment.deployer.running():
            self.environment.deployer.stop(one.release)


def _is_ready(one: Running | None) -> bool:
    return one is not None and one.ready


def gateway_of(environment: Environment) -> Gateway:
    """The gateway of an environment, as its config wants it."""
    return Gateway(environment.run_dir / "gateway", GatewaySettings.from_config(environment.project.config))


@contextmanager
def only_one(environment: Environment) -> Iterator[None]:
    """Hold the lock of this project's `up`; the kernel frees it when the process dies.

    Raises:
        Conflict: somebody holds it; names the process.
    """
    path = environment.run_dir / "up.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise Conflict(
                f"The stack runs already (process {file.read().strip() or '?'}).",
                "`tidegate ps` shows it, `tidegate down` stops it.",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def is_up(environment: Environment) -> bool:
    """Whether an `up` of this project runs."""
    try:
        status(environment)
    except control.NotRunning:
        return False
    return True


def status(environment: Environment) -> dict[str, Any]:
    """What `ps` prints.

    Raises:
        NotRunning: there is no `up`.
    """
    return control.ask(control.socket_path(environment.project.root, environment.project.env), "ps")


def down(environment: Environment, patience: float = 40.0) -> bool:
    """Stop the stack and everything a killed `up` left behind; False when nothing ran.

    Raises:
        TidegateError: it does not stop within `patience` seconds.
    """
    was_up = True
    try:
        control.ask(control.socket_path(environment.project.root, environment.project.env), "down")
    except control.NotRunning:
        was_up = False
    deadline = time.monotonic() + patience
    while True:
        try:
            with only_one(environment):
                left = environment.deployer.running()
                gateway = gateway_of(environment)
                found = was_up or bool(left) or gateway.pid is not None
                gateway.stop()
                for one in left:
                    environment.deployer.stop(one.release)
                return found
        except Conflict as error:
            if time.monotonic() > deadline:
                raise TidegateError(error.message, "It does not stop: end that process by its number.") from error
            time.sleep(0.1)
