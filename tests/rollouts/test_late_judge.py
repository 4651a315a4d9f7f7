"""Cohorts that mature after their block: what they prove, in which step, and that files and states keep it."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.config import Rollout
from tidegate.core.errors import UsageError
from tidegate.rollouts.block_lines import from_lines, read, to_lines
from tidegate.rollouts.blocks import LABELLED, Block, Cohort, Counts, Moments
from tidegate.rollouts.judge import Judge, judge
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import Measured, make_plan
from tidegate.rollouts.replay import replay
from tidegate.rollouts.verdict import MetricVerdict, Verdict

LINES = {"harm": {"ratio": 1.1, "margin": 0.01}, "safe": {"ratio": 1.5, "margin": 0.05}}
ERRORS, ACCURACY = {"metric": "error_rate", **LINES}, {"metric": "accuracy", **LINES}
DELAY = 180.0


def plan(delay: float = DELAY, **keys: Any) -> RolloutPlan:
    """Errors and accuracy, labels three blocks after their users; delay 0: both at once."""
    section = {"guardrails": [ERRORS, ACCURACY], "steps": [20, 50], "step": {"min": "1m", "max": "2h"}, **keys}
    late: dict[str, Any] = {"source": "labels", "delay": delay} if delay else {}
    return make_plan(
        Rollout.model_validate(section),
        rollout_id="o-1",
        block_seconds=60,
        units_per_minute=1000,
        error_rate=0.01,
        others={
            "accuracy": Measured(0.9, **late),
            "conversion": Measured(0.2, source="outcomes", delay=60.0),
            "revenue": Measured(5.0, 4.0, source="outcomes", delay=60.0),
        },
    )


def errors(n1: int = 200, n0: int = 800, *, x1: int = 2, x0: int = 8) -> dict[str, Any]:
    return {"error_rate": Counts(n1, x1, n0, x0)}


def labels(right: float, stable: float = 0.9, n1: int = 200, n0: int = 800, **more: Any) -> dict[str, Any]:
    known = {"accuracy": Counts(n1, round(n1 * right), n0, round(n0 * stable)), LABELLED: Counts(n1, n1, n0, n0)}
    return {**known, **more}


def told(verdict: Verdict, name: str) -> MetricVerdict:
    return next(one for one in verdict.metrics if one.name == name)


def test_a_cohort_of_a_step_that_is_over_can_still_harm_but_never_prove_the_next_one_safe() -> None:
    """Its users met the canary; that the canary is safe at 50 % is asked of those who came at 50 %."""
    for right, harmful in ((0.9, False), (0.5, True)):
        running = Judge(plan())
        for index in range(10):
            running.update(Block(index, 20, errors()))
        for index in range(10, 14):
            running.update(Block(index, 50, errors(500, 500, x1=5, x0=5)))
        before = told(running.verdict(), "accuracy")
        for index in range(14, 17):
            verdict = running.update(
                Block(index, 50, errors(500, 500, x1=5, x0=5), matured=(Cohort(index - 12, 20, labels(right)),))
            )
        after = told(verdict, "accuracy")
        assert (before.log_e_harm, before.log_e_safe, after.log_e_safe) == (0, 0, 0)
        assert ((after.log_e_harm or 0) > 10) == harmful
        assert verdict.decision == ("rollback" if harmful else "continue")
        assert told(verdict, "error_rate").log_e_safe > -math.log(0.05)


def test_a_step_passes_when_its_own_cohorts_have_proven_it() -> None:
    """Not before, however long errors have been proven; the sentence says what it waits for."""
    running, decided = Judge(plan(steps=[50])), []
    for index in range(20):
        matured = (Cohort(index - 3, 50, labels(0.9, n1=500, n0=500)),) if index >= 3 else ()
        verdict = running.update(Block(index, 50, errors(500, 500, x1=5, x0=5), matured=matured))
        decided.append(verdict.decision)
        if index == 1:
            assert "Users are judged on accuracy when they are 3 min old" in verdict.reasons[0]
    assert decided[:3] == ["continue"] * 3
    assert decided[-1] == "promote"
    assert told(verdict, "error_rate").units.canary > told(verdict, "accuracy").units.canary > 0


def test_guardrails_of_two_ages_share_alpha_and_are_not_averaged() -> None:
    """An e-process that lags behind another is none for who knows the other: each age has its part of alpha."""
    at_once, later = Judge(plan(0)), Judge(plan())
    for index in range(3):
        bad = errors(x1=6)
        one = at_once.update(Block(index, 20, {**bad, "accuracy": labels(0.86)["accuracy"]}))
        other = later.update(Block(index, 20, bad, matured=(Cohort(index, 20, labels(0.86)),)))
    parts = [told(other, name).log_e_harm or 0 for name in ("error_rate", "accuracy")]
    assert parts == [told(one, name).log_e_harm for name in ("error_rate", "accuracy")]
    assert one.log_e_harm == pytest.approx(math.log(sum(map(math.exp, parts)) / 2))
    assert other.log_e_harm == pytest.approx(max(parts) - math.log(2))


def test_a_block_that_comes_again_adds_no_cohort() -> None:
    """Whoever sends it twice, or late, changes nothing."""
    running = Judge(plan())
    block = Block(5, 20, errors(), matured=(Cohort(2, 20, labels(0.7)),))
    running.update(block)
    before = running.state()
    running.update(block)
    running.update(Block(4, 20, errors(), matured=(Cohort(1, 20, labels(0.1)),)))
    assert running.state() == before


def test_a_guard_waits_until_labels_are_known_in_both_arms() -> None:
    """A soak in which nobody's label came guards nothing of accuracy."""
    made = dataclasses.replace(plan(mode="guard", steps=[50]), step_max=(300.0,))
    for known, decision in ((False, "inconclusive"), (True, "promote")):
        running = Judge(made)
        for index in range(6):
            matured = (Cohort(index - 3, 50, labels(0.9, n1=500, n0=500)),) if known and index >= 3 else ()
            verdict = running.update(Block(index, 50, errors(500, 500, x1=5, x0=5), matured=matured))
        assert verdict.decision == decision


def test_a_share_of_labels_that_differs_voids_and_one_that_nearly_agrees_does_not() -> None:
    """80 against 50 % is another kind of user; 52 against 50 % is not, with however many of them."""
    for share, decision in ((0.8, "inconclusive"), (0.52, "promote")):
        running = Judge(plan(steps=[50]))
        for index in range(12):
            n1, n0 = round(5000 * share), 2500
            known = labels(0.9, n1=n1, n0=n0) | {LABELLED: Counts(5000, n1, 5000, n0)}
            matured = (Cohort(index - 3, 50, known),) if index >= 3 else ()
            verdict = running.update(Block(index, 50, errors(5000, 5000, x1=50, x0=50), matured=matured))
        assert verdict.decision == decision
        labelled = told(verdict, "accuracy").to_dict()["labelled"]
        assert labelled == {"stable": 0.5, "canary": pytest.approx(share)}


@st.composite
def ramps(draw: st.DrawFn) -> list[Block]:
    """Blocks of a ramp whose cohorts mature one to five blocks later, some together, counts and means."""
    blocks, first = [], draw(st.integers(1, 6))
    weights = [20] * first + [50] * draw(st.integers(0, 6))
    waiting: list[Cohort] = []
    for index, weight in enumerate(weights):
        n1 = draw(st.integers(60, 300))
        cohort = labels(draw(st.sampled_from([0.5, 0.9, 1.0])), n1=n1, n0=300)
        spent = Moments(n1, float(n1 * draw(st.integers(1, 9))), 90.0 * n1, 300, 1500.0, 9000.0)
        waiting.append(Cohort(index, weight, cohort | {"revenue": spent}))
        count = draw(st.integers(0, len(waiting))) if index else 0
        matured, waiting = tuple(waiting[:count]), waiting[count:]
        blocks.append(Block(index, weight, errors(n1, 300, x0=3), Counts(n1, 2, 300, 3), matured=matured))
    return blocks


@given(ramps())
@settings(max_examples=20, deadline=None)
def test_lines_and_states_keep_cohorts_to_the_number(blocks: list[Block]) -> None:
    """Through JSON lines and back; restored at any block; and a replay of the policy decides as the judge does."""
    keys: dict[str, Any] = {"goal": {"metric": "revenue"}}
    made = plan(**keys)
    text = [json.loads(json.dumps(line)) for block in blocks for line in to_lines("s", block)]
    assert from_lines(text)["s"] == blocks
    whole = judge(made, blocks)
    running = Judge(made)
    for block in blocks:
        if running.add(block):
            break
        running = Judge(made, json.loads(json.dumps(running.state())))
    assert running.verdict().to_dict() == whole.to_dict()
    if any(block.matured for block in blocks):
        policy = {"guardrails": [ERRORS, ACCURACY], "steps": [20, 50], "step": {"min": "1m", "max": "2h"}, **keys}
        (found,) = replay(Rollout.model_validate(policy), read(text), 60)
        assert found.decision == ("continue" if whole.decision == "promote" and not whole.final else whole.decision)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minute": 9}, "Block 9 of stream 's' has cohorts, and no line of its own"),
        ({"cohort": 8}, "The cohort 8 is newer than block 3"),
        ({"cohort": -1}, "cohort is -1"),
        ({"metric": "error_rate"}, "with a cohort and without"),
        ({"weight": 33}, "Cohort 0 of stream 's' has 33 %"),
    ],
)
def test_cohorts_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    """Of no block, from the future, of a metric that is known at once, at no step's weight."""
    block = Block(3, 20, errors(), Counts(200, 2, 800, 8), matured=(Cohort(0, 20, labels(0.9)),))
    lines = to_lines("s", block)
    lines.append({**lines[0], **changes, "source": "other"})
    policy = Rollout.model_validate({"guardrails": [ERRORS, ACCURACY], "steps": [20, 50]})
    with pytest.raises(UsageError, match=message):
        replay(policy, read(lines), 60)


def test_a_forecast_waits_for_the_age_and_for_the_share_that_is_labelled() -> None:
    """A day until labels come is a day longer for each step; half the labels, twice the users."""
    soon, late = plan(), plan(86_400.0)
    assert [step.delay for step in soon.forecast] == [DELAY, DELAY]
    first, second = (made.forecast[0].promote_seconds or 0.0 for made in (soon, late))
    assert second - first == pytest.approx(86_400 - DELAY)
    assert plan(86_400.0, step={"min": "1m"}).step_max[0] > 86_400
    assert "not expected to decide" in late.warnings[0]
    half = make_plan(
        Rollout.model_validate({"guardrails": [ACCURACY], "steps": [50], "step": {"min": "1s"}}),
        rollout_id="o-1",
        block_seconds=1,
        units_per_minute=100,
        error_rate=0.01,
        others={"accuracy": Measured(0.9, source="labels", delay=10.0, known=0.5)},
    )
    whole = dataclasses.replace(half.streams[0], known=1.0)
    again = make_plan(
        Rollout.model_validate({"guardrails": [ACCURACY], "steps": [50], "step": {"min": "1s"}}),
        rollout_id="o-1",
        block_seconds=1,
        units_per_minute=100,
        error_rate=0.01,
        others={"accuracy": Measured(0.9, source="labels", delay=10.0)},
    )
    assert again.streams[0] == whole
    waits = [(made.forecast[0].promote_seconds or 0.0) - 10 for made in (half, again)]
    assert waits[0] == pytest.approx(2 * waits[1])


def test_a_ladder_is_chosen_by_evidence_and_not_by_how_long_labels_take() -> None:
    """Labels after two days make no guard of a plan that has users enough; they make its ladder shorter."""
    soon, late = plan(steps="auto"), plan(2 * 86_400.0, steps="auto")
    assert (soon.mode, late.mode) == ("test", "test")
    assert len(late.steps) <= len(soon.steps)


def test_a_plan_with_late_metrics_survives_json() -> None:
    """Ages, bounds and sources are part of what the judge was given."""
    made = plan(goal={"metric": "revenue"})
    assert RolloutPlan.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert [one.source for one in made.late] == ["labels", "outcomes"]


def test_a_void_step_stays_void_however_even_the_arms_become() -> None:
    """What was dealt unevenly once cannot be compared any more, whatever `on_inconclusive` says."""
    even = plan(delay=0, step={"min": "1m", "max": "2h", "on_inconclusive": "promote"}, steps=[50])
    running = Judge(even)
    shown = [running.update(Block(0, 50, {**errors(700, 500), **labels(0.9, n1=700, n0=500)}))]
    fair = {**errors(600, 600), **labels(0.9, n1=600, n0=600)}
    shown += [running.update(Block(index, 50, fair)) for index in range(1, 40)]
    assert {(one.decision, one.next_weight) for one in shown} == {("inconclusive", None)}
    assert Judge(even, json.loads(json.dumps(running.state()))).verdict().next_weight is None


def test_no_step_passes_by_an_outcome_that_nobody_reports() -> None:
    """A feed of events that broke shows 0 in both arms, which looks like two arms that are alike."""
    lines = {"metric": "conversion", "harm": {"ratio": 1, "margin": 0.01}, "safe": {"ratio": 1, "margin": 0.08}}
    silent = plan(guardrails=[ERRORS, lines], steps=[20])
    running, spoken = Judge(silent), Judge(silent)
    for index in range(30):
        nothing = Cohort(index, 20, {"conversion": Counts(200, 0, 800, 0)})
        some = Cohort(index, 20, {"conversion": Counts(200, 40, 800, 160)})
        verdict = running.update(Block(index, 20, errors(), matured=(nothing,)))
        heard = spoken.update(Block(index, 20, errors(), matured=(some,)))
    assert verdict.decision == "continue"
    assert heard.decision == "promote"


def test_a_cohort_that_comes_with_two_blocks_is_refused() -> None:
    """Its users would count twice."""
    cohort = Cohort(0, 20, {"accuracy": Counts(200, 180, 800, 720)})
    lines = [line for minute in (3, 4) for line in to_lines("s", Block(minute, 20, errors(), matured=(cohort,)))]
    with pytest.raises(UsageError, match="several blocks"):
        read(lines)


def test_which_way_an_own_metric_is_better_is_in_its_lines() -> None:
    """No name tells it, and a replay must decide as the rollout did."""
    cohort = Cohort(0, 20, {"mine:ok": Counts(200, 120, 800, 640)})
    block = Block(1, 20, errors(), matured=(cohort,))
    assert read(to_lines("s", block, higher={"mine:ok"})).higher == {"mine:ok"}
    assert read(to_lines("s", block)).higher == set()
