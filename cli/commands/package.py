"""`tidegate package`: the Bento of a version, built again if this machine has lost it, and its image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.terminal import Terminal, terminal
from tidegate.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.pipelines.environment import Environment


def package(
    version: Annotated[int | None, typer.Argument(help="A released version; default: the champion.")] = None,
    image: Annotated[bool, typer.Option("--image", help="Build its image, with docker, podman or buildah.")] = False,
    push: Annotated[bool, typer.Option("--push", help="Push it to the environment's image_repository.")] = False,
    trainer: Annotated[bool, typer.Option("--trainer", help="Build the image that a cluster trains with.")] = False,
) -> None:
    """Make sure that the Bento of a released version is here: the same bytes that passed the gate."""
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.repackage import package as run

    t = terminal()
    environment = environment_for(t.project)
    if trainer:
        _trainer(t, environment, push=push, other=version is not None or image)
        return
    made = run(environment, version, t.progress)
    release = made.release
    document: dict[str, Any] = {
        "kind": "package",
        "version": release.version,
        "release": release.id,
        "bento": release.bento,
        "built": made.built,
        "path": str(made.bundle),
    }
    lines = [f"{release.bento} {'was built again' if made.built else 'is here'}: {made.bundle}"]
    if image or push:
        from tidegate.pipelines import images

        found = images.build(environment, release, made.bundle, t.progress, push=push)
        document["image"] = images.document(release.id, found)
        lines.append(f"{found.reference} is {found.digest}")
        lines.append(
            f"{'signed' if found.key else 'not signed (image.sign)'}; check it: tidegate release verify {release.id}"
        )
    t.show(document, lambda console: _print(console, lines))


def _trainer(t: Terminal, environment: Environment, *, push: bool, other: bool) -> None:
    from tidegate.pipelines import trainer_image

    if other:
        raise UsageError(
            "The trainer image holds no version.", "`tidegate package --trainer [--push]` builds it alone."
        )
    made = trainer_image.build(environment, t.progress, push=push)
    lines = [f"{made.reference} is {made.digest}"]
    lines.append(f"train: {{image: {made.image}}}" if made.image else "A cluster needs it pushed: --push.")
    t.show({"kind": "trainer", **made.to_json()}, lambda console: _print(console, lines))


def _print(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
