"""The gate step: measures challenger and champion on the same holdout and asks pipelines/gate.py for the decision.

The champion is fetched from the registry, checked against its recorded hash, and answers the challenger's holdout
through its own hook, so both are judged on the same rows of the newest data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tidegate.core.artifacts import GateResult, ModelVersion
from tidegate.core.errors import ConfigError, TidegateError
from tidegate.pipelines import bootstrap, own_metrics
from tidegate.pipelines.gate import Column, Comparison, Facts, decide
from tidegate.pipelines.scoring import Evaluation, read_predictions
from tidegate.pipelines.steps.evaluate import EVALUATION_FOLDER, holdout, interface_of, score_folder
from tidegate.pipelines.steps.train import MODEL_FOLDER, prepare_data
from tidegate.registry import model_folder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from tidegate.core.config import SliceCheck
    from tidegate.core.metrics import Scored
    from tidegate.core.progress import Progress
    from tidegate.core.project import Project
    from tidegate.pipelines.model_inputs import Interface
    from tidegate.pipelines.own_metrics import Measure
    from tidegate.registry import Registry

T = TypeVar("T")
# Answers one row given as a dict of raw columns; what the packaged model's `predict` is.
PredictRow = Callable[[dict[str, Any]], object]

# Rows of a slice below which it is not judged by itself: AUC of 50 rows moves by several points by chance.
MIN_SLICE_ROWS = 100
# A numeric column with more values than this is cut at its quartiles.
_MAX_VALUES = 12
_LATENCY_ROWS = 200
_LATENCY_ROUNDS = 5
# A model that takes 300 ms a row must not hold the gate for minutes.
_LATENCY_SECONDS = 3.0
_LEAST_ROWS = 20


@dataclass(frozen=True)
class Answers:
    """Both models' answers on the same rows, and those rows' raw columns."""

    challenger: Scored
    champion: Scored
    frame: pd.DataFrame

    def rows(self, mask: NDArray[np.bool_]) -> Answers:
        """The same for some rows."""
        return Answers(self.challenger.rows(mask), self.champion.rows(mask), self.frame[mask])


def run(
    project: Project,
    champion: ModelVersion | None,
    registry: Registry,
    progress: Progress,
    *,
    predict_row: PredictRow | None = None,
    size: int | None = None,
) -> GateResult:
    """Judge `out/model` against the champion.

    Args:
        project: trained and evaluated.
        champion: the version that serves now, None if none does.
        registry: where its model folder is fetched from.
        progress: told what runs.
        predict_row: the packaged model; without it the native model's latency is measured.
        size: bytes of the packaged model; without it the model folder's.

    Raises:
        ConfigError: a metric or slice column does not exist.
        Permanent: the champion's file is not the one that was registered.
    """
    prepared = prepare_data(project)
    frame = holdout(prepared)
    evaluation = Evaluation.read(project.out_dir / EVALUATION_FOLDER)
    rows, challenger = read_predictions(project.out_dir / EVALUATION_FOLDER)
    if list(rows) != list(frame.index):
        raise TidegateError("out/evaluation belongs to another holdout than the data's.", "Run `tidegate train`.")
    measure = own_metrics.measure(project, evaluation.metric, challenger)
    folder = project.out_dir / MODEL_FOLDER
    interface = interface_of(folder, prepared)
    comparisons: list[Comparison] = []
    problems: list[str] = []
    notes: list[str] = []
    old_columns: tuple[Column, ...] = ()
    if champion is not None:
        with progress.task(f"compare with version {champion.version}"):
            theirs = registry.fetch(champion, project.state_dir / "models")
            old_columns = _columns(interface_of(theirs, prepared))
            try:
                scored = score_folder(project, prepared, theirs, own=champion.own)
            except TidegateError as error:
                problems.append(f"version {champion.version} cannot be measured on this holdout: {error.message}")
            else:
                answers = Answers(challenger, scored, frame)
                comparisons += _compare(project, measure, answers)
                comparisons += _slices(project, measure, answers, notes)
    latency = None
    if project.config.gate.latency_p99 is not None:
        with progress.task("latency of one row"):
            latency = _latency(project, interface, frame, predict_row)
    facts = Facts(
        metric=evaluation.metric,
        value=measure.of(challenger, frame),
        direction=measure.direction,
        champion=champion.version if champion else None,
        comparisons=comparisons,
        problems=problems,
        notes=notes,
        latency_p99=latency,
        size=model_folder.size(folder) if size is None else size,
        columns=_columns(interface),
        champion_columns=old_columns,
        metrics=evaluation.metrics,
    )
    return decide(facts, project.config.gate)


def p99(predict_row: Callable[[T], object], rows: Sequence[T]) -> float:
    """Seconds that the slowest 1 % of single-row predictions reach, after a warm-up.

    The best of a few rounds: other programs on the machine only ever make a round slower, and it is the model that is
    judged here.
    """
    for row in rows[:3]:
        predict_row(row)
    ends = time.monotonic() + _LATENCY_SECONDS
    best = _round(predict_row, rows, ends)
    for _ in range(_LATENCY_ROUNDS - 1):
        if time.monotonic() > ends:
            break
        best = min(best, _round(predict_row, rows, math.inf))
    return best


def _round(predict_row: Callable[[T], object], rows: Sequence[T], ends: float) -> float:
    import numpy as np

    taken: list[float] = []
    for row in rows:
        if time.monotonic() > ends and len(taken) >= _LEAST_ROWS:
            break
        started = time.perf_counter()
        predict_row(row)
        taken.append(time.perf_counter() - started)
    return float(np.quantile(taken, 0.99))


def _compare(project: Project, measure: Measure, answers: Answers) -> Iterator[Comparison]:
    gate = project.config.gate
    yield _comparison(measure, gate.tolerance, answers)
    for check in gate.checks:
        extra = own_metrics.measure(project, check.metric, answers.challenger)
        yield _comparison(extra, check.tolerance, answers)


def _comparison(measure: Measure, tolerance: float, answers: Answers, label: str = "") -> Comparison:
    _, low = bootstrap.advantage_at_least(measure, answers.challenger, answers.champion, answers.frame)
    return Comparison(
        metric=measure.name,
        challenger=measure.of(answers.challenger, answers.frame),
        champion=measure.of(answers.champion, answers.frame),
        advantage_low=low,
        tolerance=tolerance,
        slice=label,
        rows=len(answers.frame),
    )


def _slices(project: Project, measure: Measure, answers: Answers, notes: list[str]) -> Iterator[Comparison]:
    for wanted in project.config.gate.slices:
        small = 0
        for label, mask in slices_of(answers.frame, wanted):
            if mask.sum() < MIN_SLICE_ROWS:
                small += 1
                continue
            yield _comparison(measure, wanted.tolerance, answers.rows(mask), label)
        if small:
            notes.append(f"{small} slices of {wanted.column} have under {MIN_SLICE_ROWS} rows and were not judged")


def slices_of(frame: pd.DataFrame, wanted: SliceCheck) -> list[tuple[str, Any]]:
    """(`column = value`, row mask) for each value; a number of many values is cut at its quartiles.

    Raises:
        ConfigError: there is no such column.
    """
    import pandas as pd

    from tidegate.pipelines.dataset import did_you_mean

    if wanted.column not in frame.columns:
        raise ConfigError(
            f"gate.slices names the column {wanted.column!r}, which the data does not have.",
            did_you_mean(wanted.column, [str(name) for name in frame.columns]),
        )
    column = frame[wanted.column]
    missing = column.isna()
    if column.nunique() > _MAX_VALUES and column.dtype.kind in "ifM":
        parts = pd.qcut(column, 4, duplicates="drop")
        found = [(f"{wanted.column} in {part}", (parts == part).to_numpy()) for part in parts.cat.categories]
    else:
        values = sorted(column[~missing].unique(), key=str)
        found = [
            (f"{wanted.column} = {value}", (column == value).fillna(value=False).to_numpy(bool)) for value in values
        ]
    if missing.any():
        found.append((f"{wanted.column} is missing", missing.to_numpy()))
    return found


def _columns(interface: Interface) -> tuple[Column, ...]:
    return tuple(Column(column.name, column.kind, column.nullable) for column in interface.columns)


def _latency(project: Project, interface: Interface, frame: pd.DataFrame, predict_row: PredictRow | None) -> float:
    """p99 of the packaged model on request rows, or of the native one on one-row frames."""
    step = max(1, len(frame) // _LATENCY_ROWS)
    chosen = frame[[column.name for column in interface.columns]].iloc[::step].head(_LATENCY_ROWS)
    if predict_row is not None:
        return p99(predict_row, _requests(chosen))
    from threadpoolctl import threadpool_limits

    model = model_folder.load(project.out_dir / MODEL_FOLDER, allow_pickle=project.config.serve.allow_pickle, own=True)

    def predict(row: pd.DataFrame) -> object:
        return model.predict(interface.frame(row))

    # As in serving: one row gains nothing from threads, and on a busy machine waiting for them takes 100 times as long.
    with threadpool_limits(1):
        return p99(predict, [chosen.iloc[[k]] for k in range(len(chosen))])


def _requests(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as a caller would send them in JSON: a missing value is None, a time ISO text."""
    plain = frame.copy()
    for name in plain.columns:
        if plain[name].dtype.kind == "M":
            plain[name] = plain[name].dt.strftime("%Y-%m-%dT%H:%M:%S")
    present = frame.notna().to_numpy()
    rows = plain.astype(object).to_dict(orient="records")
    return [
        {str(name): value if there else None for (name, value), there in zip(row.items(), flags, strict=True)}
        for row, flags in zip(rows, present, strict=True)
    ]
