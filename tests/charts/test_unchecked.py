"""Objects whose kinds have no schema here, field by field: each is compared whole, so that no field goes unseen."""

from __future__ import annotations

from typing import Any

from golden import CHARTS, NAMES, kept

from tidegate.pipelines.manifests.chart_files import UNIT_FILTER, unit_source
from tidegate.serving.gateway.lua import unit_filter

ROUTE = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "demand"}


def spec(name: str, kind: str, called: str) -> Any:
    """What one committed object says."""
    return next(one["spec"] for one in kept(name) if (one["kind"], one["metadata"]["name"]) == (kind, called))


def test_these_are_all_kinds_that_nobody_checks() -> None:
    """A new one would have to be added here."""
    foreign = ("gateway.envoyproxy.io/", "monitoring.coreos.com/")
    kinds = {one["kind"] for name in NAMES for one in kept(name) if one["apiVersion"].startswith(foreign)}
    assert kinds == {
        "BackendTrafficPolicy", "EnvoyExtensionPolicy", "EnvoyPatchPolicy", "EnvoyProxy", "SecurityPolicy",
        "ServiceMonitor",
    }  # fmt: skip


def test_the_gateway_refuses_large_requests_and_too_many() -> None:
    """Without a limit there is no rate limit at all."""
    limit = {"type": "Local", "local": {"rules": [{"limit": {"requests": 500, "unit": "Second"}}]}}
    assert spec("secured", "BackendTrafficPolicy", "demand") == {
        "targetRefs": [ROUTE],
        "requestBuffer": {"limit": 2_000_000},
        "rateLimit": limit,
    }
    assert spec("minimal", "BackendTrafficPolicy", "demand") == {
        "targetRefs": [ROUTE],
        "requestBuffer": {"limit": 1_000_000},
    }


def test_the_gateway_asks_for_keys_and_passes_none_on() -> None:
    """From the headers that the laptop's gateway reads."""
    assert spec("secured", "SecurityPolicy", "demand") == {
        "targetRefs": [ROUTE],
        "apiKeyAuth": {
            "credentialRefs": [{"group": "", "kind": "Secret", "name": "demand-keys"}],
            "extractFrom": [{"headers": ["x-api-key", "authorization"]}],
            "sanitize": True,
        },
    }
    assert "SecurityPolicy" not in {one["kind"] for one in kept("minimal")}


def test_users_are_hashed_with_the_rollouts_id_as_salt() -> None:
    """Only routes of this model that have an action; and only those that split use the hash."""
    where = "..routes[?(@.name =~ '^httproute/models/demand/rule/')].route"
    configuration = {
        "type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": "models/tidegate/http",
    }
    salted = {"pattern": {"google_re2": {}, "regex": "^(.*)$"}, "substitution": r"k-20260101-120000-abcd:\1"}
    hashed = [{"header": {"header_name": "x-customer", "regex_rewrite": salted}}]
    assert spec("gitops", "EnvoyPatchPolicy", "demand-sticky") == {
        "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "tidegate"},
        "type": "JSONPatch",
        "jsonPatches": [
            configuration | {"operation": {"op": "add", "jsonPath": where, "path": "/hash_policy", "value": hashed}},
            configuration
            | {
                "operation": {
                    "op": "add",
                    "jsonPath": f"{where}.weighted_clusters",
                    "path": "/use_hash_policy",
                    "value": True,
                }
            },
        ],
    }
    secured = spec("secured", "EnvoyPatchPolicy", "demand-sticky")
    assert {one["name"] for one in secured["jsonPatches"]} == {"models/tidegate/https"}


def test_every_request_gets_a_unit_by_the_laptops_filter() -> None:
    """The same source, with the names of this model's header and cookie."""
    assert spec("gitops", "EnvoyExtensionPolicy", "demand-unit") == {
        "targetRefs": [ROUTE],
        "lua": [{"type": "Inline", "inline": unit_filter("x-customer", "tg_uid").lstrip()}],
    }
    assert (CHARTS / UNIT_FILTER).read_text() == unit_source()


def test_the_gateway_tells_the_judges_collector_of_every_request() -> None:
    """Its Service has a name that the smoke request knows, and the user's header is the model's."""
    proxy = spec("secured", "EnvoyProxy", "tidegate")
    (setting,) = proxy["telemetry"]["accessLog"]["settings"]
    assert set(proxy) == {"provider", "telemetry"}
    assert proxy["provider"] == {
        "type": "Kubernetes",
        "kubernetes": {
            "envoyDeployment": {"replicas": 3},
            "envoyService": {"name": "tidegate-gateway", "type": "NodePort"},
        },
    }
    (sink,) = setting["sinks"]
    assert sink == {
        "type": "OpenTelemetry",
        "openTelemetry": {
            "backendRefs": [
                {"group": "", "kind": "Service", "name": "tidegate-judge", "namespace": "models", "port": 4317}
            ],
            "resourceAttributes": {"service.name": "tidegate-gateway"},
        },
    }
    assert set(setting) == {"format", "sinks"}
    assert setting["format"]["type"] == "JSON"
    assert setting["format"]["json"]["unit"] == "%REQ(x-customer)%"
    fields = {"at", "unit", "route", "cluster", "arm", "forced", "status", "flags", "details", "upstream", "total_us"}
    fields |= {"stream_ms", "upstream_us", "prediction", "version", "invalid", "method", "path"}
    assert set(setting["format"]["json"]) == fields


def test_metrics_are_read_once_of_each_pod() -> None:
    """Outside a rollout two Services select the same pods: the arm of the Service must be the pod's."""
    assert spec("secured", "ServiceMonitor", "demand") == {
        "selector": {"matchLabels": {"app.kubernetes.io/name": "demand", "app.kubernetes.io/component": "model"}},
        "podTargetLabels": ["tidegate.dev/arm", "rollouts-pod-template-hash"],
        "endpoints": [
            {
                "port": "http",
                "path": "/metrics",
                "interval": "15s",
                "relabelings": [
                    {
                        "action": "keepequal",
                        "sourceLabels": ["__meta_kubernetes_service_label_tidegate_dev_arm"],
                        "targetLabel": "__meta_kubernetes_pod_label_tidegate_dev_arm",
                    }
                ],
            }
        ],
    }
    services = [
        one for one in kept("secured") if one["kind"] == "Service" and one["metadata"]["name"].startswith("demand")
    ]
    assert {one["metadata"]["labels"]["tidegate.dev/arm"] for one in services} == {"stable", "canary"}


def test_the_metrics_of_judge_and_console_are_read() -> None:
    """Behind the names that their Services have."""
    for part in ("judge", "console"):
        labels = {"app.kubernetes.io/name": f"tidegate-{part}", "app.kubernetes.io/component": part}
        assert spec("secured", "ServiceMonitor", f"tidegate-{part}") == {
            "selector": {"matchLabels": labels},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
        }
        monitor = next(
            one
            for one in kept("secured")
            if (one["kind"], one["metadata"]["name"]) == ("ServiceMonitor", f"tidegate-{part}")
        )
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
