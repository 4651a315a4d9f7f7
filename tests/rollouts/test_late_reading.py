"""What the store holds of exposed users, read by the real readers: which prediction is theirs, what is in time."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tidegate.core.errors import UsageError
from tidegate.core.store import open_store
from tidegate.rollouts.blocks import ARMS, Counts, Exposed, Moments
from tidegate.rollouts.late import LEAST_PROBABILITY, OwnMetricFailed, cohorts, values
from tidegate.rollouts.late_reading import Exposure, LateReading
from tidegate.rollouts.plan import Line, Stream, source_of
from tidegate.serving.labels import ingest_labels, ingest_outcomes
from tidegate.serving.telemetry import salt_of, unit_hash, write_records

STREAM = "demand.local"
BEGAN = datetime(2026, 11, 20, 10, tzinfo=UTC)
AGE, BLOCK, SETTLE = 600.0, 60.0, 7.0


def nothing(metric: str, _frame: pd.DataFrame) -> Any:
    raise AssertionError(metric)


def late(metric: str, kind: str = "share", **keys: Any) -> Stream:
    line = Line(1.0, 0.01)
    return Stream(metric, line, line, 0.5, kind=kind, source=source_of(metric), delay=AGE, **keys)  # type: ignore[arg-type]  # one of two words


class Site:
    """A store with predictions, labels and outcomes, and the users whom a rollout counted."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(str(folder))
        self.salt = salt_of(self.store)
        self.records: list[dict[str, Any]] = []
        self.exposed: list[Exposure] = []
        self.classes: list[str] = ["0", "1"]

    def predict(self, user: str, seconds: float, *, arm: str = "stable", label: str | None = "1", **keys: Any) -> str:
        name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{user}{seconds}{arm}{keys}"))
        fixed = {"id": name, "at": BEGAN + timedelta(seconds=seconds), "unit": unit_hash(self.salt, user)}
        told = {"arm": arm, "release": "r-1", "version": 1, "status": 200, "seconds": 0.01, "label": label}
        self.records.append({**fixed, **told, "input.size": 2.0, **keys})
        return name

    def expose(self, user: str, seconds: float, prediction: str = "", *, arm: str = "stable", weight: int = 20) -> None:
        index, at = int(seconds // BLOCK), BEGAN.timestamp() + seconds
        found = Exposed(
            index, weight, ARMS[0] if arm == "canary" else ARMS[1], unit_hash(self.salt, user), prediction, at
        )
        self.exposed.append(Exposure(found, BEGAN.timestamp() + (index + 1) * BLOCK))

    def label(self, prediction: str, label: str, received: float) -> None:
        rows = [{"prediction_id": prediction, "label": label}]
        assert ingest_labels(self.store, STREAM, rows, BEGAN + timedelta(seconds=received)).accepted == 1

    def outcome(self, at: float, received: float | None = None, **row: Any) -> None:
        came = BEGAN + timedelta(seconds=at if received is None else received)
        rows = [{"at": (BEGAN + timedelta(seconds=at)).isoformat(), **row}]
        assert ingest_outcomes(self.store, STREAM, rows, came).accepted == 1

    def read(self, own: Any = nothing) -> LateReading:
        if self.records:
            task = "classification" if self.classes else "regression"
            write_records(self.store, STREAM, self.records, classes=self.classes, task=task)
            self.records = []
        return LateReading(self.store, STREAM, own)

    def frame(self, **keys: Any) -> pd.DataFrame:
        return self.read().frame(self.exposed, AGE, SETTLE, **keys)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_user_is_judged_by_the_first_prediction_that_has_a_truth_in_time(site: Site) -> None:
    """The first of block and arm with a label; without one the first; another arm's and a later block's never."""
    first = site.predict("ada", 1, label="0")
    second = site.predict("ada", 20, label="1")
    site.label(second, "1", 300)
    site.expose("ada", 0.99, first)
    other = site.predict("bob", 2, arm="canary", label="0")
    mine = site.predict("bob", 3, label="1")
    site.label(other, "0", 30)
    site.expose("bob", 1.9, other)
    late_one = site.predict("cleo", 61, label="1")
    site.label(late_one, "1", 90)
    site.expose("cleo", 2.0, site.predict("cleo", 2.01, label="0"))
    site.expose("dan", 3.0)
    frame = site.frame()
    assert list(frame["prediction"].where(frame["prediction"].notna(), None)) == ["1", "1", "0", None]
    assert list(frame["truth"].where(frame["truth"].notna(), None)) == ["1", None, None, None]
    assert mine != other


def test_a_label_counts_if_it_came_within_the_age_of_its_prediction(site: Site) -> None:
    """A second too late is not known, whoever asks however much later; and it is counted as late."""
    for user, received in (("ada", AGE + 0.9), ("bob", AGE + 1.1)):
        prediction = site.predict(user, 1)
        site.label(prediction, "1", received)
        site.expose(user, 1, prediction)
    assert list(site.frame()["truth"].notna()) == [True, False]
    reading, began = site.read(), BEGAN.timestamp()
    assert reading.late_labels(began, began + BLOCK, AGE) == 1
    assert reading.late_labels(began + BLOCK, began + 2 * BLOCK, AGE) == 0


def test_a_correction_in_time_counts_and_a_later_one_does_not(site: Site) -> None:
    """The newest label that came within the age decides."""
    prediction = site.predict("ada", 1, label="1")
    site.expose("ada", 1, prediction)
    for label, received in (("0", 10.0), ("1", 20.0), ("0", AGE + 100)):
        site.label(prediction, label, received)
    assert values("accuracy", site.frame(), nothing).tolist() == [1.0]


def test_the_order_in_which_labels_arrive_changes_nothing(tmp_path: Path) -> None:
    """Before the prediction, after it, twice: the same frame."""
    found = []
    for turn in range(2):
        site = Site(tmp_path / str(turn))
        for number in range(20):
            prediction = site.predict(f"u{number}", number, label=str(number % 2))
            site.expose(f"u{number}", number, prediction)
        names = [row["id"] for row in site.records]
        if turn:
            site.read()
        for number, name in list(enumerate(names))[:: -1 if turn else 1]:
            site.label(name, str(number % 3 % 2), 100)
        found.append(site.frame().drop(columns="unit"))
    pd.testing.assert_frame_equal(*found)


def test_outcomes_are_those_of_the_window_after_the_first_exposure(site: Site) -> None:
    """By user or by prediction, added up, each event once; what came before, after, or for nobody is left out."""
    prediction = site.predict("ada", 5)
    site.expose("ada", 5, prediction)
    site.expose("bob", 6, site.predict("bob", 6))
    site.outcome(4, unit="ada", name="revenue", value=100)
    site.outcome(10, unit="ada", name="revenue", value=3)
    site.outcome(20, prediction_id=prediction, name="revenue", value=4)
    site.outcome(5 + AGE + 1, unit="ada", name="revenue", value=1000)
    site.outcome(30, AGE + 3600, unit="ada", name="revenue", value=10_000)
    site.outcome(30, unit="ada", name="conversion")
    site.outcome(30, unit="zoe", name="conversion")
    frame = site.frame()
    assert values("revenue", frame, nothing).tolist() == [7.0, 0.0]
    assert values("revenue", frame, nothing, bound=5.0).tolist() == [5.0, 0.0]
    assert values("conversion", frame, nothing).tolist() == [1.0, 0.0]


def test_each_metric_is_its_own_number_for_each_user(site: Site) -> None:
    """Log loss with its bound, Brier score; unknown without a truth, without probabilities."""
    for user, chances, truth in (("a", [0.2, 0.8], "1"), ("b", [0.2, 0.8], "0"), ("c", [0.0, 1.0], "0")):
        prediction = site.predict(user, 1, label="1", probabilities=chances)
        site.label(prediction, truth, 60)
        site.expose(user, 1, prediction)
    frame = site.frame()
    assert values("accuracy", frame, nothing).tolist() == [1, 0, 0]
    bound = -math.log(LEAST_PROBABILITY)
    np.testing.assert_allclose(values("loss", frame, nothing), [-math.log(0.8), -math.log(0.2), bound], rtol=1e-6)
    np.testing.assert_allclose(values("brier", frame, nothing), [0.04, 0.64, 1.0], rtol=1e-6)
    assert np.isnan(values("mae", frame, nothing)).all()


def test_quantities_are_judged_by_their_error(site: Site) -> None:
    """Absolute and relative; a truth that is no number is not known."""
    site.classes = []
    for user, value, truth in (("a", 10.0, "12"), ("b", 5.0, "4"), ("c", 5.0, "many")):
        prediction = site.predict(user, 1, label=None, value=value)
        site.label(prediction, truth, 60)
        site.expose(user, 1, prediction)
    frame = site.frame()
    np.testing.assert_allclose(values("mae", frame, nothing), [2, 1, np.nan])
    np.testing.assert_allclose(values("mape", frame, nothing), [2 / 12, 1 / 4, np.nan])
    assert np.isnan(values("accuracy", frame.assign(prediction=None), nothing)).all()


def test_cohorts_are_sums_of_each_block_weight_and_arm(site: Site) -> None:
    """Users without a label are left out of its metrics and counted; every user counts for outcomes."""
    for number in range(8):
        arm = "canary" if number % 2 else "stable"
        prediction = site.predict(f"u{number}", 10.0 * number, arm=arm, label="1")
        site.expose(f"u{number}", 10.0 * number, prediction, arm=arm, weight=20 if number < 4 else 50)
        if number < 6:
            site.label(prediction, str(int(number != 1)), 200)
        site.outcome(100, unit=f"u{number}", name="revenue", value=number)
    metrics = [late("accuracy"), late("revenue", "mean", bound=6.0)]
    made = site.read().cohorts(metrics, site.exposed, SETTLE)
    assert [(one.index, one.weight) for one in made] == [(0, 20), (0, 50), (1, 50)]
    assert made[0].metrics == {
        "accuracy": Counts(2, 1, 2, 2),
        "revenue": Moments(2, 4, 10, 2, 2, 4),
        "labelled": Counts(2, 2, 2, 2),
    }
    assert made[2].metrics["labelled"] == Counts(1, 0, 1, 0)
    assert made[2].metrics["accuracy"] == Counts(0, 0, 0, 0)
    assert made[2].metrics["revenue"] == Moments(1, 6, 36, 1, 6, 36)


def test_an_own_function_gets_the_frame_and_must_answer_for_every_user(site: Site) -> None:
    """Inputs, outcomes and truth are there; a wrong shape, infinity, an error, or a share that is none fail closed."""
    prediction = site.predict("ada", 1)
    site.label(prediction, "1", 60)
    site.expose("ada", 1, prediction)
    site.outcome(30, unit="ada", name="basket", value=5)
    site.outcome(30, unit="zoe", name="refund", value=1)

    def worth(_metric: str, frame: pd.DataFrame) -> Any:
        assert {"unit", "arm", "at", "prediction", "truth", "score", "probabilities"} <= set(frame)
        # Nobody of this cohort has one, but somebody had.
        assert frame["outcome.refund"].tolist() == [0.0]
        return frame["outcome.basket"] * frame["input.size"]

    (made,) = site.read(worth).cohorts([late("mine:worth", "mean")], site.exposed, SETTLE)
    assert made.metrics["mine:worth"] == Moments(0, 0, 0, 1, 10, 100)
    frame = site.frame(inputs=True)

    def raises(_metric: str, _frame: pd.DataFrame) -> Any:
        raise UsageError("mine.py:3: KeyError", "Look there.")

    answers: Mapping[str, Any] = {
        "infinity": lambda _m, _f: [math.inf],
        "shape": lambda _m, _f: [1.0, 2.0],
        "mine.py:3": raises,
        "ZeroDivisionError": lambda _m, _f: 1 / 0,
        "gives other numbers": lambda _m, _f: [0.5],
    }
    for said, own in answers.items():
        with pytest.raises(OwnMetricFailed, match=said):
            cohorts([late("mine:worth")], frame, own)


@pytest.mark.parametrize(
    ("metric", "wrong"), [("accuracy", 0.0), ("log_loss", -math.log(LEAST_PROBABILITY)), ("brier", 1.0)]
)
def test_an_answer_without_a_prediction_is_as_wrong_as_can_be(metric: str, wrong: float) -> None:
    """Else a canary could leave out what it does not know, and look better for it."""
    frame = pd.DataFrame(
        {
            "prediction": ["up", None, "up", None],
            "probabilities": [[0.0, 1.0], None, [math.nan, math.nan], None],
            "truth": ["up", "up", "down", None],
        }
    )
    frame.attrs["classes"] = ("down", "up")
    right, empty, no_number, unknown = values(metric, frame, nothing).tolist()
    assert right == pytest.approx(1.0 if metric == "accuracy" else 0.0)
    assert (empty, no_number) == (pytest.approx(wrong), pytest.approx(wrong))
    assert math.isnan(unknown)
