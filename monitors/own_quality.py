"""Quality by a metric of the user's own, `module:function(y_true, prediction, frame)`, as the gate calls it.

It gives one number for a sample, so its interval is the jackknife of `quality` with Student's t: the sample without
each of the groups of users. Whoever calls it may be a process of its own; what fails is said, and tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import TidegateError
from tidegate.monitors.quality import GROUP, LEAST, STRAY, Quality, compared, untold
from tidegate.serving.telemetry import INPUT

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from duckdb import DuckDBPyRelation
    from numpy.typing import NDArray

    from tidegate.core.metrics import Direction


@dataclass(frozen=True)
class Sample:
    """Labelled rows of one version.

    Attributes:
        truth: of each row, a class or a number in the model's own kind.
        prediction: of each row; None where a class is asked for and none was answered.
        frame: the request columns as recorded, and `score_<k>` for each class.
        place: the group of users that each row is in, from 0.
    """

    truth: NDArray[Any]
    prediction: NDArray[Any]
    frame: pd.DataFrame
    place: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sampled:
    """The metric of the sample, of the sample without each group, and which way is better."""

    value: float
    without: tuple[float, ...]
    better: Direction


Ask = Callable[[str, Sample], Sampled]
"""Calls the user's function by its name; raises TidegateError where it does not answer."""


def judge(
    about: Quality,
    rows: DuckDBPyRelation,
    classes: tuple[str, ...] | None,
    *,
    reference: float | None,
    tolerance: float,
    ask: Ask,
) -> Quality:
    """What the labels say about one version.

    Args:
        about: with everything but the result.
        rows: its labelled rows.
        classes: of the version, as text; None: its files name different ones.
        reference: the metric on its holdout.
        tolerance: may be this much worse.
        ask: calls the function.
    """
    if about.labelled < LEAST or classes is None:
        few = f"{about.labelled} labels are too few; {LEAST} are needed at least"
        return untold(about, "the records of this version name different classes" if classes is None else few)
    sample = _sample(rows, classes)
    if about.labelled - len(sample.truth) > STRAY * about.labelled:
        return untold(about, f"{about.labelled - len(sample.truth):,} of {about.labelled:,} labels fit no answer")
    try:
        told = ask(about.metric, sample)
    except TidegateError as error:
        return untold(about, error.message)
    low, high = _interval(told)
    if not all(map(math.isfinite, (told.value, low, high))):
        return untold(about, f"{about.metric} is not defined for these labels")
    measured = replace(about, value=told.value, low=low, high=high, reference=reference, better=told.better)
    if reference is None:
        return untold(measured, f"the release has no {about.metric} of its holdout; name it in gate.checks")
    return compared(measured, reference, tolerance)


def _interval(told: Sampled) -> tuple[float, float]:
    import numpy as np
    from scipy import stats

    values, count = np.array(told.without), len(told.without)
    if count < 2:  # noqa: PLR2004 - one group has no spread
        return math.nan, math.nan
    variance = (count - 1) / count * float(((values - values.mean()) ** 2).sum())
    margin = float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance)
    return told.value - margin, told.value + margin


def _sample(rows: DuckDBPyRelation, classes: tuple[str, ...]) -> Sample:
    import numpy as np

    names = [name for name in rows.columns if name.startswith(INPUT)]
    frame = rows.project(f"*, {GROUP} as user_place").to_arrow_table().to_pandas()
    if classes:
        meant = dict(zip(classes, native(classes), strict=True))
        known = frame["truth"].isin(list(meant)).to_numpy()
        frame = frame[known]
        truth = np.array([meant[one] for one in frame["truth"]])
        prediction = np.array([meant.get(one) for one in frame["label"]])
    else:
        truths = _numbers(frame["truth"])
        known = np.isfinite(truths) & np.isfinite(_numbers(frame["value"]))
        frame, truth = frame[known], truths[known]
        prediction = _numbers(frame["value"])
    inputs = frame[names].rename(columns={name: name.removeprefix(INPUT) for name in names}).reset_index(drop=True)
    for k in range(len(classes)):
        shares = [one[k] if one is not None and len(one) == len(classes) else np.nan for one in frame["probabilities"]]
        inputs[f"score_{k}"] = shares
    _, place = np.unique(frame["user_place"].to_numpy(), return_inverse=True)
    return Sample(truth, prediction, inputs, place.astype(np.int64))


def _numbers(column: pd.Series[Any]) -> NDArray[np.float64]:
    import pandas as pd

    found: NDArray[np.float64] = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    return found


def native(texts: Sequence[str]) -> list[Any]:
    """Classes as the model has them: booleans, numbers or texts, all of one kind."""
    if {one.lower() for one in texts} <= {"true", "false"}:
        return [one.lower() == "true" for one in texts]
    for kind in (int, float):
        try:
            return [kind(one) for one in texts]
        except ValueError:
            continue
    return list(texts)
