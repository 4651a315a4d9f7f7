"""What the gateway is told, as values, and the names that carry it through Envoy into the access log.

A request's arm, release, rollout and weight are read back from its cluster and route name, so the log tells what was
true when the request was routed, whatever was promoted since. Format and parse stand side by side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

from tidegate.core.assignment import TOTAL, Arm
from tidegate.core.errors import UsageError
from tidegate.core.secret import resolve

if TYPE_CHECKING:
    from tidegate.core.config import Config

FORCE_HEADER: Final = "x-tidegate-force-arm"
ARM_HEADER: Final = "x-tidegate-arm"
PREDICTION_HEADER: Final = "x-tidegate-prediction-id"
VERSION_HEADER: Final = "x-tidegate-version"
INVALID_HEADER: Final = "x-tidegate-invalid-output"
PAIR_HEADER: Final = "x-tidegate-pair"

RouteKind = Literal["split", "rest", "forced", "ops"]
Role = Literal["stable", "canary", "shadow"]

# Names travel in Envoy's stats and in file paths; anything else would be escaped differently in each place.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2: header and cookie names
_MIN_PORT, _MAX_PORT = 1, 65535


@dataclass(frozen=True)
class Upstream:
    """One running revision.

    Args:
        release: the release it serves.
        port: where its server listens.
        host: an IP address.
    """

    release: str
    port: int
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        """Refuse what Envoy or the log could not carry."""
        _check_name("release", self.release)
        if not _MIN_PORT <= self.port <= _MAX_PORT:
            raise UsageError(f"{self.port} is not a port.", "Give a number from 1 to 65535.")


@dataclass(frozen=True)
class GatewayState:
    """Who serves what, from now on.

    Args:
        stable: None answers 503: nothing is deployed yet.
        canary: may be present at weight 0 (kept warm, reachable by force only).
        shadow: gets a copy of every prediction request, its answers are dropped; may be the canary at weight 0.
        rollout: id of the rollout, the salt of the hash; "none" outside a rollout.
        weight: whole per cent of the units that the canary gets, 0..100.
    """

    stable: Upstream | None
    canary: Upstream | None = None
    shadow: Upstream | None = None
    rollout: str = "none"
    weight: int = 0

    def __post_init__(self) -> None:
        """Refuse a split that cannot be."""
        _check_name("rollout", self.rollout)
        if not 0 <= self.weight <= TOTAL:
            raise UsageError(f"A canary cannot have {self.weight} % of the traffic.", "Give a weight from 0 to 100.")
        if self.weight and self.canary is None:
            raise UsageError(f"A weight of {self.weight} % needs a canary.", "Start the canary first, or use weight 0.")
        if self.canary is not None and self.stable is None:
            raise UsageError("A canary needs a stable arm to be compared with.", "Deploy a first version with `ship`.")

    def upstreams(self) -> dict[str, Upstream]:
        """Return every cluster this state needs, by name."""
        roles: dict[Role, Upstream | None] = {"stable": self.stable, "canary": self.canary, "shadow": self.shadow}
        return {cluster_name(role, upstream): upstream for role, upstream in roles.items() if upstream is not None}


@dataclass(frozen=True)
class GatewaySettings:
    """What stays for the life of the Envoy process.

    Args:
        port: where clients call.
        host: the address that is listened on.
        unit_header: request header that names the unit.
        cookie: used, and minted, where the header is missing.
        timeout: seconds a service may take before it answers by itself.
        max_body: bytes of a request body.
        api_keys: accepted keys; empty asks for none.
        rate_limit: requests per second over all clients, None for no limit.
    """

    port: int
    host: str = "127.0.0.1"
    unit_header: str = "x-user-id"
    cookie: str = "tg_uid"
    timeout: float = 0.5
    max_body: int = 1_000_000
    api_keys: tuple[str, ...] = ()
    rate_limit: float | None = None

    def __post_init__(self) -> None:
        """Refuse names that would break Envoy's document or its Lua filter."""
        for what, name in (("rollout.unit.header", self.unit_header), ("rollout.unit.cookie", self.cookie)):
            if not _TOKEN.fullmatch(name):
                raise UsageError(f"{what} is {name!r}, which is not a legal name.", "Use letters, digits and dashes.")
        if not all(self.api_keys):
            raise UsageError("An API key is empty.", "Separate the keys with single commas.")

    @classmethod
    def from_config(cls, config: Config, root: Path) -> GatewaySettings:
        """Return the settings of the project in `root`, its API keys resolved.

        Raises:
            UsageError: the reference to the keys leads nowhere, or to no key.
        """
        serve, unit = config.serve, config.rollout.unit
        keys: tuple[str, ...] = ()
        if serve.auth is not None:
            keys = tuple(dict.fromkeys(key for key in re.split(r"[,\s]+", resolve(serve.auth.api_keys, root)) if key))
            if not keys:
                raise UsageError("serve.auth.api_keys leads to no key.", "Separate keys with commas or new lines.")
        return cls(
            port=config.advanced.gateway_port,
            unit_header=unit.header,
            cookie=unit.cookie,
            timeout=serve.timeout,
            max_body=serve.max_body,
            api_keys=keys,
            rate_limit=serve.rate_limit.requests_per_second if serve.rate_limit is not None else None,
        )

    def __repr__(self) -> str:
        """Show everything but the keys, which never belong in a log or a traceback."""
        return f"GatewaySettings({self.host}:{self.port}, {len(self.api_keys)} API keys)"


def cluster_name(role: Role, upstream: Upstream) -> str:
    """Name the cluster of a revision in a role: a promoted canary gets a new one, so log lines never change arm."""
    return f"{role}/{upstream.release}/{upstream.host}:{upstream.port}"


def parse_upstream(name: str) -> Upstream:
    """Return the upstream of a `cluster_name`.

    Raises:
        ValueError: the name is not ours.
    """
    _, release, address = name.split("/")
    host, _, port = address.rpartition(":")
    return Upstream(release, int(port), host)


def parse_cluster(name: str) -> tuple[Arm, str] | None:
    """Return (arm, release) of `cluster_name`, None for a shadow or a name that is not ours."""
    role, _, rest = name.partition("/")
    release, _, address = rest.partition("/")
    if role not in {"stable", "canary"} or not release or not address:
        return None
    return cast("Arm", role), release


def route_name(kind: RouteKind, state: GatewayState) -> str:
    """Name a route so that the log knows rollout and weight at the time of the request."""
    return f"{kind}/{state.rollout}/{state.weight}"


def parse_route(name: str) -> tuple[RouteKind, str, int] | None:
    """Return (kind, rollout, weight) of `route_name`, None for a name that is not ours."""
    kind, _, rest = name.partition("/")
    rollout, _, weight = rest.rpartition("/")
    if kind not in {"split", "rest", "forced", "ops"} or not rollout or not weight.isdigit():
        return None
    return cast("RouteKind", kind), rollout, int(weight)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a {what}.", "Use up to 128 letters, digits and any of . _ - + @")
