"""Splits: disjoint, complete, repeatable, in order, with a gap, without a group on both sides."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.config import Data
from tidegate.core.errors import ConfigError, TidegateError
from tidegate.pipelines.split import split

DAY = 86_400.0


def data(**how: object) -> Data:
    """A data section with this split."""
    return Data.model_validate({"path": "x.csv", "target": "y", "split": how})


def rows(count: int, seed: int = 0) -> pd.DataFrame:
    """Rows with times in any order, groups, and a rare class."""
    rng = np.random.default_rng(seed)
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 100, count), unit="D")
    return pd.DataFrame(
        {
            "t": pd.Series(times).astype("datetime64[ms]"),
            "n": rng.integers(0, 30, count),
            "g": rng.choice(list("abcdefgh"), count),
            "y": (rng.random(count) < 0.1).astype(int),
        }
    )


sizes = st.integers(20, 300)
shares = st.floats(0.05, 0.6)


@settings(deadline=None)
@given(count=sizes, share=shares, seed=st.integers(0, 99))
def test_a_random_split_covers_every_row_once_and_keeps_the_classes(count: int, share: float, seed: int) -> None:
    """Each class is on both sides in its share, to a row."""
    frame = rows(count, seed)
    frame.loc[:3, "y"] = [0, 0, 1, 1]
    made = split(frame, data(by="random", holdout=share), "classification")
    assert np.array_equal(np.sort(np.concatenate([made.train, made.holdout])), np.arange(count))
    for label, size in frame["y"].value_counts().items():
        held = int((frame["y"].to_numpy()[made.holdout] == label).sum())
        assert 1 <= held < size
        assert abs(held - share * size) <= 1
    again = split(frame, data(by="random", holdout=share), "classification")
    assert np.array_equal(made.holdout, again.holdout)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999))
def test_added_and_reordered_rows_leave_the_others_where_they_were(seed: int) -> None:
    """So that a champion is not compared on rows it learnt from; only the edge of the share moves."""
    frame = rows(2_000, seed).assign(n=np.random.default_rng(seed).normal(size=2_000))
    first, more = frame.iloc[:1_000], frame.sample(frac=1, random_state=seed)
    before = split(first, data(by="random", holdout=0.2), "classification")
    after = split(more, data(by="random", holdout=0.2), "classification")
    learnt = set(first.index[before.train])
    held = set(more.index[after.holdout])
    assert len(held & learnt) < 0.15 * len(held)  # drawn anew it would be 0.4: 0.8 of the half that was there


def test_a_corrected_label_leaves_its_row_on_its_side() -> None:
    """The side follows from what is asked, not from the answer."""
    frame = rows(400).assign(n=np.random.default_rng(0).normal(size=400))
    made = split(frame, data(by="random", holdout=0.2), "regression")
    again = split(frame.assign(y=1 - frame["y"]), data(by="random", holdout=0.2), "regression")
    assert np.array_equal(made.holdout, again.holdout)


def test_a_row_number_that_no_model_sees_moves_no_row() -> None:
    """The next export numbers its rows anew, newest first."""
    frame = rows(400).assign(n=np.random.default_rng(0).normal(size=400), id=range(400))
    how = data(by="random", holdout=0.2).model_copy(update={"drop": ("id",)})
    made = split(frame, how, "regression")
    again = split(frame.assign(id=range(400)[::-1]), how, "regression")
    assert np.array_equal(made.holdout, again.holdout)


def test_a_holdout_of_one_class_is_named_as_people_write_it() -> None:
    """No library's spelling of a number."""
    with pytest.raises(TidegateError, match=r"holdout would have one class only \(1\)"):
        split(rows(50).assign(y=[0] * 25 + [1] * 25), data(by="time"), "classification")


@settings(deadline=None)
@given(count=sizes, share=shares, seed=st.integers(0, 99))
def test_no_group_is_on_both_sides(count: int, share: float, seed: int) -> None:
    """And together the sides are everything."""
    frame = rows(count, seed)
    frame.loc[:1, "g"] = ["a", "b"]
    made = split(frame, data(by="group", column="g", holdout=share), "regression")
    groups = frame["g"].to_numpy()
    assert not set(groups[made.train]) & set(groups[made.holdout])
    assert len(made.train) + len(made.holdout) == count
    assert len(made.train) > 0
    assert len(made.holdout) > 0


@settings(deadline=None)
@given(count=sizes, share=shares, seed=st.integers(0, 99), gap=st.integers(0, 5), column=st.sampled_from(["t", "n"]))
def test_a_split_by_time_is_strictly_ordered_with_its_gap(
    count: int, share: float, seed: int, gap: int, column: str
) -> None:
    """Every training row is older than every held-out one by more than the gap; only the gap is left out."""
    frame = rows(count, seed)
    frame.loc[0, ["t"]] = pd.Timestamp("2023-01-01")
    frame.loc[0, "n"] = -1
    frame.loc[1, ["t"]] = pd.Timestamp("2025-01-01")
    frame.loc[1, "n"] = 100
    how: dict[str, object] = {"by": "time", "column": column, "holdout": share}
    if column == "t" and gap:
        how["gap"] = f"{gap}d"
    made = split(frame, data(**how), "regression")
    values = frame[column]
    newest, oldest = values.iloc[made.train].max(), values.iloc[made.holdout].min()
    assert oldest - newest > (pd.Timedelta(days=gap) if column == "t" else 0)
    assert not set(made.train) & set(made.holdout)
    assert len(made.holdout) >= max(round(count * share), 1)
    between = set(range(count)) - set(made.train) - set(made.holdout)
    assert all(values.iloc[sorted(between)] < oldest)
    if "gap" not in how:
        assert not between


def test_without_a_column_the_order_of_the_file_is_the_time() -> None:
    """The last fifth is held out."""
    made = split(rows(100), data(by="time"), "regression")
    assert made.train.tolist() == list(range(80))
    assert made.holdout.tolist() == list(range(80, 100))


def test_a_duration_holds_out_the_newest_days() -> None:
    """7d of hourly rows are 168."""
    frame = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=1000, freq="h").astype("datetime64[ms]"), "y": 1.0})
    made = split(frame, data(by="time", column="t", holdout="7d", gap="1d"), "regression")
    assert made.holdout.tolist() == list(range(832, 1000))
    assert made.train.tolist() == list(range(832 - 24))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"by": "time", "column": "T"}, "names 'T', which is not in the data"),
        ({"by": "time", "column": "g"}, "neither a time nor a number"),
        ({"by": "time", "column": "n", "holdout": "7d"}, "is a duration, but column 'n' holds numbers"),
        ({"by": "time", "column": "n", "gap": "1h"}, "is a duration, but column 'n' holds numbers"),
        ({"by": "group", "column": "missing"}, "not in the data"),
    ],
)
def test_a_split_that_the_data_does_not_allow_is_a_config_error(how: dict[str, object], message: str) -> None:
    """With the key and the column."""
    with pytest.raises(ConfigError, match=message):
        split(rows(50), data(**how), "regression")


@pytest.mark.parametrize(
    ("columns", "how", "task", "message"),
    [
        ({"g": "a"}, {"by": "group", "column": "g"}, "regression", "one group only"),
        ({"t": pd.Timestamp("2024-01-01")}, {"by": "time", "column": "t"}, "regression", "no training rows"),
        ({"y": [0] * 25 + [1] * 25}, {"by": "time"}, "classification", "holdout would have one class only"),
        ({}, {"by": "time", "column": "t", "gap": "200d"}, "regression", "no training rows"),
        ({"g": [None, *"ab" * 24, "a"]}, {"by": "group", "column": "g"}, "regression", "no value in 1 rows"),
    ],
)
def test_a_split_with_nothing_on_one_side_is_refused(
    columns: dict[str, object], how: dict[str, object], task: str, message: str
) -> None:
    """No model is trained or judged on nothing."""
    with pytest.raises(TidegateError, match=message):
        split(rows(50).assign(**columns), data(**how), task)
