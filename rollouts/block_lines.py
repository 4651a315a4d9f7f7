"""Blocks as JSON lines, the form of `rollout replay` and of `POST /v1/blocks`.

Writing and reading stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tidegate.core.errors import UsageError
from tidegate.rollouts.blocks import Block, Counts

ATTEMPTS = "attempts"
"""The metric name under which JSON lines carry raw requests (n) and failures (x)."""


def to_lines(stream: str, block: Block) -> list[dict[str, Any]]:
    """The block as JSON lines ``{stream, minute, arm, metric, n, x, weight?}``; `minute` is the index of the block.

    Raw requests are two lines of the metric "attempts"; the canary's also carries `misrouted` and `ready` when they say
    something.
    """
    head: dict[str, Any] = {"stream": stream, "minute": block.index}
    tail: dict[str, Any] = {} if block.weight is None else {"weight": block.weight}
    lines = []
    for metric, c in [*block.metrics.items(), (ATTEMPTS, block.attempts)]:
        for arm, n, x in (("canary", c.n1, c.x1), ("stable", c.n0, c.x0)):
            lines.append({**head, "arm": arm, "metric": metric, "n": n, "x": x, **tail})
    if block.misrouted:
        lines[-2]["misrouted"] = block.misrouted
    if not block.ready:
        lines[-2]["ready"] = False
    return lines


def from_lines(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Block]]:
    """Read JSON lines of any number of streams, in any order; lines of one arm, metric and block add up.

    Raises:
        UsageError: a line lacks a field, or its counts cannot be.
    """
    blocks: dict[str, dict[tuple[int, int | None], Block]] = {}
    for number, line in enumerate(lines, 1):
        stream, block = _block_of_line(line, number)
        known = blocks.setdefault(stream, {})
        key = (block.index, block.weight)
        known[key] = known[key] + block if key in known else block
    return {
        stream: [known[key] for key in sorted(known, key=lambda k: (k[0], k[1] or 0))]
        for stream, known in blocks.items()
    }


def _block_of_line(line: Mapping[str, Any], number: int) -> tuple[str, Block]:
    try:
        arm, metric, n, x = line["arm"], str(line["metric"]), float(line["n"]), float(line["x"])
        index, weight, stream = int(line["minute"]), line.get("weight"), str(line.get("stream", ""))
        counts = {"canary": Counts(n1=n, x1=x), "stable": Counts(n0=n, x0=x)}[arm]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"Line {number} of the blocks cannot be read: {error!r}.",
            'A line looks like {"stream": "a", "minute": 0, "arm": "canary", "metric": "error_rate", "n": 60, "x": 1}.',
        ) from error
    extra = {"misrouted": line.get("misrouted", 0), "ready": line.get("ready", True)}
    if metric == ATTEMPTS:
        return stream, Block(index, weight, {}, counts, **extra)
    return stream, Block(index, weight, {metric: counts}, **extra)
