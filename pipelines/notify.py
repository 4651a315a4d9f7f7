"""`notify`: who is told what happened, why, and what to type next; every event of the ledger once.

How far each webhook has been told is kept in the store, so a restart neither repeats nor forgets. A webhook that is new
hears of what happens from then on. One that takes nothing after its retries misses that event, which is said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import TidegateError
from tidegate.core.secret import resolve
from tidegate.pipelines import webhook
from tidegate.pipelines.environment import Environment
from tidegate.registry.ledger import Event
from tidegate.registry.state import State, fold

if TYPE_CHECKING:
    from tidegate.core.config import Config
    from tidegate.core.progress import Progress

_REPORT: Final = "tidegate rollout report"
_EVENTS: Final = "tidegate events"


@dataclass(frozen=True, slots=True)
class Message:
    """`topic` is the word of `notify.on`; `next` a command."""

    topic: str
    what: str
    why: tuple[str, ...]
    next: str

    def document(self, event: Event, stream: str) -> dict[str, Any]:
        """The JSON that is sent; `text` alone is what Slack and its like show, `id` tells a repetition."""
        lines = [f"{stream}: {self.what}", *(f"- {one}" for one in self.why), f"Next: `{self.next}`"]
        return {
            "text": "\n".join(lines),
            "id": f"{stream}/{event.seq}",
            "event": self.topic,
            "stream": stream,
            "at": event.at,
            "actor": event.actor,
            "what": self.what,
            "why": list(self.why),
            "next": self.next,
        }


def send(environment: Environment, progress: Progress) -> int:
    """Tell every webhook what it has not been told; returns how many messages were taken."""
    sent = 0
    for reference, topics in _webhooks(environment.project.config).items():
        sent += _tell(environment, reference, topics, progress)
    return sent


def messages(events: Sequence[Event], config: Config, start: int = 0) -> Iterator[tuple[Event, Message]]:
    """What is worth telling of the events from number `start` on."""
    state = fold(events[:start])
    for event in events[start:]:
        before, state = state, fold(events[: event.seq + 1], state)
        message = _message(event, before, state, config)
        if message is not None:
            yield event, message


def _webhooks(config: Config) -> dict[str, frozenset[str]]:
    """Each address once, with all that it wants to hear."""
    found: dict[str, frozenset[str]] = {}
    for one in config.notify:
        found[one.webhook] = found.get(one.webhook, frozenset()) | frozenset(one.on)
    return found


def _tell(environment: Environment, reference: str, topics: frozenset[str], progress: Progress) -> int:
    events = environment.ledger.events()
    told = _told(environment, reference)
    if told is None:
        _remember(environment, reference, len(events))
        return 0
    sent = 0
    for event, message in messages(events, environment.project.config, min(told, len(events))):
        if message.topic not in topics:
            continue
        sent += _post(environment, reference, message.document(event, environment.stream), progress)
        _remember(environment, reference, event.seq + 1)
    if told < len(events):
        _remember(environment, reference, len(events))
    return sent


def _post(environment: Environment, reference: str, document: Mapping[str, Any], progress: Progress) -> bool:
    try:
        webhook.post(reference, resolve(reference, environment.project.root), document)
    except TidegateError as error:
        progress.note(f"Nobody was told of event {document['id']}. {error}")
        return False
    return True


def _file(environment: Environment, reference: str) -> str:
    # By its name in the config: the address itself is a secret.
    name = hashlib.sha256(reference.encode()).hexdigest()[:16]
    return f"notify/{environment.stream}/{name}.json"


def _told(environment: Environment, reference: str) -> int | None:
    try:
        return int(json.loads(environment.store.read(_file(environment, reference)))["events"])
    except FileNotFoundError:
        return None


def _remember(environment: Environment, reference: str, events: int) -> None:
    environment.store.write(_file(environment, reference), json.dumps({"events": events}).encode())


# --- what is said --------------------------------------------------------------------------------------------------


def _message(event: Event, before: State, state: State, config: Config) -> Message | None:
    if event.kind == "watched":
        return _watched(before, state, config.monitor.drift.windows)
    if event.kind == "retrain_ended":
        return _retrained(event, state)
    if event.kind == "rollback":
        back = _version(state, event.data["release"])
        return Message("rolled_back", f"went back to {back}", _why(event), _EVENTS)
    if event.kind in _ROLLOUTS:
        return _rolled_out(event, state)
    return None


_ROLLOUTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "rolled_back": ("rolled_back", "{canary} was rolled back", _REPORT),
    "inconclusive": ("inconclusive", "the rollout of {canary} ended without an answer", _REPORT),
    "held": ("inconclusive", "the rollout of {canary} cannot tell and waits for a person", "tidegate rollout status"),
    "promoted": ("promoted", "{canary} was promoted", "tidegate rollout history"),
}


def _rolled_out(event: Event, state: State) -> Message:
    topic, what, command = _ROLLOUTS[event.kind]
    rollout = state.rollouts[-1]
    return Message(topic, what.format(canary=_version(state, rollout.canary)), _why(event), command)


def _watched(before: State, state: State, windows: int) -> Message | None:
    """Once when drift has lasted, and once when quality is lost; not for every window that it lasts."""
    seen = state.windows[-1]
    lost = bool(seen.lost) and not (before.windows and before.windows[-1].lost)
    drifted = _in_a_row(state) == windows and seen.outcome == "drift"
    if not lost and not drifted:
        return None
    parts = ["quality was lost"] * lost + [f"drift for {windows} windows in a row"] * drifted
    return Message(
        "drift", f"{' and '.join(parts)} until {seen.until[:16]}Z", (seen.reason,), "tidegate monitor status"
    )


def _in_a_row(state: State) -> int:
    told = [one.outcome for one in reversed(state.windows) if one.outcome != "cannot_tell"]
    return next((place for place, one in enumerate(told) if one != "drift"), len(told))


_ENDED: Final[Mapping[str, tuple[str, str]]] = {
    "released": ("a retrain made {release}, and its rollout began", "tidegate rollout watch"),
    "registered": ("a retrain made {release}, which waits for a person", "tidegate rollout start {id}"),
    "former": ("{release}, a former champion, is the better answer", "tidegate rollout start {id}"),
    "kept": ("a retrain found nothing better than the champion", _EVENTS),
    "refused": ("a retrain was refused by contract or gate", "tidegate model compare"),
    "nothing_new": ("a retrain had nothing to train on", _EVENTS),
    "failed": ("a retrain failed", "tidegate retrain"),
}


def _retrained(event: Event, state: State) -> Message:
    what, command = _ENDED[event.data["outcome"]]
    release = event.data.get("release") or ""
    if event.data["outcome"] == "former" and state.open_rollout is not None:
        command = "tidegate rollout watch"
    named = what.format(release=_version(state, release))
    return Message("retrain", named, _why(event), command.format(id=release))


def _version(state: State, release: str) -> str:
    return f"version {state.versions.get(release, '?')}"


def _why(event: Event) -> tuple[str, ...]:
    return tuple(map(str, event.data.get("reasons", ())))
