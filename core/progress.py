"""How long work tells a person how far it is, without knowing whether there is a terminal."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One bar or spinner."""

    def advance(self, amount: float = 1.0, text: str = "") -> None:
        """Move on by `amount` (in the unit of `total`) and, if given, show `text`."""


class Progress(Protocol):
    """Where steps report to."""

    def task(self, title: str, total: float | None = None) -> AbstractContextManager[Task]:
        """Show `title` while the block runs; `total` None is a spinner."""

    def note(self, text: str) -> None:
        """Say one line that stays."""


class _SilentTask:
    def advance(self, amount: float = 1.0, text: str = "") -> None:
        pass


class Silent:
    """Reports to nobody: the default of the Python functions and of tests."""

    def task(self, title: str, total: float | None = None) -> AbstractContextManager[Task]:
        """Ignore the title."""
        del title, total
        return nullcontext(_SilentTask())

    def note(self, text: str) -> None:
        """Ignore the line."""
