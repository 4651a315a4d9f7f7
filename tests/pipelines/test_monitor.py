"""Every window of live data is looked at once, by whoever comes first, and what was seen is in the ledger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.core.artifacts import Release
from tidegate.core.progress import Silent
from tidegate.core.project import open_project
from tidegate.monitors import reference
from tidegate.pipelines.environment import Environment, environment_for
from tidegate.pipelines.steps import monitor
from tidegate.registry import releases
from tidegate.registry.ledger import Draft
from tidegate.registry.state import State
from tidegate.serving.service.records import text_hash
from tidegate.serving.telemetry import Hidden, salt_of, write_records

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CONFIG = """
version: 1
model: demand
task: classification
data: {path: train.csv, target: class}
train: {entrypoint: "train.py:train"}
monitor: {min_rows: 100, drift: {windows: 2}}
"""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A champion with a reference, and no stack."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    found = environment_for(open_project(tmp_path))
    random = np.random.default_rng(0)
    count = 2_000
    score = random.beta(2, 2, count).astype(np.float32)
    table = pa.table(
        {
            "part": ["train"] * 1_000 + ["holdout"] * 1_000,
            "input.price": random.normal(size=count),
            "input.city": random.choice(["oslo", "rome"], count),
            "label": [None] * 1_000 + [str(int(one > 0.5)) for one in score[1_000:]],
            "value": pa.nulls(count, pa.float64()),
            "score": pa.array([None] * 1_000 + score[1_000:].tolist(), pa.float32()),
        }
    )
    path = tmp_path / "reference.parquet"
    pq.write_table(table, path)
    columns, predictions = reference.of_release(
        path, {"price": "number", "city": "string"}, {"price": 0.3, "city": 0.01}, ordered=False
    )
    name = reference.save(found.store, path, reference.Reference(columns, predictions, hidden=Hidden()))
    crown(found, 1, name)
    return found


def crown(environment: Environment, version: int, name: str | None) -> Release:
    release = Release(
        "demand",
        version,
        f"run{version}",
        f"demand:{version}",
        "00",
        "",
        git_dirty=False,
        data=(),
        files={},
        config={},
        contract={},
        reference=name,
    )
    releases.save(environment.store, release, {})
    registered = {"release": release.id, "version": version, "run_id": release.run_id}
    environment.ledger.append(lambda _: Draft("registered", registered))
    environment.ledger.append(lambda _: Draft("deployed", {"release": release.id}))
    return release


def traffic(
    environment: Environment,
    hour: float,
    *,
    rows: int = 600,
    shift: float = 0.0,
    hidden: Hidden | None = None,
    **more: Any,
) -> None:
    """An hour of predictions after noon; `shift` moves price; `hidden` columns are left out or hashed."""
    random = np.random.default_rng(int(4 * hour))
    score = random.beta(2, 2, rows)
    release = environment.state().champion
    records = [
        {
            "id": f"p{hour}-{i}",
            "at": NOON + hour * HOUR + i * HOUR / rows,
            "arm": "stable",
            "status": 200,
            "release": release,
            "version": 1,
            "label": str(int(score[i] > 0.5)),
            "score": float(score[i]),
            "input.price": float(random.normal() + shift),
            "input.city": str(random.choice(["oslo", "rome"])),
            **more,
        }
        for i in range(rows)
    ]
    if hidden is not None:
        records = [hide(record, hidden, salt_of(environment.store)) for record in records]
    said: dict[str, Any] = {"classes": ["0", "1"], "task": "classification", "hidden": hidden}
    write_records(environment.store, environment.stream, records, **said)


def hide(record: dict[str, Any], hidden: Hidden, salt: bytes) -> dict[str, Any]:
    """The record as a process writes it that was told to hide these columns."""
    kept = {name: value for name, value in record.items() if name.removeprefix("input.") not in hidden.exclude}
    return kept | {f"input.{name}": text_hash(salt, record[f"input.{name}"]) for name in hidden.hash}


def decided(state: State, document: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"asked": document["drifted"], "reason": f"after {len(state.windows)} windows"}


def run(environment: Environment, hours: float) -> list[monitor.Document]:
    """Look at what is over so many hours after noon."""
    return monitor.run(environment, Silent(), decided, NOON + timedelta(hours=hours, seconds=30))


def watched(environment: Environment) -> list[Mapping[str, Any]]:
    return [event.data for event in environment.ledger.events() if event.kind == "watched"]


def test_each_window_is_judged_once_and_in_order(environment: Environment) -> None:
    """A second run finds nothing to do, and nothing is written twice."""
    for hour in range(3):
        traffic(environment, hour)
    found = run(environment, 2.5)
    assert [one["window"]["from"] for one in found] == [NOON.isoformat(), (NOON + HOUR).isoformat()]
    assert [one["outcome"] for one in found] == ["no_drift", "no_drift"]
    assert run(environment, 2.5) == []
    assert [one["window"]["from"] for one in run(environment, 3)] == [(NOON + 2 * HOUR).isoformat()]
    assert len(watched(environment)) == 3


def test_drift_stands_after_as_many_windows_in_a_row_as_the_config_says(environment: Environment) -> None:
    """The first drifted window is a sign, the second in a row is drift, and it asks."""
    for hour, shift in enumerate((0.0, 1.0, 1.0)):
        traffic(environment, hour, shift=shift)
    found = run(environment, 3)
    assert [(one["outcome"], one["in_a_row"], one["drifted"]) for one in found] == [
        ("no_drift", 0, False),
        ("drift", 1, False),
        ("drift", 2, True),
    ]
    newest = watched(environment)[-1]
    assert newest["retrain"] == {"asked": True, "reason": "after 2 windows"}
    assert (newest["outcome"], newest["lost"], newest["share"]) == ("drift", None, pytest.approx(0.967742))


def test_a_window_that_cannot_tell_neither_counts_nor_ends_a_row(environment: Environment) -> None:
    """A quiet hour in the middle of a drift is no recovery."""
    traffic(environment, 0, shift=1.0)
    traffic(environment, 1, rows=50)
    traffic(environment, 2, shift=1.0)
    found = run(environment, 3)
    assert [one["outcome"] for one in found] == ["drift", "cannot_tell", "drift"]
    assert found[-1]["in_a_row"] == 2


@pytest.mark.parametrize(
    ("hidden", "outcome", "said"),
    [
        (Hidden.of([], ["city"]), "no_drift", "city (3% of what the model decides by): not comparable since"),
        (Hidden.of(["city"], []), "no_drift", "recorded not at all, and as it came in the reference"),
        (Hidden.of([], ["price"]), "cannot_tell", "price (97% of what the model decides by): not comparable since"),
    ],
)
@pytest.mark.parametrize("begins", [1.0, 1.5])
def test_a_column_that_is_hashed_or_left_out_from_some_day_on_is_no_drift(
    environment: Environment, hidden: Hidden, outcome: str, said: str, begins: float
) -> None:
    """Nobody changed but the config; where too much of the model is out of sight, the window cannot tell."""
    traffic(environment, 0, hidden=Hidden())
    traffic(environment, 0.5, hidden=Hidden())
    traffic(environment, begins, hidden=hidden)
    first, second, *_ = run(environment, 2)
    assert first["outcome"] == "no_drift"
    assert not any("not comparable" in reason for reason in first["reasons"])
    (name,) = hidden.exclude | hidden.hash
    column = next(one for one in second["columns"] if one["name"] == name)
    assert (second["outcome"], column["outcome"], column["drifted"]) == (outcome, "not_comparable", False)
    assert any(said in reason for reason in second["reasons"]), second["reasons"]
    assert f"{NOON + begins * HOUR:%Y-%m-%d %H:%M} UTC" in column["note"]


def test_a_column_out_of_sight_hides_no_drift_of_another_one(environment: Environment) -> None:
    """It is told beside it."""
    traffic(environment, 0, shift=1.0, hidden=Hidden.of([], ["city"]))
    found = run(environment, 1)[0]
    assert (found["outcome"], found["share"]) == ("drift", pytest.approx(0.967742))
    assert "price" in found["reasons"][0]
    assert "city" in found["reasons"][-1]


def test_an_idle_stretch_is_one_window_that_cannot_tell(environment: Environment) -> None:
    """Nothing was recorded, which is said once."""
    traffic(environment, 0)
    traffic(environment, 20)
    found = run(environment, 21)
    assert [one["outcome"] for one in found] == ["no_drift", "cannot_tell", "no_drift"]
    assert found[1]["window"] == {"from": (NOON + HOUR).isoformat(), "to": (NOON + 20 * HOUR).isoformat(), "rows": 0}


def test_a_move_of_the_models_own_score_is_drift(environment: Environment) -> None:
    """Whatever the columns do."""
    traffic(environment, 0, score=0.9, label="1")
    found = run(environment, 1)[0]
    assert found["outcome"] == "drift"
    assert {one["name"]: one["drifted"] for one in found["predictions"]} == {"label": True, "score": True}
    assert "score" in found["reasons"][0] or "label" in found["reasons"][0]


def test_failed_requests_copies_and_another_releases_scores_are_left_out(environment: Environment) -> None:
    """What no user got is no prediction; another release's score is judged by its own reference."""
    traffic(environment, 0)
    traffic(environment, 0, rows=500, score=0.99, arm="shadow", status=200, id="s")
    traffic(environment, 0, rows=500, score=0.99, status=504, id="f")
    traffic(environment, 0, rows=400, score=0.99, arm="canary", release="r-other00000", id="c")
    found = run(environment, 1)[0]
    assert (found["window"]["rows"], found["outcome"]) == (1_000, "no_drift")


def test_a_release_without_a_reference_cannot_be_told_about(environment: Environment) -> None:
    """It was made by an older version; the reason says what to do."""
    old = crown(environment, 2, None)
    traffic(environment, 0)
    found = run(environment, 1)[0]
    assert (found["outcome"], found["release"], found["share"]) == ("cannot_tell", old.id, None)
    assert "tidegate ship" in found["reasons"][0]


def test_a_report_lies_in_the_store_for_whoever_shows_it(environment: Environment) -> None:
    """Its folder is named by the window's beginning, and the event names it."""
    traffic(environment, 0)
    document = run(environment, 1)[0]
    folder = watched(environment)[0]["report"]
    assert folder == "reports/demand.local/20261125T120000Z"
    assert json.loads(environment.store.read(f"{folder}/drift.json")) == json.loads(json.dumps(document))


def test_two_who_look_at_the_same_window_enter_it_once(environment: Environment) -> None:
    """The second sees on the ledger that it is done."""
    traffic(environment, 0)
    window = monitor.due(environment, NOON + 1.1 * HOUR)[0]
    assert monitor.watch(environment, window, decided) is not None
    assert monitor.watch(environment_for(environment.project), window, decided) is None
    assert len(watched(environment)) == 1


def test_a_report_that_was_not_finished_learns_from_the_ledger_what_was_decided(environment: Environment) -> None:
    """Whoever is killed between event and report leaves one that says nothing of retraining; the next run tells it."""
    traffic(environment, 0, shift=1.0)
    decided_on = run(environment, 1)[0]
    folder = watched(environment)[0]["report"]
    unfinished = {name: value for name, value in decided_on.items() if name not in {"in_a_row", "needed"}}
    environment.store.write(f"{folder}/drift.json", json.dumps(unfinished | {"retrain": None}).encode())
    assert run(environment, 1) == []
    told = monitor.read_report(environment, folder)
    assert (told["in_a_row"], told["retrain"]) == (1, decided_on["retrain"])


KILLED = """
import sys
from datetime import datetime, timedelta
from pathlib import Path
from tidegate.core.progress import Silent
from tidegate.core.project import open_project
from tidegate.pipelines.environment import environment_for
from tidegate.pipelines.steps import monitor
environment = environment_for(open_project(Path(sys.argv[1])))
print("go", flush=True)
nothing = {"asked": False, "reason": "nothing to do"}
monitor.run(environment, Silent(), lambda *_: nothing, datetime.fromisoformat(sys.argv[2]))
print("done", flush=True)
"""


@pytest.mark.slow
def test_whoever_is_killed_leaves_nothing_that_counts_twice(environment: Environment) -> None:
    """With kill -9 at any moment; the next run finishes, and every window is in the ledger once."""
    for hour in range(6):
        traffic(environment, hour)
    end = (NOON + 6.1 * HOUR).isoformat()
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(environment.project.root), end]
    for delay in (0.1, 0.3, 0.5, 0.7):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ))
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(environment, 6.1)
    seen = [one["window"] for one in watched(environment_for(environment.project))]
    assert seen == [(NOON + hour * HOUR).isoformat() for hour in range(6)]
    assert all(environment.store.exists(f"{one['report']}/drift.json") for one in watched(environment))


@pytest.mark.slow
def test_evidently_draws_a_window_and_its_snapshot_is_read_back(environment: Environment) -> None:
    """Page, snapshot and workspace are kept, empty columns left out, its numbers stand beside ours."""
    traffic(environment, 0, shift=0.5, **{"input.city": None})
    document = monitor.draw(environment, run(environment, 1)[0], Silent())
    folder = watched(environment)[0]["report"]
    assert document["evidently"]["price"] == pytest.approx(document["columns"][0]["value"], abs=0.02)
    assert set(document["evidently"]) == {"price", "prediction.label", "prediction.score"}
    assert b"price" in environment.store.read(f"{folder}/evidently.html")
    code = (
        "import sys; from evidently.core.report import Snapshot; found = Snapshot.loads(open(sys.argv[1]).read()); "
        "print(len(found.dict()['metrics']))"
    )
    snapshot = environment.store.location(f"{folder}/evidently.json")
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, snapshot], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "4"
    assert list(Path(environment.store.location("reports/demand.local/evidently")).rglob("*.json"))


@pytest.fixture
def command(cli: Callable[..., Any], environment: Environment) -> Callable[..., Any]:
    return lambda *words: cli(*words, cwd=environment.project.root)


def test_the_command_shows_the_newest_window_and_ends_by_what_it_says(
    environment: Environment, command: Callable[..., Any]
) -> None:
    """Live data of yesterday: 4 for drift, the same answer when asked twice, 5 where nobody can tell."""
    for hour, shift in enumerate((1.0, 1.0)):
        traffic(environment, hour, shift=shift)
    # What was asked of the clock is over long since: the windows up to now are one idle stretch.
    looked = command("monitor", "run", "--window", "2026-11-25T12:00..2026-11-25T13:00", "--json")
    assert (looked.exit_code, looked.json["drifted"], watched(environment)) == (4, True, [])
    run(environment, 2)
    text = command("monitor", "status")
    assert "drift since 2026-11-25T12:00 UTC: 2 windows in a row" in text.stdout
    found = command("monitor", "status", "--json").json
    assert (found["drifting_since"], found["in_a_row"]) == (NOON.isoformat(), 2)


def test_nothing_to_look_at_is_said_with_what_to_do(environment: Environment, command: Callable[..., Any]) -> None:
    """No prediction was ever recorded."""
    found = command("monitor", "run", "--json")
    assert (found.exit_code, found.json["kind"]) == (5, "error")
    assert "tidegate up" in found.json["hint"]


def test_a_file_is_compared_with_what_the_champion_learnt_from(
    environment: Environment, command: Callable[..., Any]
) -> None:
    """No stack is needed: a csv of today against the release's reference."""
    random = np.random.default_rng(5)
    for name, shift in (("same", 0), ("moved", 1)):
        lines = [f"{random.normal() + shift},{random.choice(['oslo', 'rome'])}" for _ in range(800)]
        (environment.project.root / f"{name}.csv").write_text("\n".join(["price,city", *lines]) + "\n")
    assert command("monitor", "run", "--current", "same.csv").exit_code == 0
    moved = command("monitor", "run", "--current", "moved.csv", "--json")
    assert (moved.exit_code, moved.json["drifted"], moved.json["window"]["rows"]) == (4, True, 800)
    assert moved.json["columns"][0].keys() >= {"name", "method", "value", "floor", "threshold", "drifted"}


def test_two_files_are_compared_without_a_project(cli: Callable[..., Any], tmp_path: Path) -> None:
    """Anywhere, with the defaults; a file without a row cannot tell."""
    for name, rows in (("old", 900), ("new", 900), ("few", 20), ("none", 0)):
        lines = [f"{value % 17},x{value % 5}" for value in range(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["size,colour", *lines]) + "\n")
    for name, code in (("new", 0), ("few", 5), ("none", 5)):
        found = cli("monitor", "run", "--current", f"{name}.csv", "--reference", "old.csv", "--json", cwd=tmp_path)
        assert found.exit_code == code, found
    assert found.json["outcome"] == "cannot_tell"
    alone = cli("monitor", "run", "--current", "new.csv", cwd=tmp_path)
    assert alone.exit_code == 2
