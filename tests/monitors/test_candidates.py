"""Who should be the champion, on rows whose truth has matured."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

from tidegate.core.metrics import Scored
from tidegate.monitors.candidates import Candidate, Rules, choose
from tidegate.pipelines.bootstrap import advantage
from tidegate.pipelines.own_metrics import Measure

ROWS = 2_000


def compare(one: Scored, champion: Scored, confidence: float, _rows: Any) -> tuple[float, float, float, float]:
    import pandas as pd

    frame, accuracy = pd.DataFrame(index=range(len(one.truth))), Measure("accuracy", "higher")
    found = advantage(accuracy, one, champion, frame, confidence)
    return (accuracy.of(one, frame), accuracy.of(champion, frame), found.estimate, found.low)


def normal(one: Scored, champion: Scored, confidence: float, _rows: Any) -> tuple[float, float, float, float]:
    """The bound of many rows without resampling."""
    mine, theirs = one.truth == one.prediction, champion.truth == champion.prediction
    apart = mine.astype(float) - theirs
    low = apart.mean() - NormalDist().inv_cdf(confidence) * apart.std() / len(apart) ** 0.5
    return float(mine.mean()), float(theirs.mean()), float(apart.mean()), float(low)


RULES = Rules(compare, "accuracy", margin=0.005)


def candidate(version: int, accuracy: float, *, unseen: Any = None, seed: int = 0) -> Candidate:
    """A model that is right in about so many of the rows."""
    truth = np.random.default_rng(99).integers(0, 2, ROWS)
    right = np.random.default_rng((seed, version)).random(ROWS) < accuracy
    everything = np.ones(ROWS, dtype=bool)
    scored = Scored(truth, np.where(right, truth, 1 - truth), None, (0, 1))
    return Candidate(f"r-{version}", version, scored, everything if unseen is None else unseen)


def test_the_champion_stays_unless_another_is_better_beyond_doubt() -> None:
    """Equal, a little better, worse: none of them is worth a change."""
    for accuracy in (0.80, 0.81, 0.60):
        choice = choose(candidate(1, 0.80), [candidate(2, accuracy)], RULES)
        assert (choice.release, choice.decided, choice.winner) == ("r-1", True, None)
    assert choose(candidate(1, 0.80), [candidate(2, 0.86)], RULES).release == "r-2"


def test_the_best_of_several_wins_and_each_is_told_in_a_sentence() -> None:
    """A former champion beats both the champion and the new version."""
    choice = choose(candidate(3, 0.60), [candidate(1, 0.85), candidate(4, 0.70)], RULES)
    assert choice.release == "r-1"
    assert choice.winner is not None
    assert choice.winner.sentence.startswith("version 1 has accuracy 0.8")
    assert "on 2,000 matured rows, version 3 has 0." in choice.contests[1].sentence


def test_five_equal_candidates_rarely_displace_the_champion() -> None:
    """The confidence is shared among them: about one in twenty, though five are tried; the margin is left out."""
    changed = 0
    for seed in range(400):
        others = [candidate(version, 0.75, seed=seed) for version in range(2, 7)]
        changed += choose(candidate(1, 0.75, seed=seed), others, Rules(normal, "accuracy", 0.0)).release != "r-1"
    assert changed <= 30


def test_a_row_that_one_of_them_learnt_from_counts_for_neither() -> None:
    """The new version is right in every row that it was trained on; on the others it is no better."""
    learnt = np.arange(ROWS) < 1_500
    new = candidate(2, 0.75, unseen=~learnt)
    cheating = Scored(new.scored.truth, np.where(learnt, new.scored.truth, new.scored.prediction), None, (0, 1))
    choice = choose(candidate(1, 0.75), [Candidate("r-2", 2, cheating, ~learnt)], RULES)
    assert (choice.release, choice.contests[0].rows) == ("r-1", 500)


def test_too_few_rows_decide_nothing_and_say_so() -> None:
    """The caller can tell "not better" from "nobody knows"."""
    choice = choose(candidate(1, 0.5), [candidate(2, 1.0, unseen=np.arange(ROWS) < 150)], RULES)
    assert (choice.release, choice.decided) == ("r-1", False)
    assert "150 matured rows that neither learnt from, 200 are needed" in choice.contests[0].sentence


def test_a_metric_that_is_not_defined_decides_nothing() -> None:
    """NaN is never better."""
    undefined = Rules(lambda *_: (np.nan, np.nan, np.nan, np.nan), "accuracy", 0.0)
    choice = choose(candidate(1, 0.5), [candidate(2, 0.9)], undefined)
    assert (choice.release, choice.decided) == ("r-1", False)
