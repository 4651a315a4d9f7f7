"""The revisions that a stack keeps running: started again when they die, found again when the stack died."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from tidegate.core.errors import TidegateError
from tidegate.pipelines.bundles import bundle_of
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases
from tidegate.serving.deploy import Revision, Running

# A revision that dies again and again is started ever less often, at least this often.
_MAX_BACKOFF = 30.0
# One that has answered for so long starts afresh when it dies.
_SETTLED_SECONDS = 60.0
# A busy machine may miss one readiness check; users must not change arm for that.
_UNREADY_SECONDS = 3.0
_POLL_SECONDS = 0.1


@dataclass
class _Attempts:
    """How often a release was started, and when it may be again (monotonic seconds)."""

    count: int = 0
    next: float = 0.0


class Processes:
    """The living revisions of one environment, by release; `problems` says why one could not be started.

    Args:
        environment: whose they are.
        note: told in one line what happens.
    """

    def __init__(self, environment: Environment, note: Callable[[str], None]) -> None:
        self.running: dict[str, Running] = {}
        self.problems: dict[str, TidegateError] = {}
        self._environment, self._note = environment, note
        self._attempts: dict[str, _Attempts] = {}
        self._answered: dict[str, float] = {}

    def adopt(self) -> None:
        """Find what an earlier `up` left; what answers late gets the time, so that no user changes arm for it."""
        self._environment.deployer.end_unrecorded()
        deadline = time.monotonic() + _UNREADY_SECONDS
        while True:
            found = self._environment.deployer.running()
            if all(one.ready for one in found) or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        self.running = {one.release: self._seen(one) for one in found}

    def refresh(self, wanted: Iterable[str], given_up: Callable[[str], bool]) -> None:
        """See who lives and answers, and start what is missing unless it was `given_up`."""
        wanted = tuple(wanted)
        self.problems = {release: error for release, error in self.problems.items() if release in wanted}
        for release in wanted:
            found = self._environment.deployer.find(release)
            if found is not None:
                self.problems.pop(release, None)
                self.running[release] = self._seen(found)
                continue
            self.running.pop(release, None)
            self._answered.pop(release, None)
            if not given_up(release):
                self._start(release)

    def look_again(self, release: str) -> None:
        """Notice now if it died since the last `refresh`; the next one starts it again."""
        if self._environment.deployer.find(release) is None:
            self.running.pop(release, None)
            self._answered.pop(release, None)

    def starts(self, release: str) -> int:
        """How often it was started since it last worked for a while."""
        return self._attempts[release].count if release in self._attempts else 0

    def alive(self, release: str) -> bool:
        """Whether its process lives."""
        return release in self.running

    def ready(self, release: str) -> bool:
        """Whether it lives and answers."""
        return release in self.running and self.running[release].ready

    def retire(self, kept: Collection[str]) -> None:
        """Stop all others, once their requests are answered."""
        for release in [one for one in self.running if one not in kept]:
            self._environment.deployer.stop(release)
            del self.running[release]
            self._attempts.pop(release, None)

    def _seen(self, found: Running) -> Running:
        """A revision that was ready stays so until it has not answered for a while."""
        now = time.monotonic()
        if found.ready:
            self._answered[found.release] = now
            attempts = self._attempts.get(found.release)
            if attempts is not None and now > attempts.next + _SETTLED_SECONDS:
                del self._attempts[found.release]
        recently = now - self._answered.get(found.release, -_UNREADY_SECONDS) < _UNREADY_SECONDS
        return replace(found, ready=found.ready or recently)

    def _start(self, release: str) -> None:
        attempts = self._attempts.setdefault(release, _Attempts())
        if time.monotonic() < attempts.next:
            return
        attempts.count += 1
        attempts.next = time.monotonic() + min(2.0**attempts.count, _MAX_BACKOFF)
        if attempts.count > 1:
            self._note(f"Release {release} is not running; start number {attempts.count}.")
        try:
            found = releases.load(self._environment.store, release)
            bundle = bundle_of(self._environment.project, found)
            workers = int(found.config.get("serve", {}).get("workers", 1))
            self._environment.deployer.start(Revision(release, found.version, bundle, workers))
        except OSError as error:
            # A full disk, say: the other releases go on.
            self._failed(release, TidegateError(f"{error}.", "`tidegate up` tries again."))
        except TidegateError as error:
            self._failed(release, error)

    def _failed(self, release: str, error: TidegateError) -> None:
        self.problems[release] = error
        self._note(f"Release {release} cannot be started: {error.message}")


def stop_all(environment: Environment) -> int:
    """End every revision, those too that a killed `up` left; returns how many there were."""
    deployer = environment.deployer
    found = deployer.running()
    with ThreadPoolExecutor(max(len(found), 1)) as pool:
        list(pool.map(deployer.stop, [one.release for one in found]))
    return len(found) + deployer.end_unrecorded()
