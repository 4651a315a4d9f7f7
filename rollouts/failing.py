"""The hard stop for a canary that fails every request, without waiting until a block of the judge ends.

A block may be a minute long, and the one in which the failures begin still holds successes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from tidegate.rollouts.blocks import DEAD, Exposure

# One broken client that tries again and again is not everybody.
_USERS = 3
# Nor is one reset of connections, which fails dozens of requests at once.
_SPAN_SECONDS = 2.0
# A control that fails more than this share of its requests is no control.
BROKEN_SHARE = 0.5
# What the gateway notes for a client that left: no answer, but no failure either.
CLIENT_LEFT = 499


class Failing:
    """The canary's failures since its last answer, and what became of the stable arm's requests meanwhile.

    Args:
        block_seconds: of the plan; the stop comes sooner than that.
        state: JSON of a former `state()`.
        name: how a user is written down; the state is kept in the store.
    """

    def __init__(
        self,
        block_seconds: float,
        state: Mapping[str, Any] | None = None,
        name: Callable[[str], int | str] = str,
    ) -> None:
        self._span, self._name = min(_SPAN_SECONDS, block_seconds / 2), name
        self._begin()
        if state:
            self._count, self._from, self._to = state["count"], state["from"], state["to"]
            self._users.update(state["users"])
            self._stable.extend(state["stable"])

    def add(self, exposure: Exposure) -> None:
        """Count one line of the log."""
        if exposure.arm != "canary":
            if self._count:
                self._stable.append(exposure.failed)
        elif exposure.failed:
            self._from = min(self._from, exposure.at) if self._count else exposure.at
            self._to = max(self._to, exposure.at) if self._count else exposure.at
            self._count += 1
            if len(self._users) < _USERS:
                self._users.add(str(self._name(exposure.unit)))
        elif exposure.status != CLIENT_LEFT:
            self._begin()

    def why_stop(self, *, stable_ready: bool, what: str = "requests") -> str:
        """Why the canary must go at once, or nothing; `what` it failed, for the sentence."""
        seconds = self._to - self._from
        if self._count < DEAD or len(self._users) < _USERS or seconds < self._span:
            return ""
        # An outage of both arms proves nothing.
        broken = sum(self._stable) > BROKEN_SHARE * len(self._stable) if self._stable else not stable_ready
        return "" if broken else f"All {self._count} {what} to the canary failed within {seconds:.1f} seconds."

    def state(self) -> dict[str, Any]:
        """JSON with which a new one goes on."""
        users, stable = sorted(self._users), list(self._stable)
        return {"count": self._count, "from": self._from, "to": self._to, "users": users, "stable": stable}

    def _begin(self) -> None:
        self._count = 0
        self._from = self._to = 0.0
        self._users: set[str] = set()
        self._stable: deque[bool] = deque(maxlen=DEAD)
