"""GatewayState and GatewaySettings as Envoy's own documents: pure, no files, no processes.

Three documents: the bootstrap (listener, filters, limits; fixed for a process), the clusters and the routes (changed
live). The rule of assignment is in core/assignment.py; `hash_policy`, the order of the weighted clusters (canary
first) and their total of 100 are what makes Envoy follow it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tidegate.core.assignment import TOTAL
from tidegate.serving.gateway.lua import unit_filter
from tidegate.serving.gateway.state import (
    ARM_HEADER,
    FORCE_HEADER,
    INVALID_HEADER,
    PAIR_HEADER,
    PREDICTION_HEADER,
    VERSION_HEADER,
    GatewaySettings,
    GatewayState,
    Role,
    RouteKind,
    Upstream,
    cluster_name,
    route_name,
)

Document = dict[str, Any]

ROUTES: Final = "tidegate"
STATS: Final = "gateway"
_TYPES: Final = "type.googleapis.com/envoy."
_API_KEY, _RATE, _UNIT, _BUFFER = "tidegate.api_key", "tidegate.rate_limit", "tidegate.unit", "tidegate.body"
# A local target must never shed load by itself: Envoy's defaults of 1024 would look like a failing canary.
_NO_LIMIT: Final = 1_000_000
# uvicorn closes an idle connection after 5 s; closing ours first avoids a 503 for a request that meets the close.
_UPSTREAM_IDLE: Final = "4s"
# The service answers its own timeout first and says why; the gateway's only catches one that hangs.
_TIMEOUT_SLACK: Final = 0.5
_PREDICTIONS: Final = ({"path": "/predict"}, {"safe_regex": {"regex": "/v2/models/[^/]+(/versions/[^/]+)?/infer"}})


def clusters_document(upstreams: dict[str, Upstream], version: str) -> Document:
    """Return the cluster discovery document of these upstreams, by cluster name."""
    return {"version_info": version, "resources": [_cluster(name, upstream) for name, upstream in upstreams.items()]}


def routes_document(state: GatewayState, settings: GatewaySettings, version: str) -> Document:
    """Return the route discovery document of one state."""
    host = {"name": ROUTES, "domains": ["*"], "routes": _routes(state, settings)}
    table = {"@type": f"{_TYPES}config.route.v3.RouteConfiguration", "name": ROUTES, "virtual_hosts": [host]}
    return {"version_info": version, "resources": [table]}


def bootstrap_document(settings: GatewaySettings, folder: Path) -> Document:
    """Return the document Envoy starts with; `folder` (absolute) holds the live documents and the log.

    It contains the API keys: write it for the owner's eyes only.
    """
    listener = {
        "name": "http",
        "address": _address(settings.host, settings.port),
        # With SO_REUSEPORT a second gateway on the same port would start and steal half of the requests.
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": _connection_manager(settings, folder)}]}],
    }
    return {
        "node": {"id": "tidegate", "cluster": "tidegate"},
        # Port 0: the kernel picks a free one and Envoy writes it to --admin-address-path.
        "admin": {"address": _address("127.0.0.1", 0)},
        "dynamic_resources": {"cds_config": _watched(folder, "clusters.json")},
        "static_resources": {"listeners": [listener]},
    }


def _connection_manager(settings: GatewaySettings, folder: Path) -> Document:
    return {
        "@type": f"{_TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": STATS,
        "server_name": "tidegate",
        "use_remote_address": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        # A client that sends its head or body one byte a minute must not keep a connection for ever.
        "request_headers_timeout": "10s",
        "request_timeout": "60s",
        "rds": {"route_config_name": ROUTES, "config_source": _watched(folder, "routes.json")},
        "access_log": [_access_log(settings, folder / "access.jsonl")],
        "local_reply_config": {
            "mappers": [_worded(413, f"The body is larger than serve.max_body, {settings.max_body:,} bytes.")],
            "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
        },
        "http_filters": _filters(settings),
    }


def _worded(status: int, text: str) -> Document:
    """Another text for an answer of the gateway's own."""
    equal = {"op": "EQ", "value": {"default_value": status, "runtime_key": f"tidegate.status_{status}"}}
    return {"filter": {"status_code_filter": {"comparison": equal}}, "body": {"inline_string": text}}


def _filters(settings: GatewaySettings) -> list[Document]:
    filters = []
    if settings.api_keys:
        filters.append(_filter(_API_KEY, "api_key_auth.v3.ApiKeyAuth", _api_keys(settings.api_keys)))
    if settings.rate_limit is not None:
        filters.append(_filter(_RATE, "local_ratelimit.v3.LocalRateLimit", _rate_limit(settings.rate_limit)))
    source = unit_filter(settings.unit_header, settings.cookie)
    filters.append(_filter(_UNIT, "lua.v3.Lua", {"default_source_code": {"inline_string": source}}))
    filters.append(_filter(_BUFFER, "buffer.v3.Buffer", {"max_request_bytes": settings.max_body}))
    filters.append(_filter("router", "router.v3.Router", {}))
    return filters


def _api_keys(keys: tuple[str, ...]) -> Document:
    return {
        "credentials": [{"key": key, "client": f"key-{number}"} for number, key in enumerate(keys, start=1)],
        "key_sources": [{"header": "x-api-key"}, {"header": "authorization"}],
        "forwarding": {"hide_credentials": True},
    }


def _rate_limit(per_second: float) -> Document:
    tokens = max(1, int(per_second))
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "stat_prefix": "rate_limit",
        "token_bucket": {
            "max_tokens": tokens,
            "tokens_per_fill": tokens,
            "fill_interval": _seconds(tokens / per_second),
        },
        "filter_enabled": always,
        "filter_enforced": always,
        "response_headers_to_add": [_header("retry-after", "1")],
    }


def _access_log(settings: GatewaySettings, path: Path) -> Document:
    fields = {
        "at": "%START_TIME(%s%6f)%",
        "request": "%REQ(X-REQUEST-ID)%",
        "unit": f"%REQ({settings.unit_header})%",
        "cluster": "%UPSTREAM_CLUSTER_RAW%",
        "route": "%ROUTE_NAME%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "upstream": "%UPSTREAM_HOST%",
        "total_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        # The only time there is when the client left before the end.
        "stream_ms": "%DURATION%",
        "upstream_us": "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%",
        "prediction": f"%RESP({PREDICTION_HEADER})%",
        "version": f"%RESP({VERSION_HEADER})%",
        "invalid": f"%RESP({INVALID_HEADER})%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
    }
    return {
        "name": "file",
        "typed_config": {
            "@type": f"{_TYPES}extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": fields},
        },
    }


def _routes(state: GatewayState, settings: GatewaySettings) -> list[Document]:
    if state.stable is None:
        text = "No model is deployed yet. Run `tidegate ship`."
        return [_refusal({"prefix": "/"}, route_name("ops", state), 503, text)]
    limit = {"timeout": _seconds(settings.timeout + _TIMEOUT_SLACK)}
    stable = {**_to("stable", state.stable), **limit}
    routes = [
        {"match": {"path": path}, "name": route_name("ops", state), "route": stable, **_unprotected(settings)}
        for path in ("/healthz", "/readyz")
    ]
    routes.append({"match": {"path": "/metrics"}, "name": route_name("ops", state), "route": stable})
    # The first to ask for them makes the process import BentoML: seconds and 100 MB beside users' requests.
    text = "Ask the model's own port, which `tidegate ps` shows: the gateway does not pass this on."
    routes += [_refusal({"path": path}, route_name("ops", state), 404, text) for path in ("/docs.json", "/schema.json")]
    routes += _forced(state, limit)
    split = {**_split(state, settings), **limit}
    mirrored = {**split, **_mirror(state.shadow)}
    marked = {"request_headers_to_add": [_pair(state, settings)]} if state.shadow is not None else {}
    routes += [
        {"match": match, "name": route_name("split", state), "route": mirrored, **marked} for match in _PREDICTIONS
    ]
    # Same arm as the user's predictions, but no evidence for the judge: documentation is fast and never fails.
    routes.append({"match": {"prefix": "/"}, "name": route_name("rest", state), "route": split})
    return routes


def _forced(state: GatewayState, limit: Document) -> list[Document]:
    name = route_name("forced", state)
    routes: list[Document] = []
    arms: tuple[tuple[Role, Upstream | None], ...] = (("stable", state.stable), ("canary", state.canary))
    for role, upstream in arms:
        match = {"prefix": "/", "headers": [{"name": FORCE_HEADER, "string_match": {"exact": role}}]}
        if upstream is None:
            routes.append(_refusal(match, name, 409, f"There is no {role} to be forced to."))
        else:
            routes.append({"match": match, "name": name, "route": {**_to(role, upstream), **limit}})
    unknown = {"prefix": "/", "headers": [{"name": FORCE_HEADER, "present_match": True}]}
    routes.append(_refusal(unknown, name, 400, f"{FORCE_HEADER} is stable or canary."))
    return routes


def _split(state: GatewayState, settings: GatewaySettings) -> Document:
    arms: tuple[tuple[Role, Upstream | None, int], ...] = (
        ("canary", state.canary, state.weight),
        ("stable", state.stable, TOTAL - state.weight),
    )
    salted = {"pattern": {"regex": "^(.*)$"}, "substitution": rf"{state.rollout}:\1"}
    return {
        "hash_policy": [{"header": {"header_name": settings.unit_header, "regex_rewrite": salted}}],
        "weighted_clusters": {
            "use_hash_policy": True,
            "clusters": [_weighted(role, upstream, weight) for role, upstream, weight in arms if upstream is not None],
        },
    }


def _weighted(role: Role, upstream: Upstream, weight: int) -> Document:
    return {
        "name": cluster_name(role, upstream),
        "weight": weight,
        "request_headers_to_add": [_header(ARM_HEADER, role)],
        "response_headers_to_add": [_header(ARM_HEADER, role)],
        "request_headers_to_remove": [FORCE_HEADER, PAIR_HEADER],
    }


def _to(role: Role, upstream: Upstream) -> Document:
    # A weighted cluster of one, because only there can headers be set for the route's target.
    return {"weighted_clusters": {"clusters": [_weighted(role, upstream, TOTAL)]}}


def _mirror(shadow: Upstream | None) -> Document:
    if shadow is None:
        return {}
    whole = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    policy = {
        "cluster": cluster_name("shadow", shadow),
        "runtime_fraction": whole,
        "request_headers_mutations": [{"append": _header(ARM_HEADER, "shadow")}],
    }
    return {"request_mirror_policies": [policy]}


def _pair(state: GatewayState, settings: GatewaySettings) -> Document:
    """One name for a request and its copy; `x-request-id` is the client's to choose, and to use twice."""
    return _header(PAIR_HEADER, f"{state.rollout} %UNIQUE_ID% %REQ({settings.unit_header})%")


def _unprotected(settings: GatewaySettings) -> Document:
    names = [_UNIT]
    names += [_API_KEY] if settings.api_keys else []
    names += [_RATE] if settings.rate_limit is not None else []
    off = {"@type": f"{_TYPES}config.route.v3.FilterConfig", "disabled": True}
    return {"typed_per_filter_config": dict.fromkeys(names, off)}


def _refusal(match: Document, name: str, status: int, text: str) -> Document:
    return {"match": match, "name": name, "direct_response": {"status": status, "body": {"inline_string": text}}}


def _cluster(name: str, upstream: Upstream) -> Document:
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _NO_LIMIT)
    endpoint = {"endpoint": {"address": _address(upstream.host, upstream.port)}}
    options = {
        "@type": f"{_TYPES}extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"idle_timeout": _UPSTREAM_IDLE},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    return {
        "@type": f"{_TYPES}config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _filter(name: str, kind: str, config: Document) -> Document:
    return {"name": name, "typed_config": {"@type": f"{_TYPES}extensions.filters.http.{kind}", **config}}


def _watched(folder: Path, name: str) -> Document:
    source = {"path": str(folder / name), "watched_directory": {"path": str(folder)}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _address(host: str, port: int) -> Document:
    return {"socket_address": {"address": host, "port_value": port}}


def _header(name: str, value: str) -> Document:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _seconds(value: float) -> str:
    return f"{value:.3f}s"


__all__ = ["ROUTES", "STATS", "Document", "RouteKind", "bootstrap_document", "clusters_document", "routes_document"]
