"""`tidegate freeze` and `unfreeze`: stop, and allow again, what happens by itself."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli.terminal import terminal

Reason = Annotated[str, typer.Option(help="Why; it is kept in the ledger.")]


def freeze(reason: Reason) -> None:
    """Stop automatic retrains and rollouts until `unfreeze`; a person may still start one by hand."""
    _write("frozen", reason)


def unfreeze(reason: Reason) -> None:
    """Allow automatic retrains and rollouts again."""
    _write("unfrozen", reason)


def _write(kind: str, reason: str) -> None:
    from tidegate.core.errors import UsageError
    from tidegate.pipelines.environment import environment_for
    from tidegate.registry.ledger import Draft

    if not reason.strip():
        raise UsageError("--reason is empty.", "Others read it in `tidegate events`: say why.")
    t = terminal()
    event = environment_for(t.project).ledger.append(lambda _: Draft(kind, {"reason": reason}))
    t.show(
        {"kind": "freeze", "frozen": kind == "frozen", "reason": reason, "seq": event.seq if event else None},
        lambda console: console.print(f"Rollouts and retrains are {kind}: {reason}"),
    )
