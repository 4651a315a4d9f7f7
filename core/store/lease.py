"""One holder at a time of something in a store, on whatever machine: for work that two at once would undo.

A lease is a small file, made only if absent, that ends by itself: who is killed keeps others out for `LASTS` at most,
and on the same machine not at all. Long work calls `keep` between its steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tidegate.core.errors import Conflict
from tidegate.core.store import Store

# Seconds: longer than the longest step between two calls of `keep`, short enough to wait for.
LASTS = 600.0
_POLL = 0.5


@dataclass
class Lease:
    """A lease that is held; `keep` makes it last."""

    store: Store
    path: str
    token: str
    until: float

    def keep(self) -> None:
        """Go on for another `LASTS`; to be called before each step that must not meet another holder's.

        Raises:
            Conflict: it ran out and somebody else may have it now.
        """
        now = time.time()
        if now > self.until or _read(self.store, self.path).get("token") != self.token:
            raise Conflict("The work was interrupted for too long.", "Run the same command again.")
        if now > self.until - LASTS / 2:
            self.until = now + LASTS
            self.store.write(self.path, _record(self.token, self.until))


@contextlib.contextmanager
def leased(store: Store, name: str, wait: float, otherwise: Callable[[str], Conflict]) -> Iterator[Lease]:
    """Hold the lease `name` while the block runs.

    Args:
        store: of what is worked on.
        name: of the lease.
        wait: seconds to wait for another holder.
        otherwise: makes the error for when that is not enough, of who holds it.
    """
    deadline = time.monotonic() + wait
    while (lease := _attempt(store, f"leases/{name}")) is None:
        if time.monotonic() > deadline:
            holders = [str(one.get("host")) for one in _living(store, f"leases/{name}").values()]
            raise otherwise(holders[0] if holders else "somebody")
        # At random, or two who found each other in the way would do so again.
        time.sleep(_POLL * random.random())  # noqa: S311 - no secret
    try:
        yield lease
    finally:
        if _read(store, lease.path).get("token") == lease.token:
            store.delete(lease.path)


def _attempt(store: Store, folder: str) -> Lease | None:
    """Take the next number unless somebody lives; who finds another one then steps back."""
    if _living(store, folder):
        return None
    old = store.list(folder)
    number = max((int(path.rsplit("/", 1)[1]) for path in old), default=-1) + 1
    lease = Lease(store, f"{folder}/{number:08d}", secrets.token_hex(8), time.time() + LASTS)
    if not store.put_if_absent(lease.path, _record(lease.token, lease.until)):
        return None
    # Somebody may have looked before this one was there, and taken another number: at least one of both sees it.
    if _living(store, folder).keys() - {lease.path}:
        store.delete(lease.path)
        return None
    for path in old:
        store.delete(path)
    return lease


def _living(store: Store, folder: str) -> dict[str, dict[str, object]]:
    return {path: record for path in store.list(folder) if _lives(record := _read(store, path))}


def _lives(record: dict[str, object]) -> bool:
    until, pid = record.get("until", 0.0), record.get("pid", 0)
    if not isinstance(until, float) or not isinstance(pid, int) or until < time.time():
        return False
    if record.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read(store: Store, path: str) -> dict[str, object]:
    try:
        found = json.loads(store.read(path))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _record(token: str, until: float) -> bytes:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "until": until, "token": token}
    return json.dumps(holder).encode()
