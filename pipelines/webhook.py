"""One JSON POST to an address that is a secret: https, never to a private machine, never named in an error.

A name is resolved once, every address it has is checked, and the connection goes to a checked address: whoever answers
the name with another address a moment later (DNS rebinding) changes nothing. Redirects and proxies are not followed.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from tidegate.core.errors import Permanent, Temporary, TidegateError

ALLOW_PRIVATE: Final = "TIDEGATE_ALLOW_PRIVATE_WEBHOOKS"
"""Set to 1 it allows addresses of this machine and of private networks, over http too: for tests and inner networks."""

RETRIES: Final = 3
_TIMEOUT: Final = 5.0
_BACKOFF: Final = 1.0  # seconds before the first retry; four times as long before each next one
_RETRIED: Final = frozenset({408, 425, 429})
_OK, _SERVER_ERROR = 300, 500
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address


@dataclass(frozen=True, slots=True)
class Target:
    """Where a webhook goes: host and path are secret, `name` is how the config refers to it."""

    name: str
    scheme: str
    host: str
    port: int
    path: str

    def __repr__(self) -> str:
        """Without what is secret."""
        return f"Target({self.name})"


def post(reference: str, url: str, document: Mapping[str, Any], sleep: Callable[[float], None] = time.sleep) -> None:
    """Send it; tried again when the other side is busy or away.

    Args:
        reference: how tidegate.yaml refers to the address; the only name of it in errors.
        url: the address.
        document: what is sent as JSON.
        sleep: waits between tries.

    Raises:
        Permanent: the address is not allowed, or refused the document.
        Temporary: nobody took it, four times.
    """
    target = parse(reference, url)
    body = json.dumps(document).encode()
    for attempt in range(RETRIES + 1):
        if attempt:
            sleep(_BACKOFF * 4 ** (attempt - 1))
        try:
            said = _send(target, body)
        except (OSError, HTTPException, UnicodeError) as error:
            # The text of such an error may name host and path.
            said = f"the connection failed ({type(error).__name__})"
        if said is None:
            return
    raise Temporary(f"The webhook {reference} took nothing: {said}.", "Is the address right, and the service up?")


def parse(reference: str, url: str) -> Target:
    """The parts of an address.

    Raises:
        Permanent: it is none, or not https.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused(reference, "is no address", "It looks like https://host/path.") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise _refused(reference, "is no address", "It looks like https://host/path.")
    if parts.scheme == "http" and not _private_allowed():
        raise _refused(reference, "is not https", "What it carries is for nobody else to read: use https.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(reference, parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), path)


def _send(target: Target, body: bytes) -> str | None:
    """None if it was taken, else what was said; for what is refused for good there is no next try."""
    connection = _connect(target)
    try:
        connection.request("POST", target.path, body, {"content-type": "application/json", "user-agent": "tidegate"})
        status = connection.getresponse().status
    finally:
        connection.close()
    if status < _OK:
        return None
    if status < _SERVER_ERROR and status not in _RETRIED:
        raise _refused(target.name, f"answered {status}", "Is the address complete, and not revoked?")
    return f"it answered {status}"


def _connect(target: Target) -> HTTPConnection:
    """A connection to an address that was checked, with the name's own certificate."""
    address = resolved(target)
    raw = socket.create_connection((address, target.port), _TIMEOUT)
    if target.scheme == "http":
        connection = HTTPConnection(target.host, target.port, timeout=_TIMEOUT)
        connection.sock = raw
        return connection
    try:
        secure = ssl.create_default_context().wrap_socket(raw, server_hostname=target.host)
    except BaseException:
        raw.close()
        raise
    connection = HTTPSConnection(target.host, target.port, timeout=_TIMEOUT)
    connection.sock = secure
    return connection


def resolved(target: Target) -> str:
    """The address to connect to.

    Raises:
        Permanent: the name has an address on this machine or in a private network.
        OSError: it has none.
    """
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = [str(one[4][0]).partition("%")[0] for one in found]
    # One private address among public ones is what an attacker would answer.
    private = any(not is_public(ip_address(one)) for one in addresses)
    if private and not _private_allowed():
        raise _refused(
            target.name,
            "leads to this machine or into a private network",
            f"If that is meant, set {ALLOW_PRIVATE}=1 where `tidegate up` runs.",
        )
    if not private and target.scheme == "http":
        raise _refused(target.name, "is not https", f"{ALLOW_PRIVATE}=1 allows http to private addresses only.")
    return addresses[0]


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is a machine on the internet; an IPv4 address in IPv6 clothes counts as what it is."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is not None:
            return is_public(inner)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast


def _private_allowed() -> bool:
    return os.environ.get(ALLOW_PRIVATE) == "1"


def _refused(reference: str, why: str, hint: str) -> TidegateError:
    return Permanent(f"The webhook {reference} {why}.", hint)
