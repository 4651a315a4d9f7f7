"""`tidegate dev`: tools for trying things out on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.terminal import duration, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.environment import Environment
    from tidegate.serving.traffic import TrafficReport

app = typer.Typer(help="Tools for trying things out on this machine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Tools for trying things out on this machine."""


@app.command()
def traffic(
    rps: Annotated[float, typer.Option(help="Requests a second.", min=0.1, max=5000)] = 200,
    users: Annotated[float, typer.Option(help="New users a minute; they come back.", min=0.1)] = 9000,
    length: Annotated[str | None, typer.Option("--for", help="How long: 30s, 5m; default: until Ctrl-C.")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Keep the true label of every answer, too.")] = False,
    rows: Annotated[Path | None, typer.Option(help="Send the rows of this CSV or Parquet file instead.")] = None,
) -> None:
    """Send steady load from the holdout to the local gateway: new users keep coming, and come back."""
    from tidegate.pipelines import stack
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.true_labels import TrueLabels
    from tidegate.serving.gateway.state import GatewaySettings
    from tidegate.serving.traffic import TrafficPlan, make_traffic

    t = terminal()
    seconds = None if length is None else duration(length, "--for")
    environment = environment_for(t.project)
    config = t.project.config
    gateway = stack.status(environment)["gateway"]
    keys = GatewaySettings.from_config(config, t.project.root).api_keys
    bodies, truth = _rows(environment, rows, labels=labels)
    truths = TrueLabels(environment, truth) if labels else None
    plan = TrafficPlan(
        gateway,
        bodies,
        rps=rps,
        users_per_minute=users,
        seconds=seconds,
        unit_header=config.rollout.unit.header,
        headers={"x-api-key": keys[0]} if keys else {},
        heard=truths.heard if truths else None,
    )
    with (
        truths or nullcontext(),
        t.progress.task(f"{rps:g} requests/s, {users:g} new users/min to {gateway}", plan.seconds) as task,
    ):
        told = _Told()
        report = make_traffic(plan, lambda so_far: task.advance(1, told.counts(so_far)))
    kept = truths.kept if truths else None
    t.show({**report.to_json(), "labels": kept}, lambda console: _print(console, report, kept))


def _rows(environment: Environment, file: Path | None, *, labels: bool) -> tuple[Sequence[bytes], Sequence[Any]]:
    """What is sent, and its truth; nothing of that where nobody asks for labels and the file has none."""
    from tidegate.core.errors import UsageError
    from tidegate.pipelines.example_request import labelled, of_file

    if file is None:
        known = labelled(environment)
        return [body for body, _ in known], [truth for _, truth in known]
    bodies, truth = of_file(environment, file)
    if labels and truth is None:
        target = environment.project.config.data.target
        raise UsageError(f"{file} has no column {target!r}, so its true labels are not known.", "Leave out --labels.")
    return bodies, truth or ()


class _Told:
    """What the line of progress says: the answers of each arm, or that there are none any more."""

    def __init__(self) -> None:
        self._before = (0, 0)

    def counts(self, report: TrafficReport) -> str:
        """Of the traffic so far; asked once a second."""
        (answered, lost), self._before = self._before, (report.answered, report.failed + report.unsent)
        if self._before[0] == answered and self._before[1] > lost:
            return "the gateway does not answer; `tidegate ps` shows what runs"
        return ", ".join(f"{arm} {count:,}" for arm, count in sorted(report.arms.items()))


def _print(console: Console, report: TrafficReport, labels: int | None) -> None:
    console.print(f"{report.answered:,} answers to {report.users:,} users in {report.seconds:.0f} s")
    for title, counts in (("arm", report.arms), ("version", report.versions), ("status", report.statuses)):
        for name, count in sorted(counts.items(), key=str):
            console.print(f"  {title} {name}: {count:,}")
    if report.answered:
        console.print(f"  p50 {report.percentile(0.5) * 1000:.1f} ms, p99 {report.percentile(0.99) * 1000:.1f} ms")
    if report.failed or report.unsent:
        console.print(f"  {report.failed:,} without an answer, {report.unsent:,} could not be sent")
    if labels is not None:
        console.print(f"  {labels:,} labels kept")
