"""What people and the judge decide, through the command line and a running stack."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
from journeys.journey import Journey, aliases, wait_until

from tidegate.pipelines.aliases import key, told

pytestmark = pytest.mark.long


def test_of_a_promotion_and_an_abort_at_once_one_wins(stack: Journey) -> None:
    """The other is told, by exit code 1 and what happened instead."""
    stack.configure(step="{min: 10m, max: 20m}")
    with stack.rollout_running():
        promotion, end = stack.start("rollout", "promote", "--full"), stack.start("rollout", "abort")
        said = {"promoted": promotion.communicate(timeout=90)[1], "aborted": end.communicate(timeout=90)[1]}
    codes = {"promoted": promotion.returncode, "aborted": end.returncode}
    assert sorted(codes.values()) == [0, 1], said
    over = stack.rollout
    assert codes[over.state] == 0
    loser = next(text for word, text in said.items() if word != over.state)
    assert f"Rollout {over.id} is over: it was {over.state}" in loser
    assert [one.kind for one in stack.environment.ledger.events()][-1] == over.state


def test_two_who_pass_the_same_step_at_once_pass_it_once(stack: Journey) -> None:
    """Nobody meant to go to 100 %."""
    stack.configure(step="{min: 10m, max: 20m}")
    with stack.rollout_running():
        both = [stack.start("rollout", "promote"), stack.start("rollout", "promote")]
        for one in both:
            one.communicate(timeout=90)
        rollout = stack.rollout
        if sorted(one.returncode for one in both) == [0, 0]:
            # One was so late that it saw, and meant, the second step.
            assert rollout.state == "promoted"
        else:
            assert (rollout.state, rollout.weight) == ("running", 50)


def test_a_second_rollout_is_refused_unless_it_replaces(stack: Journey) -> None:
    """The refusal says which one runs; a replacement that cannot begin ends nothing."""
    stack.configure(step="{min: 10m, max: 20m}")
    with stack.rollout_running() as load:
        first = stack.rollout
        refused = stack.cli("rollout", "start", first.canary)
        assert refused.exit_code == 1
        assert f"Rollout {first.id} of version" in refused.stderr
        assert "--replace" in refused.stderr
        assert stack.cli("rollout", "start", stack.champion, "--replace").exit_code == 1
        assert stack.rollout == first
        stack.must("rollout", "start", first.canary, "--replace")
        assert [one.state for one in stack.state.rollouts[-2:]] == ["replaced", "running"]
        stack.wait_for_canary()
        stack.must("rollout", "abort", "--reason", "enough")
    assert set(load.report.statuses) == {200}


def test_a_frozen_environment_ships_nothing_but_lets_a_person_start(stack: Journey) -> None:
    """The version is registered, so that a person can try it."""
    release = stack.new_release()
    stack.must("freeze", "--reason", "black friday")
    with stack.traffic() as load:
        wait_until(lambda: load.report.users > 60, "no users come")
        refused = stack.cli("ship")
        assert (refused.exit_code, "black friday" in refused.stderr) == (1, True), refused
        assert stack.state.challenger == release
        stack.must("rollout", "start")
        assert stack.rollout.canary == release
        stack.must("rollout", "abort")


def test_a_failing_canary_ends_ship_with_6_and_its_reason(stack: Journey) -> None:
    """A share of failures is harm by statistics; the champion stays."""
    champion, release = stack.champion, stack.new_release()
    with stack.traffic() as load:
        wait_until(lambda: load.report.users > 60, "no users come")
        shipping = stack.start("ship", "--json")
        stack.wait_for_canary_process()
        stack.fault(release, fail=0.5)
        stdout, stderr = shipping.communicate(timeout=120)
    assert shipping.returncode == 6, (stdout, stderr)
    document = json.loads(stdout)
    assert document["rollout"]["decision"] == "rollback"
    assert "The canary fails" in document["reasons"][0]
    assert (document["release"], stack.champion) == (release, champion)
    again = stack.cli("ship", "--json")
    assert (again.exit_code, again.json["rollout"]["decision"]) == (6, "rollback")


def test_a_canary_that_fails_everything_is_without_users_after_a_block(stack: Journey) -> None:
    """Before `step.min`, and without statistics."""
    stack.configure(step="{min: 10m, max: 20m}")
    release = stack.other()
    with stack.traffic(rps=200, users_per_second=150) as load:
        wait_until(lambda: load.report.users > 60, "no users come")
        stack.must("rollout", "start", release)
        stack.wait_for_canary_process()
        stack.fault(release, fail=1.0)
        broken = time.time()
        over = stack.ended()
        stack.settled()
    assert over.state == "rolled_back", over
    # Within its first block it also answered well, so the statistics may be as quick as the hard stop.
    assert "to the canary failed within" in over.reasons[0] or "The canary fails" in over.reasons[0]
    last = max(one.at for one in stack.log() if one.rollout == over.id and one.arm == "canary" and one.kind == "split")
    # The block in which it broke holds good answers too; then one whole block, what may be late, and a busy machine.
    assert last - broken < 6


def test_without_users_ship_registers_a_challenger_and_says_so(stack: Journey) -> None:
    """Exit code 5, no rollout, and the command that starts one later."""
    release, rollouts = stack.new_release(), len(stack.state.rollouts)
    lately = stack.log()
    wait_until(lambda: not lately or time.time() - lately[-1].at > 6, "time does not pass")
    shipped = stack.cli("ship", "--json")
    assert shipped.exit_code == 5, shipped
    document = shipped.json
    assert document["rollout"] | {"steps": []} == {"id": None, "decision": "inconclusive", "steps": []}
    assert "tidegate rollout start" in document["hint"]
    state = stack.state
    assert (state.challenger, len(state.rollouts)) == (release, rollouts)
    assert aliases(stack)["challenger"] == state.versions[release]


def test_what_cannot_be_decided_is_held_for_a_person(stack: Journey) -> None:
    """Exit code 5; the weight stays until somebody promotes or aborts."""
    stack.configure(step="{min: 1s, max: 2s}", safe="0.051")
    release = stack.new_release()
    with stack.traffic() as load:
        wait_until(lambda: load.report.users > 60, "no users come")
        shipped = stack.cli("ship", "--json")
        assert shipped.exit_code == 5, shipped
        assert shipped.json["rollout"]["decision"] == "inconclusive"
        assert (stack.rollout.state, stack.rollout.weight, stack.rollout.canary) == ("held", 20, release)
        stack.must("rollout", "promote", "--full")
    assert stack.champion == release


def test_rollback_works_at_once_while_mlflow_is_away(stack: Journey) -> None:
    """The ledger decides; the aliases follow when the database is back, and none is made in its place."""
    champion = stack.champion
    environment = stack.environment
    wait_until(lambda: told(environment) == key(environment.state()), "the aliases do not follow")
    database = stack.root / ".tidegate" / "mlflow.db"
    away = database.with_name("away.db")
    shutil.move(database, away)
    try:
        with stack.traffic() as load:
            if not stack.state.history:
                pytest.skip("there was no other champion yet")
            done = stack.cli("rollback", "--reason", "customers complain", "--json")
            assert done.exit_code == 0, done
            stack.settled()
        assert done.json["from"] == champion
        assert stack.champion == done.json["release"] != champion
        assert (load.report.failed, set(load.report.statuses)) == (0, {200})
        assert not database.exists()
    finally:
        database.unlink(missing_ok=True)
        shutil.move(away, database)
    stack.must("step", "aliases")
    assert aliases(stack)["champion"] == stack.state.versions[stack.champion]


@pytest.mark.parametrize("end", ["dies", "fails"])
def test_a_champion_that_breaks_after_its_promotion_goes_back(stack: Journey, end: str) -> None:
    """The one before is warm: it takes over without a judge, with the reason in the ledger."""
    stack.configure(step="{min: 10m, max: 20m}")
    before, release = stack.champion, stack.other()
    with stack.rollout_running(release):
        stack.must("rollout", "promote", "--full")
        stack.settled()
        assert stack.champion == release
        if end == "dies":
            os.kill(stack.ps()["stable"]["pid"], signal.SIGKILL)
        else:
            stack.fault(release, fail=1.0)
        wait_until(lambda: stack.champion == before, "it does not go back")
        stack.settled()
    event = stack.environment.ledger.events()[-1]
    assert (event.kind, event.actor) == ("rollback", "judge")
    assert ("died" if end == "dies" else "failed within") in event.data["reasons"][0]


def test_a_promotion_killed_half_way_is_completed_by_the_stack(stack: Journey) -> None:
    """The ledger decided, so MLflow's alias follows; saying it again is refused with what happened."""
    stack.configure(step="{min: 10m, max: 20m}")
    release = stack.other()
    with stack.rollout_running(release):
        child = stack.start("rollout", "promote", "--full")
        wait_until(lambda: stack.champion == release or child.poll() is not None, "it is not promoted")
        child.kill()
        child.communicate()
        stack.settled()
    again = stack.cli("rollout", "promote", "--full")
    assert (again.exit_code, "it was promoted" in again.stderr) == (1, True)
    wait_until(lambda: aliases(stack).get("champion") == stack.state.versions[release], "the alias does not follow")
