"""Rows are checked against the columns, and every bad field is named."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.serving.service.manifest import Column
from tidegate.serving.service.schema import BadRequest, Schema

COLUMNS = [
    Column("price", "number"),
    Column("class", "integer", nullable=True),
    Column("città di", "string", nullable=True),
    Column("2nd", "boolean"),
    Column("at", "datetime", nullable=True),
]
GOOD = {"price": 1.5, "class": 3, "città di": "Roma", "2nd": True, "at": "2026-01-31T12:00:00+02:00"}


def problems(schema: Schema, body: bytes) -> tuple[int, dict[str, str]]:
    """Status and messages by path."""
    with pytest.raises(BadRequest) as caught:
        schema.decode(body)
    return caught.value.status, {problem.path: problem.message for problem in caught.value.problems}


def encoded(*rows: Any) -> bytes:
    return json.dumps({"rows": rows}).encode()


def test_a_row_becomes_a_tuple_in_column_order() -> None:
    """Whatever the order of its fields, with times in UTC and without an offset."""
    rows = Schema(COLUMNS).decode(encoded(dict(reversed(GOOD.items()))))
    assert rows == [(1.5, 3, "Roma", True, datetime(2026, 1, 31, 10))]  # noqa: DTZ001 # UTC without saying so


def test_nullable_fields_may_be_null_or_absent() -> None:
    """Both mean missing."""
    schema = Schema(COLUMNS)
    absent = {"price": 1, "2nd": False}
    assert schema.decode(encoded(absent)) == [(1.0, None, None, False, None)]
    assert schema.decode(encoded({**absent, "class": None, "at": None})) == [(1.0, None, None, False, None)]


def test_what_means_the_same_is_accepted() -> None:
    """3.0 for an integer and a plain date for a time, which the fast path refuses, are right."""
    ((_, whole, _, _, moment),) = Schema(COLUMNS).decode(encoded({**GOOD, "class": 3.0, "at": "2026-01-31"}))
    assert whole == 3
    assert isinstance(whole, int)
    assert moment == datetime(2026, 1, 31)  # noqa: DTZ001 # as it stands


def test_every_bad_field_of_every_row_is_named() -> None:
    """Not only the first one, with the path to each."""
    bad = {"price": "1", "class": 1.5, "città di": 4, "at": "yesterday", "clas": 1}
    status, found = problems(Schema(COLUMNS), encoded(GOOD, bad))
    assert status == 422
    assert found == {
        "rows[1].price": "expected a number, got a string",
        "rows[1].class": "expected an integer, got a fraction",
        'rows[1]["città di"]': "expected a string, got an integer",
        'rows[1]["2nd"]': "required",
        "rows[1].at": "expected a date or time like 2026-01-31 or 2026-01-31T12:00:00Z",
        "rows[1].clas": "unknown field; did you mean class?",
    }


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"rows":[{"price":NaN}]}', 400),
        (b'{"rows":[{"price":Infinity}]}', 400),
        (b'{"rows":[{"price":"\\ud800"}]}', 400),
        (b"[" * 100_000, 400),
        (b'{"rows":' + b"[" * 100_000, 400),
        (b'{"rows":[{"price":1e999,"2nd":true}]}', 422),
        (b'{"rows":[{"price":1e300,"2nd":true}]}', 422),
        (b'{"rows":[{"price":1,"2nd":true,"class":' + b"9" * 400 + b"}]}", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"rows":{}}', 422),
        (b'{"rows":[]}', 422),
        (b'{"rows":[1]}', 422),
        (b'{"rows":[{"price":1,"2nd":true}],"more":1}', 422),
        (b'{"rows":[{"price":1,"2nd":true,"at":"9999-12-31T23:59:59-12:00"}]}', 422),
    ],
)
def test_bad_bodies_are_refused_with_the_right_status(body: bytes, status: int) -> None:
    """400 where it is no JSON, 422 where it is not ours."""
    assert problems(Schema(COLUMNS), body)[0] == status


def test_too_many_rows_are_refused_and_the_most_allowed_are_answered() -> None:
    """10,000 rows by default."""
    row = {"price": 1, "2nd": True}
    assert len(Schema(COLUMNS).decode(encoded(*[row] * 10_000))) == 10_000
    assert problems(Schema(COLUMNS), encoded(*[row] * 10_001))[0] == 413


def test_a_flood_of_mistakes_gets_a_short_answer() -> None:
    """A hundred problems are enough for one reader."""
    assert len(problems(Schema(COLUMNS), encoded(*[{}] * 5_000))[1]) == 100


def test_a_name_that_msgspec_cannot_spell_still_works() -> None:
    """Quotes and control characters in a column name take the slower path."""
    columns = [Column('say "hi"\n', "number"), Column("", "string", nullable=True)]
    assert Schema(columns).decode(encoded({'say "hi"\n': 2})) == [(2.0, None)]


def test_three_hundred_columns_keep_their_order() -> None:
    """Required and nullable ones mixed."""
    columns = [Column(f"column {i}", "number", nullable=i % 3 == 0) for i in range(300)]
    row = {column.name: float(i) for i, column in enumerate(columns)}
    assert Schema(columns).decode(encoded(row)) == [tuple(map(float, range(300)))]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_cells = st.fixed_dictionaries({}, optional={column.name: _json for column in COLUMNS})


@given(st.lists(_cells | _json, max_size=4) | _json)
def test_any_json_is_rows_or_a_bad_request(rows: Any) -> None:
    """Nothing else comes out of the decoder."""
    refused: list[BadRequest] = []
    decoded: list[Any] = []
    try:
        decoded = Schema(COLUMNS).decode(json.dumps({"rows": rows}).encode())
    except BadRequest as error:
        refused.append(error)
    assert all(error.status in {400, 413, 422} and 1 <= len(error.problems) <= 100 for error in refused)
    assert bool(decoded) != bool(refused)
    assert all(len(row) == len(COLUMNS) for row in decoded)


_right = st.fixed_dictionaries(
    {
        "price": st.floats(-1e30, 1e30) | st.integers(-(10**9), 10**9),
        "class": st.none() | st.integers(-(2**63), 2**63 - 1),
        "città di": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        "2nd": st.booleans(),
        "at": st.none() | st.datetimes().map(lambda moment: moment.isoformat()),
    }
)


@given(st.lists(_right, min_size=1, max_size=5))
def test_right_rows_are_always_accepted_and_both_paths_agree(rows: list[dict[str, Any]]) -> None:
    """The fast decoder and the walk over cells give the same tuples."""
    schema = Schema(COLUMNS)
    assert schema.decode(json.dumps({"rows": rows}).encode()) == schema.check(rows)
