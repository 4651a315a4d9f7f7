"""What a container may use: processors, from its control group, version 1 or 2.

`os.cpu_count` counts the machine's, so a container of two processors on a machine of 64 would start threads that
mostly wait for their turn. https://docs.kernel.org/admin-guide/cgroup-v2.html, cgroup-v1/.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")


def processors(root: Path = _ROOT) -> int:
    """Whole processors that this process may use, at least 1: the smaller of its quota and its affinity."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    # Half a processor more or less is one thread less: a thread that is throttled holds up a whole request.
    return max(1, min(mine, int(quota))) if quota is not None else mine


def _quota(root: Path) -> float | None:
    """Processors' worth of time; None without a limit."""
    share, _, period = _text(root / "cpu.max").partition(" ")
    if not share:
        share, period = _text(root / "cpu" / "cpu.cfs_quota_us"), _text(root / "cpu" / "cpu.cfs_period_us")
    if share.isdigit() and period.isdigit() and int(period) > 0:
        return int(share) / int(period)
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
