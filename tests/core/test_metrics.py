"""Each metric against scikit-learn's, and its weighted form against repeated rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tidegate.core import metrics
from tidegate.core.metrics import Scored


def _binary(seed: int = 0, rows: int = 400, decimals: int = 2) -> Scored:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    score = np.clip(rng.normal(0.4 + 0.2 * truth, 0.25), 0.01, 0.99).round(decimals)
    return Scored(truth, (score >= 0.5).astype(int), np.stack([1 - score, score], axis=1), (0, 1))


def _multiclass() -> Scored:
    rng = np.random.default_rng(3)
    truth = rng.choice(np.array(["a", "b", "c"], dtype=object), 300)
    scores = rng.dirichlet([1, 1, 1], 300) + 0.5 * np.stack([truth == one for one in "abc"], axis=1)
    scores /= scores.sum(axis=1, keepdims=True)
    return Scored(truth, np.array(list("abc"), dtype=object)[scores.argmax(axis=1)], scores, ("a", "b", "c"))


def test_binary_metrics_are_those_of_scikit_learn() -> None:
    """Every classification metric of two classes, with many ties among the scores."""
    one = _binary()
    score = one.scores[:, 1]  # type: ignore[index]
    expected = {
        "roc_auc": sk.roc_auc_score(one.truth, score),
        "average_precision": sk.average_precision_score(one.truth, score),
        "brier": sk.brier_score_loss(one.truth, score),
        "log_loss": sk.log_loss(one.truth, score),
        "accuracy": sk.accuracy_score(one.truth, one.prediction),
        "f1": sk.f1_score(one.truth, one.prediction),
        "precision": sk.precision_score(one.truth, one.prediction),
        "recall": sk.recall_score(one.truth, one.prediction),
    }
    assert {name: metrics.compute(name, one) for name in metrics.CLASSIFICATION} == pytest.approx(expected)


def test_multiclass_metrics_are_those_of_scikit_learn() -> None:
    """One-vs-rest averages, text labels."""
    one = _multiclass()
    hot = np.stack([one.truth == label for label in one.classes], axis=1)
    expected = {
        "roc_auc": sk.roc_auc_score(one.truth, one.scores, multi_class="ovr"),
        "average_precision": sk.average_precision_score(hot, one.scores),
        "brier": ((one.scores - hot) ** 2).sum(axis=1).mean(),
        "log_loss": sk.log_loss(one.truth, one.scores),
        "accuracy": sk.accuracy_score(one.truth, one.prediction),
        "f1": sk.f1_score(one.truth, one.prediction, average="macro"),
        "precision": sk.precision_score(one.truth, one.prediction, average="macro"),
        "recall": sk.recall_score(one.truth, one.prediction, average="macro"),
    }
    assert {name: metrics.compute(name, one) for name in metrics.CLASSIFICATION} == pytest.approx(expected)


def test_regression_metrics_are_those_of_scikit_learn() -> None:
    """RMSE, MAE, MAPE and R2; bias is the size of the mean error."""
    rng = np.random.default_rng(1)
    truth = rng.normal(5, 2, 200)
    one = Scored(truth, truth + rng.normal(0.3, 1, 200))
    expected = {
        "rmse": sk.root_mean_squared_error(truth, one.prediction),
        "mae": sk.mean_absolute_error(truth, one.prediction),
        "mape": sk.mean_absolute_percentage_error(truth, one.prediction),
        "bias": abs((one.prediction - truth).mean()),
        "r2": sk.r2_score(truth, one.prediction),
    }
    assert {name: metrics.compute(name, one) for name in metrics.REGRESSION} == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(metrics.CLASSIFICATION)))
def test_a_weight_of_two_is_the_row_twice(seed: int, name: str) -> None:
    """A metric under integer weights equals the metric of rows repeated as often."""
    one = _binary(seed, rows=60, decimals=1)
    counts = np.random.default_rng(seed).poisson(1, 60)
    repeated = one.rows(np.repeat(np.arange(60), counts))
    weighted = metrics.statistic(name, one)(counts[:, None].astype(float))[0]
    assert weighted == pytest.approx(metrics.compute(name, repeated), nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(
    shift=st.sampled_from([0.0, 2010.0, 1e5, -1.7e9]),
    spread=st.sampled_from([1e-12, 1.0, 5.0, 1e5, 1e20]),
    name=st.sampled_from(sorted(metrics.REGRESSION)),
)
def test_a_target_far_from_zero_is_measured_as_one_around_it(shift: float, spread: float, name: str) -> None:
    """Years, pressures and timestamps: weights in float32 give what float64 gives, and r2 is the same for all."""
    shift *= spread / 5  # as far from 0, in standard deviations, as the years 2010 with 5 and much farther
    rng = np.random.default_rng(0)
    plain, noise = rng.normal(size=300), 0.3 * rng.normal(size=300)
    truth = shift + spread * plain
    one = Scored(truth, truth + spread * noise)
    counts = rng.poisson(1, (300, 50))
    bootstrap = metrics.statistic(name, one)(counts.astype(np.float32))
    assert bootstrap == pytest.approx(metrics.statistic(name, one)(counts.astype(float)), rel=1e-9)
    if name == "r2":
        around_zero = metrics.statistic(name, Scored(plain, plain + noise))(counts.astype(float))
        assert bootstrap == pytest.approx(around_zero, abs=1e-4)  # 1.7e9 standard deviations leave float64 that much


@pytest.mark.parametrize("name", sorted(metrics.CLASSIFICATION))
def test_the_weights_of_a_bootstrap_lose_no_digits(name: str) -> None:
    """float32 holds the counts of a resample exactly, and what is summed with them is summed in float64."""
    one = _binary(rows=50_000, decimals=9)
    counts = np.random.default_rng(0).poisson(1, (50_000, 5))
    exact = metrics.statistic(name, one)(counts.astype(float))
    assert metrics.statistic(name, one)(counts.astype(np.float32)) == pytest.approx(exact, rel=1e-6)


def test_the_default_metric_follows_the_target() -> None:
    """RMSE for numbers, average precision where positives are under 5 %, else ROC AUC."""
    common, rare = np.arange(100) % 2, (np.arange(100) < 4) * 1
    assert metrics.default_metric("regression", common, ()) == "r2"
    assert metrics.default_metric("classification", common, (0, 1)) == "roc_auc"
    assert metrics.default_metric("classification", rare, (0, 1)) == "average_precision"


def test_what_is_not_defined_is_not_a_number() -> None:
    """AUC of one class, and any metric of no rows, is NaN and never a value."""
    one = _binary()
    assert np.isnan(metrics.compute("roc_auc", one.rows(one.truth == 1)))
    assert np.isnan(metrics.compute("accuracy", one.rows(np.zeros(400, dtype=bool))))
    with pytest.raises(KeyError):
        metrics.statistic("roc_auk", one)
