"""What `ship` prints of a rollout."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from tidegate.cli.commands.ship import _print
from tidegate.core.progress import Silent
from tidegate.pipelines import aliases, flows
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.flows import Shipped
from tidegate.registry.state import RolloutState, State, StepResult

BEGUN = RolloutState("o-1", "r-1", "r-2", {}, (10, 50), "2026-01-01T00:00:00+00:00")


def shown(decision: Any, **changes: Any) -> str:
    """What a person reads on 80 columns."""
    out = io.StringIO()
    fields = {name: changes.pop(name) for name in ("hint", "reasons") if name in changes}
    rollout = RolloutState(**{**{name: getattr(BEGUN, name) for name in BEGUN.__slots__}, **changes})
    _print(Console(file=out, width=80), Shipped(decision, "r-2", 2, rollout=rollout, **fields))
    return out.getvalue()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "rollout o-1: the canary gets 10 % of the users"),
        ({"shadowing": True}, "the canary gets copied traffic only"),
    ],
)
def test_a_rollout_that_has_just_begun_is_a_sentence_and_no_empty_table(changes: dict[str, Any], said: str) -> None:
    """`--no-wait` has no step to show yet."""
    text = shown("continue", **changes)
    assert said in text
    assert "verdict" not in text
    assert "still running" in text


def test_steps_are_a_table_once_there_are_any() -> None:
    """Weight, verdict, seconds and users of both arms."""
    text = shown("promote", state="promoted", results=(StepResult(10, "promote", 12.0, {"canary": 5, "stable": 45}),))
    assert [line.split() for line in text.splitlines() if line.startswith("10 %")] == [
        ["10", "%", "promote", "12", "5", "45"]
    ]
    assert "promoted to 100 %" in text


def test_who_aborted_a_rollout_that_is_followed_is_named() -> None:
    """From another terminal, while `ship` waits: it was no verdict."""
    text = shown("rollback", state="aborted", ended_by="ada@laptop", reasons=("too slow",))
    assert "release r-2, version 2: aborted by ada@laptop" in text
    assert "rolled back" not in text
    assert "- too slow" in text
    assert "rolled back" in shown("rollback", state="rolled_back")


def test_a_rollback_says_where_to_look_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evidence, and what the canary printed; a refusal's hints look the same."""
    ended = replace(BEGUN, canary="r-2", state="rolled_back")
    environment = SimpleNamespace(on_cluster=False, state=lambda: State(versions={"r-2": 2}, rollouts=(ended,)))
    monkeypatch.setattr(aliases, "sync", lambda *_: None)
    shipped = flows.follow(cast("Environment", environment), ended.id, Silent(), timeout=0.0)
    assert shipped.decision == "rollback"
    told = shown("rollback", state="rolled_back", hint=shipped.hint).partition("What to do next:\n")[2].splitlines()
    assert [line.split("`")[1] for line in told] == ["tidegate rollout report", "tidegate logs r-2"]
