"""The rows a champion learnt from: known again in other data, under other columns, by any kind of split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tidegate.core.config import Data
from tidegate.core.errors import TidegateError
from tidegate.pipelines.learnt import LEARNT_FILE, Learnt, learnt
from tidegate.pipelines.split import Split, split


def table(count: int = 1_000) -> pd.DataFrame:
    """Different rows with a number of their own, a time and a group."""
    rng = np.random.default_rng(0)
    days = pd.to_timedelta(rng.integers(0, 300, count), unit="D")
    return pd.DataFrame(
        {
            "id": range(count),
            "x": rng.normal(size=count),
            "t": pd.Series(pd.Timestamp("2024-01-01") + days).astype("datetime64[ms]"),
            "g": rng.choice([f"g{k}" for k in range(50)], count),
            "y": rng.integers(0, 2, count),
        }
    )


def trained(frame: pd.DataFrame, **how: Any) -> tuple[Split, Learnt]:
    """A split, and what a model that sees x and t learns from by it."""
    data = Data.model_validate({"path": "x.csv", "target": "y", "drop": ["id", "g"], "split": how})
    made = split(frame, data, "regression")
    return made, learnt(frame, frame[["x", "t"]], made.train, data.split)


SPLITS = [{"by": "random"}, {"by": "time", "column": "t"}, {"by": "time"}, {"by": "group", "column": "g"}]


@pytest.mark.parametrize("how", SPLITS)
def test_training_rows_are_known_again_and_no_others(how: dict[str, Any]) -> None:
    """Among new rows, in another order, with new row numbers, a corrected target and a column more."""
    old = table()
    made, known = trained(old, **how)
    assert np.flatnonzero(known.among(old)).tolist() == made.train.tolist()
    new = old.assign(id=range(1_000, 0, -1), y=1, more=1.0)
    fresh = old.head(100).assign(x=np.arange(100.0), g="new")
    grown = pd.concat([fresh, new]).sample(frac=1, random_state=0)
    was = grown.index.to_series().isin(made.train).to_numpy() & (grown["g"] != "new").to_numpy()
    assert known.among(grown).tolist() == was.tolist()


def test_another_row_of_a_group_that_was_learnt_from_counts_as_learnt_from() -> None:
    """That is what a split by group is for."""
    made, known = trained(table(), by="group", column="g")
    (group,) = {table()["g"][made.train[0]]}
    fresh = pd.DataFrame({"x": [123.0, 123.0], "g": [group, "new"]})
    assert known.among(fresh).tolist() == [True, False]


def test_the_file_gives_back_what_was_written_and_is_the_same_every_time(tmp_path: Path) -> None:
    """DVC hashes it: the same training must not look like another."""
    _, known = trained(table(), by="random")
    contents = []
    for _ in range(2):
        known.write(tmp_path)
        contents.append((tmp_path / LEARNT_FILE).read_bytes())
    assert contents[0] == contents[1]
    read = Learnt.parse(contents[0])
    assert (read.columns, read.groups, read.keys.tolist()) == (("t", "x"), False, known.keys.tolist())
    assert len(contents[0]) < 10 * 800 + 2_000


def test_what_cannot_be_known_says_why(tmp_path: Path) -> None:
    """A damaged file, keys of another version, a column that is gone."""
    _, known = trained(table(), by="random")
    with pytest.raises(TidegateError, match="'t', among others, and it is gone"):
        known.among(table().drop(columns="t"))
    for content in (b"", b"PK nothing", known.keys.tobytes()):
        with pytest.raises(TidegateError, match="damaged"):
            Learnt.parse(content)
    np.savez(tmp_path / "x.npz", version=0, columns=["x"], keys=known.keys, groups=False)
    with pytest.raises(TidegateError, match="another version"):
        Learnt.parse((tmp_path / "x.npz").read_bytes())
