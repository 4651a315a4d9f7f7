"""How the text of one cell is read: what counts as missing, as a boolean, as a time, as a number.

A column has one kind (dataset.py), and one cell that fits no kind makes text of all of them; what the others say has
not changed by that, and `number` says it in either case.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Final

# How databases, R, Excel, Python and the UCI archive spell "no value". Anything else is a value.
MISSING: Final = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "null", "NULL", "None", "?")
BOOLEANS: Final = ({"true": True, "false": False}, {"yes": True, "no": False}, {"t": True, "f": False})
ISO: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?)?", re.ASCII
)
DECIMAL_COMMA: Final = re.compile(r"-?\d+,\d+", re.ASCII)
DECIMAL_POINT: Final = re.compile(r"-?\d+\.\d+", re.ASCII)
# Beside those words only: without one of them, such a column is one of numbers.
ZERO_ONE: Final = {"0": False, "1": True, "0.0": False, "1.0": True}
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_WORDS: Final = {word: float(value) for pair in BOOLEANS for word, value in pair.items()}
_TRUTHS: Final = {word: value for spelt in (*BOOLEANS, ZERO_ONE) for word, value in spelt.items()}
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)


def number(text: str) -> float | None:
    """The number that a column of numbers, booleans (1 is true) or times (milliseconds since 1970) has for this text.

    None if it could stand in none of them.
    """
    found = _WORDS.get(text.strip().lower())
    found = plain_number(text) if found is None else found
    return milliseconds(text) if found is None else found


def plain_number(text: str) -> float | None:
    """The number that this text spells, with a point or a comma; None if it spells none."""
    word = text.strip()
    if not (_NUMBER.fullmatch(word) or DECIMAL_COMMA.fullmatch(word)):
        return None
    value = float(word.replace(",", "."))
    return value if math.isfinite(value) else None


def truth(text: str) -> bool | None:
    """The boolean that this text spells; None if it is neither true nor false."""
    return _TRUTHS.get(text.strip().lower())


def milliseconds(text: str) -> float | None:
    """The time that this text spells, since 1970 in UTC; None if it spells none."""
    if not ISO.fullmatch(text):
        return None
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:  # 2024-02-31
        return None
    return float((time.replace(tzinfo=time.tzinfo or dt.UTC) - _EPOCH) // _MILLISECOND)
