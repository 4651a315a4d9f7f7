"""One process at a time: a lock on a file, which ends with the process that holds it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tidegate.core.errors import Conflict

_POLL_SECONDS: Final = 0.05


@contextmanager
def held(file: Path, wait: float, otherwise: Conflict) -> Iterator[None]:
    """Hold the lock `file`, made if it is missing, while the block runs.

    Args:
        file: the lock; it stays when the block has ended, because removing it would let two in.
        wait: seconds to wait for another holder.
        otherwise: raised if that is not enough.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    with file.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise otherwise from error
            time.sleep(_POLL_SECONDS)
        yield
