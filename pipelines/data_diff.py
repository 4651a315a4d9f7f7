"""What changed between two versions of the data: rows, columns, kinds, missing values, averages, categories."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.project import Project

MISSING_SHIFT: Final = 0.01  # a change of the share of missing values that is worth a line
MEAN_SHIFT: Final = 0.1  # standard deviations
_NAMED: Final = 5


def compare(project: Project, before: str, after: str | None) -> dict[str, Any]:
    """Compare data.path at two git revisions; `after` None is the file as recorded now.

    Raises:
        UsageError: no such revision, or the data was not tracked at either.
    """
    from tidegate.pipelines import dvc_repo

    path = project.config.data.path
    change = dvc_repo.diff(project.root, path, before, after)
    if change.before is None and change.after is None:
        raise UsageError(f"{path} is tracked by DVC at neither side", f"`tidegate data add {path}` records it.")
    found: dict[str, Any] = {
        "path": path,
        "changed": change.changed,
        "before": {"revision": before, "md5": change.before, "rows": None},
        "after": {"revision": after, "md5": change.after, "rows": None},
        "columns": [],
    }
    if not change.changed:
        return found
    frames = [
        _frame(project, before) if change.before else None,
        (_frame(project, after) if change.after else None),
    ]
    for side, frame in zip(("before", "after"), frames, strict=True):
        found[side]["rows"] = None if frame is None else len(frame)
    if frames[0] is not None and frames[1] is not None:
        found["columns"] = _columns(frames[0], frames[1])
    return found


def _frame(project: Project, revision: str | None) -> pd.DataFrame:
    from tidegate.pipelines import dvc_repo
    from tidegate.pipelines.dataset import read_frame

    path = project.config.data.path
    if revision is None:
        dvc_repo.verify_data(project)
        return read_frame(project.path(path))
    content = dvc_repo.read_at(project.root, path, revision)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(path).name)
        file.write_bytes(content)
        return read_frame(file)


def _columns(old: pd.DataFrame, new: pd.DataFrame) -> list[dict[str, Any]]:
    from tidegate.pipelines.dataset import kinds

    before, after = kinds(old), kinds(new)
    lines = [_line(name, "removed", kind, "") for name, kind in before.items() if name not in after]
    lines += [_line(name, "added", "", kind) for name, kind in after.items() if name not in before]
    for name in before:
        if name not in after:
            continue
        if before[name] != after[name]:
            lines.append(_line(name, "kind", before[name], after[name]))
        else:
            lines += _values(name, before[name], old[name], new[name])
    return lines


def _values(name: str, kind: str, old: pd.Series[Any], new: pd.Series[Any]) -> list[dict[str, Any]]:
    lines = []
    lost, now = float(old.isna().mean()), float(new.isna().mean())
    if abs(now - lost) >= MISSING_SHIFT:
        lines.append(_line(name, "missing", f"{lost:.1%}", f"{now:.1%}"))
    if kind in {"number", "integer", "boolean"}:
        spread = float(old.astype("float64").std()) or 1.0
        means = float(old.mean()), float(new.mean())
        if abs(means[1] - means[0]) >= MEAN_SHIFT * spread:
            lines.append(_line(name, "mean", f"{means[0]:.6g}", f"{means[1]:.6g}"))
    elif kind == "string":
        gone = sorted(set(old.dropna()) - set(new.dropna()))
        come = sorted(set(new.dropna()) - set(old.dropna()))
        if gone or come:
            lines.append(_line(name, "values", _some(gone), _some(come)))
    else:
        spans = [f"{side.min():%Y-%m-%d} to {side.max():%Y-%m-%d}" for side in (old, new)]
        if spans[0] != spans[1]:
            lines.append(_line(name, "span", *spans))
    return lines


def _line(column: str, change: str, before: str, after: str) -> dict[str, Any]:
    return {"column": column, "change": change, "before": before, "after": after}


def _some(values: list[str]) -> str:
    return ", ".join(values[:_NAMED]) + (f" and {len(values) - _NAMED} more" if len(values) > _NAMED else "")
