"""Which processes a stack starts, and what happens when one cannot be started."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import FakeDeployer

from tidegate.core.artifacts import Release
from tidegate.core.errors import TidegateError
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.processes import Processes
from tidegate.pipelines.supervisor import Stack
from tidegate.registry import releases
from tidegate.registry.ledger import Draft
from tidegate.serving.deploy import Revision
from tidegate.serving.deploy.local import LocalDeployer, free_port

CONFIG = """
model: demand
data: {{path: data/train.csv, target: class}}
serve: {{auth: {{api_keys: "env:THE_KEYS"}}}}
notify: [{{on: [drift], webhook: "env:THE_HOOK"}}]
advanced: {{gateway_port: {port}}}
"""


class FullDisk(FakeDeployer):
    """One release cannot be started."""

    def start(self, revision: Revision) -> None:
        """Fail for the second version as the system does."""
        if revision.version == 2:
            raise OSError(28, "No space left on device", "r-2.json")
        super().start(revision)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Versions 1 and 2 are released and registered; their bundles need no build."""
    monkeypatch.setenv("THE_KEYS", "k")
    (tmp_path / "tidegate.yaml").write_text(CONFIG.format(port=free_port()))
    found = Environment(open_project(tmp_path))
    for number in (1, 2):
        release = Release(
            "demand",
            number,
            f"run{number}",
            f"demand:{number}",
            "00",
            "",
            git_dirty=False,
            data=(),
            files={},
            config={},
            contract={},
        )
        releases.save(found.store, release, {})
        registered = {"release": release.id, "version": number, "run_id": f"run{number}"}
        found.ledger.append(lambda _, data=registered: Draft("registered", data))
    monkeypatch.setattr("tidegate.pipelines.processes.bundle_of", lambda _, release: tmp_path / release.id)
    return found


def released(environment: Environment) -> list[str]:
    return list(environment.state().versions)


def test_a_release_that_cannot_be_started_hinders_no_other(environment: Environment) -> None:
    """Whatever the reason; it is said, and who is wanted no more is no problem."""
    environment.__dict__["deployer"] = FullDisk()
    first, second = released(environment)
    said: list[str] = []
    processes = Processes(environment, said.append)
    for _ in range(2):
        processes.refresh(["r-unknown", second, first], lambda _: False)
    assert list(processes.running) == [first]
    assert set(processes.problems) == {"r-unknown", second}
    assert any("No space left on device" in line for line in said)
    processes.refresh([first], lambda _: False)
    assert processes.problems == {}


@contextmanager
def supervised(stack: Stack) -> Iterator[threading.Event]:
    """`up` in a thread; the event says that users can be answered."""
    ready, failed = threading.Event(), []

    def run() -> None:
        try:
            stack.run(ready.set)
        except TidegateError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ready
    finally:
        stack.stop()
        thread.join(60)
    if failed:
        raise failed[0]


@pytest.mark.parametrize("broken", ["warm", "champion"])
def test_only_a_champion_that_cannot_start_ends_up(environment: Environment, broken: str) -> None:
    """The one before, still warm or as a canary, may fail: users are served all the same."""
    environment.__dict__["deployer"] = FullDisk()
    first, second = released(environment)
    order = (second, first) if broken == "warm" else (first, second)
    for release in order:
        data = {"release": release, "keep": 3600.0}
        environment.ledger.append(lambda _, data=data: Draft("deployed", data))
    said: list[str] = []
    stack = Stack(environment, said.append)
    if broken == "warm":
        with supervised(stack) as ready:
            assert ready.wait(60), said
        assert any(f"Release {second} cannot be started" in line for line in said)
    else:
        with pytest.raises(TidegateError, match="No space left"), supervised(stack) as ready:
            assert not ready.wait(5)


def test_the_model_does_not_see_the_secrets_that_the_config_names(environment: Environment) -> None:
    """API keys and webhooks."""
    deployer = environment.deployer
    assert isinstance(deployer, LocalDeployer)
    assert deployer._hidden == {"THE_KEYS", "THE_HOOK"}
