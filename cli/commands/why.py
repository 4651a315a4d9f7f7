"""`tidegate why`: where a prediction came from, and what came of a release or of data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console


def why(
    what: Annotated[
        str,
        typer.Argument(help="A prediction id, or release:ID, version:N, data:MD5.", metavar="PREDICTION_ID|KIND:VALUE"),
    ],
) -> None:
    """Trace a prediction to its release, run, data and commit; or a release, version or data hash to all of them."""
    from tidegate import api

    t = terminal()
    document = api.why(what, t.project)
    t.show(document, lambda console: _print(console, document))


def _print(console: Console, document: dict[str, Any]) -> None:
    for lineage in document.get("releases") or [document]:
        for key in _SHOWN:
            if lineage.get(key) is not None:
                value = _commit(lineage) if key == "git_commit" else lineage[key]
                console.print(f"{key:<11} {value}", markup=False, soft_wrap=True)
        if "inputs" in lineage:
            cells = ", ".join(f"{name} {value}" for name, value in lineage["inputs"].items())
            console.print(f"{'inputs':<11} {cells}", markup=False, soft_wrap=True)
        if "predictions" in lineage:
            console.print(f"{'predictions':<11} {lineage['predictions']:,} recorded", markup=False)
        for data in lineage["data"]:
            console.print(f"{'data':<11} {data['path']} md5 {data['md5']}", markup=False, soft_wrap=True)
        for rollout in lineage["rollouts"]:
            console.print(f"{'rollout':<11} {rollout['id']}: {rollout['state'].replace('_', ' ')}", markup=False)


_SHOWN = (
    "prediction",
    "arm",
    "at",
    "unit",
    "unit_hash",
    "caller",
    "answer",
    "score",
    "release",
    "version",
    "run_id",
    "git_commit",
)


def _commit(lineage: dict[str, Any]) -> str:
    commit, dirty = lineage["git_commit"], lineage.get("git_dirty")
    if not commit:
        return "none yet; the files are kept with the release" if dirty else "none yet"
    return f"{commit} and uncommitted changes, which are kept with the release" if dirty else str(commit)
