"""The documents that more than one face shows: what a command prints with --json, the console's API answers too."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tidegate.core import identifiers
from tidegate.core.errors import TidegateError
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases

if TYPE_CHECKING:
    from tidegate.core.artifacts import Release
    from tidegate.registry.ledger import Event
    from tidegate.registry.state import State


def rollout(environment: Environment, typed: str | None = None) -> dict[str, Any]:
    """Of `rollout status`; `watched` says whether somebody counts and decides, and is false once it is over.

    Raises:
        Conflict: there is none.
        UsageError: several begin like that.
    """
    from tidegate.pipelines import stack

    document = rollout_status(environment, typed)
    going_on = document["state"] in {"running", "held"}
    if "cluster" in document:
        return {**document, "watched": going_on and document["cluster"]["phase"] is not None}
    return {**document, "watched": going_on and stack.is_up(environment)}


def rollout_status(environment: Environment, typed: str | None = None) -> dict[str, Any]:
    """What the driver says of the rollout asked for by its id or the beginning of it; default: the newest.

    Raises:
        Conflict: there is none.
        UsageError: several begin like that.
    """
    if typed is not None:
        known = (one.id for one in environment.state().rollouts)
        typed = identifiers.whole(typed, known, identifiers.ROLLOUT) or typed
    return environment.driver.status(typed)


def rollouts(state: State) -> dict[str, Any]:
    """Of `rollout history`: every rollout of the environment, oldest first."""
    rows = [
        {
            "id": one.id,
            "state": one.state,
            "version": state.versions.get(one.canary),
            "release": one.canary,
            "against": state.versions.get(one.stable),
            "started_at": one.started_at,
            "ended_at": one.ended_at or None,
            "steps": [asdict(result) for result in one.results],
            "reasons": list(one.reasons),
        }
        for one in state.rollouts
    ]
    return {"kind": "rollouts", "rollouts": rows}


def release_list(environment: Environment) -> tuple[dict[str, Any], list[TidegateError]]:
    """Of `release list`, and why some of them cannot be read: these are rows too, with the status `damaged`."""
    state, rows, problems = environment.state(), [], []
    for one in state.versions:
        try:
            rows.append(_release_row(releases.load(environment.store, one), state))
        except TidegateError as error:
            rows.append(_damaged(one, state))
            problems.append(error)
    return {"kind": "releases", "releases": rows}, problems


def release(environment: Environment, typed: str) -> dict[str, Any]:
    """Of `release show`: everything a release is made of.

    Raises:
        UsageError: there is no release that begins like that, or there are several.
        TidegateError: it is not what was recorded.
    """
    found = releases.load(environment.store, releases.resolve(environment.store, typed))
    return {
        "kind": "release",
        "release": found.id,
        **found.to_json(),
        "status": status_of(found.id, environment.state()),
    }


def event(one: Event) -> dict[str, Any]:
    """A line of `events`."""
    return {"event": one.kind, **one.to_json()}


def status_of(release_id: str, state: State) -> str:
    """What became of a release, in one word."""
    if release_id == state.champion:
        return "champion"
    if state.open_rollout is not None and state.open_rollout.canary == release_id:
        return "canary"
    if release_id in state.history:
        return "former"
    last = next((one for one in reversed(state.rollouts) if one.canary == release_id), None)
    return last.state if last else ("challenger" if release_id == state.challenger else "registered")


def _damaged(release_id: str, state: State) -> dict[str, Any]:
    """What the ledger knows of a release that cannot be read, so that the others are shown too."""
    unknown = {"git_commit": "", "git_dirty": False, "data_md5": ""}
    known = {"release": release_id, "version": state.versions[release_id], "run_id": state.runs[release_id]}
    return {**known, "status": "damaged", **unknown}


def _release_row(found: Release, state: State) -> dict[str, Any]:
    return {
        "release": found.id,
        "version": found.version,
        "status": status_of(found.id, state),
        "run_id": found.run_id,
        "git_commit": found.git_commit,
        "git_dirty": found.git_dirty,
        "data_md5": found.data[0].md5 if found.data else "",
    }
