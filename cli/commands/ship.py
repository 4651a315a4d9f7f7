"""`tidegate ship` and `rollback`: the road forward, and back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.commands.config import warn_of_ignored
from tidegate.cli.interrupted import explained, shipping
from tidegate.cli.tables import table
from tidegate.cli.terminal import duration, terminal
from tidegate.core.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.flows import Shipped
    from tidegate.registry.state import RolloutState

_CODES = {"rollback": ExitCode.ROLLED_BACK, "inconclusive": ExitCode.INCONCLUSIVE, "continue": ExitCode.INCONCLUSIVE}
_WORDS = {
    "promote": "promoted to 100 %",
    "rollback": "rolled back",
    "inconclusive": "not decided",
    "continue": "still running",
    "deployed": "deployed as the first champion",
    "none": "nothing to do",
}


def ship(
    release: Annotated[
        str | None,
        typer.Option(help="Ship this existing release (an id or its beginning) instead of the files as they are."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Start the rollout and return.")] = False,
    timeout: Annotated[str, typer.Option(help="How long to follow the rollout; it goes on afterwards.")] = "30m",
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Outside of local: ship files that were not committed.")
    ] = False,
) -> None:
    """Take the project down the whole road: train, gate, register, package, A/B rollout, verdict.

    Exit code 3: the gate refused. 5: not decided, or nobody to judge by. 6: rolled back.
    """
    from tidegate import api
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    environment = environment_for(t.project)
    seconds = duration(timeout, "--timeout")
    warn_of_ignored()
    before = environment.state()
    with explained(lambda stop: shipping(stop, environment, before)):
        shipped = api.ship(
            t.project,
            release=release,
            wait=not no_wait,
            timeout=seconds,
            allow_dirty=allow_dirty,
            progress=t.progress,
        )
    finish(shipped, started_only=no_wait)


def rollback(
    reason: Annotated[str, typer.Option(help="Why; it is kept in the ledger.")],
    release: Annotated[
        str | None,
        typer.Argument(
            help="The release to go back to (its id or a beginning of it); default: the champion, if a rollout runs, "
            "else the one before.",
            metavar="RELEASE",
        ),
    ] = None,
) -> None:
    """Go back to an earlier release at once, without a judge; works while MLflow is down."""
    from tidegate.pipelines import flows
    from tidegate.pipelines.environment import environment_for
    from tidegate.registry import releases

    t = terminal()
    environment = environment_for(t.project)
    if release is not None:
        release = releases.resolve(environment.store, release)
    now = environment.state()
    before = now.open_rollout.canary if now.open_rollout and release is None else now.champion
    state = flows.rollback(environment, release, reason, t.progress)
    champion = str(state.champion)
    document = {
        "kind": "rollback",
        "release": champion,
        "version": state.versions.get(champion),
        "from": before,
        "reason": reason,
    }
    t.show(document, lambda console: console.print(f"Back on release {champion}, version {document['version']}."))


def finish(shipped: Shipped, *, started_only: bool = False) -> None:
    """Show what became of a release and leave with its exit code."""
    from tidegate.pipelines import github

    t = terminal()
    t.show(shipped.to_json(), lambda console: _print(console, shipped))
    if (here := github.job(os.environ)) is not None:
        github.set_output(here, decision=shipped.decision, release=shipped.release or "")
    if shipped.gate is not None and not shipped.gate.passed:
        raise typer.Exit(ExitCode.REFUSED)
    if started_only and shipped.decision == "continue":
        return
    raise typer.Exit(_CODES.get(shipped.decision, ExitCode.OK))


def _print(console: Console, shipped: Shipped) -> None:
    gate = shipped.gate
    if gate is not None:
        console.print(f"gate {'passed' if gate.passed else 'refused'}", markup=False)
        _bullets(console, gate.reasons)
    if gate is not None and not gate.passed:
        _print_refused(console, gate.champion, shipped.hint)
        return
    if shipped.metric in shipped.metrics:
        console.print(f"{shipped.metric} {shipped.metrics[shipped.metric]:.4f} on the holdout", markup=False)
    if shipped.rollout is not None:
        _print_rollout(console, shipped.rollout)
    about = f"release {shipped.release}, version {shipped.version}: " if shipped.release else ""
    console.print(f"{about}{_word(shipped)}", markup=False, style="bold", soft_wrap=True)
    _bullets(console, shipped.reasons)
    _print_hint(console, shipped.hint)


def _word(shipped: Shipped) -> str:
    """The decision; a person's abort is not called the judge's rollback, nor is a release that nobody tried again."""
    rollout = shipped.rollout
    if shipped.decision == "rollback" and rollout is None:
        return "not tried again"
    if rollout is not None and rollout.state == "aborted":
        return f"aborted by {rollout.ended_by}"
    return _WORDS[shipped.decision]


def _print_refused(console: Console, champion: int | None, hint: str) -> None:
    stays = "nobody is served" if champion is None else f"version {champion} stays the champion and serves everybody"
    console.print(f"Nothing was registered; {stays}.", markup=False, style="bold")
    _print_hint(console, hint)


def _print_hint(console: Console, hint: str) -> None:
    """What to type next, a line each."""
    if hint:
        console.print("What to do next:", markup=False)
        _bullets(console, tuple(hint.splitlines()))


def _print_rollout(console: Console, rollout: RolloutState) -> None:
    if rollout.shadow:
        console.print(f"shadow phase: {rollout.shadow['sentence']}", markup=False, soft_wrap=True)
    if not rollout.results:
        now = "gets copied traffic only" if rollout.shadowing else f"gets {rollout.weight} % of the users"
        console.print(f"rollout {rollout.id}: the canary {now}", markup=False)
        return
    shown = table("weight", "verdict", "seconds", "canary users", "stable users")
    for one in rollout.results:
        units = [f"{one.units.get(arm, 0):,}" for arm in ("canary", "stable")]
        shown.add_row(f"{one.weight} %", one.verdict, f"{one.seconds:.0f}", *units)
    console.print(f"rollout {rollout.id}", markup=False)
    console.print(shown)


def _bullets(console: Console, lines: tuple[str, ...]) -> None:
    for line in lines:
        console.print(f"  - {line}", markup=False, soft_wrap=True)
