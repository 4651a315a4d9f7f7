"""What the gateway adds to a request: direct to an echo server against through Envoy, interleaved in one run.

    python bench/gateway.py [--rounds 30] [--requests 300]

One connection, one request at a time, so queueing plays no part. Batches of both ways alternate, and the difference is
taken within a round: a busy moment of the machine hits both. Every feature of the gateway is on (keys, rate limit,
body limit, split, mirror off). Goal: at most 0.5 ms at the median on an idle machine. Exit code 1 above it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tidegate.serving.gateway import Gateway, GatewaySettings, GatewayState, Upstream
from tidegate.serving.http_client import request_bytes

GOAL_MS = 0.5
ANSWER = b'HTTP/1.1 200 OK\r\nx-tidegate-version: 1\r\ncontent-length: 21\r\n\r\n{"predictions":[0.5]}'


class Echo(asyncio.Protocol):
    """Answers each request (one read each at this size) with the same prediction."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        if data.endswith(b"}"):
            self._transport.write(ANSWER)


def serve(port: int) -> None:
    """Run the echo server until terminated."""

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(forever())


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def connect(port: int) -> socket.socket:
    """Connect, waiting for a server that is still starting."""
    for _ in range(100):
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.1)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    sys.exit(f"nobody listens on {port}")


def batch(connection: socket.socket, count: int) -> list[float]:
    """Send requests one after the other and return how many milliseconds each took."""
    times = []
    for number in range(count):
        headers = {"host": "bench", "x-user-id": f"user-{number % 100}", "x-api-key": "bench"}
        request = request_bytes("POST", "/predict", headers, b'{"rows":[{"a":1.5,"b":2.5,"c":"x"}]}')
        began = time.perf_counter()
        connection.sendall(request)
        answer = connection.recv(65536)
        times.append((time.perf_counter() - began) * 1e3)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert answer.endswith(b"}"), answer
    return times


def measure(rounds: int, requests: int, direct: socket.socket, through: socket.socket) -> dict[str, object]:
    """Alternate the two ways and return medians over rounds."""
    batch(direct, requests)
    batch(through, requests)
    pairs = []
    for number in range(rounds):
        order = (direct, through) if number % 2 else (through, direct)
        medians = {id(way): statistics.median(batch(way, requests)) for way in order}
        pairs.append((medians[id(direct)], medians[id(through)]))
    added = statistics.median(through_ms - direct_ms for direct_ms, through_ms in pairs)
    return {
        "kind": "bench",
        "name": "gateway",
        "direct_p50_ms": round(statistics.median(one for one, _ in pairs), 4),
        "gateway_p50_ms": round(statistics.median(one for _, one in pairs), 4),
        "added_p50_ms": round(added, 4),
        "target": GOAL_MS,
        "ok": added <= GOAL_MS,
    }


def main() -> None:
    """Start both ends, measure, print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--requests", type=int, default=300)
    options = parser.parse_args()
    stable, canary, front = free_ports(3)
    servers = [multiprocessing.get_context("spawn").Process(target=serve, args=(port,)) for port in (stable, canary)]
    for server in servers:
        server.start()
    state = GatewayState(Upstream("stable", stable), Upstream("canary", canary), rollout="bench", weight=50)
    settings = GatewaySettings(port=front, api_keys=("bench",), rate_limit=1e6)
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(Path(folder), settings)
        try:
            gateway.start(state)
            connect(canary).close()
            with connect(stable) as direct, connect(front) as through:
                result = measure(options.rounds, options.requests, direct, through)
        finally:
            gateway.stop()
            for server in servers:
                server.terminate()
                server.join()
    print(json.dumps(result))
    sys.exit(not result["ok"])


if __name__ == "__main__":
    main()
