"""How much longer `tidegate train` takes than `import dvc.repo` when nothing changed.

    python bench/noop.py [--pairs 11]

DVC has to be asked what changed, so its import is the floor. Goal: at most 1.0 s above it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import pairs

TARGET = 1.0


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=11, help="interleaved pairs, after one that is not counted")
    count: int = parser.parse_args().pairs
    measured = []
    floor = [sys.executable, "-c", "import dvc.repo"]
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as scratch:
        ours = [pairs.TIDEGATE, "-C", str(pairs.project(Path(scratch))), "train", "--json"]
        pairs.run(ours)
        for number in range(count + 1):
            if number % 2:
                least, took = pairs.run(floor), pairs.run(ours)
            else:
                took, least = pairs.run(ours), pairs.run(floor)
            if number:
                measured.append((took, least))
    over = pairs.median([took.wall - least.wall for took, least in measured])
    document = {
        "kind": "bench",
        "name": "noop",
        "pairs": count,
        "tidegate_seconds": pairs.median([took.wall for took, _ in measured]),
        "import_dvc_seconds": pairs.median([least.wall for _, least in measured]),
        "cpu_seconds_over": pairs.median([took.cpu - least.cpu for took, least in measured]),
        "seconds_over": over,
        "target": TARGET,
        "ok": over <= TARGET,
    }
    print(json.dumps(document))
    sys.exit(not document["ok"])


if __name__ == "__main__":
    main()
