"""What a plan is made from: users, failures and speed of the champion, read from the gateway's log as it lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fakes import log_line

from tidegate.core.errors import UsageError
from tidegate.rollouts.recent import recent
from tidegate.serving.gateway.access_log import rotated_path

NOW = 1_800_000_000.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.jsonl"


def at(ago: float, unit: str = "ada", **changes: Any) -> bytes:
    return log_line(at=NOW - ago, unit=unit, **changes)


def test_without_a_log_nobody_came(log: Path) -> None:
    """No file, no users, and every request of the latency minimum is missing."""
    lately = recent(log, "r-1", NOW, 60)
    assert (lately.units, lately.requests, lately.units_per_minute, lately.error_rate) == (0, 0, 0.0, 0.0)
    assert lately.missing == 1000
    with pytest.raises(UsageError):
        lately.latency()


def test_only_the_champions_counted_requests_of_the_time_asked_for(log: Path) -> None:
    """Older ones, other releases, forced routes, health checks, the gateway's refusals and nobody's do not count."""
    others = [
        at(61, "old"),
        at(5, "a", cluster="canary/r-2/127.0.0.1:8500"),
        at(5, "b", route="forced/none/0"),
        at(5, "c", route="ops/none/0", path="/healthz"),
        at(5, "d", route="rest/none/0", path="/docs"),
        at(5, "e", status=401, details="missing_api_key", upstream=None),
        at(5, "f", status=429, flags="RL", details="local_rate_limited", upstream=None),
        log_line(at=NOW - 5, unit=None),
        b'{"half a li\n',
    ]
    log.write_bytes(b"".join(others) + at(59, "ada") + at(1, "bob"))
    lately = recent(log, "r-1", NOW, 60)
    assert (lately.units, lately.requests) == (2, 2)


def test_traffic_that_has_just_begun_is_not_thinned_by_the_time_before_it(log: Path) -> None:
    """A user a second for the last minute of five is sixty a minute, not twelve."""
    log.write_bytes(b"".join(at(second + 0.5, f"u-{second}") for second in range(60)))
    assert recent(log, "r-1", NOW, 300).units_per_minute == pytest.approx(60, rel=0.05)


def test_new_users_a_minute_are_those_who_had_not_come_before(log: Path) -> None:
    """Ten old users keep coming back; one new user every second is sixty a minute."""
    lines = []
    for second in range(120):
        lines += [at(120 - second - 0.5, f"old-{second % 10}"), at(120 - second - 0.5, f"new-{second}")]
    log.write_bytes(b"".join(lines))
    lately = recent(log, "r-1", NOW, 120)
    assert (lately.units, lately.new_units, lately.requests) == (130, 60, 240)
    assert lately.units_per_minute == pytest.approx(60)


def test_failures_are_the_arms_own(log: Path) -> None:
    """A 500, a timeout and half an answer fail; a 422 and a client that left do not."""
    answers = [
        {},
        {"status": 500},
        {"status": 504, "flags": "UT", "details": "response_timeout", "upstream_us": None},
        {"flags": "UC"},
        {"status": 422},
        {"status": 0, "flags": "DC", "details": "downstream_remote_disconnect", "upstream_us": None},
    ]
    log.write_bytes(b"".join(at(30 - index, f"u{index}", **one) for index, one in enumerate(answers)))
    lately = recent(log, "r-1", NOW, 60)
    assert (lately.requests, lately.failures, lately.error_rate) == (6, 3, 0.5)


def test_rotated_logs_are_read_as_far_back_as_asked(log: Path) -> None:
    """Files that ended before the time asked for are not opened, the others are read in order."""
    for sequence, ago in ((1, 900), (2, 50), (3, 30)):
        path = rotated_path(log, sequence)
        path.write_bytes(at(ago, f"u{sequence}"))
        os.utime(path, (NOW - ago + 1, NOW - ago + 1))
    rotated_path(log, 1).write_bytes(at(10, "never read"))
    os.utime(rotated_path(log, 1), (NOW - 900, NOW - 900))
    log.write_bytes(at(10, "live"))
    assert recent(log, "r-1", NOW, 60).units == 3
    assert recent(log, "r-1", NOW, 35).units == 2


def test_a_champion_with_enough_requests_has_latency_lines(log: Path) -> None:
    """A thousand answered requests freeze p50, p90 and p99 of the service's own time, not of the way there."""
    lines = [at(50 - index / 20, f"u{index}", upstream_us=1000 + index, total_us=900_000) for index in range(999)]
    log.write_bytes(b"".join(lines))
    assert recent(log, "r-1", NOW, 60).missing == 1
    with log.open("ab") as file:
        file.write(at(0.1, "last", upstream_us=1500))
    lately = recent(log, "r-1", NOW, 60)
    assert lately.missing == 0
    assert lately.latency().stable == pytest.approx((0.0015, 0.0019, 0.00199), abs=2e-5)


def test_a_busy_service_is_measured_on_its_newest_requests(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the record is full, the rates are those of the time it spans."""
    monkeypatch.setattr("tidegate.rollouts.recent._MOST_REQUESTS", 300)
    log.write_bytes(b"".join(at(60 - index / 10, f"u{index}") for index in range(600)))
    lately = recent(log, "r-1", NOW, 60)
    assert lately.requests == 300
    assert lately.seconds == pytest.approx(30)
    assert lately.units_per_minute == pytest.approx(600, rel=0.02)
