"""Recorded predictions in the store: where they lie, what a record holds, how they are read.

One Parquet file holds what one process answered in one flush interval and one hour:
`telemetry/model=<stream>/date=YYYY-MM-DD/hour=HH/<writer>-<n>.parquet`. The hour is that of the records' `at`, in UTC.
A compacted file names those it stands for, and a reader leaves these out: whoever is killed between writing the one
and deleting the others loses nothing and doubles nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.store import Store
from tidegate.serving.service.records import (
    INPUT,
    PLACES,
    folder,
    hour_folder,
    label_text,
    salt_of,
    schema_of,
    to_parquet,
    unit_hash,
    utc,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

__all__ = ["INPUT", "Predictions", "folder", "label_text", "salt_of", "unit_hash", "write_records"]

COMPACTED: Final = "compact-"
"""What the name of a file begins with that stands for others."""
_REPLACES: Final = b"tidegate.replaces"


class Predictions:
    """The records of one stream.

    Args:
        store: where they are.
        stream: the model and the environment, `demand.local`.
    """

    def __init__(self, store: Store, stream: str) -> None:
        self.store, self.stream = store, stream

    def files(self, since: datetime, until: datetime) -> list[str]:
        """The store's paths of every file that may hold records of [since, until), each record in one of them only."""
        found = []
        hour = utc(since).replace(minute=0, second=0, microsecond=0)
        while hour < utc(until):
            found += self._live(self.store.list(hour_folder(self.stream, hour)))
            hour += timedelta(hours=1)
        return found

    def relation(self, connection: DuckDBPyConnection, since: datetime, until: datetime) -> DuckDBPyRelation:
        """Every record of [since, until) in a DuckDB relation; columns that a file lacks are null in its rows.

        With no file at all it is empty and has the fixed columns only.
        """
        files = self.files(since, until)
        if not files:
            return connection.sql(_EMPTY)
        if self.store.filesystem is not None:
            connection.register_filesystem(self.store.filesystem)
        read = connection.read_parquet(
            [self.store.location(file) for file in files], union_by_name=True, hive_partitioning=False
        )
        return read.filter(f'"at" >= {_literal(since)} and "at" < {_literal(until)}')

    def _live(self, files: Iterable[str]) -> list[str]:
        """Without the files that a compacted one stands for."""
        files = [file for file in files if file.endswith(".parquet")]
        replaced: set[str] = set()
        for file in files:
            if file.rsplit("/", 1)[1].startswith(COMPACTED):
                replaced |= self._replaces(file)
        return [file for file in files if file.rsplit("/", 1)[1] not in replaced]

    def _replaces(self, file: str) -> set[str]:
        import io

        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(io.BytesIO(self.store.read(file))).metadata or {}
        except FileNotFoundError:
            return set()
        return set(json.loads(metadata.get(_REPLACES, b"[]")))


def write_records(
    store: Store,
    stream: str,
    records: Sequence[Mapping[str, Any]],
    *,
    classes: Sequence[Any] | None,
    task: str,
    writer: str = "",
) -> list[str]:
    """Write records that come from elsewhere than a serving process; returns the files' paths.

    Args:
        store: where.
        stream: of the model and environment.
        records: with the fields of `records.FIELDS`, and `input.<column>`; `at` is a datetime in UTC.
        classes: what the places of `probabilities` stand for.
        task: classification, regression or custom.
        writer: names the files; random by default.
    """
    import pyarrow as pa

    hours: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        hours.setdefault(hour_folder(stream, record["at"]), []).append(record)
    written = []
    for number, (where, rows) in enumerate(sorted(hours.items())):
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema_of(rows, classes, task))
        path = f"{where}/{writer or secrets.token_hex(6)}-{number}.parquet"
        store.write(path, to_parquet(table))
        written.append(path)
    return written


def _literal(moment: datetime) -> str:
    return f"timestamp '{utc(moment):%Y-%m-%d %H:%M:%S.%f}'"


_NOTHING = ", ".join(f'null::{kind} as "{name}"' for name, kind in PLACES.items())
_EMPTY = f"select {_NOTHING} where false"
