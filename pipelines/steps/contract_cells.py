"""Names the cells that made text of a column which the contract promises to be numbers, booleans or times.

One such cell is enough (dataset.py), and then the library compares text with numbers: it answers that nothing can be
checked, or that every row is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tidegate.pipelines.cells import milliseconds, plain_number, truth

if TYPE_CHECKING:
    import pandas as pd

_SHOWN: Final = 3
# Expectations whose bounds are values of the column, not lengths or counts.
_BOUNDED: Final = {
    "expect_column_values_to_be_between",
    *(f"expect_column_{what}_to_be_between" for what in ("max", "mean", "median", "min", "stdev", "sum")),
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a cell should be: how one is read (None if it is none), and what a cell that is none is called."""

    read: Callable[[str], object]
    one: str
    many: str


_NUMBER: Final = _Kind(plain_number, "no number", "no numbers")
_BOOLEAN: Final = _Kind(truth, "neither true nor false", "neither true nor false")
_TIME: Final = _Kind(milliseconds, "no time", "no times")


def misfits(column: pd.Series[Any], kind: str, kwargs: Mapping[str, Any]) -> str:
    """What cells of a text column are not of the kind that a promise is about, and in which rows; "" if there are none.

    Args:
        column: canonical text, no text where it is missing; rows are counted from 1.
        kind: the expectation's type.
        kwargs: its arguments as written in the contract.
    """
    wanted = _wanted(kind, kwargs)
    if wanted is None:
        return ""
    found = [(row, text) for row, text in enumerate(column, 1) if isinstance(text, str) and wanted.read(text) is None]
    if not found:
        return ""
    one = len(found) == 1
    cells = ", ".join(list(dict.fromkeys(_quoted(text) for _, text in found))[:_SHOWN])
    rows = ", ".join(f"{row:,}" for row, _ in found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    return (
        f"{len(found):,} of {len(column):,} values {'is' if one else 'are'} {wanted.one if one else wanted.many}: "
        f"{cells} (row{'' if one else 's'} {rows})"
    )


def _wanted(kind: str, kwargs: Mapping[str, Any]) -> _Kind | None:
    """What the values of a promise are, where all of them are of one kind that is not text."""
    if kind in _BOUNDED:
        values = [kwargs[key] for key in ("min_value", "max_value") if kwargs.get(key) is not None]
    else:
        members = kwargs.get("value_set")
        values = members if isinstance(members, list) else []
    if not values:
        return None
    if all(isinstance(value, bool) for value in values):
        return _BOOLEAN
    if all(isinstance(value, int | float) for value in values):
        return _NUMBER
    dates = kind in _BOUNDED and all(milliseconds(str(value)) is not None for value in values)
    return _TIME if dates else None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")  # noqa: PLR2004 - what fits into a sentence
