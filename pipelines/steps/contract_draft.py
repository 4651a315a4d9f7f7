"""A first contract, drafted from the data: what holds for these rows with room to spare.

It has to pass on its own data and, as a rule, on the next export of the same source; a person then tightens what
matters. Bounds are as wide again as the data on either side, so an order-of-magnitude mistake (a price in cents, a
shifted column) is caught and an ordinary new maximum is not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from tidegate.pipelines.yaml_text import flow

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.pipelines.dataset import ColumnKind

HEADER: Final = """\
# What the data promises; checked by Great Expectations before every training (`tidegate data check`).
# An entry is `type`, any expectation of https://greatexpectations.io/expectations, with its arguments beside it:
#   mostly: 0.99        the share of the rows for which it must hold (all of them without it)
#   severity: warning   is reported and does not stop the training; error, the default, does
#   why: ...            is shown when the promise is broken
# Drafted from {rows:,} rows with room to spare: tighten what matters to you.
expectations:
"""
FEW: Final = 20  # distinct values that are a list of categories rather than text
SEEN: Final = 5  # rows for each category, on average, before the list is believed to be complete
NEW_CATEGORIES: Final = 0.98  # the share of rows that must stay in the list
_ID: Final = re.compile(r"(?:^|[\W_])(?:id|uuid|guid|key)$|^Unnamed: \d+$", re.IGNORECASE)


def draft(
    frame: pd.DataFrame, kinds: Mapping[str, ColumnKind], *, target: str | None = None, task: str | None = None
) -> str:
    """The text of a contract.yaml that holds for the canonical columns of `frame`.

    The target of a classification may have no other values than now: a new class is another question.
    """
    entries = list(_entries(frame, kinds, target if task == "classification" else None))
    return HEADER.format(rows=len(frame)) + "".join(f"  - {flow(entry)}\n" for entry in entries)


def _entries(frame: pd.DataFrame, kinds: Mapping[str, ColumnKind], label: str | None) -> Iterator[dict[str, Any]]:
    rows = len(frame)
    yield {
        "type": "expect_table_row_count_to_be_between",
        "min_value": max(rows // 2, 1),
        "max_value": rows * 10,
        "severity": "warning",
    }
    yield {"type": "expect_table_columns_to_match_set", "column_set": list(kinds), "exact_match": False}
    for name, kind in kinds.items():
        yield from _column(frame[name], name, kind, label=name == label)


def _column(column: pd.Series[Any], name: str, kind: ColumnKind, *, label: bool) -> Iterator[dict[str, Any]]:
    present = column.dropna()
    if present.empty:
        return
    missing = 1 - len(present) / len(column)
    entry: dict[str, Any] = {"type": "expect_column_values_to_not_be_null", "column": name}
    if missing:
        # Twice as many missing values as now, and a twentieth of the rows: a broken join loses far more.
        entry["mostly"] = math.floor(100 * max(1 - 2 * missing - 0.05, 0)) / 100
    if entry.get("mostly", 1):
        yield entry
    if label and kind != "datetime":
        yield {"type": "expect_column_values_to_be_in_set", "column": name, "value_set": _classes(present)}
    elif kind in {"number", "integer"}:
        low, high = _bounds(float(present.min()), float(present.max()))
        yield {"type": "expect_column_values_to_be_between", "column": name, "min_value": low, "max_value": high}
    elif kind == "string" and 1 < present.nunique() <= FEW and len(present) >= SEEN * present.nunique():
        yield {
            "type": "expect_column_values_to_be_in_set",
            "column": name,
            "value_set": sorted(map(str, present.unique())),
            "mostly": NEW_CATEGORIES,
        }
    if is_identifier(column, name, kind):
        yield {"type": "expect_column_values_to_be_unique", "column": name}


def _classes(present: pd.Series[Any]) -> list[Any]:
    """The values in order; whole numbers without the point that missing values give them."""
    values = sorted(present.unique().tolist())
    return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]


def is_identifier(column: pd.Series[Any], name: str, kind: ColumnKind) -> bool:
    """Whether a column names its row: called like one, no value missing, none twice."""
    return bool(_ID.search(name)) and kind in {"integer", "string"} and bool(column.notna().all() and column.is_unique)


def _bounds(low: float, high: float) -> tuple[float | int, float | int]:
    """The range widened by its own width on either side; what never was negative stays so."""
    room = (high - low) or max(abs(low), 1.0)
    lower = 0.0 if low >= 0 and low - room < 0 else low - room
    return _rounded(lower, math.floor), _rounded(high + room, math.ceil)


def _rounded(value: float, away: Any) -> float | int:
    """Two significant digits, away from the data."""
    if not value or not math.isfinite(value):
        return 0 if not value else math.copysign(1.7e308, value)
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    result = away(value / step) * step if step > 0 and math.isfinite(value / step) else value
    result = float(f"{result:.3g}")
    return int(result) if result.is_integer() and abs(result) < 1e15 else result  # noqa: PLR2004 - exact as a float
