"""What the loop wins back when the world changes, and that it leaves a steady world alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulation.drift_loop import Loop
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from tidegate.core.config_live import Monitor, Retrain

WINDOW, FIRST = 500, 2_000
MONITOR = Monitor.model_validate({"window": "1h", "drift": {"windows": 2}, "quality": {"tolerance": 0.05}})
RETRAIN = Retrain.model_validate({"cooldown": "2h", "budget": {"runs": 6, "per": "24h"}})
# Windows in which the rule becomes another one: at once; over six windows; back to the first, at once.
ABRUPT, GRADUAL, RETURN, END = 10, 20, 34, 44


def stream(seed: int) -> tuple[Any, Any]:
    """Four columns and a rule with 5 % noise: first, second, third, and the first again."""
    random = np.random.default_rng(seed)
    rows = FIRST + END * WINDOW
    inputs = random.normal(size=(rows, 4))
    first, second = inputs[:, 0] + inputs[:, 1] > 0, inputs[:, 0] - inputs[:, 1] > 0
    third = inputs[:, 2] + inputs[:, 3] > 0
    window = (np.arange(rows) - FIRST) / WINDOW
    rule = np.where(window < ABRUPT, first, second)
    rule = np.where(random.random(rows) < np.clip((window - GRADUAL) / 6, 0, 1), third, rule)
    rule = np.where(window >= RETURN, first, rule)
    return inputs, (rule ^ (random.random(rows) < 0.05)).astype(int)


def fit(inputs: Any, truth: Any) -> Any:
    return LogisticRegression().fit(inputs, truth)


def loop(seed: int, order: Any = None) -> Loop:
    inputs, truth = stream(seed)
    if order is not None:
        inputs, truth = inputs[order], truth[order]
    return Loop(inputs, truth, fit, FIRST, WINDOW, MONITOR, RETRAIN).run()


@pytest.fixture(scope="module", params=[0, 1, 2])
def played(request: pytest.FixtureRequest) -> Loop:
    return loop(request.param)


def test_each_change_is_found_within_two_windows_more_than_must_alarm(played: Loop) -> None:
    """Abrupt, gradual and returning: somebody asks at most `drift.windows` + 2 windows after it began."""
    asked = np.array(played.asked())
    for began in (ABRUPT, GRADUAL, RETURN):
        assert asked[asked >= began][0] - began < MONITOR.drift.windows + 2
    assert asked[0] >= ABRUPT


def test_most_of_the_accuracy_lost_is_won_back(played: Loop) -> None:
    """At least 80 % of what each change cost is back in the last windows before the next one."""
    accuracy = np.array(played.accuracy)
    for began, next_one in ((ABRUPT, GRADUAL), (GRADUAL, RETURN), (RETURN, END)):
        before, after = accuracy[began - 3 : began].mean(), accuracy[next_one - 3 : next_one].mean()
        worst = accuracy[began:next_one].min()
        assert (after - worst) / (before - worst) >= 0.8


def test_retrains_stay_within_the_budget(played: Loop) -> None:
    """In any 24 windows no more trainings than `budget.runs`; going back to a former champion is none."""
    trained = [window for window, outcome in played.outcomes() if outcome != "former"]
    assert trained
    for window in trained:
        assert sum(window <= other < window + 24 for other in trained) <= RETRAIN.budget.runs


def test_the_former_champion_comes_back_with_its_regime(played: Loop) -> None:
    """Without a training: the first version serves again from the window after the first one of its world."""
    assert (RETURN, "former") in played.outcomes()
    assert set(played.served[RETURN + 1 :]) == {1}
    assert 1 not in played.served[ABRUPT + 3 : RETURN]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_same_rows_shuffled_ask_for_nothing(seed: int) -> None:
    """A mixture of the three worlds is one world: nothing changes in it."""
    rows = FIRST + END * WINDOW
    steady = loop(seed, np.random.default_rng(seed).permutation(rows))
    assert (steady.asked(), set(steady.served)) == ([], {1})


def electricity(path: Path) -> tuple[Any, Any]:
    frame = pd.read_csv(path)
    return frame.drop(columns="class").to_numpy(), frame["class"].to_numpy()


def test_electricity_loses_nothing_by_the_loop(elec: Path) -> None:
    """A real stream whose regimes return, on which careless retraining loses; docs/retrain.md has the figures."""
    inputs, truth = electricity(elec)

    def boosted(rows: Any, labels: Any) -> Any:
        return HistGradientBoostingClassifier(random_state=0).fit(rows, labels)

    played = Loop(inputs, truth, boosted, round(len(truth) * 0.2), 2_000, MONITOR, RETRAIN).run()
    assert np.mean(played.accuracy) >= np.mean(played.never()) - 0.005
    assert np.mean(played.accuracy) > np.mean(played.never()) + 0.01
    assert "former" in [outcome for _, outcome in played.outcomes()]
    assert len(played.outcomes()) <= RETRAIN.budget.runs
