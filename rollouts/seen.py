"""Which users have been counted. Append-only, so that a crash can at worst repeat the newest lines of the log."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt


def user_hash(rollout: str, unit: str) -> int:
    """A user of a rollout as 64 bits (xxh64, as the gateway deals users)."""
    import xxhash

    return xxhash.xxh64_intdigest(f"{rollout}:{unit}".encode())


def without(content: bytes, user: int) -> bytes:
    """The same list with a number that is nobody's in place of a user: places and length are what readers go by."""
    hashes = np.frombuffer(content, dtype="<u8").copy()
    mine = hashes == np.uint64(user)
    hashes[mine] = np.frombuffer(secrets.token_bytes(8 * int(mine.sum())), dtype="<u8")
    return hashes.tobytes()


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

    def add(self, rollout: str, unit: str) -> bool:
        """Add a user of a rollout; False if there already."""
        value = user_hash(rollout, unit)
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
