"""What is known of the champion before a rollout: measured once, and again only when something changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fakes import log_line

from tidegate.core.errors import Inconclusive
from tidegate.core.progress import Silent
from tidegate.core.project import open_project
from tidegate.pipelines import champion, control, flows
from tidegate.pipelines.environment import Environment
from tidegate.registry.ledger import Draft
from tidegate.serving.gateway.access_log import LOG_NAME

CONFIG = """
model: demand
data: {path: train.csv, target: class}
rollout: {mode: guard, steps: [50]}
advanced: {block: 0.2s}
"""


class Told(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.titles: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)

    def task(self, title: str, total: float | None = None) -> Any:
        """Keep the title."""
        self.titles.append(title)
        return super().task(title, total)


@pytest.fixture
def stable() -> dict[str, Any]:
    """What `ps` says of the process that serves the champion."""
    return {"name": "stable", "release": "r-1", "version": 1, "pid": 100, "port": 8500, "ready": True}


@pytest.fixture
def environment(tmp_path: Path, stable: dict[str, Any]) -> Iterator[Environment]:
    """Version 1 serves, and 1,500 requests were logged a second ago; the gateway and the process are made up."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    found = Environment(open_project(tmp_path))
    found.ledger.append(lambda _: Draft("registered", {"release": "r-1", "version": 1, "run_id": "run1"}))
    found.ledger.append(lambda _: Draft("deployed", {"release": "r-1"}))
    found.gateway_dir.mkdir(parents=True)
    now = time.time()
    lines = (
        log_line(at=now - 1 + k / 1500, unit=f"user-{k}", request=f"q{k}", upstream_us=1000 + k) for k in range(1500)
    )
    (found.gateway_dir / LOG_NAME).write_bytes(b"".join(lines))
    with ExitStack() as open_:
        socket = control.socket_path(tmp_path, "local")
        open_.enter_context(control.serve(socket, {"ps": lambda: {"processes": [stable]}}))
        yield found


def planned(environment: Environment) -> tuple[Any, Told]:
    """The latency lines of a plan that could start now, and what its reader was told."""
    told = Told()
    return flows.plan_rollout(environment, told, 600.0).latency, told


def test_the_champions_speed_is_measured_once(environment: Environment) -> None:
    """The next rollout, and the forecast, use the same lines at once; it is said where they come from."""
    first, told = planned(environment)
    assert told.titles == ["measure how fast the champion answers (1 s)"]
    assert told.notes == []
    second, told = planned(environment)
    assert second == first
    assert (told.titles, len(told.notes)) == ([], 1)
    assert "on 1,500 requests; the same process still serves" in told.notes[0]
    assert champion.known_speed(environment) == first


@pytest.mark.parametrize("change", [{"release": "r-2"}, {"pid": 101}, {"port": 8501}])
def test_another_process_is_measured_anew(
    environment: Environment, stable: dict[str, Any], change: dict[str, Any]
) -> None:
    """A release that was promoted, or the same one started again, may be faster or slower."""
    planned(environment)
    stable.update(change)
    assert planned(environment)[1].titles == ["measure how fast the champion answers (1 s)"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": ["r-1", 100, 8500], "at": 0, "lines": {}}'])
def test_a_measurement_that_is_old_or_damaged_is_made_again(environment: Environment, text: str) -> None:
    """The file is only a saving."""
    environment.run_dir.joinpath("speed.json").write_text(text)
    assert planned(environment)[1].titles
    assert not planned(environment)[1].titles


def test_without_requests_there_is_nothing_to_keep(environment: Environment) -> None:
    """Too few requests, and none come: refused, as before."""
    (environment.gateway_dir / LOG_NAME).write_bytes(log_line(at=time.time()))
    with pytest.raises(Inconclusive, match="999 more requests"):
        planned(environment)
    assert not environment.run_dir.joinpath("speed.json").exists()
