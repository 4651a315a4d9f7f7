"""How long it takes to give 1,000,000 predictions their truth out of 1,000,000 labels, and in how much memory.

Half of the labels name the prediction, half the caller's id; every tenth of those ids was sent twice (a retry), 5 % of
the labels correct another one, 1 % name nobody. The join, and the quality of the window, run in processes of their own,
so that their peak memory is their own. Goals: the join and a count of the truths in at most 30 s; the quality, join and
imports included, in at most 15 s of the processor (DuckDB works on two at once, so the clock says less).

    python bench/labels.py [--rows 1000000]
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

STREAM = "demand.local"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
GOAL = 30.0
QUALITY_GOAL = 15.0


def main() -> int:
    """Write, ingest, join; one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--store", help="only look at what is there")
    parser.add_argument("--part", choices=PARTS, default="join")
    options = parser.parse_args()
    if options.store:
        print(json.dumps(PARTS[options.part](options.store)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_predictions(folder, options.rows)
        write_labels(folder, options.rows)
        seconds = ingest(folder)
        command = [sys.executable, __file__, "--store", folder, "--part"]
        found, good = (
            json.loads(subprocess.run([*command, part], check=True, capture_output=True, text=True).stdout)
            for part in PARTS
        )
    # Every label of somebody, but for those that a correction or a second use of the name took the place of.
    assert options.rows * 0.9 < found["labelled"] <= options.rows, found
    passed = found["seconds"] <= GOAL and good["cpu_seconds"] <= QUALITY_GOAL
    about = {"bench": "labels", "rows": options.rows, "goal": GOAL, "quality_goal": QUALITY_GOAL, "ingest": seconds}
    print(json.dumps({**about, **found, "quality": good, "ok": passed}))
    return 0 if passed else 1


def write_predictions(folder: str, rows: int) -> None:
    """One hour of them in twelve files, as a serving process would have left them."""
    import duckdb

    where = Path(folder) / f"telemetry/model={STREAM}/date=2026-11-25/hour=12"
    where.mkdir(parents=True)
    with duckdb.connect() as connection:
        for number in range(12):
            connection.execute(f"""
                copy (select md5(i::varchar)::uuid::varchar as id,
                    timestamp '2026-11-25 12:00' + to_microseconds(i * 3600000000 // {rows})
                    as "at", i % 50000 as unit, 'order-' || (i + (i % 20 = 0)::integer) as caller, 'stable' as arm,
                    'r-1' as release, 1::integer as version, 200::smallint as status, 0.003::float as seconds,
                    (i % 2)::varchar as label, null::double as value, [0.4, 0.6]::float[] as probabilities,
                    0.6::float as score, null::varchar as response
                from range({number * rows // 12}, {(number + 1) * rows // 12}) t(i))
                to '{where}/w-{number}.parquet' (format parquet, compression zstd)""")  # noqa: S608 - our own numbers


def write_labels(folder: str, rows: int) -> None:
    """A CSV as a warehouse would give it, in an order of its own."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"""
            copy (select case when i % 2 = 0 then md5((i + gone)::varchar)::uuid::varchar end as prediction_id,
                case when i % 2 = 1 then 'order-' || (i + gone) end as id, (i % 3 = 0)::integer as label,
                timestamp '2026-11-25 13:00' + to_seconds(newer) as "at"
            from (select case when i % 20 = 3 then i - 2 else i end as i, (i % 20 = 3)::integer * 60 as newer,
                case when i % 100 = 0 then {10 * rows} else 0 end as gone, hash(i) as shuffled
                from range({rows}) t(i)) order by shuffled)
            to '{folder}/labels.csv' (header)""")  # noqa: S608 - our own numbers


def ingest(folder: str) -> float:
    """Seconds until the file of labels is in the store."""
    from tidegate.core.store import open_store
    from tidegate.serving.labels.files import open_lines
    from tidegate.serving.labels.stored import ingest as keep

    start = time.perf_counter()
    lines = open_lines(Path(folder) / "labels.csv", "labels")
    done = keep(open_store(folder), STREAM, "labels", lines, NOON + 3 * HOUR)
    assert not done.rejected
    return round(time.perf_counter() - start, 2)


def join(folder: str) -> dict[str, float]:
    """Seconds and memory of the join of the hour."""
    import duckdb

    from tidegate.core.store import open_store
    from tidegate.serving.labels import joined

    start = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute("set threads = 2")
        rows = joined(connection, open_store(folder), STREAM, NOON, NOON + HOUR)
        ((predictions, labelled, ambiguous, right),) = rows.aggregate(
            "count(*), count(truth), count_if(ambiguous), count_if(truth = label)"
        ).fetchall()
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "predictions": predictions,
        "labelled": labelled,
        "ambiguous": ambiguous,
        "right": right,
    }


def quality(folder: str) -> dict[str, float]:
    """Seconds and memory of the accuracy of the hour, with its interval."""
    from tidegate.core.store import open_store
    from tidegate.monitors.quality import window_quality
    from tidegate.monitors.tables import connection

    start, about = time.perf_counter(), {"metric": "accuracy", "tolerance": 0.05, "maturity": 0.0, "references": {}}
    with connection() as opened:
        found = window_quality(opened, open_store(folder), STREAM, NOON, NOON + HOUR, **about, now=NOON + 9 * HOUR)
    assert found.versions[0].value is not None
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "labelled": found.versions[0].labelled,
        "accuracy": round(found.versions[0].value, 4),
    }


PARTS: dict[str, Callable[[str], dict[str, float]]] = {"join": join, "quality": quality}


if __name__ == "__main__":
    sys.exit(main())
