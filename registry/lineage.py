"""From a release, a version or a data hash to everything else, both ways."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from tidegate.core.artifacts import Release
from tidegate.core.errors import UsageError
from tidegate.core.store import Store
from tidegate.registry import releases
from tidegate.registry.ledger import Event
from tidegate.registry.state import State


def of_release(release: Release, state: State, events: tuple[Event, ...]) -> dict[str, Any]:
    """Where a release came from and what became of it; `events` are those that name it or one of its rollouts."""
    rollouts = {one.id: one.state for one in state.rollouts if release.id in {one.canary, one.stable}}
    return {
        "release": release.id,
        "model": release.model,
        "version": release.version,
        "run_id": release.run_id,
        "git_commit": release.git_commit,
        "git_dirty": release.git_dirty,
        "data": [{"path": one.path, "md5": one.md5, "rows": one.rows} for one in release.data],
        "bento": release.bento,
        "bundle": release.bundle,
        "champion": state.champion == release.id,
        "rollouts": [{"id": rollout, "state": word} for rollout, word in rollouts.items()],
        "events": [one.to_json() for one in events if _names(one, release.id, rollouts)],
    }


def find_releases(store: Store, question: str) -> list[Release]:
    """The releases that `release:ID`, `version:N` or `data:MD5` asks about; the beginning of an id or md5 is enough.

    Raises:
        UsageError: nothing fits, the question is none, or several releases begin like that.
    """
    kind, _, value = question.partition(":")
    if kind == "release":
        return [releases.load(store, releases.resolve(store, value))]
    known = [releases.load(store, one) for one in releases.ids(store)]
    matches: Callable[[Release], bool] | None = {
        "version": lambda one: str(one.version) == value,
        "data": lambda one: any(data.md5.startswith(value) for data in one.data) and bool(value),
    }.get(kind)
    if matches is None:
        raise UsageError(
            f"{question} is not a question.", "Ask about PREDICTION_ID, release:ID, version:N or data:MD5."
        )
    found = [one for one in known if matches(one)]
    if not found:
        raise UsageError(f"There is no release with {kind} {value}.", "`tidegate release list` shows all of them.")
    return found


def _names(event: Event, release: str, rollouts: Container[str]) -> bool:
    return event.data.get("rollout") in rollouts or release in (event.data.get("release"), event.data.get("from"))
