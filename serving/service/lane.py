"""The outermost ASGI app of a model: it answers the prediction paths itself and hands the rest to BentoML's app.

Why not BentoML's endpoint: of its 1.7 ms of processor time a request, 5 % are spent in the handler. What its
middleware did for these paths is therefore done here: timeout, concurrency limit, body limit, request id, metrics.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tidegate.core.errors import TidegateError
from tidegate.serving.service import inference
from tidegate.serving.service.batch import Batcher, TooLate
from tidegate.serving.service.capture import Capture
from tidegate.serving.service.metrics import Metrics
from tidegate.serving.service.model import Answer, Model
from tidegate.serving.service.pair_log import PairLog
from tidegate.serving.service.recording import Request
from tidegate.serving.service.schema import BadRequest, Problem, Row, Schema
from tidegate.serving.service.workers import Place

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

logger = logging.getLogger("tidegate.serving")

# All that is reached of BentoML's app: its pages load scripts from elsewhere, one of them for analytics.
_BENTO_PATHS = frozenset({"/docs.json", "/schema.json", "/livez"})
# Other values of the header would let a caller grow the metrics without bound.
_ARMS = {b"stable": "stable", b"canary": "canary", b"shadow": "shadow"}
_JSON: Header = (b"content-type", b"application/json")
_LONGEST_REQUEST_ID = 200
# As Nginx counts it: there is nobody to answer.
_LEFT = 499


class Disconnected(Exception):
    """The client went away before its body was here."""


@dataclass(slots=True)
class _Call:
    """What the request's headers say, and what was predicted."""

    arm: str = ""
    arm_header: bytes = b""
    request_id: bytes = b""
    content_type: bytes = b""
    encoding: bytes = b""
    length: int | None = None
    pair: bytes = b""
    unit: bytes = b""
    caller: bytes = b""
    rows: list[Row] | None = None
    callers: list[Any] | None = None
    answer: Answer | None = None


class Lane:
    """The ASGI app.

    Args:
        inner: BentoML's app for its schema and liveness; without it, as everywhere else, 404.
        release: id of the release, told in a header.
        place: of this process among several that serve one port.
        pairs: keeps what is asked of two processes at once; by default nothing is kept.
    """

    def __init__(
        self, inner: App | None = None, release: str = "", place: Place | None = None, pairs: PairLog | None = None
    ) -> None:
        self._place = place
        self._pairs = pairs or PairLog(None)
        self.metrics = Metrics()
        self.failure = ""
        self._inner = inner
        self._release = release
        self._model: Model | None = None
        self._batcher: Batcher | None = None
        self._capture: Capture | None = None
        self._schema: Schema | None = None
        # Headers whose names the config chooses: of the user, and of the request in the caller's words.
        self._named: tuple[bytes, bytes] = (b"", b"")
        self._draining = False
        self._fixed: list[Header] = []
        self._routes: dict[str, tuple[str, Callable[[Scope, Receive, Send], Awaitable[None]]]] = {
            "/": ("GET", self._about),
            "/healthz": ("GET", self._health),
            "/readyz": ("GET", self._ready),
            "/metrics": ("GET", self._metrics),
            "/v2/health/live": ("GET", self._live_v2),
            "/v2/health/ready": ("GET", self._ready_v2),
            "/predict": ("POST", self._predict),
        }

    def serve(self, model: Model, batcher: Batcher, capture: Capture | None = None) -> None:
        """Begin to answer with a model that is warm, and to record in `capture` what is answered."""
        manifest = model.manifest
        self._schema = model.schema
        if capture is not None:
            self._named = (capture.unit_header, capture.id_header)
            if capture.id_field:
                self._schema = Schema(manifest.columns, manifest.limits.max_rows, capture.id_field)
        path = f"/v2/models/{manifest.model}"
        self._routes |= {
            path: ("GET", self._metadata),
            f"{path}/ready": ("GET", self._ready_v2),
            f"{path}/infer": ("POST", self._infer),
        }
        self._fixed = [_JSON, (b"x-tidegate-version", str(manifest.version).encode())]
        if self._release or manifest.release:
            self._fixed.append((b"x-tidegate-release", (self._release or manifest.release).encode()))
        self._pairs.classes = manifest.classes
        if capture is not None:
            self._pairs.salt = capture.salt
        self._pairs.knows(model.schema.names)
        self._model, self._batcher, self._capture = model, batcher, capture

    def drain(self) -> None:
        """Answer what is in flight, tell the load balancer to send no more."""
        self._draining = True
        if self._capture is not None:
            # Whoever does not drain in time is killed.
            self._capture.hurry()

    def close(self, patience: float) -> None:
        """Write down what was answered; waits at most `patience` seconds."""
        if self._capture is not None:
            self._capture.close(patience)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event of ASGI."""
        if scope["type"] != "http":
            if self._inner is not None and scope["type"] == "websocket":
                await self._inner(scope, receive, send)
            return
        path: str = scope["path"]
        route = self._routes.get(path)
        if route is None:
            await self._other(path, scope, receive, send)
        elif scope["method"] == route[0] or (scope["method"] == "HEAD" and route[0] == "GET"):
            await route[1](scope, receive, send)
        else:
            text = f"{path} takes {route[0]}, not {scope['method']}"
            await _reply(send, 405, _errors([Problem("", text)]), [_JSON, (b"allow", route[0].encode())])

    async def _other(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path in _BENTO_PATHS and self._inner is not None:
            await self._inner(scope, receive, send)
        else:
            name = self._model.manifest.model if self._model else "(not loaded yet)"
            text = f"no such path; this server has the model {name}, and GET / names its paths"
            await _reply(send, 404, _errors([Problem("", text)]), [_JSON])

    async def _about(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        manifest = self._model.manifest if self._model else None
        document = {
            "model": manifest.model if manifest else None,
            "version": manifest.version if manifest else None,
            "provider": self._model.provider if self._model else "",
            "paths": sorted(f"{method} {path}" for path, (method, _) in self._routes.items()),
        }
        await _reply(send, 200, msgspec.json.encode(document), [_JSON])

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send, _decode_rows, _encode_rows)

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send, _decode_v2, _encode_v2)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, decode: _Decode, encode: _Encode) -> None:
        begun = time.perf_counter()
        call = _call(scope["headers"], *self._named)
        name = prediction_id()
        headers = [*self._fixed, (b"x-tidegate-prediction-id", name)]
        if call.arm_header:
            headers.append((b"x-tidegate-arm", call.arm_header))
        if call.request_id:
            headers.append((b"x-request-id", call.request_id))
        self.metrics.in_flight += 1
        status = _LEFT
        try:
            status, body, more = await self._attempt(call, receive, decode, encode)
            await _reply(send, status, body, [*headers, *more])
        except Disconnected:
            pass
        finally:
            seconds = time.perf_counter() - begun
            self.metrics.in_flight -= 1
            self.metrics.record(status, call.arm, seconds)
        if call.pair and status != _LEFT:
            answered = status == 200  # noqa: PLR2004 # OK
            answer = call.answer if answered else None
            self._pairs.add(call.pair, call.arm, status, seconds, answer, rows=call.rows or ())
        if self._capture is not None and call.rows is not None and status != _LEFT:
            self._capture.add(_request(name, status, seconds, call))

    async def _attempt(
        self, call: _Call, receive: Receive, decode: _Decode, encode: _Encode
    ) -> tuple[int, bytes, Iterable[Header]]:
        model, batcher, schema = self._model, self._batcher, self._schema
        if model is None or batcher is None or schema is None:
            return 503, _errors([Problem("", self.failure or "the model is still loading")]), (_JSON, _RETRY)
        if self.metrics.in_flight > model.manifest.limits.max_concurrency:
            text = f"{model.manifest.limits.max_concurrency} requests are in flight already (serve.max_concurrency)"
            return 503, _errors([Problem("", text)]), (_RETRY,)
        try:
            _check_headers(call, model.manifest.limits.max_body)
            request_id, rows = decode(await _body(receive, model.manifest.limits.max_body), schema)
            rows, call.callers = schema.named(rows)
            call.rows = rows
            call.answer = answer = await batcher.submit(rows, call.arm == "shadow")
            # A hook may return what is no JSON, which is a failure like any other.
            encoded = encode(model, request_id, answer)
        except BadRequest as error:
            return error.status, _errors(error.problems), ()
        except TooLate:
            text = f"no answer within {model.manifest.limits.timeout:g} s (serve.timeout)"
            return 504, _errors([Problem("", text)]), ()
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001 # logged, and answered without its inside
            return 500, _errors([Problem("", _explain(error))]), ()
        self.metrics.rows += len(rows)
        return 200, encoded, () if answer.sound else (_INVALID,)

    async def _health(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await _reply(send, 200, b'{"status":"ok"}', [_JSON])

    async def _ready(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        status, text = self._state()
        await _reply(send, status, msgspec.json.encode({"status": text}), [_JSON])

    async def _live_v2(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await _reply(send, 200, b'{"live":true}', [_JSON])

    async def _ready_v2(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        status, _ = self._state()
        await _reply(send, status, msgspec.json.encode({"ready": status == 200}), [_JSON])  # noqa: PLR2004 # OK

    def _state(self) -> tuple[int, str]:
        if self._draining:
            return 503, "draining"
        if self._model is None:
            return 503, self.failure or "loading"
        if self._place is not None and not self._place.all_ready():
            return 503, "other workers are loading"
        return 200, "ready"

    async def _metadata(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        assert self._model is not None  # noqa: S101 # the route exists only then
        await _reply(send, 200, inference.metadata(self._model.manifest), [_JSON])

    async def _metrics(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        page = self.page() if self._place is None else self._place.merged(self.page())
        await _reply(send, 200, page, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")])

    def page(self) -> bytes:
        """The counters of this process in Prometheus' text format."""
        info: dict[str, str] = {"release": self._release}
        gauges: dict[str, float] = {"tidegate_ready": self._state()[0] == 200}  # noqa: PLR2004 # OK
        counters: dict[str, float] = {"tidegate_rows_total": self.metrics.rows}
        if self._model is not None and self._batcher is not None:
            manifest, counts = self._model.manifest, self._batcher.counts
            info |= {"model": manifest.model, "version": str(manifest.version), "runtime": manifest.runtime}
            gauges["tidegate_queue_rows"] = counts.queued
            gauges["tidegate_gpu_fallback"] = self._model.fell_back
            counters |= {
                "tidegate_batches_inline_total": counts.inline,
                "tidegate_batches_worker_total": counts.worker,
                "tidegate_batched_rows_total": counts.rows,
            }
        if self._capture is not None:
            kept = self._capture.counts
            gauges["tidegate_capture_queue_rows"] = kept.waiting
            counters |= {
                "tidegate_capture_written_total": kept.written,
                "tidegate_capture_dropped_total": kept.dropped,
                "tidegate_capture_errors_total": kept.errors,
            }
        return self.metrics.render(info, gauges, counters)


_Decode = Callable[[bytes, Schema], tuple[str | None, list[Row]]]
_Encode = Callable[[Model, str | None, Answer], bytes]
_RETRY: Header = (b"retry-after", b"1")
# The gateway's log tells the judge: a 200 without an answer is what the metric invalid_output counts.
_INVALID: Header = (b"x-tidegate-invalid-output", b"1")


class _Rows(msgspec.Struct, omit_defaults=True):
    predictions: list[Any]
    probabilities: list[list[float]] | None = None


_encoder = msgspec.json.Encoder()


def _decode_rows(body: bytes, schema: Schema) -> tuple[str | None, list[Row]]:
    return None, schema.decode(body)


def _encode_rows(_model: Model, _request_id: str | None, answer: Answer) -> bytes:
    return _encoder.encode(_Rows(answer.predictions, answer.probabilities))


def _decode_v2(body: bytes, schema: Schema) -> tuple[str | None, list[Row]]:
    return inference.decode(body, schema)


def _encode_v2(model: Model, request_id: str | None, answer: Answer) -> bytes:
    return inference.encode(model.manifest, request_id, answer)


def prediction_id() -> bytes:
    """A random UUID (version 4) as text; callers cannot choose it, so nobody can claim another's prediction."""
    bits = int.from_bytes(os.urandom(16)) & ~(0xF000C000 << 48) | (0x40008000 << 48)
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()


def _call(headers: Iterable[Header], unit_header: bytes, id_header: bytes) -> _Call:
    call = _Call()
    for name, value in headers:
        # Either may be one of the headers below.
        if name == unit_header:
            call.unit = value
        if name == id_header:
            call.caller = value
        if name == b"content-type":
            call.content_type = value
        elif name == b"content-length":
            call.length = int(value) if value.isdigit() else None
        elif name == b"x-tidegate-arm" and value in _ARMS:
            call.arm, call.arm_header = _ARMS[value], value
        elif name == b"x-request-id":
            call.request_id = value[:_LONGEST_REQUEST_ID]
        elif name == b"content-encoding":
            call.encoding = value
        elif name == b"x-tidegate-pair":
            call.pair = value
    return call


def _request(name: bytes, status: int, seconds: float, call: _Call) -> Request:
    """What there is to record of a call."""
    rows = call.rows or ()
    at = time.time() - seconds
    return name, at, call.unit, call.caller, call.arm, status, seconds, rows, call.callers, call.answer


def _check_headers(call: _Call, max_body: int) -> None:
    if call.length is not None and call.length > max_body:
        raise BadRequest(
            413, [Problem("", f"the body has {call.length} bytes; {max_body} are allowed (serve.max_body)")]
        )
    kind = call.content_type.partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise BadRequest(415, [Problem("", "send the rows as JSON, with the header content-type: application/json")])
    if call.encoding not in {b"", b"identity"}:
        raise BadRequest(415, [Problem("", "compressed bodies are not accepted; send the JSON as it is")])


async def _body(receive: Receive, max_body: int) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = [body]
        size = len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > max_body:
                break
        body = b"".join(parts)
    if len(body) > max_body:
        raise BadRequest(413, [Problem("", f"the body is larger than {max_body} bytes (serve.max_body)")])
    return body


def _explain(error: Exception) -> str:
    """What the caller may know of a failure inside; the log has all of it."""
    logger.error("A prediction failed.", exc_info=error)
    if isinstance(error, TidegateError):
        return error.message
    return "the model failed on these rows; the server's log has the reason"


def _errors(problems: list[Problem]) -> bytes:
    return _encoder.encode({"errors": problems})


async def _reply(send: Send, status: int, body: bytes, headers: list[Header]) -> None:
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
