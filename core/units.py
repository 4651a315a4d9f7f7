"""Durations and sizes as people write them: `2m`, `1h30m`, `50ms`, `200MB`, `8Gi`.

Parsing and printing stand next to each other and undo each other exactly, because a release stores the
printed form and is compared with what was parsed.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

# Milliseconds of each unit, the largest first: 90 minutes print as `90m`, 120 as `2h`.
_DURATIONS: Final = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
# One nanosecond, in milliseconds: with the 17 digits of a float its printed form still has under 30 decimals.
_SHORTEST: Final = Fraction(1, 10**6)
# Bytes of each unit. `MB` is the decimal one and `Mi` the binary one, as in Kubernetes.
_SIZES: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_SIZE_ALIASES: Final = {"": "B", "k": "kB", "m": "MB", "g": "GB", "t": "TB"} | {
    key.lower() + suffix: key for key in _SIZES for suffix in (("", "b") if key.endswith("i") else ("",))
}

# Digits are ASCII and few: Python's \d takes every script, and a 5,000-digit number is a mistake or an attack.
DURATION_PATTERN: Final = r"([0-9]{1,15}(\.[0-9]{1,30})?(ms|s|m|h|d|w))+"
SIZE_PATTERN: Final = r"[0-9]{1,18}(\.[0-9]{1,9})? ?[A-Za-z]{0,3}"
_DURATION: Final = re.compile(DURATION_PATTERN)
_DURATION_PART: Final = re.compile(r"([0-9.]+)(ms|s|m|h|d|w)")
_SIZE: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]{0,3})")


def parse_duration(text: str) -> float:
    """Seconds of `2m`, `1h30m`, `1.5h`, `50ms`.

    Raises:
        ValueError: the text is not a duration; the message says what is.
    """
    compact = text.strip()
    if compact == "0":
        return 0.0
    if not _DURATION.fullmatch(compact):
        raise ValueError(f'"{_short(text)}" is not a duration; write for instance 30s, 2m, 1h30m or 50ms')
    milliseconds = sum(
        (Fraction(number) * _DURATIONS[unit] for number, unit in _DURATION_PART.findall(compact)), Fraction()
    )
    if 0 < milliseconds < _SHORTEST:
        raise ValueError(f'"{_short(text)}" is not a duration; write for instance 30s, 2m or 50ms, at least 1 ns')
    return float(milliseconds / 1000)


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` turns back into exactly `seconds` (finite, not negative)."""
    exact = Decimal(repr(float(seconds)))
    milliseconds = exact * 1000
    if not exact:
        return "0s"
    if milliseconds == milliseconds.to_integral_value():
        whole = int(milliseconds)
        unit = next(unit for unit, size in _DURATIONS.items() if whole % size == 0)
        return f"{whole // _DURATIONS[unit]}{unit}"
    return f"{exact:f}s"


def parse_size(text: str) -> int:
    """Bytes of `200MB` (decimal), `8Gi` (binary), `512`.

    Raises:
        ValueError: the text is not a size, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _SIZE_ALIASES.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f'"{_short(text)}" is not a size; write for instance 200MB, 1GB or 8Gi')
    size = Fraction(match[1]) * _SIZES[unit]
    if size.denominator != 1:
        raise ValueError(f'"{_short(text)}" is not a whole number of bytes')
    return int(size)


def format_size(size: int) -> str:
    """The text with the smallest number that `parse_size` turns back into exactly `size` bytes."""
    if size == 0:
        return "0B"
    unit = min((unit for unit, factor in _SIZES.items() if size % factor == 0), key=lambda unit: size // _SIZES[unit])
    return f"{size // _SIZES[unit]}{unit}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."  # noqa: PLR2004 - what fits into one line of an error


_SPANS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def span(seconds: float) -> str:
    """A time for people only, in its two largest units: 45 s, 2 min 13 s, 3 h 20 min, 2 d 4 h."""
    left = max(round(seconds), 0)
    parts: list[tuple[int, str]] = []
    for unit, size in _SPANS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count) or "0 s"
