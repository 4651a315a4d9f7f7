"""`tidegate train`: contract, training and evaluation, as far as something changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.interrupted import explained, training
from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.runners.local import TrainResult

_WORDS = {"unchanged": "unchanged", "restored": "from the run-cache", "ran": "ran"}


def train(
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="Change one of train.params in tidegate.yaml first.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Check the contract, train and evaluate; what did not change is not run again."""
    from tidegate import api
    from tidegate.pipelines import params_edit
    from tidegate.registry import sqlite_probe

    t = terminal()
    project = t.project
    with explained(lambda stop: training(stop, "tidegate train")):
        result = api.train(project, params=params_edit.parse(param or []), progress=t.progress)
    document: dict[str, Any] = {
        "kind": "train",
        "changed": result.changed,
        "run_id": result.run_id,
        "metric": result.metric,
        "metrics": dict(result.metrics),
        "data": {"path": result.data.path, "md5": result.data.md5},
        "seconds": result.seconds,
        "stages": [{"name": one.name, "how": one.how, "seconds": round(one.seconds, 3)} for one in result.stages],
    }
    version = sqlite_probe.version_of(project.mlflow_uri, project.config.model, result.run_id)
    if version is not None:
        document["version"] = version
    t.show(document, lambda console: _render(console, result, version))


def _render(console: Console, result: TrainResult, version: int | None) -> None:
    from rich.table import Table

    stages = Table("stage", "", "seconds", box=None, pad_edge=False, header_style="dim")
    for one in result.stages:
        stages.add_row(one.name, _WORDS[one.how], f"{one.seconds:.1f}" if one.changed else "")
    metrics = Table("metric", "on the holdout", box=None, pad_edge=False, header_style="dim")
    for name, value in result.metrics.items():
        metrics.add_row(f"{name} *" if name == result.metric else name, f"{value:.4f}")
    console.print(stages)
    console.print()
    console.print(metrics)
    registered = f", version {version}" if version is not None else ""
    console.print(f"\n* decides in the gate. Run {result.run_id}{registered}; data {result.data.md5[:10]}.")
    if not result.changed:
        console.print("Nothing changed, so nothing ran.")
