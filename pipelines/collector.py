"""Python's garbage collector, kept from walking over the libraries again and again.

The road imports some six thousand modules, half a million objects that live until the process ends. With Python's own
thresholds the collector looks at all of them nine times in a first `ship`: 17 % of its time, and nothing is freed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# New containers until the youngest are looked at, and how many looks lead to one at older ones. A first `ship` makes
# 1.2 million, so the youngest are collected two dozen times and the oldest never.
_SELDOM = (50_000, 20, 20)
_USUAL = gc.get_threshold()


@contextmanager
def seldom() -> Iterator[None]:
    """Collect seldom inside the block, which imports much and makes few cycles."""
    with _thresholds(_SELDOM):
        yield


@contextmanager
def usual() -> Iterator[None]:
    """Collect as Python usually does, for code of the user's inside a `seldom` block; libraries are left out of it.

    Only inside the block: what is still left out when the process ends is never taken down, which DuckDB calls a leak.
    """
    frozen = gc.get_freeze_count()
    gc.freeze()
    try:
        with _thresholds(_USUAL):
            yield
    finally:
        if not frozen:
            gc.unfreeze()


@contextmanager
def _thresholds(wanted: tuple[int, int, int]) -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*wanted)
    try:
        yield
    finally:
        gc.set_threshold(*before)
