"""The gate: what it decides from facts, how sure its bounds are, and how it measures two real models."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.artifacts import ModelVersion, RunRef
from tidegate.core.config import Gate
from tidegate.core.errors import ConfigError, Permanent
from tidegate.core.metrics import Scored
from tidegate.core.progress import Silent
from tidegate.core.project import Project, open_project
from tidegate.pipelines import dvc_repo
from tidegate.pipelines.bootstrap import advantage
from tidegate.pipelines.gate import Column, Comparison, Facts, Overlap, decide
from tidegate.pipelines.learnt import LEARNT_FILE
from tidegate.pipelines.own_metrics import Measure
from tidegate.pipelines.runners import local
from tidegate.pipelines.steps import gate as gate_step
from tidegate.pipelines.steps.train import RunFile
from tidegate.registry.mlflow_registry import MlflowRegistry, open_registry

FACTS = Facts(metric="roc_auc", value=0.8, direction="higher", latency_p99=0.001, size=1000)
PRICE = Column("price", "number", nullable=False)
Rewrite = Callable[..., Project]


def _with_champion(**changes: Any) -> Facts:
    return replace(FACTS, champion=3, columns=(PRICE,), champion_columns=(PRICE,), **changes)


def _compared(low: float, **changes: Any) -> Facts:
    one = Comparison("roc_auc", 0.80, 0.81, low, 0.005, **changes)
    return _with_champion(comparisons=(one,))


# --- what to do about a refusal ------------------------------------------------------------------------------------


@given(st.floats(1e-9, 1e3))
def test_the_tolerance_that_is_advised_would_pass(worse: float) -> None:
    """Set to the number that the refusal names, the same challenger passes; the number is short, and not far off."""
    refused = decide(_compared(-worse), Gate(tolerance=0.0))
    if refused.passed:  # `tolerance` of the comparison is what counts, and this is within it
        return
    (advice,) = refused.advice
    said = advice.partition("set gate.tolerance in tidegate.yaml to ")[2].partition(" ")[0]
    assert worse <= float(said) <= worse * 1.11
    facts = _with_champion(comparisons=(Comparison("roc_auc", 0.80, 0.81, -worse, float(said)),))
    assert decide(facts, Gate()).passed


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (replace(FACTS, value=float("nan")), "data.split.holdout"),
        (replace(FACTS, latency_p99=1.0), "gate.latency_p99"),
        (replace(FACTS, size=10**12), "gate.size"),
        (_compared(-1.0), "gate.tolerance"),
        (_compared(-1.0, slice="hour = 3", rows=500), "the slice hour = 3 under gate.slices"),
        (_compared(float("nan"), slice="hour = 3", rows=500), "leave that slice out"),
        (
            _with_champion(comparisons=(Comparison("brier", 0.2, 0.1, -0.1, 0.01),)),
            "the tolerance of brier under gate.checks",
        ),
        (replace(_with_champion(), columns=()), "keep the columns of version 3"),
        (
            replace(_with_champion(), columns=(PRICE, Column("new", "number", nullable=False))),
            "make a new one optional",
        ),
    ],
)
def test_every_refusal_says_which_line_of_the_config_drew_the_limit(facts: Facts, said: str) -> None:
    """One sentence for each, and none for what passed."""
    refused = decide(facts, Gate())
    assert not refused.passed
    assert [one for one in refused.advice if said in one] == list(refused.advice)
    assert decide(FACTS, Gate()).advice == ()
    assert "gate.required" in decide(FACTS, Gate(required=0.9)).advice[0]


# --- deciding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("required", "passed"), [(None, True), (0.7, True), (0.8, True), (0.81, False)])
def test_without_a_champion_only_the_required_value_counts(required: float | None, passed: bool) -> None:
    """The first version is compared with nobody, and the reason says so."""
    result = decide(FACTS, Gate(required=required))
    assert result.passed is passed
    assert result.champion is None
    assert "ok: there is no champion to compare with" in result.reasons


def test_required_is_at_most_where_lower_is_better() -> None:
    """An error metric must not exceed its required value."""
    facts = replace(FACTS, metric="rmse", value=2.0, direction="lower")
    assert decide(facts, Gate(required=2.5)).passed
    assert not decide(facts, Gate(required=1.5)).passed


@pytest.mark.parametrize("required", [None, 0.1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_never_passes(value: float, required: float | None) -> None:
    """NaN is not at least anything, and it is no first champion either when nothing is required."""
    result = decide(replace(FACTS, value=value), Gate(required=required))
    assert not result.passed
    assert result.reasons[0] == "refused: roc_auc is not defined on the holdout"


def test_what_is_limited_but_was_not_measured_refuses() -> None:
    """`null` in the gate is the way to do without a measurement."""
    for missing in ({"latency_p99": None}, {"latency_p99": float("nan")}, {"size": None}):
        assert not decide(replace(FACTS, **missing), Gate()).passed
        assert decide(replace(FACTS, **missing), Gate(latency_p99=None, size=None)).passed


@pytest.mark.parametrize(("low", "passed"), [(-0.004, True), (-0.006, False), (0.02, True), (float("nan"), False)])
def test_a_challenger_may_be_worse_only_within_the_tolerance(low: float, passed: bool) -> None:
    """The 95 % bound decides, and a bound that does not exist refuses."""
    assert decide(_compared(low), Gate()).passed is passed


def test_a_slice_that_got_worse_refuses_and_is_named() -> None:
    """The whole may be fine while one slice is not."""
    result = decide(_compared(-0.2, slice="city = rome", rows=200), Gate())
    assert not result.passed
    assert result.reasons[0].startswith("refused: roc_auc where city = rome (200 rows)")


@pytest.mark.parametrize(
    ("new", "old", "passed"),
    [
        ((PRICE,), (PRICE,), True),
        ((PRICE, Column("city", "string", nullable=False)), (PRICE,), False),
        ((PRICE, Column("city", "string", nullable=True)), (PRICE,), True),
        ((), (PRICE,), False),
        ((replace(PRICE, kind="string"),), (PRICE,), False),
        ((PRICE,), (replace(PRICE, kind="integer"),), True),
        ((PRICE,), (replace(PRICE, nullable=True),), False),
    ],
)
def test_requests_of_the_champions_callers_must_stay_valid(
    new: tuple[Column, ...], old: tuple[Column, ...], passed: bool
) -> None:
    """New required, removed, retyped and no longer nullable columns are refused; wider ones are not."""
    assert decide(replace(_with_champion(), columns=new, champion_columns=old), Gate()).passed is passed


@pytest.mark.parametrize(
    ("rows", "learnt", "passed"),
    [
        (300, 0, True),
        (300, 200, True),
        (300, 201, False),
        (300, 245, False),
        (9_000, 7_200, True),  # another split of a large table: a fifth is left, and it is many
        (9_000, 8_101, False),
        (12, 0, True),
        (12, 6, True),
        (12, 7, False),
    ],
)
def test_a_champion_is_compared_on_rows_that_it_did_not_learn_from(rows: int, learnt: int, passed: bool) -> None:
    """Where too few are left there is no comparison, and no tolerance would make it a better one."""
    facts = _compared(0.0) if passed else _with_champion()
    result = decide(replace(facts, overlap=Overlap(rows, learnt)), Gate())
    assert result.passed is passed
    said = " ".join(result.reasons)
    if passed:
        assert f"{rows - learnt:,}" in said
        assert "version 3 did not learn from" in said
    else:
        assert f"refused: version 3 was trained on {learnt:,} of the {rows:,} rows held out" in said
        assert "tolerance" not in " ".join(result.advice)
        assert "Keep data.split" in result.advice[0]


def test_rows_that_a_champion_may_have_learnt_from_are_a_note() -> None:
    """Of an adopted version nobody knows them."""
    result = decide(replace(_compared(0.0), overlap=Overlap(300, None, "its run does not say it")), Gate())
    assert result.passed
    assert (
        "ok: which of the 300 rows held out version 3 learnt from is not known (its run does not say it)"
        in " ".join(result.reasons)
    )


@pytest.mark.parametrize(
    ("new", "old", "said"),
    [
        ((0, 1), (0, 1), ""),
        ((0, 1, 2), (0, 1), "new: 2"),
        (("cat", "dog"), ("bird", "dog"), "new: 'cat'; gone: 'bird'"),
        ((False, True), (0, 1), "new: False, True; gone: 0, 1"),  # json tells true from 1
        ((0, 1), (), ""),  # an adopted version may not say them
        ((), (), ""),
    ],
)
def test_other_classes_are_another_question(new: tuple[object, ...], old: tuple[object, ...], said: str) -> None:
    """Callers know the champion's answers; what is new and what is gone is named."""
    result = decide(_with_champion(classes=new, champion_classes=old), Gate())
    assert result.passed is not bool(said)
    assert ("the classes are others than those of version 3: " + said in " ".join(result.reasons)) is bool(said)


def test_budgets_of_latency_and_size_refuse_with_both_numbers() -> None:
    """Over budget is a reason with what was measured and what is allowed."""
    result = decide(replace(FACTS, latency_p99=0.08, size=300_000_000), Gate())
    assert not result.passed
    assert "refused: one row takes 80 ms at p99, 50 ms is allowed" in result.reasons
    assert "refused: the model has 300 MB, 200 MB is allowed" in result.reasons


def test_every_reason_is_given_refusals_first() -> None:
    """What speaks for a challenger is told as well."""
    result = decide(replace(_compared(-0.1), latency_p99=0.001), Gate(required=0.7))
    words = [reason.partition(":")[0] for reason in result.reasons]
    assert words == sorted(words, reverse=True)
    assert set(words) == {"refused", "ok"}


# --- the bootstrap --------------------------------------------------------------------------------------------------


def _pair(seed: int, rows: int, worse: float) -> tuple[Scored, Scored]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    signal = rng.normal(truth * 1.2, 1.0)

    def scored(noise: float) -> Scored:
        score = 1 / (1 + np.exp(-(signal + rng.normal(0, noise, rows))))
        return Scored(truth, (score > 0.5).astype(int), np.stack([1 - score, score], axis=1), (0, 1))

    return scored(0.3 + worse), scored(0.3)


def test_the_bound_covers_the_truth_about_95_times_in_100() -> None:
    """Two models of equal quality: the lower bound of the difference lies under 0 in about 95 % of data sets."""
    measure, frame = Measure("roc_auc", "higher"), pd.DataFrame(index=range(250))
    bounds = [advantage(measure, *_pair(seed, 250, 0.0), frame)[1] for seed in range(120)]
    # 120 draws at 0.95: fewer than 106 or more than 119 covered has a chance under 1 in 500 on either side.
    assert 106 <= sum(bound <= 0 for bound in bounds) <= 119


def test_a_clearly_worse_model_has_a_clearly_negative_bound() -> None:
    """The estimate and the bound have the metric's good direction as their sign."""
    frame = pd.DataFrame(index=range(2000))
    estimate, low, _ = advantage(Measure("roc_auc", "higher"), *_pair(0, 2000, 1.5), frame)
    assert low < estimate < -0.05
    estimate, low, _ = advantage(Measure("brier", "lower"), *_pair(0, 2000, 1.5), frame)
    assert low < estimate < 0


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (2010.0, 5.0), (101_325.0, 500.0), (1.7e9, 1e5)])
def test_a_worse_regression_has_the_same_bound_wherever_its_target_lies(mean: float, spread: float) -> None:
    """A year or a timestamp is no reason to let twice the error pass."""
    rng = np.random.default_rng(0)
    plain, noise = rng.normal(size=300), rng.normal(size=300)
    truth = mean + spread * plain
    good, bad = (Scored(truth, truth + spread * share * noise) for share in (0.3, 0.6))
    estimate, low, _ = advantage(Measure("r2", "higher"), bad, good, pd.DataFrame(index=range(300)))
    assert (estimate, low) == pytest.approx((-0.24788, -0.30503), abs=1e-4)


def test_an_own_metric_has_the_same_bound_as_the_built_in_one() -> None:
    """Accuracy as a user's function, called per resample, agrees with the matrix form."""
    challenger, champion = _pair(4, 300, 0.5)
    frame = pd.DataFrame(index=range(300))
    own = Measure("mine:accuracy", "higher", lambda truth, prediction, _: (truth == prediction).mean())
    mine = advantage(own, challenger, champion, frame)
    built_in = advantage(Measure("accuracy", "higher"), challenger, champion, frame)
    assert mine == pytest.approx(built_in, abs=0.01)


def test_a_metric_of_a_handful_of_rows_has_no_bound() -> None:
    """One positive row: many resamples have none, so nothing is claimed."""
    truth = np.array([1] + [0] * 40)
    score = np.linspace(0.9, 0.1, 41)
    one = Scored(truth, (score > 0.5) * 1, np.stack([1 - score, score], axis=1), (0, 1))
    _, low, _ = advantage(Measure("roc_auc", "higher"), one, one, pd.DataFrame(index=range(41)))
    assert np.isnan(low)


# --- measuring ------------------------------------------------------------------------------------------------------


def _register(project: Project) -> tuple[MlflowRegistry, ModelVersion]:
    registry = open_registry(project)
    return registry, registry.register(RunRef(RunFile.read(project.out_dir).run_id))


def test_the_same_model_again_passes_against_itself(project: Project) -> None:
    """Identical answers are worse by nothing, on every metric, slice and budget."""
    registry, champion = _register(project)
    result = gate_step.run(project, champion, registry, Silent())
    assert result.passed, result.reasons
    assert result.champion == 1
    assert any("callers send the same columns" in reason for reason in result.reasons)


def test_a_worse_challenger_is_refused_with_its_reasons(project: Project, rewrite: Rewrite) -> None:
    """A model without its best column is refused by metric, check and slice, each named."""
    registry, champion = _register(project)
    gate = "gate: {metric: roc_auc, checks: [{metric: brier}], slices: [{column: city}]}"
    changed = rewrite(project, "tidegate.yaml", "gate: {metric: roc_auc}", gate)
    changed = rewrite(changed, "train.py", 'StandardScaler(), ["price", "volume"]', 'StandardScaler(), ["volume"]')
    local.train(changed, {}, Silent())
    result = gate_step.run(changed, champion, registry, Silent())
    assert not result.passed
    refused = [reason for reason in result.reasons if reason.startswith("refused: ")]
    assert any(reason.startswith("refused: roc_auc is") for reason in refused)
    assert any(reason.startswith("refused: brier is") for reason in refused)


def _new_data(project: Project, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Project:
    """The project with its data changed and recorded."""
    file = project.path(project.config.data.path)
    change(pd.read_csv(file)).to_csv(file, index=False)
    dvc_repo.add(project.root, file)
    return project


def test_a_champion_that_learnt_the_rows_held_out_is_not_compared_on_them(project: Project) -> None:
    """A new column draws the holdout anew; the refusal says that, and offers no tolerance."""
    registry, champion = _register(project)
    rng = np.random.default_rng(1)
    changed = _new_data(project, lambda frame: frame.assign(more=np.where(rng.random(900) < 0.5, np.nan, 1.0)))
    local.train(changed, {}, Silent())
    result = gate_step.run(changed, champion, registry, Silent())
    assert not result.passed
    (refused,) = [reason for reason in result.reasons if reason.startswith("refused: ")]
    assert re.search(r"version 1 was trained on 1[345]\d of the 180 rows held out", refused)
    assert not any("roc_auc is" in reason and "version 1" in reason for reason in result.reasons)
    assert "tolerance" not in " ".join(result.advice)


def test_new_rows_are_what_a_champion_is_compared_on(project: Project, rewrite: Rewrite) -> None:
    """The newest rows of a file in time order: those among them that the champion learnt from are left out."""
    registry, champion = _register(project)

    def longer(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([frame, frame.head(400).assign(price=frame["price"].head(400) + 0.001)])

    changed = _new_data(project, longer)
    changed = rewrite(changed, "tidegate.yaml", "by: random", "by: time, holdout: 0.5")
    local.train(changed, {}, Silent())
    result = gate_step.run(changed, champion, registry, Silent())
    (compared,) = [reason for reason in result.reasons if "did not learn from" in reason]
    # Of the last 650 rows 400 are new; of the other 250 the champion held a fifth out.
    assert re.search(r"ok: compared on the 4[3-7]\d of 650 rows held out that version 1 did not learn from", compared)
    assert any("roc_auc is" in reason and "version 1 has" in reason for reason in result.reasons)


def test_a_champion_of_which_nothing_is_kept_is_compared_with_a_note(project: Project) -> None:
    """One that was trained before rows were remembered, or that came from elsewhere."""
    registry, champion = _register(project)
    (kept,) = (project.state_dir / "mlruns").rglob(LEARNT_FILE)
    kept.unlink()
    result = gate_step.run(project, champion, registry, Silent())
    assert result.passed
    assert any("learnt from is not known (its run does not say it)" in reason for reason in result.reasons)


def test_a_third_class_is_refused_and_named(project: Project) -> None:
    """A binary champion and a challenger of three classes answer different questions."""
    registry, champion = _register(project)
    changed = _new_data(project, lambda frame: frame.assign(**{"class": frame["class"] + (frame["volume"] > 40)}))
    local.train(changed, {}, Silent())
    result = gate_step.run(changed, champion, registry, Silent())
    assert not result.passed
    assert "refused: the classes are others than those of version 1: new: 2" in result.reasons


def test_a_column_of_which_no_slice_is_large_enough_is_refused(project: Project, rewrite: Rewrite) -> None:
    """What was asked for and could not be judged is no pass; single small slices beside large ones are a note."""
    registry, champion = _register(project)
    changed = rewrite(project, "tidegate.yaml", "metric: roc_auc}", "metric: roc_auc, slices: [{column: city}]}")
    result = gate_step.run(changed, champion, registry, Silent())
    assert not result.passed
    assert result.reasons[0] == "refused: no slice of city could be judged: none of 3 has 100 rows"
    assert "leave city out of gate.slices" in result.advice[0]
    changed = _new_data(changed, lambda frame: frame.assign(city=frame["city"].mask(frame["volume"] > 9, "rome")))
    changed = rewrite(changed, "tidegate.yaml", "metric: roc_auc,", "metric: roc_auc, tolerance: 1.0,")
    local.train(changed, {}, Silent())
    result = gate_step.run(changed, champion, registry, Silent())
    assert any(reason.startswith("ok: roc_auc where city = rome") for reason in result.reasons), result.reasons
    assert "ok: slices of city with under 100 rows were not judged: 2" in result.reasons


def test_a_champions_file_that_was_tampered_with_is_not_opened(project: Project) -> None:
    """The folder in the artifact store is not the one that was registered."""
    registry, champion = _register(project)
    (stored,) = (project.state_dir / "mlruns").rglob("model.skops")
    stored.write_bytes(stored.read_bytes() + b"x")
    with pytest.raises(Permanent, match="not the one that was registered"):
        gate_step.run(project, champion, registry, Silent())


def test_a_champion_that_cannot_see_the_data_is_a_refusal_not_a_crash(project: Project, rewrite: Rewrite) -> None:
    """The champion wants a column that the new data lacks: reported, and never a pass."""
    registry, champion = _register(project)
    changed = rewrite(project, "tidegate.yaml", "target: class", "drop: [city], target: class")
    changed = rewrite(changed, "train.py", '(OneHotEncoder(handle_unknown="ignore"), ["city"]), ', "")
    local.train(changed, {}, Silent())
    result = gate_step.run(changed, champion, registry, Silent())
    assert not result.passed
    assert any("column 'city' is gone" in reason for reason in result.reasons)


def test_a_champion_that_cannot_read_a_column_any_more_is_a_refusal_too(project: Project, rewrite: Rewrite) -> None:
    """One cell made text of a column of numbers: what the champion takes cannot be made of it."""
    registry, champion = _register(project)

    def odd(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([frame, frame.assign(price="none", volume=range(900))])

    changed = _new_data(project, odd)
    changed = rewrite(changed, "train.py", 'StandardScaler(), ["price", "volume"]', 'StandardScaler(), ["volume"]')
    changed = rewrite(changed, "train.py", '["city"]', '["city", "price"]')
    local.train(changed, {}, Silent())
    result = gate_step.run(changed, champion, registry, Silent())
    refused = " ".join(reason for reason in result.reasons if reason.startswith("refused: "))
    assert "version 1 cannot be measured on this holdout: Column 'price' is no number any more" in refused
    assert "column 'price' changed from number to string" in refused
    assert "compared on" not in " ".join(result.reasons)


def test_a_slice_column_that_does_not_exist_is_an_error(project: Project, rewrite: Rewrite) -> None:
    """A typo in gate.slices is not silently skipped."""
    registry, champion = _register(project)
    changed = rewrite(project, "tidegate.yaml", "metric: roc_auc}", "metric: roc_auc, slices: [{column: citi}]}")
    with pytest.raises(ConfigError, match="'citi'") as caught:
        gate_step.run(changed, champion, registry, Silent())
    assert "city" in caught.value.hint


def test_the_packaged_models_latency_and_size_are_judged(project: Project) -> None:
    """A given predictor is timed on request rows in JSON's types."""
    registry, champion = _register(project)
    seen: list[dict[str, Any]] = []
    result = gate_step.run(project, champion, registry, Silent(), predict_row=seen.append, size=10**9)
    assert {"price", "volume", "city"} == set(seen[0])
    assert not result.passed
    assert any("1e+03 MB" in reason for reason in result.reasons)


def test_an_own_metric_decides(project: Project, rewrite: Rewrite, tmp_path: Path) -> None:
    """`module:function` is measured, logged and compared like a built-in one; lower may be better."""
    registry, champion = _register(project)
    (project.root / "money.py").write_text(
        "def cost(y_true, prediction, frame):\n"
        "    return float(((y_true != prediction) * frame['price'].abs()).sum())\n\n\n"
        "cost.higher_is_better = False\n"
    )
    changed = rewrite(project, "tidegate.yaml", "metric: roc_auc", "metric: 'money:cost'")
    result = local.train(changed, {}, Silent())
    assert result.metric == "money:cost"
    assert gate_step.run(changed, champion, registry, Silent()).passed


def test_an_own_metric_is_judged_by_its_code_of_today(project: Project, rewrite: Rewrite) -> None:
    """After an edit `train` measures again; and the gate's value is never one that older code gave."""
    registry, _ = _register(project)
    score = project.root / "score.py"
    score.write_text("def score(y_true, prediction, frame):\n    return 0.9\n")
    changed = rewrite(project, "tidegate.yaml", "metric: roc_auc", "metric: 'score.py:score', required: 0.5")
    local.train(changed, {}, Silent())
    assert gate_step.run(changed, None, registry, Silent()).passed
    score.write_text("def score(y_true, prediction, frame):\n    return 0.2\n")
    refused = gate_step.run(changed, None, registry, Silent())
    assert not refused.passed
    assert any("0.2" in reason for reason in refused.reasons), refused.reasons
    again = local.train(changed, {}, Silent())
    assert {one.name: one.how for one in again.stages}["evaluate"] == "ran"
    assert again.metrics["score.py:score"] == 0.2


def test_slices_of_a_number_are_its_quartiles_and_missing_values_are_one() -> None:
    """Every row is in exactly one slice."""
    from tidegate.core.config import SliceCheck

    frame = pd.DataFrame({"price": [*np.arange(100.0), np.nan], "city": ["a", "b"] * 50 + [None]})
    for column, count in (("price", 5), ("city", 3)):
        found = gate_step.slices_of(frame, SliceCheck(column=column))
        assert len(found) == count
        assert sum(mask.astype(int) for _, mask in found).tolist() == [1] * 101


def test_a_copy_of_a_project_writes_into_its_own_folders(project: Project, trained: Path) -> None:
    """Registering in a copied project leaves the original's database and artifacts alone."""
    _register(project)
    assert open_registry(open_project(trained)).list() == ()
    shutil.rmtree(project.root)
