"""Late metrics: one number for each user out of what became known of them, and the sums of a cohort. Pure.

A `frame` has one row for each user of a cohort, as `late_reading` makes it and as the user's own functions get it:

* `unit`: the user's keyed hash; `arm`: canary or stable; `at`: the first exposure, UTC.
* `prediction`: what the arm predicted, a class as text or a number; null where no answer is recorded.
* `score`, `probabilities`: of that prediction, where the model has them; the order is `frame.attrs["classes"]`.
* `truth`: its label, text of a class or a number; null where none came in time.
* `outcome.<name>`: the values of the user's outcome events of that name, added up; 0 without any.
* `input.<column>`: what the model was asked.

Which prediction: the first one of the user's own block and arm that has a truth in time, else the first. Later blocks
do not count: their labels would be younger, and users may have changed arm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import TidegateError
from tidegate.core.metrics import EPSILON
from tidegate.core.store import StoreError
from tidegate.rollouts.blocks import ARMS, LABELLED, Cohort, Counts, Moments, Sums
from tidegate.rollouts.plan import GoalPlan, Stream

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Own = Callable[[str, "pd.DataFrame"], "NDArray[Any]"]
    """The user's function by its name: a frame in, one number for each row out."""

OUTCOME: Final = "outcome."
"""What a frame's columns of outcome events begin with."""
LEAST_PROBABILITY: Final = 1e-3
"""A log loss ends here, at 6.9: one certain mistake must not outweigh a thousand users."""


_WORST: Final = -math.log(LEAST_PROBABILITY)
_WORST_OF_CLASSES: Final[Mapping[str, float]] = {"accuracy": 0.0, "loss": _WORST, "log_loss": _WORST, "brier": 1.0}
"""What an answer without a prediction counts as."""


class OwnMetricFailed(TidegateError):
    """The user's function cannot say what it is there for: nothing is concluded without it."""


def values(metric: str, frame: pd.DataFrame, own: Own, bound: float | None = None) -> Floats:
    """One number for each row of the frame; NaN where it is not known.

    Args:
        metric: one of `LABEL_METRICS`, an outcome's name, or `module:function`.
        frame: see the module.
        own: calls the user's function.
        bound: values beyond it, on both sides of 0, count as it.

    Raises:
        OwnMetricFailed: the user's function failed, or its answer does not fit the frame.
    """
    import numpy as np

    if ":" in metric:
        found = _own(metric, frame, own)
    elif metric in _OF_OUTCOMES:
        sums = frame[OUTCOME + metric].to_numpy(float) if OUTCOME + metric in frame else np.zeros(len(frame))
        found = _OF_OUTCOMES[metric](sums)
    else:
        found = _of_label(metric, frame)
    if bound is None:
        return np.where(np.isinf(found), np.nan, found)
    return np.clip(found, -bound, bound)


def cohorts(metrics: Iterable[Stream | GoalPlan], frame: pd.DataFrame, own: Own) -> tuple[Cohort, ...]:
    """The sums of each block and weight in the frame's columns `block` and `weight`, oldest first.

    Metrics that come from labels, or may, also tell how many users have one, as `LABELLED`.

    Raises:
        OwnMetricFailed: see `values`; or a share's function gives something else than 0 and 1.
    """
    import numpy as np

    metrics = list({one.metric: one for one in metrics}.values())
    found = {one.metric: values(one.metric, frame, own, one.bound) for one in metrics}
    for one in metrics:
        told = found[one.metric]
        if one.kind == "share" and not np.isin(told[~np.isnan(told)], (0.0, 1.0)).all():
            raise OwnMetricFailed(
                f"The metric {one.metric} gave only 0 and 1 before the rollout and gives other numbers now.",
                "A share stays one; abort the rollout, then start another for another metric.",
            )
    labels = any(one.source in {"labels", "own"} for one in metrics)
    canary, known = (frame["arm"] == ARMS[0]).to_numpy(), frame["truth"].notna().to_numpy()
    made = []
    places: dict[Any, Any] = dict(frame.groupby(["block", "weight"]).indices)
    for (block, weight), rows in sorted(places.items()):
        sums: dict[str, Sums] = {
            one.metric: _sums(found[one.metric][rows], canary[rows], mean=one.kind == "mean") for one in metrics
        }
        if labels:
            sums[LABELLED] = _sums(known[rows].astype(float), canary[rows], mean=False)
        made.append(Cohort(int(block), int(weight), sums))
    return tuple(made)


def _sums(told: Floats, canary: NDArray[np.bool_], *, mean: bool) -> Sums:
    """Of the users whose value is known."""
    import numpy as np

    arms = [told[canary & ~np.isnan(told)], told[~canary & ~np.isnan(told)]]
    if mean:
        return Moments(*(float(part) for arm in arms for part in (len(arm), arm.sum(), (arm**2).sum())))
    return Counts(*(float(part) for arm in arms for part in (len(arm), arm.sum())))


def _own(metric: str, frame: pd.DataFrame, own: Own) -> Floats:
    import numpy as np

    try:
        found = np.asarray(own(metric, frame), dtype=np.float64)
    except (OSError, StoreError):
        raise  # the store that keeps its code does not answer now
    except TidegateError as error:
        raise OwnMetricFailed(f"The metric {metric} failed: {error.message}", error.hint) from error
    except Exception as error:
        raise OwnMetricFailed(f"The metric {metric} failed: {type(error).__name__}: {error}.", _OWN_HINT) from error
    if found.shape != (len(frame),) or np.isinf(found).any():
        raise OwnMetricFailed(
            f"The metric {metric} gave {'infinity' if found.shape == (len(frame),) else f'the shape {found.shape}'} "
            f"for {len(frame)} users.",
            _OWN_HINT,
        )
    return found


_OWN_HINT = "It is called as function(frame) and returns one finite number for each row, or NaN where it is not known."


def _of_label(metric: str, frame: pd.DataFrame) -> Floats:
    import numpy as np

    truth, answered = frame["truth"].notna().to_numpy(), frame["prediction"].notna().to_numpy()
    found, known = np.full(len(frame), np.nan), truth & answered
    rows, classes = frame[known], frame.attrs.get("classes") or ()
    if len(rows):
        found[known] = _classified(metric, rows, classes) if classes else _measured(metric, rows)
    # Only an answer has a truth: one without a prediction is as wrong as can be, or a canary could leave out what it
    # does not know.
    found[truth & ~answered] = _WORST_OF_CLASSES.get(metric, math.nan) if classes else math.inf
    return found


def _classified(metric: str, rows: pd.DataFrame, classes: Iterable[str]) -> Floats:
    import numpy as np

    truth = rows["truth"].astype(str).to_numpy()
    if metric == "accuracy":
        right: Floats = (truth == rows["prediction"].astype(str).to_numpy()).astype(np.float64)
        return right
    unknown = np.full(len(rows), np.nan)
    there = rows["probabilities"].notna().to_numpy()
    if metric not in {"loss", "log_loss", "brier"} or not there.any():
        return unknown
    hot = truth[there][:, None] == np.array(list(classes))
    scores = np.stack([np.asarray(one, dtype=np.float64) for one in rows["probabilities"].to_numpy()[there]])
    if metric == "brier":
        squares = ((scores - hot) ** 2).sum(axis=1)
        told = squares / 2 if hot.shape[1] == 2 else squares  # noqa: PLR2004 - binary counts once
    else:
        told = -np.log(np.clip(np.where(hot, scores, 0.0).sum(axis=1), LEAST_PROBABILITY, 1.0))
    # A probability that is no number is no answer either.
    unknown[there] = np.where(np.isnan(told), _WORST_OF_CLASSES[metric], told)
    return unknown


def _measured(metric: str, rows: pd.DataFrame) -> Floats:
    """Of a quantity; a truth that is no number is not known."""
    import numpy as np
    import pandas as pd

    truth = pd.to_numeric(rows["truth"], errors="coerce").to_numpy(dtype=np.float64)
    error: Floats = np.abs(rows["prediction"].to_numpy(dtype=np.float64) - truth)
    if metric in {"loss", "mae"}:
        return error
    if metric == "mape":
        return np.asarray(error / np.maximum(np.abs(truth), EPSILON))
    return np.full(len(rows), math.nan)


def _happened(sums: Floats) -> Floats:
    return (sums > 0).astype(float)


def _total(sums: Floats) -> Floats:
    return sums


_OF_OUTCOMES: Final[Mapping[str, Callable[[Any], Any]]] = {"conversion": _happened, "revenue": _total}
