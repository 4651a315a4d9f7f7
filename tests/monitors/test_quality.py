"""Quality by labels: measured with its uncertainty, lost only beyond doubt, and never guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from tidegate.core.metrics import Scored, compute
from tidegate.core.store import Store, open_store
from tidegate.monitors.quality import (
    Quality,
    WindowQuality,
    interval,
    judged,
    metric_for,
    newest_mature,
    wilson,
    window_quality,
)
from tidegate.serving.labels import ingest_labels
from tidegate.serving.telemetry import write_records

STREAM = "demand.local"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MATURITY = 1800.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def serve(store: Store, count: int, wrong: int, **more: Any) -> None:
    """Predict and label `count` requests, of which the first `wrong` turn out otherwise."""
    name = f"{more.get('arm', 'stable')}-{more.get('version', 1)}"
    shared = {"arm": "stable", "status": 200, "version": 1, "release": "r-1", "label": "up", **more}
    records = [
        {
            "id": f"{name}-{n}",
            "at": NOON + timedelta(seconds=n),
            "unit": n,
            "probabilities": [0.2, 0.8] if n % 2 else [0.3, 0.7],
            **shared,
        }
        for n in range(count)
    ]
    write_records(store, STREAM, records, classes=["down", "up"], task="classification")
    labels = [{"prediction_id": f"{name}-{n}", "label": "down" if n < wrong else "up"} for n in range(count)]
    ingest_labels(store, STREAM, labels, NOON + HOUR)


def measure(store: Store, *, later: float = MATURITY, **more: Any) -> WindowQuality:
    asked = {"metric": "accuracy", "tolerance": 0.05, "references": {"r-1": {"accuracy": 0.9, "r2": 0.9}}, **more}
    with duckdb.connect() as connection:
        return window_quality(
            connection,
            store,
            STREAM,
            NOON,
            NOON + HOUR,
            maturity=MATURITY,
            now=NOON + HOUR + timedelta(seconds=later),
            **asked,
        )


def test_quality_is_lost_where_the_whole_interval_lies_beyond_the_tolerance(store: Store) -> None:
    """70 of 100 right cannot be the 90 % of the holdout, nor 85 %."""
    serve(store, 600, wrong=180)
    found = measure(store)
    (one,) = found.versions
    assert found.lost
    assert (one.lost, one.value, one.labelled, one.predictions, one.reference) == (True, 0.7, 600, 600, 0.9)
    assert one.low is not None
    assert one.high is not None
    assert 0.64 < one.low < 0.7 < one.high < 0.85


def test_quality_is_not_lost_where_the_whole_interval_lies_within_it(store: Store) -> None:
    """Then, and only then, is that claimed."""
    serve(store, 600, wrong=50)
    (one,) = measure(store).versions
    assert (one.lost, one.cannot_tell) == (False, None)


def test_an_interval_over_the_line_claims_nothing_and_says_how_many_labels_would_tell(store: Store) -> None:
    """84 % of 300 may be 85 % or not."""
    serve(store, 300, wrong=48)
    found = measure(store)
    (one,) = found.versions
    assert (one.lost, found.lost) == (None, False)
    assert one.cannot_tell is not None
    assert "the line is 0.85: about " in one.cannot_tell
    assert one.value == 0.84


@pytest.mark.parametrize(
    ("count", "later", "more", "why"),
    [
        (1, MATURITY, {}, "1 labels are too few; 50 are needed at least"),
        (40, MATURITY, {}, "40 labels are too few; 50 are needed at least"),
        (100, MATURITY - 1, {}, "its labels are final at 2026-11-25 13:30 UTC"),
        (100, MATURITY, {"references": {}}, "the release has no accuracy of its holdout to compare with"),
        (100, MATURITY, {"metric": "own:metric"}, "own:metric cannot be computed from what is recorded"),
        (100, MATURITY, {"metric": "roc_auc"}, "roc_auc is not defined for these labels (all of one class?)"),
        (100, MATURITY, {"metric": "r2"}, "r2 cannot be computed from what is recorded"),
    ],
)
def test_what_cannot_be_told_is_said_and_never_passed(
    store: Store, count: int, later: float, more: dict[str, Any], why: str
) -> None:
    """Neither lost nor fine."""
    serve(store, count, wrong=0)
    (one,) = measure(store, later=later, **more).versions
    assert (one.lost, one.cannot_tell) == (None, why)


def test_predictions_that_nobody_labelled_are_too_few_labels(store: Store) -> None:
    """And not a metric that cannot be computed."""
    silent = [
        {"id": f"s{n}", "at": NOON, "arm": "stable", "status": 200, "version": 1, "label": "up"} for n in range(9)
    ]
    write_records(store, STREAM, silent, classes=["down", "up"], task="classification")
    (one,) = measure(store).versions
    assert (one.lost, one.cannot_tell) == (None, "0 labels are too few; 50 are needed at least")


def test_nothing_predicted_has_a_document_that_says_so(store: Store) -> None:
    """An empty window is no good window."""
    document = measure(store).to_json()
    assert (document["lost"], document["cannot_tell"], document["versions"]) == (False, "nothing was predicted", [])


def test_labels_that_name_no_class_are_left_out_and_too_many_of_them_stop_the_verdict(store: Store) -> None:
    """They are a mistake of the labels or a new class; neither is the model's accuracy."""
    serve(store, 600, wrong=0)
    ingest_labels(store, STREAM, [{"prediction_id": "stable-1-0", "label": "sideways"}], NOON + 2 * HOUR)
    found = measure(store)
    assert found.notes == ("1 of 600 labels name no class of the model: 'sideways'",)
    assert (found.versions[0].lost, found.versions[0].value) == (False, 1.0)
    more = [{"prediction_id": f"stable-1-{n}", "label": "sideways"} for n in range(10)]
    ingest_labels(store, STREAM, more, NOON + 3 * HOUR)
    (one,) = measure(store).versions
    assert (one.lost, one.cannot_tell) == (None, "10 of 600 labels name no class of the model: 'sideways'")


def test_in_a_rollout_each_arm_is_measured_and_the_stable_one_speaks_for_the_window(store: Store) -> None:
    """A bad canary is no reason to train again."""
    serve(store, 300, wrong=0)
    serve(store, 400, wrong=300, arm="canary", version=2, release="r-2")
    found = measure(store, references={"r-1": {"accuracy": 0.9}, "r-2": {"accuracy": 0.9}})
    assert [(one.arm, one.version, one.lost) for one in found.versions] == [("stable", 1, False), ("canary", 2, True)]
    assert not found.lost
    assert found.notes == ()


def test_arms_that_are_labelled_at_different_rates_are_said_not_to_compare(store: Store) -> None:
    """Who gets a label may depend on the answer."""
    serve(store, 300, wrong=0)
    serve(store, 300, wrong=0, arm="canary", version=2)
    silent = [
        {"id": f"s{n}", "at": NOON, "arm": "canary", "status": 200, "version": 2, "release": "r-1", "label": "up"}
        for n in range(200)
    ]
    write_records(store, STREAM, silent, classes=["down", "up"], task="classification")
    (note,) = measure(store).notes
    assert note == "100.0% and 60.0% of the stable and the canary arm are labelled, so their truths may not compare"


def test_a_regression_is_measured_by_its_numbers(store: Store) -> None:
    """The default metric of a regression is r2, and a label that is no number is told."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=400)
    records = [
        {"id": f"p{n}", "at": NOON, "arm": "stable", "status": 200, "version": 1, "release": "r-1", "value": value}
        for n, value in enumerate(truth + rng.normal(size=400) * 0.1)
    ]
    write_records(store, STREAM, records, classes=None, task="regression")
    labels: list[dict[str, Any]] = [{"prediction_id": f"p{n}", "label": value} for n, value in enumerate(truth)]
    labels[0]["label"] = "unknown"
    ingest_labels(store, STREAM, labels, NOON + HOUR)
    found = measure(store, metric=metric_for("regression", "accuracy"))
    (one,) = found.versions
    assert one.lost is False
    assert one.value is not None
    assert 0.98 < one.value < 1
    assert found.notes == ("1 of 400 labels are no numbers",)


def about(metric: str, labelled: int) -> Quality:
    return Quality(1, "r-1", "stable", metric, labelled, labelled)


def drawn(rng: np.random.Generator, rows: int) -> Scored:
    """A classifier that is right in 80 % of cases, with probabilities that say so."""
    truth = rng.integers(0, 2, rows).astype(float)
    chance = np.clip(0.5 + (truth - 0.5) * 0.6 + rng.normal(size=rows) * 0.35, 0.01, 0.99)
    return Scored(truth, (chance > 0.5).astype(float), np.stack([1 - chance, chance], axis=1), (0.0, 1.0))


@pytest.mark.parametrize("metric", ["accuracy", "f1", "precision", "recall", "roc_auc", "brier", "log_loss"])
def test_intervals_hold_the_truth_as_often_as_they_say(metric: str) -> None:
    """Of 200 seeded windows of 300 labels about 95 in 100 hold the metric of a window without end."""
    rng = np.random.default_rng(7)
    whole = compute(metric, drawn(rng, 400_000))
    groups = np.arange(300) % 40
    held = 0
    for _ in range(200):
        scored = drawn(rng, 300)
        low, high = interval(metric, scored, compute(metric, scored), groups)
        held += low <= whole <= high
    assert 180 <= held <= 199


def test_a_user_who_comes_often_is_one_piece_of_evidence() -> None:
    """40 users with 50 requests each, always right or always wrong: the interval is that of 40."""
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(40), 50)
    truth = np.repeat((rng.random(40) < 0.7).astype(float), 50)
    scored = Scored(truth, np.ones(2000), None, (0.0, 1.0))
    value = compute("accuracy", scored)
    low, high = interval("accuracy", scored, value, user)
    of_users = wilson(value, 40)
    assert high - low == pytest.approx(of_users[1] - of_users[0], rel=0.05)


def test_a_window_without_a_single_mistake_still_has_an_interval() -> None:
    """60 of 60 right is not 100 %."""
    scored = Scored(np.ones(60), np.ones(60), None, (0.0, 1.0))
    one = judged(about("accuracy", 60), scored, np.arange(60), reference=0.99, tolerance=0.0)
    assert one.low is not None
    assert 0.93 < one.low < 0.95
    assert one.lost is None


@pytest.mark.parametrize(("bias", "lost"), [(0.0, False), (1.0, True)])
def test_of_an_error_less_is_better(bias: float, lost: bool) -> None:
    """The tolerance lies above the reference then."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=500)
    scored = Scored(truth, truth + rng.normal(size=500) * 0.5 + bias)
    one = judged(about("rmse", 500), scored, np.arange(500) % 40, reference=0.5, tolerance=0.1)
    assert one.lost is lost


def test_the_newest_mature_window_ended_a_maturity_ago() -> None:
    """Counted from 1970, so that everybody means the same windows."""
    assert newest_mature(NOON + timedelta(minutes=29), 3600, MATURITY) == (NOON - 2 * HOUR, NOON - HOUR)
    assert newest_mature(NOON + timedelta(minutes=30), 3600, MATURITY) == (NOON - HOUR, NOON)
