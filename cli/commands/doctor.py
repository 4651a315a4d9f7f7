"""`tidegate doctor`: what is missing, and one fix for each finding."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.machine import Finding

app = typer.Typer(invoke_without_command=True)
_MARKS = {"ok": "ok  ", "warning": "warn", "problem": "FAIL"}


@app.callback()
def doctor(context: typer.Context) -> None:
    """Say what is missing on this machine, one fix per finding; exit 1 if something blocks."""
    if context.invoked_subcommand is not None:
        return
    from tidegate.pipelines.machine import examine

    t = terminal()
    with t.progress.task("Looking at this machine"):
        findings = tuple(examine(t.directory, lambda: t.project))
    well = all(finding.status != "problem" for finding in findings)
    document = {"kind": "doctor", "ok": well, "findings": [dataclasses.asdict(finding) for finding in findings]}
    t.show(document, lambda console: _render(console, findings))
    if not well:
        raise typer.Exit(1)


def _render(console: Console, findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        style = {"ok": "green", "warning": "yellow", "problem": "bold red"}[finding.status]
        console.print(_MARKS[finding.status], style=style, end="  ")
        console.print(f"{finding.name}: {finding.detail}", markup=False)
        if finding.fix:
            console.print(f"      {finding.fix}", markup=False)
