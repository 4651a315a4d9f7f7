"""A user who wants to be forgotten is, wherever this project has written them down."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import log_line

from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.erasure import Erasure, erase_user
from tidegate.serving.gateway.access_log import AccessLogReader, rotated_path
from tidegate.serving.telemetry import Predictions, salt_of, unit_hash, write_records

CONFIG = "model: demand\ndata: {path: train.csv, target: class}\n"
NAMES = ("ada", "bob", 'Zo\u00eb "x" \\ y')


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """Two records of each user, and two lines of each in two files of the gateway's log."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    made = Environment(open_project(tmp_path, "local"))
    salt = salt_of(made.store)
    rows = [
        {"id": f"{name}{n}", "at": datetime.now(UTC), "unit": unit_hash(salt, name), "status": 200, "arm": "stable"}
        for name in NAMES
        for n in range(2)
    ]
    write_records(made.store, made.stream, rows, classes=None, task="regression")
    log = made.gateway_dir / "access.jsonl"
    log.parent.mkdir(parents=True)
    for path in (log, rotated_path(log, 1)):
        path.write_bytes(b"".join(log_line(unit=name, path="/ada") for name in NAMES))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_user_is_erased_from_records_and_log_and_nobody_else(environment: Environment, name: str) -> None:
    """The log keeps its length and its lines, and the user stays one user in it, of no name."""
    log = environment.gateway_dir / "access.jsonl"
    before = log.stat().st_size
    assert erase_user(environment, name) == Erasure(predictions=2, labels=0, outcomes=0, requests=2)
    assert log.stat().st_size == before
    read = AccessLogReader(log)
    records = [*read.read(), *read.read()]
    assert [record.path for record in records] == ["/ada"] * len(records)
    assert {one for one in NAMES if one != name} <= {record.unit for record in records}
    assert name not in {record.unit for record in records}
    assert Predictions(environment.store, environment.stream).find(f"{name}0") is None
    assert erase_user(environment, name) == Erasure(0, 0, 0, 0)


def test_the_command_asks_first_and_says_what_it_did(environment: Environment, cli: Callable[..., Any]) -> None:
    """Without a terminal only with --yes; how many, and never whom."""
    root = environment.project.root
    refused = cli("-C", root, "data", "erase", "--unit", "ada")
    assert (refused.exit_code, "Nothing was erased" in refused.stderr, "--yes" in refused.stderr) == (2, True, True)
    assert cli("-C", root, "data", "erase", "--unit", "", "--yes").exit_code == 2
    document = cli("-C", root, "data", "erase", "--unit", "ada", "--yes", "--json").json
    assert document == {
        "kind": "data",
        "action": "erase",
        "predictions": 2,
        "labels": 0,
        "outcomes": 0,
        "requests": 2,
    }
    assert "erased: 2 predictions" in cli("-C", root, "data", "erase", "--unit", "bob", "--yes").stdout
