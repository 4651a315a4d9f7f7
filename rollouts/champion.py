"""Hard stops after a promotion: nobody is left to compare with, so only what needs no comparison acts.

While the revision before stays warm, a champion that died, does not answer, or fails every request is replaced by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tidegate.rollouts.blocks import DEAD
from tidegate.rollouts.health import START_SECONDS, Patience, Silence
from tidegate.rollouts.loop import end_of
from tidegate.serving.gateway.access_log import AccessLogReader

_COUNTED = frozenset({"split", "rest"})


class ChampionWatch:
    """Watches one champion from now on.

    Args:
        release: of the champion.
        log: the gateway's access log.
        block_seconds: how long it may fail everything.
        clock: seconds since the epoch.
    """

    def __init__(self, release: str, log: Path, block_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.release = release
        self._reader = AccessLogReader(log, end_of(log))
        self._block, self._clock = block_seconds, clock
        self._was_alive = self._was_ready = False
        self._silence = Silence()
        self._patience = Patience(clock())
        self._begin()

    def tick(self, *, alive: bool, ready: bool, warm_ready: bool) -> str:
        """Why it must go, or nothing; what stops the warm revision too is held against neither."""
        impatient = self._patience.over(self._clock())
        silent = self._silence.proven(self._clock(), ready=ready, other_ready=warm_ready)
        # A process that this watch never saw is being started, which is no death.
        self._was_alive, self._was_ready = self._was_alive or alive, self._was_ready or ready
        if self._was_alive and not alive:
            return "its process died"
        if not self._was_ready and impatient:
            return f"it did not become ready within {START_SECONDS:.0f} seconds"
        if self._was_ready and silent:
            return "its process does not answer its readiness check"
        return self._failing()

    def _begin(self) -> None:
        self._attempts = self._failures = 0
        self._ends = self._clock() + self._block

    def _failing(self) -> str:
        while records := self._reader.read():
            asked = [one for one in records if one.release == self.release and one.attempted and one.kind in _COUNTED]
            self._attempts += len(asked)
            self._failures += sum(one.failed for one in asked)
        if self._clock() < self._ends:
            return ""
        attempts, failures = self._attempts, self._failures
        self._begin()
        if attempts >= DEAD and failures == attempts:
            return f"all {attempts} requests to it failed within {self._block:g} seconds"
        return ""
