"""`tidegate apply` and `tidegate diff`: make a Kubernetes environment what tidegate.yaml and the ledger say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.commands.manifests import ImageOption, PlatformOption, ReleaseOption, ValuesOption
from tidegate.cli.terminal import terminal
from tidegate.core.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.environment import Environment
    from tidegate.pipelines.manifests.apply import Difference


def apply(
    image: ImageOption = None,
    release: ReleaseOption = None,
    values: ValuesOption = None,
    platform: PlatformOption = False,
    force: Annotated[bool, typer.Option("--force", help="Take over fields that somebody else owns.")] = False,
) -> None:
    """Apply the objects of a Kubernetes environment, and remove those that nothing renders any more.

    While a rollout runs, its Rollout and HTTPRoute stay as they are.
    """
    from tidegate.cli.commands.manifests import rendered
    from tidegate.pipelines.manifests import apply as applying

    t = terminal()
    documents = rendered(image, release, values or [], platform=platform)
    environment = _environment()
    with t.progress.task(f"apply {len(documents)} objects"):
        done = applying.apply(environment, documents, platform=platform, force=force)
    document = {"kind": "applied", "environment": t.env, "applied": done.applied, "kept": done.kept}

    def draw(console: Console) -> None:
        console.print(f"{len(done.applied)} objects applied", markup=False)
        for name in done.removed:
            console.print(f"removed {name}: nothing renders it any more", markup=False)
        _say_kept(console, done.kept)

    t.show({**document, "removed": done.removed}, draw)


def diff(
    image: ImageOption = None,
    release: ReleaseOption = None,
    values: ValuesOption = None,
    platform: PlatformOption = False,
) -> int:
    """Show what `apply` would change, by the cluster's own opinion. Exit code 0: nothing; 1: something."""
    from tidegate.cli.commands.manifests import rendered
    from tidegate.pipelines.manifests import apply as applying

    t = terminal()
    documents = rendered(image, release, values or [], platform=platform)
    with t.progress.task(f"compare {len(documents)} objects"):
        found, kept = applying.diff(_environment(), documents, platform=platform)
    changed = [one for one in found if one.change != "same"]
    shown: list[dict[str, Any]] = [
        {"object": one.object, "change": one.change, "diff": "\n".join(one.lines)} for one in changed
    ]
    document = {"kind": "diff", "environment": t.env, "changes": shown, "kept": kept}
    t.show(document, lambda console: _say(console, changed, len(found), kept))
    return ExitCode.ERROR if changed else ExitCode.OK


def _environment() -> Environment:
    from tidegate.pipelines.environment import environment_for

    return environment_for(terminal().project)


def _say(console: Console, changed: list[Difference], count: int, kept: tuple[str, ...]) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for one in changed:
        console.print(f"{one.change} {one.object}", markup=False, style="bold")
        for line in one.lines[2:]:
            console.print(f"  {line}", markup=False, style=colours.get(line[:1], ""), soft_wrap=True)
    console.print(f"{len(changed)} of {count} objects differ" if changed else f"{count} objects: no difference")
    _say_kept(console, kept)


def _say_kept(console: Console, kept: tuple[str, ...]) -> None:
    for name in kept:
        console.print(f"{name} is a running rollout's and stays as it is", markup=False)
