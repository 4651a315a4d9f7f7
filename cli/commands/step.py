"""`tidegate step`: one step of a flow by itself; what DVC stages and Workflow pods call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.terminal import Terminal, terminal
from tidegate.core.errors import Conflict, ExitCode, Temporary, TidegateError, UsageError
from tidegate.core.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.pipelines.checkout import Place

_POD = "In a pod"


def step(  # noqa: PLR0917 - Typer gives them by name
    name: Annotated[
        str,
        typer.Argument(
            help="contract, train, evaluate; aliases, labels, monitor, notify, retrain, upkeep; or a step of --flow.",
            metavar="NAME",
        ),
    ],
    flow: Annotated[
        str | None, typer.Option(help="The flow it belongs to: release, retrain, monitor.", rich_help_panel=_POD)
    ] = None,
    repository: Annotated[str, typer.Option(help="Address of the git repository.", rich_help_panel=_POD)] = "",
    revision: Annotated[str, typer.Option(help="The commit to work on.", rich_help_panel=_POD)] = "HEAD",
    folder: Annotated[str, typer.Option(help="The project inside the repository.", rich_help_panel=_POD)] = ".",
    into: Annotated[Path, typer.Option(help="Empty folder for the working copy.", rich_help_panel=_POD)] = Path(
        "project"
    ),
    reference: Annotated[
        list[str] | None, typer.Option(help="name=value of what it takes.", rich_help_panel=_POD)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder that gets a file for each reference it gives.", rich_help_panel=_POD)
    ] = None,
) -> None:
    """Run one step of a flow, whatever changed. Exit code 78 means that trying again cannot help.

    With --flow it works on a fresh copy of a commit, as a Workflow's pod does.
    """
    t = terminal()
    try:
        if flow is None:
            _run(t, name)
        else:
            from tidegate.pipelines.checkout import Place

            _run_in_pod(t, (flow, name), (Place(repository, revision, folder), into), _pairs(reference or ()), out)
    except (Temporary, Conflict, StoreError):
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


def _run_in_pod(
    t: Terminal, which: tuple[str, str], where: tuple[Place, Path], taken: dict[str, str], out: Path | None
) -> None:
    from tidegate.core.project import open_project
    from tidegate.pipelines import checkout, pod
    from tidegate.pipelines.environment import environment_for

    with t.progress.task(f"check out {where[0].revision[:12]}"):
        root = checkout.check_out(*where)
    environment = environment_for(open_project(root, t.env))
    if which[1] not in pod.PUSHES:
        checkout.forget_token()
    given = pod.run(environment, *which, taken, t.progress)
    if out is not None:
        pod.write(out, given)


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise UsageError(f"--reference {wrong[0]} has no value.", "Write --reference name=value.")
    return {name: value for name, _, value in pairs}
