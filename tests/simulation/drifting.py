"""Columns of every shape, moved by so many of their own spreads: for the tests and the table in docs/drift.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from tidegate.core.config_live import Drift, Monitor
from tidegate.monitors.drift import Known, Side, compare
from tidegate.monitors.facts import Kind
from tidegate.monitors.reference import facts
from tidegate.monitors.tables import Table, connection

KINDS: Final[dict[str, Kind]] = {
    "normal": "number",
    "Student's t, 2 degrees": "number",
    "lognormal": "number",
    "zero in 8 of 10 rows": "number",
    "integer codes": "integer",
    "1,000 categories, equal": "string",
    "1,000 categories, Zipf": "string",
    "boolean": "boolean",
    "constant": "number",
}
NEVER_MOVES: Final = frozenset({"constant"})

_CATEGORIES: Final = 1_000
_NAMES: Final = np.array([f"item {number}" for number in range(_CATEGORIES)])
_ZIPF: Final = np.cumsum(1 / np.arange(1, _CATEGORIES + 1) ** 1.1)
# The spread of each shape before it is moved: standard deviations, and the winsorised one where tails are heavy.
_T_SPREAD, _LOG_SPREAD, _ZERO_SPREAD = 1.55, 1.48, 0.41


def draw(random: np.random.Generator, rows: int, shift: float = 0.0) -> pd.DataFrame:
    """Rows of all shapes, each moved by `shift` of its own spread.

    Codes and categories are ranks of a hidden number that is moved; a share moves by so many standard deviations.
    """
    hidden = random.standard_normal((3, rows)) + shift
    zero = random.uniform(size=rows) < 0.8
    return pd.DataFrame(
        {
            "normal": random.standard_normal(rows) + shift,
            "Student's t, 2 degrees": random.standard_t(2, rows) + shift * _T_SPREAD,
            "lognormal": random.lognormal(size=rows) + shift * _LOG_SPREAD,
            "zero in 8 of 10 rows": np.where(zero, 0.0, random.exponential(size=rows)) + shift * _ZERO_SPREAD,
            "integer codes": np.round(3 * hidden[0]).astype(np.int64),
            "1,000 categories, equal": _NAMES[_ranks(hidden[1], np.arange(1, _CATEGORIES + 1) / _CATEGORIES)],
            "1,000 categories, Zipf": _NAMES[_ranks(hidden[2], _ZIPF / _ZIPF[-1])],
            "boolean": random.uniform(size=rows) < 0.3 + shift * 0.46,
            "constant": np.ones(rows),
        }
    )


def _ranks(hidden: np.ndarray, shares: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    return np.minimum(np.searchsorted(shares, ndtr(hidden)), _CATEGORIES - 1)


@dataclass(frozen=True)
class Alarms:
    """How many of `draws` windows were called drift, for each column."""

    draws: int
    columns: dict[str, int]


def alarms(rows: int, draws: int, shift: float, policy: Drift | None = None, *, seed: int = 0) -> Alarms:
    """Compare windows of so many rows with a reference of as many; a new reference for every tenth window.

    Args:
        rows: of each side.
        draws: windows.
        shift: of the windows, in spreads.
        policy: distances and threshold.
        seed: of everything.
    """
    random = np.random.default_rng([seed, rows, round(shift * 1000)])
    monitor = Monitor(drift=policy or Drift())
    counts = dict.fromkeys(KINDS, 0)
    with connection() as opened:

        def table(name: str, frame: pd.DataFrame) -> Table:
            opened.register(name, frame)
            return Table(opened, opened.table(name))

        for number in range(draws):
            if number % 10 == 0:
                past = table("past", draw(random, rows))
                known = Known(Side(facts(past, KINDS), past))
            for column in compare(known, table("now", draw(random, rows, shift)), None, monitor).columns:
                counts[column.name] += column.drifted
    return Alarms(draws, counts)
