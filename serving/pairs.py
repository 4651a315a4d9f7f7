"""Pairs of answers to one request, joined from the lines that the processes of a shadow phase leave in a folder.

The format is that of `service/pair_log.py`. Whoever keeps predictions elsewhere replaces this reader.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tidegate.serving.service.pair_log import Half, decode

# Halves that wait for the other: longer than any sensible timeout, and a few seconds of lines at the most.
_PATIENCE_SECONDS = 60.0
_MOST_WAITING = 2000
# Bounds the memory of one read; the next one goes on.
_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class Pair:
    """One request, and what became of it in both processes."""

    stable: Half
    canary: Half


def record(folder: Path, *, on: bool) -> None:
    """Let the processes of this machine write pairs, or stop them and forget what they wrote."""
    if on:
        folder.mkdir(parents=True, exist_ok=True)
    elif folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


class PairReader:
    """Reads what is new; save `state()` together with what was made of the pairs.

    Args:
        folder: where the processes write; it may not be there.
        rollout: whose pairs are wanted.
        state: JSON of a former `state()`.
    """

    def __init__(self, folder: Path, rollout: str, state: Mapping[str, Any] | None = None) -> None:
        self._folder, self._rollout = folder, rollout
        self._offsets: dict[str, int] = {}
        self._waiting: dict[str, Half] = {}
        if state:
            self._offsets.update(state["offsets"])
            self._waiting = {half.id: half for half in msgspec.convert(state["waiting"], list[Half])}

    def read(self, now: float) -> list[Pair]:
        """Return the pairs that have become whole.

        Args:
            now: seconds since the epoch; halves that have waited too long are forgotten.
        """
        pairs = []
        for half in self._halves():
            other = self._waiting.pop(half.id, None)
            if other is None or other.arm == half.arm:
                self._waiting[half.id] = half
            else:
                pairs.append(Pair(half, other) if half.arm == "stable" else Pair(other, half))
        self._forget(now)
        return pairs

    def state(self) -> dict[str, Any]:
        """JSON with which a new one goes on."""
        return {"offsets": dict(self._offsets), "waiting": msgspec.to_builtins(list(self._waiting.values()))}

    def _halves(self) -> Iterator[Half]:
        files = sorted(self._folder.glob("*.jsonl"))
        self._offsets = {file.name: self._offsets.get(file.name, 0) for file in files}
        for file in files:
            for line in self._lines(file):
                try:
                    half = decode(line)
                except ValueError:
                    # A process was killed while it wrote.
                    continue
                if half.rollout == self._rollout:
                    yield half

    def _lines(self, file: Path) -> list[bytes]:
        try:
            with file.open("rb") as opened:
                if opened.seek(0, os.SEEK_END) < self._offsets[file.name]:
                    # Another one of that name: the folder was removed and made again.
                    self._offsets[file.name] = 0
                opened.seek(self._offsets[file.name])
                whole, _, _ = opened.read(_CHUNK).rpartition(b"\n")
        except FileNotFoundError:
            return []
        if whole:
            self._offsets[file.name] += len(whole) + 1
        return whole.split(b"\n") if whole else []

    def _forget(self, now: float) -> None:
        """Drop the halves whose other half was dropped, or is of a process that died; oldest first."""
        late = [name for name, half in self._waiting.items() if half.at < now - _PATIENCE_SECONDS]
        for name in late or list(self._waiting)[: max(0, len(self._waiting) - _MOST_WAITING)]:
            del self._waiting[name]
