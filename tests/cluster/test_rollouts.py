"""Rollouts that a real Argo Rollouts moves, and the judge decides: promoted, rolled back, overtaken, left alone."""

from __future__ import annotations

import pytest
from cluster_world import BAD, GOOD, World, until

from tidegate.core import kube

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def test_a_good_canary_is_promoted_step_by_step(world: World) -> None:
    """Both weights are seen on the route, each step passes on evidence, and the new release is the champion."""
    world.deploy_first()
    second = world.release(2)
    rollout = world.start(second)
    with world.traffic(rollout.id, GOOD):
        world.at_weight(20)
        world.at_weight(50)
        ended = world.settled(rollout.id)
    assert (ended.state, ended.canary) == ("promoted", second)
    assert [one.verdict for one in ended.results] == ["promote", "promote"]
    assert world.environment.state().champion == second
    until("the route at rest", lambda: world.weights() == {"stable": 100, "canary": 0})
    assert world.driver.wait_healthy(120)


def test_a_bad_canary_is_rolled_back_and_the_champion_keeps_everybody(world: World) -> None:
    """The judge says so at the first weight; Argo takes the weight away; the ledger says why."""
    first = world.deploy_first()
    rollout = world.start(world.release(2))
    with world.traffic(rollout.id, BAD):
        world.at_weight(20)
        ended = world.settled(rollout.id)
    assert ended.state == "rolled_back"
    assert any("error_rate" in reason for reason in ended.reasons), ended.reasons
    assert world.environment.state().champion == first
    until("the route at rest", lambda: world.weights() == {"stable": 100, "canary": 0})
    service = world.cluster.get(kube.SERVICE, "demand-stable")
    stable = world.rollout()["status"]["stableRS"]
    assert service is not None
    assert service["spec"]["selector"]["rollouts-pod-template-hash"] == stable


def test_a_judge_that_is_killed_and_comes_back_changes_no_verdict(world: World) -> None:
    """Its calls fail for a while in the middle of an analysis; what it had counted is in the store."""
    world.deploy_first()
    second = world.release(2)
    rollout = world.start(second)
    with world.traffic(rollout.id, GOOD):
        world.at_weight(20)
        world.judge.kill()
        until("a failed call", lambda: "Error" in world.shown(), 60)
        world.judge.start()
        ended = world.settled(rollout.id)
    assert (ended.state, world.environment.state().champion) == ("promoted", second)


def test_a_third_revision_in_the_middle_replaces_the_second(world: World) -> None:
    """The rollout of the second ends as replaced, its evidence is not the third's, and the third is judged anew."""
    first = world.deploy_first()
    second, third = world.release(2), world.release(3)
    overtaken = world.start(second)
    with world.traffic(overtaken.id, GOOD):
        world.at_weight(20)
    rollout = world.start(third, replace=True)
    assert rollout.id != overtaken.id
    with world.traffic(rollout.id, BAD):
        ended = world.settled(rollout.id)
    states = {one.id: one.state for one in world.environment.state().rollouts}
    assert states == {overtaken.id: "replaced", rollout.id: "rolled_back"}
    assert (ended.canary, world.environment.state().champion) == (third, first)


def test_a_person_ends_a_rollout(world: World) -> None:
    """Abort by tidegate: Argo takes the canary away, and the ledger has the person's reason."""
    first = world.deploy_first()
    rollout = world.start(world.release(2))
    with world.traffic(rollout.id, GOOD):
        world.at_weight(20)
        world.driver.abort("the shop window changes today")
        ended = world.settled(rollout.id)
    assert (ended.state, world.environment.state().champion) == ("aborted", first)
    assert ended.reasons == ("the shop window changes today",)
    until("the route at rest", lambda: world.weights() == {"stable": 100, "canary": 0})
