"""`tidegate report`: what a pull request should know of its model, as Markdown."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.terminal import terminal
from tidegate.core.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from tidegate.pipelines import github
    from tidegate.pipelines.report import Report


class Format(StrEnum):
    """What the report is written in."""

    MD = "md"


def report(  # noqa: PLR0917 - Typer gives them by name
    form: Annotated[Format, typer.Option("--format", help="md: GitHub Markdown.")] = Format.MD,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION",
            help="Compare the data with this git revision; default: the pull request's base, elsewhere HEAD.",
        ),
    ] = None,
    plots: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where the plots can be seen; default: the run's page in MLflow.")
    ] = "",
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it to a file as well.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Take a report that was written before; no project is looked at."),
    ] = None,
    comment: Annotated[
        bool, typer.Option("--comment", help="Put it into one comment of the job's pull request; needs GITHUB_TOKEN.")
    ] = False,
) -> None:
    """Report data, contract, gate and cost of the trained project, without registering anything.

    On GitHub Actions it also goes to the job's summary. Exit code 3: contract or gate refuse.
    """
    from tidegate.pipelines import github

    t = terminal()
    here = github.job(os.environ)
    if source is not None:
        text, found = _read(source), None
    else:
        found = _make(here, against, plots)
        text = _rendered(found)
    if to is not None:
        to.write_text(text, encoding="utf-8")
    if here is not None and found is not None:
        github.add_summary(here, text)
        github.set_output(here, passed=str(found.passed).lower())
    address = _comment(here, text) if comment else ""
    document = {
        "kind": "report",
        "format": form.value,
        "passed": found.passed if found else None,
        "reasons": found.reasons if found else None,
        "comment": address or None,
        "text": text,
    }
    t.show(document, lambda console: console.print(text, markup=False, highlight=False, soft_wrap=True, end=""))
    raise typer.Exit(found.exit_code if found else ExitCode.OK)


def _make(here: github.Job | None, against: str | None, plots: str) -> Report:
    from tidegate import api

    t = terminal()
    base = f"origin/{here.base}" if here is not None and here.base else "HEAD"
    return api.report(t.project, against=against or base, plots=plots, progress=t.progress)


def _rendered(found: Report) -> str:
    from tidegate.pipelines.report_markdown import render

    return render(found)


def _read(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} cannot be read: {error}.", "`tidegate report --to FILE` writes one.") from error


def _comment(here: github.Job | None, text: str) -> str:
    from tidegate.pipelines import github
    from tidegate.pipelines.report_markdown import marker_of

    marker = marker_of(text)
    if marker is None:
        raise UsageError("The file is no report of tidegate's.", "`tidegate report --to FILE` writes one.")
    if here is None:
        raise UsageError("--comment works in a job of GitHub Actions only.", "Leave it out to print the report.")
    return github.comment(here, marker, text)
