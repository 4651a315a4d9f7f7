"""`tidegate retrain`: train again on new data, and let matured labels say who should be champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.terminal import terminal
from tidegate.core.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.retrain import Retrained

_WORDS = {
    "released": "its rollout has begun",
    "registered": "a new version is registered and waits for you",
    "kept": "the champion stays",
    "refused": "nothing was registered; the champion stays",
    "failed": "it failed; the champion stays",
    "former": "a former champion is the better answer",
    "nothing_new": "the data is not new, so nothing was trained",
}


def retrain(
    reason: Annotated[str, typer.Option(help="Why; it is kept in the ledger.")] = "asked for by hand",
) -> None:
    """Get new data as `retrain.data` says, train, gate and register, then compare on matured labels.

    A person's retrain passes cooldown, budget and freeze; its rollout does not pass a freeze.
    """
    from tidegate.pipelines import retrain as flow
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    done = flow.by_hand(environment_for(t.project), reason.strip() or "asked for by hand", t.progress)
    t.show(done.to_json(), lambda console: _print(console, done))
    if done.ended.outcome == "refused":
        raise typer.Exit(ExitCode.REFUSED)
    if done.ended.outcome == "failed":
        raise typer.Exit(ExitCode.ERROR)


def _print(console: Console, done: Retrained) -> None:
    about = f" (release {done.ended.release}, version {done.version})" if done.version is not None else ""
    console.print(f"retrain {done.id}: {_WORDS[done.ended.outcome]}{about}", markup=False, style="bold", soft_wrap=True)
    for reason in done.ended.reasons:
        console.print(f"  - {reason}", markup=False, soft_wrap=True)
    if done.ended.hint:
        console.print(f"What to do next: {done.ended.hint}", markup=False, soft_wrap=True)
