"""The data contract fails closed: every way in which it could pass by accident is an error or a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.core.errors import ConfigError, ContractFailed, ExitCode, TidegateError
from tidegate.pipelines.dataset import canonical, kinds, read_frame
from tidegate.pipelines.steps.contract import ContractResult, check_contract
from tidegate.pipelines.steps.contract_draft import draft


def frame() -> pd.DataFrame:
    """Prices with one negative, one missing; two cities; days."""
    return canonical(
        pd.DataFrame(
            {
                "price": [1.5, 2.0, None, -4.0, 3.0],
                "city": ["oslo", "rome", "oslo", "rom", "oslo"],
                "day": ["2024-01-01", "2024-01-02", "2024-01-03", None, "2024-01-05"],
                "order_id": [1, 2, 3, 4, 4],
            }
        )
    )


def check(tmp_path: Path, *entries: str, rows: pd.DataFrame | None = None) -> ContractResult:
    """Check a contract of these entries."""
    path = tmp_path / "contract.yaml"
    path.write_text("expectations:\n" + "".join(f"  - {entry}\n" for entry in entries), encoding="utf-8")
    return check_contract(frame() if rows is None else rows, path)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("{type: expect_column_values_to_not_be_null, column: price}", "price: 1 of 5 values is missing (row 3)"),
        (
            "{type: expect_column_values_to_be_between, column: price, min_value: 0, why: prices are paid}",
            "price: 1 of 5 values is below 0, for instance -4.0 (row 4) (prices are paid)",
        ),
        (
            "{type: expect_column_values_to_be_in_set, column: city, value_set: [oslo, rome], mostly: 0.9}",
            "city: 1 of 5 values is none of ['oslo', 'rome'], for instance rom (row 4); at most 10 % may be",
        ),
        (
            "{type: expect_column_values_to_be_unique, column: order_id}",
            "order_id: 2 of 5 values are not unique, for instance 4 (rows 4, 5)",
        ),
        (
            '{type: expect_column_values_to_be_between, column: day, min_value: "2024-01-02"}',
            "day: 1 of 5 values is below 2024-01-02, for instance 2024-01-01 00:00:00 (row 1)",
        ),
        ("{type: expect_table_row_count_to_be_between, min_value: 10}", "the table: found 5;"),
        ("{type: expect_column_mean_to_be_between, column: price, min_value: 2}", "price: found 0.625;"),
        (
            "{type: expect_column_values_to_be_between, column: city, min_value: 0}",
            "city: 5 of 5 values are no numbers: 'oslo', 'rome', 'rom' (rows 1, 2, 3, ...)",
        ),
        (
            "{type: expect_column_values_to_not_be_null, column: Price}",
            "Price: the data has no such column. Did you mean 'price'?",
        ),
        (
            "{type: expect_table_columns_to_match_set, column_set: [price, town], exact_match: false}",
            "town: the data has no such column.",
        ),
    ],
)
def test_a_broken_promise_is_one_readable_sentence(tmp_path: Path, entry: str, text: str) -> None:
    """Column, how many, which, where."""
    result = check(tmp_path, entry)
    assert not result.passed
    assert result.failed[0].startswith(text)
    with pytest.raises(ContractFailed, match="The data breaks its contract") as caught:
        result.require()
    assert caught.value.exit_code == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("cells", "promise", "text"),
    [
        (
            ["1.5", "n/a?", "", "-4", "3e2"],
            "expect_column_values_to_be_between, column: cell, min_value: 0, max_value: 500",
            "1 of 5 values is no number: 'n/a?' (row 2)",
        ),
        (
            ["1.5", "n/a?", "oops", "4", "3"],
            "expect_column_mean_to_be_between, column: cell, min_value: 0",
            "2 of 5 values are no numbers: 'n/a?', 'oops' (rows 2, 3)",
        ),
        (
            ["yes", "no", "Yes ", "maybe", "no"],
            "expect_column_values_to_be_in_set, column: cell, value_set: [false, true]",
            "1 of 5 values is neither true nor false: 'maybe' (row 4)",
        ),
        (
            ["0", "1", "2", "two", "1"],
            "expect_column_values_to_be_in_set, column: cell, value_set: [0, 1, 2]",
            "1 of 5 values is no number: 'two' (row 4)",
        ),
        (
            ["2024-01-01", "2024-02-31", "2024-01-03", "", "2024-01-05 10:00"],
            'expect_column_values_to_be_between, column: cell, min_value: "2024-01-01"',
            "1 of 5 values is no time: '2024-02-31' (row 2)",
        ),
    ],
)
def test_a_cell_that_made_text_of_its_column_is_named_and_no_other(
    tmp_path: Path, cells: list[str], promise: str, text: str
) -> None:
    """One typing mistake in an export once read as "all rows are wrong", or as words of the library."""
    file = tmp_path / "data.csv"
    pd.DataFrame({"row": range(len(cells)), "cell": cells}).to_csv(file, index=False)
    result = check(tmp_path, f"{{type: {promise}}}", rows=read_frame(file))
    assert result.failed == (f"cell: {text}",)


def test_bounds_of_lengths_and_sets_of_words_say_nothing_about_what_a_text_should_be(tmp_path: Path) -> None:
    """A promise about text stays the library's to check."""
    result = check(
        tmp_path,
        "{type: expect_column_value_lengths_to_be_between, column: city, min_value: 3, max_value: 4}",
        "{type: expect_column_values_to_be_in_set, column: city, value_set: [oslo, rome, rom]}",
    )
    assert result.failed == ()


def test_the_refusal_says_how_many_promises_are_broken(tmp_path: Path) -> None:
    """Once it named only how many there are, which read as if all of them were broken."""
    result = check(
        tmp_path,
        "{type: expect_column_values_to_be_between, column: price, min_value: 0}",
        "{type: expect_column_values_to_not_be_null, column: price, severity: warning}",
        "{type: expect_column_values_to_not_be_null, column: city}",
    )
    with pytest.raises(ContractFailed, match=r"breaks its contract \(1 of 3 promises\):"):
        result.require()


def test_a_warning_is_reported_and_does_not_fail(tmp_path: Path) -> None:
    """The gate is ours: Great Expectations itself calls this a failure."""
    result = check(tmp_path, "{type: expect_column_values_to_not_be_null, column: price, severity: warning}")
    assert result.passed
    assert result.warned == ("price: 1 of 5 values is missing (row 3)",)
    assert json.loads(json.dumps(result.document()))["warned"] == list(result.warned)


def test_results_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Each answer belongs to its own entry, whatever order the library answers in."""
    columns = ["day", "missing one", "price", "city", "day", "price"]
    result = check(tmp_path, *(f"{{type: expect_column_values_to_not_be_null, column: {name}}}" for name in columns))
    assert [one.column for one in result.results] == columns
    assert [one.passed for one in result.results] == [False, False, False, True, False, False]
    assert [one.line for one in result.results] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["contract.yaml:1: expectations: should be a list"]),
        ("expectations: []\n", ["contract.yaml:1: expectations: should be a list"]),
        ("expectation: []\n", ["contract.yaml:1: expectation: unknown key", "contract.yaml:1: expectations:"]),
        ("expectations: [\n", ["contract.yaml:2: not valid YAML"]),
        ("expectations:\n- {kwargs: 1}\n", ["contract.yaml:2: expectations[0]: should be a mapping"]),
        (
            (
                "expectations:\n- {type: expect_column_values_to_not_be_nul, column: a}\n"
                "- {type: expect_column_values_to_not_be_null, colum: a}\n"
                "- {type: expect_column_values_to_be_between, column: a}\n"
                "- {type: expect_column_values_to_not_be_null, column: a, mostly: 3}\n"
            ),
            [
                (
                    "contract.yaml:2: expectations[0].type: unknown expectation 'expect_column_values_to_not_be_nul', "
                    "did you mean 'expect_column_values_to_not_be_null'?"
                ),
                "contract.yaml:3: expectations[1]: unknown argument 'colum'",
                "contract.yaml:4: expectations[2]: min_value and max_value cannot both be None",
                "contract.yaml:5: expectations[3]: mostly: ensure this value is less than or equal to 1.0",
            ],
        ),
        (
            "expectations:\n- {type: expect_column_values_to_not_be_null, column: a, severity: eror}\n",
            ["contract.yaml:2: expectations[0].severity: 'eror' should be error or warning"],
        ),
    ],
)
def test_every_mistake_of_a_contract_is_named_with_its_line(tmp_path: Path, text: str, problems: list[str]) -> None:
    """A typo is an error with exit code 2, never an expectation that is dropped."""
    path = tmp_path / "contract.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        check_contract(frame(), path)
    assert len(caught.value.problems) == len(problems)
    for found, wanted in zip(caught.value.problems, problems, strict=True):
        assert found.startswith(wanted)


def test_no_contract_and_no_rows_are_errors(tmp_path: Path) -> None:
    """Neither passes."""
    with pytest.raises(ConfigError, match=r"no contract contract\.yaml"):
        check_contract(frame(), tmp_path / "contract.yaml")
    with pytest.raises(TidegateError, match="no rows to check"):
        check(tmp_path, "{type: expect_column_values_to_not_be_null, column: price}", rows=frame().head(0))


def source(seed: int, count: int) -> pd.DataFrame:
    """Rows of one source: numbers of several scales, categories, text, times, flags, gaps, odd names."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-6, 9)
    columns = {
        "no": rng.normal(size=count) * scale + rng.normal() * scale,
        "1e3": rng.integers(0, 1000, count),
        'a "b": {c}, [d] #e': rng.choice(["oslo", "no", "1.5", "ü'\"", "null"], count),
        "text": [f"t{value}" for value in rng.integers(0, 10**9, count)],
        "when": pd.date_range("2024-01-01", periods=count, freq="h").astype(str),
        "flag": rng.choice(["yes", "no"], count),
        "row id": np.arange(count),
        "constant": [float(scale)] * count,
        "gaps": pd.Series(rng.normal(size=count)).where(rng.random(count) > rng.random(), None),
    }
    return canonical(pd.DataFrame(columns))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 400))
def test_a_drafted_contract_passes_on_its_own_data(tmp_path: Path, seed: int, count: int) -> None:
    """Whatever the data, names and values."""
    rows = source(seed, count)
    path = tmp_path / "contract.yaml"
    path.write_text(draft(rows, kinds(rows)), encoding="utf-8")
    result = check_contract(rows, path)
    assert result.failed == ()
    assert result.warned == ()


def test_a_drafted_contract_holds_for_the_next_export_and_not_for_a_broken_one(tmp_path: Path) -> None:
    """Fresh rows of the same source pass; another scale, lost values, a renamed column do not."""
    rows = source(1, 2000)
    path = tmp_path / "contract.yaml"
    path.write_text(draft(rows, kinds(rows)), encoding="utf-8")
    half = rows.sample(1500, random_state=0).reset_index(drop=True)
    assert check_contract(half, path).failed == ()
    broken = half.assign(no=half["no"] * 1000, text=None).rename(columns={"flag": "Flag"})
    failed = check_contract(broken, path).failed
    assert {text.partition(":")[0] for text in failed} == {"no", "text", "flag"}


@pytest.mark.parametrize(
    ("labels", "promised", "broken"),
    [
        ([0, 1], "[0, 1]", 2),
        ([0, 1, None], "[0, 1]", 2),
        ([False, True], "[false, true]", "maybe"),
        (["no", "yes, sir"], '["no", "yes, sir"]', "YES"),
    ],
)
def test_a_class_that_was_never_there_breaks_the_drafted_contract(
    tmp_path: Path, labels: list[Any], promised: str, broken: object
) -> None:
    """One row is enough: another class is another question. A number that is predicted keeps its range."""
    rows = canonical(pd.DataFrame({"x": range(60), "y": pd.Series(labels * (60 // len(labels)), dtype=object)}))
    path = tmp_path / "contract.yaml"
    text = draft(rows, kinds(rows), target="y", task="classification")
    (line,) = [line for line in text.splitlines() if 'column: "y"' in line and "not_be_null" not in line]
    assert line == f'  - {{type: expect_column_values_to_be_in_set, column: "y", value_set: {promised}}}'
    path.write_text(text, encoding="utf-8")
    assert check_contract(rows, path).failed == ()
    changed = rows.assign(y=rows["y"].astype(object).where(rows.index > 0, broken))
    (failed,) = check_contract(changed, path).failed
    assert failed.startswith("y: ")
    assert "to_be_in_set" not in draft(rows[["x"]], {"x": "integer"}, target="x", task="regression")
