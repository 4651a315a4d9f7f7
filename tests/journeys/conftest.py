"""One shipped project for all stories: its stack goes on from story to story, and is ended whatever happens."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from journeys.journey import Journey, create

from tidegate.core.optouts import opt_out


@pytest.fixture(scope="session")
def _shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    """The project; it is made once, since every version takes seconds to train."""
    home = tmp_path_factory.mktemp("journey-home")
    (home / ".gitconfig").write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("TIDEGATE_", "MLFLOW_", "GIT_", "BENTOML_"))]:
            if name != "TIDEGATE_ENVOY":
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
        opt_out()
        journey = create(tmp_path_factory.mktemp("journey") / "project")
    try:
        yield journey
    finally:
        journey.cli("down")
        deadline = time.monotonic() + 20
        while (left := journey.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            process.kill()
        assert not left


@pytest.fixture
def project(_shipped: Journey) -> Iterator[Journey]:
    """The project as it is, with no rollout and no faults; its stack may run or not."""
    journey = _shipped
    journey.heal()
    journey.configure()
    if journey.state.open_rollout is not None:
        journey.must("rollout", "abort")
    if journey.state.frozen is not None:
        journey.must("unfreeze", "--reason", "another story")
    yield journey
    for child in journey.started:
        if child.poll() is None:
            child.kill()
        child.communicate()
    journey.started.clear()


@pytest.fixture
def stack(project: Journey) -> Journey:
    """The same with a running stack that serves the champion."""
    project.up()
    project.settled()
    return project
