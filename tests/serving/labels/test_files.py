"""A file of labels: CSV, JSON Lines and Parquet give the same rows, and a bad line is one line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tidegate.core.errors import TidegateError, UsageError
from tidegate.serving.labels.files import open_lines
from tidegate.serving.labels.rows import Label, Unusable, checked, read_label

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
ROWS = pd.DataFrame({"id": [1042, 1043], "label": ["up", "down"], "at": pd.to_datetime(["2026-11-25", "2026-11-24"])})


def labels(path: Path, **more: Any) -> list[Label]:
    return [row for _, row in checked(open_lines(path, "labels", **more), read_label, NOW)]  # type: ignore[misc]


def test_every_format_gives_the_same_labels(tmp_path: Path) -> None:
    """Whatever the file is called: what a command printed has no name."""
    files = [tmp_path / name for name in ("comma", "semicolon", "lines", "parquet")]
    ROWS.to_csv(files[0], index=False)
    ROWS.to_csv(files[1], index=False, sep=";", encoding="utf-8-sig")
    ROWS.to_json(files[2], orient="records", lines=True, date_format="iso")
    ROWS.to_parquet(files[3])
    expected = [
        Label("caller", "1042", "up", datetime(2026, 11, 25, tzinfo=UTC)),
        Label("caller", "1043", "down", datetime(2026, 11, 24, tzinfo=UTC)),
    ]
    assert [labels(file) for file in files] == [expected] * 4


def test_bad_lines_of_a_csv_have_their_numbers_and_the_rest_is_read(tmp_path: Path) -> None:
    """As an editor counts them, with the header as line 1."""
    file = tmp_path / "labels.csv"
    file.write_bytes(b'id,label\n1,up\n2\n\n3,"a\nb"\n4,\xff\n5,down\n6,' + b"x" * 200_000 + b"\n7,up\n")
    found = list(checked(open_lines(file, "labels"), read_label, NOW))
    told = [(one.line, one.why) if not isinstance(one, tuple) else (one[0], one[1].key) for one in found]
    assert told == [
        (2, "1"),
        (3, "1 cells for 2 columns"),
        (6, "3"),
        (7, "it is not text in UTF-8"),
        (8, "5"),
        (9, "it is no CSV: field larger than field limit (131072)"),
        (10, "7"),
    ]


def test_bad_json_lines_have_their_numbers_and_the_rest_is_read(tmp_path: Path) -> None:
    """A line that is cut off, one that is no object, one of other bytes."""
    file = tmp_path / "labels.jsonl"
    file.write_bytes(b'{"id": 1, "label": 2}\n{"id": 2,\n\n[3]\n{"id": "\xff"}\n{"order": 5, "label": 1}\n')
    found = list(open_lines(file, "labels", {"order": "id"}))
    assert [line for line, _ in found] == [1, 2, 4, 5, 6]
    assert [isinstance(fields, Unusable) for _, fields in found] == [False, True, True, True, False]
    assert found[-1][1] == {"id": 5, "label": 1}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "labels is empty"),
        (b"id,lable\n1,up\n", 'unknown column "lable", did you mean "label"'),
        (b"PAR1 but cut off", "is no Parquet file"),
    ],
)
def test_a_file_that_is_no_table_of_labels_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    """Before a line of it is kept."""
    file = tmp_path / "labels"
    file.write_bytes(content)
    with pytest.raises(TidegateError, match=why):
        open_lines(file, "labels")
    with pytest.raises(UsageError, match="There is no file"):
        open_lines(tmp_path / "nowhere", "labels")
