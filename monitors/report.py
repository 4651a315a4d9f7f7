"""The report that people look at: Evidently's, on a seeded sample, beside the exact verdict. Nothing else imports it.

It runs in a process of its own, since Evidently takes seconds to import and a gigabyte for large frames: the process
that watches stays small, and a report that fails or grows takes no verdict with it. Methods and thresholds are always
named, because Evidently's own choice changes with the number of rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import TidegateError
from tidegate.monitors.outcomes import ColumnResult, Compared
from tidegate.monitors.tables import Table
from tidegate.serving.telemetry import quoted

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.config_live import Drift
    from tidegate.monitors.drift import Known

SAMPLE: Final = 50_000
"""Rows of each side: enough to agree with all of them in 581 of 600 verdicts, few enough for seconds."""
HTML: Final = "evidently.html"
SNAPSHOT: Final = "evidently.json"
PREDICTION: Final = "prediction."
"""What the report calls the model's answers by, in front of label, value and score."""

# What Evidently cannot take: the whole report would end with an error that names something else.
_NOT_COMPARED: Final = frozenset(
    {"missing_column", "all_null", "type_changed", "no_reference", "not_comparable", "too_few_rows"}
)
_SEED: Final = 17
_SECONDS: Final = 300
_BYTES: Final = 2 << 30


@dataclass(frozen=True, slots=True)
class Made:
    """A report: its page, its snapshot (`Snapshot.loads` reads it), and Evidently's own distance of each column."""

    html: bytes
    snapshot: bytes
    values: Mapping[str, float]


@dataclass(frozen=True)
class Sides:
    """The rows of a window and what they are compared with, as `drift.compare` takes them."""

    known: Known
    inputs: Table
    predictions: Table | None = None


def make(sides: Sides, compared: Compared, policy: Drift, title: str, workspace: Path | None = None) -> Made:
    """Let Evidently compare a sample of a window with one of the reference.

    Args:
        sides: the rows.
        compared: what the exact comparison found; columns that it could not compare are left out, and named.
        policy: methods and threshold.
        title: of the report.
        workspace: a folder of Evidently's own, where its UI finds the report too.

    Raises:
        TidegateError: nothing is left to compare, or Evidently failed.
    """
    columns = [one for one in compared.columns if _comparable(one)]
    answers = [one for one in compared.predictions if _comparable(one)]
    if not columns and not answers:
        raise TidegateError("No column of this window can be drawn.", "; ".join(compared.reasons))
    left_out = [one.name for one in (*compared.columns, *compared.predictions) if not _comparable(one)]
    with tempfile.TemporaryDirectory(prefix="tidegate-report-") as scratch:
        folder = Path(scratch)
        known = sides.known
        _sample(folder / "reference-inputs.parquet", known.inputs.table, columns)
        _sample(folder / "window-inputs.parquet", sides.inputs, columns)
        if answers and known.predictions is not None and sides.predictions is not None:
            _sample(folder / "reference-predictions.parquet", known.predictions.table, answers)
            _sample(folder / "window-predictions.parquet", sides.predictions, answers)
        described = [_described(one, one.name, policy) for one in columns]
        described += [_described(one, PREDICTION + one.name, policy) for one in answers]
        spec = {"title": title, "columns": described, "left_out": left_out, "workspace": str(workspace or "")}
        (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        _run(folder)
        values = json.loads((folder / "values.json").read_text(encoding="utf-8"))
        return Made((folder / HTML).read_bytes(), (folder / SNAPSHOT).read_bytes(), values)


def _comparable(one: ColumnResult) -> bool:
    return one.outcome not in _NOT_COMPARED and one.kind != "datetime"


def _described(one: ColumnResult, name: str, policy: Drift) -> dict[str, Any]:
    numeric = one.kind in {"number", "integer"}
    method = policy.numerical if numeric else policy.categorical
    return {"name": name, "numeric": numeric, "method": method, "threshold": policy.threshold}


def _sample(path: Path, table: Table, columns: Sequence[ColumnResult]) -> None:
    """Up to SAMPLE rows, the same ones for the same rows: those whose hash, with a seed, is smallest."""
    names = ", ".join(f"{table.quoted(one.name)} as {quoted(one.name)}" for one in columns)
    every = ", ".join(quoted(one.name) for one in columns)
    rows = table.rows()
    chosen = table.relation.project(names)
    if rows > SAMPLE:
        share = 1.05 * SAMPLE / rows
        # Numbered, because rows may be alike; the hash cuts first, so that little is left to sort.
        numbered = chosen.project(f"*, hash(row_number() over (), {_SEED}) as tidegate_place")
        below = numbered.filter(f"tidegate_place < {int(share * 2**64)}" if share < 1 else "true")
        chosen = below.order("tidegate_place").limit(SAMPLE).project(every)
    chosen.write_parquet(str(path))


def _run(folder: Path) -> None:
    """Run this file as a program on a folder with samples and spec."""
    from tidegate.core.optouts import OPT_OUTS

    # One thread: it runs beside what serves users.
    calm = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "tidegate.monitors.report", str(folder)]
    again = "The verdict stands without it. `tidegate monitor report --again` tries once more."
    try:
        done = subprocess.run(
            command, env={**OPT_OUTS, **os.environ, **calm}, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TidegateError(f"Evidently's report took more than {_SECONDS} s.", again) from error
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no word"])[-1]
        raise TidegateError(f"Evidently could not make its report: {last}", again)


def _main(folder: Path) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (_BYTES, _BYTES))
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import RowCount, ValueDrift

    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    columns = spec["columns"]
    definition = DataDefinition(
        numerical_columns=[one["name"] for one in columns if one["numeric"]],
        categorical_columns=[one["name"] for one in columns if not one["numeric"]],
    )
    window, reference = (
        Dataset.from_pandas(_frame(folder, side, columns), data_definition=definition)
        for side in ("window", "reference")
    )
    drifts = [ValueDrift(column=one["name"], method=one["method"], threshold=one["threshold"]) for one in columns]
    metadata = {"not compared": ", ".join(spec["left_out"])} if spec["left_out"] else {}
    snapshot = Report([RowCount(), *drifts]).run(window, reference, name=spec["title"], metadata=metadata)
    snapshot.save_html(str(folder / HTML))
    (folder / SNAPSHOT).write_text(snapshot.dumps(), encoding="utf-8")
    found = [one["value"] for one in snapshot.dict()["metrics"]][-len(columns) :]
    values = {one["name"]: float(value) for one, value in zip(columns, found, strict=True)}
    (folder / "values.json").write_text(json.dumps(values), encoding="utf-8")
    if spec["workspace"]:
        _keep(Path(spec["workspace"]), snapshot, spec["title"])


def _frame(folder: Path, side: str, columns: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The request columns beside the answers; the shorter of the two is filled up with nothing."""
    import pandas as pd

    frame = pd.read_parquet(folder / f"{side}-inputs.parquet")
    answers = folder / f"{side}-predictions.parquet"
    if answers.exists():
        frame = pd.concat([frame, pd.read_parquet(answers).add_prefix(PREDICTION)], axis=1)
    for one in columns:
        # Strings as objects take Evidently a hundred times as long.
        if one["numeric"]:
            frame[one["name"]] = frame[one["name"]].astype("float64")
        else:
            frame[one["name"]] = frame[one["name"]].astype(object).where(frame[one["name"]].notna()).astype("category")
    return frame


def _keep(workspace: Path, snapshot: Any, title: str) -> None:
    from evidently.ui.workspace import Workspace

    opened = Workspace.create(str(workspace))
    name = title.split(" ", 1)[0]
    found = [one for one in opened.list_projects() if one.name == name]
    project = found[0] if found else opened.create_project(name)
    opened.add_run(project.id, snapshot, name=title)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
