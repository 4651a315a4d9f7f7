"""`tidegate predict`: batch scoring with a released version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.terminal import terminal


def predict(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Rows to predict: .csv, .tsv, .parquet or .jsonl.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write them with their predictions.")],
    version: Annotated[int | None, typer.Option(help="Version to predict with; by default the champion.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave the prediction of bad rows empty instead of refusing the file.")
    ] = False,
) -> None:
    """Predict every row of a file with the model that is (or was) served."""
    from tidegate.pipelines.predict import predict as run

    t = terminal()
    done = run(t.project, source, target, version=version, skip_bad=skip_bad, progress=t.progress)
    document = {
        "kind": "predictions",
        "version": done.version,
        "rows": done.rows,
        "bad": done.bad,
        "problems": done.problems,
        "path": str(target),
    }
    t.show(document, lambda console: console.print(f"{done.rows:,} rows, {done.bad:,} bad: {target}", highlight=False))
