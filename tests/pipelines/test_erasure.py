"""A user who wants to be forgotten is, wherever this project has written them down."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import log_line

from tidegate.core.project import open_project
from tidegate.core.store import Store
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.erasure import Erasure, erase_user
from tidegate.registry.ledger import Draft
from tidegate.rollouts.blocks import Exposed
from tidegate.rollouts.checkpoint import checkpoint_path
from tidegate.rollouts.exposures import read_exposures, write_exposures
from tidegate.rollouts.late_reading import Exposure
from tidegate.rollouts.seen import user_hash
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
    assert erase_user(environment, name, "asked for") == Erasure(predictions=2, labels=0, outcomes=0, requests=2)
    assert log.stat().st_size == before
    read = AccessLogReader(log)
    records = [*read.read(), *read.read()]
    assert [record.path for record in records] == ["/ada"] * len(records)
    assert {one for one in NAMES if one != name} <= {record.unit for record in records}
    assert name not in {record.unit for record in records}
    assert Predictions(environment.store, environment.stream).find(f"{name}0") is None
    assert erase_user(environment, name, "asked for") == Erasure(0, 0, 0, 0)


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
        "exposures": 0,
        "requests": 2,
    }
    assert "erased: 2 predictions" in cli("-C", root, "data", "erase", "--unit", "bob", "--yes").stdout


def test_the_ledger_tells_that_somebody_was_erased_and_never_who(
    environment: Environment, cli: Callable[..., Any]
) -> None:
    """How much, by whom, when and why; a reason that names the user is refused before anything is erased."""
    root = environment.project.root
    refused = cli("-C", root, "data", "erase", "--unit", "ada", "--yes", "--reason", "Ada wrote to us")
    assert (refused.exit_code, "names the user" in refused.stderr) == (2, True)
    assert Predictions(environment.store, environment.stream).find("ada0") is not None
    assert cli("-C", root, "data", "erase", "--unit", "ada", "--yes", "--reason", "ticket 4711").exit_code == 0
    (event,) = environment.ledger.events()
    assert (event.kind, event.data["predictions"], event.data["reasons"]) == ("erased", 2, ["ticket 4711"])
    assert event.actor
    hashed = str(unit_hash(salt_of(environment.store), "ada"))
    assert not any(name in str(event.to_json()) for name in ("ada", hashed))


def test_a_user_is_erased_from_rollouts_that_ended_and_that_run(environment: Environment) -> None:
    """First exposures, the list of those who were counted, and the open block of one that is over."""
    store, salt = environment.store, salt_of(environment.store)
    for name, kind in (("o-1", "aborted"), ("o-2", None)):
        started(environment, name)
        if kind is not None:
            environment.ledger.append(lambda _, name=name, kind=kind: Draft(kind, {"rollout": name}))
        keep(store, name, [unit_hash(salt, one) for one in NAMES])
        seen = b"".join(user_hash(name, one).to_bytes(8, "little") for one in NAMES)
        store.write(f"rollouts/{name}/seen/{0:012d}.bin", seen)
    erased = erase_user(environment, "ada", "asked for")
    assert erased.exposures == 2 * 2 + 1
    ada, bob = (unit_hash(salt, one) for one in NAMES[:2])
    for name in ("o-1", "o-2"):
        units = [one.user.unit for one in read_exposures(store, name, 0)]
        assert (ada in units, bob in units, len(units)) == (False, True, 2)
        seen = store.read(f"rollouts/{name}/seen/{0:012d}.bin")
        assert len(seen) == 24
        assert user_hash(name, "ada").to_bytes(8, "little") not in seen
        assert user_hash(name, "bob").to_bytes(8, "little") in seen
    assert str(ada) not in store.read(checkpoint_path("o-1")).decode()
    assert str(bob) in store.read(checkpoint_path("o-1")).decode()


def started(environment: Environment, name: str) -> None:
    """A rollout in the ledger, as far as erasing asks."""
    data = {"rollout": name, "stable": "r-1", "canary": "r-2", "plan": {}, "steps": [50]}
    environment.ledger.append(lambda _: Draft("rollout_started", data))


def keep(store: Store, name: str, units: list[int]) -> None:
    """Users who were exposed in block 0, and who are in the open block of the checkpoint."""
    write_exposures(store, name, [Exposure(Exposed(0, 50, "canary", unit, "", 1.0), 60.0) for unit in units])
    sums = [[1, 50, {"exposed": [[0, unit, "", 61.0] for unit in units]}]]
    store.write(checkpoint_path(name), json.dumps({"builder": {"sums": sums}}).encode())
