"""What a rollout must know of the champion before it begins: how many users come, and how fast it answers.

How fast is measured once, when training no longer slows this machine, and used again for the next rollout as long as
the same process serves the same release.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import Inconclusive
from tidegate.pipelines import stack

if TYPE_CHECKING:
    from pathlib import Path

    from tidegate.core.progress import Progress
    from tidegate.pipelines.environment import Environment
    from tidegate.rollouts.recent import Recent
    from tidegate.rollouts.stats.latency import LatencyLines

BLOCKS = 5
"""How far back one looks for users, in blocks."""

# Latency lines may look further back than the rates: what is slow changes less than how many come.
_SECONDS = 3600.0
# Five times the least, for a p99 with less noise; and how long to wait for so many.
_ENOUGH = 5000
_CALM_SECONDS = 15.0
_POLL_SECONDS = 0.3
# Two minutes and more are said in minutes.
_MINUTES = 120.0


def lately(environment: Environment, seconds: float | None = None) -> Recent:
    """The champion's traffic of the last `seconds`, by default of the last blocks.

    Raises:
        Inconclusive: nothing is deployed, or the stack is down.
    """
    from tidegate.rollouts.recent import recent
    from tidegate.serving.gateway.access_log import LOG_NAME

    champion = environment.state().champion
    if champion is None:
        raise Inconclusive("Nothing is deployed yet.", "`tidegate ship` deploys the first version.")
    if environment.on_cluster:
        return _recorded(environment, champion, seconds or _patience(environment))
    if not stack.is_up(environment):
        raise Inconclusive(
            "The stack is not running, so there is no traffic to judge a rollout by.",
            "`tidegate up -d` starts it; then `tidegate rollout start`.",
        )
    return recent(environment.gateway_dir / LOG_NAME, champion, time.time(), seconds or _patience(environment))


def speed(environment: Environment, progress: Progress) -> LatencyLines:
    """What counts as slow, from the champion's requests: as it was measured for a rollout before, else from now on.

    Raises:
        Inconclusive: there are too few requests, and none came for five blocks.
    """
    if environment.on_cluster:
        # Nothing trains beside the pods, so what they recorded lately is as good as what comes next.
        return known_speed(environment)
    kept = _kept(environment)
    if kept is not None:
        lines, age = kept
        ago = f"{age:.0f} s" if age < _MINUTES else f"{age / 60:.0f} min"
        progress.note(
            f"How fast the champion answers was measured {ago} ago on {lines.requests:,} requests; the same process "
            "still serves, so that holds."
        )
        return lines
    measured = _measure(environment, progress).latency()
    _keep(environment, measured)
    return measured


def known_speed(environment: Environment) -> LatencyLines:
    """The same without waiting: as it was measured before, else from the requests of the last hour.

    Raises:
        Inconclusive: they are too few to know what is slow.
    """
    kept = None if environment.on_cluster else _kept(environment)
    if kept is not None:
        return kept[0]
    found = lately(environment, _SECONDS)
    if found.missing:
        raise Inconclusive(
            f"The champion needs {found.missing:,} more requests before latency can be judged.",
            "Wait for more traffic, or give --units-per-minute for a forecast without it.",
        )
    return found.latency()


def _recorded(environment: Environment, champion: str, seconds: float) -> Recent:
    """The pods' own records: the gateway's log is on no machine of ours."""
    from tidegate.rollouts.recent import recorded
    from tidegate.serving.telemetry import Predictions

    return recorded(Predictions(environment.store, environment.stream), champion, time.time(), seconds)


def _measure(environment: Environment, progress: Progress) -> Recent:
    """Requests from now on, as soon as there are enough.

    Training and packaging on this machine have just slowed the champion down, so requests from now on are better
    than older ones; those of the last hour do where few come.
    """
    patience = _patience(environment)
    calm = min(patience, _CALM_SECONDS)
    began = changed = time.time()
    with progress.task(f"measure how fast the champion answers ({calm:.0f} s)", _ENOUGH) as task:
        most = 0
        while True:
            fresh = lately(environment, max(time.time() - began, 1e-3))
            task.advance(max(0, len(fresh.durations) - most), f"{len(fresh.durations):,} requests")
            if len(fresh.durations) > most:
                most, changed = len(fresh.durations), time.time()
            waited = time.time() - began
            if most >= _ENOUGH or (waited > calm and not fresh.missing):
                return fresh
            if waited > calm:
                older = lately(environment, _SECONDS)
                if not older.missing:
                    return older
                if time.time() - changed > patience:
                    raise Inconclusive(
                        f"The champion needs {older.missing:,} more requests before latency can be judged; none come.",
                        "Send traffic, or leave latency out of rollout.guardrails.",
                    )
            time.sleep(_POLL_SECONDS)


def _patience(environment: Environment) -> float:
    return BLOCKS * environment.project.config.advanced.block


def _kept(environment: Environment) -> tuple[LatencyLines, float] | None:
    """Lines that were measured within the last hour on the process that serves now, and seconds since then."""
    from tidegate.rollouts.plan import lines_from_dict

    try:
        document = json.loads(_file(environment).read_text(encoding="utf-8"))
        age, process = time.time() - document["at"], _process(environment)
        if process is None or document["process"] != process or not 0 <= age < _SECONDS:
            return None
        return lines_from_dict(document["lines"]), age
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(environment: Environment, lines: LatencyLines) -> None:
    document = {"process": _process(environment), "at": time.time(), "lines": dataclasses.asdict(lines)}
    _file(environment).write_text(json.dumps(document), encoding="utf-8")


def _process(environment: Environment) -> list[Any] | None:
    """Which process answers for the champion: another one, even of the same release, may be faster or slower."""
    for one in stack.status(environment)["processes"]:
        if one["name"] == "stable":
            return [one["release"], one["pid"], one["port"]]
    return None


def _file(environment: Environment) -> Path:
    return environment.run_dir / "speed.json"
