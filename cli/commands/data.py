"""`tidegate data`: versions of the data, and the contract it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.core.project import Project
    from tidegate.pipelines.refresh import NewData
    from tidegate.pipelines.steps.contract import ContractResult

app = typer.Typer(help="Record, check and move the data.", no_args_is_help=True)


@app.command()
def add(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A csv or parquet file; without it data.path as it is now.")
    ] = None,
) -> None:
    """Record a new version of the data: FILE is copied to data.path."""
    from tidegate.pipelines.refresh import take

    t = terminal()
    _show_new("add", take(t.project, file if file is not None else t.project.path(t.project.config.data.path)))


@app.command()
def refresh() -> None:
    """Run data.command and record what it wrote; if it fails the old data stays."""
    from tidegate.pipelines.refresh import refresh as run

    t = terminal()
    _show_new("refresh", run(t.project, t.progress))


def _show_new(action: str, new: NewData) -> None:
    data = {"path": new.data.path, "md5": new.data.md5, "rows": new.data.rows}
    document = {"kind": "data", "action": action, "changed": new.changed, "data": data, "before": new.before}

    def render(console: Console) -> None:
        what = "recorded" if new.changed else "unchanged"
        console.print(f"{new.data.path} {what}: {new.data.rows:,} rows, md5 {new.data.md5}", highlight=False)
        if new.changed:
            console.print("next: tidegate train", highlight=False)

    terminal().show(document, render)


@app.command()
def check() -> None:
    """Check the data against its contract; exit code 3 if it breaks it."""
    from tidegate.pipelines.dataset import read_frame
    from tidegate.pipelines.steps.contract import check_contract

    t = terminal()
    project = t.project
    _recover(project)
    with t.progress.task("check the contract"):
        frame = read_frame(project.path(project.config.data.path))
        result = check_contract(frame, project.path(project.config.contract))
    document = {"kind": "contract", "path": project.config.data.path, **result.document()}
    t.show(document, lambda console: _render_contract(console, result))
    result.require()


def _render_contract(console: Console, result: ContractResult) -> None:
    held = sum(one.passed for one in result.results)
    console.print(f"{held} of {len(result.results)} promises hold for {result.rows:,} rows", highlight=False)
    for text in result.warned:
        console.print(f"warning: {text}", markup=False, highlight=False)


@app.command()
def draft(
    write: Annotated[bool, typer.Option("--write", help="Replace the contract file instead of printing.")] = False,
) -> None:
    """Propose a contract from the data as it is."""
    from tidegate.pipelines.dataset import kinds, read_frame
    from tidegate.pipelines.steps.contract_draft import draft as propose

    t = terminal()
    project = t.project
    config = project.config
    _recover(project)
    frame = read_frame(project.path(config.data.path))
    text = propose(frame, kinds(frame), target=config.data.target, task=config.task)
    if write:
        file = project.path(project.config.contract)
        part = file.with_name(f".{file.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    document = {"kind": "draft", "contract": project.config.contract, "written": write, "text": text}
    shown = f"wrote {project.config.contract}" if write else text.rstrip("\n")
    t.show(document, lambda console: console.print(shown, markup=False, highlight=False, soft_wrap=True))


@app.command()
def status() -> None:
    """Show the recorded version of the data and what differs from it."""
    from tidegate.pipelines import dvc_repo

    t = terminal()
    project = t.project
    _recover(project)
    path = project.config.data.path
    md5 = dvc_repo.recorded_md5(project.root, path)
    file = project.path(path)
    state = "missing" if not file.is_file() else "not recorded" if md5 is None else _state(file, md5)
    changes = [{"path": one.path, "state": one.state} for one in dvc_repo.status(project.root)]
    document = {
        "kind": "data",
        "action": "status",
        "data": {"path": path, "md5": md5},
        "state": state,
        "changes": changes,
    }

    def render(console: Console) -> None:
        console.print(f"{path}: {state}" + (f", md5 {md5}" if md5 else ""), markup=False, highlight=False)
        for one in changes:
            console.print(f"  {one['path']}: {one['state']}", markup=False, highlight=False)

    t.show(document, render)


def _state(file: Path, md5: str) -> str:
    from tidegate.pipelines.dvc_repo import hash_matches

    return "as recorded" if hash_matches(file, md5) else "differs from what is recorded"


@app.command()
def push() -> None:
    """Copy data, outputs and the run-cache to the DVC remote."""
    from tidegate.pipelines import dvc_repo

    t = terminal()
    with t.progress.task("push to the DVC remote"):
        count = dvc_repo.push(t.project.root)
    _show_moved("push", count, f"{count} new object{'s' if count != 1 else ''} in the DVC remote")


@app.command()
def pull(
    *, force: Annotated[bool, typer.Option("--force", help="Replace tracked files that were changed here.")] = False
) -> None:
    """Fetch the recorded data from the DVC remote and check its content."""
    from tidegate.pipelines import dvc_repo

    t = terminal()
    with t.progress.task("pull from the DVC remote"):
        data, count = dvc_repo.pull_data(t.project, force=force)
    _show_moved("pull", count, f"{data.path} is in place, md5 {data.md5}")


def _show_moved(action: str, count: int, text: str) -> None:
    document = {"kind": "data", "action": action, "objects": count}
    terminal().show(document, lambda console: console.print(text, markup=False, highlight=False))


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="[REVISION]", help="A git revision.")] = "HEAD",
    after: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Another one; default: the data as recorded now.")
    ] = None,
) -> None:
    """Compare the data of two git revisions: rows, columns, and what changed in each."""
    from tidegate.pipelines.data_diff import compare

    t = terminal()
    found = compare(t.project, before, after)
    t.show({"kind": "data", "action": "diff", **found}, lambda console: _render_diff(console, found))


def _render_diff(console: Console, found: dict[str, Any]) -> None:
    from rich.table import Table

    if not found["changed"]:
        console.print(f"{found['path']}: the same content (md5 {found['before']['md5']})", highlight=False)
        return
    sides = [found["before"], found["after"]]
    rows = " -> ".join(f"{side['rows']:,}" if side["rows"] is not None else "none" for side in sides)
    md5s = " -> ".join(str(side["md5"]) for side in sides)
    console.print(f"{found['path']}: {rows} rows, md5 {md5s}", markup=False, highlight=False)
    table = Table("column", "change", "before", "after", box=None)
    for one in found["columns"]:
        table.add_row(*(str(one[key]) for key in ("column", "change", "before", "after")))
    if table.row_count:
        console.print(table)


@app.command()
def erase(
    unit: Annotated[str, typer.Option("--unit", help="The user, as requests name them (rollout.unit.header).")],
    *,
    reason: Annotated[
        str, typer.Option("--reason", help="Why; the ledger keeps it, so do not name the user.")
    ] = "the user asked for it",
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
) -> None:
    """Erase one user: predictions, their labels and outcomes, what rollouts keep, and the name in the gateway's log."""
    from tidegate.core.errors import UsageError
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.erasure import erase_user

    t = terminal()
    environment = environment_for(t.project)
    if not unit:
        raise UsageError("--unit names nobody.", "Name the user as requests do: tidegate data erase --unit user-1")
    if not yes:
        _confirm(f"Erase all records of this user in {environment.stream}? They cannot be brought back.")
    with t.progress.task("erase the records"):
        erased = erase_user(environment, unit, reason)
    counts = {"predictions": erased.predictions, "labels": erased.labels, "outcomes": erased.outcomes}
    counts["exposures"] = erased.exposures
    document = {"kind": "data", "action": "erase", **counts, "requests": erased.requests}

    def render(console: Console) -> None:
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        console.print(f"erased: {said}, and the name in {erased.requests:,} lines of the gateway's log")
        console.print("what was asked in the last seconds may still be written: erase again in a minute")

    t.show(document, render)


def _confirm(question: str) -> None:
    """Ask on the terminal; without one nobody can answer.

    Raises:
        UsageError: the answer is no, or there is none.
    """
    import sys

    from tidegate.core.errors import UsageError

    hint = "Add --yes to do it without being asked."
    if not sys.stdin.isatty():
        raise UsageError("Nothing was erased: nobody is here to confirm it.", hint)
    if not typer.confirm(question, err=True):
        raise UsageError("Nothing was erased.", hint)


def _recover(project: Project) -> None:
    """Undo a refresh that was killed, before its half-written file is read."""
    from tidegate.pipelines.refresh import recover

    if (path := recover(project.root)) is not None:
        terminal().warn(f"a refresh of {path} was interrupted; the data from before it is back")
