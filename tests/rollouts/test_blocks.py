from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.config import Rollout
from tidegate.core.errors import UsageError
from tidegate.rollouts.block_lines import from_lines, parse, to_lines
from tidegate.rollouts.blocks import Block, BlockBuilder, Counts, Exposure, Moments
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan
from tidegate.rollouts.seen import Seen
from tidegate.rollouts.stats.latency import LatencyLines

LATENCY = LatencyLines((0.01, 0.02, 0.05), (0.012, 0.022, 0.052), (1.0, 1.0, 1.0), 5000)


def plan(**rollout: Any) -> RolloutPlan:
    return _plan(json.dumps(rollout))


@cache
def _plan(text: str) -> RolloutPlan:
    section = Rollout.model_validate({"steps": [20, 50], **json.loads(text)})
    return make_plan(
        section, rollout_id="r1", block_seconds=5, units_per_minute=6000, error_rate=0.004, latency=LATENCY
    )


def at(when: float, unit: str = "u", arm: Any = "stable", **more: Any) -> Exposure:
    fields = {"status": 200, "seconds": 0.005, "served_by": arm} | more
    return Exposure(at=1000 + when, unit=unit, arm=arm, **fields)


def builder(**rollout: Any) -> BlockBuilder:
    return BlockBuilder(plan(**rollout), 1000.0, 20)


def test_a_user_counts_once_in_the_block_of_the_first_request() -> None:
    """Later requests of a user, also bad ones and on another arm, change no unit; they are attempts."""
    blocks = builder()
    blocks.add([at(1), at(2, status=500), at(6, status=500), at(7, arm="canary", status=500)])
    first, second = blocks.close(1010)
    assert first.metrics["error_rate"] == Counts(0, 0, 1, 0)
    assert second.metrics["error_rate"] == Counts()
    assert (first.attempts, second.attempts) == (Counts(0, 0, 2, 1), Counts(1, 1, 1, 1))


def test_latency_is_counted_above_each_arms_own_threshold() -> None:
    """51 ms is slow for the stable arm's p99 of 50 ms and within the canary's slack."""
    blocks = builder()
    blocks.add([at(1, "a", seconds=0.051), at(1, "b", "canary", seconds=0.051)])
    metrics = blocks.close(1005)[0].metrics
    assert metrics["latency_p99"] == Counts(1, 0, 1, 1)
    assert metrics["latency_p50"] == Counts(1, 1, 1, 1)


def test_what_no_arm_was_asked_for_is_not_counted() -> None:
    """Forced requests, the gateway's own 429 and 401, and requests before the start are no exposures."""
    blocks = builder()
    blocks.add(
        [
            at(1, "a", forced=True),
            at(1, "b", status=429, served_by=""),
            at(1, "c", status=401, served_by=""),
            at(-1, "d"),
            at(2, "b"),
        ]
    )
    block = blocks.close(1005)[0]
    assert block.metrics["error_rate"] == Counts(0, 0, 1, 0)
    assert block.attempts == Counts(0, 0, 1, 0)


def test_a_request_without_a_user_is_an_attempt_only() -> None:
    """Nobody knows whether it is somebody's first; with `unit: request` each one counts."""
    blocks, per_request = builder(), builder(unit="request")
    for each in (blocks, per_request):
        each.add([at(1, ""), at(2, "", status=503)])
    assert blocks.close(1005)[0].metrics["error_rate"] == Counts()
    block = per_request.close(1005)[0]
    assert block.metrics["error_rate"] == Counts(0, 0, 2, 1)
    assert block.attempts == Counts(0, 0, 2, 1)


def test_whose_fault_an_answer_is() -> None:
    """5xx, no answer at all and an answer by the other arm are the arm's failures; a 422 is the caller's."""
    blocks = builder()
    blocks.add(
        [
            at(1, "a", "canary", status=503, served_by=""),
            at(1, "b", "canary", status=0, served_by=""),
            at(1, "c", "canary", served_by="stable"),
            at(1, "d", "canary", status=422),
            at(1, "e", "canary"),
        ]
    )
    block = blocks.close(1005)[0]
    assert block.metrics["error_rate"] == Counts(5, 3, 0, 0)
    assert block.misrouted == 1


def test_a_late_line_counts_in_the_oldest_open_block() -> None:
    """It is neither lost nor counted twice."""
    blocks = builder()
    blocks.add([at(1, "a")])
    assert blocks.close(1005)[0].metrics["error_rate"].n0 == 1
    blocks.add([at(2, "b"), at(3, "a")])
    assert blocks.close(1005) == ()
    assert blocks.close(1010)[0].metrics["error_rate"].n0 == 1


def test_a_change_of_weight_splits_its_block_and_leaves_out_the_moment_itself() -> None:
    """Users of the quarter second around the change are seen but not counted: their weight is not known."""
    blocks = builder()
    blocks.add([at(1, "a")])
    blocks.set_weight(50, 1002)
    blocks.add([at(2.1, "b"), at(3, "c"), at(3.5, "b")])
    first, second = blocks.close(1005)
    assert (first.index, first.weight, second.index, second.weight) == (0, 20, 0, 50)
    assert [b.metrics["error_rate"].n0 for b in (first, second)] == [1, 1]


def test_thresholds_follow_the_stable_arm_from_the_next_untouched_block_on() -> None:
    """Requests of a block that has counts keep their thresholds, whatever the stable arm did meanwhile."""
    blocks = builder()
    blocks.add([at(4, f"s{n}", seconds=0.5) for n in range(1500)])
    blocks.add([at(6, "a", "canary", seconds=0.3)])
    blocks.close(1005)
    blocks.add([at(7, "b", "canary", seconds=0.3), at(11, "c", "canary", seconds=0.3)])
    second, third = blocks.close(1015)
    assert second.metrics["latency_p50"] == Counts(2, 2, 0, 0)
    assert third.metrics["latency_p50"] == Counts(1, 0, 0, 0)


def test_a_few_requests_move_no_threshold() -> None:
    """Under 1,000 requests of the stable arm say too little about its p99."""
    blocks = builder()
    blocks.add([at(4, f"s{n}", seconds=0.5) for n in range(999)])
    blocks.close(1005)
    blocks.add([at(11, "c", "canary", seconds=0.3)])
    assert blocks.close(1015)[-1].metrics["latency_p50"].x1 == 1


exposures = st.lists(
    st.builds(
        at,
        st.floats(0, 14.9),
        st.sampled_from("abcdefghij"),
        st.sampled_from(["stable", "canary"]),
        status=st.sampled_from([200, 422, 500]),
        seconds=st.floats(0, 0.1),
    ),
    max_size=30,
)


@given(exposures, st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_checkpoint_in_the_middle_changes_nothing(lines: list[Exposure], cut: int) -> None:
    """Killed after any line and restored from the checkpoint and the file of users, the blocks are the same."""
    whole, parted = builder(), builder()
    whole.add(lines)
    parted.add(lines[:cut])
    content, checkpoint = parted.seen.drain(), json.loads(json.dumps(parted.checkpoint()))
    parted.add(lines[cut:])
    lost = content + parted.seen.drain()
    restored = BlockBuilder.restore(plan(), checkpoint, lost)
    restored.add(lines[cut:])
    assert restored.close(1015) == whole.close(1015)


@given(exposures, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_inside_a_block_is_irrelevant(lines: list[Exposure], random: Any) -> None:
    """One line for each user, shuffled, gives the same blocks."""
    once = list({line.unit: line for line in lines}.values())
    shuffled = random.sample(once, len(once))
    one, other = builder(), builder()
    one.add(once)
    other.add(shuffled)
    assert one.close(1015) == other.close(1015)


@given(exposures)
@settings(max_examples=60, deadline=None)
def test_replicas_add_up_to_one_block(lines: list[Exposure]) -> None:
    """Two replicas that serve disjoint users merge, by addition, to what one would have counted."""
    whole, left, right = builder(), builder(), builder()
    whole.add(lines)
    left.add(line for line in lines if line.unit < "e")
    right.add(line for line in lines if line.unit >= "e")
    merged = tuple(a + b for a, b in zip(left.close(1015), right.close(1015), strict=True))
    assert merged == whole.close(1015)


counts = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)).map(
    lambda v: Counts(v[0] + v[1], v[1], v[2] + v[3], v[3])
)
some_blocks = st.dictionaries(
    st.integers(0, 9),
    st.builds(
        lambda error, attempts, misrouted, ready, skipped: Block(
            0, 20, {"error_rate": error}, attempts, misrouted, ready, skipped
        ),
        counts,
        counts,
        st.integers(0, 3),
        st.booleans(),
        st.integers(0, 3),
    ),
    max_size=5,
)


@given(some_blocks, st.sampled_from([None, 20, 50]))
@settings(deadline=None)
def test_json_lines_round_trip(found: dict[int, Block], weight: int | None) -> None:
    """Blocks written as JSON lines are read back equal, whatever the order of the lines."""
    blocks = [replace(block, index=index, weight=weight) for index, block in sorted(found.items())]
    lines = [json.loads(json.dumps(line)) for block in blocks for line in to_lines("s", block)]
    assert from_lines(reversed(lines)).get("s", []) == blocks


@pytest.mark.parametrize(
    "broken",
    [
        {"arm": "blue"},
        {"n": -1},
        {"x": 61},
        {"n": float("nan")},
        {"n": "many"},
        {"minute": None},
        {"minute": -1},
        {"weight": 101},
        {"weight": 2.5},
        {"n": 10**400},
        {"n": True},
    ],
)
def test_a_line_that_cannot_be_is_refused(broken: dict[str, Any]) -> None:
    """Wrong arms and impossible counts are errors, never evidence."""
    line = {"stream": "a", "minute": 0, "arm": "canary", "metric": "error_rate", "n": 60, "x": 1}
    assert from_lines([line])["a"][0].metrics["error_rate"] == Counts(60, 1, 0, 0)
    with pytest.raises(UsageError):
        from_lines([line | broken])


def test_replicas_add_up_and_what_is_sent_twice_counts_once() -> None:
    """Lines of several sources are one block; the same line again is nothing new; another count is a contradiction."""
    line = {"stream": "a", "minute": 0, "arm": "canary", "metric": "error_rate", "n": 60, "x": 1}
    other = line | {"source": "envoy-2", "n": 40, "x": 3}
    assert from_lines([line, other, line, other])["a"] == [Block(0, None, {"error_rate": Counts(100, 4)})]
    with pytest.raises(UsageError, match=r"was \(60.0, 1.0\) before and is \(61.0, 1.0\) now"):
        from_lines([line, line | {"n": 61}])


def test_means_travel_as_sums_and_squares() -> None:
    """Revenue is no count: its lines hold what a mean and its variance need, and round-trip."""
    block = Block(3, 20, {"revenue": Moments(10, 55.5, 400.0, 90, -3.25, 12.0)})
    lines = [json.loads(json.dumps(line)) for line in to_lines("s", block)]
    assert from_lines(lines) == {"s": [block]}
    with pytest.raises(UsageError, match="squares"):
        from_lines([lines[0] | {"sumsq": 1.0}])
    head = {"stream": "s", "minute": 4, "arm": "canary", "metric": "revenue", "weight": 20}
    with pytest.raises(UsageError, match="as counts and as sums"):
        from_lines([lines[0], {**head, "n": 4, "x": 1}])


@pytest.mark.parametrize("text", ["{", "[1]", '{"stream": "a"} {}'])
def test_a_file_of_something_else_is_named_with_its_line(text: str) -> None:
    """The first line that is no block is told by its number."""
    with pytest.raises(UsageError, match="Line 2"):
        list(parse(["", text]))


def test_blocks_of_different_intervals_do_not_add() -> None:
    """That would hide a block."""
    with pytest.raises(ValueError, match="one interval"):
        Block(0, 20) + Block(1, 20)


def test_the_seen_set_stays_compact_and_exact() -> None:
    """200,000 users, most of them merged into the sorted array, are found again; the file holds 8 bytes for each."""
    seen = Seen()
    assert all(seen.add("r", str(i)) for i in range(200_000))
    content = seen.drain()
    again = Seen(content)
    assert len(content) == 8 * 200_000
    assert not any(seen.add("r", str(i)) or again.add("r", str(i)) for i in range(0, 200_000, 97))
    assert again.add("r", "new")
    assert again.count == 200_001


def test_a_truncated_list_of_users_is_refused() -> None:
    """Going on without it would count users twice."""
    blocks = builder()
    blocks.add([at(1)])
    with pytest.raises(UsageError, match="truncated"):
        BlockBuilder.restore(plan(), blocks.checkpoint(), b"")
