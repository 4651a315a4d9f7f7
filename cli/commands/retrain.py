"""`tidegate retrain`: train again on new data, and let matured labels say who should be champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.interrupted import explained, left_running
from tidegate.cli.terminal import Terminal, terminal
from tidegate.core.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.environment import Environment
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
    no_wait: Annotated[bool, typer.Option("--no-wait", help="In a cluster: submit the Workflow and return.")] = False,
) -> None:
    """Get new data as `retrain.data` says, train, gate and register, then compare on matured labels.

    A person's retrain passes cooldown, budget and freeze; its rollout does not pass a freeze. With --env of a
    cluster it is a Workflow there.
    """
    from tidegate.pipelines import retrain as flow
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    environment, why = environment_for(t.project), reason.strip() or "asked for by hand"
    if t.project.config.environment(t.project.env).kind == "kubernetes":
        done = _in_cluster(t, environment, why, wait=not no_wait)
        if done is None:
            return
    else:
        done = flow.by_hand(environment, why, t.progress)
    t.show(done.to_json(), lambda console: _print(console, done))
    if done.ended.outcome == "refused":
        raise typer.Exit(ExitCode.REFUSED)
    if done.ended.outcome == "failed":
        raise typer.Exit(ExitCode.ERROR)


def _in_cluster(t: Terminal, environment: Environment, why: str, *, wait: bool) -> Retrained | None:
    """What became of the Workflow; None where nobody waits for it."""
    from tidegate.pipelines import in_cluster
    from tidegate.pipelines.retrain import Retrained

    with explained(lambda stop: left_running(environment, str(getattr(stop, "workflow", "")))):
        done = in_cluster.retrain(environment, why, t.progress, wait=wait)
    if isinstance(done, Retrained):
        return done
    t.show({"kind": "workflow", **done.to_json()}, lambda console: console.print(f"Workflow {done.name} is submitted."))
    return None


def _print(console: Console, done: Retrained) -> None:
    about = f" (release {done.ended.release}, version {done.version})" if done.version is not None else ""
    console.print(f"retrain {done.id}: {_WORDS[done.ended.outcome]}{about}", markup=False, style="bold", soft_wrap=True)
    for reason in done.ended.reasons:
        console.print(f"  - {reason}", markup=False, soft_wrap=True)
    if done.ended.hint:
        console.print(f"What to do next: {done.ended.hint}", markup=False, soft_wrap=True)
