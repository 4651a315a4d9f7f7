"""Answered requests as Arrow columns: what is recorded of each row, and what of it is left out or hashed."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tidegate.core.errors import UsageError
from tidegate.serving.service.manifest import Column, Manifest
from tidegate.serving.service.records import (
    INPUT,
    KINDS,
    Hidden,
    arrow_type,
    fixed_fields,
    label_text,
    metadata_of,
    name_hash,
    text_hash,
)
from tidegate.serving.service.schema import Row

if TYPE_CHECKING:
    import pyarrow as pa

    from tidegate.serving.service.model import Answer

_OK = 200
_NONE: list[None] = [None]


# What the lane hands over of one request that the model was asked for: a plain tuple, since every microsecond counts.
#   id of the prediction; when it came (seconds since the epoch); the user as the header has it, empty without one;
#   the request's name in the caller's words from a header, empty without one; arm (empty past the gateway); status;
#   seconds to the answer; rows as the schema checked them; a name for each row from a field that is no column of the
#   model, if there is such a field; the answer, None where there is none.
Request = tuple[bytes, float, bytes, bytes, str, int, float, Sequence[Row], Sequence[Any] | None, "Answer | None"]


def check_columns(exclude: Iterable[str], hashed: Iterable[str], columns: Iterable[str]) -> None:
    """Refuse names that no column has: a column whose name is mistyped would be recorded as it is.

    Raises:
        UsageError: with the mistyped name, and the one that was meant.
    """
    known = list(columns)
    for key, names in (("exclude", exclude), ("hash", hashed)):
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f"Did you mean {close[0]}?" if close else f"The columns are: {', '.join(known[:20])}."
                raise UsageError(f"serve.capture.{key} names {name}, which is no column of the model.", meant)


class Recorder:
    """Makes the columns of `records.PLACES` and `input.<column>`.

    Args:
        manifest: of the model.
        release: the release's id.
        salt: of the store.
        exclude: request columns that are left out.
        hashed: request columns of which only a keyed hash is kept.
        caller: the request column that names a row in the caller's words, if there is one.
    """

    def __init__(
        self,
        manifest: Manifest,
        release: str,
        salt: bytes,
        *,
        exclude: Iterable[str] = (),
        hashed: Iterable[str] = (),
        caller: str = "",
    ) -> None:
        import pyarrow as pa

        self._release, self._version, self._salt = release, manifest.version, salt
        left_out, hashed = set(exclude), set(hashed)
        hidden = Hidden.of(left_out, hashed)
        kept = [(i, one) for i, one in enumerate(manifest.columns) if one.name not in left_out]
        self._inputs = [(i, _type(one, hashed), one.name in hashed) for i, one in kept]
        self._caller = next((i for i, one in enumerate(manifest.columns) if one.name == caller), None)
        self._texts: dict[Any, str] = {one: label_text(one) for one in manifest.classes or ()}
        # A classifier answers with one of its classes.
        self._label, self._value = _readers(manifest.task, self._texts.get if manifest.classes else _text)
        fields = [pa.field(INPUT + one.name, kind) for (_, one), (_, kind, _) in zip(kept, self._inputs, strict=True)]
        self.schema = pa.schema(
            [*fixed_fields(), *fields], metadata=metadata_of(manifest.classes, manifest.task, hidden)
        )

    def batch(self, requests: Sequence[Request]) -> pa.RecordBatch:
        """One Arrow row for each row of the requests, in their order."""
        import pyarrow as pa

        salt = self._salt
        ids, at, units, callers, arms, statuses, seconds, rows, names, answers = zip(*requests, strict=True)
        counts = [len(one) for one in rows]
        total = sum(counts)
        answered = [answer if status == _OK else None for answer, status in zip(answers, statuses, strict=True)]
        found = {
            "id": ids
            if total == len(ids)
            else [one for i, n in zip(ids, counts, strict=True) for one in _numbered(i, n)],
            "at": (np.array(_spread(at, counts)) * 1e6).round().astype("datetime64[us]"),
            "unit": _spread([name_hash(salt, one) if one else None for one in units], counts) if any(units) else None,
            "caller": self._callers(callers, rows, names),
            "arm": _spread(arms, counts),
            "release": pa.repeat(self._release, total),
            "version": pa.repeat(pa.scalar(self._version, pa.int32()), total),
            "status": _spread(statuses, counts),
            "seconds": _spread(seconds, counts),
            **self._answers(answered, counts),
        }
        fixed = [self._array(name, values, total) for name, values in found.items()]
        cells = list(zip(*(row for one in rows for row in one), strict=True))
        return pa.RecordBatch.from_arrays([*fixed, *self._cells(cells)], schema=self.schema)

    def _callers(
        self, headers: Sequence[bytes], rows: Sequence[Sequence[Row]], names: Sequence[Sequence[Any] | None]
    ) -> list[str | None] | None:
        """The caller's own names of the rows, of the header, else of a cell; None if there can be none."""
        if self._caller is None and not any(headers) and not any(names):
            return None
        found: list[str | None] = []
        for header, some, named in zip(headers, rows, names, strict=True):
            if header:
                found += [one.decode("utf-8", "replace") for one in _numbered(header, len(some))]
            elif named is not None:
                found += map(_caller_text, named)
            else:
                found += [None if self._caller is None else _caller_text(row[self._caller]) for row in some]
        return found

    def _answers(self, answers: Sequence[Answer | None], counts: Sequence[int]) -> dict[str, Any]:
        """The columns from `label` to `response`; None for one that is empty."""
        known = list(zip(answers, counts, strict=True))
        own = [one for answer, n in known for one in (answer.own or answer.predictions if answer else _NONE * n)]
        shares: list[list[float] | None] = []
        for answer, n in known:
            shares += (answer and answer.probabilities) or _NONE * n
        shown = None
        if any(answer is not None and answer.own is not None for answer in answers):
            shown = [one for answer, n in known for one in (_responses(answer) if answer else [None] * n)]
        return {
            "label": None if self._label is None else [self._label(one) for one in own],
            "value": None if self._value is None else [self._value(one) for one in own],
            "probabilities": shares,
            "score": [_score(one) for one in shares],
            "response": shown,
        }

    def _cells(self, columns: Sequence[Sequence[Any]]) -> list[pa.Array]:
        """The columns `input.<column>`."""
        import pyarrow as pa

        salt = self._salt
        return [
            pa.array([None if cell is None else text_hash(salt, cell) for cell in columns[i]], kind)
            if hashed
            else pa.array(columns[i], kind)
            for i, kind, hashed in self._inputs
        ]

    def _array(self, name: str, values: Any, rows: int) -> pa.Array:
        import pyarrow as pa

        if isinstance(values, pa.Array):
            return values
        kind = self.schema.field(name).type
        # A prediction that is no number is none: NaN would be the largest of all in a query.
        return pa.nulls(rows, kind) if values is None else pa.array(values, kind, from_pandas=True)


def _caller_text(value: Any) -> str | None:
    """A name of the caller's as text: 17 and "17" are the same order."""
    if value is None:
        return None
    return value.strip() if isinstance(value, str) else label_text(value)


def _text(value: Any) -> str | None:
    return label_text(value) if value.__class__ in _SCALARS else None


_SCALARS = frozenset({str, bool, int, float})
_Reader = Callable[[Any], Any]


def _readers(task: str, text: _Reader) -> tuple[_Reader | None, _Reader | None]:
    """How the columns `label` and `value` are read from a prediction; in a custom task a number is a quantity."""

    def quantity(prediction: Any) -> float | None:
        return float(prediction) if prediction.__class__ in {int, float} else None

    def name(prediction: Any) -> str | None:
        return text(prediction) if prediction.__class__ in {str, bool} else None

    return {"classification": (text, None), "regression": (None, quantity)}.get(task, (name, quantity))


def _type(column: Column, hashed: set[str]) -> pa.DataType:
    return arrow_type("VARCHAR" if column.name in hashed else KINDS[column.kind])


def _numbered(name: bytes, count: int) -> Iterable[bytes]:
    return (name,) if count == 1 else (b"%b.%d" % (name, k) for k in range(count))


def _spread(values: Sequence[Any], counts: list[int]) -> Sequence[Any]:
    """A value for each row from one for each request; as a rule a request has one row."""
    if sum(counts) == len(values):
        return values
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]


def _score(shares: list[float] | None) -> float | None:
    if not shares:
        return None
    return shares[1] if len(shares) == 2 else max(shares)  # noqa: PLR2004 # two classes


def _responses(answer: Answer) -> Iterable[str | None]:
    if answer.own is None:
        return [None] * len(answer.predictions)
    return map(_response, answer.own, answer.predictions)


def _response(own: Any, shown: Any) -> str | None:
    """What a hook made of a prediction, as JSON, unless it left it as it was."""
    if own.__class__ is shown.__class__ and own.__class__ in _SCALARS and own == shown:
        return None
    return msgspec.json.encode(shown).decode()
