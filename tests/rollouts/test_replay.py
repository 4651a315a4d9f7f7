"""Recorded blocks, judged again: many streams at once decide as each would alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.config import Rollout
from tidegate.core.errors import UsageError
from tidegate.rollouts.block_lines import from_lines, read
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.planning import make_plan
from tidegate.rollouts.replay import Replayed, replay
from tidegate.rollouts.stats.latency import LatencyLines

ERRORS = {"metric": "error_rate", "harm": {"ratio": 1.1, "margin": 0.001}, "safe": {"ratio": 1.5, "margin": 0.002}}
LATENCY = {"metric": "latency", "harm": {"ratio": 1.1}, "safe": {"ratio": 1.5}}
SHARES = {"latency_p50": 0.5, "latency_p90": 0.1, "latency_p99": 0.01}


def policy(**keys: Any) -> Rollout:
    return Rollout.model_validate({"unit": "request", "guardrails": [ERRORS], **keys})


def lines(
    stream: str,
    rates: dict[str, tuple[float, float]],
    *,
    weights: list[int | None],
    rng: np.random.Generator,
    units: int = 1200,
    share: float = 0.25,
) -> list[dict[str, Any]]:
    """One block for each weight; `rates` are (canary, stable)."""
    made = []
    for minute, weight in enumerate(weights):
        n1 = int(rng.binomial(units, share if weight is None else weight / 100))
        for metric, pair in rates.items():
            for arm, n, rate in zip(("canary", "stable"), (n1, units - n1), pair, strict=True):
                line = {"stream": stream, "minute": minute, "arm": arm, "metric": metric, "n": n}
                told = {} if weight is None else {"weight": weight}
                made.append({**line, "x": int(rng.binomial(n, rate)), **told})
    return made


def judged(rollout: Rollout, rows: list[dict[str, Any]]) -> dict[str, Replayed]:
    return {one.stream: one for one in replay(rollout, read(rows))}


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_many_streams_decide_as_each_alone(seed: int) -> None:
    """Ramps of different length, speed and quality, with blocks missing here and there: same word, block and users."""
    rng = np.random.default_rng(seed)
    rollout = policy(guardrails=[ERRORS, LATENCY], step={"min": "2m", "max": "20m"}, steps=[10, 50])
    rows = []
    for number in range(6):
        first = int(rng.integers(1, 25))
        bad = float(rng.choice([1.0, 1.3, 3.0]))
        rates = {"error_rate": (0.01 * bad, 0.01), **{name: (p * min(bad, 1.2), p) for name, p in SHARES.items()}}
        each = lines(f"s{number}", rates, weights=[10] * first + [50] * int(rng.integers(0, 25)), rng=rng)
        gone = set(rng.integers(0, 50, 5).tolist())
        rows += [line for line in each if line["minute"] not in gone]
    rng.shuffle(rows)
    plan = make_plan(
        rollout,
        rollout_id="alone",
        block_seconds=60,
        units_per_minute=1200,
        error_rate=0.005,
        latency=LatencyLines((0.0,) * 3, (0.0,) * 3, (1.0,) * 3, 0),
    )
    alone = {}
    for stream, blocks in from_lines(rows).items():
        running, units, decided = Judge(plan), 0.0, (None, 0.0)
        for block in blocks:
            before = running.verdict().decision
            units += 0 if running.verdict().final else block.metrics["error_rate"].row[0]
            verdict = running.update(block)
            if verdict.decision not in {before, "continue"} and not (
                verdict.decision == "promote" and not verdict.final
            ):
                decided = (block.index, units)
        word = running.verdict().decision if decided[0] is not None else "continue"
        alone[stream] = (word, *(decided if word != "continue" else (None, units)))
    found = judged(rollout, rows)
    assert {s: (one.decision, one.minute, one.canary_units) for s, one in found.items()} == alone


def test_a_bad_stream_is_rolled_back_a_good_one_promoted_a_short_one_continues() -> None:
    """The three answers, each with the block that decided and the canary's requests until then."""
    rng = np.random.default_rng(7)
    rows = lines("bad", {"error_rate": (0.05, 0.005)}, weights=[None] * 60, rng=rng)
    rows += lines("good", {"error_rate": (0.004, 0.005)}, weights=[None] * 60, rng=rng)
    rows += lines("short", {"error_rate": (0.005, 0.005)}, weights=[None] * 2, rng=rng)
    found = judged(policy(), rows)
    assert {name: one.decision for name, one in found.items()} == {
        "bad": "rollback",
        "good": "promote",
        "short": "continue",
    }
    seen = [line["n"] for line in rows if (line["stream"], line["arm"]) == ("bad", "canary")]
    assert found["bad"].canary_units == sum(seen[: (found["bad"].minute or 0) + 1])
    assert "worse than the allowed 1.1x + 0.1 pp" in found["bad"].reasons[0]
    assert (found["short"].minute, found["short"].reasons) == (None, ())


def test_a_step_that_lasts_too_long_is_inconclusive() -> None:
    """After step.max without evidence; with `rollback` as the answer, what comes later is not this rollout's."""
    rng = np.random.default_rng(1)
    rows = lines("s", {"error_rate": (0.005, 0.005)}, weights=[None] * 30, rng=rng, units=40)
    rows += [line | {"minute": line["minute"] + 30} for line in lines(
        "s", {"error_rate": (0.2, 0.005)}, weights=[None] * 10, rng=rng
    )]  # fmt: skip
    for action, word in (("hold", "rollback"), ("rollback", "inconclusive")):
        found = judged(policy(step={"min": "1m", "max": "20m", "on_inconclusive": action}), rows)["s"]
        assert found.decision == word
        assert found.minute == (19 if word == "inconclusive" else 30)
    assert "20m at" in found.reasons[0]


def test_automatic_limits_follow_each_streams_own_traffic() -> None:
    """A thousandth of the traffic waits longer for its answer, and neither is given up too soon."""
    rng = np.random.default_rng(2)
    rows = lines("busy", {"error_rate": (0.005, 0.005)}, weights=[None] * 100, rng=rng, units=6000)
    rows += lines("quiet", {"error_rate": (0.005, 0.005)}, weights=[None] * 100, rng=rng, units=6)
    found = judged(policy(), rows)
    assert (found["busy"].decision, found["quiet"].decision) == ("promote", "continue")


def test_what_is_better_when_higher_is_judged_by_what_is_missing() -> None:
    """Accuracy comes as correct answers; half of them lost is a rollback, a few more a promotion."""
    accuracy = {"metric": "accuracy", "harm": {"ratio": 1.05}, "safe": {"ratio": 1.3}}
    rng = np.random.default_rng(3)
    rows = lines("worse", {"accuracy": (0.6, 0.8)}, weights=[None] * 60, rng=rng)
    rows += lines("better", {"accuracy": (0.82, 0.8)}, weights=[None] * 60, rng=rng)
    found = judged(policy(guardrails=[accuracy]), rows)
    assert (found["worse"].decision, found["better"].decision) == ("rollback", "promote")
    assert "of what is missing to 100 % accuracy" in found["worse"].reasons[0]


def revenue(stream: str, canary: float, rng: np.random.Generator, minutes: int = 120) -> list[dict[str, Any]]:
    made = []
    for minute in range(minutes):
        for arm, n, mean in (("canary", 100, canary), ("stable", 300, 10.0)):
            spent = rng.exponential(mean, n)
            line = {"stream": stream, "minute": minute, "arm": arm, "metric": "revenue", "n": n}
            made.append({**line, "sum": float(spent.sum()), "sumsq": float((spent**2).sum())})
    return made


def test_revenue_is_judged_by_its_mean() -> None:
    """A fifth less is rolled back; as much as before passes a margin of one."""
    guard = {"metric": "revenue", "harm": {"margin": 0.5}, "safe": {"margin": 1.5}}
    rng = np.random.default_rng(4)
    found = judged(policy(guardrails=[guard]), revenue("less", 8.0, rng) + revenue("same", 10.0, rng))
    assert (found["less"].decision, found["same"].decision) == ("rollback", "promote")
    assert "on average with the canary" in found["less"].reasons[0]


def test_a_metric_of_ones_own_is_a_share_or_a_mean_as_it_was_recorded() -> None:
    """Its name does not tell, its lines do; it counts what is bad."""
    guard = {"metric": "checks:minutes_late", "harm": {"ratio": 1.02}, "safe": {"ratio": 1.3}}
    rng = np.random.default_rng(6)
    rows = [line | {"metric": guard["metric"]} for line in revenue("later", 13.0, rng) + revenue("same", 10.0, rng)]
    found = judged(policy(guardrails=[guard]), rows)
    assert (found["later"].decision, found["same"].decision) == ("rollback", "promote")
    assert "checks:minutes_late: 1" in found["later"].reasons[0]


def test_a_goal_must_be_reached_too() -> None:
    """No harm alone does not promote when the policy wants more conversions."""
    rng, goal = np.random.default_rng(5), {"metric": "conversion", "improve_by": 0.005}
    rows = lines("more", {"error_rate": (0.005, 0.005), "conversion": (0.09, 0.05)}, weights=[None] * 90, rng=rng)
    rows += lines("same", {"error_rate": (0.005, 0.005), "conversion": (0.05, 0.05)}, weights=[None] * 90, rng=rng)
    found = judged(policy(goal=goal, step={"max": "80m"}), rows)
    assert (found["more"].decision, found["same"].decision) == ("promote", "inconclusive")


def test_a_metric_may_be_guarded_and_a_goal() -> None:
    """It must not get worse, and is hoped to get better: one line tells both."""
    accuracy = {"metric": "accuracy", "harm": {"ratio": 1.05}, "safe": {"ratio": 1.3}}
    rows = lines("s", {"accuracy": (0.9, 0.8)}, weights=[None] * 60, rng=np.random.default_rng(8))
    found = judged(policy(guardrails=[accuracy], goal={"metric": "accuracy", "improve_by": 0.02}), rows)["s"]
    assert (found.decision, len(found.reasons)) == ("promote", 2)


def test_a_guard_needs_no_weights_to_pass() -> None:
    """Users met both arms, whatever share was meant: only the check of the share is left out."""
    rates = {"error_rate": (0.005, 0.005)}
    rows = lines("s", rates, weights=[None] * 40, rng=np.random.default_rng(9))
    found = judged(policy(mode="guard", step={"min": "5m", "max": "30m"}), rows)["s"]
    assert (found.decision, found.minute) == ("promote", 29)


def test_what_was_promoted_without_an_answer_is_over() -> None:
    """`on_inconclusive: promote` makes it everybody's, so what the next version did is not its own."""
    rng = np.random.default_rng(10)
    rows = lines("s", {"error_rate": (0.005, 0.005)}, weights=[None] * 20, rng=rng, units=40)
    rows += [line | {"minute": line["minute"] + 20} for line in lines(
        "s", {"error_rate": (0.2, 0.005)}, weights=[None] * 10, rng=rng
    )]  # fmt: skip
    found = judged(policy(step={"min": "1m", "max": "10m", "on_inconclusive": "promote"}), rows)["s"]
    assert (found.decision, found.minute) == ("inconclusive", 9)


def test_recorded_bunches_count_as_few_as_they_are() -> None:
    """Slow requests come ten at a time in both arms: lines that carry the design effect roll no equal canary back."""
    rng, rows = np.random.default_rng(11), []
    for stream in range(40):
        for minute in range(60):
            for arm, n in (("canary", 300), ("stable", 900)):
                head = {"stream": f"s{stream}", "minute": minute, "arm": arm, "n": n}
                for name, share in SHARES.items():
                    bunched = {"x": 10 * int(rng.binomial(n // 10, share)), "bunching": 10.0}
                    rows.append({**head, "metric": name, **bunched})
    told = judged(policy(guardrails=[LATENCY], step={"max": "10h"}), rows)
    assert sum(one.decision == "rollback" for one in told.values()) <= 4
    untold = judged(policy(guardrails=[LATENCY], step={"max": "10h"}), [{**row, "bunching": 1.0} for row in rows])
    assert sum(one.decision == "rollback" for one in untold.values()) > 4


def test_a_dead_canary_is_rolled_back_without_statistics() -> None:
    """Twenty attempts that all failed, or a canary that is not ready, as the live loop records them."""
    head = {"minute": 0, "arm": "canary"}
    counted = [{"metric": "error_rate", "n": 0, "x": 0, **head}, {"metric": "attempts", "n": 20, "x": 20, **head}]
    rows = [{"stream": "failed", **line} for line in counted]
    rows += [{"stream": "gone", **line, "ready": False} for line in counted[:1]]
    found = judged(policy(), rows)
    assert [one.decision for one in found.values()] == ["rollback", "rollback"]
    assert "failed every request of block 0" in found["failed"].reasons[0]


@pytest.mark.parametrize(
    ("keys", "change", "message"),
    [
        ({"guardrails": [ERRORS, LATENCY]}, {}, "nothing of latency_p50"),
        ({}, {"metric": "eror_rate"}, 'did you mean "error_rate"|did you mean "eror_rate"'),
        ({}, {"weight": 20}, "Some lines tell a weight"),
        (
            {"guardrails": [{"metric": "loss", "harm": {"ratio": 1.1}, "safe": {"ratio": 1.2}}]},
            {"metric": "loss"},
            "mean",
        ),
    ],
)
def test_blocks_that_do_not_fit_the_policy_are_refused(
    keys: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    """A policy that would judge nothing is an error that names what is missing."""
    rows = lines("a", {"error_rate": (0.005, 0.005)}, weights=[None] * 3, rng=np.random.default_rng(0))
    rows = [line | change for line in rows] if "metric" in change else [rows[0] | change, *rows[1:]]
    with pytest.raises(UsageError, match=message):
        judged(policy(**keys), rows)


def test_weights_that_no_step_has_and_steps_back_are_refused_with_the_streams_name() -> None:
    """Among thousands of streams one has to find the broken one."""
    rng = np.random.default_rng(0)
    rows = lines("odd", {"error_rate": (0.005, 0.005)}, weights=[20, 50, 20], rng=rng)
    with pytest.raises(UsageError, match="stream 'odd' has 20 % on the canary, after a step with more"):
        judged(policy(), rows)
    with pytest.raises(UsageError, match=r"stream 'odd' has 20 % on the canary; the steps are \[50\]"):
        judged(policy(steps=[50]), rows)


def test_with_automatic_steps_each_stream_has_the_ladder_that_it_climbed() -> None:
    """One that never left 10 % and one that began at 50 % are judged as if each were alone, in the order they came."""
    rng = np.random.default_rng(3)
    rates = {"error_rate": (0.005, 0.005)}
    ramps = {"b": [10] * 12 + [50] * 12, "a": [50] * 20, "d": [10] * 20, "c": [10] * 12 + [50] * 12, "e": [10, 50]}
    rows = {name: lines(name, rates, weights=list(weights), rng=rng) for name, weights in ramps.items()}
    together = replay(policy(), read([line for each in rows.values() for line in each]))
    assert [one.stream for one in together] == list(ramps)
    assert together == [one for each in rows.values() for one in replay(policy(), read(each))]
    assert {one.decision for one in together} == {"promote", "continue"}


def test_no_stream_is_no_verdict() -> None:
    """An empty file is empty, not a promotion."""
    assert replay(policy(), read([])) == []


def test_one_armed_and_empty_blocks_decide_nothing() -> None:
    """A stable arm alone, however healthy, promotes nobody."""
    line = {"stream": "a", "arm": "stable", "metric": "error_rate", "n": 5000, "x": 0}
    rows = [{**line, "minute": minute} for minute in range(30)]
    rows += [{**line, "stream": "b", "arm": arm, "n": 0, "minute": 3} for arm in ("canary", "stable")]
    found = judged(policy(step={"max": "10h"}), json.loads(json.dumps(rows)))
    assert {one.decision for one in found.values()} == {"continue"}
