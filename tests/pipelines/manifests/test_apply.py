"""`apply` and `diff`: what is ours becomes what is rendered, what is others' stays theirs, a rollout is left alone."""

from __future__ import annotations

import pytest
from kube_world import InMemory, World, labelled, rendered, service

from tidegate.core.config import Rollout
from tidegate.core.errors import Conflict
from tidegate.core.kube import CONFIG_MAP, HTTP_ROUTE, ROLLOUT, SERVICE
from tidegate.pipelines.manifests import apply as applying
from tidegate.rollouts.planning import make_plan


def test_what_is_rendered_is_applied_once(world: World) -> None:
    """Afterwards nothing differs, and applying it again changes nothing."""
    wanted = [service(), *rendered("r-1", None)]
    assert set(world.diff(*wanted).values()) == {"new"}
    assert world.api.read(SERVICE, "demand-stable") is None, "a diff changes nothing"
    done = world.apply(*wanted)
    assert done.applied == ("Service/demand-stable", "HTTPRoute/demand", "Rollout/demand")
    assert set(world.diff(*wanted).values()) == {"same"}
    before = world.api.version
    world.apply(*wanted)
    assert world.api.version == before


def test_a_change_is_shown_line_by_line(world: World) -> None:
    """As `diff -u` does, without what the server keeps for itself."""
    world.apply(service())
    found, _ = applying.diff(world.environment, [service(port=3001)], platform=False)
    changed = [line.split() for line in found[0].lines[2:] if line[0] in "+-"]
    assert changed == [["-", "port:", "3000"], ["+", "port:", "3001"]]
    assert not any("managedFields" in line or "resourceVersion" in line for line in found[0].lines)


def test_what_is_not_rendered_any_more_is_removed(world: World) -> None:
    """If we made it: what somebody else labelled like ours, or what our objects own, stays."""
    world.apply(service(), service("demand-old"))
    world.api.write(SERVICE, service("demand-theirs"), manager="kubectl")
    owned = service("demand-owned")
    owned["metadata"]["ownerReferences"] = [{"uid": "x", "kind": "Gateway", "name": "tidegate"}]
    world.environment.cluster.apply(owned)
    other = service("other-model")
    other["metadata"]["labels"]["tidegate.dev/model"] = "other"
    world.environment.cluster.apply(other)
    assert world.diff(service())["Service/demand-old"] == "removed"
    assert world.apply(service()).removed == ("Service/demand-old",)
    left = {one["metadata"]["name"] for one in world.api.all(SERVICE)}
    assert left == {"demand-stable", "demand-theirs", "demand-owned", "other-model"}


def test_the_platform_leaves_models_alone(world: World) -> None:
    """Its labels are theirs too, but they have one more."""
    world.apply(service())
    platform = service("tidegate-judge")
    del platform["metadata"]["labels"]["tidegate.dev/model"]
    applying.apply(world.environment, [platform], platform=True, force=False)
    done = applying.apply(world.environment, [], platform=True, force=False)
    assert done.removed == ("Service/tidegate-judge",)
    assert [one["metadata"]["name"] for one in world.api.all(SERVICE)] == ["demand-stable"]


def test_another_environment_in_the_namespace_is_not_ours(world: World) -> None:
    """Neither removes the other's objects."""
    assert applying.owner(InMemory(world.environment.project), platform=False)["tidegate.dev/environment"] == "prod"
    staging = service("demand-staging")
    staging["metadata"]["labels"]["tidegate.dev/environment"] = "staging"
    world.environment.cluster.apply(staging)
    assert world.apply(service()).removed == ()


def test_a_field_of_somebody_else_stops_it(world: World) -> None:
    """With its name and owner; `--force` takes it."""
    world.apply(service())
    thing = world.api.read(SERVICE, "demand-stable")
    assert thing is not None
    thing["spec"]["ports"][0]["port"] = 8080
    world.api.write(SERVICE, thing, manager="kubectl")
    assert world.diff(service())["Service/demand-stable"] == "changed"
    with pytest.raises(Conflict, match="kubectl"):
        world.apply(service())
    world.apply(service(), force=True)
    assert world.diff(service())["Service/demand-stable"] == "same"


def test_a_running_rollout_keeps_its_rollout_and_route(world: World) -> None:
    """Everything else is applied; the champion's objects come back when it is over."""
    world.apply(service(), *rendered("r-1", None))
    section = Rollout.model_validate({"guardrails": [Rollout().guardrails[0]], "steps": [20]})
    plan = make_plan(section, rollout_id="o-1", block_seconds=60, units_per_minute=6000, error_rate=0.01)
    driver = world.environment.kube_driver
    driver.start("r-2", plan, by_hand=True, replace=False)
    wanted = [service(port=3001), *rendered("r-1", None)]
    done = world.apply(*wanted)
    assert (done.kept, done.applied) == (("HTTPRoute/demand", "Rollout/demand"), ("Service/demand-stable",))
    assert world.diff(*wanted) == {"Service/demand-stable": "same"}
    thing = world.api.read(ROLLOUT, "demand")
    assert thing is not None
    assert thing["metadata"]["annotations"]["tidegate.dev/release"] == "r-2"
    assert world.apply(service(port=3001)).removed == (), "nor is it removed for not being rendered"
    driver.abort("enough")
    assert world.apply(*wanted).kept == ()
    thing = world.api.read(ROLLOUT, "demand")
    assert thing is not None
    assert (thing["metadata"]["annotations"]["tidegate.dev/release"], thing["status"]["phase"]) == ("r-1", "Healthy")


def test_a_route_that_moves_is_kept_whatever_the_ledger_says(world: World) -> None:
    """Somebody may use Argo Rollouts past tidegate: its weights are its own."""
    wanted = rendered("r-1", None)
    world.apply(*wanted)
    route = world.api.read(HTTP_ROUTE, "demand")
    assert route is not None
    route["metadata"]["labels"]["rollouts.argoproj.io/gatewayapi-canary"] = "in-progress"
    route["spec"]["rules"][0]["backendRefs"][0]["weight"] = 30
    world.api.write(HTTP_ROUTE, route, manager="gatewayapi-plugin")
    assert world.apply(*wanted).kept == ("HTTPRoute/demand", "Rollout/demand")
    kept = world.api.read(HTTP_ROUTE, "demand")
    assert kept is not None
    assert kept["spec"]["rules"][0]["backendRefs"][0]["weight"] == 30


def test_changed_pods_of_the_same_release_need_no_judge(world: World) -> None:
    """More memory, say: everybody gets the new pods, and no analysis begins that the ledger knows nothing of."""
    world.apply(*rendered("r-1", None))
    changed = rendered("r-1", None)
    changed[-1]["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"memory": "2Gi"}}
    world.apply(*changed)
    thing = world.api.read(ROLLOUT, "demand")
    assert thing is not None
    assert (thing["status"]["phase"], thing["status"]["stableRS"]) == ("Healthy", thing["status"]["currentPodHash"])


def test_secrets_are_not_shown(world: World) -> None:
    """A difference is printed in CI's logs."""
    secret = labelled({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "hush"}})
    found, _ = applying.diff(world.environment, [secret], platform=False)
    assert "(not shown)" in "\n".join(found[0].lines)
    assert "hush" not in "\n".join(found[0].lines)


def test_kinds_that_the_cluster_does_not_serve_are_not_looked_for(world: World) -> None:
    """Without Prometheus' operator there is no ServiceMonitor to remove."""
    world.api.kinds = {one for one in world.api.kinds if one.group != "monitoring.coreos.com"}
    config = labelled({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}})
    world.apply(service(), config)
    assert world.api.read(CONFIG_MAP, "c") is not None
