"""The reference of a release: made when the release is, from the data and the bundle that the gate let pass."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.pipelines.environment import Environment

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from tidegate.core.metrics import Scored
    from tidegate.core.progress import Progress
    from tidegate.pipelines.steps.train import Prepared
    from tidegate.serving.service.manifest import Column
    from tidegate.serving.service.model import Answer, Model
    from tidegate.serving.service.tensors import Columns

    Rows = npt.NDArray[np.int64]

_SEED: Final = 3
_CHUNK: Final = 10_000
# Of a reference's rows, those that the holdout may fill: scores need fewer rows than what they are made of.
_HOLDOUT: Final = 200_000


@dataclass(frozen=True)
class Measured:
    """What the holdout showed: the metrics, and which of them the gate decides by."""

    metrics: Mapping[str, float]
    metric: str


def store_reference(
    environment: Environment, bundle: Path, prepared: Prepared, measured: Measured, progress: Progress
) -> str:
    """Build the reference of a bundle and put it into the store; returns its name.

    Args:
        environment: whose store, and whose config says what is never recorded.
        bundle: what will be served.
        prepared: the data that the model learnt from.
        measured: on the holdout.
        progress: where to report.
    """
    from tidegate.monitors import reference
    from tidegate.serving import checked_hooks
    from tidegate.serving.service.model import Model
    from tidegate.serving.telemetry import Hidden

    with progress.task("remember what live data is compared with"), tempfile.TemporaryDirectory() as scratch:
        model = Model(bundle, load_hooks=checked_hooks.load)
        ordered = environment.project.config.data.split.by == "time"
        train = _kept(_in_order(environment, prepared, prepared.split.train), reference.MOST)
        held = _kept(_in_order(environment, prepared, prepared.split.holdout), _HOLDOUT)
        answers = _answers(model, prepared, held)
        rows = Path(scratch) / "reference.parquet"
        _write(rows, environment, model, prepared, (train, held, answers))
        capture = environment.project.config.serve.capture
        kinds: dict[str, Any] = {
            one.name: "string" if one.name in capture.hash else one.kind for one in _compared(environment, model)
        }
        importance = _importance(environment, model, prepared, measured.metric, progress)
        columns, predictions = reference.of_release(rows, kinds, importance, ordered=ordered)
        made = reference.Reference(
            columns,
            predictions,
            ordered=ordered,
            rows={"train": len(train), "holdout": len(held)},
            metrics={**measured.metrics, **_measured(model, answers, prepared.table.target.to_numpy()[held])},
            metric=measured.metric,
            task=model.manifest.task,
            classes=tuple(_texts(model.manifest.classes or [])),
            hidden=Hidden.of(capture.exclude, capture.hash),
        )
        return reference.save(environment.store, rows, made)


def _in_order(environment: Environment, prepared: Prepared, rows: Rows) -> Rows:
    """The rows by the column that says their time, else as the file has them."""
    split = environment.project.config.data.split
    if split.by != "time" or split.column is None:
        return rows
    clock = prepared.table.frame[split.column].to_numpy()[rows]
    ordered: Rows = rows[clock.argsort(kind="stable")]
    return ordered


def _kept(rows: Rows, most: int) -> Rows:
    """The rows, or a seeded sample of them in their own order."""
    import numpy as np

    if len(rows) <= most:
        return rows
    chosen: Rows = rows[np.sort(np.random.default_rng(_SEED).choice(len(rows), most, replace=False))]
    return chosen


def _raw(model: Model, prepared: Prepared, rows: Rows) -> Columns:
    from tidegate.serving.service.tensors import frame_columns

    return frame_columns(model.manifest.columns, prepared.table.frame.iloc[rows])


def _predict(model: Model, raw: Columns) -> Answer:
    """The bundle's own answers to raw columns, by the path of a request."""
    rows = list(zip(*(raw[column.name].tolist() for column in model.manifest.columns), strict=True))
    return model.plain(rows)


def _answers(model: Model, prepared: Prepared, rows: Rows) -> list[Answer]:
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    return [_predict(model, _raw(model, prepared, chunk)) for chunk in chunks]


def _write(
    path: Path,
    environment: Environment,
    model: Model,
    prepared: Prepared,
    parts: tuple[Rows, Rows, list[Answer]],
) -> None:
    """Training rows, then those of the holdout with their predictions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    train, held, answers = parts
    learnt = _inputs(environment, model, prepared, train)
    known = _inputs(environment, model, prepared, held)
    predicted = _predicted(model, answers)
    nothing = {name: pa.nulls(len(train), column.type) for name, column in predicted.items()}
    tables = [
        pa.table({"part": pa.array(["train"] * len(train), pa.string()), **learnt, **nothing}),
        pa.table({"part": pa.array(["holdout"] * len(held), pa.string()), **known, **predicted}),
    ]
    pq.write_table(pa.concat_tables(tables), path, compression="zstd")


def _inputs(environment: Environment, model: Model, prepared: Prepared, rows: Rows) -> dict[str, pa.Array]:
    from tidegate.serving.telemetry import INPUT

    raw = _raw(model, prepared, rows)
    return {INPUT + one.name: _recorded(environment, one, raw[one.name]) for one in _compared(environment, model)}


def _arrow(column: Column, values: Any) -> pa.Array:
    import pyarrow as pa

    kinds = {
        "number": pa.float64(),
        "integer": pa.int64(),
        "boolean": pa.bool_(),
        "string": pa.string(),
        "datetime": pa.timestamp("us"),
    }
    made = pa.array(values, from_pandas=True)
    return made.cast(kinds[column.kind], safe=False)


def _compared(environment: Environment, model: Model) -> list[Column]:
    """The request columns that are recorded: what nobody may keep is not kept here either."""
    excluded = environment.project.config.serve.capture.exclude
    return [one for one in model.manifest.columns if one.name not in excluded]


def _recorded(environment: Environment, column: Column, values: Any) -> pa.Array:
    """A column as it will be recorded, hashed where that is asked for: then its categories are compared unread."""
    import pyarrow as pa

    from tidegate.serving.service.records import text_hash
    from tidegate.serving.telemetry import salt_of

    cells = _arrow(column, values)
    if column.name not in environment.project.config.serve.capture.hash:
        return cells
    salt = salt_of(environment.store)
    return pa.array([None if cell is None else text_hash(salt, cell) for cell in cells.to_pylist()], pa.string())


def _predicted(model: Model, answers: list[Answer]) -> dict[str, pa.Array]:
    """Label, value and score of each answer, as recorded predictions have them."""
    import pyarrow as pa

    whole = _together(answers)
    given, shares = whole.predictions, whole.probabilities or []
    two = 2
    classified = model.manifest.task == "classification"
    numbers = not classified and all(isinstance(one, int | float) and not isinstance(one, bool) for one in given)
    nothing: list[Any] = [None] * len(given)
    scores = [one[1] if len(one) == two else max(one) for one in shares] or nothing
    return {
        "label": pa.array(_texts(given) if classified else nothing, pa.string()),
        "value": pa.array(given if numbers else nothing, pa.float64()),
        "score": pa.array(scores, pa.float32()),
    }


def _texts(labels: list[Any]) -> list[str]:
    from tidegate.serving.telemetry import label_text

    known = {one: label_text(one) for one in set(labels)}
    return [known[one] for one in labels]


def _measured(model: Model, answers: list[Answer], truth: Any) -> dict[str, float]:
    """The metrics of what is served: a decision threshold makes other labels than training knew."""
    from tidegate.core import metrics

    if model.manifest.task == "custom":
        return {}
    scored = _scored(model, _together(answers), truth)
    values = {name: metrics.compute(name, scored) for name in metrics.names(model.manifest.task, scored)}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _together(answers: list[Answer]) -> Answer:
    from tidegate.serving.service.model import Answer

    predictions = [one for answer in answers for one in answer.predictions]
    shares = [one for answer in answers for one in answer.probabilities or ()]
    return Answer(predictions, shares or None)


def _importance(
    environment: Environment, model: Model, prepared: Prepared, metric: str, progress: Progress
) -> dict[str, float]:
    """What the gate's metric loses for each column; nothing where what is served does not give what it needs."""
    from tidegate.core.errors import TidegateError
    from tidegate.monitors.importance import permutation_importance
    from tidegate.pipelines import own_metrics

    held = prepared.split.holdout
    truth = prepared.table.target.to_numpy()[held]
    frame = prepared.table.frame

    def quality(columns: Mapping[str, Any], chosen: Rows) -> float:
        scored = _scored(model, _predict(model, dict(columns)), truth[chosen])
        measure = own_metrics.measure(environment.project, metric, scored)
        value = measure.of(scored, frame.iloc[held[chosen]])
        return value if measure.direction == "higher" else -value

    try:
        return permutation_importance(_raw(model, prepared, held), quality)
    except TidegateError as error:
        progress.note(f"{error.message} So all columns count alike when drift is judged.")
        return {}


def _scored(model: Model, answer: Answer, truth: Any) -> Scored:
    import numpy as np

    from tidegate.core.metrics import Scored

    scores = None if answer.probabilities is None else np.asarray(answer.probabilities, dtype=float)
    return Scored(truth, np.asarray(answer.predictions), scores, tuple(model.manifest.classes or ()))
