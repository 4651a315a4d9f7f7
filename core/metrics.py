"""The metrics a model is judged by: names, directions, formulas.

Every formula is written once, for weighted rows and many weightings at a time. One column of ones is the metric
itself; columns of random counts are its bootstrap, so what the gate compares is exactly what the report shows.
numpy is imported inside, because the config reads the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[Any]
    Statistic = Callable[[Floats], Floats]

Direction = Literal["higher", "lower"]
# Which way is better. `custom` tasks and own metrics say it themselves: higher, unless a name here says otherwise.
CLASSIFICATION: Mapping[str, Direction] = MappingProxyType(
    {
        "roc_auc": "higher",
        "average_precision": "higher",
        "brier": "lower",
        "log_loss": "lower",
        "accuracy": "higher",
        "f1": "higher",
        "precision": "higher",
        "recall": "higher",
    }
)
REGRESSION: Mapping[str, Direction] = MappingProxyType(
    {"rmse": "lower", "mae": "lower", "mape": "lower", "bias": "lower", "r2": "higher"}
)
DIRECTIONS: Mapping[str, Direction] = MappingProxyType({**CLASSIFICATION, **REGRESSION})
_NEED_SCORES = frozenset({"roc_auc", "average_precision", "brier", "log_loss"})
# Under this share of positives, ROC AUC hardly moves when the ranking of the few positives gets worse.
RARE = 0.05
# Probabilities are kept this far from 0 and 1, so that one certain mistake costs a finite log loss.
EPSILON = 1e-15


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's answers on rows whose truth is known; all arrays have one entry for each row.

    Args:
        truth: the target; class labels, or numbers.
        prediction: the predicted label or number.
        scores: probabilities, shape (rows, classes); for a binary model without probabilities its decision values
            in the second column. None if the model gives labels only.
        classes: the labels in the order of the columns of `scores`; empty for regression.
        calibrated: whether `scores` are probabilities.
    """

    truth: NDArray[np.generic]
    prediction: NDArray[np.generic]
    scores: Floats | None = None
    classes: tuple[object, ...] = ()
    calibrated: bool = True

    def rows(self, index: NDArray[np.generic]) -> Scored:
        """The same for some rows: a boolean mask or positions."""
        scores = None if self.scores is None else self.scores[index]
        return Scored(self.truth[index], self.prediction[index], scores, self.classes, self.calibrated)


def default_metric(task: str, truth: NDArray[np.generic], classes: tuple[object, ...]) -> str:
    """`r2` for regression, `average_precision` where positives are rare, else `roc_auc`.

    All three are shares, so that one tolerance means the same for every target: 0.005 of a root mean squared error is
    nothing for prices and everything for ratios.
    """
    if task == "regression":
        return "r2"
    if len(classes) == 2 and float((truth == classes[1]).mean()) < RARE:  # noqa: PLR2004 - two classes
        return "average_precision"
    return "roc_auc"


def names(task: str, scored: Scored) -> tuple[str, ...]:
    """The metrics that can be computed for these answers."""
    if task == "regression":
        return tuple(REGRESSION)
    usable = [name for name in CLASSIFICATION if scored.scores is not None or name not in _NEED_SCORES]
    return tuple(name for name in usable if scored.calibrated or name not in {"brier", "log_loss"})


def compute(name: str, scored: Scored) -> float:
    """One metric of all rows; NaN where it is not defined (one class only, no rows)."""
    import numpy as np

    if len(scored.truth) == 0:
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(statistic(name, scored)(np.ones((len(scored.truth), 1)))[0])


def statistic(name: str, scored: Scored) -> Statistic:
    """The metric as a function of row weights: (rows, weightings) -> (weightings,).

    Raises:
        KeyError: there is no metric of this name.
    """
    if name in REGRESSION:
        return _regression(name, scored)
    if name not in CLASSIFICATION:
        raise KeyError(name)
    return _classification(name, scored)


def _regression(name: str, scored: Scored) -> Statistic:
    import numpy as np

    truth = scored.truth.astype(float)
    error = scored.prediction.astype(float) - truth
    if name == "r2":
        return _r2(truth, error)
    if name == "rmse":
        squares = _mean(error**2)
        return lambda weights: np.sqrt(squares(weights))
    if name == "bias":
        signed = _mean(error)
        return lambda weights: np.abs(signed(weights))
    if name == "mape":
        return _mean(np.abs(error) / np.maximum(np.abs(truth), np.finfo(float).eps))
    return _mean(np.abs(error))


def _classification(name: str, scored: Scored) -> Statistic:
    import numpy as np

    if name == "accuracy":
        return _mean((scored.truth == scored.prediction).astype(float))
    if name in {"f1", "precision", "recall"}:
        labels = scored.classes[1:] if len(scored.classes) == 2 else scored.classes  # noqa: PLR2004 - binary
        return _average([_counts(name, scored.truth == one, scored.prediction == one) for one in labels])
    if scored.scores is None:
        raise KeyError(name)
    hot = np.stack([scored.truth == label for label in scored.classes], axis=1)
    if name == "log_loss":
        chosen = np.where(hot, scored.scores, 0.0).sum(axis=1)
        return _mean(-np.log(np.clip(chosen, EPSILON, 1.0)))
    if name == "brier":
        squares = ((scored.scores - hot) ** 2).sum(axis=1)
        return _mean(squares / 2 if len(scored.classes) == 2 else squares)  # noqa: PLR2004 - binary counts once
    curve = _roc_auc if name == "roc_auc" else _average_precision
    if len(scored.classes) == 2:  # noqa: PLR2004 - binary
        return curve(hot[:, 1], scored.scores[:, 1])
    # A class that no row has (or all have) cannot be ranked against the rest.
    told_apart = [k for k in range(len(scored.classes)) if 0 < hot[:, k].sum() < len(hot)]
    return _average([curve(hot[:, k], scored.scores[:, k]) for k in told_apart])


def _mean(values: Floats) -> Statistic:
    """The weighted mean of one number for each row, summed in float64 whatever the weights are.

    Two models may differ by less than float32 can tell apart in what both have in common.
    """

    def of(weights: Floats) -> Floats:
        means: Floats = (values @ weights) / weights.sum(axis=0, dtype=float)
        return means

    return of


def _average(parts: list[Statistic]) -> Statistic:
    """The unweighted mean over classes (one-vs-rest); NaN for none."""
    import numpy as np

    if not parts:
        return lambda weights: np.full(weights.shape[1], np.nan)
    return lambda weights: np.mean([part(weights) for part in parts], axis=0)


def _r2(truth: Floats, error: Floats) -> Statistic:
    # The variance, E[t^2] - E[t]^2, is lost in rounding where a target is far from 0 (years, pressures, timestamps). It
    # does not change when the target is shifted, so it is taken around the mean.
    centred = truth - truth.mean()
    squares, total, first = _mean(error**2), _mean(centred**2), _mean(centred)
    return lambda weights: 1 - squares(weights) / (total(weights) - first(weights) ** 2)


def _counts(name: str, actual: NDArray[Any], predicted: NDArray[Any]) -> Statistic:
    """F1, precision or recall of one class from weighted counts; 0 where nothing was predicted or is there."""
    import numpy as np

    hit, said, there = (actual & predicted).astype(float), predicted.astype(float), actual.astype(float)

    def of(weights: Floats) -> Floats:
        hits, claims, cases = (part @ weights for part in (hit, said, there))
        below = {"precision": claims, "recall": cases}.get(name, (claims + cases) / 2)
        shares: Floats = np.divide(hits, below, out=np.zeros_like(hits), where=below > 0)
        return shares

    return of


def _roc_auc(positive: NDArray[np.generic], score: Floats) -> Statistic:
    """The weighted share of (positive, negative) pairs in the right order, ties half (Mann-Whitney U).

    The negatives' weights are summed up once in the order of their scores; a positive then needs two look-ups.
    """
    import numpy as np

    yes, no = np.flatnonzero(positive), np.flatnonzero(~positive.astype(bool))
    no = no[np.argsort(score[no], kind="stable")]
    below = np.searchsorted(score[no], score[yes], side="left")
    through = np.searchsorted(score[no], score[yes], side="right")
    tied = bool((below != through).any())

    def of(weights: Floats) -> Floats:
        passed = _running(weights[no])
        beaten = (passed[below] + passed[through]) / 2 if tied else passed[below]
        pairs = weights[yes].sum(axis=0) * passed[-1]
        area: Floats = np.einsum("ib,ib->b", weights[yes], beaten, dtype=float) / pairs
        return area

    return of


def _average_precision(positive: NDArray[np.generic], score: Floats) -> Statistic:
    """The mean over positives of the precision at their score: sum of (R_n - R_(n-1)) P_n."""
    import numpy as np

    yes, no = np.flatnonzero(positive), np.flatnonzero(~positive.astype(bool))
    yes, no = yes[np.argsort(-score[yes], kind="stable")], no[np.argsort(-score[no], kind="stable")]
    hits_at = np.searchsorted(-score[yes], -score[yes], side="right")
    alarms_at = np.searchsorted(-score[no], -score[yes], side="right")

    def of(weights: Floats) -> Floats:
        hits, alarms = _running(weights[yes])[hits_at], _running(weights[no])[alarms_at]
        found = hits + alarms
        precision = np.divide(hits, found, out=np.zeros_like(hits), where=found > 0)
        area: Floats = np.einsum("ib,ib->b", weights[yes], precision, dtype=float) / weights[yes].sum(axis=0)
        return area

    return of


def _running(weights: Floats) -> Floats:
    """Running sums down the rows, beginning with 0."""
    import numpy as np

    sums = np.zeros((len(weights) + 1, weights.shape[1]), dtype=weights.dtype)
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums
