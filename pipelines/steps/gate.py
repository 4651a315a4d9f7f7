"""The gate step: measures challenger and champion on the same holdout and asks pipelines/gate.py for the decision.

The champion is fetched from the registry, checked against its recorded hash, and answers the challenger's holdout
through its own hook, so both are judged on the same rows of the newest data. Rows that the champion learnt from are
left out: the challenger has never seen any of the holdout.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tidegate.core.artifacts import GateResult, ModelVersion
from tidegate.core.errors import ConfigError, TidegateError
from tidegate.pipelines import bootstrap, own_metrics
from tidegate.pipelines.gate import (
    LEAST_ROWS,
    Column,
    Comparison,
    Facts,
    Overlap,
    Problem,
    classes_changed,
    decide,
)
from tidegate.pipelines.learnt import LEARNT_FILE, Learnt
from tidegate.pipelines.scoring import METRICS_FILE, Evaluation, read_predictions
from tidegate.pipelines.steps.evaluate import EVALUATION_FOLDER, holdout, interface_of, score_folder
from tidegate.pipelines.steps.train import MODEL_FOLDER, Prepared, prepare_data
from tidegate.registry import model_folder

if TYPE_CHECKING:
    from pathlib import Path

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


@dataclass(frozen=True)
class Champion:
    """The version compared with: what callers send to it and what it can answer (empty if not known).

    `unseen` masks the rows of the holdout that it did not learn from.
    """

    version: ModelVersion
    folder: Path
    columns: tuple[Column, ...]
    classes: tuple[object, ...]
    unseen: NDArray[np.bool_]
    overlap: Overlap


@dataclass(frozen=True)
class Compared:
    """What comparing with the champion gave."""

    comparisons: tuple[Comparison, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: Compared) -> Compared:
        """Both together."""
        return Compared(self.comparisons + other.comparisons, self.problems + other.problems, self.notes + other.notes)


def run(
    project: Project,
    champion: ModelVersion | None,
    registry: Registry,
    progress: Progress,
    *,
    predict_row: PredictRow | None = None,
    size: int | None = None,
) -> GateResult:
    """Judge `out/model` against the champion; arguments and errors as `measured`."""
    facts = measured(project, champion, registry, progress, predict_row=predict_row, size=size)
    return decide(facts, project.config.gate)


def measured(
    project: Project,
    champion: ModelVersion | None,
    registry: Registry,
    progress: Progress,
    *,
    predict_row: PredictRow | None = None,
    size: int | None = None,
) -> Facts:
    """Everything that the gate decides on, measured.

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
    old: Champion | None = None
    compared = Compared()
    if champion is not None:
        with progress.task(f"compare with version {champion.version}"):
            old = _champion(project, champion, registry, prepared)
            compared = _against(project, measure, prepared, challenger, old)
    latency = None
    if project.config.gate.latency_p99 is not None:
        with progress.task("latency of one row"):
            latency = _latency(project, interface, frame, predict_row)
    return Facts(
        metric=evaluation.metric,
        value=measure.of(challenger, frame),
        direction=measure.direction,
        champion=champion.version if champion else None,
        comparisons=compared.comparisons,
        overlap=old.overlap if old else None,
        problems=compared.problems,
        notes=compared.notes,
        latency_p99=latency,
        size=model_folder.size(folder) if size is None else size,
        columns=_columns(interface),
        champion_columns=old.columns if old else (),
        classes=challenger.classes,
        champion_classes=old.classes if old else (),
        metrics=evaluation.metrics,
    )


def _champion(project: Project, version: ModelVersion, registry: Registry, prepared: Prepared) -> Champion:
    """Fetch the champion, and what its run kept of its evaluation."""
    folder = registry.fetch(version, project.state_dir / "models")
    unseen, overlap = _unseen(version, registry, prepared)
    classes = _classes(folder, version, registry) if project.config.task == "classification" else ()
    return Champion(version, folder, _columns(interface_of(folder, prepared)), classes, unseen, overlap)


def _unseen(version: ModelVersion, registry: Registry, prepared: Prepared) -> tuple[NDArray[np.bool_], Overlap]:
    """Which rows of the holdout the champion did not learn from; all of them if that is not known."""
    import numpy as np

    held = prepared.split.holdout
    content = registry.result(version.run_id, LEARNT_FILE)
    try:
        if content is None:
            raise TidegateError("its run does not say it")  # noqa: TRY301 - one way to say why
        learnt = Learnt.parse(content).among(prepared.table.frame)[held]
    except TidegateError as error:
        return np.ones(len(held), dtype=np.bool_), Overlap(len(held), None, error.message)
    return ~learnt, Overlap(len(held), int(learnt.sum()))


def _classes(folder: Path, version: ModelVersion, registry: Registry) -> tuple[object, ...]:
    """What the champion can answer: the folder says it, or its evaluation where a script logged it; else nobody."""
    known = model_folder.facts(folder).metadata.get("classes")
    if known is None and (content := registry.result(version.run_id, METRICS_FILE)) is not None:
        known = json.loads(content).get("classes")
    return tuple(known or ())


def _against(
    project: Project, measure: Measure, prepared: Prepared, challenger: Scored, champion: Champion
) -> Compared:
    """Both models on the rows that neither learnt from, unless there is nothing to compare."""
    if not champion.overlap.enough or classes_changed(challenger.classes, champion.classes):
        return Compared()
    try:
        scored = score_folder(project, prepared, champion.folder, own=champion.version.own)
    except TidegateError as error:
        text = f"version {champion.version.version} cannot be measured on this holdout: {error.message}"
        return Compared(problems=(Problem(text),))
    answers = Answers(challenger, scored, holdout(prepared)).rows(champion.unseen)
    slices = (_slices(measure, wanted, answers) for wanted in project.config.gate.slices)
    return sum(slices, Compared(tuple(_compare(project, measure, answers))))


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
    found = bootstrap.advantage(measure, answers.challenger, answers.champion, answers.frame)
    return Comparison(
        metric=measure.name,
        challenger=measure.of(answers.challenger, answers.frame),
        champion=measure.of(answers.champion, answers.frame),
        advantage_low=found.low,
        advantage_high=found.high,
        tolerance=tolerance,
        slice=label,
        rows=len(answers.frame),
    )


def _slices(measure: Measure, wanted: SliceCheck, answers: Answers) -> Compared:
    """One comparison for each slice of a column that is large enough; a column without any is a problem."""
    found = slices_of(answers.frame, wanted)
    large = [(label, mask) for label, mask in found if mask.sum() >= LEAST_ROWS]
    comparisons = tuple(_comparison(measure, wanted.tolerance, answers.rows(mask), label) for label, mask in large)
    if not large:
        text = f"no slice of {wanted.column} could be judged: none of {len(found):,} has {LEAST_ROWS} rows"
        advice = f"Hold out more rows (data.split.holdout), or leave {wanted.column} out of gate.slices."
        return Compared(problems=(Problem(text, advice),))
    small = len(found) - len(large)
    note = f"slices of {wanted.column} with under {LEAST_ROWS} rows were not judged: {small:,}"
    return Compared(comparisons, notes=(note,) if small else ())


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
