"""Reading data files: what is understood, what is refused, and that a second reading gives the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.core.config import Data
from tidegate.core.errors import ConfigError, TidegateError, UsageError
from tidegate.pipelines.dataset import kinds, read_frame, training_table


def csv(tmp_path: Path, content: str | bytes, name: str = "x.csv") -> Path:
    """A file with this content."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_every_kind_of_column_is_told_from_its_text(tmp_path: Path) -> None:
    """Numbers, integers, booleans in words, ISO dates and text, each with missing values."""
    text = (
        "when,day,flag,yes,whole,part,some,word\n"
        "2024-01-01T10:00:00Z,2024-02-01,true,yes,1,1.5,1,red\n"
        "2024-01-01T12:30:00+02:00,NA,FALSE,no,2,-1e3,,n/a\n"
        ",2024-02-03,True,Yes,3,,3,blue\n"
    )
    frame = read_frame(csv(tmp_path, text))
    assert kinds(frame) == {
        "when": "datetime", "day": "datetime", "flag": "boolean", "yes": "boolean", "whole": "integer",
        "part": "number", "some": "number", "word": "string",
    }  # fmt: skip
    assert frame["when"].tolist()[:2] == [pd.Timestamp("2024-01-01 10:00"), pd.Timestamp("2024-01-01 10:30")]
    assert frame["word"].tolist() == ["red", None, "blue"]
    assert frame["yes"].tolist() == [True, False, True]
    assert frame["day"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffa,b\n1,x\n", {"a": [1], "b": ["x"]}),
        ("a;b\n1,5;x\n2,5;y\n", {"a": [1.5, 2.5], "b": ["x", "y"]}),
        ("a;b\n1.5;x,y\n", {"a": [1.5], "b": ["x,y"]}),
        ("a\tb\n1\tx\n", {"a": [1], "b": ["x"]}),
        ('a,b\n1,"two\nlines"\n', {"a": [1], "b": ["two\nlines"]}),
        ('a,b\n1,"say ""no"""\n', {"a": [1], "b": ['say "no"']}),
        ("a\n1\n2\n", {"a": [1, 2]}),
        ("no, 1e3 ,ü\n1,2,3\n", {"no": [1], " 1e3 ": [2], "ü": [3]}),
        ("a\nTRUE\n0\n", {"a": [True, False]}),
        ("a\n2024-02-30\n2024-01-01\n", {"a": ["2024-02-30", "2024-01-01"]}),
        ("a\r\n1\r\n2\r\n", {"a": [1, 2]}),
    ],
)
def test_dialects_of_csv_are_understood(tmp_path: Path, text: str, expected: dict[str, list[object]]) -> None:
    """Byte-order marks, delimiters, decimal commas, quoted newlines, odd names."""
    assert read_frame(csv(tmp_path, text)).to_dict("list") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "blank lines"),
        ("a,b\n", "no rows"),
        ("a,b,a\n1,2,3\n", "more than one column called 'a'"),
        ("a,b\n1,2\n1,2,3\n", "not a regular csv file"),
        ("a,b\n1,2,3\n1,2,3\n", "not a regular csv file"),
        ('a,b\n1,"x\n', "not a regular csv file"),
        ("a,b,c\n1,2,3\n4,5\n6,7,8\n", r"the row that ends in line 3 has 2"),
        ('a,b\n1,"x\ny"\n\n2', r"the row that ends in line 5 has 1"),
        (f"a,b\n1,{'x' * 200_000}\n2\n", r"the row that ends in line 3 has 1"),
        ("a,b\n1,x\n12345678901234567890,y\n", r"column 'a' holds 1 whole numbers above .* \(first in row 2\)"),
        ("a,b\n1,inf\n", "column 'b' holds 1 infinite"),
        (b"a\n\xff\n", "not UTF-8"),
        (b"\xff\xfea\x00\n\x00", "not UTF-8"),
    ],
)
def test_files_that_are_not_data_are_refused_with_the_reason(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    """One clear error, no half-read frame."""
    with pytest.raises(TidegateError, match=message):
        read_frame(csv(tmp_path, content))


def test_empty_cells_and_blank_lines_are_no_short_rows(tmp_path: Path) -> None:
    """A cell may be missing at the end of a row, as long as its delimiter is there."""
    assert len(read_frame(csv(tmp_path, "a,b\n1,\n   \n\n2,3\n,\n"))) == 3
    assert len(read_frame(csv(tmp_path, "a\n1\n\nNA\n"))) == 2


def test_the_largest_numbers_are_read_as_they_are(tmp_path: Path) -> None:
    """Up to what 64 bits with a sign hold, and without one where a file says so."""
    assert read_frame(csv(tmp_path, f"a\n{2**63 - 1}\n1\n"))["a"].tolist() == [2**63 - 1, 1]
    pd.DataFrame({"a": pd.array([7, None], dtype="UInt64"), "b": np.array([1, 2], dtype="uint8")}).to_parquet(
        tmp_path / "x.parquet"
    )
    assert read_frame(tmp_path / "x.parquet")["b"].tolist() == [1, 2]


def test_a_missing_file_and_an_unknown_suffix_are_usage_errors(tmp_path: Path) -> None:
    """Exit code 2: the command line or the config is wrong."""
    with pytest.raises(UsageError, match="is missing"):
        read_frame(tmp_path / "nothing.csv")
    with pytest.raises(UsageError, match="neither csv nor parquet"):
        read_frame(csv(tmp_path, "a\n1\n", "x.xlsx"))
    with pytest.raises(TidegateError, match="not a readable parquet"):
        read_frame(csv(tmp_path, "a\n1\n", "x.parquet"))


def test_parquet_keeps_its_types_in_canonical_form(tmp_path: Path) -> None:
    """Categories, nullable integers, zoned times and dates come out as the kinds a csv would give."""
    frame = pd.DataFrame(
        {
            "c": pd.Categorical(["x", None, "y"]),
            "i": pd.array([1, None, 3], dtype="Int32"),
            "t": pd.to_datetime(["2024-01-01 00:00+01:00", None, "2024-01-02 00:00+01:00"]),
            "d": [pd.Timestamp("2024-01-01").date(), None, None],
            "b": [True, None, False],
            "f": np.array([1, 2, 3], dtype="float32"),
        }
    )
    frame.to_parquet(tmp_path / "x.parquet")
    read = read_frame(tmp_path / "x.parquet")
    assert kinds(read) == {
        "c": "string",
        "i": "number",
        "t": "datetime",
        "d": "datetime",
        "b": "boolean",
        "f": "number",
    }
    assert read["t"][0] == pd.Timestamp("2023-12-31 23:00")


def test_a_column_of_lists_is_named(tmp_path: Path) -> None:
    """What no model takes is refused where it is read."""
    pd.DataFrame({"a": [[1], [2]]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(TidegateError, match="column 'a' holds ndarray values"):
        read_frame(tmp_path / "x.parquet")


words = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00", exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.none() | st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**62), 2**62), words),
        min_size=1,
        max_size=20,
    )
)
def test_numbers_survive_the_file_exactly_and_reading_is_repeatable(
    tmp_path: Path, rows: list[tuple[float | None, int, str]]
) -> None:
    """What pandas writes is read back bit by bit; a second reading is equal."""
    frame = pd.DataFrame(rows, columns=["number", "whole", "text"])
    frame["number"] = frame["number"].astype("float64")
    path = tmp_path / "x.csv"
    frame.to_csv(path, index=False)
    first = read_frame(path)
    pd.testing.assert_frame_equal(first, read_frame(path))
    assert first["whole"].tolist() == frame["whole"].tolist()
    assert first["number"].to_numpy(dtype=float).tobytes() == frame["number"].to_numpy().tobytes()


def data(**values: object) -> Data:
    """A data section."""
    return Data.model_validate({"path": "x.csv", "target": "y", **values})


def frame(**columns: object) -> pd.DataFrame:
    """Four rows with a target."""
    return pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "y": [0, 1, 0, 1], **columns})


def test_the_model_sees_neither_target_nor_dropped_columns() -> None:
    """They stay in the whole frame, for slices and splits."""
    table = training_table(frame(b=[1, 2, 3, 4]), data(drop=["b"]), "classification")
    assert list(table.features) == ["a"]
    assert list(table.frame) == ["a", "y", "b"]


def test_rows_without_a_target_are_counted_and_left_out() -> None:
    """The row labels stay those of the file."""
    table = training_table(frame(y=[0, None, 1, 1]), data(), "classification")
    assert table.unlabelled == 1
    assert table.frame.index.tolist() == [0, 2, 3]
    assert len(table.features) == len(table.target) == 3


def test_a_wrong_name_gets_the_right_one_suggested() -> None:
    """The target and the dropped columns."""
    with pytest.raises(ConfigError, match=r"data\.target .*'Y'") as caught:
        training_table(frame(), data(target="Y"), "classification")
    assert caught.value.hint == "Did you mean 'y'?"
    with pytest.raises(ConfigError, match=r"data\.drop .*'A'") as caught:
        training_table(frame(), data(drop=["A"]), "classification")
    assert caught.value.hint == "Did you mean 'a'?"


@pytest.mark.parametrize(
    ("columns", "values", "task", "message"),
    [
        ({"b": [None] * 4}, {}, "classification", "without a single value: b"),
        ({}, {"drop": ["a"]}, "classification", "No column is left"),
        ({"y": [1, 1, 1, 1]}, {}, "classification", "same value in every row"),
        ({"y": [None] * 4}, {}, "classification", "no value"),
        ({"y": ["a", "b", "a", "b"]}, {}, "regression", "is a string column, and task is regression"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused(
    columns: dict[str, list[object]], values: dict[str, object], task: str, message: str
) -> None:
    """Each with the column's name."""
    with pytest.raises(TidegateError, match=message):
        training_table(frame(**columns), data(**values), task)
