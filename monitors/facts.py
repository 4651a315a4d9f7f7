"""What is kept of a reference column: enough to compare a window with it, and to show it without its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np

from tidegate.monitors import distances, noise
from tidegate.monitors.distances import Counts, Floats
from tidegate.monitors.noise import Method

Kind = Literal["number", "integer", "boolean", "string", "datetime"]
Role = Literal["input", "prediction"]
Season = Mapping[str, Mapping[str, float]]

NUMERIC: Final = frozenset({"number", "integer"})
KEPT: Final = 1_000
"""Categories that are told apart; rarer ones are one bin."""
MISSING: Final = "(missing)"
"""The category of rows without a value."""
REST: Final = "(rare)"
"""The bin of categories that are too rare to be told apart."""

# Blocks of the reference that are compared with the rest of it, in rows; a window is judged by the nearest below it.
_BLOCKS: Final = (500, 2_000, 8_000, 32_000, 128_000)
# A season is what no fewer blocks than these can show.
_FEWEST: Final = 4
# Of the blocks, so that one in twenty may be an incident and no season.
_USUAL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Facts:
    """One column of a reference.

    Attributes:
        kind: as in a model's manifest.
        role: a request column, or what the model answered.
        rows: with a value or without.
        nulls: rows without a value.
        importance: what the gate's metric loses when the column is shuffled; None: not known.
        mean, std, low, high: of a numeric column; a category has none.
        scale, heavy, fences: see `distances.spread` and `distances.fences`; scale 0 is a constant column.
        unit: see `noise.wasserstein_unit`.
        edges, counts: the histogram on the column's own deciles.
        distinct: how many categories there are; `categories` holds the most frequent ones with their rows.
        once: categories seen in one row only, which is what new ones are foretold from (Good 1953).
        season: method -> rows of a block -> how far such blocks lie from the rest, beyond chance.
    """

    kind: Kind
    role: Role = "input"
    rows: int = 0
    nulls: int = 0
    importance: float | None = None
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    scale: float = 0.0
    heavy: bool = False
    fences: tuple[float, float] = (0.0, 0.0)
    unit: float = 0.0
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    distinct: int = 0
    once: int = 0
    categories: Mapping[str, int] = field(default_factory=dict)
    season: Season = field(default_factory=dict)

    @property
    def numeric(self) -> bool:
        """Whether it is compared as numbers."""
        return self.kind in NUMERIC

    def to_json(self) -> dict[str, Any]:
        """As `reference.json` holds it."""
        return asdict(self)

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Facts:
        """Read what `to_json` wrote."""
        known = {**document, "fences": tuple(document["fences"])}
        return Facts(**{**known, "edges": tuple(document["edges"]), "counts": tuple(document["counts"])})

    def season_of(self, method: Method, rows: int) -> float:
        """What a window of so many rows may differ by because the reference's own blocks do."""
        sizes = {int(size): value for size, value in self.season.get(method, {}).items()}
        if not sizes:
            return 0.0
        return sizes[max((size for size in sizes if size <= rows), default=min(sizes))]


def of_numbers(values: Floats, kind: Kind, role: Role = "input", *, ordered: bool) -> Facts:
    """The facts of a numeric column.

    Args:
        values: in the reference's order, NaN where there is none.
        kind: number or integer.
        role: of the column.
        ordered: whether the order is that of time, so that blocks of it show seasons.
    """
    present = values[np.isfinite(values)]
    missing = len(values) - len(present)
    if not len(present):
        return Facts(kind, role, len(values), missing)
    scale, heavy = distances.spread(present)
    low, high = distances.fences(present, scale, heavy=heavy)
    arranged = np.sort(present)
    edges = distances.edges_of(arranged)
    clipped = np.clip(arranged, low, high)
    return Facts(
        kind,
        role,
        len(values),
        missing,
        mean=float(present.mean()),
        std=float(present.std()),
        low=float(arranged[0]),
        high=float(arranged[-1]),
        scale=scale,
        heavy=heavy,
        fences=(low, high),
        unit=noise.wasserstein_unit(clipped),
        edges=tuple(edges.tolist()),
        counts=tuple(distances.binned(arranged, edges).tolist()),
        season=_numeric_seasons(present, edges, (low, high, scale)) if ordered and scale > 0 else {},
    )


def of_categories(counts: Mapping[str, int], kind: Kind, role: Role = "input", *, rows: int, nulls: int) -> Facts:
    """The facts of a column of categories from the rows of each of them, missing values left out."""
    often = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return Facts(
        kind,
        role,
        rows,
        nulls,
        distinct=len(counts),
        once=sum(count == 1 for count in counts.values()),
        categories=dict(often[:KEPT]),
    )


def category_seasons(codes: Counts, bins: int) -> Season:
    """How far blocks of a column of categories lie from the rest of it.

    Args:
        codes: the bin of each row, in the order of time.
        bins: how many there are.
    """
    seasons: dict[str, dict[str, float]] = {"jensenshannon": {}, "psi": {}}
    for size in _sizes(len(codes)):
        blocks, rest = _blocks(codes, bins, size)
        for method, distance in (("jensenshannon", distances.jensen_shannon), ("psi", distances.psi)):
            chance = noise.shares_noise(method, rest[0], blocks[0])  # type: ignore[arg-type]  # one of two
            seasons[method][str(size)] = _beyond(method, distance(rest, blocks), chance)  # type: ignore[arg-type]
    return seasons


def _numeric_seasons(values: Floats, edges: Floats, shape: tuple[float, float, float]) -> Season:
    low, high, scale = shape
    seasons = dict(category_seasons(np.searchsorted(edges, values, side="left"), len(edges) + 1))
    clipped = np.clip(values, low, high)
    grid = noise.grid_of(np.sort(clipped))
    codes = np.searchsorted(grid[:-1], clipped, side="left")
    unit = noise.wasserstein_unit(np.sort(clipped))
    areas = {}
    for size in _sizes(len(values)):
        blocks, rest = _blocks(codes, len(grid), size)
        apart = np.cumsum(blocks, axis=1) / size - np.cumsum(rest, axis=1) / (len(values) - size)
        found = np.abs(apart[:, :-1]) @ np.diff(grid) / scale
        chance = noise.wasserstein_noise(unit, len(values) - size, size) / scale
        areas[str(size)] = _beyond("wasserstein", found, chance)
    return {**seasons, "wasserstein": areas}


def _sizes(rows: int) -> list[int]:
    return [size for size in _BLOCKS if rows // size >= _FEWEST]


def _blocks(codes: Counts, bins: int, size: int) -> tuple[Counts, Counts]:
    """Counts of each block of `size` rows, and of all rows but these."""
    blocks = len(codes) // size
    places = np.repeat(np.arange(blocks), size) * bins + codes[: blocks * size]
    found = np.bincount(places, minlength=blocks * bins).reshape(blocks, bins)
    return found, np.bincount(codes, minlength=bins) - found


def _beyond(method: Method, found: Floats, chance: float) -> float:
    return round(noise.beyond(method, float(np.quantile(found, _USUAL, method="higher")), chance), 6)
