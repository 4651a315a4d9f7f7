"""A lock on a file: one at a time, and whoever waits is let in or told."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tidegate.core.errors import Conflict
from tidegate.core.held import held

BUSY = Conflict("Somebody is there.", "Wait.")


def test_one_at_a_time_and_the_next_one_after_it(tmp_path: Path) -> None:
    """A second holder is refused at once, or waits and is let in."""
    file = tmp_path / "new" / "lock"
    with held(file, 0, BUSY), pytest.raises(Conflict, match="Somebody"), held(file, 0, BUSY):
        pass
    entered: list[float] = []

    def wait() -> None:
        with held(file, 10, BUSY):
            entered.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    with held(file, 0, BUSY):
        waiting.start()
        time.sleep(0.2)
        left = time.monotonic()
    waiting.join(10)
    assert entered[0] >= left
