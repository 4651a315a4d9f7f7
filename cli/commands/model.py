"""`tidegate model`: the versions of the registered model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.tables import DIRTY_NOTE, commit, table
from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from tidegate.core.artifacts import ModelVersion
    from tidegate.registry.mlflow_registry import MlflowRegistry

app = typer.Typer(help="List, show, compare and adopt versions of the model.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(help="A version number, or an alias such as champion.", metavar="VERSION")]

_OTHERS = 2
"""Metrics beside the decisive one; `model show` has all of them."""
_SMALL = 1e-3
"""Below it four digits behind the point say nothing."""


@app.command("list")
def list_versions() -> None:
    """List every version with its aliases, commit, data and metrics, newest first; the gate's metric comes first."""
    from tidegate.pipelines.newest import decisive_metric

    t = terminal()
    metric = decisive_metric(t.project)
    rows = [_row(one) for one in _registry().list()]
    document = {"kind": "models", "model": t.project.config.model, "metric": metric, "versions": rows}
    t.show(document, lambda console: _list(console, rows, metric))


@app.command()
def show(version: Reference) -> None:
    """Show one version: where it came from and what it measured."""
    t = terminal()
    registry = _registry()
    found = registry.get(version)
    document = {"kind": "model", "model": found.name, **_row(found), "params": registry.params(found.run_id)}
    t.show(document)


@app.command()
def compare(
    version: Annotated[
        str | None,
        typer.Argument(
            help="A version number or an alias; default: the newest training of this folder.", metavar="VERSION"
        ),
    ] = None,
    other: Annotated[str, typer.Argument(help="What to compare it with.", metavar="OTHER")] = "champion",
) -> None:
    """Compare params and recorded metrics of two versions, or of the newest training (also a refused one) with one.

    `ship` judges on the same holdout; here each says what it measured on its own.
    """
    from tidegate.pipelines.newest import decisive_metric

    t = terminal()
    registry = _registry()
    (first, left), (second, right) = _side(registry, version), _side(registry, other)
    metric = decisive_metric(t.project)
    document = {
        "kind": "comparison",
        "versions": [first, second],
        "same_data": first["data_md5"] == second["data_md5"],
        "metric": metric,
        "metrics": _pairs(first["metrics"], second["metrics"], metric),
        "params": _pairs(left, right),
    }
    t.show(document, lambda console: _compare(console, document))


@app.command()
def add(
    reference: Annotated[
        str, typer.Argument(help="An MLflow version (3 or other-model/3) or a run id.", metavar="MLFLOW_VERSION")
    ],
) -> None:
    """Adopt an MLflow version that tidegate did not make; its content is hashed now and checked from then on.

    It can be listed, shown and compared with others. It cannot be shipped yet: a release needs a training run of here.
    """
    t = terminal()
    made = _registry().adopt(reference, t.project.state_dir / "models")
    t.show(
        {"kind": "model", "model": made.name, **_row(made)},
        lambda console: console.print(
            f"{made.name} version {made.version} is adopted: `tidegate model compare {made.version}` compares it."
        ),
    )


def _registry() -> MlflowRegistry:
    from tidegate.registry.mlflow_registry import open_registry

    return open_registry(terminal().project)


def _side(registry: MlflowRegistry, reference: str | None) -> tuple[dict[str, Any], Mapping[str, str]]:
    """What is known of one side of a comparison, and its params; None is the newest training."""
    if reference is not None:
        found = registry.get(reference)
        return _row(found), registry.params(found.run_id)
    from tidegate.pipelines.newest import newest

    trained = newest(terminal().project)
    known = {"version": None, "run_id": trained.run_id, "data_md5": trained.data_md5, "metrics": dict(trained.metrics)}
    return known, trained.params


def _row(one: ModelVersion) -> dict[str, Any]:
    return {
        "version": one.version,
        "aliases": list(one.aliases),
        "run_id": one.run_id,
        "git_commit": one.git_commit,
        "git_dirty": one.git_dirty,
        "data_md5": one.data_md5,
        "metrics": dict(one.metrics),
        "status": one.status,
    }


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any], leading: str | None = None) -> list[dict[str, Any]]:
    """Both values of every name, in alphabetical order behind the `leading` one."""
    names = sorted({*first, *second}, key=lambda name: (name != leading, name))
    return [{"name": name, "first": first.get(name), "second": second.get(name)} for name in names]


def _list(console: Console, rows: list[dict[str, Any]], metric: str | None) -> None:
    if not rows:
        console.print("There is no version yet; `tidegate ship` registers the first.")
        return
    # Without a decisive metric there is no column for it, and all of them are others.
    shown = table("version", "aliases", "commit", "data", *([f"{metric} *"] if metric else []), "others")
    for row in rows:
        metrics = {name: _cell(value) for name, value in sorted(row["metrics"].items())}
        decides = [metrics.pop(metric, "")] if metric else []
        others = ", ".join(f"{name} {value}" for name, value in list(metrics.items())[:_OTHERS])
        made_of = commit(row["git_commit"], dirty=row["git_dirty"])
        shown.add_row(str(row["version"]), ", ".join(row["aliases"]), made_of, row["data_md5"][:10], *decides, others)
    console.print(shown)
    if metric:
        console.print("* decides in the gate; measured on each version's own holdout", markup=False)
    if any(row["git_dirty"] for row in rows):
        console.print(DIRTY_NOTE, markup=False)


def _compare(console: Console, document: dict[str, Any]) -> None:
    first, second = (
        "newest training" if one["version"] is None else str(one["version"]) for one in document["versions"]
    )
    shown = table("", first, second)
    for row in [*document["metrics"], *document["params"]]:
        name = f"{row['name']} *" if row["name"] == document["metric"] else row["name"]
        shown.add_row(name, *(_cell(row[side]) for side in ("first", "second")))
    console.print(shown)
    if document["metric"]:
        console.print("* decides in the gate", markup=False)
    if not document["same_data"]:
        console.print("They were measured on different data, so the metrics do not compare like with like.")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or abs(value) >= _SMALL else f"{value:.3g}"
    return "" if value is None else str(value)
