"""Records every prediction without making one wait: a bounded queue, and a thread that writes Parquet to the store.

What a request costs is one append to a queue. The thread turns it into Arrow columns in small pieces, because it holds
the interpreter while it does, and writes one file in each flush interval. What does not fit is dropped and counted; a
store that cannot be reached is tried again, and no prediction ever fails or waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from tidegate.core.errors import TidegateError
from tidegate.core.store import Store, open_store
from tidegate.serving.service.manifest import Manifest
from tidegate.serving.service.recording import Recorder, Request, check_columns
from tidegate.serving.service.records import hour_folder, salt_of, to_parquet

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger("tidegate.serving")

# Rows that wait to become columns: four seconds of the most that one process answers.
MOST_WAITING = 50_000
# Rows that become columns at once. Fewer would wake the thread more often, which costs more than the work does; each
# step of it holds the interpreter for a fraction of a millisecond.
CHUNK = 2000
# A file is written before its interval is over when its columns have so many bytes, which bounds the memory for them.
MOST_COLUMNS = 32_000_000
# Written files that wait for a store that cannot be reached; the oldest are given up first.
MOST_BYTES = 64_000_000
# Share of the flush interval after which writing begins, so that it is over within the interval.
_EARLY = 0.8
_HURRY = 0.2
# Where a request has its rows.
_ROWS: Final = 7


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the environment variable TIDEGATE_CAPTURE says, as JSON.

    Attributes:
        store: address of the store.
        stream: model and environment, `demand.local`.
        unit_header: the header that names the user.
        id: the header, or else the field of a row, that names it in the caller's words.
        flush: seconds that a crash may lose.
        exclude: request columns that are never written.
        hash: request columns of which only a keyed hash is written.
    """

    store: str
    stream: str
    unit_header: str = "x-user-id"
    id: str | None = None
    flush: float = 5.0
    exclude: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()


def parse(text: str) -> Settings | None:
    """The settings that `text` holds; None where there is none.

    Raises:
        TidegateError: it is no JSON of ours.
    """
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Settings)
    except msgspec.DecodeError as error:
        message = f"TIDEGATE_CAPTURE is not understood: {error}"
        raise TidegateError(message, "`tidegate up` sets it; unset it to record nothing.") from error


@dataclass(slots=True)
class Counts:
    """What `/metrics` tells, in rows but for `errors`; each field is changed by one thread only."""

    taken: int = 0
    overflown: int = 0
    begun: int = 0
    lost: int = 0
    written: int = 0
    errors: int = 0

    @property
    def waiting(self) -> int:
        """Rows that are no columns yet."""
        return self.taken - self.begun

    @property
    def dropped(self) -> int:
        """Rows that will never be written."""
        return self.overflown + self.lost


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    content: bytes
    rows: int


class Capture:
    """Takes answered requests from the event loop and writes them from a thread of its own.

    Args:
        settings: where to, how often, what of it.
        manifest: of the model that answers.
        release: the release's id.
    """

    def __init__(self, settings: Settings, manifest: Manifest, release: str = "") -> None:
        _import_pyarrow()
        names = [column.name for column in manifest.columns]
        self.counts = Counts()
        self.unit_header = settings.unit_header.lower().encode()
        self.id_header = (settings.id or "").lower().encode()
        # A field of the row's own, for a name that the model does not learn from.
        self.id_field = settings.id if settings.id and settings.id not in names else ""
        self._settings, self._manifest, self._release = settings, manifest, release or manifest.release
        self._exclude = _left_out(settings, names)
        self._period = settings.flush * _EARLY
        self._due = time.monotonic() + self._period
        self._writer, self._number = secrets.token_hex(6), 0
        self._queue: deque[Request] = deque()
        self._batches: list[pa.RecordBatch] = []
        self._files: deque[_File] = deque()
        self._store: Store | None = None
        self._salt = b""
        self._recorder: Recorder | None = None
        self._complaint = ""
        self._wake, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="tidegate-capture", daemon=True)
        self._thread.start()

    def add(self, request: Request) -> None:
        """Keep one request, or count it as dropped; for the event loop alone."""
        counts, rows = self.counts, len(request[_ROWS])
        if counts.taken - counts.begun + rows > MOST_WAITING:
            counts.overflown += rows
            return
        counts.taken += rows
        self._queue.append(request)
        # Without the store's secret there is nothing to do yet but to wait for the next attempt.
        if counts.taken - counts.begun >= CHUNK and self._recorder is not None and not self._wake.is_set():
            self._wake.set()

    def hurry(self) -> None:
        """Write what was taken now, and from now on as soon as it comes: the process is about to end."""
        self._period = min(self._period, _HURRY)
        self._due = 0.0
        self._wake.set()

    def close(self, patience: float) -> None:
        """Write what was taken and end; what `patience` seconds are too short for is lost, and said."""
        self._closing = True
        self._wake.set()
        self._thread.join(patience)
        left = self.counts.taken - self.counts.written - self.counts.lost
        if left:
            logger.error("%d recorded rows were lost: the store could not take them in time", left)

    def _run(self) -> None:
        while True:
            self._wake.wait(max(0.0, self._due - time.monotonic()))
            self._wake.clear()
            last = self._closing
            late = last or time.monotonic() >= self._due
            if late:
                self._due = time.monotonic() + self._period
            # What cannot be recorded is counted; this thread must not end before the process.
            try:
                self._convert()
                if late or sum(batch.nbytes for batch in self._batches) >= MOST_COLUMNS:
                    self._write()
            except Exception as error:  # noqa: BLE001 # said once, and tried again
                self._complain(error)
            if last:
                return

    def _convert(self) -> None:
        """Make columns of what waits; without the store's secret no user can be hashed, so it waits on."""
        recorder = self._recorder = self._recorder or self._open()
        while self._queue:
            chunk, rows = [], 0
            while self._queue and rows < CHUNK:
                chunk.append(self._queue.popleft())
                rows += len(chunk[-1][_ROWS])
            self.counts.begun += rows
            self._batches += self._recorded(recorder, chunk)

    def _recorded(self, recorder: Recorder, chunk: Sequence[Request]) -> Iterator[pa.RecordBatch]:
        """The chunk as one batch; a request that cannot be recorded takes no other with it."""
        try:
            yield recorder.batch(chunk)
        except Exception as error:  # noqa: BLE001 # text that is no Unicode, an answer that is no JSON
            if len(chunk) > 1:
                for part in (chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :]):
                    yield from self._recorded(recorder, part)
            else:
                self.counts.lost += len(chunk[0][_ROWS])
                self.counts.errors += 1
                logger.warning("a prediction could not be recorded: %s", type(error).__name__)

    def salt(self) -> bytes:
        """The store's secret, which users are hashed with; kept once it was read.

        Raises:
            StoreError, OSError: the store does not answer now.
        """
        self._store = self._store or open_store(self._settings.store)
        self._salt = self._salt or salt_of(self._store)
        return self._salt

    def _open(self) -> Recorder:
        settings, salt = self._settings, self.salt()
        chosen: dict[str, Any] = {"exclude": self._exclude, "hashed": settings.hash, "caller": settings.id or ""}
        return Recorder(self._manifest, self._release, salt, **chosen)

    def _write(self) -> None:
        """Make files of the columns, and send them and those that an unreachable store has left."""
        batches, self._batches = self._batches, []
        if batches:
            try:
                self._files += self._made(batches)
            except Exception:
                self.counts.lost += sum(batch.num_rows for batch in batches)
                raise
        self._give_up()
        while self._files:
            file = self._files[0]
            assert self._store is not None  # noqa: S101 - there are no files without it
            self._store.write(file.path, file.content)
            self.counts.written += file.rows
            self._files.popleft()
            if self._complaint:
                self._complaint = ""
                logger.info("predictions are recorded again")

    def _made(self, batches: list[pa.RecordBatch]) -> Iterator[_File]:
        """One file for each hour that the rows came in, as a rule a single one."""
        import pyarrow as pa

        table = pa.Table.from_batches(batches)
        hours = table.column("at").cast("int64").to_numpy() // _HOUR
        for hour in np.unique(hours).tolist():
            part = table.filter(pa.array(hours == hour))
            where = hour_folder(self._settings.stream, datetime.fromtimestamp(hour * 3600, UTC))
            path = f"{where}/{self._writer}-{self._number:06d}.parquet"
            self._number += 1
            yield _File(path, to_parquet(part), part.num_rows)

    def _give_up(self) -> None:
        while sum(len(file.content) for file in self._files) > MOST_BYTES:
            self.counts.lost += self._files.popleft().rows

    def _complain(self, error: Exception) -> None:
        self.counts.errors += 1
        said = f"{type(error).__name__}: {error}"
        if not self._complaint:
            logger.error("predictions are not recorded now, and kept for a while: %s", said)
        self._complaint = said


_HOUR = 3_600_000_000


def _left_out(settings: Settings, names: Sequence[str]) -> tuple[str, ...]:
    """The columns to leave out: all of them where a name is no column's, since a mistyped one must not be written.

    Serving goes on, as the release may simply be older than the column.
    """
    try:
        check_columns(settings.exclude, settings.hash, names)
    except TidegateError as error:
        logger.error("%s %s Until then no column is recorded, only answers.", error.message, error.hint)  # noqa: TRY400 # it is all there is to say
        return tuple(names)
    return settings.exclude


class _WithoutPandas:
    """Finds every module but pandas."""

    @staticmethod
    def find_spec(name: str, _path: Any = None, _target: Any = None) -> None:
        """Leave it to the other finders."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def _import_pyarrow() -> None:
    """Import pyarrow and let it find out that there is no pandas, which it would load for one look at a type.

    That would be half a second and 50 MB in every serving process on a machine that also trains.
    """
    hidden = "pandas" not in sys.modules
    if hidden:
        sys.meta_path.insert(0, _WithoutPandas)
    try:
        import pyarrow as pa
        import pyarrow.parquet

        pa.array([0])
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(_WithoutPandas)
