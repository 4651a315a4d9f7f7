"""A file against a file, or against what a release learnt from: drift without a stack, and without a project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import UsageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from tidegate.core.config_live import Monitor
    from tidegate.monitors.drift import Known
    from tidegate.monitors.facts import Kind
    from tidegate.monitors.outcomes import Compared
    from tidegate.monitors.report import Made
    from tidegate.monitors.tables import Table
    from tidegate.pipelines.environment import Environment

_PARQUET = frozenset({".parquet", ".pq"})


def compare_files(
    current: Path, reference: Path | Environment, policy: Monitor, *, draw: bool = False
) -> tuple[Compared, Made | None]:
    """Compare all rows of a file.

    Args:
        current: csv or parquet.
        reference: another file, or the environment whose champion's reference is meant.
        policy: the section `monitor`.
        draw: whether Evidently draws a sample, too.

    Raises:
        UsageError: a file is missing or of another kind, or there is no champion.
        TidegateError: a file cannot be read, or the reference is damaged.
    """
    from tidegate.monitors import report
    from tidegate.monitors.drift import compare
    from tidegate.monitors.tables import connection

    with connection() as opened:
        known = _file(opened, "reference", reference) if isinstance(reference, Path) else _champion(opened, reference)
        window = _window(opened, current)
        compared = compare(known, window, None, policy)
        if not draw or not compared.columns:
            return compared, None
        sides = report.Sides(known, window, None)
        return compared, report.make(sides, compared, policy.drift, current.name)


def document(compared: Compared, current: Path) -> dict[str, Any]:
    """The document of `monitor run`; a file has no time and no windows before it."""
    return {
        "kind": "drift",
        "window": {"from": None, "to": None, "rows": compared.rows, "file": str(current)},
        "release": None,
        "version": None,
        **compared.to_json(),
        "drifted": compared.outcome == "drift",
        "quality": None,
        "retrain": {"asked": False, "reason": "a look at a file asks for nothing"},
        "report": None,
    }


def _file(opened: DuckDBPyConnection, name: str, path: Path) -> Known:
    from tidegate.monitors.drift import Known, Side
    from tidegate.monitors.reference import facts

    table = _table(opened, name, path)
    kinds: dict[str, Kind] = {column: kind for column, kind in table.kinds.items() if kind is not None}
    return Known(Side(facts(table, kinds), table))


def _champion(opened: DuckDBPyConnection, environment: Environment) -> Known:
    from tidegate.monitors import reference
    from tidegate.registry import releases

    champion = environment.state().champion
    if champion is None:
        raise UsageError("There is no champion to compare with.", "Name a file: `--reference FILE`.")
    release = releases.load(environment.store, champion)
    if release.reference is None:
        raise UsageError(
            f"Release {release.id} was made before references were kept.",
            "Name a file (`--reference FILE`), or make a new release: `tidegate ship`.",
        )
    return reference.opened(environment.store, release.reference, opened)[1]


def _window(opened: DuckDBPyConnection, path: Path) -> Table:
    """The rows of the file; recorded predictions have their request columns under `input.`."""
    from dataclasses import replace

    from tidegate.serving.telemetry import INPUT

    table = _table(opened, "window", path)
    return replace(table, prefix=INPUT) if any(name.startswith(INPUT) for name in table.relation.columns) else table


def _table(opened: DuckDBPyConnection, name: str, path: Path) -> Table:
    from tidegate.monitors.tables import Table, parquet

    if path.suffix in _PARQUET and path.is_file():
        return Table(opened, _readable(opened, path, parquet))
    opened.register(name, _rows(path))
    return Table(opened, opened.table(name))


def _readable(opened: DuckDBPyConnection, path: Path, read: Any) -> Any:
    import duckdb

    from tidegate.core.errors import TidegateError

    try:
        return read(opened, path)
    except duckdb.Error as error:
        raise TidegateError(f"{path} is not a readable parquet file: {error}", "Write it again.") from error


def _rows(path: Path) -> Any:
    """The typed rows of a text file, or its bare columns where it has no row."""
    import pandas as pd

    from tidegate.pipelines.dataset import read_frame
    from tidegate.serving.table_files import open_reader

    if path.is_file() and path.suffix in {".csv", ".tsv"} and path.stat().st_size:
        reader = open_reader(path)
        if not any(reader.chunks(1)):
            return pd.DataFrame({name: pd.Series(dtype=object) for name in reader.names})
    return read_frame(path)
