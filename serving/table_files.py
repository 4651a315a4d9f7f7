"""Files of rows, read and written in chunks: csv, tsv, parquet and jsonl behind one shape."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from tidegate.core.errors import TidegateError, UsageError

_SNIFFED = 50
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+", re.ASCII)
_DECIMAL_POINT = re.compile(r"-?\d+\.\d+", re.ASCII)
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


class Reader(Protocol):
    """Rows of one file.

    Attributes:
        names: its columns.
        rows: how many rows, where that is known without reading them.
        text: whether every cell is text.
        decimal: the decimal sign of numbers in text.
        open_ended: whether later rows may have columns that `names` does not.
    """

    @property
    def names(self) -> list[str]: ...  # noqa: D102 # above
    @property
    def rows(self) -> int | None: ...  # noqa: D102 # above
    @property
    def text(self) -> bool: ...  # noqa: D102 # above
    @property
    def decimal(self) -> str: ...  # noqa: D102 # above
    @property
    def open_ended(self) -> bool: ...  # noqa: D102 # above

    def chunks(self, size: int) -> Iterator[list[Mapping[str, Any]]]:
        """Up to `size` rows at a time."""


class Writer(Protocol):
    """Takes rows; each has exactly the columns it was opened with."""

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append."""


def open_reader(path: Path) -> Reader:
    """A reader by the file's suffix.

    Raises:
        UsageError: there is no such file, or its kind is unknown.
        TidegateError: it is empty.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path.name} is of no kind that is read.", f"Give a file that ends in {', '.join(SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise TidegateError(f"{path.name} is empty.")
    if path.suffix == ".parquet":
        return _Parquet(path)
    return _Lines(path) if path.suffix == ".jsonl" else _Csv(path)


def open_writer(path: Path, suffix: str, kinds: Mapping[str, str]) -> AbstractContextManager[Writer]:
    """A writer of columns of these kinds (as in a manifest, or `any`) to `path`, in the form that `suffix` names.

    Raises:
        UsageError: the suffix is unknown.
    """
    if suffix == ".parquet":
        return _parquet_writer(path, kinds)
    if suffix == ".jsonl":
        return _line_writer(path)
    if suffix in {".csv", ".tsv"}:
        return _csv_writer(path, kinds, "," if suffix == ".csv" else "\t")
    raise UsageError(
        f"Results cannot be written as {suffix or 'a file without a suffix'}.", f"Use {', '.join(SUFFIXES)}."
    )


class _Csv:
    text = True
    open_ended = False
    rows = None

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
        self._delimiter = "\t" if path.suffix == ".tsv" else max(",;\t", key=head.count)
        self.names = next(csv.reader([head], delimiter=self._delimiter), [])
        if not any(self.names):
            raise TidegateError(f"{path.name} has no header line.", "Its first line must name the columns.")
        self.decimal = "," if self._delimiter == ";" and self._has_decimal_commas() else "."

    def _has_decimal_commas(self) -> bool:
        """By the first rows, and by the rule by which the training data is read: 1,5 occurs and 1.5 does not."""
        with self._path.open(encoding="utf-8-sig", newline="") as stream:
            rows = islice(csv.reader(stream, delimiter=self._delimiter), 1, _SNIFFED + 1)
            try:
                cells = [cell.strip() for row in rows for cell in row]
            except (csv.Error, UnicodeDecodeError):
                return False  # `chunks` says what is wrong
        return any(map(_DECIMAL_COMMA.fullmatch, cells)) and not any(map(_DECIMAL_POINT.fullmatch, cells))

    def chunks(self, size: int) -> Iterator[list[Mapping[str, Any]]]:
        with self._path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, delimiter=self._delimiter)
            next(lines)
            chunk: list[Mapping[str, Any]] = []
            try:
                for cells in lines:
                    if not cells:
                        continue
                    self._check(cells, lines.line_num)
                    chunk.append(dict(zip(self.names, cells, strict=True)))
                    if len(chunk) == size:
                        yield chunk
                        chunk = []
            except (csv.Error, UnicodeDecodeError) as error:
                raise TidegateError(f"{self._path.name}, line {lines.line_num}: {error}") from error
            if chunk:
                yield chunk

    def _check(self, cells: list[str], line: int) -> None:
        if len(cells) != len(self.names):
            text = f"{self._path.name}, line {line}: {len(cells)} cells for {len(self.names)} columns."
            raise TidegateError(text, "A text with a delimiter in it must be quoted.")


class _Lines:
    text = False
    decimal = "."
    open_ended = True
    rows = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self.names = list(next(iter(self._records()), {}))

    def chunks(self, size: int) -> Iterator[list[Mapping[str, Any]]]:
        chunk: list[Mapping[str, Any]] = []
        for record in self._records():
            chunk.append(record)
            if len(chunk) == size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _records(self) -> Iterator[Mapping[str, Any]]:
        import msgspec

        decoder = msgspec.json.Decoder(dict[str, Any])
        with self._path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    try:
                        yield decoder.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                        raise TidegateError(f"{self._path.name}, line {number}: {error}") from error


class _Parquet:
    text = False
    decimal = "."
    open_ended = False

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise TidegateError(f"{path.name} is no parquet file: {error}") from error
        self.names: list[str] = list(self._file.schema_arrow.names)
        self.rows: int | None = self._file.metadata.num_rows

    def chunks(self, size: int) -> Iterator[list[Mapping[str, Any]]]:
        for batch in self._file.iter_batches(size):
            yield _in_microseconds(batch).to_pylist()


def _in_microseconds(batch: Any) -> Any:
    """Times as Python has them: from nanoseconds pyarrow makes pandas' own, which no JSON encoder knows."""
    import pyarrow as pa

    for index, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            times = batch.column(index).cast(pa.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(index, field.name, times)
    return batch


@contextmanager
def _csv_writer(path: Path, kinds: Mapping[str, str], delimiter: str) -> Iterator[Writer]:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(kinds), delimiter=delimiter, lineterminator="\n", extrasaction="ignore")
        table.writeheader()

        class _Table:
            def write(self, records: Sequence[Mapping[str, Any]]) -> None:
                table.writerows(records)

        yield _Table()


@contextmanager
def _line_writer(path: Path) -> Iterator[Writer]:
    import msgspec

    encoder = msgspec.json.Encoder(enc_hook=str)  # what passes through may be of any type
    with path.open("wb") as stream:

        class _Stream:
            def write(self, records: Sequence[Mapping[str, Any]]) -> None:
                stream.write(encoder.encode_lines(records))

        yield _Stream()


@contextmanager
def _parquet_writer(path: Path, kinds: Mapping[str, str]) -> Iterator[Writer]:
    """Columns of a known kind have that kind's type, others the first chunk's (text, where all of it is missing)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "string": pa.string()}
    opened: list[Any] = []

    def schema(columns: Mapping[str, list[Any]]) -> Any:
        guessed = pa.table(columns).schema
        other = {field.name: pa.string() if pa.types.is_null(field.type) else field.type for field in guessed}
        return pa.schema([pa.field(name, types.get(kind, other[name])) for name, kind in kinds.items()])

    class _Table:
        def write(self, records: Sequence[Mapping[str, Any]]) -> None:
            columns = {name: [record.get(name) for record in records] for name in kinds}
            try:
                if not opened:
                    opened.append(pq.ParquetWriter(path, schema(columns)))
                opened[0].write_table(pa.table(columns, schema=opened[0].schema))
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                text = f"A column has values of several types, which parquet cannot hold: {error}"
                raise TidegateError(text, "Write .jsonl or .csv.") from error

    try:
        yield _Table()
    finally:
        for writer in opened:
            writer.close()
