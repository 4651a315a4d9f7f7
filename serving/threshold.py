"""The probability from which the second class is predicted, fixed on the holdout and never on live data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.core.errors import TidegateError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tidegate.core.config import Threshold


def fix(wanted: Threshold | float, scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    """The threshold for `serve.threshold`.

    Args:
        wanted: a number, which is taken as it is, or the precision or recall to reach.
        scores: probability of the second class for each row of the holdout.
        positive: whether the row is of the second class.

    Raises:
        TidegateError: no threshold reaches it on these rows.
    """
    if isinstance(wanted, int | float):
        return float(wanted)
    import numpy as np

    if not positive.any():
        message = "serve.threshold needs positive rows in the holdout, and there are none."
        raise TidegateError(message, "Enlarge data.split.holdout, or set a number: serve.threshold: 0.5")
    candidates = np.unique(scores)[::-1]
    order = np.sort(scores)[::-1]
    found = np.cumsum(positive[np.argsort(-scores, kind="stable")])
    # Rows at or above each candidate: everything up to its last occurrence in the descending order.
    taken = np.searchsorted(-order, -candidates, side="right")
    hits = found[taken - 1]
    if wanted.precision is not None:
        # Lower thresholds find more, so the lowest one that is precise enough has the highest recall.
        good = np.flatnonzero(hits / taken >= wanted.precision)
        chosen = good[-1] if len(good) else None
    else:
        good = np.flatnonzero(hits / positive.sum() >= (wanted.recall or 0.0))
        chosen = good[0] if len(good) else None
    if chosen is None:
        best = float(np.max(hits / taken))
        message = f"No threshold reaches precision {wanted.precision} on the holdout; the best is {best:.3f}."
        raise TidegateError(message, "Lower serve.threshold.precision, or train a better model.")
    return float(candidates[chosen])
