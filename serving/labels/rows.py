"""One label or outcome as it came, made into a row of the store, or the reason why it cannot be. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeVar

from tidegate.core.config_types import did_you_mean
from tidegate.core.errors import TidegateError
from tidegate.serving.service.records import label_text

Kind = Literal["labels", "outcomes"]

FIELDS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "labels": ("prediction_id", "id", "label", "at"),
    "outcomes": ("unit", "prediction_id", "id", "name", "value", "at"),
}
"""What a line may hold."""

# Clocks of two machines differ by so much at most; a label from further ahead has a wrong time.
SKEW: Final = timedelta(minutes=5)
# Before there was anything to predict: such a time is a mistake of units or an empty date.
_OLDEST: Final = datetime(1990, 1, 1, tzinfo=UTC)
# Far more than any id or class; longer ones are another column by mistake.
_LONGEST: Final = 500
_BY: Final[Mapping[str, str]] = {"prediction_id": "prediction", "id": "caller", "unit": "unit"}


@dataclass(frozen=True, slots=True)
class Label:
    """The truth of one prediction; `at` None: when it was received."""

    by: str
    key: str
    label: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that a user did; `key` is the unit's own name where `by` is unit, and is stored as its hash only."""

    by: str
    key: str
    name: str
    value: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that cannot be used: its number, beginning with 1, and why."""

    line: int
    why: str
    field: str = ""


class Unusable(ValueError):
    """What is wrong with a line; `field` is where."""

    def __init__(self, why: str, field: str = "") -> None:
        super().__init__(why)
        self.field = field


Row = TypeVar("Row", Label, Outcome)
Line = tuple[int, Mapping[str, Any] | Unusable]
"""A line's number and what it holds, or why it could not be read."""


def numbered(rows: Iterable[Mapping[str, Any]]) -> Iterator[Line]:
    """Rows without a file of their own, counted from 1."""
    return enumerate(rows, 1)


def checked(
    lines: Iterable[Line], read: Callable[[Mapping[str, Any], datetime], Row], received: datetime
) -> Iterator[tuple[int, Row] | Rejected]:
    """Each line as a row, or rejected with its reason."""
    for line, fields in lines:
        try:
            if isinstance(fields, Unusable):
                raise fields
            yield line, read(fields, received)
        except Unusable as error:
            yield Rejected(line, str(error), error.field)


def read_label(fields: Mapping[str, Any], received: datetime) -> Label:
    """A label of `{id | prediction_id, label, at}`.

    Raises:
        Unusable: it is none.
    """
    _only_known(fields, "labels")
    by, key = _named(fields, ("prediction_id", "id"))
    at = None if _missing(fields.get("at")) else moment(fields["at"], received)
    return Label(by, key, _label(fields.get("label")), at)


def read_outcome(fields: Mapping[str, Any], received: datetime) -> Outcome:
    """An outcome of `{unit | id | prediction_id, name, value, at}`.

    Its time is needed: without one, an event that was sent twice could not be told from two events.

    Raises:
        Unusable: it is none.
    """
    _only_known(fields, "outcomes")
    by, key = _named(fields, ("unit", "prediction_id", "id"))
    name = fields.get("name")
    if not isinstance(name, str) or not name.strip():
        raise Unusable("an outcome needs its name, such as conversion", "name")
    if _missing(fields.get("at")):
        raise Unusable("an outcome needs its time, or one sent twice would count twice", "at")
    return Outcome(by, key, _short(name.strip(), "name"), _value(fields.get("value")), moment(fields["at"], received))


def require_columns(names: Sequence[str], kind: Kind, aliases: Mapping[str, str], source: str) -> None:
    """Refuse a table whose columns are not those of labels or outcomes.

    Args:
        names: its columns.
        kind: what it should hold.
        aliases: other names that columns may have.
        source: the table's name, for the message.

    Raises:
        TidegateError: one is unknown, missing, or there twice.
    """
    known = FIELDS[kind]
    meant = [aliases.get(name, name) for name in names]
    problems = [
        f'unknown column "{name}"{did_you_mean(name, known)}'
        for name, field in zip(names, meant, strict=True)
        if field not in known
    ]
    problems += [
        f'the column "{name}" is there twice' for name in sorted({one for one in meant if meant.count(one) > 1})
    ]
    needed = ("label",) if kind == "labels" else ("name", "at")
    problems += [f'no column "{name}"' for name in needed if name not in meant and not problems]
    if not problems and not any(name in meant for name in _BY):
        problems.append("no column says which prediction: prediction_id, or id for the caller's own")
    if problems:
        columns = ", ".join(known)
        raise TidegateError(
            f"{source}: {'; '.join(problems)}.", f"The columns of {kind} are {columns}; leave out others."
        )


def moment(value: Any, received: datetime) -> datetime:
    """A time in UTC: ISO 8601 with or without a zone (then UTC), or seconds since 1970.

    Raises:
        Unusable: it is no time, or one in the future or before anything was predicted.
    """
    at = _moment(value)
    if at > received + SKEW:
        unit = "; seconds are needed, these look like milliseconds" if at.year > received.year + 1000 else ""
        raise Unusable(f"{_shown(value)} lies in the future{unit}", "at")
    if at < _OLDEST:
        raise Unusable(f"{_shown(value)} lies before {_OLDEST.year}", "at")
    return at


def _moment(value: Any) -> datetime:
    try:
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        if isinstance(value, str) and not _is_number(value):
            return _moment(datetime.fromisoformat(value.strip()))
        if not isinstance(value, bool):
            # Beyond the year 9999 there is no date; the year is enough to say what is wrong.
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=min(float(value), 250e9))
    except (TypeError, ValueError, OverflowError):
        pass
    raise Unusable(f"{_shown(value)} is no time: write 2026-11-25T09:30:00Z, or seconds since 1970", "at")


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).lstrip("+-").isdecimal()


def _only_known(fields: Mapping[str, Any], kind: Kind) -> None:
    for name in fields:
        if name not in FIELDS[kind]:
            raise Unusable(f'unknown field "{_shown(name)}"{did_you_mean(str(name), FIELDS[kind])}', _shown(name))


def _named(fields: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, str]:
    """Which of the names is given, and its value as text."""
    given = [name for name in names if not _missing(fields.get(name))]
    if not given:
        raise Unusable(f"it names no prediction: give one of {', '.join(names)}", names[0])
    if len(given) > 1:
        raise Unusable(f"it is named twice, by {' and '.join(given)}: give one of them", given[1])
    return _BY[given[0]], _key(fields[given[0]], given[0])


def _key(value: Any, field: str) -> str:
    """An id as text; a number that a table made of it (1042.0) is the integer that was meant."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable(f"{_shown(value)} is no id", field)
    if isinstance(value, float):
        if not value.is_integer():
            raise Unusable(f"{_shown(value)} is no id", field)
        value = int(value)
    return _short(str(value).strip(), field)


def _label(value: Any) -> str:
    if _missing(value):
        raise Unusable("the label is missing", "label")
    if isinstance(value, Mapping | list | tuple | bytes):
        raise Unusable(f"{_shown(value)} is no label: give a class or a number", "label")
    if isinstance(value, float) and math.isinf(value):
        raise Unusable("the label is infinite", "label")
    return _short(label_text(value), "label")


def _value(value: Any) -> float:
    if _missing(value):
        return 1.0
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise Unusable(f"{_shown(value)} is no number", "value")
    return number


def _short(text: str, field: str) -> str:
    if len(text) > _LONGEST:
        raise Unusable(f"it is longer than {_LONGEST} characters", field)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        # JSON can spell halves of characters, and reading a file keeps its wrong bytes as such halves.
        raise Unusable("it is not text in UTF-8", field)
    return text


def _missing(value: Any) -> bool:
    """Nothing, an empty cell, or the NaN and NaT that tables write for one."""
    return value is None or (isinstance(value, str) and not value.strip()) or bool(value != value)  # noqa: PLR0124


def _shown(value: Any) -> str:
    text = (value if isinstance(value, str) else repr(value)).encode(errors="backslashreplace").decode()
    return text if len(text) <= 40 else text[:37] + "..."  # noqa: PLR2004 - what one still reads in a line
