"""Rows of a DataFrame as a caller would send them: golden rows, the printed curl, test traffic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.serving.service.manifest import Column


def request_rows(columns: Sequence[Column], frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One JSON-ready object a row with exactly `columns`; a missing value is None, a time is ISO 8601."""
    from tidegate.serving.service.tensors import frame_columns

    arrays = frame_columns(columns, frame)
    cells = [[_value(column.kind, value) for value in arrays[column.name].tolist()] for column in columns]
    names = [column.name for column in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def _value(kind: str, value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "datetime":
        return value.isoformat()
    if kind == "integer":
        return int(value)
    return bool(value) if kind == "boolean" else value
