"""What happens by itself beside the road, by the name that `tidegate step NAME` knows: each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.pipelines.environment import Environment

Act = Callable[["Environment", "Progress"], None]


def _aliases(environment: Environment, progress: Progress) -> None:
    from tidegate.pipelines import aliases

    aliases.sync(environment, progress)


def _labels(environment: Environment, progress: Progress) -> None:
    from tidegate.pipelines import labels_command

    labels_command.refresh(environment, progress)


def _monitor(environment: Environment, progress: Progress) -> None:
    from tidegate.pipelines import alarm
    from tidegate.pipelines.steps import monitor

    monitor.run(environment, progress, alarm.decider(environment, progress))


def _draw(environment: Environment, progress: Progress) -> None:
    from tidegate.pipelines.steps import monitor

    monitor.draw_newest(environment, progress)


def _retrain(environment: Environment, progress: Progress) -> None:
    from tidegate.pipelines import retrain

    retrain.by_itself(environment, progress)


def _notify(environment: Environment, progress: Progress) -> None:
    from tidegate.pipelines import notify

    notify.send(environment, progress)


def _upkeep(environment: Environment, _progress: Progress) -> None:
    from tidegate.serving import upkeep
    from tidegate.serving.labels import stored

    now, store, stream = datetime.now(UTC), environment.store, environment.stream
    config = environment.project.config
    upkeep.maintain(store, stream, config, now)
    stored.maintain(store, stream, now, timedelta(seconds=config.serve.capture.retention))


ACTS: Final[Mapping[str, Act]] = MappingProxyType(
    {
        "aliases": _aliases,
        "draw": _draw,
        "labels": _labels,
        "monitor": _monitor,
        "notify": _notify,
        "retrain": _retrain,
        "upkeep": _upkeep,
    }
)
