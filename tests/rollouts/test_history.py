"""What the judge knew at each look, told again from what the store keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import MemoryStore
from recorded import BAD, GOOD, Recorder, plan

from tidegate.core.errors import TidegateError
from tidegate.registry.state import fold
from tidegate.rollouts.block_files import read_blocks, write_blocks
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.decisions import decisions
from tidegate.rollouts.history import History, history
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.plan import GoalPlan, GuardrailPlan, Line, RolloutPlan, Stream


def told(recorder: Recorder) -> History:
    return history(recorder.plan, read_blocks(recorder.store, recorder.plan.rollout))


@pytest.mark.parametrize(("canary", "units"), [(GOOD, 2000), (BAD, 300)])
def test_the_history_ends_with_the_verdict_that_was_given(canary: dict[str, float], units: int) -> None:
    """Judged again from its files, a rollout comes to the very numbers that decided it."""
    recorder = Recorder(MemoryStore(), "demand.local", plan(), units=units)
    given = recorder.run(canary)
    again = told(recorder)
    assert again.verdict == given
    last = again.moments[-1]
    assert (last.decision, last.weight, last.log_e_harm) == (given.decision, given.weight, given.log_e_harm)
    assert (last.canary, last.stable) == (given.units["canary"], given.units["stable"])


def test_every_block_is_a_moment_with_what_the_judge_knew_then() -> None:
    """Users add up, time is the block's end, and each reading is that of a judge who had seen no more."""
    recorder = Recorder(MemoryStore(), "demand.local", plan(), units=2000)
    recorder.run(GOOD)
    moments = told(recorder).moments
    running = Judge(recorder.plan)
    for block, moment in zip(read_blocks(recorder.store, "o-1a2b"), moments, strict=True):
        verdict = running.update(block)
        error_rate = verdict.metrics[0]
        assert (moment.index, moment.seconds) == (block.index, 5 * (block.index + 1))
        reading = moment.readings[0]
        assert (reading.low, reading.effect, reading.high) == (error_rate.low, error_rate.effect, error_rate.high)
        assert (reading.log_e_harm, reading.log_e_safe) == (error_rate.log_e_harm, error_rate.log_e_safe)
        assert [one.name for one in moment.readings] == ["error_rate", "latency_p50", "latency_p90", "latency_p99"]
    assert sum(moment.new_canary for moment in moments) == moments[-1].canary
    assert sum(moment.new_stable for moment in moments) == moments[-1].stable
    assert {moment.step for moment in moments} == {0, 1}


def test_a_line_is_told_as_a_difference() -> None:
    """(ratio - 1) p0 + margin, with the stable arm's share of users so far."""
    stream = Stream("error_rate", Line(1.1, 0.001), Line(1.5, 0.002), 0.1)
    short = made_of(stream)
    blocks = [
        Block(0, 50, {"error_rate": Counts(100, 12, 100, 10)}),
        Block(1, 50, {"error_rate": Counts(50, 5, 100, 0)}),
    ]
    first, second = (moment.readings[0] for moment in history(short, blocks).moments)
    assert (first.harm, first.safe) == (pytest.approx(0.1 * 0.1 + 0.001), pytest.approx(0.5 * 0.1 + 0.002))
    assert (second.harm, second.safe) == (pytest.approx(0.1 * 0.05 + 0.001), pytest.approx(0.5 * 0.05 + 0.002))
    assert (first.canary, first.stable, second.stable) == (0.12, 0.1, 0.05)


def test_a_goal_has_one_line() -> None:
    """The difference to be exceeded; nothing about it can harm."""
    stream = Stream("error_rate", Line(1.1, 0.001), Line(1.5, 0.002), 0.1)
    short = made_of(stream, goal=GoalPlan("conversion", 0.02, 0.3))
    counts = {"error_rate": Counts(100, 1, 100, 1), "conversion": Counts(100, 40, 100, 30)}
    (moment,) = history(short, [Block(0, 50, counts)]).moments
    goal = moment.readings[1]
    assert (goal.name, goal.harm, goal.log_e_harm, goal.safe) == ("conversion", None, None, pytest.approx(0.02))


def test_no_block_is_no_history() -> None:
    """Before the first interval there is nothing to tell, and that is no error."""
    recorder = Recorder(MemoryStore(), "demand.local", plan())
    assert told(recorder).moments == ()
    assert told(recorder).verdict.decision == "continue"


def test_blocks_come_back_as_they_were_written() -> None:
    """Also one without a control, an idle one, and two halves of an interval in which the weight changed."""
    store = MemoryStore()
    counts = {"error_rate": Counts(10, 1, 40, 2)}
    blocks = [
        Block(0, 20, counts, Counts(20, 2, 80, 4)),
        Block(1, 20, {}, Counts()),
        Block(1, 50, {}, Counts(30, 30, 30, 0), misrouted=2),
    ]
    write_blocks(store, "o-1", blocks)
    write_blocks(store, "o-1", [])
    write_blocks(store, "o-1", [Block(2, 50, counts, Counts(1, 0, 1, 0), ready=False)])
    found = read_blocks(store, "o-1")
    assert found[:3] == blocks
    assert (found[3].index, found[3].ready) == (2, False)
    assert len(store.list("rollouts/o-1/blocks")) == 2


@pytest.mark.parametrize(
    "damage",
    [b"not json\n", b"[1]\n", b"7\n", b'{"stream": "o-1a2b", "minute": 0}\n', b'{"n": NaN', b"\xff\xfe\n"],
)
def test_a_damaged_block_is_one_clear_error(damage: bytes) -> None:
    """It names the file, says that nothing was changed, and guesses nothing."""
    recorder = Recorder(MemoryStore(), "demand.local", plan())
    recorder.run(GOOD, most=2)
    path = recorder.store.list("rollouts/o-1a2b/blocks")[1]
    recorder.store.write(path, damage)
    with pytest.raises(TidegateError, match=f"The recorded blocks of rollout o-1a2b are damaged: {path}") as error:
        told(recorder)
    assert "Restore rollouts/o-1a2b/blocks" in error.value.hint


def test_decisions_are_what_changed_the_rollout_and_who_did_it() -> None:
    """From its start to its end; what happened to others before and after is none of them."""
    recorder = Recorder(MemoryStore(), "demand.local", plan(), units=2000)
    recorder.run(GOOD)
    recorder.say("frozen", {"reason": "holidays"}, "ada@desk")
    taken = decisions(recorder.ledger.events(), "o-1a2b")
    assert [(one.kind, one.weight) for one in taken] == [
        ("rollout_started", 20),
        ("step_passed", 50),
        ("promoted", 100),
    ]
    assert taken[1].actor == taken[2].actor == "judge"
    assert taken[2].reasons == fold(recorder.ledger.events()).rollouts[-1].reasons != ()
    assert decisions(recorder.ledger.events(), "o-none") == ()


def test_a_rollback_by_hand_is_a_decision_about_the_running_rollout() -> None:
    """The event names a release, not the rollout that it ends."""
    recorder = Recorder(MemoryStore(), "demand.local", plan())
    recorder.run(GOOD, most=1)
    recorder.say("rollback", {"release": "r-1", "reasons": ["it lies"]}, "ada@desk")
    last = decisions(recorder.ledger.events(), "o-1a2b")[-1]
    assert (last.kind, last.actor, last.weight, last.reasons) == ("rollback", "ada@desk", 0, ("it lies",))


def made_of(stream: Stream, goal: GoalPlan | None = None) -> RolloutPlan:
    """One step at 50 % with one guardrail."""
    guardrail = GuardrailPlan(stream.metric, (stream,))
    return replace(
        plan(), steps=(50,), step_max=(3600.0,), guardrails=(guardrail,), goal=goal, latency=None, forecast=()
    )
