"""What a data file is about: the task, the columns to leave out, the name of the model. Each guess is said aloud."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tidegate.core.errors import TidegateError, UsageError
from tidegate.pipelines.dataset import ColumnKind, did_you_mean, kinds
from tidegate.pipelines.steps.contract_draft import is_identifier

if TYPE_CHECKING:
    import pandas as pd

Task = Literal["classification", "regression"]

CLASSES: Final = 20  # a whole-number target with more different values is a quantity
ROWS_PER_CLASS: Final = 10  # so few rows each, and the values are a quantity too
TEXT: Final = 100  # different values; a column with so many, nearly all of them different, is prose
HOLDOUT: Final = 0.2  # of the rows
TOLERANCE: Final = 0.005  # the config's own default for gate.tolerance
# Half the width of the gate's 95 % interval, times the root of the held-out rows, for two models that differ by a
# param: about 0.1 in the median, 0.2 covers nine in ten (roc_auc and r2; 60 to 45,000 rows, default train.py).
_SPREAD: Final = 0.2
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Inferred:
    """What was read from the data; `notes` has a sentence for each guess a person may want to correct."""

    task: Task
    kinds: dict[str, ColumnKind]
    drop: tuple[str, ...]
    tolerance: float
    notes: tuple[str, ...] = field(default=())


def infer(frame: pd.DataFrame, target: str, time: str | None) -> Inferred:
    """Look at canonical columns.

    Raises:
        UsageError: there is no such target or time column, or it is of a kind that cannot be one.
        TidegateError: nothing to learn from.
    """
    found = kinds(frame)
    for option, name in (("--target", target), ("--time", time)):
        if name is not None and name not in found:
            raise UsageError(f"{option}: the data has no column {name!r}", did_you_mean(name, list(found)))
    if time is not None and found[time] not in {"datetime", "number", "integer"}:
        raise UsageError(
            f"--time: {time!r} is a {found[time]} column",
            "Times are read as YYYY-MM-DD or YYYY-MM-DD HH:MM:SS. If the file is in time order, leave --time out and "
            "write `split: {by: time}` in tidegate.yaml.",
        )
    task = _task(frame[target], target, found[target])
    notes = [f"the task is {task}: {target!r} is {_described(frame[target], found[target])}"]
    if unlabelled := int(frame[target].isna().sum()):
        notes.append(f"{unlabelled:,} rows have no {target!r}; they are left out of training")
    drop: dict[str, str] = {}
    for name in found:
        if name not in {target, time} and (reason := _useless(frame[name], name, found[name])):
            drop[name] = reason
    if len(drop) + 1 == len(found):
        raise TidegateError("No column is left to learn from", f"Besides {target!r} there is nothing of use.")
    notes += [f"{name!r} is dropped: {reason}" for name, reason in drop.items()]
    accepted = tolerance(frame[target], task)
    if accepted > TOLERANCE:
        notes.append(f"gate.tolerance is {accepted:g}: so few rows are held out that they cannot tell less apart")
    return Inferred(task, found, tuple(drop), accepted, tuple(notes))


def tolerance(target: pd.Series[Any], task: Task) -> float:
    """How much worse than the champion a model may be, at the least what the held-out rows can tell apart.

    A smaller tolerance would refuse nearly every change on a small table, better models too. Of two classes the rarer
    one counts twice: only its rows are few.
    """
    present = target.dropna()
    rows = len(present)
    if task == "classification" and present.nunique() == 2:  # noqa: PLR2004 - yes and no
        rows = 2 * int(present.value_counts().min())
    return max(TOLERANCE, math.ceil(1000 * _SPREAD / math.sqrt(max(HOLDOUT * rows, 1))) / 1000)


def _task(target: pd.Series[Any], name: str, kind: ColumnKind) -> Task:
    present = target.dropna()
    distinct = present.nunique()
    if distinct < 2:  # noqa: PLR2004 - one value is nothing to tell apart
        raise TidegateError(
            f"The target {name!r} has {'no value' if not distinct else 'the same value in every row'}",
            "A model needs at least two different values to learn from.",
        )
    if kind == "datetime":
        raise UsageError(f"--target: {name!r} is a time", "Name a column of numbers, booleans or text.")
    if kind == "string" and distinct > max(CLASSES, len(present) // 2):
        raise UsageError(
            f"--target: {name!r} has {distinct:,} different texts in {len(present):,} rows",
            "That is no category. Is it a number written in words, or the wrong column?",
        )
    if kind in {"string", "boolean"}:
        return "classification"
    whole = bool((present % 1 == 0).all())
    if whole and distinct <= CLASSES and (distinct == 2 or len(present) >= ROWS_PER_CLASS * distinct):  # noqa: PLR2004 - yes and no
        return "classification"
    return "regression"


def _described(target: pd.Series[Any], kind: ColumnKind) -> str:
    distinct = target.nunique()
    article = "an" if kind == "integer" else "a"
    return f"{article} {kind} column with {distinct:,} different value{'s' if distinct != 1 else ''}"


def _useless(column: pd.Series[Any], name: str, kind: ColumnKind) -> str:
    """Why a column is left out, or an empty text."""
    if column.isna().all():
        return "it has no value at all"
    if is_identifier(column, name, kind):
        return "it names the row"
    distinct = column.nunique()
    if kind == "string" and distinct > TEXT and distinct > len(column) // 2:
        return f"it is text with {distinct:,} different values"
    return ""


def safe_name(path: Path) -> str:
    """A model's and file's name from a file's: letters, digits, `_` and `-`."""
    return _UNSAFE.sub("-", path.stem).strip("-_") or "model"
