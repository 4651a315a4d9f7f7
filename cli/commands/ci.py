"""`tidegate ci`: the road on GitHub Actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.ci import Written

app = typer.Typer(help="Run the road on GitHub Actions.", no_args_is_help=True)


@app.callback()
def _ci() -> None:
    """Run the road on GitHub Actions."""


@app.command("init")
def write(
    uses: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/REPOSITORY@COMMIT",
            help="Where tidegate's own workflows are; default: the repository on GitHub that it was installed from.",
        ),
    ] = None,
    cron: Annotated[str, typer.Option(help="When to look for drift, UTC.")] = "17 3 * * *",
) -> None:
    """Write workflows of a few lines that check pull requests, release, watch and roll back.

    Nothing that exists is changed. Refused while data, MLflow or store are on this machine only.
    """
    from tidegate.pipelines import ci

    t = terminal()
    found = ci.init(t.project, uses, cron)
    t.show(found.document(), lambda console: _render(console, found))


def _render(console: Console, found: Written) -> None:
    for title, lines in (("wrote", found.written), ("kept", found.kept), ("note", found.notes)):
        for line in lines:
            console.print(f"{title:<6} {line}", markup=False, highlight=False, soft_wrap=True)
    console.print("\nnext\n  commit them, and open a pull request", markup=False)
