"""Real upstreams that answer at once, and a real Envoy in front of them."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tidegate.serving.gateway import Gateway, GatewaySettings, Upstream
from tidegate.serving.http_client import Answer, ask_all, request_bytes


class EchoServer:
    """A revision that answers every request with its version; it can be told to fail, to dawdle and to die."""

    def __init__(self, release: str, loop: asyncio.AbstractEventLoop) -> None:
        self.release = release
        self.status = 200
        self.delay = 0.0
        self.more = ""
        self.heads: list[bytes] = []
        self.port = free_port()
        self._loop = loop
        self._connections: set[asyncio.Transport] = set()
        asyncio.run_coroutine_threadsafe(self._listen(), loop).result(10)

    @property
    def upstream(self) -> Upstream:
        return Upstream(self.release, self.port)

    def kill(self) -> None:
        """Die as with kill -9: connections are reset, the port is closed."""
        asyncio.run_coroutine_threadsafe(self._die(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(lambda: _Echo(self), "127.0.0.1", self.port)

    async def _die(self) -> None:
        self._server.close()
        for transport in list(self._connections):
            transport.abort()
        await asyncio.sleep(0)


class _Echo(asyncio.Protocol):
    def __init__(self, server: EchoServer) -> None:
        self._server = server
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server._connections.add(transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._server._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if not end or len(body) < int(length or 0):
            return
        self._buffer = b""
        self._server.heads.append(head.lower())
        if self._server.delay:
            asyncio.get_running_loop().call_later(self._server.delay, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        number = len(self._server.heads)
        self._transport.write(
            f"HTTP/1.1 {self._server.status} X\r\nx-tidegate-version: {self._server.release}\r\n"
            f"x-tidegate-prediction-id: {self._server.release}-{number}\r\n"
            f"{self._server.more}content-length: 2\r\n\r\n{{}}".encode()
        )


def free_port() -> int:
    """Return a port below the ephemeral range that nobody listens on."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


@pytest.fixture(scope="session")
def background_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own, so that the load does not share one with the servers."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def echo(background_loop: asyncio.AbstractEventLoop) -> Iterator[Callable[[str], EchoServer]]:
    """Start a revision by its release id."""
    servers: list[EchoServer] = []

    def start(release: str) -> EchoServer:
        servers.append(EchoServer(release, background_loop))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def new_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Make a gateway on a free port; keyword arguments are settings."""
    gateways: list[Gateway] = []

    def make(folder: str = "gateway", **settings: object) -> Gateway:
        port = settings.pop("port", None) or free_port()
        gateways.append(Gateway(tmp_path / folder, GatewaySettings(port=port, **settings)))  # type: ignore[arg-type]
        return gateways[-1]

    yield make
    for gateway in gateways:
        gateway.stop()


@pytest.fixture
def ask() -> Callable[..., list[Answer | None]]:
    """Send one request for each dictionary of headers and return the answers in order."""

    def send(
        gateway: Gateway,
        headers: list[dict[str, str]],
        method: str = "POST",
        path: str = "/predict",
        body: bytes = b"{}",
    ) -> list[Answer | None]:
        requests = [request_bytes(method, path, {"host": "test", **one}, body) for one in headers]
        return asyncio.run(ask_all(gateway.address, requests))

    return send
