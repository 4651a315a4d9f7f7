"""POST /labels and /outcomes: what a web product knows later about the predictions it got.

A post is answered once it is in the store. Posts that come while one is being written wait for the next write together,
and there are five writes a second at most, so that a thousand posts a second are not a thousand files.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from tidegate.serving.gateway.state import GatewaySettings
from tidegate.serving.labels import Rejected, stored
from tidegate.serving.labels.files import parse_json_line
from tidegate.serving.labels.rows import FIELDS, Kind, Line, Unusable

if TYPE_CHECKING:
    import pyarrow as pa

    from tidegate.pipelines.environment import Environment

MOST: Final = 10_000
"""Rows of one post."""
MAX_BODY: Final = 10_000_000
"""Bytes of one post."""
_PAUSE: Final = 0.2
# So many small files are made into one.
_COMPACT_EVERY: Final = 64
_JSON, _LINES = "application/json", ("application/x-ndjson", "application/jsonl")
_LOG: Final = logging.getLogger(__name__)


def router(environment: Environment) -> APIRouter:
    """The two routes, for the app of the console.

    Raises:
        UsageError: the API keys of `serve.auth` cannot be read.
    """
    keys = GatewaySettings.from_config(environment.project.config, environment.project.root).api_keys
    routes = APIRouter()
    for kind in FIELDS:
        intake = Intake(environment, kind, keys)
        routes.add_api_route(
            f"/{kind}",
            intake.post,
            methods=["POST"],
            summary=f"Keep {kind}; answered once they are in the store.",
            openapi_extra={"requestBody": {"required": True, "content": _content(kind)}},
            responses={code: {"description": text} for code, text in _ANSWERS.items()},
            name=kind,
        )
    return routes


class Refused(Exception):
    """A post that is not even looked at."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


class Intake:
    """The route of one kind.

    Args:
        environment: whose store it is kept in.
        kind: labels or outcomes.
        keys: accepted API keys, as at the gateway; empty asks for none.
    """

    def __init__(self, environment: Environment, kind: Kind, keys: Sequence[str]) -> None:
        self._environment, self._kind, self._keys = environment, kind, [key.encode() for key in keys]
        self._commits = Commits(self._write, self._compact)

    async def post(self, request: Request) -> JSONResponse:
        """Read, check, keep, answer."""
        try:
            self._admit(request)
            lines = _lines(await _body(request), _media_type(request))
            return _answer(self._kind, *await self._keep(lines))
        except Refused as error:
            return _error(error.status, error.message, error.hint)

    async def _keep(self, lines: Sequence[Line]) -> tuple[int, Sequence[Rejected]]:
        """How many are kept, and the others."""
        try:
            table, rejected = await asyncio.to_thread(
                stored.table_of, self._environment.store, self._kind, lines, datetime.now(UTC)
            )
            if table.num_rows:
                await self._commits.keep(table)
        except Exception as error:  # a bucket's libraries raise what they like
            _LOG.exception("The %s of a post could not be kept.", self._kind)
            raise Refused(503, f"The store cannot be written: {error}", "Nothing was kept; send it again.") from error
        return table.num_rows, rejected

    def _admit(self, request: Request) -> None:
        """Ask for a key where there are keys, and for a type that no page of another site can send unasked."""
        if self._keys:
            given = request.headers.get("x-api-key", "").encode("latin-1", "replace")
            # All of them are compared, so that the time tells nothing.
            if not sum(hmac.compare_digest(given, key) for key in self._keys):
                raise Refused(401, "The API key is missing or wrong.", "Send it as x-api-key, as to the gateway.")
        if _media_type(request) not in {_JSON, *_LINES}:
            raise Refused(415, f"Send {_JSON}, or {_LINES[0]} for JSON Lines.", "Set the header content-type.")

    def _write(self, tables: Sequence[pa.Table]) -> None:
        store, stream = self._environment.store, self._environment.stream
        stored.append(store, stream, self._kind, tables, datetime.now(UTC))

    def _compact(self) -> None:
        stored.compact(self._environment.store, self._kind, self._environment.stream, datetime.now(UTC))


class Commits:
    """Writes what several callers bring at once; each waits until its own part is written.

    Args:
        write: keeps some tables for good, or raises.
        compact: called now and then.
    """

    def __init__(self, write: Callable[[Sequence[pa.Table]], None], compact: Callable[[], None]) -> None:
        self._write, self._compact = write, compact
        self._waiting: list[tuple[pa.Table, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._next = 0.0
        self._count = 0

    async def keep(self, table: pa.Table) -> None:
        """Return when `table` is written, or raise why it is not."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._waiting.append((table, written))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        await written

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(self._next - loop.time())
            batch, self._waiting = self._waiting, []
            self._next = loop.time() + _PAUSE
            await self._commit(batch)
            self._count += 1
            if self._count % _COMPACT_EVERY == 0:
                await self._make_room()

    async def _commit(self, batch: list[tuple[pa.Table, asyncio.Future[None]]]) -> None:
        error: Exception | None = None
        try:
            await asyncio.to_thread(self._write, [table for table, _ in batch])
        except Exception as caught:  # noqa: BLE001 - whatever it is, every caller of this batch has to know
            error = caught
        for _, written in batch:
            if written.done():  # its caller went away
                continue
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

    async def _make_room(self) -> None:
        try:
            await asyncio.to_thread(self._compact)
        except Exception:  # noqa: BLE001 - nothing depends on it, and it is tried again
            _LOG.exception("Small files could not be compacted; they are read as they are.")


async def _body(request: Request) -> bytes:
    """The body, but not more than is allowed."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Refused(413, f"The body is larger than {MAX_BODY:,} bytes.", "Send it in parts.")
        parts.append(part)
    return b"".join(parts)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _lines(body: bytes, media_type: str) -> list[Line]:
    """Numbered objects of a body: one, a list of them, or one a line."""
    if media_type in _LINES:
        found = [parse_json_line(line) for line in body.splitlines() if line.strip()]
    else:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(422, f"The body is not JSON: {error}", "Nothing was kept.") from None
        items = document if isinstance(document, list) else [document]
        found = [one if isinstance(one, dict) else Unusable("it is no JSON object") for one in items]
    if not found:
        raise Refused(422, "The body is empty.", "Send one object, or a list of them.")
    if len(found) > MOST:
        raise Refused(413, f"{len(found):,} rows are more than {MOST:,}.", "Nothing was kept; send them in parts.")
    return list(enumerate(found))


def _answer(kind: Kind, kept: int, rejected: Sequence[Rejected]) -> JSONResponse:
    problems = [{"path": f"[{one.line}]" + (f".{one.field}" if one.field else ""), "why": one.why} for one in rejected]
    document: dict[str, Any] = {"kind": kind, "accepted": kept, "rejected": problems}
    if not rejected:
        return JSONResponse(document)
    others = f"; the other {kept:,} are kept" if kept else ""
    document["message"] = f"{len(rejected):,} of {kept + len(rejected):,} cannot be used{others}."
    return JSONResponse(document, 422)


def _error(status: int, message: str, hint: str) -> JSONResponse:
    headers = {"retry-after": "1"} if status == 503 else None  # noqa: PLR2004 - the store may be back soon
    return JSONResponse({"kind": "error", "message": message, "hint": hint}, status, headers)


def _content(kind: Kind) -> dict[str, Any]:
    """The body's schema."""
    texts = {"type": ["string", "integer"]}
    about: dict[str, Any] = {
        "prediction_id": {"type": "string", "description": "x-tidegate-prediction-id of the answer."},
        "id": {**texts, "description": "The caller's own id of the request (serve.id)."},
        "unit": {**texts, "description": "The user, as in the unit header; kept as a keyed hash."},
        "label": {"type": ["string", "number", "boolean"], "description": "The class, or the quantity."},
        "name": {"type": "string", "description": "What happened: conversion, revenue, ..."},
        "value": {"type": "number", "default": 1},
        "at": {"type": ["string", "number"], "description": "ISO 8601 (UTC without a zone) or seconds since 1970."},
    }
    needed = {"labels": ["label"], "outcomes": ["name", "at"]}[kind]
    one = {
        "type": "object",
        "properties": {name: about[name] for name in FIELDS[kind]},
        "required": needed,
        "additionalProperties": False,
    }
    many = {"oneOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MOST}]}
    return {_JSON: {"schema": many}, _LINES[0]: {"schema": {"type": "string"}}}


_ANSWERS: Final[dict[int | str, str]] = {
    200: "All of them are kept.",
    401: "An API key is needed.",
    413: "The post is too large.",
    415: "The content type is another one.",
    422: "Some cannot be used, each with its path and why; the others are kept.",
    503: "The store cannot be written; nothing was kept.",
}
