"""Real rows as requests, of the holdout or of a file: for the curl that `up` prints and for `dev traffic`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import Conflict, UsageError
from tidegate.pipelines.bundles import bundle_of
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.serving.service.manifest import Column, Manifest


def curl(environment: Environment, gateway: str) -> str:
    """A command line that asks the champion about a real row."""
    config = environment.project.config
    body = json.dumps({"rows": _manifest(environment).golden.rows[:1]}, ensure_ascii=False)
    headers = ["content-type: application/json", f"{config.rollout.unit.header}: user-1"]
    if config.serve.auth:
        headers.append("x-api-key: YOUR_KEY")
    return shlex.join(["curl", f"{gateway}/predict", *(part for one in headers for part in ("-H", one)), "-d", body])


def bodies(environment: Environment, limit: int = 2000) -> Sequence[bytes]:
    """Request bodies of one holdout row each, as a client would send them; at most `limit`, spread evenly."""
    return [body for body, _ in labelled(environment, limit)]


def labelled(environment: Environment, limit: int = 2000) -> Sequence[tuple[bytes, Any]]:
    """The same, each with the row's target."""
    from tidegate.pipelines.dataset import read_frame
    from tidegate.pipelines.split import split

    config = environment.project.config
    frame = read_frame(environment.project.path(config.data.path))
    held = split(frame, config.data, config.task).holdout
    some = frame.iloc[held[:: max(1, len(held) // limit)]]
    return list(zip(_encoded(_manifest(environment).columns, some), some[config.data.target], strict=True))


def of_file(environment: Environment, path: Path) -> tuple[Sequence[bytes], Sequence[Any] | None]:
    """A body for each row of a CSV or Parquet file, and the rows' targets; None where the file has no target.

    Raises:
        UsageError: the file is missing, of another kind, or lacks a column that the model asks for.
    """
    from tidegate.pipelines.dataset import read_frame

    frame, target = read_frame(path), environment.project.config.data.target
    columns = _manifest(environment).columns
    missing = [column.name for column in columns if column.name not in frame.columns]
    if missing:
        raise UsageError(
            f"{path} has no column {missing[0]!r}, which the model asks for.",
            f"It needs: {', '.join(column.name for column in columns)}.",
        )
    return _encoded(columns, frame), list(frame[target]) if target in frame.columns else None


def _encoded(columns: Sequence[Column], frame: pd.DataFrame) -> list[bytes]:
    from tidegate.serving.rows import request_rows

    return [json.dumps({"rows": [row]}, ensure_ascii=False).encode() for row in request_rows(columns, frame)]


def _manifest(environment: Environment) -> Manifest:
    from tidegate.serving.service.manifest import read

    champion = environment.state().champion
    if champion is None:
        raise Conflict("Nothing is deployed yet.", "`tidegate ship` deploys the first version.")
    return read(bundle_of(environment.project, releases.load(environment.store, champion)))
