"""What a judgement costs: one update, the state that is kept, and ten thousand recorded rollouts.

    python bench/judge.py [--streams 10000] [--blocks 120]

Goals: 0.5 ms for each metric of an update, 1 KB of packed state for each e-process, and 60 s to read and judge 10,000
streams of 120 blocks. Limits of a design, not a race: no peer replays blocks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pairs

from tidegate.core.config import Rollout
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.planning import make_plan
from tidegate.rollouts.stats.latency import LatencyLines

POLICY = """\
unit: request
guardrails: [{metric: error_rate, harm: {ratio: 1.1, margin: 0.001}, safe: {ratio: 1.5, margin: 0.002}}]
step: {min: 1m, max: 2h}
"""
UPDATES = 400
TARGET_UPDATE, TARGET_STATE, TARGET_REPLAY = 0.5e-3, 1024, 60.0


def update_seconds() -> tuple[float, float]:
    """Seconds for each metric of one update with four of them, and bytes of state for each of their e-processes."""
    lines = LatencyLines((0.01, 0.02, 0.05), (0.012, 0.022, 0.052), (1.0, 1.0, 1.0), 5000)
    section = Rollout.model_validate({"steps": [5, 25, 50]})
    plan = make_plan(section, rollout_id="r", block_seconds=60, units_per_minute=1200, error_rate=0.005, latency=lines)
    running, took = Judge(plan), []
    for index in range(UPDATES):
        block = Block(index, 5, {stream.metric: Counts(60, 1, 1140, 6) for stream in plan.streams})
        began = time.perf_counter()
        running.add(block)
        took.append((time.perf_counter() - began) / len(plan.streams))
    state = running.state()["panel"]["evidence"]
    # Each metric has a process for harm and one for safety.
    numbers = sum(np.asarray(value).size for value in _leaves(state))
    return median(took), 8 * numbers / (2 * len(plan.streams))


def _leaves(state: object) -> list[object]:
    if isinstance(state, dict):
        return [leaf for value in state.values() for leaf in _leaves(value)]
    return [state]


def write(file: Path, streams: int, blocks: int) -> None:
    """Equal arms at 25 % of 1,200 requests a minute, half a per cent of which fail."""
    rng = np.random.default_rng(1)
    n1 = rng.binomial(1200, 0.25, (blocks, streams))
    x1, x0 = rng.binomial(n1, 0.005), rng.binomial(1200 - n1, 0.005)
    with file.open("w") as out:
        for minute in range(blocks):
            for stream in range(streams):
                n, head = (
                    int(n1[minute, stream]),
                    f'{{"stream": "s{stream}", "minute": {minute}, "metric": "error_rate"',
                )
                out.write(f'{head}, "arm": "canary", "n": {n}, "x": {x1[minute, stream]}}}\n')
                out.write(f'{head}, "arm": "stable", "n": {1200 - n}, "x": {x0[minute, stream]}}}\n')


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--blocks", type=int, default=120)
    options = parser.parse_args()
    seconds, state = update_seconds()
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as scratch:
        plan, blocks = Path(scratch) / "policy.yaml", Path(scratch) / "blocks.jsonl"
        plan.write_text(POLICY)
        write(blocks, options.streams, options.blocks)
        took = pairs.run([pairs.TIDEGATE, "rollout", "replay", "--plan", str(plan), "--blocks", str(blocks), "--json"])
    document = {
        "kind": "bench",
        "name": "judge",
        "update_seconds_per_metric": seconds,
        "state_bytes_per_process": state,
        "streams": options.streams,
        "blocks": options.blocks,
        "replay_seconds": took.wall,
        "ok": seconds <= TARGET_UPDATE and state <= TARGET_STATE and took.wall <= TARGET_REPLAY,
    }
    print(json.dumps(document))
    sys.exit(not document["ok"])


if __name__ == "__main__":
    main()
