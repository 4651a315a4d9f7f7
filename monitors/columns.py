"""One column of a window against the reference: what is compared, how far apart it is, and what must never pass."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from tidegate.monitors import distances, noise
from tidegate.monitors.facts import Facts
from tidegate.monitors.noise import Method
from tidegate.monitors.outcomes import ColumnResult
from tidegate.monitors.tables import Table, side_by_side

if TYPE_CHECKING:
    from tidegate.core.config_live import Drift
    from tidegate.monitors.distances import Counts
    from tidegate.monitors.tables import Both

# Of the rows: with more distinct values than this, a column names its rows, and new names are what it is for.
_NAMES: Final = 0.9
_NUMBERS: Final = frozenset({"number", "integer"})
_PARTS: Final = re.compile(r"((?:(?<!\w)-)?\d+(?:\.\d+)?)|(\D+?(?=-?\d|$))")
_DISTANCES: Final = {"jensenshannon": distances.jensen_shannon, "psi": distances.psi}


@dataclass(frozen=True)
class Pair:
    """A column in both places.

    Args:
        name: of the column.
        facts: of the reference.
        reference: its rows.
        window: the rows to judge.
        rows: how many these are.
        present: of these, the rows with a value; None: there is no such column.
    """

    name: str
    facts: Facts
    reference: Table
    window: Table
    rows: int
    present: int | None

    @property
    def nulls(self) -> tuple[float, float]:
        """The share of rows without a value, in the reference and in the window."""
        return self.facts.nulls / self.facts.rows, 1 - (self.present or 0) / self.rows


def judge(pair: Pair, policy: Drift, min_rows: int) -> ColumnResult:
    """The result of a column, its weight left out.

    Args:
        pair: the column in both places.
        policy: distances and threshold.
        min_rows: fewer rows of either give no verdict.
    """
    unfit = _unfit(pair, min_rows)
    if unfit is not None:
        return unfit
    if pair.facts.kind == "datetime":
        moves = "Times move on by themselves, so only missing ones are compared."
        return _missing_too(_plain(pair, "ok", moves), pair, policy.threshold)
    if pair.facts.numeric:
        return _missing_too(_numbers(pair, policy), pair, policy.threshold)
    if pair.facts.distinct > _NAMES * (pair.facts.rows - pair.facts.nulls):
        named = "Nearly every row has a value of its own, so only missing ones are compared."
        return _missing_too(_plain(pair, "ok", named), pair, policy.threshold)
    return _categories(pair, policy)


def _unfit(pair: Pair, min_rows: int) -> ColumnResult | None:
    """What has a name of its own instead of a distance; what is not there as it was has drifted."""
    facts = pair.facts
    if pair.rows < min_rows or facts.rows < min_rows:
        few = f"{pair.rows:,} rows against {facts.rows:,} of the reference; min_rows is {min_rows:,}."
        return _plain(pair, "too_few_rows", few)
    if facts.nulls == facts.rows:
        return _plain(pair, "no_reference", "The reference has no value of it.")
    if pair.present is None:
        return _gone(pair, "missing_column", "The window has no such column.")
    if not pair.present:
        return replace(_gone(pair, "all_null", "No row of the window has a value."), nulls=pair.nulls)
    found = pair.window.kinds[pair.name]
    if found == facts.kind or {found, facts.kind} <= _NUMBERS:
        return None
    was = f"It was {_a(facts.kind)} in the reference, and is {_a(found or 'list or structure')} now."
    return replace(_gone(pair, "type_changed", was), nulls=pair.nulls)


def _numbers(pair: Pair, policy: Drift) -> ColumnResult:
    facts = pair.facts
    values = pair.window.numbers(pair.name)
    values = np.sort(values[np.isfinite(values)])
    if not len(values):
        return _gone(pair, "all_null", "No row of the window has a finite number.")
    if facts.scale == 0:
        return _constant(pair, float(np.mean(values != facts.low)), policy.threshold)
    method = policy.numerical
    if method == "wasserstein":
        value, chance = _wasserstein(pair, values)
    else:
        before, now = np.asarray(facts.counts), distances.binned(values, np.asarray(facts.edges))
        value, chance = _of_counts(method, before, now)
    limit = noise.limit(method, policy.threshold, chance, facts.season_of(method, len(values)))
    means = (facts.mean or 0.0, float(values.mean()))
    return replace(_result(pair, method, value, limit, policy.threshold), means=means)


def _wasserstein(pair: Pair, values: distances.Floats) -> tuple[float, float]:
    """The distance and its noise, in units of the reference's spread."""
    facts = pair.facts
    known = pair.reference.numbers(pair.name)
    known = np.clip(np.sort(known[np.isfinite(known)]), *facts.fences)
    value = distances.wasserstein(known, np.clip(values, *facts.fences)) / facts.scale
    return value, noise.wasserstein_noise(facts.unit, len(known), len(values)) / facts.scale


def _constant(pair: Pair, changed: float, threshold: float) -> ColumnResult:
    """A reference without spread has no unit: what counts is the share of rows that are something else."""
    was = f"It was always {pair.facts.low:g}." if changed else ""
    return replace(_result(pair, "share_changed", changed, threshold, threshold), note=was)


def _categories(pair: Pair, policy: Drift) -> ColumnResult:
    """The look that passes its own limit by most decides; what the others see is less."""
    both = side_by_side(pair.reference, pair.window, pair.name)
    method: Method = policy.categorical
    season = pair.facts.season_of(method, pair.rows)
    seen = []
    for look, groups in looks(both.names, both.reference + both.window).items():
        before, now = (np.bincount(groups, counts).astype(np.int64) for counts in (both.reference, both.window))
        value, chance = _of_counts(method, before, now)
        seen.append((value, noise.limit(method, policy.threshold, chance, season), look))
    value, limit, look = max(seen, key=lambda one: one[0] - one[1])
    result = replace(_result(pair, method, value, limit, policy.threshold), nulls=pair.nulls)
    return _with_new(replace(result, note=look if result.drifted else ""), pair, both)


def looks(names: Sequence[str | None], rows: Counts) -> dict[str, Counts]:
    """Ways to group categories before they are compared, each with what it shows: category -> group.

    A thousand categories in 500 rows lie so far apart by chance that a change of the largest one is lost among them.
    So they are looked at one by one, as the nine largest against the rest, and in ten groups of neighbours (codes,
    hours and sizes have an order). All three go by both samples together, so chance deals with both alike.

    Args:
        names: of the categories, most frequent first.
        rows: of each in both samples, and of all rarer ones behind them.
    """
    single = np.arange(len(rows))
    found = {"": single}
    if np.count_nonzero(rows) > distances.BINS:
        found["Seen in its most frequent categories."] = np.minimum(single, distances.BINS - 1)
        order = sorted(range(len(names)), key=lambda place: _natural(names[place]))
        before = np.cumsum(rows[order]) - rows[order] / 2
        neighbours = np.full(len(rows), distances.BINS)
        neighbours[order] = np.minimum(before * distances.BINS // max(1, rows[order].sum()), distances.BINS - 1)
        found["Seen in groups of neighbouring categories."] = neighbours
    return found


def _natural(name: str | None) -> list[tuple[int, float, str]]:
    """Sorts x9 before x10, and -5 before 3."""
    parts = _PARTS.findall(name or "")
    return [(0, float(number), "") if number else (1, 0.0, text) for number, text in parts]


def _with_new(result: ColumnResult, pair: Pair, both: Both) -> ColumnResult:
    """Name categories that the reference never saw, where they are more than its own rare ones foretell.

    What a new row brings that was never seen has about the chance of what was seen once (Good 1953, Turing).
    """
    if not both.new_rows:
        return result
    expected = (pair.facts.once + 1) / pair.facts.rows
    share = both.new_rows / pair.rows
    new = {category: rows / pair.rows for category, rows in both.new.items()}
    if share <= expected + noise.share_noise(min(expected, 0.5), pair.facts.rows, pair.rows):
        return result
    named = f"{both.new_count:,} new {'category' if both.new_count == 1 else 'categories'} in {share:.1%} of the rows."
    return replace(result, outcome="new_category", new=new, note=named)


def _of_counts(method: Method, reference: Counts, window: Counts) -> tuple[float, float]:
    return float(_DISTANCES[method](reference, window)), noise.shares_noise(method, reference, window)


def _missing_too(result: ColumnResult, pair: Pair, threshold: float) -> ColumnResult:
    """Missing values are no numbers, so no distance between numbers sees more of them."""
    before, now = pair.nulls
    chance = noise.share_noise((before + now) / 2, pair.facts.rows, pair.rows)
    if abs(now - before) <= math.hypot(threshold, chance):
        return replace(result, nulls=pair.nulls)
    more = f"Missing values went from {before:.1%} to {now:.1%} of the rows."
    return replace(result, outcome="drifted", drifted=True, nulls=pair.nulls, note=more)


def _result(pair: Pair, method: str, value: float, limit: float, threshold: float) -> ColumnResult:
    drifted = value > limit
    return ColumnResult(
        pair.name,
        pair.facts.kind,
        "drifted" if drifted else "ok",
        drifted,
        method=method,
        value=round(value, 6),
        floor=round(limit - threshold, 6),
        threshold=threshold,
    )


def _plain(pair: Pair, outcome: str, note: str) -> ColumnResult:
    return ColumnResult(pair.name, pair.facts.kind, outcome, drifted=False, note=note)  # type: ignore[arg-type]  # ours


def _gone(pair: Pair, outcome: str, note: str) -> ColumnResult:
    return replace(_plain(pair, outcome, note), drifted=True)


def _a(kind: str) -> str:
    return {"integer": "an integer"}.get(kind, f"a {kind}")
