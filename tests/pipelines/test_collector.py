"""The collector's settings are the road's own only while it works, and never the user's code's."""

from __future__ import annotations

import gc

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
        assert gc.get_threshold() > before
    gc.unfreeze()
