"""Rows to columns to model inputs: the only place that decides how a missing value looks to a model.

Raw columns: numbers, integers and booleans are float64 with NaN for missing, strings are objects with None,
datetimes are datetime64[ms] with NaT. Model inputs: numbers as floats with NaN, strings with "" for missing,
because an ONNX string tensor cannot hold None and a model must see one and the same thing everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tidegate.core.errors import TidegateError
from tidegate.serving.service.manifest import Column, Input

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, npt.NDArray[Any]]
MISSING_STRING = ""


def raw_columns(columns: Sequence[Column], rows: Sequence[tuple[Any, ...]]) -> Columns:
    """Rows (tuples in the order of `columns`) as one array a column."""
    cells = list(zip(*rows, strict=True))
    return {column.name: _array(column.kind, values) for column, values in zip(columns, cells, strict=True)}


def frame_columns(columns: Sequence[Column], frame: pd.DataFrame) -> Columns:
    """The same arrays from a DataFrame of raw request columns.

    Raises:
        TidegateError: a column is not there, or of a kind that cannot be read as its own.
    """
    absent = [column.name for column in columns if column.name not in frame.columns]
    if absent:
        message = f"The data has no column {absent[0]!r}" + (f" and {len(absent) - 1} more." if absent[1:] else ".")
        raise TidegateError(message, f"The model was trained with: {', '.join(c.name for c in columns[:20])}")
    return {column.name: _read(column, frame[column.name]) for column in columns}


def _read(column: Column, series: pd.Series[Any]) -> npt.NDArray[Any]:
    try:
        return _series(column, series)
    except (AttributeError, TypeError, ValueError) as error:
        raise TidegateError(
            f"Column {column.name!r} is no {column.kind} any more: {error}",
            "One cell that cannot be read makes text of its whole column.",
        ) from error


def _array(kind: str, values: Sequence[Any]) -> npt.NDArray[Any]:
    if kind == "string":
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    if kind == "datetime":
        return np.array(values, dtype="datetime64[ms]")
    return np.array(values, dtype=np.float64)


def _series(column: Column, series: pd.Series[Any]) -> npt.NDArray[Any]:
    if column.kind == "string":
        present = series.notna().to_numpy()
        array = np.full(len(series), None, dtype=object)
        array[present] = series[present].astype(str).to_numpy(dtype=object)
        return array
    if column.kind == "datetime":
        moments = series.dt.tz_convert("UTC").dt.tz_localize(None) if getattr(series.dt, "tz", None) else series
        return moments.to_numpy(dtype="datetime64[ms]")
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def model_inputs(inputs: Sequence[Input], columns: Mapping[str, npt.NDArray[Any]]) -> Columns:
    """What the model is given, by column name: float64 with NaN, or objects of str with "" for missing.

    Raises:
        TidegateError: an input is not among the columns, or is of another kind.
    """
    return {entry.name: _input(entry, columns) for entry in inputs}


def _input(entry: Input, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if entry.name not in columns:
        message = f"The model wants the input {entry.name!r}, which is not among the prepared columns."
        raise TidegateError(message, "prepare must return every column that the model was trained with.")
    values = columns[entry.name]
    if entry.kind == "string":
        return _strings(values)
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        message = f"The model's input {entry.name!r} must be numbers, not {values.dtype}."
        raise TidegateError(message, "prepare must return numbers where the model was trained with numbers.") from error


def _strings(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    text = np.empty(len(values), dtype=object)
    text[:] = [MISSING_STRING if value is None or value != value else str(value) for value in values]  # noqa: PLR0124 # NaN
    return text


def onnx_feeds(inputs: Sequence[Input], columns: Mapping[str, npt.NDArray[Any]]) -> Columns:
    """One tensor of shape (rows, 1) for each input of the graph: float32 or strings."""
    ready = model_inputs(inputs, columns)
    return {
        entry.tensor: (ready[entry.name] if entry.kind == "string" else _float32(ready[entry.name])).reshape(-1, 1)
        for entry in inputs
    }


def _float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    # A hook may make what float32 cannot hold; infinity is then what the model was always going to see.
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def native_frame(inputs: Sequence[Input], columns: Mapping[str, npt.NDArray[Any]]) -> pd.DataFrame:
    """The model's inputs as the DataFrame that a Python model was fitted with."""
    import pandas as pd

    return pd.DataFrame(model_inputs(inputs, columns), copy=False)


class FastFeeds:
    """Feeds straight from rows, for the usual case of no hook and numbers only: one array, one view an input."""

    def __init__(self, columns: Sequence[Column], inputs: Sequence[Input]) -> None:
        position = {column.name: i for i, column in enumerate(columns)}
        self._slots = [(entry.tensor, position[entry.name]) for entry in inputs]

    @staticmethod
    def fits(columns: Sequence[Column], inputs: Sequence[Input]) -> bool:
        """Whether every request column is a number and every input is one of them."""
        numbers = {column.name for column in columns if column.kind in {"number", "integer", "boolean"}}
        return len(numbers) == len(columns) and all(i.kind == "number" and i.name in numbers for i in inputs)

    def __call__(self, rows: Sequence[tuple[Any, ...]]) -> Columns:
        """The feeds of rows that `Schema` has checked (so float32 can hold them)."""
        block = np.array(rows, dtype=np.float32).T[:, :, None]
        return {tensor: block[i] for tensor, i in self._slots}
