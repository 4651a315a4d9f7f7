"""The paired Poisson bootstrap: how much worse a challenger could be, given that the holdout is a sample.

Every row gets a Poisson(1) weight, the limit of drawing rows with replacement (Chamandy et al. 2012, "Estimating
uncertainty for massive data streams", section 3), and both models are measured under the same weights. Weights of many
resamples are one matrix, so a metric is computed for all of them at once (core/metrics.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tidegate.core import metrics

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from tidegate.core.metrics import Scored
    from tidegate.pipelines.own_metrics import Measure

RESAMPLES = 2_000
SEED = 20_250_302  # any fixed number; the same holdout and models give the same bound
# Of each bound by itself: "at least this much, with 95 % confidence".
CONFIDENCE = 0.95
# Cells of a weight matrix: it and two or three like it stay in a processor's cache.
_CELLS = 1_000_000
# The user's own metric is called for each resample; what is done within the time counts, and fewer are no bound.
_OWN_SECONDS = 10.0
_OWN_LEAST = 200


class Advantage(NamedTuple):
    """How much better a challenger is (negative: worse) in a metric's good direction; NaN where it is not defined.

    `low` and `high` are one-sided bounds (95 % unless asked otherwise), each by itself: the gate asks only how bad it
    could be.
    """

    estimate: float
    low: float
    high: float


def advantage(
    measure: Measure, challenger: Scored, champion: Scored, frame: pd.DataFrame, confidence: float = CONFIDENCE
) -> Advantage:
    """How much better the challenger is than the champion on the same rows.

    Args:
        measure: the metric.
        challenger: its answers.
        champion: its answers on the same rows in the same order.
        frame: those rows' raw columns, for the user's own metric.
        confidence: of the bound, one-sided.

    Returns:
        The difference on the rows, and its lower and upper quantiles over resamples.
    """
    import numpy as np

    sign = 1.0 if measure.direction == "higher" else -1.0
    estimate = sign * (measure.of(challenger, frame) - measure.of(champion, frame))
    if not math.isfinite(estimate):
        return Advantage(math.nan, math.nan, math.nan)
    if measure.function is None:
        differences = sign * _differences(measure.name, challenger, champion)
    else:
        differences = sign * _own(measure, challenger, champion, frame)
    usable = differences[np.isfinite(differences)]
    # A metric that many resamples cannot compute rests on a handful of rows; such a bound says nothing.
    if len(usable) < CONFIDENCE * len(differences) or len(usable) < _OWN_LEAST:
        return Advantage(estimate, math.nan, math.nan)
    low, high = np.quantile(usable, [1 - confidence, confidence])
    return Advantage(estimate, float(low), float(high))


def _differences(name: str, challenger: Scored, champion: Scored) -> NDArray[np.floating]:
    import numpy as np

    count = len(challenger.truth)
    mine, other = metrics.statistic(name, challenger), metrics.statistic(name, champion)
    width = max(1, min(RESAMPLES, _CELLS // count))
    draw = _poisson(count)
    parts = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, RESAMPLES, width):
            weights = draw(min(width, RESAMPLES - start))
            parts.append(mine(weights) - other(weights))
    return np.concatenate(parts).astype(float)


def _own(measure: Measure, challenger: Scored, champion: Scored, frame: pd.DataFrame) -> NDArray[np.floating]:
    import numpy as np

    draw = _poisson(len(challenger.truth))
    positions = np.arange(len(challenger.truth))
    found: list[float] = []
    end = time.monotonic() + _OWN_SECONDS
    while len(found) < RESAMPLES and (len(found) < _OWN_LEAST or time.monotonic() < end):
        index = np.repeat(positions, draw(1)[:, 0].astype(int))
        rows = frame.iloc[index]
        found.append(measure.of(challenger.rows(index), rows) - measure.of(champion.rows(index), rows))
    return np.array(found)


def _poisson(count: int) -> Callable[[int], NDArray[np.floating]]:
    """Draws (count, width) matrices of Poisson(1) weights by looking 16 random bits up in a table."""
    import numpy as np

    chances = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(9)])
    table = np.searchsorted(chances, (np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.float32)
    generator = np.random.default_rng(SEED)
    return lambda width: table[generator.integers(0, 1 << 16, (count, width), dtype=np.uint16)]
