"""`tidegate monitor`: does live data still look like what the model learnt from?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.tables import table
from tidegate.cli.terminal import terminal
from tidegate.core.errors import ExitCode, Inconclusive, TidegateError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.core.config_live import Monitor
    from tidegate.pipelines.environment import Environment

app = typer.Typer(help="Watch live data, predictions and quality.", no_args_is_help=True)

_SHOWN = 20
_NEXT = (
    "`tidegate monitor report` shows the distributions; `tidegate labels ingest FILE` shows whether it costs quality; "
    "`tidegate retrain` trains again."
)
_NEXT_FILE = "`--html FILE` draws the distributions; `tidegate retrain` trains again, if this is the data of now."


@app.command()
def run(
    window: Annotated[
        str | None, typer.Option(help="Look at this stretch of time only, and record nothing: FROM..UNTIL in UTC.")
    ] = None,
    current: Annotated[
        Path | None, typer.Option(help="Look at this csv or parquet file instead; needs no stack.", metavar="FILE")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="What --current is compared with; default: what the champion learnt from.", metavar="FILE"),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Let Evidently draw the newest window, too.")
    ] = True,
    html: Annotated[
        Path | None, typer.Option(help="With --current: write Evidently's report to this file.", metavar="FILE")
    ] = None,
) -> None:
    """Judge every window of live data that is over and was not judged yet.

    Exit code 4: drift, for as many windows in a row as monitor.drift.windows says (a file or --window is one look and
    counts alone). 5: cannot tell. 0: no drift.
    """
    if reference is not None and current is None:
        raise UsageError("--reference needs --current.", "`tidegate monitor run --current new.csv --reference old.csv`")
    if html is not None and current is None:
        raise UsageError("--html needs --current.", "Reports of windows are kept: `tidegate monitor report`.")
    if current is not None:
        if window is not None:
            raise UsageError("--current and --window exclude each other.", "A file has no time; leave one out.")
        document = _of_files(current, reference, html)
    elif window is not None:
        document = _by_hand(window)
    else:
        document = _of_windows(draw=report)
    terminal().show(document, lambda console: _print(console, document))
    raise typer.Exit(_code(document))


@app.command("report")
def show_report(
    window: Annotated[
        str | None, typer.Argument(help="The beginning of a window as `monitor status` shows it; default: the newest.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Draw it anew.")] = False,
) -> None:
    """Say where Evidently's report of a window is; draw it if there is none yet."""
    from tidegate.monitors.report import HTML, SNAPSHOT
    from tidegate.pipelines.steps import monitor

    t = terminal()
    environment = _environment()
    folder = _folder(environment, window)
    document = monitor.read_report(environment, folder)
    if again or not environment.store.exists(f"{folder}/{HTML}"):
        document = monitor.draw(environment, document, t.progress)
    shown = {
        "kind": "drift_report",
        "window": document["window"],
        "outcome": document["outcome"],
        "html": environment.store.location(f"{folder}/{HTML}"),
        "snapshot": environment.store.location(f"{folder}/{SNAPSHOT}"),
        "workspace": environment.store.location(f"reports/{environment.stream}/evidently"),
    }

    def render(console: Console) -> None:
        console.print(shown["html"], markup=False, soft_wrap=True)
        pages = f"evidently ui --workspace {shown['workspace']}"
        console.print(f"All of them in Evidently's own pages: {pages}", markup=False, soft_wrap=True)

    t.show(shown, render)


@app.command()
def status() -> None:
    """Show the windows that were judged: which drifted, since when, and what came of it."""
    from tidegate.pipelines.steps import monitor

    t = terminal()
    environment = _environment()
    state = environment.state()
    newest = state.watched
    since = _since(state.windows)
    document = {
        "kind": "monitor_status",
        "outcome": newest.outcome if newest else None,
        "in_a_row": monitor.drifting(state),
        "needed": environment.project.config.monitor.drift.windows,
        "drifting_since": since,
        "windows": [
            {
                "from": one.since,
                "to": one.until,
                "outcome": one.outcome,
                "share": one.share,
                "lost": one.lost,
                "retrain": {"asked": one.asked, "reason": one.reason},
                "report": one.report,
            }
            for one in reversed(state.windows)
        ],
    }
    t.show(document, lambda console: _print_status(console, document))


def _environment() -> Environment:
    from tidegate.pipelines.environment import environment_for

    return environment_for(terminal().project)


def _of_windows(*, draw: bool) -> dict[str, Any]:
    """The newest window, after every one that was due."""
    from tidegate.pipelines import alarm
    from tidegate.pipelines.steps import monitor

    t = terminal()
    environment = _environment()
    judge = monitor.run_and_draw if draw else monitor.run
    made = judge(environment, t.progress, alarm.decider(environment, t.progress))
    if not made:
        return _newest(environment)
    newest = made[-1]
    looked = [{"window": one["window"], "outcome": one["outcome"], "share": one["share"]} for one in made]
    return {**newest, "report": _where(environment, newest["report"]), "looked_at": looked}


def _newest(environment: Environment) -> dict[str, Any]:
    """The window that was judged last: asking twice gives the same answer."""
    from tidegate.pipelines.steps import monitor

    watched = environment.state().watched
    if watched is None:
        raise Inconclusive(
            "No window of live data is over yet.",
            "Serve it (`tidegate up -d`), send traffic, and wait for monitor.window to pass; or compare a file: "
            "`tidegate monitor run --current FILE`.",
        )
    document = monitor.read_report(environment, watched.report)
    return {**document, "report": _where(environment, document["report"]), "looked_at": []}


def _where(environment: Environment, folder: str) -> str:
    """Where a person finds the report: Evidently's page, else the verdict."""
    from tidegate.monitors.report import HTML
    from tidegate.pipelines.steps.monitor import FILE

    page = f"{folder}/{HTML}"
    return environment.store.location(page if environment.store.exists(page) else f"{folder}/{FILE}")


def _by_hand(text: str) -> dict[str, Any]:
    from tidegate.monitors import windows
    from tidegate.pipelines.steps import monitor

    found = monitor.look(_environment(), windows.parse(text))
    return {
        **found,
        "drifted": found["outcome"] == "drift",
        "retrain": {"asked": False, "reason": "a look by hand asks for nothing"},
    }


def _of_files(current: Path, reference: Path | None, html: Path | None) -> dict[str, Any]:
    from tidegate.pipelines.compare_files import compare_files, document

    compared, made = compare_files(
        current, reference if reference is not None else _environment(), _policy(reference), draw=html is not None
    )
    found = document(compared, current)
    if html is None:
        return found
    if made is None:
        raise TidegateError("There is nothing to draw.", "; ".join(compared.reasons))
    html.write_bytes(made.html)
    return {**found, "report": str(html), "evidently": dict(made.values)}


def _policy(reference: Path | None) -> Monitor:
    """The project's, and the defaults where two files are compared outside of one."""
    from tidegate.core.config_live import Monitor
    from tidegate.core.project import find

    t = terminal()
    try:
        find(t.directory)
    except UsageError:
        if reference is None:
            raise
        return Monitor()
    return t.project.config.monitor


def _folder(environment: Environment, window: str | None) -> str:
    windows = environment.state().windows
    wanted = (window or "").replace("Z", "")
    found = [one for one in windows if one.since.startswith(wanted)]
    if not found:
        raise UsageError(
            f"No window that was judged begins with {window}." if window else "No window was judged yet.",
            "`tidegate monitor status` lists them; `tidegate monitor run` judges those that are over.",
        )
    return found[-1].report


def _since(windows: tuple[Any, ...]) -> str | None:
    """When the drift that lasts began: the first window after the last one without."""
    began = None
    for one in windows:
        if one.outcome == "no_drift":
            began = None
        elif one.outcome == "drift" and began is None:
            began = one.since
    return began


def _code(document: dict[str, Any]) -> ExitCode:
    if document["drifted"]:
        return ExitCode.DRIFT
    return ExitCode.INCONCLUSIVE if document["outcome"] == "cannot_tell" else ExitCode.OK


def _print(console: Console, document: dict[str, Any]) -> None:
    console.print(_headline(document), markup=False, style="bold", soft_wrap=True)
    for reason in document["reasons"]:
        console.print(f"  - {reason}", markup=False, soft_wrap=True)
    columns = sorted([*document["predictions"], *document["columns"]], key=_order)
    if columns:
        console.print(_columns(columns[:_SHOWN]))
    if len(columns) > _SHOWN:
        console.print(f"... and {len(columns) - _SHOWN:,} more; --json prints all of them")
    if document["quality"]:
        console.print(_quality(document["quality"]), markup=False, soft_wrap=True)
    if not document["window"].get("file"):
        asked = "asks for a retrain" if document["retrain"]["asked"] else "no retrain"
        console.print(f"{asked}: {document['retrain']['reason']}", markup=False, soft_wrap=True)
    if document["report"]:
        console.print(f"report {document['report']}", markup=False, soft_wrap=True)
    if document["drifted"]:
        following = _NEXT_FILE if document["window"].get("file") else _NEXT
        console.print(f"What to do next: {following}", markup=False, soft_wrap=True)


def _quality(quality: dict[str, Any]) -> str:
    """The version that most users get, by the newest labels that are final."""
    if quality.get("value") is None:
        return f"quality: cannot tell, {quality['cannot_tell']}"
    holdout = "" if quality["reference"] is None else f", {quality['reference']:.4g} on the holdout"
    verdict = {True: "lost", False: "kept", None: f"cannot tell, {quality['cannot_tell']}"}[
        quality["versions"][0]["lost"]
    ]
    told = f"{quality['metric']} {quality['value']:.4g} ({quality['low']:.4g} to {quality['high']:.4g}){holdout}"
    return f"quality of {_moment(quality['from'])} to {_moment(quality['to'])}: {verdict}; {told}"


def _headline(document: dict[str, Any]) -> str:
    window = document["window"]
    where = window.get("file") or f"{_moment(window['from'])} to {_moment(window['to'])} UTC"
    words = {"drift": "drift", "no_drift": "no drift", "cannot_tell": "cannot tell"}
    text = f"{where}, {window['rows']:,} rows: {words[document['outcome']]}"
    if document["outcome"] == "drift" and "in_a_row" in document:
        text += f", {document['in_a_row']} in a row ({document['needed']} count)"
    return text


def _order(one: dict[str, Any]) -> tuple[bool, float, float]:
    """What drifted first, of that what matters most."""
    past = (one["value"] or 0.0) - (one["floor"] or 0.0) - (one["threshold"] or 0.0)
    return (not one["drifted"], -one["importance"], -past)


def _columns(rows: list[dict[str, Any]]) -> Any:
    made = table("column", "outcome", "distance", "limit", "weight", "reference", "now", "note")
    for one in rows:
        mean = one["mean"] or {}
        limit = None if one["floor"] is None else one["floor"] + one["threshold"]
        made.add_row(
            one["name"],
            one["outcome"].replace("_", " "),
            _number(one["value"]),
            _number(limit),
            f"{one['importance']:.0%}",
            _number(mean.get("reference")),
            _number(mean.get("window")),
            _note(one),
        )
    return made


def _note(one: dict[str, Any]) -> str:
    new = ", ".join(f"{entry['value']} {entry['share']:.1%}" for entry in one["new"][:3])
    return " ".join(filter(None, [one["note"], f"new: {new}" if new else ""]))


def _moment(text: str) -> str:
    """To the minute, and to the second where a window begins within one."""
    return text[:16] if text[16:19] == ":00" else text[:19]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _print_status(console: Console, document: dict[str, Any]) -> None:
    if not document["windows"]:
        console.print("No window was judged yet; `tidegate monitor run` judges those that are over.")
        return
    if document["drifting_since"]:
        row = f"{document['in_a_row']} windows in a row, and {document['needed']} count"
        console.print(f"drift since {_moment(document['drifting_since'])} UTC: {row}", style="bold", markup=False)
    made = table("from", "to", "outcome", "weight that drifted", "retrain")
    for one in document["windows"][:_SHOWN]:
        share = "-" if one["share"] is None else f"{one['share']:.0%}"
        lost = ", quality lost" if one["lost"] else ""
        asked = "asked: " if one["retrain"]["asked"] else ""
        made.add_row(
            _moment(one["from"]),
            _moment(one["to"]),
            one["outcome"].replace("_", " ") + lost,
            share,
            asked + one["retrain"]["reason"],
        )
    console.print(made)
