"""The newest training of this working tree, as its outputs tell: no version yet, perhaps never one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tidegate.core.project import Project


@dataclass(frozen=True, slots=True)
class Newest:
    """What `out/` says: `metric` is the one that decides in the gate, `params` are text as MLflow keeps them."""

    run_id: str
    metric: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    data_md5: str


def newest(project: Project) -> Newest:
    """Read it.

    Raises:
        UsageError: nothing was trained and evaluated here.
    """
    run, measured = (_read(project.out_dir / name) for name in ("run.json", "evaluation/metrics.json"))
    if not run or not measured:
        raise UsageError(
            "Nothing was trained here yet.", "`tidegate train` trains; `tidegate model list` shows versions."
        )
    return Newest(
        run_id=str(run.get("run_id", "")),
        metric=str(measured.get("metric", "")),
        metrics=dict(measured.get("metrics") or {}),
        params={key: str(value) for key, value in (run.get("params") or {}).items()},
        data_md5=str((run.get("data") or {}).get("md5", "")),
    )


def decisive_metric(project: Project) -> str | None:
    """The metric that decides in the gate; None where the config leaves it open and nothing was trained yet."""
    if project.config.gate.metric is not None:
        return project.config.gate.metric
    try:
        return newest(project).metric or None
    except UsageError:
        return None


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
