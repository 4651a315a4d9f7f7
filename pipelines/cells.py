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
_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_WORDS: Final = {word: float(truth) for pair in BOOLEANS for word, truth in pair.items()}
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)


def number(text: str) -> float | None:
    """The number that a column of numbers, booleans (1 is true) or times (milliseconds since 1970) has for this text.

    None if it could stand in none of them.
    """
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    if _NUMBER.fullmatch(word) or DECIMAL_COMMA.fullmatch(word):
        value = float(word.replace(",", "."))
        return value if math.isfinite(value) else None
    return _milliseconds(text) if ISO.fullmatch(text) else None


def _milliseconds(text: str) -> float | None:
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:  # 2024-02-31
        return None
    return float((time.replace(tzinfo=time.tzinfo or dt.UTC) - _EPOCH) // _MILLISECOND)
