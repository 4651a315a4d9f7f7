"""Kill -9 in the middle of a rollout: users are served on, and the judge decides as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time

import pytest
from journeys.journey import Journey, living, wait_until

pytestmark = pytest.mark.long


def test_a_killed_canary_is_rolled_back_and_gets_nobody(stack: Journey) -> None:
    """It goes at once, with that reason; the champion answers everybody, before and after."""
    champion = stack.champion
    with stack.rollout_running() as load:
        stack.kill("canary")
        over = stack.ended()
        assert (over.state, over.weight, stack.champion) == ("rolled_back", 0, champion)
        assert "process died" in over.reasons[0]
        stack.settled()
        before = load.report.statuses.copy()
        answered = load.report.answered
        wait_until(lambda: load.report.answered > answered + 100, "nobody is answered")
        assert load.report.statuses - before == {200: load.report.statuses[200] - before[200]}


def test_a_killed_gateway_is_started_again_and_the_rollout_goes_on(stack: Journey) -> None:
    """The same split with the same users on the canary; the good canary is promoted."""
    canary = stack.other()
    with stack.rollout_running(canary):
        pids = stack.kill("gateway")
        wait_until(lambda: stack.ps()["gateway"]["ready"] and stack.ps()["gateway"]["pid"], "no gateway")
        assert stack.ps()["gateway"]["pid"] not in pids.values()
        over = stack.ended()
    assert (over.state, stack.switched_back(over.id)) == ("promoted", [])
    assert stack.champion == canary


def test_users_are_served_while_up_is_dead_and_the_next_one_resumes(stack: Journey) -> None:
    """Envoy and the services live on; a person's promotion meanwhile is followed, and the judge ends what it began."""
    canary = stack.other()
    with stack.rollout_running(canary) as load:
        before = {name: one["pid"] for name, one in stack.ps().items() if name != "up"}
        stack.kill("up")
        answered = load.report.answered
        assert stack.must("rollout", "promote", "--json").json["weight"] == 50
        wait_until(lambda: load.report.answered > answered + 100, "nobody is answered")
        left = stack.cli("ps")
        assert (left.exit_code, "goes on: the gateway, version" in left.stderr) == (1, True)
        stack.up()
        assert {name: one["pid"] for name, one in stack.ps().items() if name != "up"} == before
        over = stack.ended()
    assert over.state == "promoted"
    assert [one.weight for one in over.results] == [20, 50]
    status = stack.environment.driver.status(over.id)
    assert status["srm"]["ok"], status
    report = load.report
    assert (report.failed, report.unsent, set(report.statuses)) == (0, 0, {200})
    assert stack.switched_back(over.id) == []


def test_a_canary_that_breaks_while_up_is_dead_is_rolled_back_by_the_next(stack: Journey) -> None:
    """What happened meanwhile is in the gateway's log."""
    canary, champion = stack.other(), stack.champion
    with stack.rollout_running(canary) as load:
        stack.kill("up")
        stack.fault(canary, fail=1.0)
        wait_until(lambda: load.report.statuses[500] > 60, lambda: str(load.report.statuses))
        stack.up()
        over = stack.ended()
    assert (over.state, stack.champion) == ("rolled_back", champion)


def test_after_everything_was_killed_up_goes_on_with_the_rollout(stack: Journey) -> None:
    """As after a restart of the machine: nothing is held against the canary, and it is promoted."""
    canary = stack.other()
    with stack.rollout_running(canary):
        pids = stack.kill("up", "gateway", "stable", "canary")
        assert not any(living(pid) for pid in pids.values())
        stack.up()
        over = stack.ended()
    assert over.state == "promoted", over
    assert stack.champion == canary


def test_a_canary_that_died_while_up_was_dead_is_not_started_again(stack: Journey) -> None:
    """The champion lived on, so it was the canary's own death."""
    champion = stack.champion
    with stack.rollout_running():
        stack.kill("up", "canary")
        stack.up()
        over = stack.ended()
    assert (over.state, stack.champion) == ("rolled_back", champion)
    assert "process died" in over.reasons[0]


def test_a_killed_champion_costs_the_canary_nothing(stack: Journey) -> None:
    """Its users get errors until it runs again, the canary's users do not, and no verdict comes of it."""
    canary = stack.other()
    with stack.rollout_running(canary):
        stack.kill("stable")
        wait_until(lambda: stack.ps().get("stable", {}).get("ready"), "the champion does not come back")
        over = stack.ended()
    assert over.state == "promoted", over
    failed = [one for one in stack.log() if one.rollout == over.id and one.failed]
    assert {one.arm for one in failed} <= {"stable"}
    assert stack.switched_back(over.id) == []


def test_processes_that_die_together_are_both_started_again(stack: Journey) -> None:
    """Out of memory, say, while `up` lives on: nothing is held against the canary."""
    canary = stack.other()
    with stack.rollout_running(canary):
        pids = stack.kill("stable", "canary")

        def again() -> bool:
            now = {name: one["pid"] for name, one in stack.ps().items()}
            return all(now.get(name, pid) != pid for name, pid in pids.items())

        wait_until(again, lambda: f"not started again: {stack.ps()}")
        over = stack.ended()
    assert (over.state, stack.champion) == ("promoted", canary), over


def test_a_stall_of_both_processes_ends_no_rollout(stack: Journey) -> None:
    """As on a starved machine: neither answers for seconds, longer than a readiness check is forgiven."""
    canary = stack.other()
    with stack.rollout_running(canary):
        pids = [stack.ps()[name]["pid"] for name in ("stable", "canary")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: not stack.ps()["stable"]["ready"], "it is not noticed")
            time.sleep(3)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        over = stack.ended()
    assert (over.state, stack.champion) == ("promoted", canary), over
