"""Which revisions should run, and how traffic should be split between those that do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tidegate.registry.state import Retired, State
from tidegate.serving.deploy import Running
from tidegate.serving.gateway.state import GatewayState, Upstream


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the ledger asks for: release ids; `weight` in whole per cent; `rollout` salts the hash.

    `shadow`: the canary gets a copy of every request.
    """

    stable: str | None
    canary: str | None = None
    rollout: str = "none"
    weight: int = 0
    warm: str | None = None
    shadow: bool = False

    @property
    def releases(self) -> tuple[str, ...]:
        """Every release that should have a process, the most important one first."""
        wanted = (self.stable, self.canary, self.warm)
        return tuple(dict.fromkeys(release for release in wanted if release is not None))


def wanted(state: State, now: datetime) -> Wanted:
    """What should run at `now`."""
    warm = state.retired.release if _is_warm(state.retired, now) and state.retired else None
    rollout = state.open_rollout
    if rollout is None:
        return Wanted(state.champion, warm=warm)
    return Wanted(state.champion, rollout.canary, rollout.id, rollout.weight, warm, rollout.shadowing)


def _is_warm(retired: Retired | None, now: datetime) -> bool:
    if retired is None:
        return False
    return now < datetime.fromisoformat(retired.at) + timedelta(seconds=retired.keep)


def routing(asked: Wanted, running: Mapping[str, Running], current: GatewayState) -> GatewayState:
    """Split traffic between what runs.

    Args:
        asked: what the ledger asks for.
        running: living revisions by release.
        current: how it is split now. What answers as stable goes on until the wanted one is ready, so that a
            change of champion drops no request.
    """
    stable = _stable(asked, running, current.stable)
    if stable is None:
        return GatewayState(None)
    canary = running.get(asked.canary) if asked.canary else None
    if canary is None or not canary.ready:
        return GatewayState(stable, rollout=asked.rollout)
    shadow = _upstream(canary) if asked.shadow else None
    return GatewayState(stable, _upstream(canary), shadow, rollout=asked.rollout, weight=asked.weight)


def _stable(asked: Wanted, running: Mapping[str, Running], current: Upstream | None) -> Upstream | None:
    target = running.get(asked.stable) if asked.stable else None
    before = running.get(current.release) if current else None
    for one in (target, before):
        if one is not None and one.ready:
            return _upstream(one)
    if target is not None:
        return _upstream(target)
    # It died and is about to be started again; meanwhile the users of the canary are still answered.
    return current if current is not None and current.release == asked.stable else None


def _upstream(one: Running) -> Upstream:
    return Upstream(one.release, one.port)
