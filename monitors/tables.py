"""Rows that are compared, read column by column by DuckDB: memory is that of one column, whatever the rows are many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tidegate.monitors.facts import KEPT, Kind
from tidegate.serving.telemetry import quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

    from tidegate.monitors.distances import Counts, Floats

MEMORY: Final = "300MB"
"""What DuckDB keeps in memory; beyond it counts go to a temporary file."""
_THREADS: Final = 2
_NUMBERS: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")
_WHOLE: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_SHOWN: Final = 5


@contextmanager
def connection() -> Iterator[DuckDBPyConnection]:
    """A DuckDB of this process alone, within bounds of memory and threads."""
    import tempfile

    import duckdb

    with tempfile.TemporaryDirectory(prefix="tidegate-duckdb-") as scratch, duckdb.connect() as opened:
        opened.execute(f"set memory_limit = '{MEMORY}'")
        opened.execute(f"set threads = {_THREADS}")
        opened.execute(f"set temp_directory = '{scratch}'")
        opened.execute("set enable_progress_bar = false")
        yield opened


def parquet(opened: DuckDBPyConnection, path: Path | str) -> DuckDBPyRelation:
    """The rows of a Parquet file."""
    return opened.read_parquet(str(path), hive_partitioning=False)


@dataclass(frozen=True)
class Table:
    """Columns of a relation under the names that a reference has for them.

    Args:
        opened: the connection.
        relation: the rows.
        prefix: what its names begin with before the reference's, `input.`.
    """

    opened: DuckDBPyConnection
    relation: DuckDBPyRelation
    prefix: str = ""

    @cached_property
    def kinds(self) -> Mapping[str, Kind | None]:
        """The kind of each column; None for what no model takes (a list, a struct)."""
        return {
            name.removeprefix(self.prefix): kind_of(str(kind))
            for name, kind in zip(self.relation.columns, self.relation.types, strict=True)
            if name.startswith(self.prefix)
        }

    def where(self, condition: str) -> Table:
        """The rows that a SQL condition holds for."""
        return Table(self.opened, self.relation.filter(condition), self.prefix)

    def rows(self) -> int:
        """How many there are."""
        return _one(self.relation.aggregate("count(*)"))[0]  # type: ignore[no-any-return]  # an int

    def present(self, names: Sequence[str]) -> dict[str, int]:
        """Rows with a value in each column, in one pass over all of them."""
        if not names:
            return {}
        counts = ", ".join(f"count({self.quoted(name)})" for name in names)
        return dict(zip(names, _one(self.relation.aggregate(counts)), strict=True))

    def numbers(self, name: str) -> Floats:
        """A column as float64 in the order of the rows, NaN where there is no finite number."""
        found = self.relation.project(f"{self.quoted(name)}::double as it").fetchnumpy()["it"]
        values: Floats = np.ma.filled(found, np.nan) if isinstance(found, np.ma.MaskedArray) else np.asarray(found)
        return np.where(np.isfinite(values), values, np.nan)

    def quoted(self, name: str) -> str:
        """The column's name as SQL, whatever is in it."""
        return quoted(self.prefix + name)

    def categories(self, name: str) -> dict[str, int]:
        """The rows of each category, missing values left out."""
        column = self.quoted(name)
        counted = self.relation.filter(f"{column} is not null").aggregate(f"{column}::varchar as it, count(*) as n")
        return dict(counted.fetchall())

    def counted(self, name: str, counts: str) -> DuckDBPyRelation:
        """The column's categories as `it`, a missing value among them, each with `counts`."""
        return self.relation.aggregate(f"{self.quoted(name)}::varchar as it, {counts}")

    def codes(self, name: str, kept: Sequence[str]) -> Counts:
        """Each row's place in `kept`, in the order of the rows; what is not there has the place behind the last."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.relation.project(f"{self.quoted(name)}::varchar as it").to_arrow_table().column("it")
        places = pc.index_in(column, value_set=pa.array(kept, pa.string()))
        codes: Counts = pc.fill_null(places, len(kept)).to_numpy()
        return codes


@dataclass(frozen=True, slots=True)
class Both:
    """The categories of a reference and a window, side by side.

    Attributes:
        names: the most frequent categories of both together, most frequent first; None is a missing value.
        reference, window: rows of each of these, and of all rarer ones together behind them.
        new: the most frequent categories that only the window has, with its rows; at most five.
        new_rows, new_count: of all of these.
    """

    names: Sequence[str | None]
    reference: Counts
    window: Counts
    new: Mapping[str, int]
    new_rows: int
    new_count: int


def side_by_side(reference: Table, window: Table, name: str) -> Both:
    """Count a column of categories in both; a missing value is a category of its own."""
    opened = window.opened
    counted = reference.counted(name, "count(*) as r, 0 as w").union(window.counted(name, "0 as r, count(*) as w"))
    opened.execute("drop table if exists both_sides")
    counted.aggregate("it, sum(r)::bigint as r, sum(w)::bigint as w").create("both_sides")
    kept = opened.execute(f"select it, r, w from both_sides order by r + w desc, it limit {KEPT}").fetchall()  # noqa: S608 - a number of ours
    new = opened.execute("select it, w from both_sides where r = 0 and it is not null order by w desc, it").fetchmany(
        _SHOWN
    )
    totals = opened.execute(
        "select sum(r), sum(w), count(*) filter (r = 0 and it is not null),"
        " coalesce(sum(w) filter (r = 0 and it is not null), 0) from both_sides"
    ).fetchall()
    all_r, all_w, new_count, new_rows = map(int, totals[0])
    names, r, w = zip(*kept, strict=True)
    return Both(
        names,
        np.array([*r, all_r - sum(r)], dtype=np.int64),
        np.array([*w, all_w - sum(w)], dtype=np.int64),
        dict(new),
        new_rows,
        new_count,
    )


def kind_of(kind: str) -> Kind | None:
    """The kind of a SQL type."""
    if kind in {"VARCHAR", "UUID"} or kind.startswith("ENUM"):
        return "string"
    if kind == "BOOLEAN":
        return "boolean"
    if kind.startswith(("TIMESTAMP", "DATE")):
        return "datetime"
    if kind.removeprefix("U").startswith(_WHOLE):
        return "integer"
    return "number" if kind.startswith(_NUMBERS) else None


def _one(relation: DuckDBPyRelation) -> tuple[Any, ...]:
    return tuple(relation.fetchall()[0])
