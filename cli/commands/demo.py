"""`tidegate demo`: the five-minute story."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console


def demo(
    keep: Annotated[Path | None, typer.Option(help="Keep the project in this new folder, to look around in.")] = None,
) -> None:
    """A bad version is sent back, a good one promoted, and drift answered: real parts, no downloads, five minutes."""
    from tidegate.core.errors import ExitCode, UsageError
    from tidegate.pipelines.demo import Demo

    t = terminal()
    if keep is not None and keep.exists():
        raise UsageError(f"{keep} exists already.", "Name a new folder.")
    # Both end the story as Ctrl-C does, unless `nohup` asked for the opposite: its processes must not outlive it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    try:
        document = Demo(folder / "digits", t.progress).run()
        if keep is not None:
            shutil.move(folder / "digits", keep)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    t.show(document, lambda console: _print(console, document, keep))
    decisions = [chapter["rollout"]["decision"] for chapter in document["chapters"]]
    if decisions != ["deployed", "rollback", "promote", "promote"]:
        raise typer.Exit(ExitCode.INCONCLUSIVE)


def _print(console: Console, document: dict[str, Any], keep: Path | None) -> None:
    from rich.table import Table

    table = Table("version", "what", "gate", "verdict", "canary users", "seconds", title="What happened")
    for chapter in document["chapters"]:
        steps = chapter["rollout"]["steps"]
        users = sum(step["units"].get("canary", 0) for step in steps)
        seconds = sum(step["seconds"] for step in steps)
        table.add_row(
            str(chapter["version"]),
            chapter["title"],
            "passed" if (chapter["gate"] or {}).get("passed") else "refused",
            chapter["rollout"]["decision"],
            f"{users:,}" if steps else "-",
            f"{seconds:.0f}" if steps else "-",
        )
    console.print()
    console.print(table)
    for chapter in document["chapters"]:
        if chapter["rollout"]["decision"] == "rollback" and chapter["reasons"]:
            console.print(f"\nWhy version {chapter['version']} was sent back:", style="bold")
            for reason in chapter["reasons"]:
                console.print(f"  {reason}", markup=False, soft_wrap=True)
    _print_lineage(console, document["lineage"])
    console.print(
        f"\n{document['seconds']:.0f} seconds. Your own data: tidegate init DIR --from FILE.csv --target COLUMN"
    )
    if keep is not None:
        console.print(f"The project is in {keep}.", markup=False)


def _print_lineage(console: Console, traced: dict[str, Any]) -> None:
    data = traced["data"][0]
    console.print(f"\nOne prediction, traced (tidegate why {traced['prediction']}):", style="bold")
    console.print(
        f"  {traced['prediction']} -> {traced['arm']} -> release {traced['release']} -> version {traced['version']}\n"
        f"  -> run {traced['run_id']} -> data {data['path']} md5 {data['md5']}\n"
        f"  -> commit {traced['git_commit']}",
        markup=False,
        soft_wrap=True,
    )
