"""Batch scoring: a file of rows in, the same rows with predictions out, by the model's own checks.

A file is read in chunks, so its size does not matter, and written beside its name first, so nobody ever sees half of
it. Columns that the model does not know are passed through. A bad row stops everything unless it may be skipped.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import TidegateError, UsageError
from tidegate.core.progress import Progress, Silent
from tidegate.serving.table_files import Reader, Writer, open_reader, open_writer

if TYPE_CHECKING:
    from tidegate.serving.service.manifest import Column
    from tidegate.serving.service.model import Answer, Model
    from tidegate.serving.service.schema import Problem

Record = Mapping[str, Any]

PREDICTION = "prediction"
CHUNK = 5_000
# As many as a reader looks at; the count is of all.
_SHOWN = 20
# How a text file spells "no value", as when the training data was read.
MISSING = frozenset({"", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "null", "NULL", "None", "?"})
_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "t": True, "f": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class Scored:
    """What was done: rows read, rows without a prediction, and the first problems with their row numbers from 1."""

    rows: int
    bad: int
    problems: tuple[str, ...]
    version: int


def score(
    bundle: Path, source: Path, target: Path, *, skip_bad: bool = False, progress: Progress | None = None
) -> Scored:
    """Predict every row of `source` into `target` (csv, tsv, parquet or jsonl, by their suffix).

    Args:
        bundle: of the version to score with.
        source: rows with at least the model's request columns.
        target: the same rows and columns, then `prediction` and, where there are classes, `probability_<class>`.
        skip_bad: give bad rows an empty prediction, instead of refusing the file.
        progress: where to report.

    Raises:
        UsageError: the file is missing, of an unknown kind, or has a column named as one of ours.
        TidegateError: a column is missing, or rows are bad; the message names rows and columns.
    """
    from tidegate.serving import checked_hooks
    from tidegate.serving.service.model import Model

    model = Model(bundle, load_hooks=checked_hooks.load)
    reader = open_reader(source)
    _check_names(model, reader, source)
    counts = _Counts([])
    with _replacing(target) as scratch, (progress or Silent()).task(f"score {source.name}", reader.rows) as task:
        with open_writer(scratch, target.suffix, _fields(model, reader)) as writer:
            for records in reader.chunks(CHUNK):
                _score_chunk(model, reader, records, counts, writer)
                task.advance(len(records))
        if counts.bad and not skip_bad:
            text = f"{counts.bad} of {counts.rows} rows of {source.name} cannot be predicted."
            raise TidegateError(text, "\n".join([*counts.problems, "Mend them, or leave them out with --skip-bad."]))
    return Scored(counts.rows, counts.bad, tuple(counts.problems), model.manifest.version)


@dataclass(slots=True)
class _Counts:
    problems: list[str]
    rows: int = 0
    bad: int = 0


def _score_chunk(model: Model, reader: Reader, records: Sequence[Record], counts: _Counts, writer: Writer) -> None:
    good: list[Any] = []
    places: list[int] = []
    for index, record in enumerate(records):
        problems: list[Problem] = []
        cells = {column.name: _cell(column, record.get(column.name), reader) for column in model.manifest.columns}
        row = model.schema.check_row(cells, f"row {counts.rows + index + 1}", problems)
        if problems:
            counts.bad += 1
            counts.problems += [f"{problem.path}: {problem.message}" for problem in problems]
            del counts.problems[_SHOWN:]
        else:
            good.append(row)
            places.append(index)
    counts.rows += len(records)
    answers = _by_place(model.predict(good), places) if good else {}
    writer.write([{**record, **_answer(model, answers.get(index))} for index, record in enumerate(records)])


def _by_place(answer: Answer, places: Sequence[int]) -> dict[int, Answer]:
    return {place: answer.part(k, k + 1) for k, place in enumerate(places)}


def _answer(model: Model, answer: Answer | None) -> dict[str, Any]:
    """The output columns of one row; None where the row was bad."""
    named = _probability_names(model)
    if answer is None:
        return dict.fromkeys([PREDICTION, *named])
    probabilities = answer.probabilities[0] if answer.probabilities else []
    return {PREDICTION: answer.predictions[0], **dict(zip(named, probabilities, strict=True))}


def _probability_names(model: Model) -> list[str]:
    return [f"probability_{label}" for label in model.manifest.classes or []]


def _check_names(model: Model, reader: Reader, source: Path) -> None:
    missing = [c.name for c in model.manifest.columns if c.name not in reader.names]
    if missing and not reader.open_ended:
        message = f"{source.name} has no column {', '.join(repr(name) for name in missing[:10])}."
        raise TidegateError(message, f"Its columns are: {', '.join(reader.names[:30])}")
    taken = [name for name in [PREDICTION, *_probability_names(model)] if name in reader.names]
    if taken:
        raise UsageError(f"{source.name} has a column {taken[0]!r} already.", "Rename it: the result is written there.")


def _fields(model: Model, reader: Reader) -> dict[str, str]:
    """Kinds of the output's columns: the model's, text for what passes through unless the file knows better."""
    known = {column.name: str(column.kind) for column in model.manifest.columns}
    kinds = {name: "string" if reader.text else known.get(name, "any") for name in reader.names}
    labels = model.manifest.classes
    kinds[PREDICTION] = "number" if labels is None else _label_kind(labels)
    if model.hooks.respond is not None:
        kinds[PREDICTION] = "any"
    return kinds | dict.fromkeys(_probability_names(model), "number")


def _label_kind(labels: Sequence[Any]) -> str:
    kinds = {type(label) for label in labels}
    return (
        {bool: "boolean", int: "integer", float: "number"}.get(kinds.pop(), "string") if len(kinds) == 1 else "string"
    )


def _cell(column: Column, value: Any, reader: Reader) -> Any:
    """A cell as JSON would hold it: text files are read by the column's kind, other files by their own types."""
    if reader.text and isinstance(value, str):
        return _from_text(column.kind, value, reader.decimal)
    if isinstance(value, float) and math.isnan(value):
        return None
    plain_date = isinstance(value, date) and not isinstance(value, datetime)
    return value.isoformat() if plain_date else value


def _from_text(kind: str, value: str, decimal: str) -> Any:
    stripped = value.strip()
    if stripped in MISSING:
        return None
    if kind == "boolean":
        return _BOOLEANS.get(stripped.lower(), value)
    if kind == "integer" and stripped.lstrip("+-").isdecimal():
        return int(stripped)
    return _float(stripped.replace(decimal, ".")) if kind in {"number", "integer"} else value


def _float(text: str) -> float | str:
    """3.0 in an integer column is the integer's check to accept; what is no number stays text and is named."""
    try:
        return float(text)
    except ValueError:
        return text


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A scratch file beside `target` that takes its place if the block succeeds."""
    if not target.parent.is_dir():
        raise UsageError(f"The folder {target.parent} does not exist.", f"mkdir -p {target.parent}")
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        # mkstemp makes private files; a result has the permissions of any other new file.
        mask = os.umask(0)
        os.umask(mask)
        scratch.chmod(0o666 & ~mask)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
