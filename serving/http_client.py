"""A small HTTP/1.1 client for load and checks: one request at a time on each keep-alive connection.

httpx costs about 0.5 ms of processor time a request; at 1,500 requests a second the load would measure itself. This
one speaks only what our own gateway answers: Content-Length or chunked bodies, no redirects, no TLS.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

from tidegate.core.errors import UsageError

_HEAD_END: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: `head` is its lower-cased header block, with a line break before each name."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> str:
        """Return a header by its lower-case name, "" if it is missing."""
        start = self.head.find(b"\r\n" + name + b":")
        if start < 0:
            return ""
        end = self.head.find(b"\r\n", start + 2)
        return self.head[start + len(name) + 3 : end if end >= 0 else None].strip().decode("latin-1")

    def json(self) -> object:
        """Return the body as JSON."""
        return cast("object", json.loads(self.body))


Handler = Callable[[Answer | None], None]


class Connection(asyncio.Protocol):
    """A keep-alive connection; `send` one request, its handler gets the answer, or None if the connection broke.

    Args:
        on_lost: called when the connection is gone.
    """

    def __init__(self, on_lost: Callable[[Connection], None] | None = None) -> None:
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._handler: Handler | None = None
        self._buffer = bytearray()
        self._head = b""
        self._missing = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, handler: Handler) -> None:
        """Send a whole request; the connection must be idle."""
        self._handler = handler
        if self._transport is None or self._transport.is_closing():
            self._answer(None)
        else:
            self._transport.write(request)

    async def ask(self, request: bytes) -> Answer | None:
        """Send a request and wait for its answer, None if the connection broke."""
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self.send(request, lambda answer: None if future.done() else future.set_result(answer))
        return await future

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """Close at once; the waiting handler gets None."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect one answer."""
        self._buffer += data
        if not self._head and not self._take_head():
            return
        if not self._whole_body():
            return
        status = int(self._head[9:12])
        answer = Answer(status, self._head, bytes(self._buffer))
        closing = b"\r\nconnection: close" in self._head
        self._buffer.clear()
        self._head = b""
        if closing:
            self.abort()
        self._answer(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the waiting handler, then the owner."""
        del exc
        self._transport = None
        self._answer(None)
        if self._on_lost is not None:
            self._on_lost(self)

    def _take_head(self) -> bool:
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            return False
        self._head = bytes(self._buffer[:end]).lower()
        del self._buffer[: end + len(_HEAD_END)]
        start = self._head.find(b"\r\ncontent-length:")
        if start >= 0:
            self._missing = int(self._head[start + 17 :].split(b"\r\n", 1)[0])
        else:
            self._missing = -1 if b"\r\ntransfer-encoding: chunked" in self._head else 0
        return True

    def _whole_body(self) -> bool:
        if self._missing >= 0:
            return len(self._buffer) >= self._missing
        if not self._buffer.endswith(_LAST_CHUNK):
            return False
        self._buffer = _unchunk(self._buffer)
        return True

    def _answer(self, answer: Answer | None) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            handler(answer)


async def ask_all(address: str, requests: Sequence[bytes], connections: int = 8) -> list[Answer | None]:
    """Send every request, a few at a time, and return the answers in the same order; None where a connection broke.

    Raises:
        OSError: nobody listens at `address`.
    """
    host, port = host_and_port(address)
    loop = asyncio.get_running_loop()
    answers: list[Answer | None] = [None] * len(requests)
    waiting = iter(enumerate(requests))

    async def work() -> None:
        _, connection = await loop.create_connection(Connection, host, port)
        for index, request in waiting:
            if not connection.usable:
                _, connection = await loop.create_connection(Connection, host, port)
            answers[index] = await connection.ask(request)
        connection.abort()

    await asyncio.gather(*(work() for _ in range(connections)))
    return answers


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return a whole HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def host_and_port(address: str) -> tuple[str, int]:
    """Split `http://host:port`.

    Raises:
        UsageError: it is something else.
    """
    parts = urlsplit(address)
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"{address!r} is not an address.", "Give it as http://host:port.")
    return parts.hostname, parts.port or 80


def _unchunk(data: bytearray) -> bytearray:
    body = bytearray()
    position = 0
    while True:
        end = data.index(b"\r\n", position)
        size = int(data[position:end].split(b";", 1)[0], 16)
        if size == 0:
            return body
        body += data[end + 2 : end + 2 + size]
        position = end + 2 + size + 2
