"""The collector's settings are the road's own only while it works, and never the user's code's."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from tidegate.pipelines import collector


def test_thresholds_are_put_back_also_after_an_error() -> None:
    """Whoever calls tidegate as a library keeps the collector as it was."""
    before = gc.get_threshold()

    def fail() -> None:
        with collector.seldom():
            assert gc.get_threshold() > before
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - nothing else raises it here
        fail()
    assert gc.get_threshold() == before


def test_the_users_code_meets_the_collector_it_knows() -> None:
    """Inside the block that trains, thresholds are Python's own, and its cycles are collected."""
    before = gc.get_threshold()
    with collector.seldom():
        with collector.usual():
            assert gc.get_threshold() == before
            assert gc.get_freeze_count()
        assert gc.get_threshold() > before


def test_what_was_imported_is_taken_down_when_the_process_ends() -> None:
    """A library that says aloud what outlives it (DuckDB) has nothing to say after two trainings in one process."""
    program = """
import duckdb
from tidegate.pipelines import collector
with collector.seldom(), collector.usual():
    pass
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_what_a_caller_froze_stays_frozen() -> None:
    """A server that left its libraries out of collections keeps them out."""
    gc.freeze()
    try:
        with collector.usual():
            pass
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
