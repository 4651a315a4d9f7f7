"""The append-only event log: every decision, who took it, and in which order.

An event is one small JSON file `ledger/<stream>/<seq>.json`, created only if absent. `seq` is the
number of events the writer had seen, so two writers who decided on the same past collide: one wins,
the other sees the new event and decides again. No event is ever changed or removed.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tidegate.core.errors import Conflict, TidegateError
from tidegate.core.store import Store

# A reader that starts afresh opens one file for this many old events.
SEGMENT = 256
_ATTEMPTS = 50
# Of an event's number in its file's name; a segment's has fewer.
_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has a place in the ledger."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `at` is ISO 8601 in UTC."""

    seq: int
    at: str
    kind: str
    actor: str
    data: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The event as the file and `tidegate events --json` show it."""
        return {"seq": self.seq, "at": self.at, "kind": self.kind, "actor": self.actor, "data": dict(self.data)}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Event:
        """Read what `to_json` wrote."""
        return Event(document["seq"], document["at"], document["kind"], document["actor"], document["data"])

    @property
    def moment(self) -> datetime:
        """`at` as a time."""
        return datetime.fromisoformat(self.at)


Decide = Callable[[Sequence[Event]], Draft | None]


class Ledger:
    """One stream of events in a store.

    Args:
        store: where the files are.
        stream: whose events; one per model and environment.
        clock: the time of new events.
    """

    def __init__(self, store: Store, stream: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._folder = f"ledger/{stream}"
        self._clock = clock
        self._events: list[Event] = []
        # Whether the files were looked through for a hole: once is enough, for what has been read is kept here.
        self._whole = False
        # Threads of the console ask at the same time; each would add the events that it read.
        self._reading = threading.RLock()

    def events(self) -> tuple[Event, ...]:
        """Every event so far, oldest first.

        Raises:
            TidegateError: a file of the ledger is unreadable; nothing is guessed in its place.
        """
        with self._reading:
            if not self._events:
                self._read_segments()
            self._read_on()
            if not self._whole:
                self._refuse_holes()
                self._whole = True
            return tuple(self._events)

    def append(self, decide: Decide) -> Event | None:
        """Add the event that `decide` makes of all events so far; None when it decides for nothing.

        `decide` is called again whenever somebody else was first; it refuses by raising.

        Raises:
            Conflict: too many others wrote at the same time.
        """
        for _ in range(_ATTEMPTS):
            past = self.events()
            draft = decide(past)
            if draft is None:
                return None
            event = Event(
                seq=len(past),
                at=self._clock().isoformat(timespec="microseconds"),
                kind=draft.kind,
                actor=draft.actor or actor(),
                data=draft.data,
            )
            with self._reading:
                if self._store.put_if_absent(self._name(event.seq), _encode(event.to_json())):
                    self._events.append(event)
                    self._write_segment()
                    return event
        raise Conflict(f"The ledger at {self._store.url} is too busy.", "Run the same command again.")

    def _name(self, seq: int) -> str:
        return f"{self._folder}/{seq:0{_DIGITS}d}.json"

    def _read_on(self) -> None:
        while (event := self._read(len(self._events))) is not None:
            self._events.append(event)

    def _refuse_holes(self) -> None:
        """A lost file would end the past early, and the next event would take its place: a decision on half a past."""
        names = [path.rsplit("/", 1)[1].removesuffix(".json") for path in self._store.list(self._folder)]
        newest = max((int(name) for name in names if len(name) == _DIGITS and name.isdigit()), default=-1)
        if newest < len(self._events):
            return
        # Somebody may have written between the two looks.
        self._read_on()
        if newest >= len(self._events):
            raise TidegateError(
                f"The ledger is damaged: {self._name(len(self._events))} is missing, and later events are there.",
                f"Nothing was changed. Restore that file of the store {self._store.url} from a backup.",
            )

    def _read(self, seq: int) -> Event | None:
        try:
            content = self._store.read(self._name(seq))
        except FileNotFoundError:
            return None
        return self._decoded(content, self._name(seq), seq)

    def _decoded(self, content: bytes, name: str, seq: int) -> Event:
        try:
            event = Event.from_json(json.loads(content))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(name) from error
        if event.seq != seq:
            raise self._damaged(name)
        return event

    def _damaged(self, name: str) -> TidegateError:
        return TidegateError(
            f"The ledger is damaged: {name} is not an event.",
            f"Nothing was changed. Restore that file of the store {self._store.url} from a backup.",
        )

    def _segment(self, index: int) -> str:
        return f"{self._folder}/segments/{index:06d}.json"

    def _write_segment(self) -> None:
        """Copy a full run of events into one file; a lost segment costs only time."""
        index, rest = divmod(len(self._events), SEGMENT)
        if rest == 0:
            run = self._events[(index - 1) * SEGMENT :]
            self._store.put_if_absent(self._segment(index - 1), _encode([event.to_json() for event in run]))

    def _read_segments(self) -> None:
        while True:
            name = self._segment(len(self._events) // SEGMENT)
            try:
                run = json.loads(self._store.read(name))
            except FileNotFoundError:
                return
            except ValueError as error:
                raise self._damaged(name) from error
            for document in run:
                self._events.append(self._decoded(_encode(document), name, len(self._events)))


def actor() -> str:
    """Who is acting: the person or workflow, and the machine."""
    person = os.environ.get("GITHUB_ACTOR") or os.environ.get("TIDEGATE_ACTOR")
    if not person:
        try:
            person = getpass.getuser()
        except (KeyError, OSError):
            person = str(os.getuid())
    return f"{person}@{socket.gethostname()}"


def _encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
