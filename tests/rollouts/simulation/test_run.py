"""The closed loop, the built-in scenarios and the numbers that judge.md promises."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.config import Rollout
from tidegate.core.errors import ConfigError, UsageError
from tidegate.rollouts.simulation.run import Outcome, Report, simulate
from tidegate.rollouts.simulation.scenario import Scenario, load, names, plan_for

DOCS = Path(__file__).resolve().parents[3] / "docs"
ERRORS = {"metric": "error_rate", "harm": {"ratio": 1.1, "margin": 0.001}, "safe": {"ratio": 1.5, "margin": 0.002}}


def played(weight: int, runs: int = 120, **more: Any) -> dict[str, Outcome]:
    """1,200 requests a minute for two hours at one weight, judged on errors of .5 % each minute."""
    policy = {"unit": "request", "steps": [weight], "step": {"min": 120.0}, "guardrails": [ERRORS]}
    case = Scenario.model_validate({"runs": runs, "rollout": Rollout.model_validate(policy), **more})
    return {outcome.policy: outcome for outcome in simulate("own", case).outcomes}


def test_equal_arms_are_rolled_back_as_often_as_other_measurements_say() -> None:
    """The rules at 5 %: Argo 0 and .355, Flagger 1, Kayenta 0, a peeked z-test .37; ours below alpha."""
    found = played(5)
    assert found["tidegate"].rolled_back <= 0.05
    assert found["Argo Rollouts, success >= 95 %"].rolled_back == 0
    assert found["Argo Rollouts, success >= 99 %"].rolled_back == pytest.approx(0.355, abs=0.12)
    assert found["Flagger, success >= 99 %"].rolled_back == 1
    assert found["Kayenta, Mann-Whitney"].rolled_back <= 0.03
    assert found["z-test, peeked each minute"].rolled_back == pytest.approx(0.37, abs=0.12)


def test_doubled_errors_cost_what_other_measurements_say() -> None:
    """Canary requests of the middle rollout at 25 %: 6,000 here, Argo 12,000, Flagger 3,000, Kayenta 6,000, z 900."""
    found = played(25, effect={"error_rate": 2.0})
    assert found["tidegate"].median_canary_units <= 1.1 * 6000
    assert found["tidegate"].rolled_back >= 0.95
    assert found["Argo Rollouts, success >= 95 %"].promoted == 1
    # One look more or less: a median falls on a look.
    assert found["Argo Rollouts, success >= 99 %"].median_canary_units == pytest.approx(12_000, abs=1.1 * 1500)
    assert found["Flagger, success >= 99 %"].median_canary_units == pytest.approx(3000, abs=1.1 * 300)
    assert 5500 < found["Kayenta, Mann-Whitney"].median_canary_units < 9500, "its second or third look"
    assert found["z-test, peeked each minute"].median_canary_units == pytest.approx(900, rel=0.35)


@pytest.mark.parametrize("name", names())
def test_every_built_in_scenario_keeps_what_it_expects(name: str) -> None:
    """With a few runs; `make simulate` plays 2,000."""
    report = simulate(name, load(name, runs=16))
    ours = report.outcomes[0]
    assert ours.rolled_back + ours.promoted + ours.inconclusive + ours.undecided == pytest.approx(1)
    if report.harmful:
        assert ours.promoted <= 0.05 + 3 * 0.055
    else:
        assert ours.rolled_back <= 0.05 + 3 * 0.055


def test_the_rules_that_are_there_for_a_reason_are_missed() -> None:
    """Labels as they come and users counted in each arm roll back what is equal."""
    naive = _row(simulate("labels", load("delayed-labels", runs=12)), "tidegate, if it took labels as they come")
    twice = _row(simulate("returning", load("returning-users", runs=12)), "tidegate, if users counted in each arm")
    assert naive.rolled_back > 0.9
    assert twice.rolled_back > 0.9


def _row(report: Report, policy: str) -> Outcome:
    return next(outcome for outcome in report.outcomes if outcome.policy == policy)


def test_the_truth_decides_what_a_rollback_is() -> None:
    """On the harm line or within it is false; an effect that never shows, because no step is so large, is none."""

    def truth(**more: Any) -> bool:
        case = Scenario.model_validate(
            {"rollout": Rollout.model_validate({"steps": [20], "guardrails": [ERRORS]})} | more
        )
        return case.harmful(plan_for(case))

    assert not truth()
    assert not truth(effect={"error_rate": 1.25})
    assert truth(effect={"error_rate": 1.35})
    assert not truth(effect={"error_rate": 10.0}, effect_from_weight=50)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: 0\nseed: -1\n", ("runs", "seed")),
        ("efect: {error_rate: 2}\n", ("efect", 'did you mean "effect"')),
        ("block: 45s\n", ("a block divides a minute",)),
        ("labels: {wrong: 0.1, wrong_after: 1m, right_after: 1m, maturity: 1m}\n", ("accuracy alone",)),
        ("effect: {accuracy: 2}\n", ("with `labels`",)),
        ("rollout: {goal: {metric: conversion}}\n", ("a goal is not simulated",)),
        ("expect: {power: {}}\n", ("min or a max",)),
    ],
)
def test_a_wrong_scenario_says_everything_that_is_wrong(tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    """Each mistake with its line, in one error."""
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    told = "\n".join(caught.value.problems)
    assert all(one in told for one in said), told
    assert "docs/judge.md" in caught.value.hint


def test_a_bound_that_cannot_be_is_refused() -> None:
    """Power of a harmless canary, and false rollbacks of a harmful one, do not exist."""
    for more in (
        {"expect": {"power": {"min": 0.5}}},
        {"effect": {"error_rate": 9.0}, "expect": {"false_rollback": {"max": 1.0}}},
    ):
        with pytest.raises(UsageError, match="expects a bound"):
            simulate("own", Scenario.model_validate({"runs": 1, **more}))


def test_the_docs_name_every_scenario_and_every_key() -> None:
    """The tables in docs/judge.md are between their two comments, and nothing is described that is not there."""
    script = runpy.run_path(str(DOCS / "make_simulation_table.py"))
    text = (DOCS / "judge.md").read_text(encoding="utf-8")
    _, begun, rest = text.partition(script["BEGIN"])
    tables, ended, after = rest.partition(script["END"])
    assert begun
    assert ended
    assert set(re.findall(r"^\| `([\w-]+)` \|", tables, re.MULTILINE)) == set(names())
    _, _, after = after.partition("## Put a policy under test in CI")
    keys = {key for row in re.findall(r"^\| (`.*?`) \|", after, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert keys == set(Scenario.model_fields)
