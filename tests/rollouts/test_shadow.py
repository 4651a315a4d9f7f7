"""What copied traffic shows of a canary: the numbers, when it is enough, and when the canary must go."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tidegate.core.config import Rollout
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan
from tidegate.rollouts.shadow import ShadowPhase
from tidegate.serving.pairs import Pair
from tidegate.serving.service.pair_log import Half

NOW = 1_800_000_000.0


def plan(**step: Any) -> RolloutPlan:
    section = {"guardrails": [{**Rollout().guardrails[0].model_dump()}], "steps": [20], "shadow": True, "step": step}
    return make_plan(
        Rollout.model_validate(section), rollout_id="o-1", block_seconds=1, units_per_minute=6000, error_rate=0.01
    )


PLAN = plan(min="3s", max="10s")


def pair(
    at: float = 0.0, stable: dict[str, Any] | None = None, canary: dict[str, Any] | None = None, **both: Any
) -> Pair:
    fields = {
        "rollout": "o-1",
        "id": "x",
        "unit": round(at * 1000),
        "at": NOW + at,
        "status": 200,
        "seconds": 0.01,
        **both,
    }
    return Pair(
        Half(**{**fields, "arm": "stable", **(stable or {})}), Half(**{**fields, "arm": "shadow", **(canary or {})})
    )


def shown(*pairs: Pair) -> dict[str, Any]:
    phase = ShadowPhase(PLAN)
    phase.look(NOW)
    phase.add(pairs)
    numbers = phase.numbers(NOW + 5)
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    return numbers


def two(probability: float) -> dict[str, Any]:
    """The answer of a model with two classes."""
    label = "yes" if probability >= 0.5 else "no"
    return {"predictions": [label], "scores": [{"no": 1 - probability, "yes": probability}]}


def test_two_classes_are_compared_by_class_and_probability() -> None:
    """One in four rows changes its class; the scores differ by what was added."""
    numbers = shown(*(pair(n / 100, two(p), two(p + 0.1)) for n, p in enumerate([0.1, 0.45, 0.6, 0.8] * 25)))
    assert (numbers["requests"], numbers["rows"], numbers["different"]) == (100, 100, 0.25)
    assert numbers["score_difference"] == pytest.approx(0.1)
    assert (numbers["difference"], numbers["relative_difference"]) == (None, None)
    assert "25 % of 100 rows get another class, scores differ by 0.1 on average" in numbers["sentence"]


def test_several_classes_are_compared_by_half_the_distance() -> None:
    """From certainty to certainty is 1, whatever the number of classes; one that only one version knows counts."""
    before = {"predictions": ["a", "b"], "scores": [{"a": 1.0, "b": 0.0, "c": 0.0}, {"a": 0.2, "b": 0.5, "c": 0.3}]}
    after = {"predictions": ["d", "b"], "scores": [{"a": 0.0, "b": 0.0, "d": 1.0}, {"a": 0.3, "b": 0.4, "d": 0.3}]}
    numbers = shown(pair(0, before, after))
    assert numbers["score_difference"] == pytest.approx((1.0 + 0.4) / 2)
    assert numbers["different"] == 0.5


def test_classes_without_probabilities_are_compared_by_class_alone() -> None:
    """Numbers that name classes are names."""
    numbers = shown(pair(0, {"predictions": [1, 2]}, {"predictions": [1, 5]}))
    assert (numbers["different"], numbers["score_difference"], numbers["difference"]) == (0.5, None, None)


def test_numbers_are_compared_in_spreads_of_the_stable_arm() -> None:
    """A canary that adds half a standard deviation differs by one half, however large the numbers are."""
    rng = random.Random(0)
    values = [1e9 + rng.gauss(0, 4) for _ in range(5000)]
    pairs = (
        pair(n / 1000, {"predictions": [y], "numeric": True}, {"predictions": [y + 2], "numeric": True})
        for n, y in enumerate(values)
    )
    numbers = shown(*pairs)
    assert numbers["difference"] == pytest.approx(2)
    assert numbers["relative_difference"] == pytest.approx(0.5, abs=0.02)
    assert numbers["different"] is None


def test_constant_predictions_have_no_spread_to_compare_with() -> None:
    """The plain difference is still told; a missing number is another answer."""
    one = {"predictions": [3.0, 3.0], "numeric": True}
    assert shown(pair(0, one, {"predictions": [4.0, 3.0], "numeric": True}))["relative_difference"] is None
    numbers = shown(pair(0, one, {"predictions": [3.5, None], "numeric": False}))
    assert (numbers["different"], numbers["difference"]) == (1.0, None)


def test_failures_are_told_for_both_and_refusals_apart() -> None:
    """A bad request that both refuse is neither."""
    numbers = shown(
        pair(0, two(0.1), two(0.1)),
        pair(1, {"status": 500}, two(0.1)),
        pair(2, two(0.1), {"status": 503}),
        pair(3, two(0.1), {"status": 500}),
        pair(4, two(0.1), {"status": 422}),
        pair(5, {"status": 422}, {"status": 422}),
    )
    assert (numbers["requests"], numbers["rows"]) == (6, 1)
    assert (numbers["failures"], numbers["refused"]) == ({"stable": 1, "canary": 2}, 1)
    assert "the canary failed 2, stable 1; it refused 1 that stable answered" in numbers["sentence"]


def test_latency_is_told_in_quantiles_of_both() -> None:
    """Of the requests that both answered."""
    pairs = [pair(n, {"seconds": n / 1000}, {"seconds": n / 500}) for n in range(1, 101)]
    numbers = shown(*pairs, pair(200, {"status": 500, "seconds": 9.0}))
    assert numbers["latency"]["stable"] == {"p50": 0.051, "p90": 0.091, "p99": 0.1}
    assert numbers["latency"]["canary"] == {"p50": 0.102, "p90": 0.182, "p99": 0.2}
    assert "102 ms/182 ms/200 ms at p50/p90/p99, stable 51 ms/91 ms/100 ms" in numbers["sentence"]


def test_nothing_copied_is_said_and_is_no_number() -> None:
    """Nor is it zero."""
    numbers = shown()
    assert (numbers["different"], numbers["score_difference"], numbers["relative_difference"]) == (None, None, None)
    assert numbers["latency"] == {"stable": None, "canary": None}
    assert "No copied request" in numbers["sentence"]


def test_it_passes_after_its_time_with_traffic() -> None:
    """`step.min`, and so many blocks in which both answered: here three."""
    phase = ShadowPhase(PLAN)
    assert (phase.passed(NOW + 99), phase.left(NOW)) == (False, None)
    phase.look(NOW)
    phase.look(NOW + 50)
    for block in range(3):
        assert not phase.passed(NOW + 5)
        phase.add([pair(block + 0.25, two(0.1), two(0.1)), pair(block + 0.5, two(0.1), two(0.1))])
    assert phase.left(NOW + 2.25) == 1
    assert not phase.passed(NOW + 3.2)
    assert phase.passed(NOW + 3.25)
    assert (phase.left(NOW + 4), phase.why_over()) == (0, "")


@pytest.mark.parametrize(
    "made",
    [
        lambda at: pair(at, {"status": 500}, two(0.1)),
        lambda at: pair(at, two(0.1), {"status": 500}),
        lambda at: pair(at, {"status": 422}, {"status": 422}),
    ],
)
def test_what_one_of_them_did_not_answer_is_no_traffic(made: Callable[[float], Pair]) -> None:
    """After `step.max` it is over, with the reason."""
    phase = ShadowPhase(PLAN)
    phase.add(made(float(at)) for at in range(9))
    for second in range(11):
        assert not phase.passed(NOW + second)
        assert phase.why_over() == ""
        phase.look(NOW + second)
    phase.look(NOW + 10.1)
    assert "no copied request was answered by both versions" in phase.why_over()


def test_a_night_in_which_the_stack_is_down_is_no_time_of_the_phase() -> None:
    """Nobody could have answered: it goes on in the morning where it was."""
    phase = ShadowPhase(PLAN)
    for second in (0, 1, 2):
        phase.look(NOW + second)
    asleep = ShadowPhase(PLAN, json.loads(json.dumps(phase.state())))
    for one in (asleep, phase):
        for second in (0.0, 0.5, 1.0):
            one.look(NOW + 8 * 3600 + second)
        assert one.why_over() == ""


def test_the_phase_is_at_least_two_blocks_and_ends_like_the_first_step() -> None:
    """Whatever `step.min` says; without a shadow phase the plan has none."""
    assert plan(min="0s", max="10s").shadow_min == 2
    assert (plan(min="1m", max="5m").shadow_min, plan(min="1m", max="5m").shadow_max) == (60, 300)
    assert plan(min="1s", max="1s").shadow_max == 2
    assert replace(PLAN, shadow_min=0.0).forecast_seconds == (PLAN.forecast_seconds or 0) - 3


def test_a_canary_that_fails_every_copy_must_go() -> None:
    """Twenty of three users within two seconds, while the stable arm answered them; refusals count."""
    phase = ShadowPhase(PLAN)
    for number in range(19):
        phase.add([pair(number / 5, two(0.1), {"status": 500 if number % 2 else 422})])
        assert phase.why_stop(stable_ready=True) == ""
    phase.add([pair(4, two(0.1), {"status": 500})])
    assert phase.why_stop(stable_ready=True) == "All 20 copied requests to the canary failed within 4.0 seconds."


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda n: pair(n / 5, two(0.1), two(0.9)), id="another class every time"),
        pytest.param(lambda n: pair(n / 5, {"status": 500}, {"status": 500}), id="both fail"),
        pytest.param(lambda n: pair(n / 5, {"status": 500}, two(0.1)), id="the stable arm fails"),
        pytest.param(lambda n: pair(n / 5, {"status": 422}, {"status": 422}), id="bad requests"),
        pytest.param(lambda n: pair(n / 5, two(0.1), {"status": 500 if n % 10 else 200}), id="most fail"),
        pytest.param(lambda n: pair(n / 5, two(0.1), {"status": 500}, unit=7), id="one client"),
        pytest.param(lambda n: pair(n / 1000, two(0.1), {"status": 500}), id="one burst"),
    ],
)
def test_what_proves_nothing_against_the_canary_stops_nothing(made: Callable[[int], Pair]) -> None:
    """A difference is none of these proofs."""
    phase = ShadowPhase(PLAN)
    phase.add(made(number) for number in range(200))
    assert phase.why_stop(stable_ready=True) == ""


def test_bad_requests_between_do_not_hide_a_dead_canary() -> None:
    """That it refuses what the stable arm refuses is no answer."""
    phase = ShadowPhase(PLAN)
    for number in range(40):
        bad = number % 4 == 0
        phase.add([pair(number / 5, {"status": 422} if bad else two(0.1), {"status": 422 if bad else 500})])
    assert "All 30 copied requests" in phase.why_stop(stable_ready=True)


@pytest.mark.parametrize("status", [200, 500])
def test_a_phase_goes_on_from_its_state_exactly(status: int) -> None:
    """At any pair, after a trip through JSON: numbers, reasons and times are the same."""
    pairs = [pair(n / 8, two(0.3), {**two(n / 30), "status": status}) for n in range(30)]
    whole = ShadowPhase(PLAN)
    whole.look(NOW)
    whole.add(pairs)
    for cut in range(31):
        first = ShadowPhase(PLAN)
        first.look(NOW)
        first.add(pairs[:cut])
        second = ShadowPhase(PLAN, json.loads(json.dumps(first.state())))
        second.look(NOW + 1)
        second.add(pairs[cut:])
        assert json.dumps(second.state()) == json.dumps(whole.state())
        assert second.numbers(NOW + 4) == whole.numbers(NOW + 4)
        assert second.why_stop(stable_ready=True) == whole.why_stop(stable_ready=True)
        assert second.passed(NOW + 4) == whole.passed(NOW + 4) == (status == 200)


def many(count: int, *, stable: str, canary: str, **slices: str) -> list[Pair]:
    """Pairs of one row each."""
    named = {"slices": {column: [value] for column, value in slices.items()}} if slices else {}
    return [
        pair(0.01 * number, {"predictions": [stable], **named}, {"predictions": [canary]}) for number in range(count)
    ]


def test_disagreement_is_told_by_class_and_by_slice() -> None:
    """Two per cent overall may be every third row of the class, or of the country, that matters."""
    numbers = shown(
        *many(90, stable="keep", canary="keep", country="NL"),
        *many(20, stable="churn", canary="keep", country="BE"),
        *many(10, stable="churn", canary="churn", country="NL"),
    )
    assert numbers["by_class"] == [
        {"value": "keep", "rows": 90, "difference": 0.0},
        {"value": "churn", "rows": 30, "difference": pytest.approx(2 / 3)},
    ]
    assert [(one["value"], one["difference"]) for one in numbers["by_slice"]["country"]] == [("NL", 0.0), ("BE", 1.0)]
    assert (
        "most for rows that stable calls churn (67 % of 30); most for country BE (100 % of 20)" in numbers["sentence"]
    )


def test_versions_that_disagree_about_most_rows_are_for_a_person_to_look_at() -> None:
    """No user meets what predicts something else altogether before somebody has said that this is meant."""
    phase = ShadowPhase(PLAN)
    phase.add(many(150, stable="keep", canary="churn"))
    assert "disagree about most" in phase.why_doubtful(NOW)
    same = ShadowPhase(PLAN)
    same.add([*many(100, stable="keep", canary="keep"), *many(50, stable="keep", canary="churn")])
    assert same.why_doubtful(NOW) == ""


def test_a_column_with_countless_values_stays_small() -> None:
    """The state is written at every block; a slice by user id must not make it grow."""
    phase = ShadowPhase(PLAN)
    for number in range(300):
        phase.add(many(1, stable="keep", canary="keep", user=f"u{number}"))
    groups = phase.state()["sums"]["groups"]["slice.user"]
    assert len(groups) == 51
    assert sum(rows for rows, _ in groups.values()) == 300
