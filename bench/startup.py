"""How long `tidegate --help` takes, as a ratio to the `--help` of a bare two-command Typer app.

Both run in turns, so that a busy machine is as unfair to one as to the other; the ratio is the median of the pairs.
Without a terminal tidegate prints plain help, which spares it rich; on one both draw rich help. Both are measured,
the worse one counts. Goal: at most 1.5.

    python bench/startup.py [--pairs 15]
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pairs

BARE = '''
import typer
app = typer.Typer()

@app.command()
def one(name: str = "a") -> None:
    """The first."""

@app.command()
def two(count: int = 1) -> None:
    """The second."""

app()
'''
TARGET = 1.5


def seconds(command: list[str], *, tty: bool) -> float:
    """Wall-clock seconds of one run."""
    start = time.perf_counter()
    if not tty:
        subprocess.run(command, check=True, capture_output=True, env=pairs.environment())
        return time.perf_counter() - start
    parent, child = pty.openpty()
    with subprocess.Popen(command, stdout=child, stderr=child, env=pairs.environment()) as process:
        os.close(child)
        try:
            while os.read(parent, 65536):
                pass
        except OSError:  # Linux says EIO when the other end is closed
            pass
    os.close(parent)
    assert process.returncode == 0
    return time.perf_counter() - start


def measure(bare: list[str], ours: list[str], count: int, *, tty: bool) -> dict[str, float]:
    """Medians of both, and of the ratio within each pair."""
    for command in (bare, ours):
        seconds(command, tty=tty)
    measured = [(seconds(bare, tty=tty), seconds(ours, tty=tty)) for _ in range(count)]
    return {
        "bare_seconds": round(statistics.median(their for their, _ in measured), 3),
        "tidegate_seconds": round(statistics.median(our for _, our in measured), 3),
        "ratio": round(statistics.median(our / their for their, our in measured), 3),
    }


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="interleaved pairs of each kind")
    count: int = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "bare.py")
        script.write_text(BARE)
        bare = [sys.executable, str(script), "--help"]
        ours = [str(Path(sys.executable).with_name("tidegate")), "--help"]
        plain, terminal = (measure(bare, ours, count, tty=tty) for tty in (False, True))
    worst = max(plain["ratio"], terminal["ratio"])
    document = {"kind": "bench", "name": "startup", "pairs": count, "plain": plain, "terminal": terminal}
    print(json.dumps({**document, "ratio": worst, "target": TARGET, "ok": worst <= TARGET}))
    sys.exit(worst > TARGET)


if __name__ == "__main__":
    main()
