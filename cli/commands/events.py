"""`tidegate events`: the ledger, with who did what."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.terminal import duration, terminal

if TYPE_CHECKING:
    from tidegate.registry.ledger import Event


def events(
    since: Annotated[str | None, typer.Option(help="Only what is newer than this: 30m, 2h, 7d.")] = None,
) -> None:
    """Show every decision in the ledger, oldest first, with who took it."""
    from tidegate.pipelines import documents
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    past = environment_for(t.project).ledger.events()
    if since is not None:
        oldest = time.time() - duration(since, "--since")
        past = tuple(event for event in past if event.moment.timestamp() >= oldest)
    for event in past:
        t.line(documents.event(event), _text(event))


def _text(event: Event) -> str:
    shown = {key: value for key, value in event.data.items() if isinstance(value, str | int)}
    detail = ", ".join(f"{key} {value}" for key, value in shown.items())
    reasons = event.data.get("reasons") or []
    because = f": {'; '.join(map(str, reasons))}" if reasons else ""
    return f"{event.at[:19]}Z  {event.kind:<16} {detail}{because}  ({event.actor})"
