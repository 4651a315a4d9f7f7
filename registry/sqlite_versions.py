"""Reads versions from MLflow's sqlite file without MLflow, whose import takes ten times as long as all the rest.

Only ever reads, and only what it knows: a file whose tables differ from what is expected here is left to MLflow.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, TypeVar

from tidegate.core.artifacts import ModelVersion
from tidegate.registry import sqlite_probe
from tidegate.registry.tags import ADOPTED_TAG, COMMIT_TAG, DATA_TAG, DIRTY_TAG, HASH_TAG

T = TypeVar("T")

# `workspace` is asked for so that a file from before it existed, or one that is shared by several, is left to MLflow.
_VERSIONS = (
    "SELECT version, coalesce(run_id, ''), lower(status), source FROM model_versions "
    "WHERE name = ? AND workspace = 'default' AND current_stage <> 'Deleted_Internal' ORDER BY version DESC"
)
_TAGS = "SELECT version, key, value FROM model_version_tags WHERE name = ? AND workspace = 'default'"
_ALIASES = "SELECT version, alias FROM registered_model_aliases WHERE name = ? AND workspace = 'default' ORDER BY alias"
_METRICS = (
    "SELECT key, CASE WHEN is_nan THEN 'nan' ELSE value END FROM latest_metrics WHERE run_uuid = ? ORDER BY rowid"
)
_LOGGED = "SELECT value FROM tags WHERE run_uuid = ? AND key = ?"
_PARAMS = "SELECT key, value FROM params WHERE run_uuid = ?"


def versions(uri: str, model: str) -> tuple[ModelVersion, ...] | None:
    """Every version of a model, newest first; None where only MLflow can tell."""
    return _read(uri, lambda connection: _versions(connection, model))


def params(uri: str, run_id: str) -> dict[str, str] | None:
    """The params of a run, empty if there is no such run; None where only MLflow can tell."""
    return _read(uri, lambda connection: dict(connection.execute(_PARAMS, (run_id,)).fetchall()))


def _read(uri: str, look: Callable[[sqlite3.Connection], T]) -> T | None:
    file = sqlite_probe.database(uri)
    if file is None or not file.exists():
        return None
    try:
        with closing(sqlite_probe.opened(file)) as connection:
            return look(connection)
    except sqlite3.OperationalError:  # locked for long, or other tables than these
        return None


def _versions(connection: sqlite3.Connection, model: str) -> tuple[ModelVersion, ...]:
    tags: dict[int, dict[str, str]] = defaultdict(dict)
    for version, key, value in connection.execute(_TAGS, (model,)):
        tags[version][key] = value or ""
    aliases: dict[int, list[str]] = defaultdict(list)
    for version, alias in connection.execute(_ALIASES, (model,)):
        aliases[int(version)].append(alias)
    rows = connection.execute(_VERSIONS, (model,)).fetchall()
    return tuple(_version(connection, model, row, tags[row[0]], tuple(aliases[row[0]])) for row in rows)


def _version(
    connection: sqlite3.Connection,
    model: str,
    row: tuple[Any, ...],
    tags: Mapping[str, str],
    aliases: tuple[str, ...],
) -> ModelVersion:
    number, run_id, status, source = row
    metrics = {key: float(value) for key, value in connection.execute(_METRICS, (run_id,))}
    logged = connection.execute(_LOGGED, (run_id, HASH_TAG)).fetchone()
    return ModelVersion(
        name=model,
        version=number,
        run_id=run_id,
        aliases=aliases,
        git_commit=tags.get(COMMIT_TAG, ""),
        git_dirty=tags.get(DIRTY_TAG) == "true",
        data_md5=tags.get(DATA_TAG, ""),
        metrics=metrics,
        status=status,
        source=source or "",
        own=bool(logged and logged[0]) and tags.get(HASH_TAG) == logged[0] and ADOPTED_TAG not in tags,
    )
