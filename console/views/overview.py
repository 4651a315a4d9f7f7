"""The first page: what waits for a person, who is the champion, where the traffic goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.console.reports import Window
from tidegate.console.views.words import version
from tidegate.registry.ledger import Event
from tidegate.registry.state import State


@dataclass(frozen=True, slots=True)
class Need:
    """Something that waits for a person: what, where to look, what to type."""

    text: str
    link: str
    command: str = ""


def needs(state: State, windows: Sequence[Window], *, is_up: bool) -> list[Need]:
    """What waits for a person, the most urgent first."""
    found = []
    rollout, watched, retrain = state.open_rollout, state.watched, state.retrains[-1] if state.retrains else None
    if not is_up:
        found.append(Need("The stack is down: nobody is answered and nobody decides.", "/", "tidegate up -d"))
    if rollout is not None and rollout.state == "held":
        because = rollout.reasons[0] if rollout.reasons else "the judge cannot tell."
        found.append(Need(f"Rollout {rollout.id} is held: {because}", f"/rollouts/{rollout.id}"))
    if watched is not None and watched.lost:
        found.append(Need(f"Quality was lost in the newest window: {watched.reason}", "/quality"))
    elif watched is not None and watched.outcome == "drift" and windows:
        found.append(Need(f"The newest window drifted: {watched.reason}", f"/drift/{windows[-1].id}"))
    if retrain is not None and retrain.outcome == "registered" and retrain.release == state.challenger:
        command = f"tidegate rollout start {retrain.release}" if retrain.release else "tidegate rollout start"
        found.append(
            Need(f"Retrain {retrain.id} made {version(retrain.release, state)}; it waits.", "/lineage", command)
        )
    if state.frozen is not None:
        found.append(Need(f"Frozen: {state.frozen}", "/ledger?kind=frozen", "tidegate unfreeze --reason TEXT"))
    return found


def champion_since(state: State, events: Sequence[Event]) -> str:
    """When the champion became it (ISO 8601), "" if nobody knows."""
    for event in reversed(events):
        data = event.data
        if event.kind in {"deployed", "rollback"} and data.get("release") == state.champion:
            return event.at
        if event.kind == "promoted":
            crowned = next((one.canary for one in state.rollouts if one.id == data.get("rollout")), None)
            if crowned == state.champion:
                return event.at
    return ""


@dataclass(frozen=True, slots=True)
class Share:
    """One arm's part of the traffic, in per cent; `x` is where its bar begins."""

    arm: str
    version: str
    weight: int
    x: int


def traffic(state: State) -> list[Share]:
    """How users are dealt, the stable arm first."""
    rollout = state.open_rollout
    if state.champion is None:
        return []
    if rollout is None:
        return [Share("stable", version(state.champion, state), 100, 0)]
    rest = 100 - rollout.weight
    stable = Share("stable", version(rollout.stable, state), rest, 0)
    return [stable, Share("canary", version(rollout.canary, state), rollout.weight, rest)]
