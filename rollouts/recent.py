"""What the champion's traffic looked like lately: what a plan is made from, read from the gateway's log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.rollouts.stats.latency import MINIMUM, LatencyLines, freeze_latency
from tidegate.serving.gateway.access_log import AccessLogReader, AccessRecord, LogPosition, rotated_sequences

if TYPE_CHECKING:
    from tidegate.serving.telemetry import Predictions

# Of an answer that is no prediction.
_FAILED = 500
# Enough for a p99 with little noise, and read in well under a second.
_MOST_REQUESTS = 50_000
_LEAST_PART = 5
_EDGE = 0.05


@dataclass(frozen=True, slots=True)
class Recent:
    """The champion's requests of the last `seconds`.

    Attributes:
        seconds: how far back it looks.
        units: how many users came.
        new_units: users who came for the first time in the second half: what goes on arriving.
        requests: how many requests they made.
        failures: how many of those failed.
        invalid: how many were answered without a prediction.
        durations: seconds of each request that was answered.
        times: when each of those began, seconds since the epoch.
    """

    seconds: float
    units: int
    new_units: int
    requests: int
    failures: int
    invalid: int
    durations: tuple[float, ...]
    times: tuple[float, ...]

    @property
    def units_per_minute(self) -> float:
        """New users a minute: those of the second half who were not there in the first.

        Where the same users come again and again, each of them is new to a rollout once: then all of them count.
        """
        return self.new_units * 120 / self.seconds if self.new_units else self.units * 60 / self.seconds

    @property
    def error_rate(self) -> float:
        """Share of the requests that failed, 0 without any."""
        return self.failures / self.requests if self.requests else 0.0

    @property
    def invalid_rate(self) -> float:
        """Share of the requests whose answer is no prediction, 0 without any."""
        return self.invalid / self.requests if self.requests else 0.0

    @property
    def missing(self) -> int:
        """How many more requests it takes to freeze the latency lines."""
        return max(0, MINIMUM - len(self.durations))

    def latency(self) -> LatencyLines:
        """The stable arm's latency lines; UsageError when `missing` is not 0."""
        return freeze_latency(self.durations, self.times)


def recent(log: Path, release: str, now: float, seconds: float) -> Recent:
    """Look at the requests that `release` answered in the `seconds` before `now` (seconds since the epoch)."""
    records = [one for one in _tail(log, now - seconds) if one.release == release and one.counts][-_MOST_REQUESTS:]
    return _recent(
        [_Request(one.at, one.unit, one.failed, one.invalid, one.upstream_seconds) for one in records], now, seconds
    )


def recorded(predictions: Predictions, release: str, now: float, seconds: float) -> Recent:
    """The same from recorded predictions, where no gateway's log is on this machine; one request may hold many rows."""
    import duckdb

    since, until = (datetime.fromtimestamp(at, UTC) for at in (now - seconds, now))
    columns = ("id", "at", "unit", "release", "status", "seconds", "arm")
    with duckdb.connect() as connection:
        rows = (
            predictions.relation(connection, since, until, columns)
            .filter(f"release = '{release}' and arm <> 'shadow' and (not contains(id, '.') or ends_with(id, '.0'))")
            .project('epoch("at"), coalesce(cast(unit as varchar), id), status, seconds')
            .order("1")
            .fetchall()
        )
    requests = [
        _Request(at, unit, failed=status >= _FAILED, invalid=False, seconds=took if status < _FAILED else None)
        for at, unit, status, took in rows[-_MOST_REQUESTS:]
    ]
    return _recent(requests, now, seconds)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked of one; `seconds` is None where it was not answered."""

    at: float
    unit: str | None
    failed: bool
    invalid: bool
    seconds: float | None


def _recent(records: list[_Request], now: float, seconds: float) -> Recent:
    span = _span(records, now, seconds)
    middle = now - span / 2
    before = {one.unit for one in records if one.at < middle}
    after = {one.unit for one in records if one.at >= middle}
    answered = [one for one in records if one.seconds is not None]
    return Recent(
        seconds=span,
        units=len(before | after),
        new_units=len(after - before),
        requests=len(records),
        failures=sum(one.failed for one in records),
        invalid=sum(one.invalid for one in records),
        durations=tuple(one.seconds or 0.0 for one in answered),
        times=tuple(one.at for one in answered),
    )


def _span(records: list[_Request], now: float, seconds: float) -> float:
    """The time that the rates are about, in seconds.

    Traffic may have begun a moment ago, and a busy service fills the record sooner. A single request says nothing
    about a rate, so a fifth of the time is the least.
    """
    if not records or now - records[0].at > (1 - _EDGE) * seconds:
        return seconds
    return max(now - records[0].at, seconds / _LEAST_PART)


def _tail(log: Path, since: float) -> Iterable[AccessRecord]:
    """Every record since a moment; older files of the log are not opened."""
    first = _first_file(log, since)
    reader = AccessLogReader(log, LogPosition(first, 0))
    while records := reader.read():
        yield from (one for one in records if one.at >= since)


def _first_file(log: Path, since: float) -> int:
    sequences = rotated_sequences(log)
    for sequence in sequences:
        if log.with_name(f"{log.name}.{sequence:08d}").stat().st_mtime >= since:
            return sequence
    return max(sequences, default=0) + 1
