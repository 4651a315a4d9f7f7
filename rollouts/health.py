"""What stops a canary without statistics: it died, does not answer, or never came up.

It counts only while the other arm is well. A machine that is starved, restarted or out of memory stops both arms, and
that proves nothing against the new version.
"""

from __future__ import annotations

from dataclasses import dataclass

START_SECONDS = 90.0
"""How long a process may take to get ready: a large model and its libraries on a slow disk."""

# A process that ends this often before it is ready will not get ready by a fourth attempt.
_MOST_STARTS = 3
# Two looks are a fraction of a second apart; on a starved machine some seconds.
_LOOK_SECONDS = 5.0
# Arms are asked one after the other, and one that was asked first looks well for up to a second longer.
_SILENT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Health:
    """What the supervisor sees: whether the arms' processes live and answer, and how often the canary was started."""

    stable_ready: bool
    canary_alive: bool
    canary_ready: bool
    canary_starts: int = 1


class Patience:
    """The time that a process has to get ready, of which only what somebody watched counts.

    Args:
        now: seconds of any clock.
    """

    def __init__(self, now: float) -> None:
        self._left, self._looked = START_SECONDS, now

    def over(self, now: float) -> bool:
        """Whether it has passed; ask a few times a second. A machine that slept let no process start meanwhile."""
        self._left -= min(max(now - self._looked, 0.0), _LOOK_SECONDS)
        self._looked = now
        return self._left < 0

    def begin(self) -> None:
        """Give all of it once more."""
        self._left = START_SECONDS


class Silence:
    """For how long one process has not answered while another one did."""

    def __init__(self) -> None:
        self._since: float | None = None

    def proven(self, now: float, *, ready: bool, other_ready: bool) -> bool:
        """Whether it cannot be a stall of both; `now` in seconds of any clock."""
        if ready or not other_ready:
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return now - self._since >= _SILENT_SECONDS


class CanaryWatch:
    """Follows the canary's process.

    Args:
        now: seconds since the epoch.
        was_ready: whether it has served already, as far as an earlier `up` knew.
    """

    def __init__(self, now: float, *, was_ready: bool = False) -> None:
        self.was_ready = was_ready
        self._patience = Patience(now)
        self._excused = 0
        self._silence = Silence()

    def why_stop(self, health: Health, now: float) -> str:
        """Why its rollout must end, or nothing."""
        self.was_ready = self.was_ready or health.canary_ready
        silent = self._silence.proven(now, ready=health.canary_ready, other_ready=health.stable_ready)
        impatient = self._patience.over(now)
        if not health.stable_ready:
            self._excuse(health)
            return ""
        if not self.was_ready:
            return self._never_came(health, impatient=impatient)
        if not health.canary_alive:
            return "The canary's process died."
        return "The canary's process does not answer its readiness check." if silent else ""

    def _excuse(self, health: Health) -> None:
        """Both are down, or the control is: the canary may be started again, and gets its time once more."""
        self.was_ready = self.was_ready and health.canary_alive
        self._patience.begin()
        self._excused = health.canary_starts

    def _never_came(self, health: Health, *, impatient: bool) -> str:
        self._excused = min(self._excused, health.canary_starts)
        starts = health.canary_starts - self._excused
        if not health.canary_alive and starts >= _MOST_STARTS:
            return f"The canary ended {starts} times before it was ready: see `tidegate logs`."
        if impatient:
            return f"The canary did not become ready within {START_SECONDS:.0f} seconds: see `tidegate logs`."
        return ""
