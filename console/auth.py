"""Who may see and who may act: tokens, signed sessions, and the guard in front of every path.

The guard refuses by default. What needs no token is a short list here, and whatever is not GET needs an operator and,
in a browser's session, the session's own form token. Nothing is kept on the server: a session is a signed cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse

from tidegate.core.errors import UsageError
from tidegate.pipelines import console_access

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from tidegate.pipelines.environment import Environment

Role = Literal["viewer", "operator"]

TOKENS: Final = "TIDEGATE_CONSOLE_TOKENS"
HOSTS: Final = "TIDEGATE_CONSOLE_HOSTS"
SESSION_SECONDS: Final = 12 * 3600
"""A working day: then the token is asked for again."""
MAX_BODY: Final = 64 * 1024
"""Bytes of a request that acts: a reason, and no more."""

_SHORTEST = 16  # characters of a token; fewer could be tried through
_FAILURES, _FAILURE_SECONDS = 10, 60.0
_ADDRESSES = 1024
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Labels and outcomes come from the web product, which has the API keys of the model and no token.
INTAKE: Final = frozenset({"/labels", "/outcomes"})
_OPEN = frozenset({"/healthz", "/login"}) | INTAKE
_OPEN_BELOW = ("/static/", "/login/")
_VIEWERS_MAY = frozenset({"/logout"})

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # `no-referrer` would make the Origin of our own forms `null`.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever asks: what they may do, and the form token of their session ("" with a bearer token)."""

    role: Role
    form_token: str = ""

    @property
    def may_act(self) -> bool:
        """Whether they may promote and abort."""
        return self.role == "operator"

    @property
    def actor(self) -> str:
        """Their name in the ledger."""
        return f"{self.role}@console"


class Access:
    """Tokens and sessions.

    Args:
        tokens: (role, token) pairs.
        key: signs sessions.
        port: part of the cookie's name, since browsers share cookies between ports.
        hosts: names that the console is asked under, beside the loopback's.
    """

    def __init__(self, tokens: Sequence[tuple[Role, str]], key: bytes, port: int, hosts: Sequence[str] = ()) -> None:
        self._tokens = [(role, _digest(token)) for role, token in tokens]
        # A token that is taken away ends the sessions that began while it was there.
        self._key = hashlib.blake2b("\0".join(f"{r}:{t}" for r, t in tokens).encode(), key=key).digest()
        self.cookie = f"tidegate-{port}"
        self.hosts = frozenset((*_LOOPBACK, *hosts))
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    @classmethod
    def of(cls, environment: Environment, variables: Mapping[str, str] = os.environ) -> Access:
        """Tokens from the variable TIDEGATE_CONSOLE_TOKENS; without it the one of this machine.

        Raises:
            UsageError: the variable cannot be read.
        """
        named = variables.get(TOKENS, "").strip()
        own: list[tuple[Role, str]] = [] if named else [("operator", console_access.token(environment))]
        hosts = [one.strip().lower() for one in variables.get(HOSTS, "").split(",") if one.strip()]
        port = environment.project.config.advanced.console_port
        return cls([*parse_tokens(named), *own], console_access.session_key(environment), port, hosts)

    def role_of(self, token: str, address: str) -> Role | None:
        """What a token allows; None for a wrong one. All are compared, in the same time whatever was typed.

        Raises:
            TooMany: this address has been wrong too often in the last minute.
        """
        self._refuse_guessing(address)
        given, found = _digest(token), None
        for role, digest in self._tokens:
            if hmac.compare_digest(given, digest) and found != "operator":
                found = role
        if found is None:
            self._failures.setdefault(address, deque(maxlen=_FAILURES)).append(time.monotonic())
            while len(self._failures) > _ADDRESSES:
                self._failures.popitem(last=False)
        return found

    def begin(self, role: Role) -> str:
        """The cookie of a new session."""
        text = f"{role}.{int(time.time()) + SESSION_SECONDS}.{secrets.token_hex(8)}"
        return f"{text}.{self._sign('session', text)}"

    def visitor(self, cookie: str) -> Visitor | None:
        """Whose session it is; None if it is over, or was never ours."""
        text, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", text).encode()):
            return None
        role, until, _ = text.split(".")
        if int(until) < time.time():
            return None
        return Visitor("operator" if role == "operator" else "viewer", self._sign("form", cookie))

    def _refuse_guessing(self, address: str) -> None:
        failures = self._failures.get(address, ())
        recent = [at for at in failures if at > time.monotonic() - _FAILURE_SECONDS]
        if len(recent) >= _FAILURES:
            raise TooMany

    def _sign(self, what: str, text: str) -> str:
        return hashlib.blake2b(f"{what}\0{text}".encode(), key=self._key, digest_size=32).hexdigest()


class TooMany(Exception):
    """Somebody guesses tokens."""


def parse_tokens(text: str) -> list[tuple[Role, str]]:
    """Read `viewer:TOKEN,operator:TOKEN`; a message never shows a token.

    Raises:
        UsageError: another role, or a token that is too short.
    """
    found: list[tuple[Role, str]] = []
    for number, part in enumerate(filter(None, text.split(",")), 1):
        role, _, token = part.strip().partition(":")
        if role not in {"viewer", "operator"}:
            raise UsageError(
                f"Entry {number} of {TOKENS} begins with neither viewer: nor operator:.",
                f"Write {TOKENS}=viewer:TOKEN,operator:TOKEN; `openssl rand -hex 32` makes a token.",
            )
        if len(token) < _SHORTEST:
            raise UsageError(
                f"The token of entry {number} of {TOKENS} is shorter than {_SHORTEST} characters.",
                "`openssl rand -hex 32` makes one that nobody guesses.",
            )
        found.append(("operator" if role == "operator" else "viewer", token))
    return found


Refuse = Callable[[Request, int, str, str], "Response"]


class Guard:
    """The ASGI app around the console's: host, origin, role, form token, size, headers.

    Args:
        app: what is behind it.
        access: tokens and sessions.
        refuse: makes the answer (request, status, message, hint) of a refusal, as a page or as JSON.
    """

    def __init__(self, app: ASGIApp, access: Access, refuse: Refuse) -> None:
        self._app, self._access, self._refuse = app, access, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or let the app answer; both get the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, sending = Request(scope, receive), _with_headers(send)
        try:
            receiving = await self._checked(request, receive)
        except _Refused as no:
            await self._answer(request, no)(scope, receive, sending)
        else:
            await self._app(scope, receiving, sending)

    async def _checked(self, request: Request, receive: Receive) -> Receive:
        """Where the app reads the body from, once everything is in order."""
        path, acts = request.url.path, request.method not in _SAFE_METHODS
        bearer = _bearer(request.headers)
        visitor = request.scope["visitor"] = self._visitor(request, bearer)
        if bearer is None or visitor is None:
            # Only who holds a token may call the console by another name: no page of another site has one.
            self._check_names(request, acts=acts)
        if path in INTAKE:
            # It has keys and a limit of its own.
            return receive
        if path not in _OPEN and not path.startswith(_OPEN_BELOW):
            self._check_role(path, visitor, acts=acts)
        if not acts:
            return receive
        receiving = await _read_whole(request)
        if visitor is not None and visitor.form_token and path not in _OPEN and not _same_form(request, visitor):
            raise _Refused(403, "This form is of another session.", "Open the page again, then repeat.")
        return receiving

    def _check_names(self, request: Request, *, acts: bool) -> None:
        """A browser must have been asked for this very console, by a page of it."""
        headers = request.headers
        # Probes ask a pod by its address.
        if request.url.path != "/healthz" and _name(headers.get("host", "")) not in self._access.hosts:
            raise _Refused(421, "The console is not known by this name.", f"Its names are listed in {HOSTS}.")
        if acts and _comes_from_elsewhere(headers):
            raise _Refused(403, "Another site asked for this.", "Open the console itself.")

    def _visitor(self, request: Request, bearer: str | None) -> Visitor | None:
        if bearer is None:
            return self._access.visitor(request.cookies.get(self._access.cookie, ""))
        try:
            role = self._access.role_of(bearer, address_of(request))
        except TooMany:
            raise _Refused(429, "Too many wrong tokens.", "Try again in a minute.") from None
        return Visitor(role) if role else None

    def _check_role(self, path: str, visitor: Visitor | None, *, acts: bool) -> None:
        if visitor is None:
            raise _Refused(401, "This needs a token.", "Send `Authorization: Bearer TOKEN`, or log in.")
        if acts and not visitor.may_act and path not in _VIEWERS_MAY:
            raise _Refused(403, "A viewer may look, not act.", "Log in with an operator's token.")

    def _answer(self, request: Request, no: _Refused) -> Response:
        path = request.url.path
        if no.status == 401 and request.method in _SAFE_METHODS and not path.startswith(("/api/", "/metrics", "/live")):  # noqa: PLR2004 - no token
            return RedirectResponse("/login", 303)
        answer = self._refuse(request, no.status, no.message, no.hint)
        if no.status == 401:  # noqa: PLR2004 - no token
            answer.headers["www-authenticate"] = "Bearer"
        return answer


class _Refused(Exception):
    """The guard's answer."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


async def _read_whole(request: Request) -> Receive:
    """Read the body, which is small or refused, and hand it on."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise _Refused(413, "That is too long.", f"At most {MAX_BODY // 1024} KiB.")
    request.scope["body"] = body

    async def again() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def address_of(request: Request) -> str:
    """Who is limited in guessing."""
    return request.client.host if request.client else ""


def form_of(request: Request) -> dict[str, str]:
    """The fields of a form that passed the guard, each once."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return {}
    body = request.scope.get("body", b"").decode(errors="replace")
    return {name: values[-1] for name, values in parse_qs(body, keep_blank_values=True).items()}


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _name(host: str) -> str:
    """The name in a Host header, without port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _comes_from_elsewhere(headers: Headers) -> bool:
    """What browsers say of who asks; programs say nothing."""
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _same_form(request: Request, visitor: Visitor) -> bool:
    given = request.headers.get("x-form-token") or form_of(request).get("form_token", "")
    return hmac.compare_digest(given.encode(), visitor.form_token.encode())


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
