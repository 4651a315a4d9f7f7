"""What a line may say: many ways to write the same, and a reason for everything else."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tidegate.core.errors import TidegateError
from tidegate.serving.labels.rows import Unusable, moment, read_label, read_outcome, require_columns

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
NINE = datetime(2026, 11, 25, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-25T09:00:00Z",
        "2026-11-25 09:00",
        "2026-11-25T10:00:00+01:00",
        " 2026-11-25T09:00:00 ",
        1795597200,
        1795597200.0,
        "1795597200",
        "1795597200.0",
        NINE,
        NINE.replace(tzinfo=None),
        NINE.astimezone(timezone(timedelta(hours=5))),
    ],
)
def test_one_moment_is_written_in_many_ways(written: Any) -> None:
    """Without a zone a time is in UTC, since a server's own zone is nobody's agreement."""
    assert moment(written, NOW) == NINE


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("2026-11-25T12:06:00", "lies in the future"),
        (1795597200000, "lies in the future; seconds are needed, these look like milliseconds"),
        (1e300, "look like milliseconds"),
        ("1989-12-31", "lies before 1990"),
        (20261125, "lies before 1990"),
        (-1, "lies before 1990"),
        ("yesterday", "is no time: write 2026-11-25T09:30:00Z, or seconds since 1970"),
        (True, "is no time"),
        (math.nan, "is no time"),
        ([1], "is no time"),
    ],
)
def test_a_time_that_cannot_be_is_refused(written: Any, why: str) -> None:
    """Five minutes are what two clocks may differ by."""
    assert moment("2026-11-25T12:04:00", NOW) > NOW
    with pytest.raises(Unusable, match=why):
        moment(written, NOW)


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"prediction_id": "a", "label": 1.0}, ("prediction", "a", "1", None)),
        ({"id": 1042.0, "label": True, "at": None}, ("caller", "1042", "true", None)),
        ({"id": " 007 ", "label": " red ", "at": ""}, ("caller", "007", "red", None)),
        ({"prediction_id": "a", "id": "", "label": "0.50", "at": NINE}, ("prediction", "a", "0.50", NINE)),
    ],
)
def test_a_label_is_read_however_a_table_wrote_it(fields: dict[str, Any], row: tuple[Any, ...]) -> None:
    """Empty cells are nothing, and ids keep their zeros."""
    found = read_label(fields, NOW)
    assert (found.by, found.key, found.label, found.at) == row


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"label": 1}, "it names no prediction: give one of prediction_id, id"),
        ({"id": "a", "prediction_id": "b", "label": 1}, "it is named twice, by prediction_id and id: give one of them"),
        ({"id": "a"}, "the label is missing"),
        ({"id": "a", "label": math.nan}, "the label is missing"),
        ({"id": "a", "label": math.inf}, "the label is infinite"),
        ({"id": "a", "label": [1]}, r"\[1\] is no label: give a class or a number"),
        ({"id": True, "label": 1}, "True is no id"),
        ({"id": 1.5, "label": 1}, "1.5 is no id"),
        ({"id": {"a": 1}, "label": 1}, "is no id"),
        ({"id": "a" * 501, "label": 1}, "it is longer than 500 characters"),
        ({"id": "\udcff", "label": 1}, "it is not text in UTF-8"),
        ({"id": "a", "labl": 1}, 'unknown field "labl", did you mean "label"?'),
    ],
)
def test_a_line_that_is_no_label_says_why(fields: dict[str, Any], why: str) -> None:
    """In words that name the field."""
    with pytest.raises(Unusable, match=why):
        read_label(fields, NOW)


def test_an_outcome_counts_one_unless_it_says_otherwise() -> None:
    """A conversion needs no value; revenue has one, and a refund is negative."""
    one = read_outcome({"unit": "ada", "name": " conversion ", "at": NINE}, NOW)
    assert (one.by, one.key, one.name, one.value) == ("unit", "ada", "conversion", 1.0)
    assert read_outcome({"unit": "ada", "name": "revenue", "value": "-7.5", "at": NINE}, NOW).value == -7.5


@pytest.mark.parametrize("value", ["much", math.inf, 10**400, [1]])
def test_an_outcome_whose_value_is_no_number_is_refused(value: Any) -> None:
    """One infinite amount would be the sum of all."""
    with pytest.raises(Unusable, match="is no number"):
        read_outcome({"unit": "ada", "name": "revenue", "value": value, "at": NINE}, NOW)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["prediction_id", "lable"], 'unknown column "lable", did you mean "label"?'),
        (["prediction_id", "at"], 'no column "label"'),
        (["label", "at"], "no column says which prediction"),
        (["id", "order_id", "label"], 'the column "id" is there twice'),
    ],
)
def test_a_table_with_other_columns_is_refused_as_a_whole(names: list[str], why: str) -> None:
    """A column that is not understood may be the one that was meant."""
    with pytest.raises(TidegateError, match=why):
        require_columns(names, "labels", {"order_id": "id"}, "labels.csv")
    require_columns(["order_id", "label"], "labels", {"order_id": "id"}, "labels.csv")
