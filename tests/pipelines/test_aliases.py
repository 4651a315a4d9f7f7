"""MLflow's aliases follow the ledger, and are not thrown away for a ledger that cannot be understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import FakeRegistry

from tidegate.core.artifacts import ModelVersion
from tidegate.core.progress import Silent
from tidegate.core.project import open_project
from tidegate.pipelines import aliases
from tidegate.pipelines.environment import Environment
from tidegate.registry.ledger import Draft

CONFIG = "model: demand\ndata: {path: data/train.csv, target: class}\n"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A project with two versions in the registry, of which the ledger knows the first as r-1."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    monkeypatch.setattr("tidegate.registry.sqlite_probe.probe", lambda _: True)
    found = Environment(open_project(tmp_path))
    registry = FakeRegistry("demand", tmp_path / "models")
    registry.versions = [ModelVersion("demand", number, f"run{number}") for number in (1, 2)]
    registry.runs = {f"run{number}": {"metrics": {}} for number in (1, 2)}
    found.__dict__["registry"] = registry
    write(found, "registered", release="r-1", version=1, run_id="run1")
    return found


def write(environment: Environment, kind: str, **data: Any) -> None:
    environment.ledger.append(lambda _: Draft(kind, data))


def pointed(environment: Environment) -> dict[str, int]:
    aliases.sync(environment, Silent())
    registry = environment.registry
    assert isinstance(registry, FakeRegistry)
    return registry.aliases


def test_a_challenger_that_became_champion_is_no_challenger(environment: Environment) -> None:
    """Both aliases are what the ledger says, and the second goes."""
    assert pointed(environment) == {"challenger": 1}
    write(environment, "deployed", release="r-1")
    assert pointed(environment) == {"champion": 1}


def test_an_unknown_release_does_not_take_the_champion_alias_away(environment: Environment) -> None:
    """A ledger of before, in which a release was deployed that was never registered."""
    write(environment, "deployed", release="r-1")
    assert pointed(environment) == {"champion": 1}
    write(environment, "deployed", release="r-9")
    assert pointed(environment) == {"champion": 1}
