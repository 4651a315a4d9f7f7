"""A window is judged by every row of it; what cannot be compared has a name and never passes in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from tidegate.core.config_live import Drift, Monitor
from tidegate.monitors.drift import Known, Side, compare
from tidegate.monitors.facts import Kind
from tidegate.monitors.outcomes import ColumnResult, Compared
from tidegate.monitors.reference import facts
from tidegate.monitors.tables import Table, connection

if TYPE_CHECKING:
    import duckdb

KINDS: dict[str, Kind] = {"price": "number", "count": "integer", "city": "string", "open": "boolean"}
ROWS = 2_000


@pytest.fixture
def opened() -> Iterator[duckdb.DuckDBPyConnection]:
    with connection() as found:
        yield found


def rows(seed: int, count: int = ROWS) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "price": random.lognormal(size=count),
            "count": random.poisson(5, count),
            "city": random.choice(["oslo", "rome", "lima"], count, p=[0.6, 0.3, 0.1]),
            "open": random.uniform(size=count) < 0.5,
        }
    )


class Window:
    """Compares frames with the reference of `rows(0)`."""

    def __init__(self, opened: duckdb.DuckDBPyConnection, importance: dict[str, float] | None = None) -> None:
        self.opened = opened
        self.past = self.table("past", rows(0))
        found = facts(self.past, KINDS)
        self.facts = {name: replace(one, importance=(importance or {}).get(name)) for name, one in found.items()}

    def table(self, name: str, frame: Any) -> Table:
        self.opened.register(name, frame)
        return Table(self.opened, self.opened.table(name))

    def compared(self, frame: pd.DataFrame, policy: Monitor | None = None, **more: Any) -> Compared:
        known = Known(Side(self.facts, self.past))
        return compare(known, self.table("now", frame), None, policy or Monitor(), **more)

    def column(self, frame: pd.DataFrame, name: str) -> ColumnResult:
        return next(one for one in self.compared(frame).columns if one.name == name)


def test_the_same_world_has_not_drifted(opened: duckdb.DuckDBPyConnection) -> None:
    """Every column is ok, and nothing of the model's decisions moved."""
    found = Window(opened).compared(rows(1))
    assert (found.outcome, found.share) == ("no_drift", 0.0)
    assert {one.outcome for one in found.columns} == {"ok"}


def test_an_empty_window_and_one_of_few_rows_cannot_tell(opened: duckdb.DuckDBPyConnection) -> None:
    """Silence is no good news, and a handful of rows is no news."""
    window = Window(opened)
    empty, few = window.compared(rows(1).head(0)), window.compared(rows(1, 499))
    assert (empty.outcome, empty.share, empty.reasons) == ("cannot_tell", None, ("no prediction was recorded",))
    assert few.outcome == "cannot_tell"
    assert "min_rows is 500" in few.reasons[0]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda frame: frame.drop(columns="price"), "missing_column"),
        (lambda frame: frame.assign(price=np.nan), "all_null"),
        (lambda frame: frame.assign(price=None), "all_null"),
        (lambda frame: frame.assign(price="12.50"), "type_changed"),
        (lambda frame: frame.assign(price=frame["price"] > 1), "type_changed"),
        (lambda frame: frame.assign(price=frame["price"].where(frame.index % 3 > 0)), "drifted"),
        (lambda frame: frame.assign(price=frame["price"] * 100), "drifted"),
    ],
)
def test_a_column_that_is_not_what_it_was_has_drifted_and_says_how(
    opened: duckdb.DuckDBPyConnection, change: Any, outcome: str
) -> None:
    """Gone, empty, of another type, full of holes, in another unit: each by its own name, none passes."""
    found = Window(opened).column(change(rows(1)), "price")
    assert (found.outcome, found.drifted) == (outcome, True)


def test_numbers_may_become_whole_and_back(opened: duckdb.DuckDBPyConnection) -> None:
    """A column of counts with a hole in it arrives as decimals; that is no other type."""
    frame = rows(1)
    assert Window(opened).column(frame.assign(count=frame["count"].astype(float)), "count").outcome == "ok"


def test_a_new_category_is_named_with_its_share_even_if_it_is_too_rare_for_drift(
    opened: duckdb.DuckDBPyConnection,
) -> None:
    """Twenty rows of a city nobody knew are no drift, and somebody wants to know."""
    frame = rows(1)
    frame.loc[:19, "city"] = "<b>paris</b>"
    rare = Window(opened).column(frame, "city")
    assert (rare.outcome, rare.drifted, dict(rare.new)) == ("new_category", False, {"<b>paris</b>": 0.01})
    frame.loc[:399, "city"] = "<b>paris</b>"
    often = Window(opened).column(frame, "city")
    assert (often.outcome, often.drifted, often.new["<b>paris</b>"]) == ("new_category", True, 0.2)


def test_names_that_are_always_new_are_foretold_and_no_news(opened: duckdb.DuckDBPyConnection) -> None:
    """In a column of order numbers every row is new, in the reference as well."""
    orders = rows(0).assign(city=[f"order {n}" for n in range(ROWS)])
    past = Window(opened).table("orders", orders)
    known = Known(Side(facts(past, {"city": "string"}), past))
    now = Window(opened).table("later", rows(1).assign(city=[f"order {n}" for n in range(9_000, 9_000 + ROWS)]))
    assert compare(known, now, None, Monitor()).columns[0].outcome == "ok"


def test_more_missing_categories_are_seen_like_any_category(opened: duckdb.DuckDBPyConnection) -> None:
    """A missing value is a category of its own."""
    frame = rows(1)
    frame.loc[:700, "city"] = None
    assert Window(opened).column(frame, "city").drifted


def test_a_change_of_the_largest_category_is_not_lost_among_a_thousand(opened: duckdb.DuckDBPyConnection) -> None:
    """In 600 rows a thousand categories lie far apart by chance; the largest of them do not."""
    random = np.random.default_rng(3)
    shares = 1 / np.arange(1, 1_001)
    names = np.array([f"item {n}" for n in range(1_000)])

    def drawn(count: int, first: float) -> pd.DataFrame:
        moved = np.append(first, shares[1:] / shares[1:].sum() * (1 - first))
        return pd.DataFrame({"city": random.choice(names, count, p=moved)})

    window = Window(opened)
    past = window.table("items", drawn(10_000, 0.13))
    known = Known(Side(facts(past, {"city": "string"}), past))
    same, more = (window.table(f"now{share}", drawn(600, share)) for share in (0.13, 0.35))
    assert not compare(known, same, None, Monitor()).columns[0].drifted
    found = compare(known, more, None, Monitor()).columns[0]
    assert (found.drifted, found.note) == (True, "Seen in its most frequent categories.")


def test_columns_that_the_model_does_not_use_do_not_make_drift(opened: duckdb.DuckDBPyConnection) -> None:
    """Three of four columns moved, and they decide nothing; then the one that decides."""
    window = Window(opened, {"price": 0.2, "count": 0.0, "city": 0.002, "open": 0.0})
    idle = rows(1).assign(count=99, city="rome", open=True)
    found = window.compared(idle)
    assert (found.outcome, found.share) == ("no_drift", pytest.approx(0.0099, abs=1e-4))
    assert window.compared(rows(1).assign(price=rows(1)["price"] + 5)).outcome == "drift"


def test_without_importance_all_columns_count_alike(opened: duckdb.DuckDBPyConnection) -> None:
    """Nothing is known of the model, so each column is a quarter of it."""
    found = Window(opened).compared(rows(1).assign(count=99))
    assert [one.weight for one in found.columns] == [0.25] * 4
    assert (found.share, found.outcome) == (0.25, "no_drift")


def test_a_column_that_is_left_out_on_purpose_is_not_missed(opened: duckdb.DuckDBPyConnection) -> None:
    """What serve.capture.exclude keeps out of the records is not gone."""
    found = Window(opened).compared(rows(1).drop(columns="city"), left_out=("city",))
    assert [one.name for one in found.columns] == ["price", "count", "open"]
    assert found.outcome == "no_drift"


@pytest.mark.parametrize("numerical", ["wasserstein", "jensenshannon", "psi"])
@pytest.mark.parametrize("categorical", ["jensenshannon", "psi"])
def test_every_distance_sees_a_move_and_not_the_same_world(
    opened: duckdb.DuckDBPyConnection, numerical: Any, categorical: Any
) -> None:
    """Whatever the config names."""
    policy = Monitor(drift=Drift(numerical=numerical, categorical=categorical))
    window = Window(opened)
    assert not any(one.drifted for one in window.compared(rows(1), policy).columns)
    frame = rows(1)
    moved = window.compared(
        frame.assign(price=frame["price"] * 2, city="lima", open=True, count=frame["count"] + 3), policy
    )
    assert [one.drifted for one in moved.columns] == [True] * 4


def test_a_constant_column_drifts_when_it_is_something_else(opened: duckdb.DuckDBPyConnection) -> None:
    """It has no spread to measure by, so the share of other rows counts."""
    window = Window(opened)
    past = window.table("ones", pd.DataFrame({"price": np.ones(ROWS)}))
    known = Known(Side(facts(past, {"price": "number"}), past))
    now = window.table("some", pd.DataFrame({"price": np.where(np.arange(ROWS) < 500, 2.0, 1.0)}))
    found = compare(known, now, None, Monitor()).columns[0]
    assert (found.method, found.value, found.drifted) == ("share_changed", 0.25, True)


def test_times_move_on_and_only_missing_ones_count(opened: duckdb.DuckDBPyConnection) -> None:
    """A column of dates is later every day; that is no drift."""
    window = Window(opened)
    days = pd.DataFrame({"price": pd.date_range("2026-01-01", periods=ROWS, freq="h")})
    past = window.table("days", days)
    known = Known(Side(facts(past, {"price": "datetime"}), past))
    later = days + pd.Timedelta(days=400)
    assert compare(known, window.table("later", later), None, Monitor()).columns[0].outcome == "ok"
    holes = window.table("holes", later.where(np.arange(ROWS)[:, None] % 2 > 0))
    assert compare(known, holes, None, Monitor()).columns[0].drifted


def test_hostile_column_names_are_names(opened: duckdb.DuckDBPyConnection) -> None:
    """Quotes and SQL in a header neither break a query nor run."""
    name = 'a"; drop table past; --'
    window = Window(opened)
    past = window.table("odd", pd.DataFrame({name: np.arange(ROWS) * 1.0}))
    known = Known(Side(facts(past, {name: "number"}), past))
    assert compare(known, past, None, Monitor()).columns[0].outcome == "ok"


def test_a_document_is_read_back_as_it_was_written(opened: duckdb.DuckDBPyConnection) -> None:
    """Reports of yesterday are drawn today."""
    frame = rows(1).assign(price=np.nan)
    frame.loc[:300, "city"] = "paris"
    found = Window(opened).compared(frame)
    assert Compared.from_json({**found.to_json(), "window": {"rows": found.rows}}) == found
