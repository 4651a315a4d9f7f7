"""What the gateway did, read from its access log exactly once, whatever happens to the file.

The log is JSON lines, rotated as `access.jsonl` -> `access.jsonl.00000001`, ... A position is (sequence number of the
file, byte offset), so it survives rotation and restarts. A line without its newline is not read yet; a line that is
not JSON (Envoy was killed in the middle of a write) is counted and skipped.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tidegate.core.assignment import Arm
from tidegate.serving.gateway.state import RouteKind, parse_cluster, parse_route

LOG_NAME: Final = "access.jsonl"
# Bounds the memory of one read: about 15,000 records.
_CHUNK: Final = 8 * 1024 * 1024
# Envoy's flags for an attempt that reached for the upstream and failed there (response_flags in its manual):
# no healthy host, connection failure, connection termination, timeout, remote or local reset, overflow, no cluster,
# protocol error.
_FAILED_FLAGS: Final = frozenset({"UH", "UF", "UC", "UT", "UR", "LR", "UO", "NC", "UPE"})
_LEFT_FLAGS: Final = frozenset({"DC", "DPE"})


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """One finished request.

    `at` is epoch seconds at its arrival (microseconds kept); `seconds` arrival to last byte sent (or to the
    moment the client left), `upstream_seconds`
    first byte to the service until the last byte from it (None when it did not finish). `arm`, `release`, `rollout`
    and `weight` are those of the moment it was routed. `status` 0: the client left before an answer.
    `invalid`: a row of the answer is no prediction.
    """

    at: float
    request: str
    unit: str | None
    arm: Arm | None
    release: str | None
    kind: RouteKind | None
    rollout: str | None
    weight: int | None
    status: int
    flags: tuple[str, ...]
    details: str
    upstream: str | None
    seconds: float | None
    upstream_seconds: float | None
    prediction: str | None
    version: str | None
    invalid: bool
    method: str
    path: str

    @property
    def left(self) -> bool:
        """Whether the client went away before it had the whole answer."""
        return not _LEFT_FLAGS.isdisjoint(self.flags)

    @property
    def attempted(self) -> bool:
        """Whether an arm was asked, as opposed to the gateway answering 401, 413, 429 by itself.

        A client that gave up waiting counts (it is no failure, its `seconds` are the least that the arm took):
        leaving it out would hide the slow answers, which are the ones clients leave.
        """
        asked_and_left = self.left and self.upstream is not None
        return self.details == "via_upstream" or asked_and_left or not _FAILED_FLAGS.isdisjoint(self.flags)

    @property
    def failed(self) -> bool:
        """Whether the arm failed: a 5xx, no answer in time, or half an answer."""
        return self.attempted and (self.status >= 500 or not _FAILED_FLAGS.isdisjoint(self.flags))  # noqa: PLR2004 - HTTP

    @property
    def counts(self) -> bool:
        """Whether the judge may count it: an unforced prediction request of a known unit that an arm was asked for."""
        return self.kind == "split" and self.unit is not None and self.arm is not None and self.attempted


@dataclass(frozen=True, slots=True, order=True)
class LogPosition:
    """Everything before `offset` bytes of file number `sequence` has been read."""

    sequence: int = 1
    offset: int = 0


class AccessLogReader:
    """Reads what is new since `position`; save `position` together with what was made of the records.

    Args:
        path: the live log; rotated files lie beside it.
        position: where an earlier reader stopped.
    """

    def __init__(self, path: Path, position: LogPosition | None = None) -> None:
        self._path = path
        self.position = position or LogPosition()
        self.torn = 0

    def read(self) -> list[AccessRecord]:
        """Return the complete records that are new, oldest first; at most about 8 MB of log a call."""
        records: list[AccessRecord] = []
        budget = _CHUNK
        while budget > 0:
            chunk, complete = self._chunk(budget)
            lines, _, rest = chunk.rpartition(b"\n")
            records.extend(self._parse(lines))
            taken = len(chunk) - len(rest)
            if not complete:
                self.position = LogPosition(self.position.sequence, self.position.offset + taken)
                break
            # Nobody writes to this file any more: what has no newline in it never gets one.
            self.torn += bool(rest)
            self.position = LogPosition(self.position.sequence + 1, 0)
            budget -= taken
        return records

    def _chunk(self, budget: int) -> tuple[bytes, bool]:
        """Return new bytes, and whether they are the last ones of a file that nobody writes to any more."""
        file, rotated = self._open()
        if file is None:
            return b"", rotated
        with file:
            size = file.seek(0, os.SEEK_END)
            file.seek(self.position.offset)
            chunk = file.read(budget)
        return chunk, rotated and self.position.offset + len(chunk) >= size

    def _open(self) -> tuple[IO[bytes] | None, bool]:
        """Open file number `sequence`; True: it has been rotated and Envoy writes to its successor already."""
        rotated = rotated_path(self._path, self.position.sequence)
        if not rotated.exists():
            live = _open_if_there(self._path)
            newest = max(rotated_sequences(self._path), default=0)
            if newest < self.position.sequence:
                return live, False
            # Rotated between the two looks, so `live` may be either file; or deleted before it was read.
            if live is not None:
                live.close()
        # Until the successor exists Envoy may still flush into this one.
        successor = rotated_path(self._path, self.position.sequence + 1).exists() or self._path.exists()
        return _open_if_there(rotated), successor

    def _parse(self, lines: bytes) -> Iterator[AccessRecord]:
        for line in lines.split(b"\n"):
            if not line.strip():
                continue
            try:
                yield parse_record(line)
            except (ValueError, KeyError, TypeError, AttributeError):
                self.torn += 1


def parse_record(line: bytes) -> AccessRecord:
    """Read one line.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the line is torn or not ours.
    """
    fields = json.loads(line)
    arm, release = parse_cluster(fields["cluster"] or "") or (None, None)
    kind, rollout, weight = parse_route(fields["route"] or "") or (None, None, None)
    flags = fields["flags"]
    return AccessRecord(
        at=int(fields["at"]) / 1e6,
        request=fields["request"] or "",
        unit=fields["unit"] or None,
        arm=arm,
        release=release,
        kind=kind,
        rollout=rollout,
        weight=weight,
        status=int(fields["status"] or 0),
        flags=() if flags in {None, "-"} else tuple(flags.split(",")),
        details=fields["details"] or "",
        upstream=fields["upstream"],
        seconds=_scaled(fields["total_us"], 1e-6) or _scaled(fields["stream_ms"], 1e-3),
        upstream_seconds=_scaled(fields["upstream_us"], 1e-6),
        prediction=fields["prediction"],
        version=fields["version"],
        invalid=fields.get("invalid") is not None,
        method=fields["method"] or "",
        path=fields["path"] or "",
    )


def rotated_path(path: Path, sequence: int) -> Path:
    """Return where file number `sequence` lies once it is rotated."""
    return path.with_name(f"{path.name}.{sequence:08d}")


def rotated_sequences(path: Path) -> list[int]:
    """Return the numbers of the rotated files that still exist, oldest first."""
    suffixes = (other.name[len(path.name) + 1 :] for other in path.parent.glob(f"{path.name}.*"))
    return sorted(int(suffix) for suffix in suffixes if suffix.isdigit())


def end_torn_line(path: Path) -> None:
    """Give a line that a killed Envoy left without its newline one, so that the next record is not glued to it."""
    try:
        with path.open("r+b") as file:
            if file.seek(0, 2) and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":
                file.write(b"\n")
    except FileNotFoundError:
        return


def forget(path: Path, unit: str) -> int:
    """Overwrite a user's name in one file of the log, wherever it is a whole value; returns in how many requests.

    What stands there instead is of the same length, because readers know their places by offset, and the same in each
    line, so that a rollout goes on to count one user as one.
    """
    digits = secrets.token_hex(128).encode()
    count = 0
    with path.open("r+b") as file:
        start = 0
        for line in iter(file.readline, b""):
            found = _UNIT.search(line)
            if found is not None and _spells(found[1], unit):
                length = len(found[1])
                os.pwrite(file.fileno(), (digits * (length // len(digits) + 1))[:length], start + found.start(1))
                count += 1
            start += len(line)
    return count


_UNIT: Final = re.compile(rb'"unit": ?"((?:[^"\\]|\\.)*)"')


def _spells(content: bytes, unit: str) -> bool:
    """Whether the inside of a JSON string is this text."""
    try:
        return bool(json.loads(b'"' + content + b'"') == unit)
    except ValueError:
        return False


def _open_if_there(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _scaled(value: float | str | None, unit: float) -> float | None:
    return None if value is None or value in {"-", ""} else round(float(value) * unit, 6)
