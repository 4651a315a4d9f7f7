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
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.store import Store
from tidegate.serving.record_times import may_hold
from tidegate.serving.service.records import (
    CAPTURE,
    INPUT,
    PLACES,
    Hidden,
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

__all__ = [
    "INPUT",
    "Captured",
    "Hidden",
    "Predictions",
    "folder",
    "label_text",
    "salt_of",
    "unit_hash",
    "write_records",
]

COMPACTED: Final = "compact-"
"""What the name of a file begins with that stands for others."""
REPLACES: Final = b"tidegate.replaces"
HOUR: Final = timedelta(hours=1)
# From so many hours on, one listing of everything is quicker than one of each hour.
_MANY: Final = 24


@dataclass(frozen=True, slots=True)
class Captured:
    """What was hidden in records between two times, both of a record."""

    hidden: Hidden
    first: datetime
    last: datetime


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
        first = utc(since).replace(minute=0, second=0, microsecond=0)
        count = -(-(utc(until) - first) // HOUR)
        if count >= _MANY:
            hours = {hour: files for hour, files in self.hours().items() if first <= hour < utc(until)}
        else:
            hours = {
                hour: self.store.list(hour_folder(self.stream, hour))
                for hour in (first + number * HOUR for number in range(count))
            }
        since, until = utc(since), utc(until)
        live = (file for _, files in sorted(hours.items()) for file in self.live(files))
        return [file for file in live if may_hold(self.store, file, since, until)]

    def hours(self) -> dict[datetime, list[str]]:
        """Every file of the stream by its hour, those too that a compacted one stands for."""
        found: dict[datetime, list[str]] = {}
        for file in self.store.list(folder(self.stream)):
            if (hour := _hour_of(file)) is not None:
                found.setdefault(hour, []).append(file)
        return found

    def relation(
        self, connection: DuckDBPyConnection, since: datetime, until: datetime, columns: Sequence[str] | None = None
    ) -> DuckDBPyRelation:
        """Every record of [since, until) in a DuckDB relation; columns that a file lacks are null in its rows.

        With no file at all it is empty and has the fixed columns only. `columns` chooses some of them.
        """
        read = self._read(connection, self.files(since, until))
        found = read.filter(f'"at" >= {literal(since)} and "at" < {literal(until)}')
        return found if columns is None else found.project(", ".join(map(quoted, columns)))

    def captured(self, connection: DuckDBPyConnection, since: datetime, until: datetime) -> list[Captured]:
        """What was hidden in the records of [since, until), the earliest first; files that do not say are left out."""
        files = self.files(since, until)
        if not files:
            return []
        self._register(connection)
        listed = f"[{', '.join(text(self.store.location(file)) for file in files)}]"
        within = f'"at" >= {literal(since)} and "at" < {literal(until)}'
        # File names are quoted, times are ours.
        query = f"""
            select decode(m.value) as said, min(r.first) as first, max(r.last) as last
            from parquet_kv_metadata({listed}) m
            join (select filename, min("at") as first, max("at") as last
                  from read_parquet({listed}, filename = true, union_by_name = true, hive_partitioning = false)
                  where {within} group by filename) r on r.filename = m.file_name
            where decode(m.key) = '{CAPTURE}' group by said order by first, said"""  # noqa: S608
        return [
            Captured(Hidden.from_json(json.loads(said)), utc(first), utc(last))
            for said, first, last in connection.sql(query).fetchall()
        ]

    def find(self, prediction: str) -> dict[str, Any] | None:
        """The record of a prediction, newest first; of a request with several rows, asked without a row, the first.

        A day is read at a time, so that a long past costs time and no memory.
        """
        days: dict[date, list[str]] = {}
        for hour, files in sorted(self.hours().items(), reverse=True):
            days.setdefault(hour.date(), []).extend(self.live(files))
        if not days:
            return None
        import duckdb

        names = [prediction] if _is_row(prediction) else [prediction, f"{prediction}.0"]
        wanted = f"id in ({', '.join(map(text, names))})"
        with duckdb.connect() as connection:
            for files in days.values():
                found = self._read(connection, files).filter(wanted).order("id").limit(1)
                for row in found.fetchall():
                    return dict(zip(found.columns, row, strict=True))
        return None

    def counts(self) -> dict[str, int]:
        """How many predictions users got from each release, as long as records are kept."""
        files = [file for hour in self.hours().values() for file in self.live(hour)]
        if not files:
            return {}
        import duckdb

        with duckdb.connect() as connection:
            answered = self._read(connection, files).filter("status = 200 and arm <> 'shadow'")
            return dict(answered.aggregate("release, count(*)", "release").fetchall())

    def _read(self, connection: DuckDBPyConnection, files: Sequence[str]) -> DuckDBPyRelation:
        if not files:
            return connection.sql(_EMPTY)
        self._register(connection)
        places = [self.store.location(file) for file in files]
        return connection.read_parquet(places, union_by_name=True, hive_partitioning=False)

    def _register(self, connection: DuckDBPyConnection) -> None:
        filesystem = self.store.filesystem
        if filesystem is not None and not connection.filesystem_is_registered(_protocol(filesystem)):
            connection.register_filesystem(filesystem)

    def live(self, files: Iterable[str]) -> list[str]:
        """Without the files of the same hour that a compacted one stands for."""
        files = [file for file in files if file.endswith(".parquet")]
        replaced = {name for file in files if len(files) > 1 and _is_compacted(file) for name in self.replaces(file)}
        return [file for file in files if _name(file) not in replaced]

    def replaces(self, file: str) -> list[str]:
        """The names of the files that this one stands for."""
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(self.store.location(file), filesystem=self.store.filesystem).metadata
        except FileNotFoundError:
            return []
        names: list[str] = json.loads((metadata or {}).get(REPLACES, b"[]"))
        return names


def write_records(
    store: Store,
    stream: str,
    records: Sequence[Mapping[str, Any]],
    *,
    classes: Sequence[Any] | None,
    task: str,
    writer: str = "",
    hidden: Hidden | None = None,
) -> list[str]:
    """Write records that come from elsewhere than a serving process; returns the files' paths.

    Args:
        store: where.
        stream: of the model and environment.
        records: with the fields of `records.FIELDS`, and `input.<column>`; `at` is a datetime in UTC.
        classes: what the places of `probabilities` stand for.
        task: classification, regression or custom.
        writer: names the files; random by default.
        hidden: columns that are left out or hashed, if anybody knows.
    """
    import pyarrow as pa

    hours: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        hours.setdefault(hour_folder(stream, record["at"]), []).append(record)
    written = []
    for number, (where, rows) in enumerate(sorted(hours.items())):
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema_of(rows, classes, task, hidden))
        path = f"{where}/{writer or secrets.token_hex(6)}-{number}.parquet"
        store.write(path, to_parquet(table))
        written.append(path)
    return written


def _hour_of(file: str) -> datetime | None:
    """The hour of a record file by its path, None for any other file."""
    parts = dict(part.partition("=")[::2] for part in file.split("/") if "=" in part)
    try:
        return datetime.strptime(f"{parts['date']} {parts['hour']}", "%Y-%m-%d %H").replace(tzinfo=UTC)
    except (KeyError, ValueError):
        return None


def _name(file: str) -> str:
    return file.rsplit("/", 1)[1]


def _is_compacted(file: str) -> bool:
    return _name(file).startswith(COMPACTED)


def _is_row(prediction: str) -> bool:
    """Whether it is `<id>.<k>`."""
    return prediction.rpartition(".")[2].isdigit() and "." in prediction


def _protocol(filesystem: Any) -> str:
    protocol = filesystem.protocol
    return str(protocol if isinstance(protocol, str) else protocol[0])


def quoted(column: str) -> str:
    """A column's name as SQL, whatever is in it."""
    return '"' + column.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def literal(moment: datetime) -> str:
    """A time as SQL; one without a zone is in UTC."""
    return f"timestamp '{utc(moment):%Y-%m-%d %H:%M:%S.%f}'"


_NOTHING = ", ".join(f'null::{kind} as "{name}"' for name, kind in PLACES.items())
_EMPTY = f"select {_NOTHING} where false"
