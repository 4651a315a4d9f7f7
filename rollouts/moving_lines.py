"""Latency lines that move with the stable arm: each block is judged by thresholds from the blocks before it.

Thresholds frozen once, before the start, stop working when the load changes: if the stable arm gets faster, nobody
passes its old p99, and a ratio of nothing proves nothing. The e-processes only need thresholds that were fixed before
the block they judge (a predictable sequence), so they are taken again from the stable arm's newest requests whenever a
block closes, and hold from the first block on of which nothing has been counted yet. See
docs/decisions/0006-moving-latency-lines.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from tidegate.rollouts.plan import lines_from_dict
from tidegate.rollouts.stats.latency import MINIMUM, LatencyLines, freeze_latency

NEWEST = 5000
"""So many stable requests make new lines: 50 of them lie above the p99."""


class MovingLines:
    """The lines in force for each block.

    Args:
        first: the plan's lines, None when latency is no guardrail.
    """

    def __init__(self, first: LatencyLines | None) -> None:
        self._lines: list[tuple[int, LatencyLines | None]] = [(0, first)]
        self._recent: deque[float] = deque(maxlen=NEWEST)
        self._newest = -1

    def of(self, index: int) -> LatencyLines | None:
        """The lines that judge block `index`."""
        return next((lines for start, lines in reversed(self._lines) if index >= start), self._lines[0][1])

    def saw(self, index: int, stable_seconds: float | None) -> None:
        """Say that a request was counted in block `index`; its duration in seconds if the stable arm answered it."""
        self._newest = max(self._newest, index)
        if stable_seconds is not None and self._lines[0][1] is not None:
            self._recent.append(stable_seconds)

    def move(self, oldest_open: int) -> None:
        """Make new lines for the blocks after the newest that has counts; forget those of blocks that are closed."""
        current = self._lines[-1][1]
        if current is None or len(self._recent) < MINIMUM:
            return
        fresh = freeze_latency(tuple(self._recent))
        # How slow requests bunch was measured with their times, once, and is part of the plan.
        self._lines.append((self._newest + 1, replace(fresh, bunching=current.bunching)))
        needed = max(i for i, (start, _) in enumerate(self._lines) if start <= oldest_open or i == 0)
        self._lines = self._lines[needed:]

    def state(self) -> dict[str, Any]:
        """JSON from which `restore` goes on."""
        lines = [[start, asdict(one) if one else None] for start, one in self._lines]
        return {"lines": lines, "recent": [round(one, 6) for one in self._recent], "newest": self._newest}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> MovingLines:
        """Read what `state` wrote."""
        moving = cls(None)
        moving._lines = [(start, lines_from_dict(one) if one else None) for start, one in state["lines"]]
        moving._recent.extend(state["recent"])
        moving._newest = state["newest"]
        return moving
