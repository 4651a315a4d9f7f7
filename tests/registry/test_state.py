"""The ledger's grammar: what each event makes true, and what a state forbids."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import Conflict, UsageError
from tidegate.core.store import open_store
from tidegate.registry.ledger import Draft, Event, Ledger
from tidegate.registry.state import GRAMMAR, State, deciding, fold, on_open, start


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=10)
        return self.now


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_store(str(tmp_path)), "demand.local", Clock())


def write(ledger: Ledger, kind: str, **data: object) -> State:
    ledger.append(lambda _: Draft(kind, data))
    return fold(ledger.events())


def with_champion(ledger: Ledger) -> None:
    write(ledger, "registered", release="r-1", version=1, run_id="a")
    write(ledger, "deployed", release="r-1")
    write(ledger, "registered", release="r-2", version=2, run_id="b")


def plan(rollout: str) -> dict[str, object]:
    return {"rollout": rollout, "steps": [20, 50]}


def begin(ledger: Ledger, rollout: str = "o-1", canary: str = "r-2") -> State:
    ledger.append(deciding(start(canary, plan(rollout), 0.0, by_hand=False)))
    return fold(ledger.events())


def test_the_first_version_becomes_champion(ledger: Ledger) -> None:
    """A deployed release is the champion and no challenger any more."""
    with_champion(ledger)
    state = fold(ledger.events())
    assert (state.champion, state.challenger, state.history) == ("r-1", "r-2", ())


def test_a_rollout_climbs_its_steps_and_promotes(ledger: Ledger) -> None:
    """Each passed step is recorded with its weight and seconds, then the canary is champion."""
    with_champion(ledger)
    assert begin(ledger).open_rollout is not None
    state = write(ledger, "step_passed", rollout="o-1", step=1, units={"stable": 80, "canary": 20})
    assert state.rollouts[-1].weight == 50
    state = write(ledger, "promoted", rollout="o-1", keep=60.0, units={"stable": 110, "canary": 50})
    rollout = state.rollouts[-1]
    assert [(result.weight, result.verdict, result.seconds) for result in rollout.results] == [
        (20, "promote", 10.0),
        (50, "promote", 10.0),
    ]
    # The judge counts from the start of the rollout, a step shows its own.
    assert [result.units for result in rollout.results] == [{"stable": 80, "canary": 20}, {"stable": 30, "canary": 30}]
    assert (state.champion, state.history, rollout.weight) == ("r-2", ("r-1",), 100)
    assert state.retired is not None
    assert (state.retired.release, state.retired.keep) == ("r-1", 60.0)


def begin_shadowing(ledger: Ledger) -> State:
    ledger.append(deciding(start("r-2", {**plan("o-1"), "shadow_min": 120.0}, 0.0, by_hand=False)))
    return fold(ledger.events())


def test_a_shadow_phase_comes_before_the_first_step(ledger: Ledger) -> None:
    """The canary has nobody; its event keeps the numbers and begins the step, whose seconds count from there."""
    with_champion(ledger)
    rollout = begin_shadowing(ledger).rollouts[-1]
    assert (rollout.shadowing, rollout.weight, rollout.open, rollout.shadow) == (True, 0, True, None)
    held = write(ledger, "held", rollout="o-1", reasons=["no traffic"]).rollouts[-1]
    assert (held.state, held.weight) == ("held", 0)
    rollout = write(ledger, "shadow", rollout="o-1", shadow={"requests": 7}, reasons=["x"]).rollouts[-1]
    assert (rollout.shadowing, rollout.weight, rollout.state, rollout.shadow) == (False, 20, "running", {"requests": 7})
    assert rollout.reasons == ()
    rollout = write(ledger, "step_passed", rollout="o-1", step=1).rollouts[-1]
    assert [(one.weight, one.verdict, one.seconds) for one in rollout.results] == [
        (0, "promote", 20.0),
        (20, "promote", 10.0),
    ]
    rollout = write(ledger, "promoted", rollout="o-1", keep=0.0).rollouts[-1]
    assert (rollout.weight, rollout.shadow) == (100, {"requests": 7})


@pytest.mark.parametrize("kind", ["rolled_back", "aborted", "inconclusive", "replaced"])
def test_what_ends_in_its_shadow_phase_ends_at_weight_0(ledger: Ledger, kind: str) -> None:
    """With what the copies showed until then, if anybody knew."""
    with_champion(ledger)
    begin_shadowing(ledger)
    shown = {"shadow": {"requests": 7}} if kind != "replaced" else {}
    rollout = write(ledger, kind, rollout="o-1", reasons=["because"], **shown).rollouts[-1]
    assert ([one.weight for one in rollout.results], rollout.weight) == ([0], 0)
    assert rollout.shadow == shown.get("shadow")


def test_a_refusal_says_that_a_shadow_phase_runs(ledger: Ledger) -> None:
    """Not a share that nobody gets."""
    with_champion(ledger)
    begin_shadowing(ledger)
    with pytest.raises(Conflict, match=r"o-1 of version 2 is running in its shadow phase\."):
        begin(ledger, "o-2")


@pytest.mark.parametrize("kind", ["rolled_back", "aborted", "inconclusive", "replaced"])
def test_every_other_end_leaves_the_champion(ledger: Ledger, kind: str) -> None:
    """Only a promotion moves the champion; the canary's weight is 0 afterwards."""
    with_champion(ledger)
    begin(ledger)
    state = write(ledger, kind, rollout="o-1", reasons=["because"])
    assert (state.champion, state.open_rollout, state.rollouts[-1].weight) == ("r-1", None, 0)


def test_a_second_rollout_is_refused_while_one_runs(ledger: Ledger) -> None:
    """The refusal names the running rollout and how to replace it."""
    with_champion(ledger)
    begin(ledger)
    with pytest.raises(Conflict, match=r"o-1 of version 2 is running at 20 %") as caught:
        begin(ledger, "o-2")
    assert "--replace" in caught.value.hint


def test_a_freeze_stops_automatic_rollouts_only(ledger: Ledger) -> None:
    """Frozen: refused for the robot, allowed by hand, allowed again after unfreeze."""
    with_champion(ledger)
    write(ledger, "frozen", reason="black friday")
    with pytest.raises(Conflict, match="black friday"):
        begin(ledger)
    ledger.append(deciding(start("r-2", plan("o-1"), 0.0, by_hand=True)))
    assert fold(ledger.events()).open_rollout is not None
    assert write(ledger, "unfrozen", reason="over").frozen is None


def test_of_promote_and_abort_the_second_is_told_what_happened(ledger: Ledger) -> None:
    """Once the rollout is over, deciding about it is refused with its end."""
    with_champion(ledger)
    begin(ledger)
    abort = on_open("o-1", lambda _s, r: Draft("aborted", {"rollout": r.id, "reasons": ["me"]}))
    promote = on_open("o-1", lambda _s, r: Draft("promoted", {"rollout": r.id, "keep": 0.0}))
    ledger.append(deciding(abort))
    with pytest.raises(Conflict, match="o-1 is over: it was aborted"):
        ledger.append(deciding(promote))


def test_a_rollback_ends_the_rollout_and_restores_the_release(ledger: Ledger) -> None:
    """Immediate rollback during a rollout aborts it and moves the champion."""
    with_champion(ledger)
    begin(ledger)
    write(ledger, "promoted", rollout="o-1", keep=0.0)
    write(ledger, "registered", release="r-3", version=3, run_id="c")
    begin(ledger, "o-2", "r-3")
    state = write(ledger, "rollback", release="r-1", reasons=["it lies"])
    assert (state.champion, state.open_rollout) == ("r-1", None)
    assert state.rollouts[-1].state == "aborted"


def test_a_second_rollback_goes_further_back_and_not_to_the_bad_release(ledger: Ledger) -> None:
    """What somebody went back from is no place to go back to, until it is promoted again."""
    with_champion(ledger)
    for number in (2, 3):
        write(ledger, "registered", release=f"r-{number}", version=number, run_id="x")
        begin(ledger, f"o-{number}", f"r-{number}")
        write(ledger, "promoted", rollout=f"o-{number}", keep=0.0)
    assert fold(ledger.events()).previous == "r-2"
    assert write(ledger, "rollback", release="r-2", reasons=["bad"]).previous == "r-1"
    assert write(ledger, "rollback", release="r-1", reasons=["bad too"]).previous is None
    begin(ledger, "o-4", "r-3")
    assert write(ledger, "promoted", rollout="o-4", keep=0.0).previous == "r-1"


def test_an_unknown_event_stops_the_reader(ledger: Ledger) -> None:
    """An event of a newer tidegate is an error, never skipped."""
    with pytest.raises(UsageError, match="does not know"):
        write(ledger, "teleported")


moves = st.lists(
    st.sampled_from(["start", "step", "promote", "abort", "rolled_back", "held", "rollback", "register"]), max_size=25
)


@given(moves=moves)
def test_whatever_is_decided_at_most_one_rollout_is_open(moves: Sequence[str]) -> None:
    """Any sequence of decisions keeps the state sound, and folding in two parts equals folding once."""
    events: list[Event] = []
    clock = Clock()

    def add(draft: Draft | None) -> None:
        assert draft is not None
        events.append(Event(len(events), clock().isoformat(), draft.kind, "t", draft.data))

    add(Draft("registered", {"release": "r-0", "version": 0, "run_id": "x"}))
    add(Draft("deployed", {"release": "r-0"}))
    for number, move in enumerate(moves):
        state = fold(events)
        try:
            add(_decide(move, number, state))
        except Conflict:
            continue
        after = fold(events)
        assert sum(rollout.open for rollout in after.rollouts) <= 1
        assert after.champion in after.versions
        assert fold(events, fold(events[: len(events) // 2])) == after


def _decide(move: str, number: int, state: State) -> Draft | None:
    if move == "register":
        return Draft("registered", {"release": f"r-{number}", "version": number, "run_id": "x"})
    if move == "start":
        return start(state.challenger or "r-0", plan(f"o-{number}"), 0.0, by_hand=False)(state)
    if move == "rollback":
        if not state.history:
            raise Conflict("nothing before")
        return Draft("rollback", {"release": state.history[-1], "reasons": []})
    if move == "step":
        return on_open(
            None,
            lambda _s, r: Draft("step_passed", {"rollout": r.id, "step": 1}) if r.step == 0 else _end(r.id),
        )(state)
    kind = {"promote": "promoted", "abort": "aborted"}.get(move, move)
    return on_open(None, lambda _s, r: Draft(kind, {"rollout": r.id, "reasons": ["x"], "keep": 1.0}))(state)


def _end(rollout: str) -> Draft:
    return Draft("promoted", {"rollout": rollout, "keep": 0.0})


def test_the_grammar_is_complete() -> None:
    """Every kind of event that code may write is in the table."""
    assert set(GRAMMAR) >= {"registered", "deployed", "rollout_started", "promoted", "rolled_back", "rollback"}


@pytest.mark.parametrize("kind", ["deployed", "rollback"])
def test_users_get_no_release_that_was_never_registered(ledger: Ledger, kind: str) -> None:
    """Saved but not registered, as a kill leaves it: it has no version, so nothing could name it."""
    write(ledger, "registered", release="r-1", version=1, run_id="a")
    with pytest.raises(Conflict, match="r-9 was never registered") as caught:
        ledger.append(deciding(lambda _: Draft(kind, {"release": "r-9", "reasons": []})))
    assert "tidegate ship" in caught.value.hint
    assert fold(ledger.events()).champion is None
