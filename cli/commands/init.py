"""`tidegate init`: a project around a data file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.init import Report


def init(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The project's folder; made if it does not exist.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Your data: a csv or parquet file.")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column to predict.")] = None,
    time: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="A time column: the newest rows are held out. Without it: random rows."),
    ] = None,
    example: Annotated[str | None, typer.Option(metavar="NAME", help="Copy an example to start with.")] = None,
) -> None:
    """Make a project around your data that ships without an edit.

    In a folder that has files it writes only what is missing; nothing is committed.
    """
    from tidegate.pipelines.init import init as make

    t = terminal()
    root = t.directory / (folder or Path())
    report = make(root, source, target, time=time, example=example, progress=t.progress)
    t.show(report.document(), lambda console: _render(console, report))


def _render(console: Console, report: Report) -> None:
    for title, lines in (("wrote", report.written), ("kept", report.kept), ("note", report.notes)):
        for line in lines:
            console.print(f"{title:<6} {line}", markup=False, highlight=False)
    console.print("\nnext", markup=False)
    for line in report.next:
        console.print(f"  {line}", markup=False, highlight=False)
