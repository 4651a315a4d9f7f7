"""`tidegate doctor traffic`: does the running gateway split as the ledger says it should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.core.config import Environment as Place
from tidegate.core.errors import Conflict, Temporary, UsageError

if TYPE_CHECKING:
    from tidegate.pipelines.environment import Environment
    from tidegate.serving.route_check import RouteCheck

_LOCAL = Place(kind="local")
_ATTEMPTS = 3
_REQUESTS = 3  # of each user


@dataclass(frozen=True, slots=True)
class Seen:
    """What the check found, and of which rollout (None outside one)."""

    rollout: str | None
    found: RouteCheck


def check(environment: Environment, users: int, address: str = "") -> Seen:
    """Ask the gateway; again if a step began meanwhile.

    Args:
        environment: whose stack runs, or whose cluster.
        users: how many ask; fewer if `serve.rate_limit` would refuse them.
        address: where the gateway is reached, http://host:port; default: the stack's, or the environment's hostname.

    Raises:
        NotRunning: the stack is down.
        UsageError: the environment has no hostname.
        Conflict: nothing is deployed.
        Temporary: the weight changed each time.
    """
    from tidegate.serving.gateway.state import GatewaySettings
    from tidegate.serving.route_check import check_route

    address, host = _where(environment, address)
    config = environment.project.config
    keys = GatewaySettings.from_config(config, environment.project.root).api_keys
    limit = config.serve.rate_limit
    if limit is not None:
        users = max(1, min(users, int(limit.requests_per_second / (2 * _REQUESTS))))  # half is left to real users
    for _ in range(_ATTEMPTS):
        rollout, weight = _asked(environment)
        found = check_route(
            address,
            rollout or "none",
            weight,
            users=users,
            requests=_REQUESTS,
            unit_header=config.rollout.unit.header,
            headers=({"x-api-key": keys[0]} if keys else {}) | ({"host": host} if host else {}),
        )
        if _asked(environment) == (rollout, weight):
            return Seen(rollout, found)
    raise Temporary("The weight changed during every check.", "Ask again when the rollout has settled.")


def _where(environment: Environment, address: str) -> tuple[str, str]:
    """The gateway's address, and the name that it is asked by; empty: the address's own."""
    from tidegate.pipelines import stack

    project = environment.project
    if project.config.environments.get(project.env, _LOCAL).kind == "local":
        return address or stack.status(environment)["gateway"], ""
    host = project.config.environment(project.env).hostname
    if not host:
        raise UsageError(
            f"The environment {project.env} has no hostname, so nobody knows which route to ask.",
            f"Write environments.{project.env}.hostname into tidegate.yaml: the route answers to that name alone.",
        )
    return address or f"http://{host}", host


def _asked(environment: Environment) -> tuple[str | None, int]:
    """The open rollout and its weight in per cent."""
    state = environment.state()
    if state.champion is None:
        raise Conflict("Nothing is deployed yet.", "`tidegate ship` deploys the first version.")
    rollout = state.open_rollout
    return (rollout.id, rollout.weight) if rollout is not None else (None, 0)
