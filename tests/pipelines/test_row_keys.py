"""Keys of rows: from what they say, whatever stands around them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.pipelines.dataset import kinds, read_frame
from tidegate.pipelines.row_keys import TOGETHER, row_keys


def table(count: int, seed: int = 0) -> pd.DataFrame:
    """Different rows of every kind, with missing values."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "number": rng.normal(size=count),
            "whole": rng.integers(0, 9, count),
            "text": rng.choice(["a", "b", "é"], count),
            "when": pd.Series(pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 99, count), unit="D")),
            "yes": rng.random(count) < 0.5,
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.1)


def keys(frame: pd.DataFrame) -> np.ndarray:
    """Of all columns."""
    return row_keys(frame, list(frame.columns))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999))
def test_a_row_keeps_its_key_wherever_it_stands(seed: int) -> None:
    """Among more rows, in another order, with its columns in another order."""
    frame = table(60, seed)
    known = keys(frame)
    order = np.random.default_rng(seed).permutation(60)
    assert np.array_equal(keys(frame.iloc[order][frame.columns[::-1]]), known[order])
    assert np.array_equal(keys(pd.concat([frame, table(40, seed + 1)]))[:60], known)


def test_a_column_that_becomes_floats_because_a_value_is_missing_moves_no_row() -> None:
    """Nor one whose zeros have a sign."""
    whole = pd.DataFrame({"n": [0, 1, 2, 3]})
    floats = pd.DataFrame({"n": [-0.0, 1.0, 2.0, 3.0, np.nan]})
    assert np.array_equal(keys(floats)[:4], keys(whole))


@pytest.mark.parametrize(
    ("cells", "odd"),
    [
        (["true", "FALSE", " True"], "maybe"),
        (["yes", "No", ""], "maybe"),
        (["t", "F", "1", "0"], "maybe"),
        (["2024-01-31", "1969-12-31T23:59:59.9999Z", "2024-01-01 12:30:00+02:00", ""], "31.1.2024"),
        (["2024-01-31", "2024-02-01"], "9999-12-31"),  # later than pandas counts
        (["1", "2.50", "-1e-3", "", "12345678901234567"], "?3"),
    ],
)
def test_one_cell_that_fits_no_kind_moves_no_other_row(tmp_path: Path, cells: list[str], odd: str) -> None:
    """The column becomes text, and what its other cells say is what it was."""

    def read(texts: list[str]) -> np.ndarray:
        file = tmp_path / "x.csv"
        file.write_text("c;n\n" + "".join(f"{text};7\n" for text in texts))
        frame = read_frame(file)
        return np.array([*keys(frame), kinds(frame)["c"]], dtype=object)

    before, after = read(cells), read([*cells, odd])
    assert before[-1] != "string"
    assert after[-1] == "string"
    assert after[: len(cells)].tolist() == before[:-1].tolist()


def test_a_decimal_comma_is_a_number_in_text_too(tmp_path: Path) -> None:
    """As in the exports of half of Europe."""
    plain, odd = tmp_path / "plain.csv", tmp_path / "odd.csv"
    plain.write_text("c;n\n1,5;a\n2,25;b\n")
    odd.write_text("c;n\n1,5;a\n2,25;b\nnone;c\n")
    assert keys(read_frame(odd))[:2].tolist() == keys(read_frame(plain)).tolist()


def test_a_table_that_another_program_read_and_wrote_keeps_its_keys() -> None:
    """The csv reader of pandas is off in the last digit of every third number."""
    frame = table(300)
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    assert (again["number"] != frame["number"]).sum() > 30 + frame["number"].isna().sum()
    assert np.mean(keys(again[["number"]]) == keys(frame[["number"]])) > 0.99


def test_a_missing_value_is_no_zero_and_no_empty_text() -> None:
    """Otherwise different rows would count as copies."""
    assert len(set(keys(pd.DataFrame({"n": [0.0, np.nan]})))) == 2
    assert len(set(keys(pd.DataFrame({"t": ["", None]})))) == 2


def test_copies_share_a_key_until_there_are_many() -> None:
    """Few copies are accidents, thousands are a table of few different rows."""
    copies = keys(pd.DataFrame({"n": [7] * (3 * TOGETHER)}))
    assert [len(set(copies[k : k + TOGETHER])) for k in (0, TOGETHER, 2 * TOGETHER)] == [1, 1, 1]
    assert len(set(copies)) == 3


def test_keys_are_spread_evenly_and_never_change() -> None:
    """A changed hash would move every holdout: this number is fixed."""
    many = keys(pd.DataFrame({"n": np.arange(20_000)}))
    shares = np.bincount((many >> np.uint64(61)).astype(int)) / len(many)
    assert np.abs(shares - 1 / 8).max() < 0.01
    fixed = row_keys(pd.DataFrame({"a": [1.5], "b": ["x"]}), ["a", "b"])
    assert [int(key) for key in fixed] == [4_498_802_819_454_908_773]
