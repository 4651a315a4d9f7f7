"""MLflow's aliases follow the ledger: set again from it whenever they differ, never the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.core.errors import TidegateError
from tidegate.pipelines.environment import Environment

if TYPE_CHECKING:
    from tidegate.core.progress import Progress


def names(env: str) -> tuple[str, str]:
    """The aliases of champion and challenger; environments that share one MLflow do not overwrite each other."""
    prefix = "" if env == "local" else f"{env}-"
    return f"{prefix}champion", f"{prefix}challenger"


def sync(environment: Environment, progress: Progress) -> None:
    """Point the aliases at what the ledger says; MLflow being down is said, and mended by the next call."""
    state = environment.state()
    wanted = {
        alias: state.versions.get(release) if release else None
        for alias, release in zip(names(environment.project.env), (state.champion, state.challenger), strict=True)
    }
    try:
        registry = environment.registry
        current = {alias: version.version for version in registry.list() for alias in version.aliases}
        for alias, version in wanted.items():
            if version is not None and current.get(alias) != version:
                registry.set_alias(alias, version)
            if version is None and alias in current:
                registry.delete_alias(alias)
    except TidegateError as error:
        progress.note(f"MLflow's aliases could not be moved: {error.message} The ledger is right; they follow later.")
