"""What a container may use, read from its control group."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.serving.service import limits

MINE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def group(root: Path, files: dict[str, str]) -> Path:
    """A control group's folder."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, MINE),
        ({"cpu.max": "99900000 100000\n"}, MINE),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, MINE),
        ({}, MINE),
    ],
)
def test_threads_follow_the_quota(tmp_path: Path, files: dict[str, str], count: int) -> None:
    """Of either version; never none, never more than the machine gives."""
    assert limits.processors(group(tmp_path, files)) == count
