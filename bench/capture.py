"""What it costs to record every prediction: processor time a request, with and without.

Two processes of the same bundle (gradient boosting, 100 trees, 10 numbers), one of which records, are pressed in turns
by 32 connections from another processor, so that a slow minute of the machine slows both of a pair. Processor time is
the whole process's, the writing thread included, as the kernel counts it.

    python bench/capture.py [--seconds 2] [--pairs 10]

Goal: the median of the pairs' ratios is at most 1.10. The recorded rows are counted afterwards, and shown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import uvloop
from pressed import free_ports, make_bundle, press, wait_until_serving

CONNECTIONS = 32
# Seconds, as by default; every measurement waits for its rows to be written, so they are written more often than that.
FLUSH = 5.0
TARGET = 1.10


def start(bundle: Path, port: int, store: Path | None) -> subprocess.Popen[bytes]:
    """A serving process on processor 0; with a store it records there."""
    said = json.dumps({"store": str(store), "stream": "bench.local", "flush": FLUSH}) if store else ""
    command = ["taskset", "-c", "0", sys.executable, "-m", "tidegate.serving.service"]
    return subprocess.Popen(
        [*command, "--bundle", str(bundle), "--port", str(port)],
        env={**os.environ, "TIDEGATE_CAPTURE": said, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def cost(client: asyncio.Runner, process: psutil.Process, port: int, seconds: float) -> tuple[float, float, int]:
    """Microseconds of processor time a request, requests a second, and how many failed.

    A flush interval after the load all of it is written, so the time of that is counted too.
    """
    before = sum(process.cpu_times()[:2])
    took, failed = client.run(press(port, CONNECTIONS, seconds))
    time.sleep(FLUSH)
    spent = sum(process.cpu_times()[:2]) - before
    return 1e6 * spent / max(1, len(took)), len(took) / seconds, failed


def main() -> None:
    """Start both, press them in turns, stop, count, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--pairs", type=int, default=10, help="of measurements with and without")
    chosen = parser.parse_args()
    measured: dict[str, list[tuple[float, float, int]]] = {"off": [], "on": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle, _ = make_bundle(folder)
        ports = free_ports(list(measured))
        stores = {"off": None, "on": folder / "store"}
        processes = {name: start(bundle, ports[name], stores[name]) for name in measured}
        os.sched_setaffinity(0, {1})
        try:
            for name, process in processes.items():
                wait_until_serving(ports[name], process)
            client = asyncio.Runner(loop_factory=uvloop.new_event_loop)
            for turn in range(chosen.pairs + 1):
                # Whoever goes first meets another machine; the first turn only warms up.
                for name in sorted(measured, reverse=bool(turn % 2)):
                    found = cost(client, psutil.Process(processes[name].pid), ports[name], chosen.seconds)
                    if turn:
                        measured[name].append(found)
        finally:
            for process in processes.values():
                process.send_signal(signal.SIGTERM)
            for process in processes.values():
                process.wait(20)
        document = summary(measured, folder / "store")
    print(json.dumps(document))
    sys.exit(not document["ok"])


def summary(measured: dict[str, list[tuple[float, float, int]]], store: Path) -> dict[str, Any]:
    """The median ratio of pairs, and what both did."""
    import pyarrow.parquet as pq

    ratios = sorted(on[0] / off[0] for on, off in zip(measured["on"], measured["off"], strict=True))
    rows = sum(pq.read_metadata(file).num_rows for file in store.rglob("*.parquet"))
    ratio = statistics.median(ratios)
    servers = {
        name: {
            "cpu_us": round(statistics.median(one[0] for one in found), 1),
            "rps": round(statistics.median(one[1] for one in found)),
            "failed": sum(one[2] for one in found),
        }
        for name, found in measured.items()
    }
    size = sum(file.stat().st_size for file in store.rglob("*.parquet"))
    return {
        "kind": "bench",
        "name": "capture",
        "ratios": {"cpu_c32": round(ratio, 3), "rps_c32": round(servers["on"]["rps"] / servers["off"]["rps"], 3)},
        "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        "targets": {"cpu_c32": TARGET},
        "ok": ratio <= TARGET,
        "recorded": rows,
        "bytes_a_row": round(size / max(1, rows), 1),
        "servers": servers,
    }


if __name__ == "__main__":
    main()
