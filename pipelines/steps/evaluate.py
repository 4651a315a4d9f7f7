"""The evaluate step: the packaged model predicts the holdout; metrics, predictions and plots go to out/evaluation.

The model is loaded from its folder, not taken from memory, so what is measured is what will be shipped. The keys of
the rows that it learnt from are kept too, for the day when it is the champion that another is compared with.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core import metrics
from tidegate.core.errors import ConfigError
from tidegate.core.metrics import Scored
from tidegate.pipelines import own_metrics
from tidegate.pipelines.learnt import learnt
from tidegate.pipelines.model_inputs import Interface, from_metadata
from tidegate.pipelines.scoring import Evaluation, score, write_predictions
from tidegate.pipelines.steps.train import MODEL_FOLDER, Prepared, RunFile, prepare_data
from tidegate.registry import model_folder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from tidegate.core.progress import Progress
    from tidegate.core.project import Project

EVALUATION_FOLDER = "evaluation"


def run(project: Project, progress: Progress) -> None:
    """Measure `out/model` on the holdout and log the result to its MLflow run.

    Raises:
        ConfigError: a metric does not fit.
        TidegateError: the model cannot be opened, or fails on the holdout.
    """
    from tidegate.registry.mlflow_registry import open_registry

    trained = RunFile.read(project.out_dir)
    prepared = prepare_data(project)
    with progress.task(f"predict {len(prepared.split.holdout):,} holdout rows"):
        scored = score_folder(project, prepared, project.out_dir / MODEL_FOLDER, own=True)
    frame = holdout(prepared)
    with progress.task("metrics and plots"):
        evaluation = evaluate(project, scored, frame)
        folder = _empty(project.out_dir / EVALUATION_FOLDER)
        evaluation.write(folder)
        write_predictions(folder, frame.index.to_numpy(), scored)
        table = prepared.table
        learnt(table.frame, table.features, prepared.split.train, project.config.data.split).write(folder)
        _plots(folder / "plots", scored, project.config.task)
    with progress.task("log the results"):
        registry = open_registry(project)
        run_id = registry.find_run(trained.run_id)
        if run_id is not None:  # else the runner logs the whole run again
            registry.log_results(run_id, evaluation.metrics, folder)


def evaluate(project: Project, scored: Scored, frame: pd.DataFrame) -> Evaluation:
    """Every metric of these answers; the decisive one must be defined."""
    config = project.config
    values, directions = {}, {}
    for measure in own_metrics.measures(project, scored):
        values[measure.name] = measure.of(scored, frame)
        directions[measure.name] = measure.direction
    metric = config.gate.metric or _default_metric(project, scored)
    values = own_metrics.finite(values)
    if metric not in values:
        raise ConfigError(
            f"The metric {metric} is not defined on the holdout.",
            f"gate.metric must be one of: {', '.join(values)}; or hold out more rows.",
        )
    return Evaluation(
        config.task, metric, values, directions, len(scored.truth), tuple(scored.classes), scored.calibrated
    )


def score_folder(project: Project, prepared: Prepared, folder: Path, *, own: bool) -> Scored:
    """The answers of a model folder on the holdout, through its own hook and inputs.

    `own` says whether a run of this project made it, see `model_folder.load`.

    Raises:
        TidegateError: a column that the model wants is not in the data, or it cannot be opened.
    """
    known = model_folder.facts(folder)
    rows = prepared.table.features.iloc[prepared.split.holdout]
    target = prepared.table.target
    truth = target.iloc[prepared.split.holdout].to_numpy()
    classes = known.metadata.get("classes") or _labels(target, project.config.task)
    model = model_folder.load(folder, allow_pickle=project.config.serve.allow_pickle, own=own)
    inputs = (from_metadata(known.metadata, folder) or prepared.interface).frame(rows)
    return score(model, inputs, truth, project.config.task, classes)


def holdout(prepared: Prepared) -> pd.DataFrame:
    """The raw rows of the holdout, every column, labelled with the data file's row numbers."""
    return prepared.table.frame.iloc[prepared.split.holdout]


def interface_of(folder: Path, prepared: Prepared) -> Interface:
    """What callers of this model folder send."""
    return from_metadata(model_folder.facts(folder).metadata, folder) or prepared.interface


def _default_metric(project: Project, scored: Scored) -> str:
    if project.config.task == "custom":
        raise ConfigError("A custom task has no default metric.", "Name one: `gate: {metric: module:function}`.")
    wanted = metrics.default_metric(project.config.task, scored.truth, scored.classes)
    return wanted if wanted in metrics.names(project.config.task, scored) else "accuracy"


def _labels(target: pd.Series[Any], task: str) -> list[Any]:
    if task != "classification":
        return []
    return [label.item() if hasattr(label, "item") else label for label in sorted(target.unique())]


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "plots").mkdir(parents=True)
    return folder


def _plots(folder: Path, scored: Scored, task: str) -> None:
    from tidegate.pipelines import plots

    if task == "regression":
        plots.residuals(folder / "residuals.png", scored.truth.astype(float), scored.prediction.astype(float))
    elif task == "classification":
        plots.confusion(folder / "confusion_matrix.png", scored)
        if scored.scores is not None and scored.calibrated:
            plots.calibration(folder / "calibration.png", *_reliability(scored))


def _reliability(scored: Scored) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Probability and outcome: of the positive class, or of the predicted one where there are several."""
    assert scored.scores is not None  # noqa: S101 - the caller looked
    if len(scored.classes) == 2:  # noqa: PLR2004 - binary
        return scored.scores[:, 1], scored.truth == scored.classes[1]
    return scored.scores.max(axis=1), scored.truth == scored.prediction
