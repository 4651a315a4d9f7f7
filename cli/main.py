"""The entry of the command line: one table of commands, one place that turns an error into words and an exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final

import typer
from typer.core import TyperOption

from tidegate.cli.frame import GLOBAL_PANEL, LazyGroup, Line, record
from tidegate.cli.terminal import Terminal, begin, complain
from tidegate.core.errors import ExitCode, Interrupted, TidegateError, UsageError
from tidegate.core.optouts import opt_out
from tidegate.core.threads import share_processors

if TYPE_CHECKING:
    from collections.abc import Sequence

START: Final = "Start"
DATA: Final = "Data and models"
RUN: Final = "Serve and roll out"
WATCH: Final = "Watch and explain"
SETUP: Final = "Set up"
_HERE: Final = "tidegate.cli.commands."

# name -> module:attribute, help, panel; the order is the order of the help.
COMMANDS: Final = MappingProxyType(
    {
        "demo": Line(_HERE + "demo:demo", "The five-minute story, on data inside the installed libraries.", START),
        "init": Line(_HERE + "init:init", "Make a project around your data that ships without an edit.", START),
        "data": Line(_HERE + "data:app", "Record, check and move the data.", DATA),
        "train": Line(_HERE + "train:train", "Contract, train, evaluate; only what changed.", DATA),
        "model": Line(_HERE + "model:app", "List, show, compare and adopt versions of the model.", DATA),
        "release": Line(_HERE + "release:app", "List, show and restore releases.", DATA),
        "ship": Line(_HERE + "ship:ship", "The whole road: train, gate, package, A/B rollout, verdict.", START),
        "up": Line(_HERE + "stack:up", "Start the gateway, the model and the console on this machine.", RUN),
        "down": Line(_HERE + "stack:down", "Stop them.", RUN),
        "ps": Line(_HERE + "stack:ps", "Show what runs.", RUN),
        "logs": Line(_HERE + "stack:logs", "Show what the processes printed.", RUN),
        "serve": Line(_HERE + "serve:app", "Run the console alone; `up` runs it too.", RUN),
        "rollout": Line(_HERE + "rollout:app", "Plan, start, follow and end A/B rollouts.", RUN),
        "rollback": Line(_HERE + "ship:rollback", "Go back to an earlier release at once.", RUN),
        "freeze": Line(_HERE + "freeze:freeze", "Stop automatic retrains and rollouts.", RUN),
        "unfreeze": Line(_HERE + "freeze:unfreeze", "Allow automatic retrains and rollouts again.", RUN),
        "retrain": Line(_HERE + "retrain:retrain", "Train on new data; labels say who is the champion.", RUN),
        "workflow": Line(_HERE + "workflow:app", "List, follow, read and cancel the Workflows of a cluster.", RUN),
        "predict": Line(_HERE + "predict:predict", "Predict every row of a file with a released version.", RUN),
        "package": Line(_HERE + "package:package", "Find a version's Bento, or build it again.", RUN),
        "labels": Line(_HERE + "labels:app", "Keep what became of predictions, and show how much there is.", WATCH),
        "render": Line(_HERE + "manifests:render", "Print what a Kubernetes environment is made of.", RUN),
        "apply": Line(_HERE + "apply:apply", "Make a Kubernetes environment what the files and the ledger say.", RUN),
        "diff": Line(_HERE + "apply:diff", "Show what apply would change.", RUN),
        "lint": Line(_HERE + "manifests:lint", "Find in manifests what schemas do not see.", SETUP),
        "why": Line(_HERE + "why:why", "Trace a prediction to its release, run, data and commit.", WATCH),
        "monitor": Line(_HERE + "monitor:app", "Watch live data, predictions and quality.", WATCH),
        "events": Line(_HERE + "events:events", "Show every decision, with who took it.", WATCH),
        "report": Line(_HERE + "report:report", "Tell a pull request about its model.", WATCH),
        "dev": Line(_HERE + "dev:app", "Tools for trying things out.", SETUP),
        "step": Line(_HERE + "step:step", "Run one step of a flow, for DVC stages and Workflow pods.", SETUP),
        "doctor": Line(_HERE + "doctor:app", "Say what is missing on this machine, one fix per finding.", SETUP),
        "ci": Line(_HERE + "ci:app", "Run the road on GitHub Actions.", SETUP),
        "config": Line(_HERE + "config:config", "Print tidegate.yaml as it was resolved.", SETUP),
        "schema": Line(_HERE + "schema:schema", "Print the JSON schema of tidegate.yaml, for editors.", SETUP),
    }
)


def _options(
    directory: Annotated[
        Path | None,
        typer.Option("--directory", "-C", help="Work on the project in this folder.", rich_help_panel=GLOBAL_PANEL),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(
            "--env", "-e", help="Environment, default local. TIDEGATE_ENV sets it too.", rich_help_panel=GLOBAL_PANEL
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print exactly one JSON document.", rich_help_panel=GLOBAL_PANEL)
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from.", rich_help_panel=GLOBAL_PANEL)
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """Ship machine-learning models the way good teams ship code."""


def root() -> LazyGroup:
    """The command tree; commands themselves are loaded when they are called."""
    app = typer.Typer(
        name="tidegate",
        cls=LazyGroup,
        no_args_is_help=True,
        # Pretty help on a terminal. Elsewhere plain text, which also spares rich's import.
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
    )
    app.callback()(_options)
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)  # noqa: S101 - `cls` above says so
    group.callback = None
    options = {option.name: option for option in group.params if isinstance(option, TyperOption)}
    shared = [options[name] for name in ("directory", "env", "json", "traceback")]
    for option in shared:
        option.expose_value, option.callback = False, record
    options["version"].callback = _print_version
    group.fill(COMMANDS, shared)
    return group


def _print_version(_ctx: object, _parameter: object, value: bool) -> None:
    if value:
        from importlib.metadata import version

        sys.stdout.write(f"tidegate {version('tidegate')}\n")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; prints to `sys.stdout` and `sys.stderr`."""
    here = begin()
    # Known before parsing, because a mistake in the command line is reported the same way.
    typed = list(arguments)[: arguments.index("--")] if "--" in arguments else arguments
    here.json, here.traceback = "--json" in typed, "--traceback" in typed
    try:
        code = root().main(args=list(arguments), prog_name="tidegate", standalone_mode=False)
    except TidegateError as error:
        return here.fail(error)
    except typer.TyperException as error:
        return _usage(here, error)
    except typer.Abort:
        return here.fail(Interrupted("Interrupted."))
    except Exception as error:  # noqa: BLE001 - the last resort: whatever it is, it becomes one line
        return _unexpected(here, error)
    return code if isinstance(code, int) else ExitCode.OK


def _usage(here: Terminal, error: typer.TyperException) -> int:
    """A command line that cannot be understood; without any command, the help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and not here.json:
        sys.stderr.write(error.format_message() + "\n")
        return ExitCode.USAGE
    hint = f"Try `{context.command_path} --help`." if context else "Try `tidegate --help`."
    message = "Name a command." if type(error).__name__ == "NoArgsIsHelpError" else error.format_message()
    return here.fail(UsageError(message, hint))


def _unexpected(here: Terminal, error: Exception) -> int:
    if type(error).__module__.startswith("mlflow."):
        from tidegate.registry.mlflow_registry import explain

        known = explain(error)
        if known is not None:
            known.__cause__ = error
            return here.fail(known)
    text = f"An error that tidegate did not expect: {type(error).__name__}: {error}".splitlines()[0]
    wrapped = TidegateError(text, "Please report it; `--traceback` shows where it came from.")
    wrapped.__cause__ = error
    return here.fail(wrapped)


def _tell_runner(code: int) -> None:
    """On GitHub Actions the exit code is the step's output `exit-code`: later steps can tell 3 from 5."""
    output = os.environ.get("GITHUB_OUTPUT")
    if output and os.environ.get("GITHUB_ACTIONS") == "true":
        with Path(output).open("a", encoding="utf-8") as file:
            file.write(f"exit-code={int(code)}\n")


def main() -> None:
    """The console script."""
    opt_out()
    share_processors()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character shows its number instead of a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:])
        _tell_runner(code)
        sys.exit(code)
    except KeyboardInterrupt:
        complain("Interrupted.", wrong=False)
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
