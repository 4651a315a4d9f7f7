"""`tidegate release`: the bundles that were made, and how to get one back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.tables import DIRTY_NOTE, commit, table
from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="List, show and restore releases.", no_args_is_help=True)
ReleaseId = Annotated[str, typer.Argument(help="A release's id, or a beginning of it: r-1f2e.", metavar="RELEASE")]


@app.command("list")
def list_releases() -> None:
    """List every release of this environment with its version and what became of it."""
    from tidegate.pipelines import documents
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    document, problems = documents.release_list(environment_for(t.project))
    t.show(document, lambda console: _print_list(console, document["releases"]))
    if problems:
        raise problems[0]


@app.command()
def show(release: ReleaseId) -> None:
    """Show everything a release is made of."""
    from tidegate.pipelines import documents
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    t.show(documents.release(environment_for(t.project), release))


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
    found = releases.load(environment.store, releases.resolve(environment.store, release))
    # Beside the whole repository: a worktree inside it would be a part of it.
    beside = (toplevel(root) if is_repository(root) else root).parent
    into = (to or beside / f"{root.name}-{found.id}").resolve()
    releases.checkout(environment.store, found, root, into)
    project = into / root.relative_to(toplevel(root)) if is_repository(root) else into
    with t.progress.task("bring in the data"):
        dvc_repo.bring_in(project, root)
    t.show(
        {"kind": "checkout", "release": found.id, "path": str(project)},
        lambda console: console.print(f"Release {found.id} is in {project}.", soft_wrap=True),
    )


@app.command()
def verify(
    what: Annotated[str, typer.Argument(help="A release, or an image's name or digest.", metavar="RELEASE|IMAGE")],
    key: Annotated[Path | None, typer.Option(help="PEM of the public key that must have signed it.")] = None,
) -> None:
    """Prove that an image is its release: layers, model, packages, origin and signature; exit 1 if it is not."""
    from tidegate.pipelines import images
    from tidegate.pipelines.environment import environment_for

    t = terminal()
    found = images.verify(environment_for(t.project), what, t.progress, _content(key) if key else None)
    signed = f"signed by {found.signed_by}" if found.signed_by else "not signed: no key is configured (image.sign)"
    t.show(
        {"kind": "verified", **images.document(found.release, found.image), "signed_by": found.signed_by},
        lambda console: console.print(
            f"{found.image.reference} is release {found.release}, {signed}.", soft_wrap=True, highlight=False
        ),
    )


def _content(file: Path) -> bytes:
    from tidegate.core.errors import UsageError

    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", "Name the public key: --key key.pub") from error


def _print_list(console: Console, rows: list[dict[str, Any]]) -> None:
    """What fits into 80 columns without cutting an id; the rest is in `release show`."""
    if not rows:
        console.print("There is no release yet; `tidegate ship` makes the first.")
        return
    shown = table("release", "version", "status", "commit", "data")
    for row in rows:
        made_of = commit(row["git_commit"], dirty=row["git_dirty"])
        status = row["status"].replace("_", " ")
        shown.add_row(row["release"], str(row["version"]), status, made_of, row["data_md5"][:10])
    console.print(shown)
    if any(row["git_dirty"] for row in rows):
        console.print(DIRTY_NOTE, markup=False)
