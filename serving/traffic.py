"""Steady load for demos and tests: users arrive at a fixed rate, and come back.

Open loop: requests start when they are due, whether or not earlier ones were answered, as real clients do; a slow
server cannot slow the load down and hide its own slowness. What cannot be sent, because every connection is busy or
the server is dead, is counted, never queued.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tidegate.core.errors import UsageError
from tidegate.serving.http_client import Answer, Connection, host_and_port, request_bytes

# 16 buckets an octave: a percentile is at most 4.4 % too high.
_BUCKETS_PER_OCTAVE: Final = 16
# The shortest sleep that asyncio keeps reasonably; everything due meanwhile is sent together.
_TICK: Final = 0.001
_SWEEP: Final = 0.25
_RETRY: Final = 0.2


@dataclass(frozen=True)
class TrafficPlan:
    """What load to make.

    Args:
        address: the gateway, http://host:port.
        bodies: JSON bodies, sent in random order.
        rps: requests a second.
        users_per_minute: how many new users arrive; all other requests are by one who came before.
        seconds: how long; None until stopped.
        requests: stop after this many were sent, whatever the time.
        path: where the bodies are posted to.
        unit_header: carries the user.
        headers: sent with every request (an API key).
        concurrency: connections, so also requests in flight, at most.
        timeout: seconds after which an answer counts as failed.
        recent: only this many of the newest users come back, so memory is bounded.
        seed: of the order of bodies and users.
        prefix: of the users' names; random by default, so that every run brings new users.
        heard: is told every answer with the place of its body in `bodies`; it must return at once.
    """

    address: str
    bodies: Sequence[bytes]
    rps: float = 20.0
    users_per_minute: float = 60.0
    seconds: float | None = None
    requests: int | None = None
    path: str = "/predict"
    unit_header: str = "x-user-id"
    headers: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 64
    timeout: float = 10.0
    recent: int = 1000
    seed: int = 0
    prefix: str = field(default_factory=lambda: f"user-{secrets.token_hex(3)}")
    heard: Callable[[int, Answer], None] | None = None

    def __post_init__(self) -> None:
        """Refuse a load that cannot be made."""
        host_and_port(self.address)
        if not self.bodies:
            raise UsageError("There are no rows to send.", "The holdout is empty: run `tidegate train` first.")
        if min(self.rps, self.users_per_minute, self.concurrency, self.recent) <= 0:
            raise UsageError("Requests per second and users per minute must be above zero.")


@dataclass
class TrafficReport:
    """What came back so far.

    `failed` counts broken connections and timeouts, `unsent` what was due while nothing could be sent, `to_canary` and
    `to_stable` users seen on another arm than before (a growing canary moves users one way only).
    """

    seconds: float = 0.0
    sent: int = 0
    answered: int = 0
    failed: int = 0
    unsent: int = 0
    users: int = 0
    to_canary: int = 0
    to_stable: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    arms: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    histogram: Counter[int] = field(default_factory=Counter)

    def percentile(self, share: float) -> float:
        """Return the latency in seconds that `share` (0..1) of the answers stayed under, NaN without answers."""
        left = share * sum(self.histogram.values())
        for bucket in sorted(self.histogram):
            left -= self.histogram[bucket]
            if left <= 0:
                return float(2.0 ** ((bucket + 1) / _BUCKETS_PER_OCTAVE)) * 1e-6
        return math.nan

    def to_json(self) -> dict[str, object]:
        """Return the report as `dev traffic --json` prints it, latencies in seconds."""
        latency = {f"p{share * 100:g}": self.percentile(share) for share in (0.5, 0.9, 0.99)} if self.answered else {}
        return {
            "kind": "traffic",
            "seconds": round(self.seconds, 3),
            **{name: getattr(self, name) for name in ("sent", "answered", "failed", "unsent", "users")},
            "switches": {"to_canary": self.to_canary, "to_stable": self.to_stable},
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "arms": dict(self.arms),
            "versions": dict(self.versions),
            "latency": latency,
        }


def make_traffic(plan: TrafficPlan, each_second: Callable[[TrafficReport], None] | None = None) -> TrafficReport:
    """Make the load of `plan` and return what came back; Ctrl-C ends it early with what there is.

    Args:
        plan: what to send.
        each_second: is shown the report about once a second.
    """
    generator = TrafficGenerator(plan)
    try:
        asyncio.run(generator.run(each_second))
    except KeyboardInterrupt:
        generator.report.seconds = generator.elapsed()
    return generator.report


class TrafficGenerator:
    """The load of one plan, inside a running event loop; `stop()` ends it.

    Args:
        plan: what to send.
    """

    def __init__(self, plan: TrafficPlan) -> None:
        self.plan = plan
        self.report = TrafficReport()
        self._random = random.Random(plan.seed)  # noqa: S311 - load, not secrets
        self._users: list[str] = []
        self._arms: dict[str, str] = {}
        self._idle: list[Connection] = []
        self._busy: dict[Connection, float] = {}
        self._dialling: set[asyncio.Task[None]] = set()
        self._open = 0
        self._began = time.perf_counter()
        self._stopped = False
        self._drained = asyncio.Event()
        self._prefix, self._suffixes = _templates(plan)

    def stop(self) -> None:
        """End the load; answers on their way are still waited for."""
        self._stopped = True

    def elapsed(self) -> float:
        """Return the seconds since the load began."""
        return time.perf_counter() - self._began

    async def run(self, each_second: Callable[[TrafficReport], None] | None = None) -> TrafficReport:
        """Make the whole load, then wait for the answers that are still due."""
        self._began = time.perf_counter()
        due = 0
        shown = swept = 0.0
        while not self._over():
            now = self.elapsed()
            target = int(now * self.plan.rps) + 1
            # After a pause of this process (a suspended laptop) the missed load is not sent as one burst.
            due = max(due, target - max(1, int(self.plan.rps)))
            for _ in range(target - due):
                if not self._over():
                    self._send()
            due = target
            if now - swept > _SWEEP:
                swept = now
                self._sweep()
            if each_second is not None and now - shown >= 1.0:
                shown = now
                self.report.seconds = now
                each_second(self.report)
            await asyncio.sleep(min(_SWEEP, max(_TICK, due / self.plan.rps - self.elapsed())))
        await self._finish()
        return self.report

    def _over(self) -> bool:
        plan = self.plan
        enough = plan.requests is not None and self.report.sent >= plan.requests
        return self._stopped or enough or (plan.seconds is not None and self.elapsed() >= plan.seconds)

    def _send(self) -> None:
        if self._idle:
            self._send_on(self._idle.pop())
        elif self._open + len(self._dialling) < self.plan.concurrency:
            task = asyncio.get_running_loop().create_task(self._dial_and_send())
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)
        else:
            self.report.unsent += 1

    def _send_on(self, connection: Connection) -> None:
        user = self._next_user()
        began = time.perf_counter()
        self._busy[connection] = began
        self.report.sent += 1
        place = self._random.randrange(len(self._suffixes))
        request = self._prefix + user.encode() + self._suffixes[place]

        def heard(answer: Answer | None) -> None:
            self._answered(connection, user, began, answer)
            if answer is not None and self.plan.heard is not None:
                self.plan.heard(place, answer)

        connection.send(request, heard)

    def _answered(self, connection: Connection, user: str, began: float, answer: Answer | None) -> None:
        self._busy.pop(connection, None)
        if self._stopped and not self._busy:
            self._drained.set()
        report = self.report
        if answer is None:
            report.failed += 1
            return
        if connection.usable:
            self._idle.append(connection)
        report.answered += 1
        report.statuses[answer.status] += 1
        micro = max(1.0, (time.perf_counter() - began) * 1e6)
        report.histogram[int(math.log2(micro) * _BUCKETS_PER_OCTAVE)] += 1
        arm, version = answer.header(b"x-tidegate-arm"), answer.header(b"x-tidegate-version")
        if version:
            report.versions[version] += 1
        if arm:
            report.arms[arm] += 1
            before = self._arms.get(user, arm)
            report.to_canary += before == "stable" and arm == "canary"
            report.to_stable += before == "canary" and arm == "stable"
            if user in self._arms:
                self._arms[user] = arm

    def _next_user(self) -> str:
        arrived = int(self.elapsed() * self.plan.users_per_minute / 60) + 1
        if self.report.users >= arrived:
            return self._random.choice(self._users)
        user = f"{self.plan.prefix}-{self.report.users}"
        if len(self._users) < self.plan.recent:
            self._users.append(user)
        else:
            slot = self.report.users % self.plan.recent
            self._arms.pop(self._users[slot], None)
            self._users[slot] = user
        self._arms[user] = ""
        self.report.users += 1
        return user

    async def _dial_and_send(self) -> None:
        """Open one more connection for a request; after a failure wait, so that a dead server is not hammered."""
        host, port = host_and_port(self.plan.address)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.plan.timeout):
                _, connection = await loop.create_connection(lambda: Connection(self._lost), host, port)
        except (OSError, TimeoutError):
            self.report.unsent += 1
            await asyncio.sleep(_RETRY)
            return
        self._open += 1
        self._send_on(connection)

    def _lost(self, connection: Connection) -> None:
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    def _sweep(self) -> None:
        late = time.perf_counter() - self.plan.timeout
        for connection in [one for one, began in self._busy.items() if began < late]:
            connection.abort()

    async def _finish(self) -> None:
        self._stopped = True
        if self._busy:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), self.plan.timeout)
        self.report.seconds = self.elapsed()
        for task in list(self._dialling):
            task.cancel()
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        await asyncio.sleep(0)


def _templates(plan: TrafficPlan) -> tuple[bytes, list[bytes]]:
    """Return what stands before the user's name in every request, and what stands after it for each body."""
    host, port = host_and_port(plan.address)
    headers = {"host": f"{host}:{port}", "content-type": "application/json", **plan.headers}
    marker = "\x00"
    whole = [request_bytes("POST", plan.path, {**headers, plan.unit_header: marker}, body) for body in plan.bodies]
    parts = [one.split(marker.encode(), 1) for one in whole]
    return parts[0][0], [suffix for _, suffix in parts]
