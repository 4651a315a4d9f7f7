"""`tidegate model`: the versions of the registered model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.core.artifacts import ModelVersion
    from tidegate.registry.mlflow_registry import MlflowRegistry

app = typer.Typer(help="List, show, compare and adopt versions of the model.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(help="A version number, or an alias such as champion.", metavar="VERSION")]


@app.command("list")
def list_versions() -> None:
    """List every version with its aliases, data and decisive metrics, newest first."""
    t = terminal()
    rows = [_row(one) for one in _registry().list()]
    t.show({"kind": "models", "model": t.project.config.model, "versions": rows}, lambda c: _list(c, rows))


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
    version: Reference,
    other: Annotated[str, typer.Argument(help="What to compare it with; default: the champion.")] = "champion",
) -> None:
    """Compare params and recorded metrics of two versions; `ship` judges them on the same holdout."""
    t = terminal()
    registry = _registry()
    first, second = registry.get(version), registry.get(other)
    document = {
        "kind": "comparison",
        "versions": [_row(first), _row(second)],
        "same_data": first.data_md5 == second.data_md5,
        "metrics": _pairs(first.metrics, second.metrics),
        "params": _pairs(registry.params(first.run_id), registry.params(second.run_id)),
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


def _row(one: ModelVersion) -> dict[str, Any]:
    return {
        "version": one.version,
        "aliases": list(one.aliases),
        "run_id": one.run_id,
        "git_commit": one.git_commit,
        "data_md5": one.data_md5,
        "metrics": dict(one.metrics),
        "status": one.status,
    }


def _pairs(first: Any, second: Any) -> list[dict[str, Any]]:
    names = sorted({*first, *second})
    return [{"name": name, "first": first.get(name), "second": second.get(name)} for name in names]


def _list(console: Console, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    if not rows:
        console.print("There is no version yet; `tidegate ship` registers the first.")
        return
    table = Table("version", "aliases", "commit", "data", "metrics", box=None, pad_edge=False, header_style="dim")
    for row in rows:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in sorted(row["metrics"].items())[:3])
        aliases = ", ".join(row["aliases"])
        table.add_row(str(row["version"]), aliases, row["git_commit"][:9], row["data_md5"][:10], shown)
    console.print(table)


def _compare(console: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    first, second = (str(row["version"]) for row in document["versions"])
    table = Table("", first, second, box=None, pad_edge=False, header_style="dim")
    for row in [*document["metrics"], *document["params"]]:
        table.add_row(row["name"], *(_cell(row[side]) for side in ("first", "second")))
    console.print(table)
    if not document["same_data"]:
        console.print("\nThey were measured on different data, so the metrics do not compare like with like.")


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
