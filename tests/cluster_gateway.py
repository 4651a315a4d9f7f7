"""A real Envoy with what Envoy Gateway would give it: the route table of a model, patched as our policies say."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tidegate.serving.deploy.local import free_port
from tidegate.serving.gateway.binary import find_envoy


def gateway_config(weight: int, canary: int, stable: int) -> dict[str, Any]:
    """The route table that Envoy Gateway makes of the model's HTTPRoute, and of one that is somebody else's."""

    def split(name: str) -> dict[str, Any]:
        clusters = [
            {
                "name": f"httproute/prod/{name}/rule/0/backend/{place}",
                "weight": share,
                "response_headers_to_add": [{"header": {"key": "x-tidegate-arm", "value": arm}}],
            }
            for place, (arm, share) in enumerate((("canary", weight), ("stable", 100 - weight)))
        ]
        return {
            "match": {"prefix": "/"},
            "name": f"httproute/prod/{name}/rule/0/match/0/*",
            "route": {"weighted_clusters": {"clusters": clusters}},
        }

    hosts = [
        {"name": "prod/tidegate/http/other", "domains": ["other"], "routes": [split("other")]},
        {"name": "prod/tidegate/http/*", "domains": ["*"], "routes": [split("fraud")]},
    ]
    ports = {"canary": canary, "stable": stable}
    made = [
        cluster(f"httproute/prod/{name}/rule/0/backend/{place}", ports[arm])
        for name in ("fraud", "other")
        for place, arm in enumerate(("canary", "stable"))
    ]
    return {"routes": {"name": "prod/tidegate/http", "virtual_hosts": hosts}, "clusters": made}


def cluster(name: str, port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}}


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def patched(table: dict[str, Any], patches: list[dict[str, Any]]) -> dict[str, Any]:
    """What Envoy Gateway does with our patches: `..routes[?(@.name =~ 'X')].a.b`, then RFC 6902 `add` below it."""
    table = copy.deepcopy(table)
    for patch in patches:
        operation = patch["operation"]
        assert (patch["type"], patch["name"], operation["op"]) == (
            "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            table["name"],
            "add",
        )
        path = re.fullmatch(r"\.\.routes\[\?\(@\.name =~ '(.*)'\)\]\.(.*)", operation["jsonPath"])
        assert path is not None
        found = [one for host in table["virtual_hosts"] for one in host["routes"] if re.search(path[1], one["name"])]
        assert len(found) == 1
        for target in found:
            for part in path[2].split("."):
                target = target[part]  # noqa: PLW2901 - down the path
            target[operation["path"].removeprefix("/")] = operation["value"]
    return table


@contextmanager
def envoy(folder: Path, config: dict[str, Any], lua: str = "", log: dict[str, Any] | None = None) -> Iterator[str]:
    """A real Envoy with this route table; its address."""
    port, envoys = free_port(), "type.googleapis.com/envoy."
    filters = [{"name": "router", "typed_config": {"@type": f"{envoys}extensions.filters.http.router.v3.Router"}}]
    if lua:
        source = {"@type": f"{envoys}extensions.filters.http.lua.v3.Lua", "default_source_code": {"inline_string": lua}}
        filters.insert(0, {"name": "envoy.filters.http.lua", "typed_config": source})
    manager = {
        "@type": f"{envoys}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": config["routes"],
        "http_filters": filters,
        "access_log": [] if log is None else [log],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {"name": "http", "address": address(port), "filter_chains": [chain]}
    file = folder / "envoy.json"
    file.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": config["clusters"]}}))
    command = [str(find_envoy()), "-c", str(file), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
    with (folder / "envoy.log").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "envoy.log").read_text()
            try:
                httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def pods(version: str, status: int = 200) -> Iterator[int]:
    """A revision that answers everything with its version; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("x-tidegate-version", version)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
