"""How long truth takes to come: the share of predictions that are labelled within each age.

A prediction without a label may never get one, or may be too young. Counting both as "never" makes every curve of the
last days look too low, so the young are left out of the count from their own age on: the product-limit estimate of
Kaplan and Meier (1958), with the label as the event. The age at a label is when its newest version was received.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from tidegate.serving.telemetry import literal

if TYPE_CHECKING:
    import numpy as np
    from duckdb import DuckDBPyRelation
    from numpy.typing import NDArray

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
AGES: Final = (
    *(minutes * _MINUTE for minutes in (1, 5, 10, 30)),
    *(hours * _HOUR for hours in (1, 3, 6, 12)),
    *(days * _DAY for days in (1, 2, 3, 7, 14, 30)),
)
"""Where the curve is read, in seconds."""
MOST: Final = 0.95
"""Of all the labels that come, so many have come at the suggested age."""
# With fewer predictions of an age, a single label would move the curve by more than 3 %.
_AT_RISK: Final = 30


@dataclass(frozen=True, slots=True)
class Maturity:
    """The curve of one stream.

    Args:
        predictions: how many it is made of.
        labelled: how many of them have a label.
        curve: (age in seconds, share labelled within it), as far as there are predictions of that age.
        final: the share that is labelled in the end, as far as can be seen.
        suggested: seconds after which 95 % of those labels are in; None where that cannot be told.
    """

    predictions: int
    labelled: int
    curve: tuple[tuple[float, float], ...]
    final: float
    suggested: float | None


def maturity(joined: DuckDBPyRelation, now: datetime) -> Maturity:
    """The curve of predictions with their truths.

    Args:
        joined: as `join.joined` gives it.
        now: when labels were last looked for; no label is newer.
    """
    # In whole seconds, rounded up: as many groups as seconds, however many predictions there are.
    waited = f"""case when truth is null then epoch({literal(now)} - "at") else epoch(truth_received - "at") end"""
    groups = joined.aggregate(
        f"greatest(ceil({waited}), 0) as seconds, truth is not null as labelled, count(*) as rows"
    ).fetchnumpy()
    return curve_of(*(groups[name].astype(float) for name in ("seconds", "labelled", "rows")))


def curve_of(seconds: NDArray[Any], labelled: NDArray[Any], rows: NDArray[Any]) -> Maturity:
    """The curve of groups of predictions.

    Args:
        seconds: from the prediction to its label, or how old it is without one.
        labelled: 1 or 0.
        rows: how many predictions the group has.
    """
    import numpy as np

    ages, group = np.unique(seconds, return_inverse=True)
    came = np.bincount(group, rows * labelled, len(ages))
    left = np.bincount(group, rows, len(ages))
    at_risk = left[::-1].cumsum()[::-1]
    seen = at_risk >= _AT_RISK
    ages, share = ages[seen], 1 - np.cumprod(1 - came[seen] / at_risk[seen])
    final = float(share[-1]) if len(share) else 0.0
    return Maturity(
        predictions=int(rows.sum()),
        labelled=int((rows * labelled).sum()),
        curve=tuple((age, _at(ages, share, age)) for age in AGES if len(ages) and age <= ages[-1]),
        final=final,
        suggested=_suggested(ages, share, final),
    )


def _at(ages: NDArray[Any], share: NDArray[Any], age: float) -> float:
    place = int(ages.searchsorted(age, side="right"))
    return float(share[place - 1]) if place else 0.0


def _suggested(ages: NDArray[Any], share: NDArray[np.floating[Any]], final: float) -> float | None:
    """The first age with most of the labels, as a number one writes down: up to the next minute, hour or day."""
    if final <= 0:
        return None
    age = float(ages[(share >= MOST * final).argmax()])
    unit = _DAY if age > 3 * _DAY else _HOUR if age > 3 * _HOUR else _MINUTE
    return max(math.ceil(age / unit), 1) * unit
