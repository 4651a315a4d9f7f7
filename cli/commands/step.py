"""`tidegate step`: one step of a flow by itself; what DVC stages and Workflow pods call."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli.terminal import Terminal, terminal
from tidegate.core.errors import Conflict, ExitCode, Temporary, TidegateError


def step(
    name: Annotated[
        str,
        typer.Argument(
            help="contract, train, evaluate; aliases, labels, monitor, notify, retrain, upkeep.", metavar="NAME"
        ),
    ],
) -> None:
    """Run one step of a flow, whatever changed. Exit code 78 means that trying again cannot help."""
    t = terminal()
    try:
        _run(t, name)
    except (Temporary, Conflict):
        raise
    except TidegateError as error:
        error.exit_code = ExitCode.DO_NOT_RETRY
        raise
    t.show({"kind": "step", "step": name}, lambda console: console.print(f"Step {name} is done."))


def _run(t: Terminal, name: str) -> None:
    from tidegate.pipelines.acts import ACTS
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.runners import local

    if name in ACTS:
        ACTS[name](environment_for(t.project), t.progress)
    else:
        local.run_step(t.project, name, t.progress)
