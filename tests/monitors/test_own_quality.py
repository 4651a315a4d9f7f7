"""Quality by the user's own metric: in a process of its own, with an interval, and no claim where it fails."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tidegate.core.project import open_project
from tidegate.core.store import open_store
from tidegate.monitors.own_quality import judge, native
from tidegate.monitors.quality import Quality, window_quality
from tidegate.pipelines.own_live import OwnFunctions
from tidegate.serving.labels import ingest_labels
from tidegate.serving.telemetry import write_records

STREAM = "demand.local"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CODE = """
import time

def gain(truth, prediction, frame):
    return float((truth == prediction).mean()) * float(frame["size"].iloc[0])

def cost(truth, prediction, frame):
    assert frame["score_1"].between(0, 1).all() and truth.dtype.kind == "i"
    return float((truth != prediction).mean())

cost.higher_is_better = False

def broken(truth, prediction, frame):
    return frame["nothing"]

def nothing(truth, prediction, frame):
    return float("nan")

def hangs(truth, prediction, frame):
    time.sleep(60)
"""


@pytest.fixture
def own(tmp_path: Path) -> OwnFunctions:
    """Six hundred labelled answers, three in ten of them wrong, and the user's functions."""
    (tmp_path / "tidegate.yaml").write_text("model: demand\ndata: {path: data.csv, target: class}\n")
    (tmp_path / "mine.py").write_text(textwrap.dedent(CODE))
    fixed = {"arm": "stable", "status": 200, "version": 1, "release": "r-1", "label": "1", "probabilities": [0.2, 0.8]}
    records = [
        {"id": f"p{n}", "at": NOON + timedelta(seconds=n), "unit": n, "input.size": 2.0, **fixed} for n in range(600)
    ]
    store = open_store(str(tmp_path / "store"))
    write_records(store, STREAM, records, classes=["0", "1"], task="classification")
    labels = [{"prediction_id": f"p{n}", "label": "0" if n % 10 < 3 else "1"} for n in range(600)]
    ingest_labels(store, STREAM, labels, NOON + HOUR)
    return OwnFunctions(open_project(tmp_path, "local"), seconds=20)


def measure(own: OwnFunctions, tmp_path: Path, metric: str, **reference: float) -> Quality:
    told: dict[str, Any] = {"metric": metric, "tolerance": 0.05, "maturity": 60.0, "references": {"r-1": reference}}
    with duckdb.connect() as connection:
        store, ask = open_store(str(tmp_path / "store")), partial(judge, ask=own.measure)
        found = window_quality(connection, store, STREAM, NOON, NOON + HOUR, now=NOON + 2 * HOUR, own=ask, **told)
    (one,) = found.versions
    return one


def test_an_own_metric_is_lost_where_the_whole_interval_lies_beyond_the_tolerance(
    own: OwnFunctions, tmp_path: Path
) -> None:
    """It sees truth, prediction and the recorded columns, and says which way is better."""
    gain = measure(own, tmp_path, "mine:gain", **{"mine:gain": 1.8})
    assert (gain.value, gain.lost, gain.better) == (pytest.approx(1.4), True, "higher")
    assert gain.low is not None
    assert gain.high is not None
    assert 1.25 < gain.low < 1.4 < gain.high < 1.55
    cost = measure(own, tmp_path, "mine:cost", **{"mine:cost": 0.4})
    assert (cost.value, cost.lost, cost.better) == (pytest.approx(0.3), False, "lower")


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("mine:broken", "KeyError: 'nothing'"),
        ("mine:absent", "'absent', which mine does not define"),
        ("mine:nothing", "is not defined for these labels"),
        ("mine:gain", "name it in gate.checks"),
    ],
)
def test_one_that_fails_or_has_no_reference_claims_nothing(
    own: OwnFunctions, tmp_path: Path, metric: str, why: str
) -> None:
    """Neither lost nor kept, and why."""
    found = measure(own, tmp_path, metric)
    assert found.lost is None
    assert found.cannot_tell is not None
    assert why in found.cannot_tell


def test_one_that_hangs_is_given_up(own: OwnFunctions, tmp_path: Path) -> None:
    """The monitor goes on with its window."""
    own._seconds = 4.0
    found = measure(own, tmp_path, "mine:hangs", **{"mine:hangs": 1.0})
    assert (found.lost, "did not answer within 4 s" in str(found.cannot_tell)) == (None, True)


def test_classes_come_as_the_model_has_them() -> None:
    """Not as the text that records keep: a function that asks `truth == 1` must not see a text."""
    assert native(("false", "true")) == [False, True]
    assert native(("0", "1")) == [0, 1]
    assert native(("0.5", "1")) == [0.5, 1.0]
    assert native(("1", "low")) == ["1", "low"]
