"""What this process answered to requests that another process answers too: half of each pair of a shadow phase.

The gateway names the pair in a header, only while it sends copies; without the header, or without the folder, nothing
is kept. A thread writes after the answer was sent. What does not fit is dropped: a comparison can do with fewer pairs,
a user cannot do with a slower answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from tidegate.serving.service.model import Answer
from tidegate.serving.service.records import unit_hash
from tidegate.serving.service.schema import Row

# Lines a second of one process; beyond them every other id is left out, then three of four, and so on.
MOST_A_SECOND = 200
# Numbers of one line: predictions and probabilities of the first rows.
MOST_VALUES = 256
# Lines in memory, and bytes and number of the files of one process.
MOST_WAITING, FILE_BYTES, FILES = 1000, 1_000_000, 8
_PAUSE = 0.25
_LONGEST_TEXT = 64
_HIGHEST_LEVEL = 20


class Half(msgspec.Struct, omit_defaults=True):
    """One line: what one process made of one request.

    Attributes:
        rollout: whose shadow phase it is.
        id: the same in both halves.
        arm: `shadow` answered the copy.
        unit: the user's keyed hash, as in recorded predictions.
        at: when the request came, seconds since the epoch.
        status: of the answer.
        seconds: from the request's head to its answer.
        predictions: of the first rows; what is no short scalar is a digest. None where there was no prediction.
        scores: class -> probability of the same rows.
        numeric: whether the predictions are quantities, not names.
        slices: column -> values of the same rows, of the gate's slices; only in the stable half.
    """

    rollout: str
    id: str
    arm: Literal["stable", "shadow"]
    unit: int
    at: float
    status: int
    seconds: float
    predictions: list[Any] | None = None
    scores: list[dict[str, float]] | None = None
    numeric: bool = False
    slices: dict[str, list[str]] | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Half)


def encode(half: Half) -> bytes:
    """A line, with its end."""
    return _encoder.encode(half) + b"\n"


def decode(line: bytes) -> Half:
    """The inverse of `encode`.

    Raises:
        ValueError: the line is torn or not ours.
    """
    return _decoder.decode(line)


@dataclass(slots=True)
class _Waiting:
    """An answer on its way to the file."""

    name: tuple[str, str, bytes]
    arm: Literal["stable", "shadow"]
    at: float
    status: int
    seconds: float
    answer: Answer | None
    slices: dict[str, list[Any]] | None


class PairLog:
    """Takes answers without waiting and writes them soon.

    Args:
        folder: where the files go, as long as it is there; None keeps nothing.
        release: of this process; names the files.
        classes: what the columns of `Answer.probabilities` stand for.
        slices: columns whose values the stable half keeps, so that disagreement is told by them.

    Attributes:
        classes: as given; set when the model is known.
        salt: the store's secret that users are hashed with. Without a store it is one of this process alone, which
            tells users apart as well.
    """

    def __init__(
        self,
        folder: Path | None,
        release: str = "",
        classes: list[Any] | None = None,
        slices: Sequence[str] = (),
    ) -> None:
        self._folder, self._release, self._slices = folder, release, tuple(slices)
        self.classes = classes
        own = secrets.token_bytes(32)
        self.salt: Callable[[], bytes] = lambda: own
        self._places: dict[str, int] = {}
        self._queue: deque[_Waiting] = deque()
        self._level = self._kept = self._file = 0
        self._second = 0.0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def knows(self, columns: Sequence[str]) -> None:
        """Say which columns a row has, in its order; a slice by another one is not told."""
        self._places = {name: columns.index(name) for name in self._slices if name in columns}

    def add(
        self,
        pair: bytes,
        arm: str,
        status: int,
        seconds: float,
        answer: Answer | None,
        *,
        rows: Sequence[Row] = (),
    ) -> None:
        """Keep one answer, if it is among those that are kept.

        Args:
            pair: the gateway's header: rollout, id and unit.
            arm: `shadow` for a copy.
            status: of the answer.
            seconds: that it took until now.
            answer: what was predicted, None if nothing was.
            rows: that were asked.
        """
        if self._folder is None or len(self._queue) >= MOST_WAITING:
            return
        name = _parse(pair)
        if name is None or not self._chosen(name[1]):
            return
        kept = None if answer is None else answer.part(0, _rows(answer))
        side: Literal["stable", "shadow"] = "shadow" if arm == "shadow" else "stable"
        slices = self._sliced(rows[: len(kept.predictions)]) if kept is not None and side == "stable" else None
        self._queue.append(_Waiting(name, side, time.time() - seconds, status, seconds, kept, slices))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tidegate-pairs", daemon=True)
            self._thread.start()
        self._wake.set()

    def flush(self) -> None:
        """Write what waits; without the folder, or on a full disk, forget it."""
        content = bytearray()
        while self._queue:
            waiting = self._queue.popleft()
            # What cannot be written down is one pair less, and must not end this thread.
            with contextlib.suppress(Exception):
                content += encode(self._half(waiting))
            if len(content) > FILE_BYTES / 2 or not self._queue:
                # No phase runs any more, or there is no room: nobody waits for these lines.
                with contextlib.suppress(OSError):
                    self._append(content)
                content.clear()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            time.sleep(_PAUSE)
            self.flush()

    def _sliced(self, rows: Sequence[Row]) -> dict[str, list[Any]] | None:
        if not self._places or not rows:
            return None
        return {name: [row[place] for row in rows] for name, place in self._places.items()}

    def _chosen(self, name: str) -> bool:
        """Leave out by the id's last bits, so that the other process leaves out the same ones."""
        now = time.monotonic()
        if now - self._second >= 1:
            self._level -= self._level > 0 and self._kept < MOST_A_SECOND / 4
            self._second, self._kept = now, 0
        if zlib.crc32(name.encode()) & ((1 << self._level) - 1):
            return False
        self._kept += 1
        if self._kept > MOST_A_SECOND:
            self._level, self._kept = min(self._level + 1, _HIGHEST_LEVEL), 0
        return True

    def _half(self, waiting: _Waiting) -> Half:
        rollout, name, unit = waiting.name
        user = unit_hash(self.salt(), unit.decode("utf-8", "surrogateescape"))
        half = Half(rollout, name, waiting.arm, user, round(waiting.at, 6), waiting.status, round(waiting.seconds, 6))
        answer = waiting.answer
        if answer is not None:
            half.predictions = [_plain(value) for value in answer.predictions]
            half.numeric = self.classes is None and all(type(value) in {int, float} for value in answer.predictions)
            half.scores = self._scores(answer.probabilities)
        if waiting.slices is not None:
            half.slices = {name: [_short(value) for value in values] for name, values in waiting.slices.items()}
        return half

    def _scores(self, rows: list[list[float]] | None) -> list[dict[str, float]] | None:
        if rows is None or self.classes is None or len(self.classes) >= MOST_VALUES:
            return None
        names = [str(one) for one in self.classes]
        return [dict(zip(names, (round(value, 6) for value in row), strict=True)) for row in rows]

    def _append(self, content: bytes | bytearray) -> None:
        path = self._path(self._file)
        if path.exists() and path.stat().st_size + len(content) > FILE_BYTES:
            self._file += 1
            self._path(self._file - FILES).unlink(missing_ok=True)
        # Opened anew each time: the folder of another phase is another folder.
        with self._path(self._file).open("ab") as file:
            file.write(content)

    def _path(self, number: int) -> Path:
        assert self._folder is not None  # noqa: S101 - without one nothing is taken
        return self._folder / f"{self._release or 'model'}.{os.getpid()}.{number:06d}.jsonl"


def _parse(pair: bytes) -> tuple[str, str, bytes] | None:
    """Rollout, id, and the unit, which may hold spaces."""
    parts = pair.split(b" ", 2)
    if len(parts) < 3:  # noqa: PLR2004 - the three
        return None
    rollout, name, unit = parts
    return rollout.decode("latin-1"), name.decode("latin-1"), unit


def _rows(answer: Answer) -> int:
    width = 1 + (len(answer.probabilities[0]) if answer.probabilities else 0)
    return max(1, MOST_VALUES // width)


def _short(value: Any) -> str:
    return "(missing)" if value is None else str(value)[:_LONGEST_TEXT]


def _plain(value: Any) -> Any:
    # Exact types: numpy's float is a float, but no JSON.
    short = type(value) is str and len(value) < _LONGEST_TEXT
    if short or value is None or type(value) in {bool, int, float}:
        return value
    try:
        content = msgspec.json.encode(value, order="deterministic")
    except (TypeError, ValueError):
        content = repr(value).encode()
    return "sha256:" + hashlib.sha256(content).hexdigest()[:16]
