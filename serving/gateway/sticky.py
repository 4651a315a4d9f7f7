"""Sticky assignment on a cluster: Envoy Gateway's objects that make it follow the laptop's rule. Pure.

The rule (core/assignment.py) needs three things of Envoy: the canary's backend first and weights that total 100, which
the HTTPRoute says; a route whose hash is the salted unit; and weighted clusters that use the hash. Envoy Gateway has no
field for the last two that holds for every release, so an EnvoyPatchPolicy adds them (docs/decisions/0015). The patch
is of one rollout: its id is the salt. `tidegate doctor traffic --env` measures that it works.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from tidegate.core.errors import UsageError
from tidegate.serving.gateway.cluster_log import access_log_fields
from tidegate.serving.gateway.lua import unit_filter

Document = dict[str, Any]

_GROUP: Final = "gateway.envoyproxy.io/v1alpha1"
_ENVOY: Final = "type.googleapis.com/envoy."
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SALT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_JUDGE: Final = "tidegate-judge"


@dataclass(frozen=True, slots=True)
class StickyRoute:
    """What is made sticky.

    Attributes:
        name: of the model's HTTPRoute.
        namespace: where it and the Gateway are.
        gateway: the Gateway's name.
        listener: its listener's.
        rollout: the ledger's id, the salt.
        unit_header: names the user.
        cookie: names one who sends no header.
    """

    name: str
    namespace: str
    gateway: str
    rollout: str
    listener: str = "http"
    unit_header: str = "x-user-id"
    cookie: str = "tg_uid"


def sticky_documents(route: StickyRoute) -> list[Document]:
    """An EnvoyExtensionPolicy that gives every request a unit, and an EnvoyPatchPolicy that hashes it.

    Raises:
        UsageError: a name that Envoy would read as part of an expression.
    """
    for what in (route.name, route.namespace, route.gateway, route.listener):
        if not _LABEL.fullmatch(what):
            raise UsageError(f"{what!r} is no DNS label.", "Names on a cluster are of a-z, 0-9 and -.")
    if not _SALT.fullmatch(route.rollout):
        raise UsageError(f"{route.rollout!r} is no rollout's id.", "It is the salt of the assignment.")
    return [_unit_policy(route), _patch_policy(route)]


def log_documents(
    namespace: str,
    gateway: str,
    *,
    judge: str,
    port: int,
    token: str,
    listener: str = "http",
    unit_header: str = "x-user-id",
) -> list[Document]:
    """An EnvoyPatchPolicy that sends the gateway's access log to the judge by OTLP over HTTP (Envoy 1.37 or newer).

    Envoy Gateway's own setting speaks gRPC only (envoyproxy/gateway#3408); a collector may stand between in its place.

    Args:
        namespace: of the Gateway.
        gateway: its name.
        judge: the judge's host, as a name of the cluster's DNS.
        port: the judge's.
        token: opens /v1/logs and nothing else: whoever may read the policy reads it.
        listener: the Gateway's listener.
        unit_header: names the user.
    """
    resource = f"{namespace}/{gateway}/{listener}"
    add = [
        _added(f"{_ENVOY}config.cluster.v3.Cluster", _JUDGE, {"op": "add", "path": "", "value": _cluster(judge, port)}),
        _added(
            f"{_ENVOY}config.listener.v3.Listener",
            resource,
            {
                "op": "add",
                "jsonPath": "..filters[?(@.name == 'envoy.filters.network.http_connection_manager')]",
                "path": "/typed_config/access_log/-",
                "value": otlp_access_log(judge, port, token, unit_header),
            },
        ),
    ]
    return [_policy(f"{gateway}-log", namespace, gateway, add)]


def otlp_access_log(judge: str, port: int, token: str, unit_header: str = "x-user-id") -> Document:
    """Envoy's access logger of our fields, as `cluster_log` reads them."""
    service = {
        "http_uri": {"uri": f"http://{judge}:{port}/v1/logs", "cluster": _JUDGE, "timeout": "5s"},
        "request_headers_to_add": [{"header": {"key": "authorization", "value": f"Bearer {token}"}}],
    }
    fields = access_log_fields(unit_header)
    attributes = [{"key": name, "value": {"string_value": text}} for name, text in fields.items()]
    return {
        "name": "envoy.access_loggers.open_telemetry",
        "typed_config": {
            "@type": f"{_ENVOY}extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
            "http_service": service,
            "log_name": "tidegate",
            "attributes": {"values": attributes},
        },
    }


def refuse_silent(router: str, wanted: Collection[str]) -> None:
    """Refuse what a router of Argo Rollouts accepts and does not do.

    Args:
        router: `gatewayAPI`, `istio`, `alb`, `apisix`, `nginx`, `traefik`, `ambassador` or `smi`.
        wanted: `header` (setHeaderRoute), `mirror` (setMirrorRoute), `sticky` (users keep their arm).

    Raises:
        UsageError: it would pass the step and change nothing, so that a smoke test or a comparison shows nothing.
    """
    if router not in _DOES:
        raise UsageError(f"{router} is no router that is known.", f"Known are {', '.join(sorted(_DOES))}.")
    lacking = sorted(set(wanted) - _DOES[router])
    if lacking:
        told = " and ".join(_STEPS[one] for one in lacking)
        raise UsageError(
            f"The router {router} accepts {told} and does nothing: the rollout would go on as if it had.",
            "Use gatewayAPI with Envoy Gateway; copies of traffic are for the laptop's gateway (`rollout.shadow`).",
        )


# From the routers' sources, argo-rollouts 1.9.1 and the Gateway API plugin 0.15: what each method does.
_DOES: Final[dict[str, frozenset[str]]] = {
    "gatewayAPI": frozenset({"header", "sticky"}),
    "istio": frozenset({"header", "mirror"}),
    "alb": frozenset({"header"}),
    "apisix": frozenset({"header"}),
    "nginx": frozenset(),
    "traefik": frozenset(),
    "ambassador": frozenset(),
    "smi": frozenset(),
}
_STEPS: Final = {"header": "setHeaderRoute", "mirror": "setMirrorRoute", "sticky": "users that keep their arm"}


def _unit_policy(route: StickyRoute) -> Document:
    """The laptop's filter: a header, else a cookie, else a new one."""
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": route.name}
    return {
        "apiVersion": _GROUP,
        "kind": "EnvoyExtensionPolicy",
        "metadata": {"name": f"{route.name}-unit", "namespace": route.namespace},
        "spec": {
            "targetRefs": [target],
            "lua": [{"type": "Inline", "inline": unit_filter(route.unit_header, route.cookie)}],
        },
    }


def _patch_policy(route: StickyRoute) -> Document:
    # `httproute/NAMESPACE/NAME/rule/` is how Envoy Gateway names routes. Each path selects what is there already, since
    # a patch that does not fit is dropped whole.
    where = f"..routes[?(@.name =~ '^httproute/{route.namespace}/{route.name}/rule/')].route"
    salted = {"pattern": {"google_re2": {}, "regex": "^(.*)$"}, "substitution": rf"{route.rollout}:\1"}
    hashing = [{"header": {"header_name": route.unit_header, "regex_rewrite": salted}}]
    resource, kind = (
        f"{route.namespace}/{route.gateway}/{route.listener}",
        f"{_ENVOY}config.route.v3.RouteConfiguration",
    )
    patches = [
        _added(kind, resource, {"op": "add", "jsonPath": where, "path": "/hash_policy", "value": hashing}),
        _added(
            kind,
            resource,
            {"op": "add", "jsonPath": f"{where}.weighted_clusters", "path": "/use_hash_policy", "value": True},
        ),
    ]
    return _policy(f"{route.name}-sticky", route.namespace, route.gateway, patches)


def _policy(name: str, namespace: str, gateway: str, patches: list[Document]) -> Document:
    return {
        "apiVersion": _GROUP,
        "kind": "EnvoyPatchPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway},
            "type": "JSONPatch",
            "jsonPatches": patches,
        },
    }


def _added(kind: str, name: str, operation: Document) -> Document:
    return {"type": kind, "name": name, "operation": operation}


def _cluster(host: str, port: int) -> Document:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
    return {
        "name": _JUDGE,
        "type": "STRICT_DNS",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": _JUDGE, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
