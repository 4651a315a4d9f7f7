"""What a verdict on a window costs in seconds and memory: exact statistics, Evidently's report, all by Evidently.

    1,000,000 recorded predictions x 20 columns: a verdict in <= 15 s and <= 0.5 GB, Evidently's report in <= 45 s and
    <= 1 GB; 10,000,000 rows: a verdict in <= 1.5 GB

Each part runs in a process of its own, imports included, which says its own time and its largest memory. Evidently on
everything is measured on fewer rows, since it would take minutes and gigabytes, beside our verdict on the same rows.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.core.config_live import Monitor
from tidegate.core.store import open_store
from tidegate.monitors import reference
from tidegate.monitors.drift import Known, compare
from tidegate.monitors.report import Sides, make
from tidegate.monitors.tables import Table, connection
from tidegate.serving.service.records import PLACES
from tidegate.serving.telemetry import INPUT, Predictions, hour_folder

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
STREAM = "bench.local"
NUMERIC, CATEGORICAL = 10, 10
FILES = 60
LIMITS = {
    "verdict_seconds": 15.0,
    "verdict_gb": 0.5,
    "report_seconds": 45.0,
    "report_gb": 1.0,
    "large_verdict_gb": 1.5,
}


def inputs(random: np.random.Generator, rows: int, shift: float = 0.0) -> dict[str, pa.Array]:
    """Ten numeric columns, heavy tails among them, and ten categorical ones, two of a thousand values."""
    columns = {}
    for i in range(NUMERIC):
        values = random.standard_t(2, rows) if i % 3 == 1 else random.standard_normal(rows)
        columns[f"{INPUT}n{i}"] = pa.array(np.exp(values + shift) if i % 3 == 2 else values + shift)
    for i in range(CATEGORICAL):
        names = pa.array([f"category {k}" for k in range(1000 if i < 2 else 5 * i + 2)])
        codes = np.minimum(random.zipf(1.3, rows) - 1, len(names) - 1).astype(np.int32)
        columns[f"{INPUT}c{i}"] = pa.DictionaryArray.from_arrays(pa.array(codes), names).cast(pa.string())
    return columns


def write_reference(folder: Path, rows: int) -> str:
    """A reference in the store, as `ship` makes it."""
    random = np.random.default_rng(1)
    score = pa.array(random.uniform(size=rows).astype(np.float32))
    table = pa.table(
        {
            "part": pa.array(["train"] * (rows - rows // 5) + ["holdout"] * (rows // 5)),
            **inputs(random, rows),
            "label": pa.array(["up"] * rows),
            "value": pa.nulls(rows, pa.float64()),
            "score": score,
        }
    )
    path = folder / "made.parquet"
    pq.write_table(table, path, compression="zstd")
    kinds: Any = {name.removeprefix(INPUT): _kind(name) for name in table.column_names if name.startswith(INPUT)}
    columns, predictions = reference.of_release(path, kinds, {}, ordered=True)
    made = reference.Reference(columns, predictions, ordered=True)
    name = reference.save(open_store(str(folder)), path, made)
    path.unlink()
    return name


def _kind(name: str) -> str:
    return "number" if name.startswith(f"{INPUT}n") else "string"


def write_window(folder: Path, rows: int) -> None:
    """An hour of recorded predictions, in as many files as a minute's flush would make."""
    target = folder / hour_folder(STREAM, NOON)
    target.mkdir(parents=True)
    kinds = {"TIMESTAMP": pa.timestamp("us"), "VARCHAR": pa.string(), "SMALLINT": pa.int16(), "FLOAT": pa.float32()}
    for number in range(FILES):
        random, count = np.random.default_rng(100 + number), rows // FILES
        at = NOON.replace(tzinfo=None) + timedelta(minutes=number * 60 / FILES)
        columns: dict[str, Any] = {
            "id": pa.array([f"{number}-{i}" for i in range(count)]),
            "at": pa.array(np.full(count, at, dtype="datetime64[us]")),
            "arm": pa.array(["stable"] * count),
            "release": pa.array(["r-0000000000"] * count),
            "status": pa.array(np.full(count, 200, dtype=np.int16)),
            "label": pa.array(["up"] * count),
            "score": pa.array(random.uniform(size=count).astype(np.float32)),
            **inputs(random, count, shift=0.3),
        }
        for name, kind in PLACES.items():
            columns.setdefault(name, pa.nulls(count, kinds.get(kind, pa.float64())))
        pq.write_table(pa.table(columns), target / f"w-{number}.parquet", compression="zstd")


def _sides(opened: Any, folder: Path, name: str) -> tuple[Known, Table, Table]:
    store = open_store(str(folder))
    _, known = reference.opened(store, name, opened)
    rows = Predictions(store, STREAM).relation(opened, NOON, NOON + HOUR).filter('"status" = 200')
    return known, Table(opened, rows, INPUT), Table(opened, rows)


def verdict(folder: Path, name: str) -> dict[str, Any]:
    """The verdict on the window."""
    with connection() as opened:
        known, window, answers = _sides(opened, folder, name)
        compared = compare(known, window, answers, Monitor())
    return {"rows": compared.rows, "outcome": compared.outcome, "drifted": sum(c.drifted for c in compared.columns)}


def report(folder: Path, name: str) -> dict[str, Any]:
    """The verdict and Evidently's report of it."""
    with connection() as opened:
        known, window, answers = _sides(opened, folder, name)
        compared = compare(known, window, answers, Monitor())
        started = time.perf_counter()
        made = make(Sides(known, window, answers), compared, Monitor().drift, "bench 12:00")
    # Of both: a child begins with the peak of its parent, which is small here.
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    took = round(time.perf_counter() - started, 1)
    return {"report_seconds": took, "child_gb": round(child, 3), "html": len(made.html)}


def by_evidently(folder: Path, name: str) -> dict[str, Any]:
    """The same distances by Evidently on every row, strings as categories, which spares it a hundred times as much."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    names = [f"n{i}" for i in range(NUMERIC)] + [f"c{i}" for i in range(CATEGORICAL)]
    with connection() as opened:
        known, window, _ = _sides(opened, folder, name)
        frames = []
        for table in (known.inputs.table, window):
            frame = table.relation.project(", ".join(f"{table.quoted(one)} as {one}" for one in names)).df()
            frames.append(frame.astype({one: "category" for one in names if one.startswith("c")}))
    defined = DataDefinition(numerical_columns=names[:NUMERIC], categorical_columns=names[NUMERIC:])
    past, now = (Dataset.from_pandas(frame, data_definition=defined) for frame in frames)
    drifts = [
        ValueDrift(column=one, method="wasserstein" if one[0] == "n" else "jensenshannon", threshold=0.1)
        for one in names
    ]
    return {"metrics": len(Report(drifts).run(now, past).dict()["metrics"])}


PARTS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "verdict": verdict,
    "report": report,
    "by_evidently": by_evidently,
}


def peak() -> float:
    """Gigabytes that this process had at most; `getrusage` would count what its parent had before it began."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def measured(part: str, folder: Path, name: str) -> dict[str, Any]:
    """Run a part in a process of its own; seconds with imports, and gigabytes."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--part", part, str(folder), name], capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    return {**json.loads(done.stdout), "seconds": round(time.perf_counter() - started, 1)}


def of_size(reference_rows: int, rows: int, parts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Measure parts on a window of so many rows."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        name = write_reference(folder, reference_rows)
        write_window(folder, rows)
        return {part: measured(part, folder, name) for part in parts}


def main() -> int:
    """Measure, print one line of JSON, and say by the exit code whether every limit was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=10_000_000, help="0: leave it out")
    parser.add_argument("--small", type=int, default=100_000, help="rows for Evidently on everything; 0: leave it out")
    given = parser.parse_args()
    if given.part:
        part, folder, name = given.part
        found = PARTS[part](Path(folder), name)
        print(json.dumps({**found, "gb": round(peak(), 3)}))
        return 0
    usual = of_size(given.rows, given.rows, ("verdict", "report"))
    document: dict[str, Any] = {
        "bench": "drift",
        "rows": given.rows,
        "verdict_seconds": usual["verdict"]["seconds"],
        "verdict_gb": usual["verdict"]["gb"],
        "report_seconds": usual["report"]["report_seconds"],
        "report_gb": max(usual["report"]["child_gb"], usual["report"]["gb"]),
    }
    if given.small:
        small = of_size(given.small, given.small, ("verdict", "by_evidently"))
        document["evidently_on_all"] = {
            "rows": given.small,
            "times_our_seconds": round(small["by_evidently"]["seconds"] / small["verdict"]["seconds"], 1),
            "times_our_memory": round(small["by_evidently"]["gb"] / small["verdict"]["gb"], 1),
        }
    if given.large:
        large = of_size(given.rows, given.large, ("verdict",))["verdict"]
        document |= {
            "large_rows": given.large,
            "large_verdict_seconds": large["seconds"],
            "large_verdict_gb": large["gb"],
        }
    kept = {name: document[name] <= limit for name, limit in LIMITS.items() if name in document}
    print(json.dumps({**document, "limits": LIMITS, "ok": all(kept.values())}))
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
