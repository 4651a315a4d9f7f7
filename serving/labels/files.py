"""A file of labels or outcomes as numbered lines; one that cannot be read is a line with its reason, not the end.

CSV (comma, semicolon or tab), JSON Lines and Parquet, told apart by their content: what a command printed has no name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tidegate.core.errors import TidegateError, UsageError
from tidegate.serving.labels.rows import Kind, Line, Unusable, require_columns

_BATCH: Final = 50_000


def open_lines(
    path: Path, kind: Kind, aliases: Mapping[str, str] | None = None, source: str | None = None
) -> Iterator[Line]:
    """The lines of a file, numbered as an editor numbers them; the rows of a Parquet file from 1.

    Args:
        path: of the file.
        kind: what it should hold.
        aliases: what the project calls a column -> what we call it (`{"order_id": "id"}`).
        source: what to call the file; default: its name.

    Raises:
        UsageError: there is no such file.
        TidegateError: it is empty or no table, or has a column that labels or outcomes have not, or lacks one.
    """
    source = source or path.name
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", "Give a CSV, JSON Lines or Parquet file.")
    with path.open("rb") as stream:
        head = stream.read(4096)
    if not head.strip():
        raise TidegateError(f"{source} is empty.", f"It should hold {kind}: CSV, JSON Lines or Parquet.")
    if head.startswith(b"PAR1"):
        return _parquet(path, kind, aliases or {}, source)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return _json_lines(path, aliases or {})
    return _csv(path, kind, aliases or {}, source)


def parse_json_line(text: str | bytes) -> Mapping[str, Any] | Unusable:
    """One object, or why it is none."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unusable(f"it is not JSON: {error}")
    return fields if isinstance(fields, dict) else Unusable("it is no JSON object")


def _csv(path: Path, kind: Kind, aliases: Mapping[str, str], source: str) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        head = stream.readline()
    delimiter = max(",;\t", key=head.count)
    names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
    require_columns(names, kind, aliases, source)
    return _csv_rows(path, delimiter, [aliases.get(name, name) for name in names])


def _csv_rows(path: Path, delimiter: str, names: Sequence[str]) -> Iterator[Line]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows = csv.reader(stream, delimiter=delimiter)
        next(rows)
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield rows.line_num, Unusable(f"it is no CSV: {error}")
                continue
            if cells:
                yield rows.line_num, _row(names, cells)


def _row(names: Sequence[str], cells: Sequence[str]) -> Mapping[str, str] | Unusable:
    if len(cells) != len(names):
        return Unusable(f"{len(cells)} cells for {len(names)} columns")
    return dict(zip(names, cells, strict=True))


def _json_lines(path: Path, aliases: Mapping[str, str]) -> Iterator[Line]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if text:
                fields = parse_json_line(text)
                yield number, fields if isinstance(fields, Unusable) else _renamed(fields, aliases)


def _renamed(fields: Mapping[str, Any], aliases: Mapping[str, str]) -> Mapping[str, Any]:
    return {aliases.get(name, name): value for name, value in fields.items()}


def _parquet(path: Path, kind: Kind, aliases: Mapping[str, str], source: str) -> Iterator[Line]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise TidegateError(f"{source} is no Parquet file: {error}", "It may have been cut off.") from error
    require_columns(file.schema_arrow.names, kind, aliases, source)
    return _parquet_rows(file, aliases)


def _parquet_rows(file: Any, aliases: Mapping[str, str]) -> Iterator[Line]:
    import pyarrow as pa

    number = 0
    for batch in file.iter_batches(_BATCH):
        for place, field in enumerate(batch.schema):
            if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
                # pyarrow would make pandas' own times of them.
                batch = batch.set_column(  # noqa: PLW2901 - one column of it
                    place, field.name, batch.column(place).cast(pa.timestamp("us", field.type.tz), safe=False)
                )
        for fields in batch.to_pylist():
            number += 1
            yield number, _renamed(fields, aliases)
