"""Does the gateway really split as promised: the check behind `tidegate doctor traffic`, local or on a cluster.

It asks for a path that is split like a prediction but is no prediction, so that no unit of the check is ever counted
as evidence by the judge.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tidegate.core.assignment import TOTAL, assigned_arm
from tidegate.core.errors import TidegateError
from tidegate.serving.http_client import ask_all, host_and_port, request_bytes

# A sound gateway is accused once in a million checks.
_FALSE_ALARM: Final = 1e-6


@dataclass(frozen=True)
class RouteCheck:
    """What was seen. `switches` users met both arms; `mismatches` did not get the arm of the offline formula.

    `low`..`high` are the counts of canary users that chance explains.
    """

    users: int
    requests: int
    weight: int
    canary: int
    low: int
    high: int
    switches: int
    mismatches: int
    unmarked: int

    def problems(self) -> tuple[str, ...]:
        """Return one sentence for each promise that is broken."""
        checks = (
            (self.unmarked, f"{self.unmarked} of {self.requests} answers do not say which arm they come from"),
            (self.switches, f"{self.switches} of {self.users} users were sent to both arms"),
            (self.mismatches, f"{self.mismatches} of {self.users} users did not get the arm of the formula"),
            (
                not self.low <= self.canary <= self.high,
                f"{self.canary} of {self.users} users got the canary; {self.weight} % means {self.low} to {self.high}",
            ),
        )
        return tuple(text for broken, text in checks if broken)


def check_route(
    address: str,
    rollout: str,
    weight: int,
    *,
    users: int = 1000,
    requests: int = 3,
    path: str = "/v2",
    unit_header: str = "x-user-id",
    headers: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> RouteCheck:
    """Send every user's `requests` through the gateway and compare the arms with core/assignment.py.

    Args:
        address: the gateway, http://host:port.
        rollout: the rollout's id ("none" outside one).
        weight: per cent that the canary has, 0..100.
        users: how many fresh users are made up.
        requests: how often each of them comes.
        path: a path that is split.
        unit_header: names the user.
        headers: sent along (an API key).
        timeout: seconds for the whole check.

    Raises:
        TidegateError: the gateway cannot be reached or does not finish in time.
    """
    names = [f"doctor-{secrets.token_hex(4)}-{number}" for number in range(users)]
    host, port = host_and_port(address)
    template = {"host": f"{host}:{port}", **(headers or {})}
    jobs = [(name, request_bytes("GET", path, {**template, unit_header: name})) for name in names * requests]
    try:
        answers = asyncio.run(asyncio.wait_for(ask_all(address, [request for _, request in jobs]), timeout))
    except (OSError, TimeoutError) as error:
        reason = str(error) or f"not finished in {timeout:g} s"
        hint = "Start it with `tidegate up`; `--address` names another one."
        raise TidegateError(f"{address} does not answer: {reason}.", hint) from error
    seen = [
        (name, answer.header(b"x-tidegate-arm") if answer is not None else "")
        for (name, _), answer in zip(jobs, answers, strict=True)
    ]
    arms = _by_user(seen)
    low, high = binomial_bounds(users, weight / TOTAL)
    return RouteCheck(
        users=users,
        requests=len(jobs),
        weight=weight,
        canary=sum("canary" in met for met in arms.values()),
        low=low,
        high=high,
        switches=sum(len(met - {""}) > 1 for met in arms.values()),
        mismatches=sum(met - {""} != {assigned_arm(rollout, name, weight)} for name, met in arms.items()),
        unmarked=sum(arm == "" for _, arm in seen),
    )


def binomial_bounds(trials: int, share: float, false_alarm: float = _FALSE_ALARM) -> tuple[int, int]:
    """Return the smallest central range of a binomial count that is left with probability <= `false_alarm`.

    Exact: each tail, summed from its end, holds at most half of it.
    """
    if share <= 0 or share >= 1:
        return round(trials * share), round(trials * share)
    chances = [math.exp(_log_binomial(trials, count, share)) for count in range(trials + 1)]
    return _tail(chances, false_alarm / 2), trials - _tail(chances[::-1], false_alarm / 2)


def _tail(chances: list[float], mass: float) -> int:
    total = 0.0
    for count, chance in enumerate(chances):
        total += chance
        if total > mass:
            return count
    return len(chances) - 1


def _log_binomial(trials: int, count: int, share: float) -> float:
    ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return ways + count * math.log(share) + (trials - count) * math.log1p(-share)


def _by_user(seen: list[tuple[str, str]]) -> dict[str, set[str]]:
    arms: dict[str, set[str]] = {}
    for name, arm in seen:
        arms.setdefault(name, set()).add(arm)
    return arms
