"""Rows of a request, checked against the bundle's columns.

A body that is right at the first look is decoded by msgspec straight into a struct. Anything else is decoded again
without a type and walked cell by cell: that path accepts what means the same (3.0 for an integer) and names
every bad field, not only the first one.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from tidegate.serving.service.manifest import Column

Row = tuple[Any, ...]

# Models compute in float32; a larger number would become infinity on the way in.
LARGEST = 3.4028234663852886e38
_INTEGERS = (-(2**63), 2**63 - 1)
# A reader fixes a hundred mistakes at a time; a body with 10,000 bad rows must not become a longer answer.
MOST_ERRORS = 100


class Problem(msgspec.Struct, frozen=True):
    """One bad field: `path` as in `rows[3].price`."""

    path: str
    message: str


class BadRequest(Exception):
    """The request cannot be answered; `status` is 400, 413, 415 or 422."""

    def __init__(self, status: int, problems: Sequence[Problem]) -> None:
        super().__init__(problems[0].message if problems else "bad request")
        self.status = status
        self.problems = list(problems)


class WrongCell(Exception):
    """A cell's value is wrong; the text says what was expected."""


class Schema:
    """Decodes and checks the rows of one model.

    Args:
        columns: the fields of a row, in the order of the returned tuples.
        max_rows: the most rows of one request.
        caller: a field that may name the row in the caller's words and is no column; the tuples end with it then.
    """

    def __init__(self, columns: Sequence[Column], max_rows: int = 10_000, caller: str = "") -> None:
        self.columns = tuple(columns)
        self.max_rows = max_rows
        self._caller = caller
        self.names = tuple(column.name for column in columns)
        self._known = frozenset((*self.names, caller) if caller else self.names)
        self._datetimes = tuple(i for i, column in enumerate(columns) if column.kind == "datetime")
        self._decoder = _fast_decoder(self.columns, max_rows, caller)

    def decode(self, body: bytes) -> list[Row]:
        """Rows of `{"rows": [{...}, ...]}` as tuples in column order; a missing nullable value is None.

        Raises:
            BadRequest: 400 where the body is no JSON, 413 for too many rows, 422 with every bad field otherwise.
        """
        if self._decoder is not None:
            try:
                rows = [msgspec.structs.astuple(row) for row in self._decoder.decode(body).rows]
                return [self._with_times(row) for row in rows] if self._datetimes else rows
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, WrongCell):
                pass
        return self.check(_rows_of(_decode(body)))

    def check(self, rows: object) -> list[Row]:
        """The same for rows that are already Python objects.

        Raises:
            BadRequest: as `decode` does.
        """
        if not isinstance(rows, list):
            raise BadRequest(422, [Problem("rows", f"expected a list of rows, got {_json_name(rows)}")])
        if not rows:
            raise BadRequest(422, [Problem("rows", "expected at least one row")])
        if len(rows) > self.max_rows:
            text = f"{len(rows)} rows; one request may hold {self.max_rows}"
            raise BadRequest(413, [Problem("rows", text)])
        problems: list[Problem] = []
        checked: list[Row] = []
        for index, row in enumerate(rows):
            checked.append(self.check_row(row, f"rows[{index}]", problems))
            if len(problems) >= MOST_ERRORS:
                break
        if problems:
            raise BadRequest(422, problems[:MOST_ERRORS])
        return checked

    def named(self, rows: list[Row]) -> tuple[list[Row], list[Any] | None]:
        """The model's part of the rows, and what the caller names each by; None where rows have no such field."""
        if not self._caller:
            return rows, None
        return [row[:-1] for row in rows], [row[-1] for row in rows]

    def check_row(self, row: object, path: str, problems: list[Problem]) -> Row:
        """One row as a tuple; what is wrong with it is appended to `problems`."""
        if not isinstance(row, dict):
            problems.append(Problem(path, f"expected an object, got {_json_name(row)}"))
            return ()
        cells: list[Any] = []
        for column in self.columns:
            try:
                cells.append(_cell(column, row.get(column.name), present=column.name in row))
            except WrongCell as error:
                problems.append(Problem(_join(path, column.name), str(error)))
        if self._caller:
            try:
                cells.append(_name(row.get(self._caller)))
            except WrongCell as error:
                problems.append(Problem(_join(path, self._caller), str(error)))
        problems.extend(Problem(_join(path, name), self._unknown(name)) for name in row if name not in self._known)
        return tuple(cells)

    def _with_times(self, row: Row) -> Row:
        cells = list(row)
        for i in self._datetimes:
            if cells[i] is not None:
                cells[i] = _datetime(cells[i])
        return tuple(cells)

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name[:80], self.names, n=1)
        return f"unknown field; did you mean {close[0]}?" if close else "unknown field"


def _fast_decoder(columns: Sequence[Column], max_rows: int, caller: str = "") -> msgspec.json.Decoder[Any] | None:
    """A typed decoder, or None where msgspec cannot spell a column's name (quotes, control characters)."""
    # Keyword-only, because a nullable field has a default and may come before a required one.
    fields = [
        (f"f{i}", _TYPES[column.kind] | None, None) if column.nullable else (f"f{i}", _TYPES[column.kind])
        for i, column in enumerate(columns)
    ]
    names = {f"f{i}": column.name for i, column in enumerate(columns)}
    if caller:
        fields.append(("caller", str | int | float | None, None))
        names["caller"] = caller
    try:
        row = msgspec.defstruct("Row", fields, rename=names, forbid_unknown_fields=True, kw_only=True, gc=False)
        rows = Annotated[list[row], msgspec.Meta(min_length=1, max_length=max_rows)]  # type: ignore[valid-type] # made at run time
        request = msgspec.defstruct("Request", [("rows", rows)], forbid_unknown_fields=True, gc=False)
    except ValueError:
        return None
    return msgspec.json.Decoder(request)


_TYPES: dict[str, Any] = {
    "number": Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)],
    "integer": Annotated[int, msgspec.Meta(ge=_INTEGERS[0], le=_INTEGERS[1])],
    "boolean": bool,
    "string": str,
    "datetime": str,
}


def _decode(body: bytes) -> object:
    if not body:
        raise BadRequest(400, [Problem("", 'the body is empty; send {"rows": [{...}]}')])
    try:
        return msgspec.json.decode(body)
    except RecursionError as error:
        raise BadRequest(400, [Problem("", "the JSON is nested too deeply")]) from error
    except msgspec.ValidationError as error:
        text = str(error).split(" - at ")[0].lower()
        raise BadRequest(422, [Problem("", f"{text}: a number does not fit in 64 bits")]) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(400, [Problem("", f"the body is not JSON: {error}")]) from error


def _rows_of(document: object) -> object:
    if not isinstance(document, dict):
        raise BadRequest(422, [Problem("", f'expected {{"rows": [...]}}, got {_json_name(document)}')])
    if "rows" not in document:
        raise BadRequest(422, [Problem("rows", 'required; a request is {"rows": [{...}, ...]}')])
    unknown = [Problem(str(key)[:80], "unknown field; a request has only `rows`") for key in document if key != "rows"]
    if unknown:
        raise BadRequest(422, unknown[:MOST_ERRORS])
    return document["rows"]


def _cell(column: Column, value: object, *, present: bool) -> Any:
    if value is None:
        if column.nullable:
            return None
        raise WrongCell(f"expected {_WORDS[column.kind]}, got null" if present else "required")
    return _CHECKS[column.kind](value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongCell(f"expected a number, got {_json_name(value)}")
    if not -LARGEST <= value <= LARGEST:
        raise WrongCell(f"expected a finite number between -{LARGEST:.4g} and {LARGEST:.4g}")
    return float(value)


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongCell(f"expected an integer, got {_json_name(value)}")
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        raise WrongCell("expected an integer, got a fraction")
    if not _INTEGERS[0] <= value <= _INTEGERS[1]:
        raise WrongCell("expected an integer of 64 bits")
    return int(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise WrongCell(f"expected true or false, got {_json_name(value)}")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise WrongCell(f"expected a string, got {_json_name(value)}")
    return value


def _name(value: object) -> str | int | float | None:
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    raise WrongCell(f"expected a string or a number, got {_json_name(value)}")


def _datetime(value: object) -> datetime:
    """ISO 8601; a time with an offset is moved to UTC, one without is taken as it stands (as in training)."""
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise WrongCell("expected a date or time like 2026-01-31 or 2026-01-31T12:00:00Z") from error
    else:
        raise WrongCell(f"expected a date or time as a string, got {_json_name(value)}")
    try:
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (OverflowError, ValueError) as error:
        raise WrongCell("expected a date between the years 1 and 9999") from error


_CHECKS: dict[str, Callable[[object], Any]] = {
    "number": _number,
    "integer": _integer,
    "boolean": _boolean,
    "string": _string,
    "datetime": _datetime,
}
_WORDS = {
    "number": "a number",
    "integer": "an integer",
    "boolean": "true or false",
    "string": "a string",
    "datetime": "a date or time",
}
_JSON_NAMES: Iterable[tuple[type | tuple[type, ...], str]] = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (list, "a list"),
    (dict, "an object"),
    (type(None), "null"),
)


def _json_name(value: object) -> str:
    return next((name for kind, name in _JSON_NAMES if isinstance(value, kind)), type(value).__name__)


def _join(path: str, name: str) -> str:
    short = name[:80]
    return f"{path}.{short}" if short.isidentifier() else f"{path}[{msgspec.json.encode(short).decode()}]"
