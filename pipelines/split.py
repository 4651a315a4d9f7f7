"""Which rows train and which are held out: by random, by time, by group; disjoint, repeatable, without a leak.

The split is a pure function of the rows and the configuration, so `train` and `evaluate`, a champion and its
challenger, a laptop and a pod hold out the same rows of the same data. Where no time says which rows are newest, what
a row says decides its side, not where it stands: when rows are added, those that a champion learnt from stay out of
the holdout that it is compared on, but for the few at the edge of the share (the gate leaves those out, learnt.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import ConfigError, TidegateError
from tidegate.pipelines.row_keys import row_keys, value_keys

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from tidegate.core.config import Data
    from tidegate.pipelines.row_keys import Keys

    Rows = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Positions of rows (0-based, `iloc`), ascending on each side; a gap belongs to neither."""

    train: Rows
    holdout: Rows


def split(frame: pd.DataFrame, data: Data, task: str) -> Split:
    """Divide the rows of `frame` as `data.split` says.

    `by: random` keeps the shares of the classes of a classification. `by: time` holds out the newest rows and never
    parts rows of the same time; without a column the file's order is the time. `by: group` never parts a group.

    Raises:
        ConfigError: the split needs a column that is missing or of the wrong kind, or a gap where there is no time.
        TidegateError: one side would be empty, or the holdout of a classification would have one class only.
    """
    how = data.split
    if how.by != "time" and how.gap is not None:
        raise ConfigError(f"data.split.gap needs `by: time`, and it is `by: {how.by}`", "Remove the gap.")
    if how.by == "time":
        train, held = _by_time(frame, how.column, how.holdout, how.gap)
    elif how.by == "group":
        train, held = _by_group(frame, how.column, _share(how.holdout, how.by))
    else:
        labels = frame[data.target] if task == "classification" else None
        # Not by the target: a label that is corrected later leaves its row where it was. Nor by what no model sees: a
        # row number is another one in the next export.
        unseen = {data.target, *data.drop}
        keys = row_keys(frame, [str(name) for name in frame.columns if name not in unseen])
        train, held = _by_random(keys, labels, _share(how.holdout, how.by))
    return _checked(train, held, frame[data.target] if task == "classification" else None)


def _checked(train: Mask, held: Mask, labels: pd.Series[Any] | None) -> Split:
    import numpy as np

    for side, rows in (("training rows", train), ("holdout", held)):
        if not rows.any():
            raise TidegateError(
                f"data.split leaves no {side} of {len(rows):,} rows", "Change data.split.holdout or data.split.gap."
            )
        if labels is not None and labels[rows].nunique() < 2:  # noqa: PLR2004 - nothing to tell apart
            raise TidegateError(
                f"The {side} would have one class only ({labels[rows].unique().tolist()[0]!r})",
                "Hold out more rows (data.split.holdout), or use `by: random`, which keeps the shares of the classes.",
            )
    return Split(np.flatnonzero(train).astype(np.int64), np.flatnonzero(held).astype(np.int64))


def _share(holdout: float, by: str) -> float:
    if not 0 < holdout < 1:
        raise ConfigError(f"data.split.holdout is a duration, and `by: {by}` has no time", "Write a share such as 0.2.")
    return holdout


def _by_random(keys: Keys, labels: pd.Series[Any] | None, share: float) -> tuple[Mask, Mask]:
    """Of each class the rows with the smallest keys."""
    import numpy as np
    import pandas as pd

    order = np.argsort(keys, kind="stable")
    codes = pd.factorize(labels, sort=True)[0] if labels is not None else np.zeros(len(keys), dtype=np.int64)
    held = np.zeros(len(keys), dtype=np.bool_)
    for code in np.unique(codes):
        rows = order[codes[order] == code]
        # A class of two or more rows is on both sides; a class of one row is learnt from.
        wanted = min(max(round(len(rows) * share), 1), len(rows) - 1)
        held[rows[:wanted]] = True
    return ~held, held


def _by_group(frame: pd.DataFrame, column: str | None, share: float) -> tuple[Mask, Mask]:
    """The groups with the smallest keys."""
    import numpy as np
    import pandas as pd

    groups = _column(frame, column, "group")
    codes, names = pd.factorize(groups, sort=True)
    if len(names) < 2:  # noqa: PLR2004 - one group cannot be on two sides
        raise TidegateError(f"Column {column!r} has one group only", "Use `by: random` or another column.")
    sizes = np.bincount(codes)
    order = np.argsort(value_keys(pd.Series(names)), kind="stable")
    # The shortest run of groups that reaches the share, and never all of them.
    reached = int(np.searchsorted(np.cumsum(sizes[order]), share * len(frame))) + 1
    held = np.isin(codes, order[: min(reached, len(names) - 1)])
    return ~held, held


def _by_time(frame: pd.DataFrame, column: str | None, holdout: float, gap: float | None) -> tuple[Mask, Mask]:
    """Held out: every row at or after the cut. Training: every row more than the gap (seconds) before it."""
    import numpy as np

    if column is None:
        if gap is not None:
            raise ConfigError("data.split.gap needs a time column", "Write `column: NAME` next to it.")
        place = np.arange(len(frame))
        first = len(frame) - max(round(len(frame) * _share(holdout, "time, in file order,")), 1)
        return place < first, place >= first
    times = _clock(frame, column)
    if holdout < 1:
        cut = np.sort(times)[len(times) - max(round(len(times) * holdout), 1)]
    else:
        _need_clock(frame, column, "data.split.holdout")
        cut = times[times > times.max() - holdout].min()
    held = times >= cut
    if gap:
        _need_clock(frame, column, "data.split.gap")
    return times < cut - (gap or 0.0), held


def _clock(frame: pd.DataFrame, column: str) -> npt.NDArray[np.float64]:
    """The column as seconds (datetime) or as it is (numbers)."""
    import numpy as np

    values = _column(frame, column, "time")
    if values.dtype.kind == "M":
        return values.to_numpy().astype("datetime64[ms]").astype(np.int64) / 1000.0
    if values.dtype.kind in "if":
        return values.to_numpy(dtype=np.float64)
    raise ConfigError(
        f"data.split.column {column!r} is neither a time nor a number",
        "Times are read as YYYY-MM-DD or YYYY-MM-DD HH:MM:SS; or leave the column out if the file is in time order.",
    )


def _need_clock(frame: pd.DataFrame, column: str, key: str) -> None:
    if frame[column].dtype.kind != "M":
        raise ConfigError(f"{key} is a duration, but column {column!r} holds numbers", "Name a column of times.")


def _column(frame: pd.DataFrame, column: str | None, by: str) -> pd.Series[Any]:
    from tidegate.pipelines.dataset import did_you_mean

    if column is None:
        raise ConfigError(f"data.split has `by: {by}` without a column", "Write `column: NAME` next to it.")
    if column not in frame.columns:
        raise ConfigError(
            f"data.split.column names {column!r}, which is not in the data",
            did_you_mean(column, [str(name) for name in frame.columns]),
        )
    if missing := int(frame[column].isna().sum()):
        raise TidegateError(
            f"data.split.column {column!r} has no value in {missing:,} rows",
            f"A split by {by} must know the side of every row: fill them or remove the rows.",
        )
    return frame[column]
