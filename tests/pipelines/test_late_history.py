"""The baseline of late metrics: what the champion's users of the last days showed, or what is missing to know it."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.errors import Inconclusive, Temporary
from tidegate.core.project import open_project
from tidegate.pipelines import late_history
from tidegate.pipelines.environment import Environment, environment_for
from tidegate.rollouts.late import OwnMetricFailed
from tidegate.serving.labels import ingest_labels, ingest_outcomes
from tidegate.serving.telemetry import Predictions, salt_of, unit_hash, write_records

CONFIG = """
version: 1
model: demand
data: {{path: data.csv, target: class}}
serve: {{capture: {{flush: 1s}}}}
rollout:
  unit: {{window: 5m}}
  guardrails: [{{metric: {metric}, harm: {{margin: 0.01}}, safe: {{margin: 0.1}}}}]
  goal: {goal}
monitor: {{labels: {{maturity: 10m}}}}
"""
AGE = 3600.0


def environment(root: Path, metric: str, goal: str = "null") -> Environment:
    (root / "tidegate.yaml").write_text(CONFIG.format(metric=metric, goal=goal))
    return environment_for(open_project(root, "local"))


def serve(where: Environment, users: int, *, release: str = "r-1", ago: float = AGE, **keys: Any) -> list[str]:
    """One prediction of "1" for each of these users."""
    salt, at = salt_of(where.store), time.time() - ago
    fixed = {"arm": "stable", "release": release, "version": 1, "status": 200, "seconds": 0.01, "label": "1"}
    records = [
        {
            "id": str(uuid.uuid4()),
            "at": datetime.fromtimestamp(at + number, UTC),
            "unit": unit_hash(salt, f"{release}-{ago}-{number}"),
            **fixed,
            **keys,
        }
        for number in range(users)
    ]
    write_records(where.store, where.stream, records, classes=["0", "1"], task="classification")
    return [str(record["id"]) for record in records]


def label(where: Environment, names: list[str], right: float, ago: float = AGE - 100) -> None:
    rows = [
        {"prediction_id": name, "label": str(int(number < right * len(names)))} for number, name in enumerate(names)
    ]
    ingest_labels(where.store, where.stream, rows, datetime.fromtimestamp(time.time() - ago, UTC))


def test_accuracy_is_that_of_the_champions_users_who_were_labelled_in_time(tmp_path: Path) -> None:
    """Others' users, users who are too young and labels that came too late say nothing; the labelled share is kept."""
    where = environment(tmp_path, "accuracy")
    label(where, serve(where, 100)[:80], 0.9)
    label(where, serve(where, 100, release="r-2"), 0.1)
    label(where, serve(where, 100, ago=300.0), 0.1, ago=1.0)
    label(where, serve(where, 20, ago=AGE + 600), 0.1, ago=1.0)
    (found,) = late_history.measured(where, "r-1").values()
    assert found.value == pytest.approx((72 + 1) / 82)
    assert (found.source, found.delay, found.kind) == ("labels", 600.0, "share")
    assert found.known == pytest.approx(80 / 120)


def test_means_are_winsorised_and_conversions_counted(tmp_path: Path) -> None:
    """The bound is what one user in a thousand exceeds; each event counts within the window of the first exposure."""
    where = environment(tmp_path, "revenue", "{metric: conversion}")
    names, came = serve(where, 100), datetime.fromtimestamp(time.time() - AGE + 120, UTC)
    rows = [{"prediction_id": name, "name": "revenue", "value": 2.0, "at": came.isoformat()} for name in names[:50]]
    rows += [{"prediction_id": name, "name": "conversion", "at": came.isoformat()} for name in names[:20]]
    rows += [{"prediction_id": names[0], "name": "revenue", "value": 9e9, "at": datetime.now(UTC).isoformat()}]
    ingest_outcomes(where.store, where.stream, rows, came)
    found = late_history.measured(where, "r-1")
    assert found["revenue"].value == pytest.approx(1.0)
    assert found["revenue"].bound == pytest.approx(2.0)
    assert found["revenue"].variance == pytest.approx(1.0)
    assert found["conversion"].value == pytest.approx(21 / 102)
    assert {one.delay for one in found.values()} == {300.0}


def test_a_record_file_that_is_compacted_meanwhile_is_worth_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was listed and is gone when it is opened."""
    where = environment(tmp_path, "accuracy")
    serve(where, 100)
    listed = Predictions.files

    def gone(self: Predictions, since: datetime, until: datetime) -> list[str]:
        found = listed(self, since, until)
        for file in found:
            self.store.delete(file)
        return found

    monkeypatch.setattr(Predictions, "files", gone)
    with pytest.raises(Temporary, match="champion's users cannot be read now"):
        late_history.measured(where, "r-1")


def test_an_own_function_says_what_it_is_by_its_answers(tmp_path: Path) -> None:
    """0 and 1 are a share, other numbers a mean; it is known when labels and outcomes both are."""
    (tmp_path / "mine.py").write_text(
        "def wrong(frame):\n    return (frame.truth == '0').where(frame.truth.notna())\n\n\n"
        "def worth(frame):\n    return frame['input.size'] * 3\n\n\nworth.higher_is_better = True\n"
    )
    where = environment(tmp_path, "mine:wrong", "{metric: 'mine:worth'}")
    label(where, serve(where, 100, **{"input.size": 2.0})[:60], 0.5)
    found = late_history.measured(where, "r-1")
    share, mean = found["mine:wrong"], found["mine:worth"]
    assert (share.kind, share.better, share.delay, share.known) == ("share", "lower", 600.0, 0.6)
    assert (mean.kind, mean.better, mean.value) == ("mean", "higher", 6.0)


def test_an_own_function_that_needs_more_than_its_modules_is_refused_before_a_rollout(tmp_path: Path) -> None:
    """A rollout keeps Python modules; a file that is read beside them may be another one tomorrow."""
    (tmp_path / "limit.txt").write_text("3")
    (tmp_path / "mine.py").write_text(
        "def large(frame):\n    return frame['input.size'] > float(open('limit.txt').read())\n"
    )
    where = environment(tmp_path, "mine:large")
    label(where, serve(where, 100, **{"input.size": 2.0}), 0.5)
    with pytest.raises(OwnMetricFailed, match=r"not by its Python modules alone.*limit\.txt"):
        late_history.measured(where, "r-1")


@pytest.mark.parametrize(
    ("metric", "users", "labelled", "message"),
    [
        ("accuracy", 0, 0, "accuracy of the champion is not known: No user's prediction is recorded yet"),
        ("accuracy", 100, 49, "49 of its 100 users .* have a label in time .*, and 50 are needed"),
        ("conversion", 100, 0, "None of its 100 users has such an event"),
        ("mae", 100, 100, "0 of its 100 users"),
    ],
)
def test_without_a_history_there_is_no_plan_and_it_says_what_to_do(
    tmp_path: Path, metric: str, users: int, labelled: int, message: str
) -> None:
    """Ingest labels or outcomes first; a metric that does not fit the model is never known."""
    where = environment(tmp_path, metric)
    names = serve(where, users) if users else []
    if labelled:
        label(where, names[:labelled], 0.9)
    with pytest.raises(Inconclusive, match=message) as told:
        late_history.measured(where, "r-1")
    assert "tidegate labels ingest FILE" in told.value.hint
