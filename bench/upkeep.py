"""What it costs to find one of 1,000,000 recorded predictions, to compact them, and to erase a user.

One hour of predictions with 20 columns as a serving process leaves them (720 files, one each five seconds), with a
label each, in twelve files. Each part runs in a process of its own, which says its seconds, how many of them the
processor worked, and its peak memory, imports included. A user has 20 predictions, all over the hour.

    python bench/upkeep.py [--rows 1000000]

Goals, in seconds of the processor: finding 5, compacting 20, erasing 20, each in 1 GB at most. Of these the clock takes
about as many on a machine that does nothing else.
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
from typing import Any

STREAM = "demand.local"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FILES, LABEL_FILES, COLUMNS, EACH = 720, 12, 20, 20
GOALS = {"find": 5.0, "compact": 20.0, "erase": 20.0}
GIGABYTE = 1024.0


def main() -> int:
    """Write the store, let every part run in turn; one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--part", choices=PARTS, help="only this part, in the store of --store")
    parser.add_argument("--store")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measured(PARTS[options.part], options.store, options.rows)))
        return 0
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write(folder, options.rows)
        for part in PARTS:
            command = [sys.executable, __file__, "--part", part, "--store", folder, "--rows", str(options.rows)]
            found[part] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    passed = all(
        one["cpu_seconds"] <= GOALS[part.partition("_")[0]] and one["memory_mb"] <= GIGABYTE
        for part, one in found.items()
    )
    print(json.dumps({"bench": "upkeep", "rows": options.rows, "goals": GOALS, **found, "ok": passed}))
    return 0 if passed else 1


def write(folder: str, rows: int) -> None:
    """An hour of predictions and their labels."""
    import duckdb

    from tidegate.core.store import open_store
    from tidegate.serving.labels import stored
    from tidegate.serving.service.records import hour_folder, metadata_of, to_parquet

    store = open_store(folder)
    inputs = ", ".join(f'(hash(i + {k}) % 1000 / 7.0)::double as "input.x{k}"' for k in range(COLUMNS))
    with duckdb.connect() as connection:
        for number in range(FILES):
            table = connection.sql(f"""
                select md5(i::varchar)::uuid::varchar as id,
                    timestamp '2026-11-25 12:00' + to_microseconds(i * 3600000000 // {rows}) as "at",
                    i % {rows // EACH} as unit, null::varchar as caller, 'stable' as arm, 'r-1' as release,
                    1::integer as version, 200::smallint as status, 0.003::float as seconds,
                    (i % 2)::varchar as label, null::double as value, [0.4, 0.6]::float[] as probabilities,
                    0.6::float as score, null::varchar as response, {inputs}
                from range({number * rows // FILES}, {(number + 1) * rows // FILES}) t(i)""").to_arrow_table()  # noqa: S608 - our own numbers
            table = table.replace_schema_metadata(metadata_of([0, 1], "classification"))
            store.write(f"{hour_folder(STREAM, NOON)}/w-{number:06d}.parquet", to_parquet(table))
        for number in range(LABEL_FILES):
            first, last = number * rows // LABEL_FILES, (number + 1) * rows // LABEL_FILES
            labels = connection.sql(f"""
                select 'prediction' as "by", md5(i::varchar)::uuid::varchar as key, (i % 3)::varchar as label,
                    timestamp '2026-11-25 13:00' as "at"
                from range({first}, {last}) t(i)""").to_arrow_table()  # noqa: S608 - our own numbers
            stored.put(store, STREAM, "labels", labels, NOON + HOUR + timedelta(minutes=number))


def measured(part: Callable[[str, int], Any], folder: str, rows: int) -> dict[str, Any]:
    """Seconds, seconds of the processor, and megabytes of a part, and what it says."""
    start = time.perf_counter()
    told = part(folder, rows)
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "did": told,
    }


def find(folder: str, rows: int) -> int:
    """One prediction from the middle of the hour, as `tidegate why` looks for it."""
    import hashlib
    import uuid

    from tidegate.core.store import open_store
    from tidegate.serving.telemetry import Predictions

    name = str(uuid.UUID(hashlib.md5(str(rows // 2).encode(), usedforsecurity=False).hexdigest()))
    found = Predictions(open_store(folder), STREAM).find(name)
    assert found is not None
    assert found["unit"] == rows // 2 % (rows // EACH)
    return 1


def compact(folder: str, _rows: int) -> int:
    """The whole hour."""
    from tidegate.core.store import open_store
    from tidegate.serving import upkeep

    joined = upkeep.compact(open_store(folder), STREAM, NOON + HOUR, NOON + 3 * HOUR)
    assert joined == FILES, joined
    return joined


def erase(folder: str, _rows: int, unit: int = 3) -> list[int]:
    """One user, predictions and labels."""
    from tidegate.core.store import open_store
    from tidegate.serving import upkeep

    gone = upkeep.erase(open_store(folder), STREAM, unit)
    assert (gone.predictions, gone.labels) == (EACH, EACH), gone
    return [gone.predictions, gone.labels]


def erase_compacted(folder: str, rows: int) -> list[int]:
    """Another user, when there are few large files."""
    return erase(folder, rows, unit=4)


PARTS: dict[str, Callable[[str, int], Any]] = {
    "find": find,
    "erase": erase,
    "compact": compact,
    "find_compacted": find,
    "erase_compacted": erase_compacted,
}


if __name__ == "__main__":
    sys.exit(main())
