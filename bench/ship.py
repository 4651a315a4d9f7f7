"""How long the first `tidegate ship` takes, as a ratio to the same library calls written by hand (by_hand.py).

    python bench/ship.py [--pairs 5]

Each run is cold: a new process in a fresh copy of the same initialised project, before any `up`. Goal: at most 1.15.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import pairs

TARGET = 1.15
BY_HAND = Path(__file__).with_name("by_hand.py")


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs, after one that is not counted")
    count: int = parser.parse_args().pairs
    measured = []
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as scratch:
        fresh = pairs.copies(pairs.project(Path(scratch)))
        for number in range(count + 1):
            runs = {}
            for name in ("ours", "by_hand") if number % 2 else ("by_hand", "ours"):
                folder = fresh(name)
                ours = [pairs.TIDEGATE, "-C", str(folder), "ship", "--json"]
                runs[name] = pairs.run(ours if name == "ours" else [sys.executable, str(BY_HAND), str(folder)])
            if number:
                measured.append((runs["ours"], runs["by_hand"]))
    ratio = pairs.median([ours.wall / hand.wall for ours, hand in measured])
    document = {
        "kind": "bench",
        "name": "ship",
        "pairs": count,
        "tidegate_seconds": pairs.median([ours.wall for ours, _ in measured]),
        "by_hand_seconds": pairs.median([hand.wall for _, hand in measured]),
        "cpu_ratio": pairs.median([ours.cpu / hand.cpu for ours, hand in measured]),
        "ratio": ratio,
        "target": TARGET,
        "ok": ratio <= TARGET,
    }
    print(json.dumps(document))
    sys.exit(not document["ok"])


if __name__ == "__main__":
    main()
