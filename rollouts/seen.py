"""Which users have been counted. Append-only, so that a crash can at worst repeat the newest lines of the log."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Seen:
    """The users who have been counted, as 64-bit hashes: 8 bytes each once settled, 10 million users in 80 MB.

    Two of ten million users share a hash with probability 3e-6; the second would not be counted.
    """

    _CHUNK = 1 << 16

    def __init__(self, content: bytes = b"") -> None:
        self._settled: npt.NDArray[np.uint64] = np.unique(np.frombuffer(content, dtype="<u8"))
        self._recent: set[int] = set()
        self._unsaved: list[int] = []
        self.count = len(content) // 8

    def add(self, name: str) -> bool:
        """Add a user, as "<rollout>:<unit>"; False if there already."""
        import xxhash

        value = xxhash.xxh64_intdigest(name.encode())
        if value in self._recent:
            return False
        place = int(np.searchsorted(self._settled, np.uint64(value))) if self._settled.size else 0
        if place < self._settled.size and int(self._settled[place]) == value:
            return False
        self._recent.add(value)
        self._unsaved.append(value)
        self.count += 1
        if len(self._recent) >= self._CHUNK:
            self._settled = np.union1d(self._settled, np.fromiter(self._recent, np.uint64, len(self._recent)))
            self._recent.clear()
        return True

    def drain(self) -> bytes:
        """What to append to the file: the hashes added since the last call, 8 bytes little-endian each."""
        content = np.array(self._unsaved, dtype="<u8").tobytes()
        self._unsaved = []
        return content
