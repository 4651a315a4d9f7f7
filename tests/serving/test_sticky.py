"""Envoy Gateway's objects, tried on a real Envoy: the laptop's rule on a cluster's route."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_gateway import envoy, gateway_config, patched

from tidegate.core.assignment import assigned_arm
from tidegate.core.errors import UsageError
from tidegate.serving.gateway.sticky import StickyRoute, otlp_access_log, refuse_silent, sticky_documents
from tidegate.serving.route_check import check_route

Make = Callable[..., Any]
ROUTE = StickyRoute("fraud", "prod", "tidegate", "o-1a2b")


def patches_of(route: StickyRoute) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sticky_documents(route)[1]["spec"]["jsonPatches"]
    return found


@pytest.mark.parametrize("weight", [10, 50])
def test_the_patched_route_gives_every_user_the_arm_of_the_formula(tmp_path: Path, echo: Make, weight: int) -> None:
    """1,000 users x 3 requests: none meets both arms, each the one that was computed beforehand."""
    config = gateway_config(weight, echo("r-canary").upstream.port, echo("r-stable").upstream.port)
    config["routes"] = patched(config["routes"], patches_of(ROUTE))
    with envoy(tmp_path, config) as at:
        found = check_route(at, ROUTE.rollout, weight)
    assert found.problems() == ()
    assert found.requests == 3000


def test_without_the_patch_users_change_their_arm(tmp_path: Path, echo: Make) -> None:
    """The check sees what the patch is for."""
    config = gateway_config(50, echo("r-canary").upstream.port, echo("r-stable").upstream.port)
    with envoy(tmp_path, config) as at:
        found = check_route(at, ROUTE.rollout, 50, users=200)
    assert found.switches > 100


def test_who_sends_no_header_gets_a_cookie_and_keeps_their_arm(tmp_path: Path, echo: Make) -> None:
    """The filter of the laptop, as the extension policy carries it."""
    import httpx

    config = gateway_config(50, echo("r-canary").upstream.port, echo("r-stable").upstream.port)
    config["routes"] = patched(config["routes"], patches_of(ROUTE))
    policy = sticky_documents(ROUTE)[0]
    with envoy(tmp_path, config, lua=policy["spec"]["lua"][0]["inline"]) as at:
        for _ in range(10):
            with httpx.Client(base_url=at) as client:
                arms = {client.get("/").headers["x-tidegate-arm"] for _ in range(5)}
                assert arms == {assigned_arm(ROUTE.rollout, client.cookies["tg_uid"], 50)}


def test_the_documents_are_of_the_route_the_gateway_and_the_rollout() -> None:
    """Each policy names what it is for; a field by field look, since no schema of Envoy Gateway is at hand."""
    unit, patch = sticky_documents(ROUTE)
    assert [one["apiVersion"] for one in (unit, patch)] == ["gateway.envoyproxy.io/v1alpha1"] * 2
    assert [one["kind"] for one in (unit, patch)] == ["EnvoyExtensionPolicy", "EnvoyPatchPolicy"]
    assert unit["metadata"] == {"name": "fraud-unit", "namespace": "prod"}
    route = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "fraud"}
    assert set(unit["spec"]) == {"targetRefs", "lua"}
    assert unit["spec"]["targetRefs"] == [route]
    assert patch["spec"]["targetRef"] == {**route, "kind": "Gateway", "name": "tidegate"}
    assert patch["spec"]["type"] == "JSONPatch"
    assert [set(one) for one in patch["spec"]["jsonPatches"]] == [{"type", "name", "operation"}] * 2
    assert "o-1a2b:" in json.dumps(patch)


@pytest.mark.parametrize("changes", [{"name": "fraud'"}, {"gateway": "Up"}, {"rollout": "a\\1"}])
def test_a_name_that_envoy_would_read_as_an_expression_is_refused(changes: dict[str, str]) -> None:
    """A quote in a name would end the path that selects the route."""
    from dataclasses import replace

    with pytest.raises(UsageError):
        sticky_documents(replace(ROUTE, **changes))


@pytest.mark.parametrize(
    ("router", "wanted"),
    [
        ("gatewayAPI", {"mirror"}),
        ("nginx", {"header"}),
        ("traefik", {"header", "mirror"}),
        ("alb", {"mirror"}),
        ("istio", {"sticky"}),
        ("haproxy", set()),
    ],
)
def test_what_a_router_accepts_and_does_not_do_is_refused(router: str, wanted: set[str]) -> None:
    """A smoke test through a header route that is not there would test the stable arm."""
    with pytest.raises(UsageError, match=router):
        refuse_silent(router, wanted)
    refuse_silent("gatewayAPI", {"header", "sticky"})


def test_the_log_policy_sends_our_fields_and_the_log_token_only() -> None:
    """Whoever may read the policy may send evidence, and ask for nothing."""
    from tidegate.serving.gateway.sticky import log_documents

    (policy,) = log_documents("prod", "tidegate", judge="tidegate-judge", port=8080, token="log-token")
    cluster, listener = policy["spec"]["jsonPatches"]
    assert (cluster["operation"]["path"], cluster["operation"]["value"]["name"]) == ("", "tidegate-judge")
    assert listener["name"] == "prod/tidegate/http"
    assert listener["operation"]["path"] == "/typed_config/access_log/-"
    assert listener["operation"]["value"] == otlp_access_log("tidegate-judge", 8080, "log-token")
