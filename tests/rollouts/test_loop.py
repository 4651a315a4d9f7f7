"""The laptop's control loop on a written log, with a clock of its own: its decisions, and that a kill changes none.

`World` plays the parts around it: Envoy writes lines by the ledger's weight, the supervisor ticks and says what is
applied. Time only passes between ticks, so an interrupted run can be compared with one that was not, event by event.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import log_line
from loop_world import TICK, WELL, Answer, Killed, World, bad, dead, fine

from tidegate.core.assignment import assigned_arm
from tidegate.core.errors import Conflict
from tidegate.registry.state import fold
from tidegate.rollouts.block_files import read_blocks
from tidegate.rollouts.checkpoint import read_checkpoint
from tidegate.rollouts.health import Health
from tidegate.rollouts.judge import judge
from tidegate.rollouts.loop import exposure
from tidegate.serving.gateway.access_log import parse_record, rotated_path


def test_a_good_canary_climbs_its_steps_and_is_promoted(tmp_path: Path) -> None:
    """One event for each step, with users and reasons; the loser stays warm as long as the plan of the start said."""
    world = World(tmp_path)
    assert world.run() == ["step_passed", "promoted"]
    passed, promoted = world.events
    assert (passed.data["step"], promoted.data["keep"], promoted.actor) == (1, 60.0, "judge")
    assert promoted.data["units"]["canary"] > passed.data["units"]["canary"] > 0
    assert promoted.data["verdict"]["decision"] == "promote"
    assert fold(world.ledger.events()).champion == "r-2"
    assert all("o-1" in line for line in world.said)


def test_a_failing_canary_is_rolled_back_with_its_reason(tmp_path: Path) -> None:
    """The champion stays, and the reason can be quoted."""
    world = World(tmp_path, answer=bad)
    assert world.run() == ["rolled_back"]
    assert "The canary fails 31 %" in world.events[0].data["reasons"][0]
    assert (fold(world.ledger.events()).champion, world.rollout.weight) == ("r-1", 0)


def test_a_canary_that_only_fails_goes_within_one_block(tmp_path: Path) -> None:
    """Whatever the statistics say, and before `step.min`."""
    world = World(tmp_path, answer=dead)
    assert world.run() == ["rolled_back"]
    assert "All " in world.events[0].data["reasons"][0]
    # One block of a second, and the grace for late lines.
    assert world.rollout.results[0].seconds <= 1 + 1.5 + 2 * TICK


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """The same rollouts without a kill, and how often each wrote to its store."""
    worlds = {}
    for name, answer in (("good", fine), ("bad", bad), ("dead", dead)):
        world = worlds[name] = World(tmp_path_factory.mktemp(name), answer=answer)
        world.writes = 0  # type: ignore[attr-defined]  # only here

        def count(when: str, world: Any = world) -> None:
            world.writes += when == "before"

        world.store.on_write = count
        world.run()
    return worlds


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["good", "bad", "dead"])
def test_a_kill_at_any_write_changes_no_event(
    undisturbed: dict[str, Any], tmp_path: Path, name: str, when: str
) -> None:
    """Before or after each single write of users, blocks, checkpoint and ledger: the same events, none twice."""
    expected = undisturbed[name]
    for number in range(expected.writes):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(folder, answer=expected.answer)
        left = [number]

        def kill(moment: str, left: list[int] = left) -> None:
            if moment == when:
                left[0] -= 1
                if left[0] == -1:
                    raise Killed

        world.store.on_write = kill
        with pytest.raises(Killed):
            world.run()
        world.restart()
        world.run()
        assert [event.to_json() for event in world.events] == [event.to_json() for event in expected.events], number


@pytest.mark.parametrize("name", ["good", "bad", "dead"])
@pytest.mark.parametrize("away", [0.0, 4.2])
def test_a_restart_after_any_tick_comes_to_the_same_verdict(
    undisturbed: dict[str, World], tmp_path: Path, name: str, away: float
) -> None:
    """At once, or after seconds in which Envoy went on alone: the same kinds of events, each once."""
    expected = undisturbed[name]
    for killed_after in range(1, 14, 3 if away else 1):
        folder = tmp_path / str(killed_after)
        folder.mkdir()
        world = World(folder, answer=expected.answer)
        world.run(killed_after)
        world.restart()
        if away:
            world.traffic(away)
        assert world.run() == expected.kinds, killed_after


def test_a_supervisor_killed_at_every_tick_still_decides(undisturbed: dict[str, World], tmp_path: Path) -> None:
    """Nothing lives in memory that matters."""
    world = World(tmp_path)
    for _ in range(120):
        world.run(1)
        world.restart()
        if not world.rollout.open:
            break
    assert [event.to_json() for event in world.events] == [one.to_json() for one in undisturbed["good"].events]


@pytest.mark.parametrize("restarted", [True, False], ids=["stack down", "machine asleep"])
@pytest.mark.parametrize(
    "policy",
    [
        {"mode": "guard", "step": {"min": "3s", "max": "1m"}},
        *({"step": {"min": "3s", "max": "30s", "on_inconclusive": word}} for word in ("hold", "rollback", "promote")),
    ],
    ids=["guard", "hold", "rollback", "promote"],
)
def test_time_that_nobody_watched_is_no_soak(tmp_path: Path, policy: dict[str, Any], *, restarted: bool) -> None:
    """Hours without a process and without a request decide nothing; afterwards the step takes the time it needs."""
    world = World(tmp_path, users=1, **policy)
    world.run(12)
    if restarted:
        world.restart()
    world.now += 8 * 3600
    for _ in range(8):
        world.tick()
        world.now += TICK
    assert world.kinds == []
    began = world.now
    world.run(400)
    assert world.kinds != []
    least = {"guard": 50, "test": 20}[policy.get("mode", "test")]
    assert world.now - began >= least


def test_what_is_kept_of_a_rollout_with_pauses_decides_the_same_again(tmp_path: Path) -> None:
    """Idle blocks are not kept, so they may not change what the others prove: number by number, from the files."""
    world = World(tmp_path, users=4, step={"min": "3s", "max": "10m"})
    for _ in range(12):
        world.run(8)
        for _ in range(24):
            world.tick()
            world.now += TICK
    again, document = judge(world.plan, read_blocks(world.store, "o-1")), read_checkpoint(world.store, "o-1")
    assert document is not None
    for mine, live in zip(again.to_dict()["metrics"], document["verdict"]["metrics"], strict=True):
        assert (mine["log_e_harm"], mine["log_e_safe"]) == (live["log_e_harm"], live["log_e_safe"])


def test_waiting_for_a_canary_writes_nothing(tmp_path: Path) -> None:
    """A verdict that waits is looked at four times a second; the store is not written to for that."""
    world = World(tmp_path)
    world.health = replace(WELL, stable_ready=False, canary_ready=False)
    world.run(40)
    writes: list[str] = []
    world.store.on_write = writes.append
    for _ in range(4):
        world.tick()
    assert (world.kinds, writes) == ([], [])


def test_answers_that_are_no_predictions_are_counted_when_the_plan_says_so(tmp_path: Path) -> None:
    """Every answer is a 200, but one in three of the canary's holds null: rolled back with a sentence that says it."""

    def empty(number: int, arm: str) -> dict[str, Any]:
        return {"invalid": "1"} if arm == "canary" and number % 3 == 0 else {}

    guard = {"metric": "invalid_output", "harm": {"margin": 0.01}, "safe": {"margin": 0.05}}
    world = World(tmp_path, answer=empty, guardrails=[guard])
    assert world.run() == ["rolled_back"]
    assert "% of users' first requests without a prediction, stable 0 %" in world.events[0].data["reasons"][0]
    (tmp_path / "sound").mkdir()
    assert World(tmp_path / "sound", guardrails=[guard]).run() == ["step_passed", "promoted"]


def test_nobody_more_is_sent_to_a_canary_that_does_not_answer_now(tmp_path: Path) -> None:
    """Its step has passed on paper while its process is being started again: the decision waits for it."""
    world = World(tmp_path)
    world.health = replace(WELL, stable_ready=False, canary_ready=False)
    world.run(40)
    assert world.kinds == []
    world.health = WELL
    assert world.run() == ["step_passed", "promoted"]


def test_users_count_once_also_across_a_restart(tmp_path: Path) -> None:
    """The same hundred users come back every second, fail later, and change nothing."""
    world = World(tmp_path, users=0)
    world.tick()
    for second in range(8):
        for index in range(100):
            world.write(world.line(f"regular-{index}", world.now + index / 200, status=500 if second > 2 else 200))
        world.traffic(1.0)
        world.tick()
        world.restart()
    assert sum(world.units.values()) == 100
    assert world.kinds == []


def test_rotation_of_the_log_loses_and_repeats_nothing(undisturbed: dict[str, World], tmp_path: Path) -> None:
    """Envoy's file is renamed every few ticks, with a restart in between."""
    world = World(tmp_path)
    for number in range(1, 60):
        world.run(2)
        if not world.rollout.open:
            break
        world.log.rename(rotated_path(world.log, number))
        if number % 2:
            world.restart()
    assert [event.to_json() for event in world.events] == [one.to_json() for one in undisturbed["good"].events]


def test_what_came_before_the_rollout_is_not_read(tmp_path: Path) -> None:
    """Old lines, even of a rollout of that name, are no evidence."""
    world = World(tmp_path)
    world.weight = 20
    for index in range(500):
        world.write(world.line(f"before-{index}", world.now - 60, status=500))
    world.tick()
    world.traffic(3.0)
    world.tick()
    assert sum(world.units.values()) < 500
    assert world.run() == ["step_passed", "promoted"]


@pytest.mark.parametrize(
    "lines",
    [
        {"route": "forced/o-1/20", "status": 500},
        {"route": "rest/o-1/20", "status": 500},
        {"route": "split/o-0/20", "status": 500},
        {"route": "split/o-1/0", "status": 500},
        {"status": 401, "details": "missing_api_key", "upstream": None},
        {"status": 429, "flags": "RL", "details": "local_rate_limited", "upstream": None},
        {"status": 500, "details": "lua_error", "upstream": None},
        {"status": 0, "flags": "DC", "details": "downstream_remote_disconnect", "upstream": None},
    ],
)
def test_what_no_arm_was_asked_for_is_no_evidence(tmp_path: Path, lines: dict[str, Any]) -> None:
    """Forced routes, documentation, other rollouts, weight 0, and what the gateway answered by itself."""
    world = World(tmp_path, users=0)
    world.tick()
    for index in range(300):
        world.write(world.line(f"user-{index}", world.now + index / 400, **lines))
    world.traffic(4.0)
    world.tick()
    assert (world.kinds, sum(world.units.values())) == ([], 0)


@pytest.mark.parametrize(
    ("changes", "failed", "reached"),
    [
        ({}, False, True),
        ({"status": 422}, False, True),
        ({"status": 500}, True, True),
        ({"status": 503, "flags": "UF", "details": "upstream_reset", "upstream_us": None}, True, True),
        ({"status": 504, "flags": "UT", "details": "response_timeout", "upstream_us": None}, True, True),
        ({"status": 200, "flags": "UC"}, True, True),
        ({"status": 0, "flags": "DC", "details": "downstream_remote_disconnect"}, False, True),
        ({"status": 413, "details": "request_payload_too_large", "upstream": None}, False, False),
    ],
)
def test_the_judge_holds_against_an_arm_what_the_log_does(changes: dict[str, Any], failed: bool, reached: bool) -> None:
    """Half an answer is a failure, a client that left is none: the same as in the baseline of the plan."""
    record = parse_record(log_line(cluster="canary/r-2/127.0.0.1:8500", route="split/o-1/20", **changes))
    seen = exposure(record)
    assert (seen.failed, seen.reached) == (failed, reached)
    assert (record.failed, record.attempted) == (failed, reached)


def test_clients_that_leave_do_not_condemn_the_canary(tmp_path: Path) -> None:
    """A load test that is stopped cuts dozens of requests off at once; that is no hard stop."""
    left = {"status": 0, "flags": "DC", "details": "downstream_remote_disconnect"}
    world = World(tmp_path, answer=lambda _, arm: left if arm == "canary" else {})
    world.run(12)
    assert "rolled_back" not in world.kinds


def test_a_decision_is_not_written_twice(tmp_path: Path) -> None:
    """A loop that does not know that its event is out finds it in the ledger."""
    world = World(tmp_path)
    world.run()
    before = world.kinds
    assert world.loop is not None
    ended = world.rollout
    open_again = replace(ended, state="running", step=1)
    for _ in range(5):
        world.traffic(2.0)
        assert world.loop.tick(open_again, WELL) == []
    assert world.kinds == before


@pytest.mark.parametrize("answer", [fine, bad])
def test_what_a_person_ended_is_left_alone(tmp_path: Path, answer: Answer) -> None:
    """The loop has evidence for its own verdict, but somebody decided first."""
    world = World(tmp_path, answer=answer)
    world.tick()
    stale = world.rollout
    for _ in range(3):
        world.traffic(1.0)
    world.driver.abort("I say so")
    world.traffic(10.0)
    assert world.loop is not None
    assert world.loop.tick(stale, WELL) == []
    assert world.kinds == ["aborted"]
    with pytest.raises(Conflict, match="it was aborted"):
        world.driver.promote(full=True, reason="too late")


def test_a_step_that_a_person_passed_is_judged_anew(tmp_path: Path) -> None:
    """The judge follows to the new weight, and its old verdict does not pass the next step."""
    world = World(tmp_path)
    world.run(2)
    assert world.driver.promote(full=False, reason="looks good").weight == 50
    assert world.run() == ["step_passed", "promoted"]
    assert [one.actor == "judge" for one in world.events] == [False, True]
    assert world.rollout.results[1].seconds >= 3


@pytest.mark.parametrize("broken", ["not ready", "failing"])
@pytest.mark.parametrize("answer", [fine, bad])
def test_without_a_healthy_control_nothing_is_proven(tmp_path: Path, broken: str, answer: Answer) -> None:
    """While the stable arm is down a canary is neither better nor worse than anything; afterwards it is judged."""
    world = World(tmp_path, answer=answer)
    if broken == "not ready":
        world.health = replace(WELL, stable_ready=False)
    else:
        world.answer = lambda number, arm: {"status": 503} if arm == "stable" else answer(number, arm)
    assert world.run(24) == []
    assert world.units == {"stable": 0, "canary": 0}
    world.health, world.answer = WELL, answer
    assert world.run() == (["step_passed", "promoted"] if answer is fine else ["rolled_back"])


@pytest.mark.parametrize(
    ("action", "kinds", "state"),
    [
        ("hold", ["held"], "held"),
        ("rollback", ["inconclusive"], "inconclusive"),
        ("promote", ["step_passed", "promoted"], "promoted"),
    ],
)
def test_too_few_users_end_as_the_config_says(tmp_path: Path, action: str, kinds: list[str], state: str) -> None:
    """After `step.max` without an answer; a hold is written once and keeps the split."""
    world = World(tmp_path, users=3, step={"min": "3s", "max": "6s", "on_inconclusive": action})
    assert world.run() == kinds
    for _ in range(10):
        world.tick()
        world.traffic()
    assert (world.kinds, world.rollout.state) == (kinds, state)
    assert "gave evidence for neither answer" in world.events[0].data["reasons"][0]
    assert world.rollout.weight == {"held": 20, "inconclusive": 0, "promoted": 100}[state]


def test_a_held_rollout_survives_a_restart_and_obeys_the_person(tmp_path: Path) -> None:
    """It is not held twice, and goes on after `promote`."""
    world = World(tmp_path, users=3, step={"min": "3s", "max": "6s", "on_inconclusive": "hold"})
    world.run()
    world.restart()
    for _ in range(6):
        world.tick()
        world.traffic()
    assert world.kinds == ["held"]
    world.driver.promote(full=False, reason="I looked")
    assert world.rollout.state == "running"
    world.users = 40
    assert world.run() == ["held", "step_passed", "promoted"]


def test_a_held_canary_that_turns_bad_is_rolled_back(tmp_path: Path) -> None:
    """Nobody has to be awake for that."""
    world = World(tmp_path, users=3, step={"min": "3s", "max": "6s", "on_inconclusive": "hold"})
    world.run()
    world.users, world.answer = 40, bad
    for _ in range(30):
        world.tick()
        world.traffic()
    assert world.kinds == ["held", "rolled_back"]


@pytest.mark.parametrize(
    ("health", "reason", "ticks"),
    [
        (Health(stable_ready=True, canary_alive=False, canary_ready=False), "process died", 1),
        (Health(stable_ready=True, canary_alive=True, canary_ready=False), "readiness check", 5),
    ],
)
def test_a_canary_that_served_and_is_gone_is_rolled_back_at_once(
    tmp_path: Path, health: Health, reason: str, ticks: int
) -> None:
    """Without waiting for a block, once it is clear that the other arm is well; and it is not to be started again."""
    world = World(tmp_path, block=60)
    world.run(4)
    assert world.loop is not None
    assert world.loop.lost("r-2")
    assert not world.loop.lost("r-1")
    world.health = health
    world.run(ticks)
    assert world.kinds == ["rolled_back"]
    assert reason in world.events[0].data["reasons"][0]
    assert world.rollout.results[0].units.keys() == {"stable", "canary"}


@pytest.mark.parametrize("first", ["both", "canary", "stable"])
def test_a_stall_of_both_arms_is_held_against_none(tmp_path: Path, first: str) -> None:
    """A starved machine answers neither arm; whichever is noticed first, and returns last, the rollout goes on."""
    world = World(tmp_path)
    world.run(3)
    silent = replace(WELL, canary_ready=False)
    one = {"both": replace(silent, stable_ready=False), "canary": silent, "stable": replace(WELL, stable_ready=False)}
    for health, ticks in ((one[first], 2), (one["both"], 20), (one[first], 2)):
        world.health = health
        assert world.run(ticks) == []
    world.health = WELL
    assert world.run() == ["step_passed", "promoted"]


@pytest.mark.parametrize("stable_is_back", [False, True])
def test_processes_that_died_together_are_started_again(tmp_path: Path, stable_is_back: bool) -> None:
    """Out of memory, say; also when the stable one has been started again already, and then takes its time."""
    world = World(tmp_path)
    world.run(3)
    assert world.loop is not None
    world.health = Health(stable_ready=False, canary_alive=False, canary_ready=False, canary_starts=9)
    world.tick()
    assert (world.kinds, world.loop.lost("r-2")) == ([], False)
    world.now += 300
    world.tick()
    world.health = replace(world.health, stable_ready=stable_is_back, canary_alive=True)
    world.tick()
    world.now += 30
    assert world.run(1) == []
    world.health = WELL
    assert world.run() == ["step_passed", "promoted"]


def test_a_canary_that_cannot_start_ends_once_the_other_arm_could(tmp_path: Path) -> None:
    """Attempts while neither started are not counted."""
    world = World(tmp_path)
    world.health = Health(stable_ready=False, canary_alive=False, canary_ready=False, canary_starts=7)
    world.tick()
    world.health = replace(world.health, stable_ready=True, canary_starts=9)
    world.tick()
    assert world.kinds == []
    world.health = replace(world.health, canary_starts=10)
    world.tick()
    assert "ended 3 times" in world.events[0].data["reasons"][0]


@pytest.mark.parametrize("stable_ready", [True, False])
def test_a_canary_that_turns_dead_goes_long_before_its_block_ends(tmp_path: Path, stable_ready: bool) -> None:
    """A block of a minute, half of it good; whether or not the stable arm misses its checks, as long as it answers."""
    world = World(tmp_path, block=60)
    assert world.run(60) == []
    world.answer, world.health = dead, replace(WELL, stable_ready=stable_ready)
    turned = world.now
    assert world.run() == ["rolled_back"]
    assert "requests to the canary failed within" in world.events[0].data["reasons"][0]
    assert world.now - turned <= 4


@pytest.mark.parametrize("stable_ready", [True, False])
def test_an_outage_of_both_arms_stops_nothing(tmp_path: Path, stable_ready: bool) -> None:
    """What they both need is away; when it is back, the rollout goes on."""
    world = World(tmp_path)
    world.run(3)
    world.answer = lambda _number, _arm: {"status": 503}
    world.health = replace(WELL, stable_ready=stable_ready)
    assert world.run(30) == []
    world.answer, world.health = fine, WELL
    assert world.run() == ["step_passed", "promoted"]


def test_the_block_of_a_dead_canary_counts_without_a_ready_control(tmp_path: Path) -> None:
    """Too few users for the quick stop, and a stable arm that answers though it misses its checks."""
    world = World(tmp_path, users=0)
    world.run(1)
    world.health = replace(WELL, stable_ready=False)
    unlucky = next(unit for unit in map(str, range(99)) if assigned_arm("o-1", unit, 20) == "canary")
    happy = next(unit for unit in map(str, range(99)) if assigned_arm("o-1", unit, 20) == "stable")
    for index in range(30):
        world.write(world.line(unlucky, world.now + index / 40, status=500), world.line(happy, world.now + index / 40))
    world.traffic(3.0)
    world.tick()
    assert world.kinds == ["rolled_back"]
    assert "requests to the canary failed within 1 seconds" in world.events[0].data["reasons"][0]


def test_one_broken_client_is_not_everybody(tmp_path: Path) -> None:
    """It tries again all the time, and for a while nobody else meets the canary."""
    world = World(tmp_path, users=0, block=60)
    world.run(1)
    unlucky = next(unit for unit in map(str, range(99)) if assigned_arm("o-1", unit, 20) == "canary")
    for _ in range(12):
        world.write(*(world.line(unlucky, world.now + index / 200, status=500) for index in range(60)))
        world.traffic()
        world.tick()
    assert world.kinds == []


def test_a_canary_may_take_its_time_to_load_but_not_forever(tmp_path: Path) -> None:
    """A minute is fine, two are not; meanwhile it is no `lost` one. An hour asleep counts as none."""
    world = World(tmp_path)
    world.health = Health(stable_ready=True, canary_alive=False, canary_ready=False)
    world.tick()
    world.now += 3600
    for seconds in range(120):
        world.tick()
        if seconds == 60:
            assert world.loop is not None
            assert (world.kinds, world.loop.lost("r-2")) == ([], False)
        world.now += 1
    assert world.kinds == ["rolled_back"]
    assert "did not become ready" in world.events[0].data["reasons"][0]


def test_the_log_is_kept_from_where_the_checkpoint_reads(tmp_path: Path) -> None:
    """What a restart would read again must not be deleted before."""
    world = World(tmp_path)
    world.tick()
    assert world.loop is not None
    world.traffic()
    before = world.loop.position
    world.tick()
    assert world.loop.position == before
    world.traffic(4.0)
    world.tick()
    assert world.loop.position > before


def test_the_blocks_that_decided_are_kept(tmp_path: Path) -> None:
    """They replay to the same totals."""
    world = World(tmp_path)
    world.run()
    assert judge(world.plan, read_blocks(world.store, "o-1")).to_dict() == world.events[-1].data["verdict"]


def test_what_is_kept_of_an_outage_is_what_was_judged(tmp_path: Path) -> None:
    """Blocks without a control counted for nothing; judged again from the store, they still do."""

    def out(number: int, _arm: str) -> dict[str, Any]:
        return {"status": 503} if 160 <= number < 480 else {}

    world = World(tmp_path, answer=out)
    assert world.run() == ["step_passed", "promoted"]
    kept = read_blocks(world.store, "o-1")
    assert judge(world.plan, kept).to_dict() == world.events[-1].data["verdict"]
    assert [block for block in kept if not block.metrics]


def test_an_idle_beginning_and_an_idle_end_are_kept(tmp_path: Path) -> None:
    """A step lasts from its first interval to the one that ends it, also where nobody came."""
    world = World(tmp_path, step={"min": "3s", "max": "20s"})
    users, world.users = world.users, 0
    world.run(4)
    world.users = users
    world.run(2)
    world.users = 0
    world.run()
    assert world.kinds[-1] == "held"
    kept = read_blocks(world.store, "o-1")
    again = judge(world.plan, kept)
    assert (again.decision, list(again.reasons)) == ("inconclusive", world.events[-1].data["reasons"])
    assert len(kept) < kept[-1].index


def test_a_shadow_phase_shows_the_canary_copies_and_no_user(tmp_path: Path) -> None:
    """Then the steps begin as ever; its numbers are in the ledger, and who came meanwhile is no unit of the judge."""
    world = World(tmp_path, shadow=True)
    assert (world.rollout.shadowing, world.rollout.weight) == (True, 0)
    while world.rollout.shadowing:
        assert world.weight == 0
        world.run(1)
        assert sum(world.units.values()) == 0
    assert world.loop is not None
    assert world.loop._builder is not None
    empty = world.loop._builder.checkpoint()
    assert (empty["seen"], empty["sums"], empty["lines"]["newest"]) == (0, [], -1)
    (event,) = world.events
    assert (event.kind, event.actor) == ("shadow", "judge")
    shadow = event.data["shadow"]
    assert (shadow["different"], shadow["failures"]) == (0.25, {"stable": 0, "canary": 0})
    assert 3 <= shadow["seconds"] <= 4
    assert shadow["requests"] == shadow["rows"] > 200
    assert world.run() == ["shadow", "step_passed", "promoted"]
    assert [(one.weight, one.verdict) for one in world.rollout.results] == [
        (0, "promote"),
        (20, "promote"),
        (50, "promote"),
    ]
    copied = sum(record.weight == 0 for record in map(parse_record, world.log.read_bytes().splitlines())) // 2
    assert sum(world.units.values()) <= world.number - copied


def test_a_canary_that_fails_its_copies_never_meets_a_user(tmp_path: Path) -> None:
    """Within seconds, whatever the phase would still take; also when the stable arm misses its readiness checks."""
    world = World(tmp_path, shadow=True, answer=dead, step={"min": "10m", "max": "1h"})
    assert world.run() == ["rolled_back"]
    event = world.events[0]
    assert "copied requests to the canary failed within" in event.data["reasons"][0]
    assert "No user met it" in event.data["reasons"][0]
    assert event.data["shadow"]["failures"]["canary"] >= 20
    assert [(one.weight, one.units) for one in world.rollout.results] == [(0, {"stable": 0, "canary": 0})]
    assert world.rollout.results[0].seconds <= 4
    assert all(b"canary/" not in line for line in world.log.read_bytes().splitlines())
    status = world.driver.status()
    assert (status["shadow"]["running"], status["shadow"]["failures"]["stable"]) == (False, 0)


def test_a_share_of_failures_is_left_to_the_steps(tmp_path: Path) -> None:
    """The numbers say it before any user met the canary, the judge decides it on users."""
    world = World(tmp_path, shadow=True, answer=bad)
    assert world.run() == ["shadow", "rolled_back"]
    numbers = world.events[0].data["shadow"]
    assert numbers["failures"]["canary"] == pytest.approx(numbers["requests"] / 4, abs=1)


def test_a_canary_that_dies_in_its_shadow_phase_is_rolled_back(tmp_path: Path) -> None:
    """As in a step."""
    world = World(tmp_path, shadow=True)
    world.run(3)
    world.health = Health(stable_ready=True, canary_alive=False, canary_ready=False)
    world.run(1)
    assert world.kinds == ["rolled_back"]
    assert "process died" in world.events[0].data["reasons"][0]
    assert world.events[0].data["shadow"]["requests"] > 0


@pytest.mark.parametrize(("answer", "kinds"), [(fine, ["shadow", "step_passed", "promoted"]), (dead, ["rolled_back"])])
def test_a_supervisor_killed_at_every_tick_of_a_shadow_phase_comes_to_the_same_numbers(
    tmp_path: Path, answer: Answer, kinds: list[str]
) -> None:
    """Nothing lives in memory that matters, and nothing is counted twice."""
    worlds = []
    for restarts in (False, True):
        folder = tmp_path / str(restarts)
        folder.mkdir()
        world = World(folder, shadow=True, answer=answer)
        for _ in range(120):
            world.run(1)
            if restarts:
                world.restart()
            if not world.rollout.open:
                break
        worlds.append(world)
    assert worlds[0].kinds == kinds
    assert [event.to_json() for event in worlds[1].events] == [event.to_json() for event in worlds[0].events]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("answer", [fine, dead])
def test_a_kill_at_any_write_of_a_shadow_phase_changes_no_event(tmp_path: Path, answer: Answer, when: str) -> None:
    """Checkpoint or ledger: the same events with the same numbers, none twice."""

    def story(name: str, kill_at: int | None) -> tuple[World, int]:
        folder = tmp_path / name
        folder.mkdir()
        world, writes = World(folder, shadow=True, answer=answer), [0]

        def count(moment: str) -> None:
            if moment == when:
                writes[0] += 1
                if writes[0] - 1 == kill_at:
                    raise Killed

        world.store.on_write = count
        for _ in range(24):
            try:
                world.run(1)
            except Killed:
                world.restart()
                world.tick()
        return world, writes[0]

    expected, total = story("undisturbed", None)
    assert expected.kinds[0] == ("shadow" if answer is fine else "rolled_back")
    for number in range(total):
        world, _ = story(str(number), number)
        events = [event.to_json() for event in world.events]
        assert events == [event.to_json() for event in expected.events][: len(events)], number
        assert events


@pytest.mark.parametrize(
    ("action", "kinds", "weight"),
    [("hold", ["held"], 0), ("rollback", ["inconclusive"], 0), ("promote", ["shadow"], 20)],
)
def test_a_shadow_phase_without_traffic_ends_as_the_config_says(
    tmp_path: Path, action: str, kinds: list[str], weight: int
) -> None:
    """After `step.max`, once; a held one goes on copying until a person decides."""
    world = World(tmp_path, users=0, shadow=True, step={"min": "3s", "max": "6s", "on_inconclusive": action})
    for _ in range(16):
        world.tick()
        world.traffic()
    assert (world.kinds, world.rollout.weight) == (kinds, weight)
    assert "no copied request was answered by both" in world.events[0].data["reasons"][0]
    if action == "hold":
        assert world.rollout.shadowing
        world.restart()
        world.users = 40
        for _ in range(20):
            world.tick()
            world.traffic()
        assert world.kinds == ["held"]
        assert world.driver.status()["shadow"]["requests"] > 0
        world.driver.promote(full=False, reason="I looked")
        assert (world.rollout.state, world.rollout.weight) == ("running", 20)
        assert world.rollout.shadow is not None
        assert world.rollout.shadow["requests"] > 0


def test_a_held_shadow_phase_still_stops_a_dead_canary(tmp_path: Path) -> None:
    """Nobody has to be awake for that."""
    world = World(tmp_path, users=0, shadow=True, step={"min": "3s", "max": "6s", "on_inconclusive": "hold"})
    world.run(20)
    world.users, world.answer = 40, dead
    for _ in range(10):
        world.tick()
        world.traffic()
    assert world.kinds == ["held", "rolled_back"]


def test_a_person_may_pass_or_end_a_shadow_phase(tmp_path: Path) -> None:
    """With what is known until then; the judge's own event for the phase comes too late."""
    world = World(tmp_path, shadow=True)
    world.run(5)
    stale = world.rollout
    assert world.driver.promote(full=False, reason="looks good").weight == 20
    assert world.loop is not None
    for _ in range(8):
        world.now += 1
        world.copy(world.now)
        world.number += 1
    assert world.loop.tick(stale, WELL) == []
    assert world.kinds == ["shadow"]
    assert world.events[0].data["shadow"]["requests"] > 0
    world.driver.abort("enough")
    assert world.rollout.weight == 0


def test_two_who_pass_the_shadow_phase_at_once_pass_it_once(tmp_path: Path) -> None:
    """The second meant the phase, not the step that began meanwhile."""
    world = World(tmp_path, shadow=True)
    late, seen = world.driver, world.rollout
    late._seen = lambda: seen  # type: ignore[method-assign]  # what the second one saw before the first one's answer
    world.driver.promote(full=False, reason="looks good")
    with pytest.raises(Conflict, match="o-1 went on to 20 % meanwhile"):
        late.promote(full=False, reason="me too")
    assert world.kinds == ["shadow"]


def test_the_status_tells_of_a_shadow_phase_while_it_runs(tmp_path: Path) -> None:
    """Its numbers and the time that it will still take; without such a phase there is nothing to tell."""
    world = World(tmp_path, shadow=True)
    assert world.driver.status()["shadow"] == {"running": True}
    world.run(5)
    status = world.driver.status()
    assert (status["shadow"]["running"], status["weight"], status["state"]) == (True, 0, "running")
    assert status["shadow"]["different"] == pytest.approx(0.25, abs=0.01)
    assert 0 < status["forecast_seconds"] < 3
    other = tmp_path / "other"
    other.mkdir()
    assert World(other).driver.status()["shadow"] is None


def test_old_files_of_the_log_may_go_during_a_shadow_phase(tmp_path: Path) -> None:
    """It may last for days, and nothing in them will be counted."""
    world = World(tmp_path, shadow=True, step={"min": "10m", "max": "1h"})
    world.tick()
    assert world.loop is not None
    before = world.loop.position
    world.run(6)
    assert world.loop.position > before
