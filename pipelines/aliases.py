"""MLflow's aliases follow the ledger: set again from it whenever they differ, never the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.core.errors import TidegateError
from tidegate.pipelines.environment import Environment
from tidegate.registry import sqlite_probe
from tidegate.registry.mlflow_registry import explain
from tidegate.registry.state import State

if TYPE_CHECKING:
    from tidegate.core.progress import Progress


def names(env: str) -> tuple[str, str]:
    """The aliases of champion and challenger; environments that share one MLflow do not overwrite each other."""
    prefix = "" if env == "local" else f"{env}-"
    return f"{prefix}champion", f"{prefix}challenger"


def key(state: State) -> str:
    """What the aliases should say, as one word: it is kept in a file once MLflow says it too."""
    return f"{state.champion} {state.challenger}"


def told(environment: Environment) -> str:
    """The `key` that MLflow was last told, empty if it never was."""
    try:
        return _file(environment).read_text()
    except OSError:
        return ""


def sync(environment: Environment, progress: Progress) -> None:
    """Point the aliases at what the ledger says; MLflow being down is said, and mended by the next call."""
    state = environment.state()
    try:
        while True:
            _point(environment, state)
            before, state = state, environment.state()
            # Two who do this at once must both end with the newest state.
            if key(before) == key(state):
                break
        file = _file(environment)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(key(state))
    except Exception as error:
        known = error if isinstance(error, TidegateError) else explain(error)
        if known is None and not isinstance(error, OSError):
            raise
        why = known.message if known is not None else str(error)
        progress.note(f"MLflow's aliases could not be moved: {why} The ledger is right; they follow later.")


def _point(environment: Environment, state: State) -> None:
    wanted = dict(zip(names(environment.project.env), (state.champion, state.challenger), strict=True))
    uri = environment.project.mlflow_uri
    if state.versions and not sqlite_probe.probe(uri):
        raise TidegateError(f"MLflow's database {uri} is gone.", "A new one would hide that: put it back.")
    registry = environment.registry
    current = {alias: version.version for version in registry.list() for alias in version.aliases}
    for alias, release in wanted.items():
        # A release without a version is a mistake elsewhere; an alias that was right is not taken for it.
        version = state.versions.get(release) if release else None
        if version is not None and current.get(alias) != version:
            registry.set_alias(alias, version)
        if release is None and alias in current:
            registry.delete_alias(alias)


def _file(environment: Environment) -> Path:
    return environment.run_dir / "aliases"
