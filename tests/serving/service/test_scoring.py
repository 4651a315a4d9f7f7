"""Batch scoring answers as the server does, names bad rows, and never leaves half a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tidegate.core.errors import TidegateError, UsageError
from tidegate.serving.scoring import score


def write(path: Path, served: Any, frame: pd.DataFrame) -> Path:
    """The frame as a file of the kind that the suffix names."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in served.rows))
    return path


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path)
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)


@pytest.mark.parametrize("source", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("target", [".csv", ".parquet", ".jsonl"])
def test_every_kind_of_file_gets_the_served_predictions(
    served: Any, odd: Any, tmp_path: Path, source: str, target: str
) -> None:
    """Text, booleans, missing values and odd names in all of them; other columns pass through."""
    given = write(tmp_path / f"in{source}", served, odd.frame)
    done = score(odd.bento.bundle, given, tmp_path / f"out{target}")
    assert (done.rows, done.bad) == (600, 0)
    found = read(tmp_path / f"out{target}")
    wanted = served.predict(*served.rows).json
    assert found["prediction"].tolist() == wanted["predictions"]
    assert np.allclose(found["probability_True"], np.array(wanted["probabilities"])[:, 1], atol=1e-6)
    assert np.allclose(found["class"].astype(float), odd.frame["class"])
    if source != ".jsonl":
        assert found["town"].astype(str).tolist() == odd.frame["town"].astype(str).tolist()


def test_bad_rows_are_named_by_number_and_nothing_is_written(odd: Any, tmp_path: Path) -> None:
    """Unless they may be skipped: then they have no prediction, and the others have theirs."""
    frame = odd.frame.head(10).astype({"class": object, "2nd": object})
    frame.loc[3, "class"] = "many"
    frame.loc[7, "2nd"] = None
    frame.to_csv(tmp_path / "in.csv", index=False)
    out = tmp_path / "out.csv"
    with pytest.raises(TidegateError) as caught:
        score(odd.bento.bundle, tmp_path / "in.csv", out)
    assert "2 of 10 rows" in caught.value.message
    assert "row 4.class: expected a number, got a string" in caught.value.hint
    assert 'row 8["2nd"]: expected true or false, got null' in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]
    done = score(odd.bento.bundle, tmp_path / "in.csv", out, skip_bad=True)
    assert (done.rows, done.bad) == (10, 2)
    assert pd.read_csv(out)["prediction"].isna().tolist() == [i in {3, 7} for i in range(10)]


def test_files_that_do_not_fit_are_refused(odd: Any, tmp_path: Path) -> None:
    """Missing column, ragged line, a name that is taken, no file, no such kind, an empty file."""
    bundle, path, out = odd.bento.bundle, tmp_path / "in.csv", tmp_path / "out.csv"
    odd.frame.drop(columns="città").to_csv(path, index=False)
    with pytest.raises(TidegateError, match="no column 'città'"):
        score(bundle, path, out)
    odd.frame.assign(prediction=1).to_csv(path, index=False)
    with pytest.raises(UsageError, match="'prediction' already"):
        score(bundle, path, out)
    path.write_text(",".join(column.name for column in odd.columns) + "\n1,2\n")
    with pytest.raises(TidegateError, match="line 2: 2 cells for 6 columns"):
        score(bundle, path, out)
    path.write_text("")
    with pytest.raises(TidegateError, match="empty"):
        score(bundle, path, out)
    for wrong in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UsageError):
            score(bundle, wrong, out)
    odd.frame.to_csv(path, index=False)
    with pytest.raises(UsageError, match=r"\.xlsx"):
        score(bundle, path, tmp_path / "out.xlsx")
    with pytest.raises(UsageError, match="does not exist"):
        score(bundle, path, tmp_path / "nowhere" / "out.csv")
    assert not out.exists()
