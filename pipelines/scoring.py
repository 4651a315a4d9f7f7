"""A loaded model's answers on rows whose truth is known, and how they are kept in out/evaluation.

`predictions.parquet` has one line for each holdout row: `row` (the data file's, from 0), `y_true`, `prediction`, and
`score_<k>` for the k-th class where the model gives scores. Whatever judges later reads it, and predicts nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import TidegateError
from tidegate.core.metrics import Scored

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from tidegate.registry.model_folder import Predictor

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.parquet"
_BINARY = 2


@dataclass(frozen=True)
class Evaluation:
    """What the evaluate step measured: `metric` is the one the gate decides on."""

    task: str
    metric: str
    metrics: Mapping[str, float]
    directions: Mapping[str, str]
    rows: int
    classes: tuple[Any, ...]
    calibrated: bool

    @classmethod
    def read(cls, folder: Path) -> Evaluation:
        """Read metrics.json of an evaluation folder.

        Raises:
            TidegateError: it is missing or damaged.
        """
        try:
            document = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
            return cls(**{**document, "classes": tuple(document["classes"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TidegateError(
                f"{folder.parent.name}/{folder.name}/{METRICS_FILE} is missing or damaged.", "Run `tidegate train`."
            ) from error

    def write(self, folder: Path) -> None:
        """Write metrics.json."""
        from dataclasses import asdict

        text = json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"
        (folder / METRICS_FILE).write_text(text, encoding="utf-8")


def score(
    model: Predictor, inputs: pd.DataFrame, truth: NDArray[np.generic], task: str, classes: Sequence[Any]
) -> Scored:
    """Predict `inputs` and put the answers next to `truth`.

    Raises:
        TidegateError: the model fails on a row, or answers with missing or too few values.
    """
    import numpy as np

    try:
        prediction = _column(model.predict(inputs))
        scores, calibrated = _scores(model, inputs) if task == "classification" else (None, True)
    except Exception as error:
        raise TidegateError(
            f"The model cannot predict the holdout: {type(error).__name__}: {error}",
            "A category, type or missing value that training rows do not have is the likely reason.",
        ) from error
    if (
        scores is None
        and task == "classification"
        and len(classes) == _BINARY
        and _are_probabilities(prediction, classes)
    ):
        scores = np.stack([1 - prediction, prediction], axis=1).astype(float)
        prediction = np.asarray(classes)[(scores[:, 1] >= 0.5).astype(int)]  # noqa: PLR2004 - the likelier class
    _check(prediction, scores, truth, classes)
    return Scored(truth, prediction, scores, tuple(classes), calibrated)


def _scores(model: Predictor, inputs: pd.DataFrame) -> tuple[NDArray[np.floating] | None, bool]:
    import numpy as np

    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(inputs), dtype=float), True
    if hasattr(model, "decision_function"):
        values = np.asarray(model.decision_function(inputs), dtype=float)
        return (np.stack([-values, values], axis=1) if values.ndim == 1 else values), False
    return None, True


def _column(answer: Any) -> NDArray[Any]:
    """One value for each row, from an array, a Series, a one-column frame, or a dict of them."""
    import numpy as np

    if isinstance(answer, Mapping):
        answer = next(iter(answer.values()))
    values = np.asarray(answer)
    return values[:, 0] if values.ndim == _BINARY and values.shape[1] == 1 else values


def _are_probabilities(prediction: NDArray[Any], classes: Sequence[Any]) -> bool:
    import numpy as np

    if prediction.dtype.kind != "f" or np.isin(prediction, np.asarray(classes)).all():
        return False
    return bool(((prediction >= 0) & (prediction <= 1)).all())


def _check(prediction: NDArray[Any], scores: NDArray[Any] | None, truth: NDArray[Any], classes: Sequence[Any]) -> None:
    import numpy as np

    if prediction.shape != truth.shape:
        raise TidegateError(
            f"The model gave predictions of shape {prediction.shape} for {len(truth):,} rows.",
            "It must predict one value for each row.",
        )
    if scores is not None and scores.shape != (len(truth), len(classes)):
        raise TidegateError(
            f"The model gave scores of shape {scores.shape} for {len(truth):,} rows and {len(classes)} classes.",
            "predict_proba must have one column for each entry of classes_.",
        )
    for values in (prediction, scores):
        if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise TidegateError("The model predicts NaN or infinity on the holdout.", "Look at its inputs and params.")


def write_predictions(folder: Path, rows: NDArray[np.integer], scored: Scored) -> None:
    """Write predictions.parquet; `rows` are the data file's row numbers, from 0."""
    import pandas as pd

    columns: dict[str, Any] = {"row": rows, "y_true": scored.truth, "prediction": scored.prediction}
    if scored.scores is not None:
        columns |= {f"score_{k}": scored.scores[:, k] for k in range(scored.scores.shape[1])}
    pd.DataFrame(columns).to_parquet(folder / PREDICTIONS_FILE, index=False)


def read_predictions(folder: Path) -> tuple[NDArray[np.integer], Scored]:
    """Row numbers and answers as `write_predictions` kept them.

    Raises:
        TidegateError: the file is missing or damaged.
    """
    import pandas as pd

    known = Evaluation.read(folder)
    try:
        frame = pd.read_parquet(folder / PREDICTIONS_FILE)
    except (OSError, ValueError) as error:
        raise TidegateError(f"{PREDICTIONS_FILE} is missing or damaged.", "Run `tidegate train`.") from error
    scores = frame.filter(regex=r"^score_\d+$").to_numpy(dtype=float)
    return frame["row"].to_numpy(), Scored(
        frame["y_true"].to_numpy(),
        frame["prediction"].to_numpy(),
        scores if scores.shape[1] else None,
        known.classes,
        known.calibrated,
    )
