"""What `monitor run` left of each window in the store, for the pages and the metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tidegate.core.store import Store
from tidegate.registry.state import Watched

_FRESH_SECONDS: Final = 30.0
"""Quality is added when labels have matured, so a window is read again now and then."""
_KEPT: Final = 512


@dataclass(frozen=True, slots=True)
class Window:
    """One window: what the ledger says, and its `drift.json`; empty where that is gone or cannot be read."""

    watched: Watched
    document: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The name of its folder, and of its page."""
        return folder_name(self.watched.since)

    @property
    def columns(self) -> list[Mapping[str, Any]]:
        """The comparison of each input, and of what the model answered, which has `answer` set."""
        answers = [{**one, "answer": True} for one in self._named("predictions")]
        return [*self._named("columns"), *answers]

    def _named(self, part: str) -> list[Mapping[str, Any]]:
        return [one for one in self.document.get(part) or () if isinstance(one, Mapping) and "name" in one]

    @property
    def qualities(self) -> list[Mapping[str, Any]]:
        """Quality of each version that served in it."""
        quality = self.document.get("quality")
        versions = quality.get("versions") if isinstance(quality, Mapping) else None
        return [one for one in versions or () if isinstance(one, Mapping)]

    @property
    def rows(self) -> int | None:
        """How many predictions were made in it."""
        found = self.document.get("window")
        return found.get("rows") if isinstance(found, Mapping) else None


class Reports:
    """The reports of one stream.

    Args:
        store: where they are.
        stream: the model and the environment.
    """

    def __init__(self, store: Store, stream: str) -> None:
        self._store, self._folder = store, f"reports/{stream}"
        self._read_at: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def newest(self, watched: Sequence[Watched], most: int) -> list[Window]:
        """At most so many windows, oldest first."""
        return [Window(one, self._document(one.since)) for one in watched[-most:]]

    def html(self, window: Window) -> bytes | None:
        """Evidently's page of a window, if there is one."""
        try:
            return self._store.read(f"{self._folder}/{window.id}/evidently.html")
        except FileNotFoundError:
            return None

    def has_html(self, window: Window) -> bool:
        """Whether there is one."""
        return self._store.exists(f"{self._folder}/{window.id}/evidently.html")

    def _document(self, since: str) -> Mapping[str, Any]:
        name, now = folder_name(since), time.monotonic()
        at, document = self._read_at.get(name, (0.0, {}))
        if at and now - at < _FRESH_SECONDS:
            return document
        try:
            found = json.loads(self._store.read(f"{self._folder}/{name}/drift.json"))
            document = found if isinstance(found, dict) else {}
        except (FileNotFoundError, ValueError):
            document = {}
        if len(self._read_at) >= _KEPT:
            self._read_at.clear()
        self._read_at[name] = now, document
        return document


def folder_name(since: str) -> str:
    """Of a window that began then (ISO 8601): 20260102T030000Z."""
    at = datetime.fromisoformat(since)
    return f"{at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
