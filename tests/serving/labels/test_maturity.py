"""How long labels take, of predictions that are partly too young to have one; and what there is of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest

from tidegate.core.store import Store, open_store
from tidegate.serving.labels import ingest_labels
from tidegate.serving.labels.maturity import curve_of
from tidegate.serving.labels.status import status
from tidegate.serving.telemetry import write_records

STREAM = "demand.local"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def drawn(rows: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions of two days; `share` of them get a label after an hour on average, exponentially."""
    rng = np.random.default_rng(5)
    age = rng.uniform(0, 2 * 86400, rows)
    delay = np.where(rng.random(rows) < share, rng.exponential(3600, rows), np.inf)
    return np.ceil(np.minimum(age, delay)), (delay <= age).astype(float), np.ones(rows)


def test_the_curve_is_that_of_the_labels_and_not_of_the_young_predictions() -> None:
    """Six in ten are labelled in the end, after an hour on average, though the newest have none yet."""
    found = curve_of(*drawn(50_000, 0.6))
    curve = dict(found.curve)
    assert curve[3600.0] == pytest.approx(0.6 * (1 - np.exp(-1)), abs=0.01)
    assert curve[86400.0] == pytest.approx(0.6, abs=0.01)
    assert found.final == pytest.approx(0.6, abs=0.02)
    assert found.suggested == pytest.approx(3600 * np.log(20), rel=0.35)
    naive = found.labelled / found.predictions
    assert naive < 0.59


def test_a_delay_that_everybody_shares_is_suggested_as_it_is() -> None:
    """Rounded up to a minute, since that is what one writes down."""
    found = curve_of(np.full(100, 1790.0), np.ones(100), np.ones(100))
    assert (found.suggested, found.final) == (1800.0, 1.0)


@pytest.mark.parametrize("rows", [0, 100])
def test_without_labels_nothing_is_suggested(rows: int) -> None:
    """Nor with no predictions."""
    found = curve_of(np.full(rows, 900.0), np.zeros(rows), np.ones(rows))
    assert (found.suggested, found.final, found.labelled) == (None, 0.0, 0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_the_status_counts_labels_of_nobody_and_labels_that_are_no_answer(store: Store) -> None:
    """Kept, and said, because either may be a mistake or only early."""
    records = [
        {"id": f"p{n}", "at": NOON, "caller": f"c{n // 2}", "arm": "stable", "status": 200, "version": 1}
        for n in range(4)
    ]
    write_records(store, STREAM, records, classes=["down", "up"], task="classification")
    rows = [
        {"prediction_id": "p0", "label": "up"},
        {"prediction_id": "p1", "label": "sideways"},
        {"prediction_id": "nobody", "label": "up"},
        {"id": "c1", "label": "up"},
        {"id": "c9", "label": "up"},
    ]
    ingest_labels(store, STREAM, rows, NOON + timedelta(minutes=20))
    with duckdb.connect() as connection:
        found = status(connection, store, STREAM, NOON + timedelta(hours=1))
    assert (found.predictions, found.labelled, found.ambiguous) == (4, 3, 1)
    assert (found.labels, found.unknown, found.strange) == (5, 2, {"sideways": 1})
    assert [(one.version, one.arm, one.labelled) for one in found.shares] == [(1, "stable", 3)]


def test_a_store_without_predictions_has_a_status_too(store: Store) -> None:
    """Labels may be there before the first of them."""
    ingest_labels(store, STREAM, [{"prediction_id": "p1", "label": "up"}], NOON)
    with duckdb.connect() as connection:
        found = status(connection, store, STREAM, NOON)
    assert (found.predictions, found.since, found.labels, found.unknown) == (0, None, 1, 1)
