"""Where revisions run. `local.py` starts processes on this machine.

A revision is a release running somewhere; it is started once, found again after a crash of whoever
started it, and stopped without dropping a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Revision:
    """What is to run: a release, the bundle it serves, and how many processes share its port."""

    release: str
    version: int
    bundle: Path
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Running:
    """A revision as it runs: `ready` means it answered `/readyz` just now."""

    release: str
    version: int
    pid: int
    port: int
    ready: bool


class Deployer(Protocol):
    """Starts, finds and stops revisions."""

    def start(self, revision: Revision) -> None:
        """Begin to run it; returns at once. Does nothing when it runs already."""

    def find(self, release: str) -> Running | None:
        """The running revision, or None when it never ran or has died."""

    def running(self) -> tuple[Running, ...]:
        """Every revision that lives."""

    def stop(self, release: str) -> None:
        """Let it finish its requests, then end it."""

    def end_unrecorded(self) -> int:
        """End processes of a killed supervisor that `running` cannot know; returns how many."""
