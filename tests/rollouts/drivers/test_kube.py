"""How rollouts on a cluster end: each with its true reason in the ledger, once, and never as evidence that was not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fakes import MemoryStore
from kube_api import Fault, KubeApi, kubeconfig, serving
from kube_argo import Argo, documents

from tidegate.core.config import Rollout
from tidegate.core.errors import Conflict, Permanent, TidegateError
from tidegate.core.kube import HTTP_ROUTE, ROLLOUT, Cluster, Document, Kind
from tidegate.registry.ledger import Draft, Ledger
from tidegate.registry.state import RolloutState, fold
from tidegate.rollouts.drivers import argo
from tidegate.rollouts.drivers.kube import KubeDriver
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan


@cache
def plan(rollout: str = "o-1") -> RolloutPlan:
    section = Rollout.model_validate({"guardrails": [Rollout().guardrails[0]], "steps": [20, 50]})
    return make_plan(section, rollout_id=rollout, block_seconds=60, units_per_minute=6000, error_rate=0.01)


@dataclass
class World:
    """A model whose release r-1 serves on a cluster, and r-2 and r-3 that wait."""

    api: KubeApi
    argo: Argo
    ledger: Ledger
    store: MemoryStore
    cluster: Cluster

    def driver(self) -> KubeDriver:
        """Of another process: it knows nothing but what is kept."""
        return KubeDriver(
            Ledger(self.store, "demand.prod"), self.store, 60.0, self.cluster, "demand", render=documents, patience=1.0
        )

    def begin(self, release: str = "r-2", rollout: str = "o-1") -> RolloutState:
        return self.driver().start(release, plan(rollout), by_hand=True, replace=False)

    def settled(self) -> RolloutState:
        found = self.driver().settle()
        assert found is not None
        return found

    def judge(self, decision: str, **verdict: Any) -> None:
        """What the judge leaves in the store."""
        told = {"decision": decision, "units": {"stable": 90, "canary": 10}, "reasons": ["errors doubled"]} | verdict
        self.store.write("rollouts/o-1/checkpoint.json", json.dumps({"verdict": told}).encode())

    def last(self) -> tuple[str, str, list[str]]:
        event = Ledger(self.store, "demand.prod").events()[-1]
        return event.kind, event.actor, list(event.data.get("reasons", ()))

    @property
    def champion(self) -> str | None:
        return fold(Ledger(self.store, "demand.prod").events()).champion


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(KubeApi()) as api:
        store = MemoryStore()
        ledger = Ledger(store, "demand.prod")
        for number in (1, 2, 3):
            data = {"release": f"r-{number}", "version": number, "run_id": "x"}
            ledger.append(lambda _, data=data: Draft("registered", data))  # type: ignore[misc]  # mypy knows no defaults
        ledger.append(lambda _: Draft("deployed", {"release": "r-1"}))
        cluster = Cluster("fake", "default", kubeconfig(tmp_path, api), patience=3.0)
        made = World(api, Argo(api), ledger, store, cluster)
        made.driver().serve("r-1")
        yield made


def test_the_judge_promotes_step_by_step(world: World) -> None:
    """Argo's analysis ends with the judge's word; the ledger gets the verdict and everybody gets the canary."""
    world.begin()
    world.argo.answer("promote")
    # The judge writes each step itself; where its write was lost, the next look makes up for it.
    assert world.settled().step == 1
    assert world.last() == ("step_passed", "judge", ["because"])
    world.judge("promote", reasons=["as good as before"])
    world.argo.answer("promote")
    after = world.settled()
    assert (after.state, after.verdict["decision"], world.champion) == ("promoted", "promote", "r-2")
    assert world.last() == ("promoted", "judge", ["as good as before"])


def test_the_judge_rolls_back(world: World) -> None:
    """With its verdict, its reasons and the users it counted."""
    world.begin()
    world.judge("rollback")
    world.argo.answer("rollback", "errors doubled")
    after = world.settled()
    assert (after.state, after.reasons, after.verdict["decision"]) == ("rolled_back", ("errors doubled",), "rollback")
    assert after.results[-1].units == {"stable": 90, "canary": 10}
    assert world.last()[1] == "judge"
    assert world.champion == "r-1"


def test_an_end_is_written_once_whoever_looks(world: World) -> None:
    """Many may settle; one event follows."""
    world.begin()
    world.argo.answer("rollback")
    for _ in range(3):
        world.settled()
    kinds = [event.kind for event in world.ledger.events()]
    assert kinds.count("rolled_back") == 1


def test_a_third_revision_replaces_the_rollout(world: World) -> None:
    """What was counted says nothing of it; the ledger names the image and who put it there."""
    world.begin()
    world.judge("promote", final=True)
    world.argo.set_image("ghcr.io/acme/demand:hotfix")
    after = world.settled()
    assert (after.state, after.verdict) == ("replaced", {})
    assert "by kubectl, not through tidegate: ghcr.io/acme/demand:hotfix" in after.reasons[0]
    # However that one ends, this one is over.
    world.argo.by_hand(promoteFull=True)
    assert (world.settled().state, world.champion) == ("replaced", "r-1")


def test_the_champion_is_asked_for_again_past_tidegate(world: World) -> None:
    """`kubectl argo rollouts undo` is an abort by whoever typed it."""
    world.begin()
    (first,) = [one for one in documents("r-1") if one["kind"] == "Rollout"]
    thing = world.api.read(ROLLOUT, "demand")
    assert thing is not None
    thing["spec"]["template"] = first["spec"]["template"]
    thing["metadata"]["generation"] += 1
    world.api.write(ROLLOUT, thing, manager="kubectl-argo-rollouts")
    world.argo.reconcile("demand")
    assert world.settled().state == "aborted"
    assert world.last()[1] == "kubectl-argo-rollouts"


def test_somebody_aborts_through_argo(world: World) -> None:
    """Not the judge's rollback, whatever the evidence says by then."""
    world.begin()
    world.judge("rollback")
    world.argo.by_hand(abort=True)
    after = world.settled()
    assert (after.state, after.verdict) == ("aborted", {})
    told = ["Aborted through Argo Rollouts, not by the judge."]
    assert world.last() == ("aborted", "kubectl-argo-rollouts", told)


def test_somebody_promotes_fully_through_argo(world: World) -> None:
    """The canary is the champion, and nobody says that the judge had found it good."""
    world.begin()
    world.argo.by_hand(promoteFull=True)
    after = world.settled()
    assert (after.state, after.verdict, world.champion) == ("promoted", {}, "r-2")
    told = ["Promoted through Argo Rollouts at 20 %, before the judge had decided."]
    assert world.last() == ("promoted", argo.ACTOR, told)


def test_somebody_passes_a_step_through_argo(world: World) -> None:
    """The ledger follows Argo's step, and says that it was no verdict."""
    world.begin()
    thing = world.api.read(ROLLOUT, "demand")
    assert thing is not None
    world.argo.by_hand(currentStepIndex=thing["status"]["currentStepIndex"] + 1)
    assert world.settled().step == 1
    assert world.last()[::2] == ("step_passed", ["Passed through Argo Rollouts, before the judge had decided."])


def test_pods_that_do_not_get_ready_are_no_verdict(world: World) -> None:
    """Argo's progress deadline ends the rollout, with Argo's words."""
    world.begin()
    world.argo.time_out()
    after = world.settled()
    assert (after.state, after.verdict, world.last()[1]) == ("aborted", {}, argo.ACTOR)
    assert "timed out progressing" in after.reasons[0]


def test_a_judge_that_is_not_reached_is_no_verdict(world: World) -> None:
    """Argo aborts after too many errors; that is what the ledger says."""
    world.begin()
    world.argo.answer("", "Post http://tidegate-judge:8080/v1/verdicts: connection refused", phase="Error")
    after = world.settled()
    assert (after.state, after.verdict) == ("aborted", {})
    assert "the judge could not be asked: Post" in after.reasons[0]


def test_an_analysis_without_a_verdict_holds(world: World) -> None:
    """A person decides; the promotion goes on from there, out of Argo's pause."""
    world.begin()
    world.argo.answer("continue", "too few users", phase="Inconclusive")
    assert (world.settled().state, world.settled().reasons) == ("held", ("too few users",))
    after = world.driver().promote(full=False, reason="good enough", actor="ada@console")
    assert (after.state, after.step) == ("running", 1)
    thing = world.api.read(ROLLOUT, "demand")
    assert thing is not None
    assert not thing["status"].get("pauseConditions")
    assert world.last() == ("step_passed", "ada@console", ["good enough"])


def test_a_rollout_that_was_deleted_is_over(world: World) -> None:
    """Somebody took the whole model away."""
    world.begin()
    world.cluster.delete(ROLLOUT, "demand")
    assert (world.settled().state, world.settled().reasons[0][:19]) == ("aborted", "The Rollout is gone")


def test_a_start_that_the_cluster_refuses_is_ended_at_once(world: World) -> None:
    """The refusal is told, the ledger is not left open, and the next start is free."""
    world.api.denied.add(("patch", "rollouts"))
    with pytest.raises(Permanent, match="may not patch rollouts"):
        world.begin()
    assert world.settled().state == "aborted"
    assert world.last()[2][0].startswith("It never reached the cluster: You may not patch rollouts demand")
    world.api.denied.clear()
    assert world.begin(rollout="o-2").open


def test_a_start_that_was_killed_before_the_cluster_heard_is_ended_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: whoever started it may be just about to tell the cluster."""
    from tidegate.rollouts.drivers.local import LocalDriver

    LocalDriver(world.ledger, world.store, 60.0).start("r-2", plan(), by_hand=True, replace=False)
    assert world.settled().open
    monkeypatch.setattr("tidegate.rollouts.drivers.kube._LOST", 0.0)
    assert world.settled().reasons == ("It never reached the cluster: whoever started it was stopped.",)


def test_a_start_that_was_killed_before_it_noted_what_it_applied_goes_on(world: World) -> None:
    """The Rollout itself says whose it is."""
    world.begin()
    world.store.delete("rollouts/o-1/applied.json")
    assert world.settled().open
    world.argo.set_image("ghcr.io/acme/demand:hotfix")
    assert world.settled().state == "replaced"


def test_an_old_end_is_not_taken_for_the_new_rollouts(world: World) -> None:
    """Until Argo has looked at the new spec, its status tells of the rollout before."""
    world.begin()
    world.driver().abort("enough")
    world.argo.asleep = True
    world.begin("r-2", "o-2")
    assert world.settled().open
    with pytest.raises(Conflict, match="has not begun"):
        world.driver().promote(full=True, reason="now")
    world.argo.asleep = False
    world.argo.reconcile("demand")
    assert (world.settled().id, world.settled().open) == ("o-2", True)


def test_the_same_release_tried_again_is_judged_anew(world: World) -> None:
    """Its pods have the same hash, so the first rollout's analysis must not count for the second."""
    world.begin()
    world.argo.answer("rollback", "errors doubled")
    world.settled()
    world.begin("r-2", "o-2")
    world.argo.by_hand(abort=True)
    assert world.settled().reasons == ("Aborted through Argo Rollouts, not by the judge.",)


def test_a_person_who_was_overtaken_is_told(world: World) -> None:
    """Argo changed the status in between: the answer is given again, on what is there now."""
    world.begin()
    changed = world.api.hooks

    def meanwhile(kind: Kind, document: Document) -> None:
        if kind == ROLLOUT and argo.Asked.of(document):
            changed.remove(meanwhile)
            world.argo.by_hand(manager="rollouts-controller", message="one more pod is ready")

    changed.append(meanwhile)
    assert world.driver().promote(full=False, reason="fine").step == 1
    assert meanwhile not in changed
    assert [event.kind for event in world.ledger.events()].count("step_passed") == 1


def test_a_persons_answer_is_not_written_twice_when_its_answer_is_lost(world: World) -> None:
    """The patch arrived, its answer did not: the next attempt sees that it is done."""
    world.begin()
    world.api.faults.append(Fault(lambda method, path: method == "PATCH" and "/status" in path, lost=True))
    after = world.driver().promote(full=False, reason="fine", actor="ada")
    assert (after.step, world.last()) == (1, ("step_passed", "ada", ["fine"]))
    thing = world.api.read(ROLLOUT, "demand")
    assert thing is not None
    assert argo.rung(thing) == 1, "one step, not two"


@pytest.mark.parametrize("answer", ["abort", "full"])
def test_a_lost_answer_to_an_end_is_an_end(world: World, answer: str) -> None:
    """As before, though nothing is open any more when it is looked at again."""
    world.begin()
    world.api.faults.append(Fault(lambda method, path: method == "PATCH" and "/status" in path, lost=True))
    driver = world.driver()
    after = driver.abort("no", "ada") if answer == "abort" else driver.promote(full=True, reason="yes", actor="ada")
    assert (after.state, world.last()[1]) == ("aborted" if answer == "abort" else "promoted", "ada")


def test_while_the_route_moves_nobody_else_writes_its_weights(world: World) -> None:
    """A rollback in the middle leaves the route to Argo's plugin, which ends it at 0 %."""
    world.begin()
    route = world.api.read(HTTP_ROUTE, "demand")
    assert route is not None
    route["metadata"]["labels"]["rollouts.argoproj.io/gatewayapi-canary"] = "in-progress"
    route["spec"]["rules"][0]["backendRefs"][0]["weight"] = 20
    world.api.write(HTTP_ROUTE, route, manager="gatewayapi-plugin")
    world.driver().put(documents("r-1"))
    kept = world.api.read(HTTP_ROUTE, "demand")
    assert kept is not None
    assert kept["spec"]["rules"][0]["backendRefs"][0]["weight"] == 20


def test_who_serves_is_changed_at_once_and_without_a_judge(world: World) -> None:
    """A rollback goes past the steps."""
    world.driver().serve("r-3")
    thing = world.api.read(ROLLOUT, "demand")
    assert thing is not None
    assert argo.complete(thing)
    assert thing["spec"]["template"]["metadata"]["annotations"]["tidegate.dev/release"] == "r-3"


def test_a_rollout_needs_the_champion_under_it(world: World) -> None:
    """Where somebody promoted another revision past tidegate, a comparison with it would be of the wrong two."""
    world.driver().serve("r-3")
    with pytest.raises(Conflict, match="stable pods are of release r-3"):
        world.begin()
    assert world.ledger.events()[-1].kind == "deployed"


def test_a_revision_of_somebody_else_is_not_interrupted(world: World) -> None:
    """It is not ours to end, and a rollout would begin in its middle."""
    world.argo.set_image("ghcr.io/acme/demand:hotfix")
    with pytest.raises(Conflict, match="did not start"):
        world.begin()


def test_status_is_told_from_the_ledger_while_the_cluster_is_away(world: World, tmp_path: Path) -> None:
    """With why, instead of nothing."""
    world.begin()
    world.api.tokens = set()
    document = world.driver().status()
    assert (document["id"], document["state"], document["cluster"]["phase"]) == ("o-1", "running", None)
    assert "does not know who asks" in document["cluster"]["message"]
    world.api.tokens = {"sesame"}
    assert world.driver().status()["cluster"]["phase"] == "Progressing"


def test_what_is_degraded_from_the_start_is_said(world: World) -> None:
    """The first deployment waits for its pods, and tells Argo's reason when there is no use in waiting."""
    assert world.driver().wait_healthy(1.0)
    world.argo.asleep = True
    thing = world.api.read(ROLLOUT, "demand")
    assert thing is not None
    thing["status"] |= {"phase": "Degraded", "message": "ProgressDeadlineExceeded: no pods"}
    world.api.write(ROLLOUT, thing)
    with pytest.raises(TidegateError, match="no pods"):
        world.driver().wait_healthy(1.0)
