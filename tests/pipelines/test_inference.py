"""What a data file says of itself, and how little difference so many rows can show."""

from __future__ import annotations

import pandas as pd
import pytest

from tidegate.core.config import Gate
from tidegate.pipelines.inference import TOLERANCE, Task, infer, tolerance


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_smaller_table_is_given_more_tolerance(task: Task) -> None:
    """With fewer rows held out, a difference must be larger to be one; with many, the default stands."""
    found = [tolerance(pd.Series([0, 1] * (rows // 2)), task) for rows in (60, 600, 6_000, 60_000)]
    assert found == sorted(found, reverse=True)
    assert found[1] == pytest.approx(0.019)
    assert found[0] > found[1] > found[2] > TOLERANCE == found[3]


def test_rare_positives_count_as_the_few_that_they_are() -> None:
    """3,000 rows with 1 % positives say as little as 60 balanced ones."""
    rare = pd.Series([1] * 30 + [0] * 2_970)
    assert tolerance(rare, "classification") == tolerance(pd.Series([0, 1] * 30), "classification")


def test_rows_without_a_label_hold_nothing_out() -> None:
    """They are left out of training and holdout alike."""
    labelled = pd.Series([0.5, 1.5] * 100)
    assert tolerance(pd.concat([labelled, pd.Series([None] * 900, dtype=float)]), "regression") == tolerance(
        labelled, "regression"
    )


def test_the_default_of_the_config_is_what_a_large_table_gets() -> None:
    """One number, said once for the config and once for init: they may not drift apart."""
    assert Gate().tolerance == TOLERANCE


def test_a_raised_tolerance_is_said_aloud() -> None:
    """It decides what is refused, so nobody should have to find it in the file."""
    small = pd.DataFrame({"x": range(100), "y": [0, 1] * 50})
    assert any("gate.tolerance is 0.045" in note for note in infer(small, "y", None).notes)
    large = pd.DataFrame({"x": range(20_000), "y": [0, 1] * 10_000})
    assert not any("gate.tolerance" in note for note in infer(large, "y", None).notes)
