from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.config import Rollout
from tidegate.core.errors import UsageError
from tidegate.rollouts.blocks import Block, Counts
from tidegate.rollouts.judge import Judge, judge
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan
from tidegate.rollouts.stats.latency import LatencyLines

LATENCY = LatencyLines((0.01, 0.02, 0.05), (0.012, 0.022, 0.052), (1.0, 1.0, 1.0), 5000)
STABLE = {"error_rate": 0.004, "latency_p50": 0.5, "latency_p90": 0.1, "latency_p99": 0.01}
GOOD = {"error_rate": 0.004, "latency_p50": 0.4, "latency_p90": 0.07, "latency_p99": 0.007}


def plan(**rollout: Any) -> RolloutPlan:
    return _plan(json.dumps(rollout))


@cache
def _plan(text: str) -> RolloutPlan:
    section = Rollout.model_validate({"steps": [20, 50], "step": {"min": "10s"}, **json.loads(text)})
    return make_plan(
        section, rollout_id="r1", block_seconds=5, units_per_minute=24_000, error_rate=0.004, latency=LATENCY
    )


def traffic(
    plan: RolloutPlan, rates: dict[str, float], *, seed: int = 1, units: int = 2000, share: float | None = None
) -> Iterator[tuple[Judge, Block]]:
    """Blocks of a canary with `rates`, at the weight that the judge asks for."""
    rng, running, weight = np.random.default_rng(seed), Judge(plan), plan.steps[0]
    for index in range(400):
        n1 = int(rng.binomial(units, weight / 100 if share is None else share))
        metrics = {
            name: Counts(
                n1, int(rng.binomial(n1, rates[name])), units - n1, int(rng.binomial(units - n1, STABLE[name]))
            )
            for name in (s.metric for s in plan.streams)
        }
        block = Block(index, weight, metrics)
        yield running, block
        verdict = running.verdict()
        weight = verdict.next_weight or weight
        if verdict.final or verdict.decision == "inconclusive":
            return


def run(plan: RolloutPlan, rates: dict[str, float], **more: Any) -> tuple[Judge, list[Block]]:
    blocks = []
    for running, block in traffic(plan, rates, **more):
        running.update(block)
        blocks.append(block)
    return running, blocks


def test_a_good_canary_is_promoted_step_by_step() -> None:
    """It passes 20 %, then 50 %, and then everything is its; about when the forecast said."""
    running, blocks = run(plan(), GOOD)
    verdict = running.verdict()
    assert (verdict.decision, verdict.final, verdict.next_weight) == ("promote", True, 100)
    assert {block.weight for block in blocks} == {20, 50}
    assert len(blocks) * 5 <= 1.5 * (plan().forecast_seconds or 0)
    assert verdict.reasons[0].startswith("The canary fails 0.")


def test_a_failing_canary_is_rolled_back_with_a_sentence() -> None:
    """Ten times the errors are seen within seconds, and the reason can be quoted."""
    running, blocks = run(plan(), GOOD | {"error_rate": 0.08})
    verdict = running.verdict()
    assert (verdict.decision, verdict.final, verdict.next_weight) == ("rollback", True, 0)
    assert len(blocks) <= 2
    assert "of users' first requests, stable 0." in verdict.reasons[0]
    assert "worse than the allowed 1.1x + 0.1 pp; evidence" in verdict.reasons[0]


def test_a_slow_canary_is_rolled_back() -> None:
    """The sentence names the threshold in milliseconds."""
    running, _ = run(plan(), GOOD | {"latency_p50": 0.9, "latency_p90": 0.6, "latency_p99": 0.3})
    verdict = running.verdict()
    assert verdict.decision == "rollback"
    assert "take longer than" in verdict.reasons[0]
    assert "stable's longer than its p" in verdict.reasons[0]


def test_a_slow_tail_alone_is_never_promoted() -> None:
    """Three times as many requests above the p99, everything else better: the smallest e-value decides."""
    for seed in range(5):
        running, _ = run(plan(), GOOD | {"latency_p99": 0.03}, seed=seed)
        assert running.verdict().decision == "rollback"


def test_json_is_what_rollout_status_prints() -> None:
    """Field names that scripts rely on, and nothing that JSON cannot hold."""
    running, _ = run(plan(), GOOD)
    document = json.loads(json.dumps(running.verdict().to_dict(), allow_nan=False))
    assert [m["name"] for m in document["metrics"]] == ["error_rate", "latency"]
    assert {"name", "effect", "low", "high", "log_e_harm", "log_e_safe", "verdict"} <= document["metrics"][0].keys()
    assert [p["name"] for p in document["metrics"][1]["parts"]] == ["latency_p50", "latency_p90", "latency_p99"]
    assert document["srm"].keys() == {"log_e", "ok"}
    assert document["metrics"][0]["low"] <= document["metrics"][0]["effect"] <= document["metrics"][0]["high"]


@given(st.integers(0, 10_000), st.sampled_from([0.004, 0.008, 0.02]))
@settings(max_examples=10, deadline=None)
def test_a_restart_in_the_middle_changes_no_verdict(seed: int, rate: float) -> None:
    """The state goes through JSON after every block; every verdict stays the same."""
    running: Judge | None = None
    for whole, block in traffic(plan(), GOOD | {"error_rate": rate}, seed=seed):
        state = None if running is None else json.loads(json.dumps(running.state()))
        running = Judge(plan(), state)
        assert running.update(block) == whole.update(block)


def test_the_state_does_not_grow_with_the_blocks() -> None:
    """A thousand blocks later it has the same numbers."""
    running, sizes = Judge(plan()), []
    for index in range(1000):
        running.add(Block(index, 20, dict.fromkeys(STABLE, Counts(1, 0, 4, 0))))
        if index in {30, 999}:
            sizes.append(len(json.dumps(running.state())))
    assert sizes[1] < 1.3 * sizes[0]
    assert sizes[1] < 6000


def test_a_block_that_comes_again_changes_nothing() -> None:
    """Duplicates, and blocks older than the newest, are ignored."""
    running, blocks = run(plan(), GOOD | {"error_rate": 0.006})
    halfway = Judge(plan())
    for block in blocks[:5]:
        halfway.update(block)
    state = halfway.state()
    for block in (blocks[4], blocks[0], blocks[4]):
        halfway.update(block)
    assert halfway.state() == state
    final = running.verdict()
    assert running.update(Block(999, 50, blocks[-1].metrics)) == final or not final.final


def test_no_data_is_no_verdict() -> None:
    """Empty blocks and blocks with one arm pass time, never the canary; the reason says that nobody came."""
    one_armed = dict.fromkeys(STABLE, Counts(0, 0, 5000, 0))
    for metrics in ({}, one_armed):
        running = Judge(plan())
        verdict = [running.update(Block(i, 20, metrics)) for i in range(10)][-1]
        assert verdict.decision in {"continue", "inconclusive"}
    empty = Judge(plan()).update(Block(0, 20))
    assert "No new users" in empty.reasons[0]
    assert empty.forecast_seconds is None


@pytest.mark.parametrize(("action", "weight"), [("hold", None), ("rollback", 0), ("promote", 50)])
def test_a_step_that_cannot_decide_is_inconclusive(action: str, weight: int | None) -> None:
    """After step.max the configured action follows; it is said which metric was not decided."""
    policy = plan(step={"min": "10s", "max": "60s", "on_inconclusive": action})
    running = Judge(policy)
    for index in range(12):
        verdict = running.update(Block(index, 20, dict.fromkeys(STABLE, Counts(2, 0, 8, 0))))
    assert (verdict.decision, verdict.next_weight, verdict.final) == ("inconclusive", weight, False)
    assert "1m at 20 % gave evidence for neither answer." in verdict.reasons[0]


def test_a_held_step_is_still_guarded_and_a_person_can_move_it_on() -> None:
    """Harm that shows while a step waits rolls back; blocks at the next weight begin the next step."""
    policy = plan(step={"min": "10s", "max": "60s"})
    few = dict.fromkeys(STABLE, Counts(2, 0, 8, 0))
    held = Judge(policy)
    for index in range(12):
        held.update(Block(index, 20, few))
    state = held.state()
    harmful = dict.fromkeys(STABLE, Counts(400, 300, 1600, 4))
    assert held.update(Block(12, 20, harmful)).decision == "rollback"
    moved = Judge(policy, state).update(Block(12, 50, few))
    assert (moved.decision, moved.step, moved.weight) == ("continue", 1, 50)


def test_a_dead_canary_needs_no_statistics() -> None:
    """Not ready, or twenty attempts that all failed, roll back at once; nineteen do not."""
    nothing = dict.fromkeys(STABLE, Counts())
    assert Judge(plan()).update(Block(0, 20, nothing, ready=False)).decision == "rollback"
    dead = Judge(plan()).update(Block(0, 20, nothing, Counts(20, 20, 80, 0)))
    assert (dead.decision, dead.reasons) == ("rollback", ("All 20 requests to the canary failed within 5 seconds.",))
    assert Judge(plan()).update(Block(0, 20, nothing, Counts(19, 19, 80, 0))).decision == "continue"


def test_a_wrong_sample_ratio_voids_and_never_promotes() -> None:
    """A canary that gets 15 % of users instead of 20 % is inconclusive, whatever else was asked for."""
    running, _ = run(plan(step={"min": "10s", "on_inconclusive": "promote"}), GOOD, share=0.15)
    verdict = running.verdict()
    assert (verdict.decision, verdict.next_weight, verdict.srm.ok) == ("inconclusive", None, False)
    assert "15 % of new users reached the canary instead of 20 %" in verdict.reasons[0]


def test_step_min_holds_back_a_sure_pass() -> None:
    """Evidence after ten seconds does not shorten a two-minute step."""
    running, blocks = run(plan(step={"min": "2m"}), GOOD, units=20_000)
    assert running.verdict().final
    assert len(blocks) == 2 * 24


def test_guard_mode_never_says_safe() -> None:
    """It passes after its soak and tells what it would have missed."""
    policy = plan(mode="guard", step={"min": "10s", "max": "30s"})
    running, _ = run(policy, GOOD, units=60)
    verdict = running.verdict()
    assert (verdict.decision, verdict.final) == ("promote", True)
    assert "would have been missed 10 times in 10" in verdict.reasons[0]


def test_blocks_of_another_plan_are_refused() -> None:
    """A weight that is no step, a step back, and a missing metric are errors."""
    counts = dict.fromkeys(STABLE, Counts(1, 0, 4, 0))
    running = Judge(plan())
    running.update(Block(0, 50, counts))
    for block in (Block(1, 30, counts), Block(1, 20, counts), Block(1, 50, {"error_rate": Counts()}), Block(1, None)):
        with pytest.raises(UsageError):
            running.update(block)
    with pytest.raises(UsageError, match="another version"):
        Judge(plan(), {"format": 99})


def test_judging_a_list_equals_judging_as_it_comes() -> None:
    """`judge` stops at the first final verdict."""
    running, blocks = run(plan(), GOOD)
    assert judge(plan(), [*blocks, Block(999, 50, dict.fromkeys(STABLE, Counts(9, 9, 9, 0)))]) == running.verdict()


def test_a_step_without_weight_is_the_only_one() -> None:
    """A replay may leave the weight out when the plan has one step; then there is no sample-ratio check."""
    counts = dict.fromkeys(STABLE, Counts(900, 0, 100, 0))
    verdict = Judge(plan(steps=[50])).update(Block(0, None, counts))
    assert verdict.srm.log_e == 0
