"""What the benchmarks share: a project to measure in, and two commands measured in turns.

A busy machine is as unfair to one command of a pair as to the other, so what is reported is the median over pairs of
a ratio or difference within the pair. Processor seconds stand beside wall-clock seconds, because they move less.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "elec.csv"
TIDEGATE = str(Path(sys.executable).with_name("tidegate"))
ROWS = 45_000


@dataclass(frozen=True)
class Took:
    """Seconds of one run, by the clock and of processors."""

    wall: float
    cpu: float


def environment() -> dict[str, str]:
    """Ours, but Python keeps compiled modules as it does by default: else every run compiles every library anew.

    One thread of OpenMP each: on a machine with other work, training on two takes up to ten times as long, by chance.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "OMP_NUM_THREADS": "1"}


def run(command: Sequence[str], folder: Path | None = None) -> Took:
    """Run to the end; a failure ends the benchmark with what the command said."""
    began = time.perf_counter()
    before = os.times()
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(wall, cpu)


def project(folder: Path) -> Path:
    """What `tidegate init` makes of the electricity data, or of made-up data of its size if it is not there."""
    source = DATA
    if not source.is_file():
        source = folder / "made_up.csv"
        source.write_text(_made_up())
    made = folder / "project"
    made.mkdir()
    run(["git", "init", "--quiet", "."], made)
    run([TIDEGATE, "init", ".", "--from", str(source), "--target", "class"], made)
    run(["git", "add", "--all"], made)
    author = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    run(["git", *author, "commit", "--quiet", "--message", "Start"], made)
    return made


def _made_up() -> str:
    rng = random.Random(0)
    lines = ["a,b,c,d,e,f,class"]
    for _ in range(ROWS):
        values = [rng.random() for _ in range(6)]
        wanted = int(sum(values[:3]) - values[3] + rng.gauss(0, 0.4) > 1)
        lines.append(",".join([*(f"{value:.6f}" for value in values), str(wanted)]))
    return "\n".join(lines) + "\n"


def copies(original: Path) -> Callable[[str], Path]:
    """A function that gives a fresh copy of a project, in place of the one before of the same name."""

    def fresh(name: str) -> Path:
        target = original.with_name(name)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(original, target, symlinks=True)
        return target

    return fresh


def median(values: Sequence[float]) -> float:
    """Rounded to what such a measurement can say."""
    return round(statistics.median(values), 3)
