"""`tidegate up`: keeps the processes of the laptop as the ledger wants them.

One loop, a few times a second: fold the ledger, start what is missing, split the traffic, let the judge
read what happened, stop what is no longer needed. All of its memory is in files, so `kill -9` at any
point loses nothing: the next `up` finds the processes that still live and goes on. What fails in a round
is said and tried again in the next: a full disk stops the judge, never the users.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tidegate.core.errors import Temporary, TidegateError
from tidegate.pipelines import aliases, control, late_history
from tidegate.pipelines.console_process import ConsoleProcess
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.processes import Processes, stop_all
from tidegate.pipelines.revisions import Wanted, routing, wanted
from tidegate.pipelines.schedule import Schedule
from tidegate.pipelines.stack import gateway_of, only_one
from tidegate.registry.ledger import Draft
from tidegate.registry.state import RolloutState, State, deciding
from tidegate.rollouts.champion import ChampionWatch
from tidegate.rollouts.health import Health
from tidegate.rollouts.loop import RolloutLoop
from tidegate.serving import pairs
from tidegate.serving.deploy import Running
from tidegate.serving.gateway.state import GatewayState

_TICK = 0.25
_ROTATE_SECONDS = 10.0
# What goes wrong in every round is said this often.
_REPEAT_SECONDS = 60.0
_UNSAID = 20
# Whoever decides moves the aliases too; this is for decisions that nobody waited for.
_ALIAS_SECONDS = 3.0

Note = Callable[[str], None]


class Stack:
    """The supervised processes of one environment.

    Args:
        environment: whose stack it is.
        note: told in one line what happens.
    """

    def __init__(self, environment: Environment, note: Note) -> None:
        self.environment = environment
        self.gateway = gateway_of(environment)
        self.processes = Processes(environment, self._say)
        self.console = ConsoleProcess(environment, self._say)
        self._note = note
        self._state = State()
        self._routed = GatewayState(None)
        self._loop: RolloutLoop | None = None
        self._condemned = ""
        self._watch: ChampionWatch | None = None
        self._stop = threading.Event()
        self._said: dict[str, float] = {}
        self._unsaid: deque[str] = deque(maxlen=_UNSAID)
        self._rotated = 0.0
        self._telling: subprocess.Popen[bytes] | None = None
        self._tell_at = ("", 0.0)
        self._schedule = Schedule(environment, self._say)

    def run(self, ready: Callable[[], None]) -> None:
        """Supervise until `stop`, then end every process; `ready` is called once traffic can be answered.

        Raises:
            Conflict: another `up` of this project runs.
            TidegateError: the gateway or the champion cannot start.
        """
        with ExitStack() as closing:
            closing.enter_context(only_one(self.environment))
            adopted = self._adopt()
            # From here on; an `up` that cannot begin leaves alone what still answers users.
            closing.callback(self._end)
            path = control.socket_path(self.environment.project.root, self.environment.project.env)
            closing.enter_context(control.serve(path, {"ps": self.ps, "down": self._down}))
            announced = False
            while not self._stop.is_set():
                self.tick()
                if not announced and not adopted:
                    self._check_champion()
                if not announced and self._serves():
                    announced = True
                    ready()
                if announced:
                    # Nobody who is served waits for it.
                    with self._contained():
                        self.console.keep()
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
            "processes": [up, gateway, *processes, *filter(None, [self.console.shown()])],
            "gateway": self.gateway.address,
            "console": self.console.address,
        }

    def tick(self) -> None:
        """One round of the loop."""
        with self._contained():
            self._state = self.environment.state()
        with self._contained():
            self._open_loop()
        with self._contained():
            self._keep_gateway()
        with self._contained():
            self.processes.refresh(self._asked().releases, self._given_up)
        with self._contained():
            self._guard_champion()
        with self._contained():
            self._follow_rollout()
        with self._contained():
            self._record_pairs()
        with self._contained():
            self._route()
        with self._contained():
            self._retire()
        with self._contained():
            self._tell_registry()
        with self._contained():
            self._rotate_log()
        with self._contained():
            self._schedule.tick(self._state)

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Say what failed; the other parts of the round go on, and the next round tries again."""
        try:
            yield
        except TidegateError as error:
            self._say_rarely(f"{error} Trying again.")
        except Exception as error:  # noqa: BLE001 - a mistake of ours in one part must not end what answers users
            if self._say_rarely(f"{type(error).__name__}: {error}. Trying again."):
                with suppress(OSError):
                    traceback.print_exc()

    def _say(self, text: str) -> None:
        """Say it now, or as soon as there is room again: where it goes may be the disk that is full."""
        self._unsaid.append(text)
        with suppress(OSError):
            while self._unsaid:
                self._note(self._unsaid[0])
                self._unsaid.popleft()

    def _say_rarely(self, text: str) -> bool:
        now = time.monotonic()
        if now < self._said.get(text, 0.0):
            return False
        self._said = {other: until for other, until in self._said.items() if until > now}
        self._said[text] = now + _REPEAT_SECONDS
        self._say(text)
        return True

    def _roles(self) -> Iterator[tuple[str, Running]]:
        routed = self._routed
        names = {
            one.release: role for role, one in (("canary", routed.canary), ("stable", routed.stable)) if one is not None
        }
        for release, one in sorted(self.processes.running.items()):
            yield names.get(release, "warm"), one

    def _check_champion(self) -> None:
        """Without the champion there is nothing to serve; any other release may fail without it."""
        problem = self.processes.problems.get(self._state.champion or "")
        if problem is not None:
            raise problem

    def _serves(self) -> bool:
        """Whether there is nothing to serve yet, or what there is answers."""
        champion = self._state.champion
        if champion is None:
            return True
        routed = self._routed.stable
        return self.processes.ready(champion) and routed is not None and routed.release == champion

    def _down(self) -> dict[str, Any]:
        self.stop()
        return {"kind": "down"}

    def _adopt(self) -> bool:
        """Go on with what a killed `up` left; returns whether there was anything."""
        self._state = self.environment.state()
        with self._contained():
            self._open_loop()
        self.processes.adopt()
        self.console.adopt()
        self._routed = routing(self._asked(), self.processes.running, self._routed)
        found = self.gateway.start(self._routed)
        if found:
            self._say("Found the running gateway and went on with it.")
        return found or bool(self.processes.running)

    def _asked(self) -> Wanted:
        """What the ledger wants, but for a canary that is condemned or that nobody watches."""
        asked = wanted(self._state, datetime.now(UTC))
        if asked.canary is None or (self._loop is not None and self._condemned != asked.rollout):
            return asked
        # Without a judge nobody new meets the canary.
        current = self._routed.weight if self._routed.rollout == asked.rollout else 0
        return replace(asked, weight=0 if self._condemned == asked.rollout else min(current, asked.weight))

    def _keep_gateway(self) -> None:
        if not self.gateway.pid:
            self._say("The gateway is gone; starting it again.")
            self.gateway.start(self._routed)

    def _given_up(self, release: str) -> bool:
        """A canary that died while it was judged is not started again: its rollout is about to end."""
        rollout = self._state.open_rollout
        condemned = rollout is not None and rollout.canary == release and rollout.id == self._condemned
        return condemned or (self._loop is not None and self._loop.lost(release))

    def _guard_champion(self) -> None:
        """Right after a promotion there is no control arm: a champion that is broken beyond doubt goes back at once."""
        champion, warm = self._state.champion, wanted(self._state, datetime.now(UTC)).warm
        if champion is None or warm is None or self._state.open_rollout is not None:
            self._watch = None
            return
        if self._watch is None or self._watch.release != champion:
            block = self.environment.project.config.advanced.block
            self._watch = ChampionWatch(champion, self.gateway.log, block)
        processes, warm_ready = self.processes, self.processes.ready(warm)
        why = self._watch.tick(alive=processes.alive(champion), ready=processes.ready(champion), warm_ready=warm_ready)
        if why and warm_ready:
            self._go_back(champion, warm, f"release {champion} is not kept while {warm} is still warm: {why}")

    def _go_back(self, champion: str, warm: str, reason: str) -> None:
        def back(now: State) -> Draft | None:
            if now.champion != champion:
                return None
            return Draft("rollback", {"release": warm, "reasons": [reason], "from": champion}, actor="judge")

        if self.environment.ledger.append(deciding(back)) is not None:
            self._say(f"Rolled back to {warm}: {reason}.")
        self._state = self.environment.state()

    def _open_loop(self) -> None:
        rollout = self._state.open_rollout
        if rollout is None or (self._loop is not None and self._loop.id != rollout.id):
            self._loop = None
        if rollout is not None and self._loop is None:
            environment = self.environment
            self._loop = RolloutLoop(
                rollout,
                environment.ledger,
                environment.store,
                self.gateway.log,
                pairs=environment.pairs_dir,
                reading=late_history.reading_of(environment, rollout),
            )

    def _follow_rollout(self) -> None:
        rollout, loop = self._state.open_rollout, self._loop
        if rollout is None or loop is None:
            return
        try:
            for line in loop.tick(rollout, self._health(rollout)):
                self._say(line)
        except Exception:
            # It has counted what it could not keep; the next one reads it again.
            self._loop = None
            raise
        finally:
            self._condemned = rollout.id if loop.condemned else self._condemned
        self._state = self.environment.state()

    def _health(self, rollout: RolloutState) -> Health:
        processes = self.processes
        if not processes.alive(rollout.canary):
            # They may have died together, between the look at the one and at the other.
            processes.look_again(rollout.stable)
        return Health(
            stable_ready=processes.ready(rollout.stable),
            canary_alive=processes.alive(rollout.canary),
            canary_ready=processes.ready(rollout.canary),
            canary_starts=processes.starts(rollout.canary),
        )

    def _record_pairs(self) -> None:
        """From before the first copy until after the last."""
        pairs.record(self.environment.pairs_dir, on=self._asked().shadow or self._routed.shadow is not None)

    def _route(self) -> None:
        state = routing(self._asked(), self.processes.running, self._routed)
        if state != self._routed:
            self.gateway.apply(state)
            self._routed = state
        if self._loop is None:
            return
        try:
            self._loop.applied(state.weight)
        except Exception:
            self._loop = None
            raise

    def _retire(self) -> None:
        """Stop what nobody wants and nobody uses."""
        used = {one.release for one in (self._routed.stable, self._routed.canary) if one is not None}
        self.processes.retire({*self._asked().releases, *used})

    def _tell_registry(self) -> None:
        """Let MLflow's aliases follow, in a process of its own: MLflow is heavy and may hang."""
        if self._telling is not None and self._telling.poll() is None:
            return
        key, now = aliases.key(self._state), time.monotonic()
        if aliases.told(self.environment) == key:
            return
        if self._tell_at[0] != key:
            self._tell_at = key, now + _ALIAS_SECONDS
        if now < self._tell_at[1]:
            return
        root, env = self.environment.project.root, self.environment.project.env
        command = [sys.executable, "-m", "tidegate.cli", "-C", str(root), "--env", env, "step", "aliases"]
        # Its words go where ours go.
        self._telling = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._tell_at = key, now + _REPEAT_SECONDS

    def _rotate_log(self) -> None:
        if time.monotonic() - self._rotated < _ROTATE_SECONDS:
            return
        self._rotated = time.monotonic()
        if self._state.open_rollout is not None and self._loop is None:
            return
        with suppress(Temporary):
            self.gateway.rotate(unread_from=self._loop.position.sequence if self._loop else 1 << 62)

    def _end(self) -> None:
        """Stop taking requests first, then the processes that answer them."""
        self.gateway.stop()
        self._schedule.stop()
        self.console.stop()
        stop_all(self.environment)
        if self._telling is not None and self._telling.poll() is None:
            self._telling.terminate()
            self._telling.wait()
