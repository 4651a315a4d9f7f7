"""Looks into MLflow's sqlite file without MLflow.

MLflow takes seconds to import and half a minute to report a corrupt file; both questions asked here
(is the file sound, does this run exist) are one SELECT.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from tidegate.core.errors import TidegateError
from tidegate.registry.tags import RESTORES_TAG

_PREFIX = "sqlite:///"
# Where MLflow keeps absolute artifact paths; the statements in `relocate` are built from this table only.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def database(uri: str) -> Path | None:
    """The file behind `sqlite:///PATH`, None for any other address."""
    if not uri.startswith(_PREFIX):
        return None
    return Path(uri.removeprefix(_PREFIX).partition("?")[0])


def artifacts(uri: str) -> str | None:
    """The `file://` folder for artifacts: `mlruns` beside the sqlite file, so both move together."""
    file = database(uri)
    return None if file is None else (file.resolve().parent / "mlruns").as_uri()


def probe(uri: str) -> bool:
    """Whether the sqlite file already holds MLflow's tables; True for any other address.

    Raises:
        TidegateError: the file cannot be read, or is not a sound sqlite database.
    """
    file = database(uri)
    if file is None:
        return True
    if not file.exists():
        return False
    try:
        with closing(opened(file)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise _corrupt(file, "its pages are damaged")
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise TidegateError(
                f"MLflow's database {file} is locked by another process.", "Wait for it to finish, then try again."
            ) from error
        raise _corrupt(file, str(error)) from error
    except sqlite3.DatabaseError as error:
        raise _corrupt(file, str(error)) from error
    return "alembic_version" in tables


def find_run(uri: str, run_id: str) -> str | None:
    """The id under which an undeleted run, or else the copy that restores it, is in the file; None if neither is.

    None also where only MLflow can tell (another kind of address).
    """
    file = database(uri)
    if file is None or not probe(uri):
        return None
    query = (
        "SELECT r.run_uuid FROM runs r WHERE r.lifecycle_stage = 'active' AND (r.run_uuid = ?1 OR r.run_uuid IN "
        "(SELECT t.run_uuid FROM tags t WHERE t.key = ?2 AND t.value = ?1)) ORDER BY r.run_uuid <> ?1 LIMIT 1"
    )
    with closing(opened(file)) as connection:
        row = connection.execute(query, (run_id, RESTORES_TAG)).fetchone()
    return str(row[0]) if row else None


def version_of(uri: str, model: str, run_id: str) -> int | None:
    """The first version registered of a run; None if there is none, or only MLflow can tell."""
    file = database(uri)
    if file is None or not probe(uri):
        return None
    query = "SELECT min(version) FROM model_versions WHERE name = ? AND run_id = ?"
    with closing(opened(file)) as connection:
        found = connection.execute(query, (model, run_id)).fetchone()[0]
    return None if found is None else int(found)


def has_experiment(uri: str, experiment: str) -> bool:
    """Whether the experiment is there; True for an address that only MLflow can look at."""
    file = database(uri)
    if file is None:
        return True
    if not probe(uri):
        return False
    with closing(opened(file)) as connection:
        return connection.execute("SELECT 1 FROM experiments WHERE name = ?", (experiment,)).fetchone() is not None


def relocate(uri: str, experiment: str) -> None:
    """Correct MLflow's absolute artifact paths after the project folder was moved or copied.

    Only the experiment's own former `file://.../mlruns` prefix is replaced; nothing is done when it is right.
    """
    file, here = database(uri), artifacts(uri)
    if file is None or here is None or not probe(uri):
        return
    with closing(sqlite3.connect(file, timeout=10)) as connection, connection:
        row = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
        if row is None or row[0] == here or not row[0].startswith("file://") or not row[0].endswith("/mlruns"):
            return
        was: str = row[0]
        for table, column in _LOCATIONS:
            connection.execute(
                f"UPDATE {table} SET {column} = ?1 || substr({column}, ?2) "  # noqa: S608 - names from _LOCATIONS
                f"WHERE {column} = ?3 OR substr({column}, 1, ?2) = ?3 || '/'",
                (here, len(was) + 1, was),
            )


def opened(file: Path) -> sqlite3.Connection:
    """Read-only, so that a probe can neither create nor change the file."""
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=10)


def _corrupt(file: Path, reason: str) -> TidegateError:
    return TidegateError(
        f"MLflow's database {file} cannot be read: {reason}.",
        f"Restore it from a backup, or move it away (`mv {file} {file}.broken`) and run `tidegate train`: "
        "runs are logged again from the outputs, registered versions are not.",
    )
