"""Reading the user's data file, the same way every time: before training, in evaluation, in batch scoring.

A csv file has no types, so this module decides them, from the text alone and for the whole column: numbers,
booleans, ISO dates, strings; nothing depends on a sample, a locale or the machine. Whatever cannot be read with
certainty is an error that names the column. Missing values are NaN (number), NaT (datetime), NA (boolean), None
(string).
"""

from __future__ import annotations

import csv
import difflib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tidegate.core.errors import ConfigError, TidegateError, UsageError
from tidegate.pipelines.cells import BOOLEANS, DECIMAL_COMMA, DECIMAL_POINT, ISO, MISSING, ZERO_ONE
from tidegate.pipelines.split import Split, split

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.config import Data

__all__ = [
    "ColumnKind",
    "Split",
    "Table",
    "canonical",
    "did_you_mean",
    "kinds",
    "read_frame",
    "require_columns",
    "split",
    "training_table",
]

ColumnKind = Literal["number", "integer", "boolean", "string", "datetime"]

DELIMITERS: Final = (",", ";", "\t")
SNIFFED: Final = 50  # records looked at to tell the delimiter: many enough that a comma inside text does not decide


# --- files ---------------------------------------------------------------------------------------------------------


def read_frame(path: Path) -> pd.DataFrame:
    """The rows of a csv or parquet file in canonical columns (see `kinds`), numbered from 0 in file order.

    Raises:
        UsageError: no such file, or a kind of file that is not read.
        TidegateError: empty, header only, doubled column names, not UTF-8, ragged rows, infinite or too large numbers.
    """
    if not path.is_file():
        raise UsageError(
            f"The data file {path} is missing", "Check data.path; `tidegate data pull` fetches what DVC has."
        )
    if path.stat().st_size == 0:
        raise TidegateError(f"The data file {path} is empty", "The program that writes it may have failed half-way.")
    if path.suffix in {".parquet", ".pq"}:
        frame = _read_parquet(path)
    elif path.suffix in {".csv", ".tsv", ".txt"}:
        frame = _read_csv(path)
    else:
        raise UsageError(f"{path.name} is neither csv nor parquet", "Give a file that ends in .csv or .parquet.")
    if frame.empty:
        raise TidegateError(f"{path} has column names but no rows", "Training needs rows; is the export complete?")
    return canonical(frame, path.name)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TidegateError(f"{path} is not a readable parquet file: {error}", "Write it again.") from error
    named = [name for name in frame.index.names if name is not None]
    frame = frame.reset_index(drop=not named)
    frame.columns = [str(name) for name in frame.columns]
    _check_names(path, list(frame.columns))
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    delimiter, decimal, header = _dialect(path)
    _check_names(path, header)
    try:
        with warnings.catch_warnings():
            # Rows longer than the header lose their end under index_col=False, with no more than this warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=delimiter,
                decimal=decimal,
                index_col=False,
                encoding="utf-8-sig",
                keep_default_na=False,
                na_values=list(MISSING),
                low_memory=False,  # a column's type must not depend on where a chunk ends
                float_precision="round_trip",
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        said = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise _ragged(path, said, delimiter, len(header)) from error
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    # pandas fills short rows up; only then, or where cells are empty, is something missing in the last column.
    if frame[frame.columns[-1]].isna().any():
        _check_widths(path, delimiter, len(header))
    return frame


def _check_widths(path: Path, delimiter: str, width: int) -> None:
    """Refuse rows with fewer cells than the header: a download that broke off ends in one."""
    with path.open(encoding="utf-8-sig", newline="") as source, _cells_of_any_length():
        reader = csv.reader(source, delimiter=delimiter)
        for row in reader:
            # Lines of blanks are no rows.
            if len(row) < width and any(cell.strip() for cell in row):
                raise _ragged(
                    path,
                    f"the row that ends in line {reader.line_num:,} has {len(row)} of {width} cells",
                    delimiter,
                    width,
                )


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """Without the csv module's limit, which pandas does not have."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _dialect(path: Path) -> tuple[str, str, list[str]]:
    """Delimiter, decimal sign and column names, from the first records."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as source, _cells_of_any_length():
            records = _first_records(source.read(1 << 20))
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    best = max(DELIMITERS, key=lambda one: _regularity(records[one]))
    rows = records[best]
    if not rows:
        raise TidegateError(f"The data file {path} holds only blank lines", "Write it again.")
    cells = [cell.strip() for row in rows[1:] for cell in row]
    comma = best == ";" and any(map(DECIMAL_COMMA.fullmatch, cells)) and not any(map(DECIMAL_POINT.fullmatch, cells))
    return best, "," if comma else ".", rows[0]


def _first_records(text: str) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for delimiter in DELIMITERS:
        rows: list[list[str]] = []
        try:
            for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter):
                if row:
                    rows.append(row)
                if len(rows) > SNIFFED:
                    break
        except csv.Error:
            rows = []
        found[delimiter] = rows
    return found


def _regularity(rows: list[list[str]]) -> tuple[float, int]:
    """The share of records as wide as the first, then the width; one column never beats several."""
    width = len(rows[0]) if rows else 0
    if width <= 1:
        return (0.0, width)
    return (sum(len(row) == width for row in rows) / len(rows), width)


def _ragged(path: Path, said: str, delimiter: str, width: int) -> TidegateError:
    return TidegateError(
        f"{path} is not a regular csv file: {said}",
        f"The header has {width} columns separated by {delimiter!r}; every row must have as many.",
    )


def _not_utf8(path: Path) -> TidegateError:
    return TidegateError(f"{path} is not UTF-8 text", f"Convert it: `iconv -f latin1 -t utf-8 {path} > new.csv`.")


def _check_names(path: Path, names: list[str]) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise TidegateError(
            f"{path} has more than one column called {', '.join(map(repr, doubled[:3]))}",
            "Rename them: a model needs to tell its columns apart.",
        )


# --- canonical columns ---------------------------------------------------------------------------------------------


def canonical(frame: pd.DataFrame, name: str = "The data") -> pd.DataFrame:
    """The same rows with each column in the one dtype of its kind.

    Raises:
        TidegateError: a column holds lists, bytes, infinite or too large numbers, or a mixture.
    """
    import pandas as pd

    columns = {str(label): _canonical(frame[label], f"{name}: column {label!r}") for label in frame.columns}
    return pd.DataFrame(columns, index=range(len(frame)))


def _canonical(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    import numpy as np
    from pandas.api import types

    column = column.reset_index(drop=True)
    if types.is_bool_dtype(column.dtype):
        return column.astype("boolean") if column.hasnans else column.astype("bool")
    if types.is_integer_dtype(column.dtype):
        if types.is_unsigned_integer_dtype(column.dtype):
            _check_range(column, where)
        return column.astype("float64") if column.hasnans else column.astype("int64")
    if types.is_float_dtype(column.dtype):
        column = column.astype("float64")
        infinite = np.flatnonzero(np.isinf(column.to_numpy()))
        if len(infinite):
            raise TidegateError(
                f"{where} holds {len(infinite):,} infinite numbers (first in row {infinite[0] + 1:,})",
                "Leave the cell empty where there is no number.",
            )
        return column
    if types.is_datetime64_any_dtype(column.dtype):
        return _naive(column)
    return _from_objects(column.astype(object), where)


def _check_range(column: pd.Series[Any], where: str) -> None:
    """Refuse numbers that only fit without a sign: int64 would make others of them, float64 the same of several."""
    import numpy as np

    large = np.flatnonzero((column > np.iinfo(np.int64).max).fillna(value=False))
    if len(large):
        raise TidegateError(
            f"{where} holds {len(large):,} whole numbers above {np.iinfo(np.int64).max:,} "
            f"(first in row {large[0] + 1:,})",
            "Numbers so large are names as a rule: leave them out of the export, or put a letter in front.",
        )


def _naive(column: pd.Series[Any]) -> pd.Series[Any]:
    """Times in UTC without a zone, in milliseconds."""
    if getattr(column.dt, "tz", None) is not None:
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    return column.astype("datetime64[ms]")


def _from_objects(column: pd.Series[Any], where: str) -> pd.Series[Any]:
    """A column of Python objects: text, or what a parquet file keeps as objects."""
    import datetime as dt
    import decimal

    import pandas as pd

    present = column[column.notna()]
    if present.empty:
        return column.astype("float64")
    types = {type(value) for value in present}
    if types == {str}:
        return _from_text(column, present)
    if types == {bool}:
        return column.astype("boolean").astype("boolean" if len(present) < len(column) else "bool")
    if types <= {dt.date, dt.datetime, pd.Timestamp}:
        return _naive(pd.to_datetime(column, utc=True))
    if types <= {int, float, decimal.Decimal}:
        return _canonical(column.astype("float64"), where)
    raise TidegateError(
        f"{where} holds {' and '.join(sorted(one.__name__ for one in types))} values",
        "A column must hold numbers, booleans, text or times; convert it or list it in data.drop before exporting.",
    )


def _from_text(column: pd.Series[Any], present: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    values = [str(value) for value in present.unique()]
    truth = _truth({value.strip().lower() for value in values[:8]}) if len(values) <= 8 else None  # noqa: PLR2004 - spellings of two words
    if truth is not None:
        mapped = column.map(lambda text: truth[text.strip().lower()], na_action="ignore").astype("boolean")
        return mapped if mapped.hasnans else mapped.astype("bool")
    if all(map(ISO.fullmatch, values)):
        try:
            return _naive(pd.to_datetime(column, format="ISO8601", utc=True))
        except (ValueError, OverflowError):  # 2024-02-31, or a year that does not fit: text then
            pass
    column = column.astype(object)
    column[column.isna()] = None
    return column


def _truth(words: set[str]) -> dict[str, bool] | None:
    for pair in BOOLEANS:
        if words & pair.keys() and words <= pair.keys() | ZERO_ONE.keys():
            return pair | ZERO_ONE
    return None


def kinds(frame: pd.DataFrame) -> dict[str, ColumnKind]:
    """The kind of each canonical column, in order."""
    from pandas.api import types

    found: dict[str, ColumnKind] = {}
    for name in frame.columns:
        dtype = frame[name].dtype
        if types.is_bool_dtype(dtype):
            found[name] = "boolean"
        elif types.is_integer_dtype(dtype):
            found[name] = "integer"
        elif types.is_float_dtype(dtype):
            found[name] = "number"
        elif types.is_datetime64_any_dtype(dtype):
            found[name] = "datetime"
        else:
            found[name] = "string"
    return found


# --- what a model learns from --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """The usable part of the data: `frame` has every column, for splits and slices; row labels are file rows from 0.

    `features` and `target` have the same rows. `unlabelled` rows had no target and are in none of them.
    """

    frame: pd.DataFrame
    features: pd.DataFrame
    target: pd.Series[Any]
    unlabelled: int


def training_table(frame: pd.DataFrame, data: Data, task: str) -> Table:
    """Rows that have a target, and the columns a model may see.

    Raises:
        ConfigError: data.target, data.drop or data.split names a column that is not there.
        TidegateError: a column without any value, a constant or non-numeric target, nothing left to learn from.
    """
    require_columns(frame, data, data.path)
    labelled = frame[frame[data.target].notna()]
    features = labelled.drop(columns=[data.target, *data.drop])
    target = labelled[data.target]
    _check_target(target, kinds(frame)[data.target], task)
    _check_features(features)
    return Table(labelled, features, target, len(frame) - len(labelled))


def require_columns(frame: pd.DataFrame, data: Data, where: str) -> None:
    """Refuse rows, read from `where`, that lack a column which the data section names.

    Raises:
        ConfigError: the target, a dropped column or the split's is not there; the hint names the closest.
    """
    names = [str(name) for name in frame.columns]
    wanted = [("data.target", data.target), *(("data.drop", name) for name in data.drop)]
    if data.split.column is not None:
        wanted.append(("data.split.column", data.split.column))
    for key, name in wanted:
        if name not in names:
            raise ConfigError(
                f"{key} in tidegate.yaml names the column {name!r}, which {where} does not have",
                did_you_mean(name, names),
            )


def _check_target(target: pd.Series[Any], kind: ColumnKind, task: str) -> None:
    distinct = target.nunique()
    if distinct < 2:  # noqa: PLR2004 - one value is nothing to tell apart
        raise TidegateError(
            f"The target {target.name!r} has {'no value' if not distinct else 'the same value in every row'}",
            "A model needs at least two different values to learn from.",
        )
    if task == "regression" and kind not in {"number", "integer"}:
        raise TidegateError(
            f"The target {target.name!r} is a {kind} column, and task is regression",
            "Write `task: classification` in tidegate.yaml, or name a numeric target.",
        )


def _check_features(features: pd.DataFrame) -> None:
    if not len(features.columns):
        raise TidegateError("No column is left to learn from", "data.drop in tidegate.yaml removes them all.")
    empty = [str(name) for name in features.columns if features[name].isna().all()]
    if empty:
        listed = ", ".join(empty[:5])
        raise TidegateError(
            f"{'Column' if len(empty) == 1 else 'Columns'} without a single value: {listed}",
            f"Add them to data.drop in tidegate.yaml (drop: [{listed}]), or find out why the export lost them.",
        )


def did_you_mean(wanted: str, names: Sequence[str]) -> str:
    """The hint for a name that is not in `names`."""
    folded = {name.strip().casefold(): name for name in reversed(names)}
    close = difflib.get_close_matches(wanted.strip().casefold(), list(folded), n=1)
    if close:
        return f"Did you mean {folded[close[0]]!r}?"
    shown = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")  # noqa: PLR2004 - one line of them
    return f"The columns are {shown}."
