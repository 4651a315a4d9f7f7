"""`tidegate labels`: what became of predictions, in by a file or a command, and how much of it there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.terminal import duration, terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from tidegate.pipelines.labels import Taken
    from tidegate.serving.labels.status import Status

app = typer.Typer(help="Labels and outcomes of predictions.", no_args_is_help=True)
_MOST_LINES = 20


@app.command()
def ingest(
    file: Annotated[Path, typer.Argument(help="CSV, JSON Lines or Parquet with prediction_id or id, label, at.")],
    outcomes: Annotated[
        bool, typer.Option("--outcomes", help="It holds outcomes: unit, prediction_id or id, name, value, at.")
    ] = False,
) -> None:
    """Keep the labels of a file.

    The same file again changes nothing, and newer labels correct older ones. Lines that cannot be used are named, the
    others are kept, and the exit code is 1.
    """
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.labels import take

    t = terminal()
    environment = environment_for(t.project)
    with t.progress.task(f"Read {file}"):
        taken = take(environment, file, "outcomes" if outcomes else "labels")
    _show(taken, named=environment.project.config.serve.id)


@app.command()
def refresh() -> None:
    """Run monitor.labels.command, keep its labels."""
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.labels_command import refresh as run

    t = terminal()
    environment = environment_for(t.project)
    _show(run(environment, t.progress), named=environment.project.config.serve.id)


@app.command()
def status(
    since: Annotated[str | None, typer.Option(help="Only predictions newer than this: 2h, 7d.")] = None,
) -> None:
    """Show how many predictions have a label.

    And how long labels take, from which `monitor.labels.maturity` is chosen, and how many name no prediction.
    """
    from datetime import UTC, datetime, timedelta

    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.labels import status as look

    t = terminal()
    begin = None if since is None else datetime.now(UTC) - timedelta(seconds=duration(since, "--since"))
    environment = environment_for(t.project)
    with t.progress.task("Join labels to predictions"):
        found = look(environment, begin)
    configured = environment.project.config.monitor.labels.maturity
    t.show(document(found, configured), lambda console: _render_status(console, found, configured))


def document(found: Status, configured: float) -> dict[str, Any]:
    """As `labels status --json` prints it; ages are in seconds."""
    return {
        "kind": "label_status",
        "since": found.since,
        "predictions": found.predictions,
        "labelled": found.labelled,
        "share_labelled": found.labelled / found.predictions if found.predictions else None,
        "versions": [{name: getattr(one, name) for name in one.__slots__} for one in found.shares],
        "labels": found.labels,
        "unknown": found.unknown,
        "ambiguous": found.ambiguous,
        "strange": found.strange,
        "maturity": {
            "configured": configured,
            "suggested": found.maturity.suggested,
            "final": found.maturity.final,
            "curve": [{"age": age, "share": share} for age, share in found.maturity.curve],
        },
    }


def _show(taken: Taken, named: str | None) -> None:
    terminal().show(taken.document(), lambda console: _render(console, taken, named))
    taken.require()


def _render(console: Console, taken: Taken, named: str | None) -> None:
    done, matched = taken.ingested, taken.matched
    console.print(f"{taken.kind}: {done.accepted:,} new, {done.duplicates:,} known already")
    if done.accepted:
        what = "users and predictions" if taken.kind == "outcomes" else "predictions"
        console.print(f"recorded {what} named by them: {matched.known:,}; not recorded so far: {matched.unknown:,}")
    if matched.callers and not named:
        console.print("serve.id is not set, so labels by `id` name nobody; `prediction_id` is tidegate's own")
    _strange(console, matched.strange)
    for one in done.rejected[:_MOST_LINES]:
        console.print(f"line {one.line}: {one.why}", markup=False, highlight=False)
    if len(done.rejected) > _MOST_LINES:
        console.print(f"... and {len(done.rejected) - _MOST_LINES:,} more lines; --json names them all")


def _strange(console: Console, strange: Mapping[str, int]) -> None:
    if strange:
        which = ", ".join(f"{label!r} ({count:,})" for label, count in strange.items())
        console.print(f"no answer of the model: {which}", markup=False, highlight=False)


def _render_status(console: Console, found: Status, configured: float) -> None:
    from tidegate.cli.tables import table
    from tidegate.core.units import span

    if not found.predictions:
        console.print("No predictions are recorded.")
    else:
        shares = table("version", "arm", "predictions", "labelled", "share")
        for one in found.shares:
            counts = (f"{one.predictions:,}", f"{one.labelled:,}", f"{one.labelled / one.predictions:.1%}")
            shares.add_row(str(one.version), one.arm or "-", *counts)
        console.print(shares)
    console.print(f"ids with a label: {found.labels:,}; of no recorded prediction: {found.unknown:,}")
    if found.ambiguous:
        console.print(f"{found.ambiguous:,} truths came by a name that several predictions have")
    _strange(console, found.strange)
    for age, share in found.maturity.curve:
        console.print(f"  within {span(age):<8} {share:6.1%}")
    if found.maturity.suggested is not None:
        wait = f"95 % of the labels that come are there after {span(found.maturity.suggested)}"
        console.print(f"{wait}; monitor.labels.maturity is {span(configured)}")
