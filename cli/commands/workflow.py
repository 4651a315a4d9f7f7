"""`tidegate workflow`: what runs in a cluster for this model; `ship` and `retrain` submit it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.interrupted import explained, left_running
from tidegate.cli.tables import table
from tidegate.cli.terminal import Terminal, duration, terminal
from tidegate.core.errors import ExitCode, Inconclusive

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.runners import Running
    from tidegate.pipelines.runners.kube import KubeRunner

app = typer.Typer(help="Follow and cancel what runs in a cluster for this model.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The Workflow; `tidegate workflow list` shows them.", metavar="NAME")]


@app.command("list")
def show() -> None:
    """The Workflows of this model that the cluster still keeps, oldest first."""
    t = terminal()
    found = _runner(t).all()
    document = {"kind": "workflows", "workflows": [one.to_json() for one in found]}
    t.show(document, lambda console: _print(console, found))


@app.command()
def watch(
    name: Name,
    timeout: Annotated[str, typer.Option(help="How long to follow it; it goes on afterwards.")] = "24h",
) -> None:
    """Follow a Workflow to its end. Exit code 1: it failed. 5: it goes on."""
    t = terminal()
    runner = _runner(t)
    seconds = duration(timeout, "--timeout")
    with explained(lambda _: left_running(runner.environment, name)):
        done = runner.follow(runner.find(name).name, t.progress, seconds)
    t.show({"kind": "workflow", **done.to_json()}, lambda console: _print(console, [done]))
    if not done.ended:
        raise Inconclusive(f"Workflow {name} goes on.", f"`tidegate workflow watch {name}` follows it again.")
    if done.phase != "Succeeded":
        raise typer.Exit(ExitCode.ERROR)


@app.command()
def logs(
    name: Name,
    step: Annotated[str | None, typer.Option(help="This step alone.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
) -> None:
    """What the Workflow's pods printed."""
    t = terminal()
    for where, line in _runner(t).logs(name, step, follow=follow):
        t.line({"step": where, "line": line}, f"{where}: {line}")


@app.command()
def cancel(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the ledger.")] = "cancelled by hand",
) -> None:
    """Stop a Workflow; what its steps have finished is kept."""
    t = terminal()
    stopped = _runner(t).cancel(name, reason)
    document = {"kind": "cancelled", "workflow": stopped.name, "reason": reason}
    t.show(document, lambda console: console.print(f"Workflow {stopped.name} is being stopped.", markup=False))


def _runner(t: Terminal) -> KubeRunner:
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.runners import kube

    return kube.runner(environment_for(t.project))


def _print(console: Console, found: list[Running]) -> None:
    if not found:
        console.print("The cluster keeps no Workflow of this model.", markup=False)
        return
    shown = table("workflow", "flow", "state", "steps")
    for one in found:
        steps = ", ".join(f"{step.name} {step.phase.lower()}" for step in one.steps)
        shown.add_row(one.name, one.flow, one.phase or "Pending", steps or one.message)
    console.print(shown)
