"""Labels and outcomes in the store: where they lie, how they get there once, how many small files become one.

`labels/<stream>/date=<day received>/<16 digits of the content's sha256>.parquet`, `outcomes/` likewise. The name is the
content, so an ingest that was killed and runs again writes the same file or none. A file is whole or absent (the
store's promise), so there is never half an ingest.

A compacted file names those it stands for, and a reader leaves these out. They are deleted ten minutes later, by a
later compaction: who listed the files before may still read them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tidegate.core.errors import Conflict
from tidegate.core.store import Store
from tidegate.core.store.lease import leased
from tidegate.serving.labels.rows import (
    Kind,
    Label,
    Line,
    Outcome,
    Rejected,
    checked,
    numbered,
    read_label,
    read_outcome,
)
from tidegate.serving.telemetry import salt_of, unit_hash

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

T = TypeVar("T")

COLUMNS: Final[Mapping[Kind, Mapping[str, str]]] = {
    "labels": {"by": "VARCHAR", "key": "VARCHAR", "label": "VARCHAR", "at": "TIMESTAMP", "received": "TIMESTAMP"},
    "outcomes": {
        "by": "VARCHAR",  # unit, prediction or caller
        "key": "VARCHAR",  # null for a unit
        "unit": "BIGINT",  # its keyed hash, as in telemetry
        "name": "VARCHAR",
        "value": "DOUBLE",
        "at": "TIMESTAMP",
        "received": "TIMESTAMP",
    },
}
_SAME: Final[Mapping[Kind, str]] = {
    "labels": '"by", key, label, "at"',
    "outcomes": '"by", key, unit, name, value, "at"',
}
"""What makes two rows the same statement, whenever each was received."""

_COMPACTED: Final = "compact-"
_REPLACES, _WRITTEN = b"tidegate.replaces", b"tidegate.written"
# A file of this many rows is read fast enough as it is.
_LARGE: Final = 100_000
# Rows that one compaction holds in memory, some 100 MB.
_AT_ONCE: Final = 1_000_000
_FEW: Final = 64
_GRACE: Final = timedelta(minutes=10)
_CHUNK: Final = 50_000
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of the lines: new ones, ones that say nothing new, and ones that cannot be used."""

    accepted: int
    duplicates: int
    rejected: tuple[Rejected, ...]
    file: str | None = None


def ingest_labels(store: Store, stream: str, rows: Iterable[Mapping[str, Any]], received: datetime) -> Ingested:
    """Keep labels `{id | prediction_id, label, at}`; the good rows are kept whatever the others are.

    Args:
        store: where.
        stream: of the model and environment.
        rows: the labels; `at` is an ISO 8601 time, seconds since 1970 or a datetime, and `received` if it is missing.
        received: now.
    """
    return ingest(store, stream, "labels", numbered(rows), received)


def ingest_outcomes(store: Store, stream: str, rows: Iterable[Mapping[str, Any]], received: datetime) -> Ingested:
    """Keep outcomes `{unit | id | prediction_id, name, value, at}`; a unit is kept as its keyed hash only."""
    return ingest(store, stream, "outcomes", numbered(rows), received)


def ingest(store: Store, stream: str, kind: Kind, lines: Iterable[Line], received: datetime) -> Ingested:
    """Keep the good ones of `lines`, in one file; what the store knows already is counted and not kept again.

    A label without a time is no news where the newest label that the store has for its prediction is the same.
    """
    import duckdb

    came, rejected = table_of(store, kind, lines, received)
    if not came.num_rows:
        return Ingested(0, 0, rejected)
    with duckdb.connect() as connection:
        connection.register("came", came)
        connection.execute(f"create temp table said as {_LAST_SAID[kind]}")
        keys = '"by", key' if kind == "labels" else '"by", key, unit, name'
        reading(store, kind, stream, connection, lambda stored: _keep_known(connection, stored, keys))
        fresh = connection.sql(_NEWS[kind]).to_arrow_table()
    file = put(store, stream, kind, fresh, received)
    accepted = fresh.num_rows if file else 0
    return Ingested(accepted, came.num_rows - accepted, rejected, file)


def table_of(
    store: Store, kind: Kind, lines: Iterable[Line], received: datetime
) -> tuple[pa.Table, tuple[Rejected, ...]]:
    """The good lines as a table with the columns of the store, `line`, and `given`: the time is the line's own."""
    import pyarrow as pa

    rejected: list[Rejected] = []
    rows: Iterator[tuple[Any, ...]]
    if kind == "labels":
        rows = (_label_row(line, row, received) for line, row in _good(checked(lines, read_label, received), rejected))
    else:
        salt = salt_of(store)
        rows = (_outcome_row(line, row, salt) for line, row in _good(checked(lines, read_outcome, received), rejected))
    schema = _schema(kind, received=False).append(pa.field("line", pa.int64())).append(pa.field("given", pa.bool_()))
    batches = []
    while chunk := list(islice(rows, _CHUNK)):
        columns = [pa.array(column, field.type) for column, field in zip(zip(*chunk, strict=True), schema, strict=True)]
        batches.append(pa.record_batch(columns, schema=schema))
    return pa.Table.from_batches(batches, schema), tuple(rejected)


def append(store: Store, stream: str, kind: Kind, tables: Sequence[pa.Table], received: datetime) -> None:
    """Keep what several callers of `table_of` have, in one file, without asking what the store knows already.

    A reader leaves out what was said twice; this is for many small posts, each of which waits for the answer.
    """
    import pyarrow as pa

    once = [table if table.num_rows == 1 else _last_said(kind, table) for table in tables]
    columns = [name for name in COLUMNS[kind] if name != "received"]
    put(
        store,
        stream,
        kind,
        pa.concat_tables([table.select(columns).cast(_schema(kind, received=False)) for table in once]),
        received,
    )


def _last_said(kind: Kind, came: pa.Table) -> pa.Table:
    """Without the lines that a later one of the same table replaces."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("came", came)
        table = connection.sql(_LAST_SAID[kind]).to_arrow_table()
    return table.select([name for name in came.column_names if name in table.column_names])


def put(store: Store, stream: str, kind: Kind, rows: pa.Table, received: datetime) -> str | None:
    """Write rows as one file of the day; its path, or None where there are none or the same file is there."""
    import pyarrow as pa

    rows = rows.select([name for name in COLUMNS[kind] if name != "received"])
    rows = rows.sort_by([(name, "ascending") for name in rows.column_names])
    if not rows.num_rows:
        return None
    path = f"{day_folder(kind, stream, received)}/{_content(rows)}.parquet"
    moment = pa.array([_naive(received)] * rows.num_rows, pa.timestamp("us"))
    return path if store.put_if_absent(path, _parquet(rows.append_column("received", moment))) else None


def folder(kind: Kind, stream: str) -> str:
    """Where all of a stream are."""
    return f"{kind}/{stream}"


def day_folder(kind: Kind, stream: str, received: datetime) -> str:
    """Where those received on a day are."""
    return f"{folder(kind, stream)}/date={received.astimezone(UTC):%Y-%m-%d}"


def files(store: Store, kind: Kind, stream: str) -> list[str]:
    """The store's paths of every file that counts."""
    names = [name for name in store.list(folder(kind, stream)) if name.endswith(".parquet")]
    replaced = {name for file in names if _is_compacted(file) for name in _replaced(file, metadata(store, file))}
    return [name for name in names if name not in replaced]


def reading(
    store: Store,
    kind: Kind,
    stream: str,
    connection: DuckDBPyConnection,
    use: Callable[[DuckDBPyRelation], T],
) -> T:
    """What `use` makes of all rows, at once; again where a file that was listed is gone when it is read.

    Args:
        store: where they are.
        kind: labels or outcomes.
        stream: of the model and environment.
        connection: where the relation lives.
        use: must run its query before it returns; it may run more than once.
    """
    import duckdb

    for attempt in range(_TRIES):
        try:
            return use(_relation(store, kind, files(store, kind, stream), connection))
        except (duckdb.IOException, FileNotFoundError):
            if attempt == _TRIES - 1:
                raise
    raise AssertionError  # the loop returns or raises


def compact(store: Store, kind: Kind, stream: str, now: datetime, few: int = _FEW) -> int:
    """Make one file of many small ones, day by day; safe beside readers and writers, and to kill.

    Nothing is done while a user is erased, whose rows it would bring back, or while another compaction runs.

    Args:
        store: where they are.
        kind: labels or outcomes.
        stream: of the model and environment.
        now: the time; a day that is over is compacted from two files on.
        few: so many small files may stay on the day of `now`.

    Returns:
        how many files are no longer read.
    """
    today = day_folder(kind, stream, now)
    with contextlib.suppress(Conflict), leased(store, f"telemetry-{stream}", 0.0, Conflict):
        days: dict[str, list[str]] = {}
        for name in store.list(folder(kind, stream)):
            days.setdefault(name.rsplit("/", 1)[0], []).append(name)
        limits = {day: few if day == today else 2 for day in days}
        return sum(_compact_day(store, kind, names, now=now, few=limits[day]) for day, names in days.items())
    return 0


def expire(store: Store, kind: Kind, stream: str, before: datetime) -> int:
    """Delete those of the days before the day of `before`; how many files that were."""
    first = day_folder(kind, stream, before)
    old = [name for name in store.list(folder(kind, stream)) if name.rsplit("/", 1)[0] < first]
    for name in old:
        store.delete(name)
    return len(old)


def maintain(store: Store, stream: str, now: datetime, retention: timedelta) -> None:
    """What has to be done now and then: compact, and forget what is older than the predictions that are kept."""
    for kind in COLUMNS:
        compact(store, kind, stream, now)
        expire(store, kind, stream, now - retention)


def _good(lines: Iterable[tuple[int, Any] | Rejected], rejected: list[Rejected]) -> Iterable[tuple[int, Any]]:
    """The rows; what is none goes to `rejected`."""
    for one in lines:
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            yield one


def _label_row(line: int, row: Label, received: datetime) -> tuple[Any, ...]:
    return row.by, row.key, row.label, _naive(row.at or received), line, row.at is not None


def _outcome_row(line: int, row: Outcome, salt: bytes) -> tuple[Any, ...]:
    key, unit = (None, unit_hash(salt, row.key)) if row.by == "unit" else (row.key, None)
    return row.by, key, unit, row.name, row.value, _naive(row.at), line, True


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _schema(kind: Kind, *, received: bool = True) -> pa.Schema:
    import pyarrow as pa

    types = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "TIMESTAMP": pa.timestamp("us")}
    return pa.schema([(name, types[type_]) for name, type_ in COLUMNS[kind].items() if received or name != "received"])


def _keep_known(connection: DuckDBPyConnection, stored: DuckDBPyRelation, keys: str) -> None:
    stored.create_view("stored", replace=True)
    same = " and ".join(f"stored.{key} is not distinct from said.{key}" for key in keys.split(", "))
    connection.execute(f"create or replace temp table known as select * from stored semi join said on {same}")


# Of two lines about the same thing at the same time, the later one is meant.
_LAST_SAID: Final[Mapping[Kind, str]] = {
    "labels": """select "by", key, "at", unnest(max({'line': line, 'label': label, 'given': given}))
        from came group by "by", key, "at" """,
    "outcomes": f"select {_SAME['outcomes']}, min(line) as line from came group by {_SAME['outcomes']}",
}
_NEWS: Final[Mapping[Kind, str]] = {
    "labels": """
        with newest as (
            select "by", key, max({'at': "at", 'received': received, 'label': label}).label as last
            from known group by "by", key
        ),
        same as (select distinct "by", key, label, "at", true as there from known)
        select said."by", said.key, said.label, said."at" from said
        left join newest on newest."by" = said."by" and newest.key = said.key
        left join same on same."by" = said."by" and same.key = said.key and same.label = said.label
            and same."at" = said."at"
        where case when given then same.there is null else newest.last is distinct from said.label end""",
    "outcomes": f"select {_SAME['outcomes']} from said except select {_SAME['outcomes']} from known",
}


def _relation(store: Store, kind: Kind, names: Sequence[str], connection: DuckDBPyConnection) -> DuckDBPyRelation:
    """Every row of the files."""
    if not names:
        columns = ", ".join(f'null::{type_} as "{name}"' for name, type_ in COLUMNS[kind].items())
        return connection.sql(f"select {columns} where false")
    attach(connection, store)
    return connection.read_parquet([store.location(name) for name in names], hive_partitioning=False)


def attach(connection: DuckDBPyConnection, store: Store) -> None:
    """Let a connection read the files of a store in a bucket."""
    files = store.filesystem
    if files is None:
        return
    protocol = files.protocol if isinstance(files.protocol, str) else files.protocol[0]
    if not connection.filesystem_is_registered(protocol):
        connection.register_filesystem(files)


def _compact_day(store: Store, kind: Kind, names: list[str], *, now: datetime, few: int) -> int:
    compacted = {name: metadata(store, name) for name in names if _is_compacted(name)}
    replaced = {one for name, about in compacted.items() for one in _replaced(name, about)}
    # The oldest first: one that was compacted again goes after those that it stands for.
    for name, about in sorted(compacted.items(), key=lambda item: item[1].get(_WRITTEN, b"")):
        if about.get(_WRITTEN, b"").decode() <= _stamp(now - _GRACE):
            for one in _replaced(name, about) & set(names):
                store.delete(one)
    live = [name for name in names if name not in replaced and name.endswith(".parquet")]
    small = [name for name in live if int(compacted.get(name, {}).get(b"rows", 0)) < _LARGE]
    return _merge(store, kind, small, now) if len(small) >= few else 0


def _merge(store: Store, kind: Kind, small: list[str], now: datetime) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    merged: list[str] = []
    tables: list[pa.Table] = []
    rows = 0
    for name in small:
        if rows > _AT_ONCE:
            break
        table = pq.read_table(io.BytesIO(store.read(name)), schema=_schema(kind))
        if table.num_rows < _LARGE:
            merged.append(name)
            tables.append(table)
            rows += table.num_rows
    if len(merged) < 2:  # noqa: PLR2004 - one file is as compact as it gets
        return 0
    together = _distinct(kind, pa.concat_tables(tables))
    names = [name.rsplit("/", 1)[1] for name in merged]
    about = {_REPLACES: json.dumps(names).encode(), _WRITTEN: _stamp(now).encode()}
    # The names belong to the content here: another compaction of other files may hold the same rows.
    digest = hashlib.sha256((_content(together) + "".join(names)).encode()).hexdigest()[:16]
    path = f"{small[0].rsplit('/', 1)[0]}/{_COMPACTED}{digest}.parquet"
    return len(merged) if store.put_if_absent(path, _parquet(together.replace_schema_metadata(about))) else 0


def _distinct(kind: Kind, rows: pa.Table) -> pa.Table:
    """Each statement once, as it was first received."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("compacted_rows", rows)
        same = _SAME[kind]
        query = f"select {same}, min(received) as received from compacted_rows group by {same} order by {same}"
        table = connection.sql(query).to_arrow_table()
    return table.select(list(COLUMNS[kind])).cast(_schema(kind))


def _is_compacted(path: str) -> bool:
    return path.rsplit("/", 1)[1].startswith(_COMPACTED)


def _replaced(path: str, about: Mapping[bytes, bytes]) -> set[str]:
    day = path.rsplit("/", 1)[0]
    return {f"{day}/{name}" for name in json.loads(about.get(_REPLACES, b"[]"))}


def metadata(store: Store, path: str) -> dict[bytes, bytes]:
    """What a file says about itself, and its number of `rows`; nothing where it is gone."""
    import pyarrow.parquet as pq

    try:
        found = pq.read_metadata(store.location(path), filesystem=store.filesystem)
    except FileNotFoundError:
        return {}
    return {**(found.metadata or {}), b"rows": str(found.num_rows).encode()}


def _content(rows: pa.Table) -> str:
    """16 digits that are the same for the same sorted rows."""
    digest = hashlib.sha256()
    for batch in rows.combine_chunks().to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()[:16]


def _parquet(rows: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
