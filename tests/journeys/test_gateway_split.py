"""What users see of a rollout: one arm each, the share that was planned, and no error of ours."""

from __future__ import annotations

import asyncio

import pytest
from journeys.journey import Journey, wait_until

from tidegate.core.assignment import assigned_arm
from tidegate.serving.http_client import ask_all, request_bytes

pytestmark = pytest.mark.long

USERS = [f"person-{index}" for index in range(1000)]


def _arms(stack: Journey) -> list[list[str]]:
    """The arms that each user met in three requests."""
    head = {"host": "gateway", "content-type": "application/json"}
    requests = [
        request_bytes("POST", "/predict", {**head, "x-user-id": user}, stack.bodies[index % len(stack.bodies)])
        for index, user in enumerate(USERS * 3)
    ]
    answers = asyncio.run(ask_all(stack.address, requests, connections=16))
    assert all(one is not None and one.status == 200 for one in answers)
    arms = [one.header(b"x-tidegate-arm") for one in answers if one is not None]
    return [arms[index :: len(USERS)] for index in range(len(USERS))]


def test_a_thousand_users_keep_their_arm_while_the_canary_grows(stack: Journey) -> None:
    """Three requests at each weight: no switches, the canary set only grows, and the offline formula knows it."""
    stack.configure(steps="[5, 20, 50]", step="{min: 10m, max: 20m}")
    canary: set[str] = set()
    with stack.rollout_running():
        rollout = stack.rollout.id
        for weight in (5, 20, 50):
            if weight > 5:
                assert stack.must("rollout", "promote", "--json").json["weight"] == weight
            wait_until(lambda weight=weight: _routed(stack, weight), f"{weight} % is not routed")
            arms = _arms(stack)
            assert [one for one in arms if len(set(one)) != 1] == []
            now = {user for user, met in zip(USERS, arms, strict=True) if met[0] == "canary"}
            assert now == {user for user in USERS if assigned_arm(rollout, user, weight) == "canary"}
            assert canary <= now
            # Five standard deviations of a binomial share.
            assert abs(len(now) / 1000 - weight / 100) < 5 * (weight / 100 * (1 - weight / 100) / 1000) ** 0.5
            canary = now
        stack.must("rollout", "abort")


def _routed(stack: Journey, weight: int) -> bool:
    return any(one.weight == weight for one in stack.log()[-50:])


def test_promotion_and_rollback_under_load_lose_no_request(stack: Journey) -> None:
    """Back and forth with users on every arm: each of them is answered, always."""
    stack.configure(step="{min: 10m, max: 20m}")
    canary = stack.other()
    with stack.rollout_running(canary) as load:
        stack.must("rollout", "promote")
        stack.must("rollout", "promote")
        stack.settled()
        assert stack.champion == canary
        stack.must("rollback", "--reason", "to see whether anybody notices")
        stack.settled()
        assert stack.champion != canary
        stack.must("rollout", "start", canary)
        stack.wait_for_canary()
        stack.must("rollout", "abort")
        stack.settled()
        answered = load.report.answered
        wait_until(lambda: load.report.answered > answered + 100, "nobody is answered")
    report = load.report
    assert (report.failed, report.unsent, set(report.statuses)) == (0, 0, {200})
