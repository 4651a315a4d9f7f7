"""What pages say: events in words, columns against their limits, windows in time. All of it pure."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tidegate.console import views
from tidegate.console.reports import Window, folder_name
from tidegate.registry.ledger import Event
from tidegate.registry.state import GRAMMAR, State, Watched, fold

AT = "2026-03-04T05:06:07+00:00"
PLAN = {"rollout": "o-1", "steps": [20, 50]}
STORY: list[tuple[str, dict[str, Any]]] = [
    ("registered", {"release": "r-1", "version": 1, "run_id": "a"}),
    ("deployed", {"release": "r-1"}),
    ("registered", {"release": "r-2", "version": 2, "run_id": "b"}),
    ("rollout_started", {"rollout": "o-1", "stable": "r-1", "canary": "r-2", "steps": [20, 50], "plan": PLAN}),
    ("step_passed", {"rollout": "o-1", "step": 1, "reasons": ["fine"]}),
    ("held", {"rollout": "o-1", "reasons": ["too few users."]}),
]


def past(*more: tuple[str, dict[str, Any]]) -> list[Event]:
    return [Event(seq, AT, kind, "judge", data) for seq, (kind, data) in enumerate([*STORY, *more])]


def window(document: dict[str, Any], since: str = "2026-03-04T05:00:00+00:00", **more: Any) -> Window:
    fields = {"outcome": "drift", "share": 0.5, "lost": False, "asked": True, "reason": "three in a row"} | more
    return Window(Watched(since, more.pop("until", "2026-03-04T06:00:00+00:00"), **fields), document)


@pytest.mark.parametrize(
    ("at", "what"),
    [
        (0, "Version 1 passed the gate and was registered"),
        (1, "Version 1 was deployed"),
        (3, "Rollout began: version 2 against version 1"),
        (4, "Step passed: version 2 answers 50 % of users"),
        (5, "Held: a person must decide about version 2"),
    ],
)
def test_an_event_is_told_in_words(at: int, what: str) -> None:
    """With versions, which people know, and not with ids."""
    events = past()
    assert views.ledger.told(events[at], fold(events)).what == what


def test_every_kind_of_event_has_its_sentence() -> None:
    """A kind that is added to the grammar is told too; one whose data is another by its name."""
    assert set(views.ledger._SENTENCES) == set(GRAMMAR)
    for kind in GRAMMAR:
        told = views.ledger.told(Event(0, AT, kind, "judge", {}), State())
        assert told.what
        assert told.link == ""


def test_what_waits_for_a_person_is_said_with_what_to_type() -> None:
    """A held rollout, a freeze, a stack that is down; nothing is nothing."""
    state = fold(past(("frozen", {"reason": "a sale"})))
    needs = views.overview.needs(state, [], is_up=False)
    assert [one.command for one in needs] == ["tidegate up -d", "", "tidegate unfreeze --reason TEXT"]
    assert needs[1].text == "Rollout o-1 is held: too few users."
    assert views.overview.needs(fold(past()[:2]), [], is_up=True) == []


def test_traffic_is_told_by_arm() -> None:
    """Whole per cents that add up to 100."""
    assert [(one.version, one.weight, one.x) for one in views.overview.traffic(fold(past()))] == [
        ("version 1", 50, 0),
        ("version 2", 50, 50),
    ]
    assert [one.weight for one in views.overview.traffic(fold(past()[:2]))] == [100]
    assert views.overview.traffic(State()) == []
    assert views.overview.champion_since(fold(past()), past()) == AT


def column(name: str, value: float | None, **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "floor": 0.02, "threshold": 0.1, "outcome": "ok", **more}


def test_columns_are_ordered_by_how_far_they_moved_above_their_noise() -> None:
    """One that cannot be compared counts like one that drifts; a bar's limit is in the same place for all."""
    columns = [column("calm", 0.01), column("moved", 0.32, outcome="drifted"), column("gone", None, outcome="all_null")]
    bars = views.drift.bars(window({"columns": columns}))
    assert [(one.name, one.look, one.word) for one in bars] == [
        ("moved", "bad", "drifted"),
        ("gone", "bad", "only nulls"),
        ("calm", "good", "no drift"),
    ]
    assert math.isclose(bars[0].value, 100)
    assert math.isclose(bars[2].value, 0.01 / 0.12 * views.drift.LIMIT)


def test_the_heat_map_has_a_cell_for_every_column_and_window() -> None:
    """Also where a column was not compared, or appears later; what has no room is counted."""
    before = window({"columns": [column("price", 0.02)]}, since="2026-03-04T04:00:00+00:00")
    after = window({"columns": [column("price", 0.5), column("new", None, outcome="missing_column")]})
    heat = views.drift.heat_map([before, after])
    assert [(row.name, [(cell.heat, cell.mark) for cell in row.cells]) for row in heat.rows] == [
        ("price", [(0, ""), (8, "")]),
        ("new", [(-1, ""), (-1, "M")]),
    ]
    assert (len(views.drift.heat_map([after], most=1).rows), views.drift.heat_map([after], most=1).left_out) == (1, 1)
    assert views.drift.heat_map([]).rows == ()


@pytest.mark.parametrize(
    ("since", "until", "text"),
    [
        ("2026-03-04T05:00:00+00:00", "2026-03-04T06:00:00+00:00", "2026-03-04 05:00 to 06:00 UTC"),
        ("2026-03-04T23:00:00+00:00", "2026-03-05T00:00:00+00:00", "2026-03-04 23:00 to 24:00 UTC"),
        ("2026-03-04T05:00:00+02:00", "2026-03-11T05:00:00+02:00", "2026-03-04 03:00 to 2026-03-11 03:00 UTC"),
    ],
)
def test_a_window_is_named_by_its_time(since: str, until: str, text: str) -> None:
    """In UTC, wherever it was written."""
    made = Window(Watched(since, until, "no_drift", None, lost=False, asked=False, reason=""), {})
    assert views.times.period(made) == text
    assert folder_name(since).endswith("Z")


@pytest.mark.parametrize("days", [0.01, 0.5, 3, 40, 4000])
def test_a_time_axis_has_a_few_round_ticks(days: float) -> None:
    """From minutes to years."""
    axis = views.times.date_axis(1_772_600_000, 1_772_600_000 + days * 86_400)
    assert len(axis.ticks) <= 7
    assert all(axis.low <= at <= axis.high for at, _ in axis.ticks)


def test_a_document_that_holds_nonsense_is_no_error() -> None:
    """A newer or a damaged one: what can be shown is shown."""
    odd = window(
        {"columns": [1, {"name": "a"}, {"name": "b", "value": "x", "floor": None}], "quality": 3, "window": []}
    )
    assert [one.name for one in views.drift.bars(odd)] == ["a", "b"]
    assert (odd.qualities, odd.rows) == ([], None)
    assert views.times.number(True) is None  # noqa: FBT003 - a document may hold it
    assert [views.times.number(one) for one in (math.nan, math.inf, "1", 2)] == [None, None, None, 2.0]
