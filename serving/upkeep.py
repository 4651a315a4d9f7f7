"""What keeps recorded predictions few in files, young and erasable: compaction, retention, and the erasure of a user.

All of it rewrites files while serving processes add others and monitors read, and may be killed anywhere. So a new file
is whole before the ones that it stands for go, and names them: a reader meets each record once whatever is left over.
Two at once would undo each other's work; a lease in the store keeps them apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.config import Config
from tidegate.core.errors import Conflict
from tidegate.core.store import Store
from tidegate.core.store.lease import Lease, leased
from tidegate.serving.service.records import utc, written_as
from tidegate.serving.telemetry import COMPACTED, HOUR, REPLACES, Predictions

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# An hour is compacted when its processes have flushed for certain, and files that were replaced stay as long: whoever
# has listed them may still be reading.
GRACE: Final = timedelta(minutes=10)
# Of one compacted file, uncompressed: what a reader of one row group at a time never notices, and a rewrite can afford.
MOST_BYTES: Final = 256_000_000
# Rows of one row group: DuckDB's own.
_GROUP: Final = 122_880
_WRITTEN: Final = b"tidegate.written"


@dataclass(frozen=True, slots=True)
class Kept:
    """What `maintain` did: files that became one, and files that were too old."""

    compacted: int = 0
    expired: int = 0


def maintain(store: Store, stream: str, config: Config, now: datetime) -> Kept:
    """Compact past hours and delete what is older than `serve.capture.retention`; for the schedule of the monitor.

    Nothing is done while somebody else does it.
    """
    with contextlib.suppress(_Busy), _alone(store, stream, wait=0.0) as lease:
        oldest = utc(now) - timedelta(seconds=config.serve.capture.retention)
        predictions = Predictions(store, stream)
        expired = _expire(predictions, oldest)
        return Kept(_compact(predictions, utc(now) - GRACE, utc(now), lease), expired)
    return Kept()


def compact(store: Store, stream: str, before: datetime, now: datetime | None = None) -> int:
    """Make one file of the many of each hour that ended before `before`; returns how many files became part of one.

    A large hour gets several files of at most `MOST_BYTES`; files of different columns or classes stay apart. What was
    replaced is deleted by a later call, `GRACE` later.
    """
    with _alone(store, stream) as lease:
        return _compact(Predictions(store, stream), utc(before), utc(now or datetime.now(UTC)), lease)


def expire(store: Store, stream: str, older_than: datetime) -> int:
    """Delete every hour that ended before `older_than`; returns how many files there were."""
    with _alone(store, stream):
        return _expire(Predictions(store, stream), utc(older_than))


@dataclass(frozen=True, slots=True)
class Erased:
    """How much of one user was there: predictions, their labels, and outcomes."""

    predictions: int
    labels: int
    outcomes: int


def erase(store: Store, stream: str, unit: int) -> Erased:
    """Delete all records of the user with this hash, the labels of their predictions, and their outcomes.

    After a kill in the middle the same call erases the rest: labels go before the predictions that lead to them.

    Raises:
        Conflict: somebody else is at work on these records.
    """
    predictions = Predictions(store, stream)
    with _alone(store, stream, wait=30.0) as lease:
        for files in predictions.hours().values():
            _delete(store, set(files) - set(predictions.live(files)))
        held = {file: found for file in _files(predictions) if (found := _of_unit(store, file, unit))}
        ids = {name for rows in held.values() for row in rows for name in (row["id"], row["id"].partition(".")[0])}
        callers = {row["caller"] for rows in held.values() for row in rows if row["caller"] is not None}
        user = _User(unit, ids, callers)
        labels = _erase_events(store, f"labels/{stream}", lease, user)
        outcomes = _erase_events(store, f"outcomes/{stream}", lease, user)
        for file in held:
            lease.keep()
            _rewrite(predictions, [file], lambda table: _without(table, unit))
            store.delete(file)
    return Erased(sum(map(len, held.values())), labels, outcomes)


class _Busy(Conflict):
    """Somebody else works on the records."""


def _alone(store: Store, stream: str, wait: float = 5.0) -> contextlib.AbstractContextManager[Lease]:
    def busy(holder: str) -> Conflict:
        return _Busy(f"The records of {stream} are being rewritten on {holder}.", "Run the same command in a minute.")

    return leased(store, f"telemetry-{stream}", wait, busy)


def _compact(predictions: Predictions, before: datetime, now: datetime, lease: Lease) -> int:
    store, joined = predictions.store, 0
    for hour, files in predictions.hours().items():
        if hour + HOUR > before or len(files) < 2:  # noqa: PLR2004 - one file is compact
            continue
        lease.keep()
        _delete(store, _replaced_long_ago(predictions, files, now))
        for group in _groups(store, predictions.live(files)):
            lease.keep()
            _rewrite(predictions, group, now=now)
            joined += len(group)
    return joined


def _expire(predictions: Predictions, oldest: datetime) -> int:
    gone = [file for hour, files in predictions.hours().items() if hour + HOUR <= oldest for file in files]
    # Compacted files go last: a reader must not meet the ones that they stand for alone.
    _delete(predictions.store, sorted(gone, key=lambda file: COMPACTED in file))
    return len(gone)


def _files(predictions: Predictions) -> list[str]:
    return [file for files in predictions.hours().values() for file in predictions.live(files)]


def _replaced_long_ago(predictions: Predictions, files: Sequence[str], now: datetime) -> set[str]:
    """Files of an hour that one written `GRACE` ago stands for."""
    gone: set[str] = set()
    for file in files:
        if COMPACTED not in file:
            continue
        with _open(predictions.store, file) as opened:
            written = opened.metadata.metadata.get(_WRITTEN, b"").decode()
        if written and datetime.fromisoformat(written) <= now - GRACE:
            names = set(predictions.replaces(file))
            gone |= {one for one in files if one.rsplit("/", 1)[1] in names}
    return gone


def _groups(store: Store, files: Sequence[str]) -> Iterator[list[str]]:
    """Files that become one, at least two at a time: of the same columns, and not too large together."""
    alike: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    for file in files:
        with _open(store, file) as opened:
            size = sum(opened.metadata.row_group(i).total_byte_size for i in range(opened.num_row_groups))
            alike.setdefault(_shape(opened.schema_arrow), []).append((file, size))
    for sized in alike.values():
        group: list[str] = []
        room = MOST_BYTES
        for file, size in sized:
            if group and size > room:
                if len(group) > 1:
                    yield group
                group, room = [], MOST_BYTES
            group.append(file)
            room -= size
        if len(group) > 1:
            yield group


def _shape(schema: pa.Schema) -> tuple[str, ...]:
    """What two files must share to become one: columns with types, and what the places of probabilities mean."""
    said = {name: value for name, value in (schema.metadata or {}).items() if name not in {REPLACES, _WRITTEN}}
    return (*(f"{field.name} {field.type}" for field in schema), *(f"{k!r} {said[k]!r}" for k in sorted(said)))


def _rewrite(
    predictions: Predictions,
    files: Sequence[str],
    change: Callable[[pa.Table], pa.Table] = lambda table: table,
    now: datetime | None = None,
) -> None:
    """Write one file that stands for `files`, with every table changed; none if no row is left."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = predictions.store
    names = {file.rsplit("/", 1)[1] for file in files}
    for file in files:
        names |= set(predictions.replaces(file)) if COMPACTED in file else set()
    with _open(store, files[0]) as first:
        schema = first.schema_arrow
    said = {REPLACES: json.dumps(sorted(names)).encode(), _WRITTEN: (now or datetime.now(UTC)).isoformat().encode()}
    schema = schema.with_metadata({**(schema.metadata or {}), **said})
    buffer, rows, waiting = io.BytesIO(), 0, []
    with pq.ParquetWriter(buffer, schema, **written_as(schema)) as writer:
        for table in _tables(store, files):
            waiting.append(change(table).cast(schema))
            rows += waiting[-1].num_rows
            if sum(one.num_rows for one in waiting) >= _GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    if rows:
        digest = hashlib.sha256(json.dumps(sorted(names)).encode() + str(rows).encode()).hexdigest()[:16]
        store.write(f"{files[0].rsplit('/', 1)[0]}/{COMPACTED}{digest}.parquet", buffer.getvalue())


def _tables(store: Store, files: Iterable[str]) -> Iterator[pa.Table]:
    """The row groups of the files, one at a time."""
    for file in files:
        with _open(store, file) as opened:
            for number in range(opened.num_row_groups):
                yield opened.read_row_group(number)


def _open(store: Store, file: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(store.location(file), filesystem=store.filesystem)


def _of_unit(store: Store, file: str, unit: int) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    columns = ["id", "caller", "unit"]
    place, filesystem = store.location(file), store.filesystem
    rows: list[dict[str, Any]] = pq.read_table(
        place, columns=columns, filters=[("unit", "=", unit)], filesystem=filesystem, partitioning=None
    ).to_pylist()
    return rows


def _without(table: pa.Table, unit: int) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.fill_null(pc.not_equal(table.column("unit"), unit), fill_value=True))


@dataclass(frozen=True, slots=True)
class _User:
    """What names one user's events: the hash, the ids of their predictions, and the caller's names of these."""

    unit: int
    ids: set[str]
    callers: set[str]

    def owns(self, by: str, key: str | None, unit: int | None) -> bool:
        """Whether an event is this user's."""
        return unit == self.unit or (by == "prediction" and key in self.ids) or (by == "caller" and key in self.callers)


def _erase_events(store: Store, folder: str, lease: Lease, user: _User) -> int:
    """Rewrite the label or outcome files that hold events of this user; returns how many rows went.

    The new file is there before the old one goes: an event that is met twice counts once anyway.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    gone = 0
    for file in store.list(folder):
        if not file.endswith(".parquet"):
            continue
        table = pq.read_table(store.location(file), filesystem=store.filesystem, partitioning=None)
        names = ("by", "key", "unit")
        cells = [
            table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows for name in names
        ]
        kept = [not user.owns(*event) for event in zip(*cells, strict=True)]
        if all(kept):
            continue
        lease.keep()
        left = table.filter(pa.array(kept))
        if left.num_rows:
            buffer = io.BytesIO()
            pq.write_table(left, buffer, compression="zstd")
            content = buffer.getvalue()
            store.write(f"{file.rsplit('/', 1)[0]}/{hashlib.sha256(content).hexdigest()[:16]}.parquet", content)
        store.delete(file)
        gone += table.num_rows - left.num_rows
    return gone


def _delete(store: Store, files: Iterable[str]) -> None:
    for file in files:
        store.delete(file)
