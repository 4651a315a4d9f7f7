"""`tidegate package`: where the Bento of a version is, built again if this machine has lost it."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli.terminal import terminal


def package(
    version: Annotated[int | None, typer.Argument(help="A released version; default: the champion.")] = None,
) -> None:
    """Make sure that the Bento of a released version is here: the same bytes that passed the gate."""
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.repackage import package as run

    t = terminal()
    made = run(environment_for(t.project), version, t.progress)
    release = made.release
    document = {
        "kind": "package",
        "version": release.version,
        "release": release.id,
        "bento": release.bento,
        "built": made.built,
        "path": str(made.bundle),
    }
    text = f"{release.bento} {'was built again' if made.built else 'is here'}: {made.bundle}"
    t.show(document, lambda console: console.print(text, markup=False, highlight=False, soft_wrap=True))
