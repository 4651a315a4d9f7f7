"""The judge as a service for Argo Rollouts: one ASGI app, apart from the console, whose faults abort no rollout.

It answers 200 whenever it has an opinion, also that there is not enough data; 503 only while its store cannot be read.
Whatever is refused is refused before the body is looked at, and no answer repeats a header or a body.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, runtime_checkable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tidegate.console import otlp
from tidegate.console.judge_desk import Case, Desk
from tidegate.core.errors import Conflict, TidegateError, UsageError
from tidegate.core.units import parse_duration
from tidegate.rollouts.block_lines import parse
from tidegate.rollouts.following import Asked

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

VARIABLE: Final = "TIDEGATE_JUDGE_TOKEN"
LOG_VARIABLE: Final = "TIDEGATE_JUDGE_LOG_TOKEN"
"""Another token that opens /v1/logs alone: a gateway's configuration is read by more people than a secret is."""
FILE: Final = "_FILE"
"""What the name of a variable ends in that names a file with the token, as a mounted secret is."""

MAX_BODY: Final[Mapping[str, int]] = {"/v1/blocks": 4_000_000, "/v1/logs": 8_000_000}
"""Bytes of one request; of every other path `SMALL_BODY`."""
SMALL_BODY: Final = 64_000
MOST_LINES: Final = 20_000

_SHORTEST = 16
_LOGS = "/v1/logs"
_BEAT, _SETTLE = 1.0, 15.0
_LOG: Final = logging.getLogger(__name__)


@runtime_checkable
class Settling(Protocol):
    """Who brings the ledger up to what the cluster did: the driver."""

    def settle(self) -> object:
        """Write the ends of rollouts that the ledger does not know yet."""


class Tokens:
    """Who may ask: bearer tokens, compared in constant time.

    Args:
        variables: of the process. A file is read again when it changes, since secrets are rotated.

    Raises:
        UsageError: there is no token, or it is too short to be one.
    """

    def __init__(self, variables: Mapping[str, str] = os.environ) -> None:
        self._variables = variables
        self._files: dict[Path, tuple[int, str]] = {}
        if not self._read(VARIABLE):
            raise UsageError(
                "The judge has no token, so anybody could ask it and send it evidence.",
                f"Set {VARIABLE}, or {VARIABLE}{FILE} to a file that holds it; `openssl rand -hex 32` makes one.",
            )
        for name in (VARIABLE, LOG_VARIABLE):
            if 0 < len(self._read(name)) < _SHORTEST:
                raise UsageError(f"{name} is shorter than {_SHORTEST} characters.", "`openssl rand -hex 32` makes one.")

    def allows(self, header: str, path: str) -> bool:
        """Whether the header `authorization` opens a path. Digests are compared, so that no length is told either."""
        scheme, _, given = header.partition(" ")
        names = (VARIABLE, LOG_VARIABLE) if path == _LOGS else (VARIABLE,)
        digest = sha256(given.strip().encode()).digest()
        tokens = [self._read(name) for name in names]
        fits = [bool(token) & hmac.compare_digest(digest, sha256(token.encode()).digest()) for token in tokens]
        return scheme.lower() == "bearer" and any(fits)

    def _read(self, name: str) -> str:
        file = self._variables.get(name + FILE)
        if not file:
            return self._variables.get(name, "").strip()
        path = Path(file)
        try:
            changed = path.stat().st_mtime_ns
            if self._files.get(path, (0, ""))[0] != changed:
                self._files[path] = changed, path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            # A secret that is being replaced opens nothing meanwhile.
            return ""
        return self._files[path][1]


_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")]
_MaybeName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,252})?$")]


def _seconds(value: Any) -> Any:
    try:
        return parse_duration(value) if isinstance(value, str) and not value.replace(".", "").isdigit() else value
    except ValueError:
        return value


class Guarding(BaseModel):
    """Who asks: what an AnalysisTemplate of Argo Rollouts knows."""

    rollout: _Name = Field(description="The Argo Rollout's name.")
    experiment: _Name = Field(description="Its uid.")
    stable: _Name = Field(description="Hash of the stable pods.")
    canary: _Name = Field(description="Hash of the canary's pods.")
    model: _MaybeName = Field(default="", description="The model, where tidegate keeps the ledger.")
    environment: _MaybeName = Field(default="", description="Its environment.")
    id: _MaybeName = Field(default="", description="The ledger's id of the rollout; empty without a ledger.")
    plan: dict[str, Any] | None = Field(default=None, description="Without a ledger: the keys of `rollout:`.")

    @property
    def case(self) -> Case:
        """The same, as the desk knows it."""
        return Case(
            self.rollout, self.experiment, self.stable, self.canary, self.model, self.environment, self.id, self.plan
        )


class Measurement(Guarding):
    """And at which weight."""

    weight: int = Field(ge=0, le=100, description="Per cent on the canary in this step.")
    delay: Annotated[float, BeforeValidator(_seconds)] = Field(
        default=0.0, ge=0, le=1e6, description="For how long that has been so at least: the metric's initialDelay."
    )


def create_judge(desk: Desk, tokens: Tokens, settling: Callable[[], Sequence[Settling]] = tuple) -> ASGIApp:
    """The app, with the door in front of it.

    Args:
        desk: of the environment.
        tokens: who may ask.
        settling: who is to be called now and then; asked each time, since it may not be there yet.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_every(_BEAT, desk.beat))]
        tasks.append(asyncio.create_task(_every(_SETTLE, lambda: _settle(settling))))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    app = FastAPI(
        title="tidegate judge",
        version=version("tidegate"),
        description="Verdicts for analyses of Argo Rollouts. Send `Authorization: Bearer TOKEN`.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    _add_verdicts(app, desk)
    _add_intake(app, desk)
    _add_small_ones(app, desk)
    _add_errors(app)
    return Door(app, tokens)


def _add_verdicts(app: FastAPI, desk: Desk) -> None:
    refusals: dict[int | str, dict[str, Any]] = {code: {"description": text} for code, text in _REFUSALS.items()}

    @app.post("/v1/verdicts", summary="Whether the step passes, or the canary goes.", responses=refusals)
    def verdicts(body: Measurement) -> dict[str, Any]:
        return {"verdict": desk.verdict(body.case, Asked(body.weight, body.delay)).to_dict()}

    @app.post("/v1/guard", summary="Whether the canary must go at once.", responses=refusals)
    def guard(body: Guarding) -> dict[str, Any]:
        return {"verdict": desk.guard(body.case).to_dict()}


def _add_intake(app: FastAPI, desk: Desk) -> None:
    refusals: dict[int | str, dict[str, Any]] = {code: {"description": text} for code, text in _REFUSALS.items()}

    @app.post("/v1/blocks", summary="Counts of both arms.", openapi_extra={"requestBody": _BLOCKS}, responses=refusals)
    async def blocks(request: Request) -> dict[str, Any]:
        lines = _lines(await request.body(), _media_type(request))
        fresh = await asyncio.to_thread(desk.blocks, lines)
        return {"kind": "blocks", "new": sum(fresh.values()), "known": len(lines) - sum(fresh.values())}

    @app.post(
        _LOGS, summary="The gateway's access log, by OTLP.", openapi_extra={"requestBody": _OTLP}, responses=refusals
    )
    async def logs(request: Request) -> Response:
        media = _media_type(request)
        if media not in {otlp.PROTOBUF, otlp.JSON}:
            raise HTTPException(415, f"Send {otlp.PROTOBUF} or {otlp.JSON}.")
        body, encoding = await request.body(), request.headers.get("content-encoding", "").lower()
        await asyncio.to_thread(lambda: desk.log(otlp.records(body, media, encoding, MAX_BODY[_LOGS])))
        return Response(b"{}" if media == otlp.JSON else b"", media_type=media)


def _add_small_ones(app: FastAPI, desk: Desk) -> None:
    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> Response:
        try:
            desk.check()
        except (TidegateError, OSError):
            _LOG.warning("The store cannot be read.", exc_info=True)
            return PlainTextResponse("The store cannot be read.\n", 503)
        return PlainTextResponse("ok\n")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(desk.measure(), media_type="text/plain; version=0.0.4")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(TidegateError)
    async def known(_: Request, error: TidegateError) -> Response:
        return _refusal(status_of(error), error.message, error.hint)

    @app.exception_handler(OSError)
    async def unreadable(_: Request, error: OSError) -> Response:
        _LOG.warning("The store cannot be used.", exc_info=error)
        return _refusal(503, "The store cannot be used.", "Nothing was decided; ask again.")

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        refused = _refusal(error.status_code, str(error.detail), "/openapi.json describes every request.")
        refused.headers.update(error.headers or {})
        return refused

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Without what was sent: a token in the wrong place must not come back in an AnalysisRun's status.
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['type'].replace('_', ' ')}" for one in error.errors())
        return _refusal(422, f"{told}."[:1000], "/openapi.json describes every request.")


def status_of(error: TidegateError) -> int:
    """The HTTP status of an error of ours: what the caller can mend is theirs, everything else is the store's."""
    if isinstance(error, Conflict):
        return 409
    return 422 if isinstance(error, UsageError) else 503


class Door:
    """Refuses before the app sees anything: who has no token, and what is too large."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or let the app answer."""
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        if not await asyncio.to_thread(self._tokens.allows, request.headers.get("authorization", ""), scope["path"]):
            refused = _refusal(401, "The token is missing or wrong.", "Send it as `Authorization: Bearer TOKEN`.")
            refused.headers["www-authenticate"] = "Bearer"
            await refused(scope, receive, send)
            return
        limit = MAX_BODY.get(scope["path"], SMALL_BODY)
        body = await _body(request, limit)
        if body is None:
            await _refusal(413, f"The body is larger than {limit:,} bytes.", "Send it in parts.")(scope, receive, send)
            return
        await self._app(scope, _again(body, receive), send)


_OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})


async def _body(request: Request, limit: int) -> bytes | None:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Hand the body over once more; afterwards wait for the client to leave, as a server does."""
    left = [body]

    async def receiving() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return receiving


def _lines(body: bytes, media_type: str) -> list[Mapping[str, Any]]:
    """JSON lines, or a JSON array of them."""
    if media_type == otlp.JSON:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise UsageError("The body is no JSON.", "Send an array of lines, or one line each.") from None
        found: list[Any] = document if isinstance(document, list) else [document]
        if not all(isinstance(one, dict) for one in found):
            raise UsageError("The body is no array of objects.", "Send an array of lines, or one line each.")
    else:
        try:
            found = list(parse(body.splitlines()))
        except (RecursionError, UnicodeDecodeError):
            raise UsageError("The body is no JSON lines.", "Send one JSON object a line.") from None
    if len(found) > MOST_LINES:
        raise UsageError(f"{len(found):,} lines are more than {MOST_LINES:,}.", "Send them in parts.")
    return found


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _refusal(status: int, message: str, hint: str) -> JSONResponse:
    headers = {"retry-after": "1"} if status == 503 else None  # noqa: PLR2004 - the store may be back soon
    return JSONResponse({"kind": "error", "message": message, "hint": hint}, status, headers)


async def _every(seconds: float, work: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(work)
        except Exception:  # noqa: BLE001 - whatever it is, the next time may be better, and answers go on
            _LOG.exception("Work of every %g seconds failed; it is tried again.", seconds)


def _settle(settling: Callable[[], Sequence[Settling]]) -> None:
    for one in settling():
        one.settle()


_REFUSALS: Final = {
    400: "The body is no JSON.",
    401: "A token is needed.",
    409: "A line contradicts an earlier one, or comes too late.",
    413: "The body is too large.",
    415: "The content type is another one.",
    422: "The request cannot be understood, or nothing is known of what it is about.",
    503: "The store cannot be read; nothing was decided.",
}
_LINE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["rollout", "minute", "arm", "metric", "n"],
    "properties": {
        "rollout": {"type": "string", "description": "The ledger's id, or UID.CANARY-HASH of an Argo Rollout."},
        "minute": {"type": "integer", "minimum": 0, "description": "Which block, counted from 0."},
        "arm": {"enum": ["canary", "stable"]},
        "metric": {"type": "string"},
        "n": {"type": "number", "minimum": 0},
        "x": {"type": "number", "minimum": 0},
        "sum": {"type": "number"},
        "sumsq": {"type": "number", "minimum": 0},
        "weight": {"type": "integer", "minimum": 0, "maximum": 100},
        "source": {"type": "string"},
        "cohort": {"type": "integer", "minimum": 0},
    },
}
_BLOCKS: Final = {
    "required": True,
    "content": {
        otlp.JSON: {"schema": {"type": "array", "items": _LINE, "maxItems": MOST_LINES}},
        "application/x-ndjson": {"schema": {"type": "string"}},
    },
}
_OTLP: Final = {
    "required": True,
    "content": {
        otlp.JSON: {"schema": {"type": "object"}},
        otlp.PROTOBUF: {"schema": {"type": "string", "format": "binary"}},
    },
}
