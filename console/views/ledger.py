"""Events of the ledger as sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tidegate.console.views.words import RETRAIN_WORDS, WINDOW_LOOKS, WINDOW_WORDS, Look, version
from tidegate.registry.ledger import Event
from tidegate.registry.state import RolloutState, State


@dataclass(frozen=True, slots=True)
class Told:
    """An event in words."""

    seq: int
    at: str
    kind: str
    look: Look
    what: str
    because: str
    actor: str
    link: str = ""


def told(event: Event, state: State) -> Told:
    """Say what happened, for a person."""
    data, write = event.data, _SENTENCES.get(event.kind)
    try:
        what, look = write(data, state) if write else (event.kind.replace("_", " "), "plain")
    except (KeyError, IndexError, TypeError, StopIteration):
        # An event of another version; its data is shown beside it.
        what, look = event.kind.replace("_", " "), "plain"
    reasons = data.get("reasons") or data.get("gate") or ()
    because = " ".join(map(str, reasons)) if isinstance(reasons, list | tuple) else str(reasons)
    because = because or str(data.get("reason") or "")
    return Told(event.seq, event.at, event.kind, look, what, because, event.actor, _link(event))


def decisions(events: Sequence[Event], most: int = 8) -> list[Event]:
    """The newest events, without the windows of which nothing came."""
    kept: list[Event] = []
    for event in reversed(events):
        if len(kept) == most:
            break
        if event.kind != "watched" or event.data["retrain"]["asked"]:
            kept.append(event)
    return kept


def _link(event: Event) -> str:
    data = event.data
    if data.get("rollout"):
        return f"/rollouts/{data['rollout']}"
    if event.kind == "watched" and data.get("window"):
        from tidegate.console.reports import folder_name

        return f"/drift/{folder_name(data['window'])}"
    return f"/lineage?q=release:{data['release']}" if data.get("release") else ""


def _rollout(data: Mapping[str, Any], state: State) -> RolloutState:
    return next(one for one in reversed(state.rollouts) if one.id == data["rollout"])


def _canary(data: Mapping[str, Any], state: State) -> str:
    return version(_rollout(data, state).canary, state)


def _started(data: Mapping[str, Any], state: State) -> tuple[str, Look]:
    return f"Rollout began: {version(data['canary'], state)} against {version(data['stable'], state)}", "open"


def _stepped(data: Mapping[str, Any], state: State) -> tuple[str, Look]:
    share = _rollout(data, state).steps[data["step"]]
    return f"Step passed: {_canary(data, state)} answers {share} % of users", "good"


def _watched(data: Mapping[str, Any], _: State) -> tuple[str, Look]:
    lost = ", quality lost" if data.get("lost") else ""
    asked = "; asked for a retrain" if data["retrain"]["asked"] else ""
    word = WINDOW_WORDS.get(data["outcome"], data["outcome"])
    return f"Window looked at: {word}{lost}{asked}", "bad" if lost else WINDOW_LOOKS.get(data["outcome"], "plain")


def _retrained(data: Mapping[str, Any], _: State) -> tuple[str, Look]:
    good = data["outcome"] in {"released", "registered", "former"}
    return f"Retrain ended: {RETRAIN_WORDS.get(data['outcome'], data['outcome'])}", "good" if good else "plain"


_SENTENCES: Final[Mapping[str, Callable[[Mapping[str, Any], State], tuple[str, Look]]]] = {
    "registered": lambda data, _: (f"Version {data['version']} passed the gate and was registered", "plain"),
    "gate_refused": lambda _data, _state: ("The gate refused a training", "bad"),
    "deployed": lambda data, state: (f"{version(data['release'], state).capitalize()} was deployed", "good"),
    "rollout_started": _started,
    "shadow": lambda data, state: (f"Shadow phase passed: {_canary(data, state)} meets its first users", "good"),
    "step_passed": _stepped,
    "held": lambda data, state: (f"Held: a person must decide about {_canary(data, state)}", "open"),
    "promoted": lambda data, state: (f"Promoted: {_canary(data, state)} is everybody's", "good"),
    "rolled_back": lambda data, state: (f"Rolled back: {_canary(data, state)} was taken back", "bad"),
    "inconclusive": lambda data, state: (f"Not decided: {_canary(data, state)} was taken back", "plain"),
    "aborted": lambda data, state: (f"Aborted: {_canary(data, state)} was taken back", "bad"),
    "replaced": lambda _data, _state: ("Replaced by a newer rollout", "plain"),
    "rollback": lambda data, state: (f"Went back to {version(data['release'], state)} at once", "bad"),
    "imaged": lambda data, state: (f"An image of {version(data['release'], state)} was built", "plain"),
    "trainer": lambda _data, _state: ("A trainer image was built", "plain"),
    "watched": _watched,
    "retrain_started": lambda _data, _state: ("Retrain began", "open"),
    "retrain_ended": _retrained,
    "flow_ended": lambda data, _: (f"The {data['flow']} Workflow {data['workflow']} {data['outcome']}", "bad"),
    "erased": lambda data, _: (f"A user was erased: {data['predictions']:,} predictions", "plain"),
    "frozen": lambda _data, _state: ("Automatic retrains and rollouts were stopped", "open"),
    "unfrozen": lambda _data, _state: ("Automatic retrains and rollouts go on", "good"),
}
