"""`tidegate up`, `down`, `ps` and `logs`: the local environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.commands.config import warn_of_ignored, without_password
from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.environment import Environment
    from tidegate.pipelines.supervisor import Stack

# Envoy, one Bento process and their imports, on a slow machine.
_START_SECONDS = 90.0


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Go on in the background.")] = False,
) -> None:
    """Start the gateway, the model and the console, follow the ledger, move rollouts on; Ctrl-C stops everything."""
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    environment = environment_for(t.project)
    warn_of_ignored()
    if detach:
        _detach(environment)
    else:
        _foreground(environment)


def down() -> None:
    """Stop the gateway, the model and whatever a killed `up` left behind."""
    from tidegate.pipelines import stack
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    environment = environment_for(t.project)
    with t.progress.task("stop"):
        was_up = stack.down(environment)
    text = "Stopped." if was_up else "Nothing was running."
    t.show({"kind": "down", "was_up": was_up}, lambda console: console.print(text))


def ps() -> None:
    """Show the running processes with their ports and versions."""
    from tidegate.pipelines import stack
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    document = stack.status(environment_for(t.project))

    def render(console: Console) -> None:
        from rich.table import Table

        table = Table("name", "version", "release", "pid", "port", "ready", box=None)
        for one in document["processes"]:
            cells = [one["name"], one["version"], one.get("release"), one["pid"], one["port"]]
            table.add_row(*("" if cell is None else str(cell) for cell in cells), "yes" if one["ready"] else "no")
        console.print(table)
        console.print(f"gateway {document['gateway']}")
        if document["console"]:
            console.print(f"console {document['console']}")

    t.show(document, render)


def logs(
    name: Annotated[str | None, typer.Argument(help="up, gateway, console or a release; default: all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines of each.")] = 20,
) -> None:
    """Show what the processes printed."""
    from tidegate.core.errors import UsageError
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    files = _log_files(environment_for(t.project))
    if name is not None and name not in files:
        raise UsageError(f"There is no log of {name}.", f"There are logs of: {', '.join(files) or 'nothing yet'}.")
    chosen = {one: path for one, path in files.items() if name in {None, one}}
    offsets = {}
    for one, path in chosen.items():
        content = path.read_bytes()
        offsets[one] = len(content)
        for line in content.decode(errors="replace").splitlines()[-lines or len(content) :] if lines else ():
            t.line({"name": one, "line": line}, f"{one}  {line}")
    while follow:
        time.sleep(0.3)
        for one, path in chosen.items():
            with path.open("rb") as file:
                file.seek(offsets[one])
                fresh = file.read()
            complete = fresh[: fresh.rfind(b"\n") + 1]
            offsets[one] += len(complete)
            for line in complete.decode(errors="replace").splitlines():
                t.line({"name": one, "line": line}, f"{one}  {line}")


def _log_files(environment: Environment) -> dict[str, Path]:
    files = {path.stem: path for path in sorted(environment.log_dir.glob("*.log"))}
    gateway = environment.run_dir / "gateway" / "envoy.log"
    return {**files, **({"gateway": gateway} if gateway.exists() else {})}


def _foreground(environment: Environment) -> None:
    from tidegate.pipelines.supervisor import Stack

    t = terminal()
    stack = Stack(environment, t.progress.note)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stack.stop())
    stack.run(lambda: _announce(stack, environment))


def _announce(stack: Stack, environment: Environment) -> None:
    document = stack.ps()
    terminal().show(document, lambda console: _print_ready(console, document, environment))


def _detach(environment: Environment) -> None:
    """Start `up` in its own process group and wait until it answers."""
    from tidegate.core.errors import Conflict, TidegateError
    from tidegate.pipelines import stack

    t = terminal()
    if stack.is_up(environment):
        raise Conflict("The stack runs already.", "`tidegate ps` shows it, `tidegate down` stops it.")
    environment.log_dir.mkdir(parents=True, exist_ok=True)
    log = environment.log_dir / "up.log"
    began = log.stat().st_size if log.exists() else 0
    command = [sys.executable, "-m", "tidegate.cli", "-C", str(environment.project.root), "up"]
    _obey_the_end()
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=os.environ
        )
    try:
        with t.progress.task("start the gateway and the model"):
            document = _wait_until_ready(environment, child)
    except BaseException:
        # Whoever stops this wants no stack; the folder may be about to go.
        child.terminate()
        child.wait()
        raise
    if document is not None:
        t.show(document, lambda console: _print_ready(console, document, environment))
        return
    said = log.read_bytes()[began:].decode(errors="replace").strip()
    what = "stopped at once" if child.poll() is not None else f"was not ready within {_START_SECONDS:.0f} s"
    raise TidegateError(f"The stack {what}.", f"It said:\n{said}" if said else "See `tidegate logs`.")


def _obey_the_end() -> None:
    """End as by Ctrl-C when a terminal closes or a script is ended, unless `nohup` asked for the opposite."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _wait_until_ready(environment: Environment, child: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """The document of `ps` once users can be answered; None when `up` ended or took too long."""
    from tidegate.pipelines import control, stack

    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(control.NotRunning):
            document = stack.status(environment)
            if _is_ready(environment, document):
                return document
        time.sleep(0.1)
    return None


def _is_ready(environment: Environment, document: dict[str, Any]) -> bool:
    champion = environment.state().champion
    ready = {one["name"]: one for one in document["processes"] if one["ready"]}
    if "gateway" not in ready:
        return False
    return champion is None or ready.get("stable", {}).get("release") == champion


def _print_ready(console: Console, document: dict[str, Any], environment: Environment) -> None:
    from tidegate.pipelines.example_request import curl

    console.print(f"gateway  {document['gateway']}", markup=False)
    if document["console"]:
        console.print(f"console  {to_open(console, document['console'], environment)}", markup=False, soft_wrap=True)
    champion = environment.state().champion
    if champion is None:
        console.print("Nothing is deployed yet: `tidegate ship` deploys the first version.", markup=False)
        return
    console.print("Try it:", markup=False)
    console.print(curl(environment, document["gateway"]), markup=False, soft_wrap=True)
    uri = environment.project.mlflow_uri
    # Only a file can be opened by whoever reads this; anything else has a server of its own.
    pages = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite:") else without_password(uri)
    console.print(f"MLflow's pages: {pages}", markup=False, soft_wrap=True)
    if environment.store.filesystem is None:
        kept = environment.store.location(f"reports/{environment.stream}/evidently")
        console.print(f"Evidently's pages: evidently ui --workspace {kept}", markup=False, soft_wrap=True)


def to_open(console: Console, address: str, environment: Environment) -> str:
    """A link that logs in once; elsewhere than on a terminal, which may end up in a log, only where the token is."""
    from tidegate.pipelines import console_access

    if console.is_terminal:
        return console_access.login_link(environment, address)
    console_access.token(environment)
    return f"{address} (the token is in {console_access.token_file(environment)})"
