"""What a model decides by: how much worse it gets when one column says nothing (Breiman 2001, permutation importance).

The packaged model is asked, hooks included, so a column counts for all that is made of it. Two columns that say the
same share what is lost, and each seems to matter less than both do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Columns = Mapping[str, npt.NDArray[Any]]
Quality = Callable[[Columns, npt.NDArray[np.int64]], float]

ROWS: Final = 5_000
"""Rows that are shuffled; more change the picture little."""
_LEAST: Final = 500
_SECONDS: Final = 1.5
_SEED: Final = 11


def permutation_importance(columns: Columns, quality: Quality) -> dict[str, float]:
    """What the metric loses for each column, in its own unit; never below 0.

    Args:
        columns: the raw request columns of the holdout, one array each, of the same length.
        quality: the metric of these columns in these rows of the holdout, larger is better.
    """
    rows = len(next(iter(columns.values()), ()))
    random = np.random.default_rng(_SEED)
    chosen = np.sort(random.choice(rows, min(rows, ROWS), replace=False))
    started = time.perf_counter()
    whole = quality(_rows(columns, chosen), chosen)
    took = (time.perf_counter() - started) * len(columns)
    if took > _SECONDS and len(chosen) > _LEAST:
        # A slow model is asked about fewer rows: nobody waits a minute for this at the end of a ship.
        chosen = chosen[: max(_LEAST, int(len(chosen) * _SECONDS / took))]
        whole = quality(_rows(columns, chosen), chosen)
    some = _rows(columns, chosen)
    lost = {}
    for name, values in some.items():
        shuffled = {**some, name: values[random.permutation(len(values))]}
        lost[name] = max(0.0, whole - quality(shuffled, chosen))
    return {name: value if np.isfinite(value) else 0.0 for name, value in lost.items()}


def _rows(columns: Columns, chosen: npt.NDArray[np.int64]) -> Columns:
    return {name: values[chosen] for name, values in columns.items()}
