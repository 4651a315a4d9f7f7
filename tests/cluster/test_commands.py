"""The commands that a person types, on a real API server: ship, diff, apply in a rollout, rollback, doctor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cluster_world import ENV, GOOD, PATIENCE, World, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

Cli = Callable[..., Any]


def test_a_release_is_shipped_compared_tried_and_taken_back(world: World, cli: Cli) -> None:
    """The digest that was registered is what runs; an apply in a rollout moves no user; a rollback does at once."""

    def tidegate(*words: str) -> Any:
        return cli("--env", ENV, *words, "--json", cwd=world.project)

    first = world.release(1)
    shipped = tidegate("ship", "--release", first)
    assert (shipped.exit_code, shipped.json["decision"]) == (0, "deployed"), shipped
    assert world.driver.wait_healthy(PATIENCE), world.shown()
    image = world.rollout()["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith(f"@sha256:{1:064x}")
    compared = tidegate("diff")
    assert (compared.exit_code, compared.json["changes"]) == (0, []), compared.stdout
    looked = {one["name"]: one for one in tidegate("doctor").json["findings"]}
    wanted = ("cluster", "namespace", "Argo Rollouts", "rights: apply", "rights: rollouts", "judge token", "store")
    assert {name: looked[name]["status"] for name in wanted} == dict.fromkeys(wanted, "ok"), looked

    rollout = world.start(world.release(2))
    with world.traffic(rollout.id, GOOD):
        world.at_weight(20)
        applied = tidegate("apply")
        assert applied.exit_code == 0, applied
        assert world.weights()["canary"] >= 20
        status = tidegate("rollout", "status")
        assert (status.json["id"], status.json["state"]) == (rollout.id, "running"), status
        back = tidegate("rollback", "--reason", "the shop is closed today")
        assert back.exit_code == 0, back
        ended = world.settled(rollout.id)
    assert (ended.state, world.environment.state().champion) == ("aborted", first)
    until("the route at rest", lambda: world.weights() == {"stable": 100, "canary": 0})
