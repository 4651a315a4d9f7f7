"""`tidegate render` and `tidegate lint`: the objects of a Kubernetes environment, and what is wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.manifests.lint import Finding

ValuesOption = Annotated[
    list[Path] | None, typer.Option("--values", help="YAML laid over the values from tidegate.yaml; repeatable.")
]
ImageOption = Annotated[str | None, typer.Option(help="REPOSITORY@sha256:DIGEST, where the ledger knows no image.")]
ReleaseOption = Annotated[str | None, typer.Option(help="Its pushed image; default: what is deployed there.")]
PlatformOption = Annotated[bool, typer.Option("--platform", help="What all models of the namespace share instead.")]


def render(
    out: Annotated[Path | None, typer.Option(help="A folder: one file for each object. Default: stdout.")] = None,
    image: ImageOption = None,
    release: ReleaseOption = None,
    values: ValuesOption = None,
    platform: PlatformOption = False,
) -> None:
    """Print the objects of a Kubernetes environment as YAML, or write them for GitOps; nothing is applied."""
    from tidegate.pipelines.manifests import render as rendering

    t = terminal()
    made = rendered(image, release, values or [], platform=platform)
    if out is None:
        if t.json:
            t.show({"kind": "manifests", "environment": t.env, "documents": made})
        else:
            sys.stdout.write(rendering.text(made))
        return
    written = rendering.write(made, out)
    document = {"kind": "manifests", "environment": t.env, "folder": out, "files": written.files}

    def draw(console: Console) -> None:
        console.print(f"{len(written.files)} files in {out}", markup=False)
        for name in written.removed:
            console.print(f"removed {name}: nothing renders it any more", markup=False)

    t.show({**document, "removed": written.removed}, draw)


def lint(
    files: Annotated[
        list[Path] | None, typer.Argument(help="YAML files and folders; default: what `render` makes.")
    ] = None,
    image: ImageOption = None,
    release: ReleaseOption = None,
    values: ValuesOption = None,
    platform: PlatformOption = False,
) -> int:
    """Look for what schemas do not see: splits, analyses, secrets and images that would fail or silently do nothing."""
    from tidegate.core.errors import ExitCode
    from tidegate.pipelines.manifests import lint as linting

    t = terminal()
    if files:
        sources = linting.read(files)
    else:
        made = rendered(image, release, values or [], platform=platform)
        sources = [linting.Source("render", index, one) for index, one in enumerate(made)]
    found = linting.check(sources)
    document: dict[str, Any] = {"kind": "lint", "documents": len(sources), "findings": found}
    t.show(document, lambda console: _say(console, found, len(sources)))
    return ExitCode.ERROR if found else ExitCode.OK


def rendered(image: str | None, release: str | None, files: list[Path], *, platform: bool) -> list[dict[str, Any]]:
    """The objects that the options ask for."""
    from tidegate.pipelines.environment import Environment
    from tidegate.pipelines.manifests import deploying, from_config, render

    project = terminal().project
    from_config.kubernetes_environment(project)
    more = [from_config.read_values(one) for one in files]
    if platform:
        return render.platform_documents(project, *more)
    deployment = from_config.Deployment(image) if image else deploying.deployment(Environment(project), release)
    return render.model_documents(project, deployment, *more)


def _say(console: Console, found: list[Finding], count: int) -> None:
    for one in found:
        console.print(f"{one.file}: {one.object}: {one.path}", markup=False, soft_wrap=True)
        console.print(f"  {one.reason}", markup=False, soft_wrap=True)
        console.print(f"  {one.fix}", markup=False, soft_wrap=True)
    findings = "nothing to say" if not found else f"{len(found)} finding{'s' * (len(found) != 1)}"
    console.print(f"{count} objects: {findings}", markup=False)
