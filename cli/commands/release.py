"""`tidegate release`: the bundles that were made, and how to get one back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from tidegate.core.artifacts import Release
    from tidegate.registry.state import State

app = typer.Typer(help="List, show and restore releases.", no_args_is_help=True)
ReleaseId = Annotated[str, typer.Argument(help="A release id such as r-1f2e3d4c5b.", metavar="RELEASE")]


@app.command("list")
def list_releases() -> None:
    """List every release of this environment with its version and what became of it."""
    from tidegate.pipelines.environment import environment_for
    from tidegate.registry import releases

    t = terminal()
    environment = environment_for(t.project)
    state = environment.state()
    rows = [_row(releases.load(environment.store, one), state) for one in state.versions]
    t.show({"kind": "releases", "releases": rows})


@app.command()
def show(release: ReleaseId) -> None:
    """Show everything a release is made of."""
    from tidegate.pipelines.environment import environment_for
    from tidegate.registry import releases

    t = terminal()
    environment = environment_for(t.project)
    found = releases.load(environment.store, release)
    t.show({"kind": "release", "release": release, **found.to_json(), "status": _status(release, environment.state())})


@app.command()
def checkout(
    release: ReleaseId,
    to: Annotated[Path | None, typer.Option(help="The new folder; default: beside the project.")] = None,
) -> None:
    """Restore a release's code, config, contract and data in a new folder; your own files stay as they are."""
    from tidegate.core.git import is_repository, toplevel
    from tidegate.pipelines import dvc_repo
    from tidegate.pipelines.environment import environment_for
    from tidegate.registry import releases

    t = terminal()
    environment = environment_for(t.project)
    root = t.project.root
    into = (to or root.parent / f"{root.name}-{release}").resolve()
    releases.checkout(environment.store, releases.load(environment.store, release), root, into)
    project = into / root.relative_to(toplevel(root)) if is_repository(root) else into
    with t.progress.task("bring in the data"):
        dvc_repo.bring_in(project, root)
    t.show(
        {"kind": "checkout", "release": release, "path": str(project)},
        lambda console: console.print(f"Release {release} is in {project}."),
    )


def _row(release: Release, state: State) -> dict[str, Any]:
    return {
        "release": release.id,
        "version": release.version,
        "status": _status(release.id, state),
        "run_id": release.run_id,
        "git_commit": release.git_commit,
        "git_dirty": release.git_dirty,
        "data_md5": release.data[0].md5 if release.data else "",
    }


def _status(release: str, state: State) -> str:
    """What became of it, in one word."""
    if release == state.champion:
        return "champion"
    if state.open_rollout is not None and state.open_rollout.canary == release:
        return "canary"
    if release in state.history:
        return "former"
    last = next((one for one in reversed(state.rollouts) if one.canary == release), None)
    return last.state if last else ("challenger" if release == state.challenger else "registered")
