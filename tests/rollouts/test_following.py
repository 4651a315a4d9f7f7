"""A rollout on a cluster: the laptop's verdict on the same counts, whatever is sent twice, killed or contradicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import MemoryStore

from tidegate.core.errors import Conflict, UsageError
from tidegate.rollouts.block_lines import from_lines, read
from tidegate.rollouts.checkpoint import read_checkpoint
from tidegate.rollouts.following import Answer, Asked, Following
from tidegate.rollouts.inline_plan import InlinePlan, inline_plan
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.replay import replay

ERRORS = {"metric": "error_rate", "harm": {"ratio": 1.1, "margin": 0.001}, "safe": {"ratio": 1.5, "margin": 0.002}}
PLAN: dict[str, Any] = {
    "unit": "request",
    "steps": [10, 50],
    "step": {"min": "2m", "max": "2h"},
    "guardrails": [ERRORS],
}
KEY = "u-1.c-1"


class World:
    """A clock, a store and somebody who counts; `restart` forgets what is not in the store."""

    def __init__(self, **plan: Any) -> None:
        self.now, self.store = 1_800_000_000.0, MemoryStore()
        self.plan = inline_plan(PLAN | plan, KEY)
        self.restart()

    def restart(self) -> None:
        self.following = Following(KEY, self.plan, self.store, clock=lambda: self.now)

    def minute(self, lines: list[dict[str, Any]], weight: int) -> Answer:
        self.now += 60
        self.following.post(lines)
        return self.following.ask(Asked(weight))


def counts(minute: int, weight: int, rng: np.random.Generator, **also: Any) -> list[dict[str, Any]]:
    """A block of 6,000 users; `bad` is the factor on the canary's errors of 0.5 %."""
    n1 = int(rng.binomial(6000, weight / 100))
    bad = also.pop("bad", 1.0)
    made = []
    for arm, n, rate in (("canary", n1, 0.005 * bad), ("stable", 6000 - n1, 0.005)):
        x = int(rng.binomial(n, rate))
        head = {"rollout": KEY, "minute": minute, "arm": arm, "weight": weight, "n": n, **also}
        made += [{**head, "metric": "error_rate", "x": x}, {**head, "metric": "attempts", "x": x}]
    return made


def ramp(world: World, seed: int, bad: float = 1.0, each: Any = lambda _: None) -> tuple[Answer, list[dict[str, Any]]]:
    """Send and ask as Argo would, until there is an end; `each` is called before every minute."""
    rng, weight, sent = np.random.default_rng(seed), 10, []
    for minute in range(120):
        each(world)
        lines = counts(minute, weight, rng, bad=bad)
        sent += lines
        answer = world.minute(lines, weight)
        if answer.decision == "rollback" or (answer.decision == "promote" and weight == 50):
            return answer, sent
        if answer.decision == "promote":
            weight = 50
    raise AssertionError("no end")


@pytest.mark.parametrize(("bad", "word"), [(1.0, "promote"), (4.0, "rollback")])
def test_the_verdict_is_that_of_a_replay_and_of_the_laptops_judge(bad: float, word: str) -> None:
    """Same counts, same word, same block, same numbers."""
    world = World()
    answer, sent = ramp(world, 1, bad)
    lines = [{**line, "stream": KEY} for line in sent]
    replayed = replay(InlinePlan.model_validate(PLAN, context={"file": True}), read(lines))[0]
    local = Judge(world.plan)
    for block in from_lines(lines)[KEY]:
        local.update(block)
    assert (answer.decision, replayed.decision, local.verdict().decision) == (word, word, word)
    assert (replayed.minute, local.verdict()) == (sent[-1]["minute"], world.following.verdict)


def test_killed_before_every_minute_it_says_the_same() -> None:
    """Nothing that was acknowledged is lost, nothing counts twice."""
    unbroken, broken = World(), World()
    whole, _ = ramp(unbroken, 2)
    again, _ = ramp(broken, 2, each=lambda world: world.restart())
    assert (again, broken.following.verdict) == (whole, unbroken.following.verdict)
    blocks = [sorted(path for path in one.store.files if "/blocks/" in path) for one in (broken, unbroken)]
    assert blocks[0] == blocks[1]


def test_killed_between_taking_and_judging_it_judges_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines are in the store before anything follows from them."""
    world, rng = World(), np.random.default_rng(3)
    world.minute(counts(0, 10, rng), 10)
    lines = counts(1, 10, rng)
    with monkeypatch.context() as patch:
        patch.setattr(Following, "_look", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.following.post(lines)
    world.restart()
    assert world.following.post(lines) == 0
    answer = world.following.ask(Asked(10))
    assert answer.n_canary == sum(
        one["n"] for one in [*counts(0, 10, np.random.default_rng(3)), *lines] if _is_canary(one)
    )


def _is_canary(line: dict[str, Any]) -> bool:
    return bool(line["arm"] == "canary" and line["metric"] == "error_rate")


def test_the_same_lines_again_change_nothing_and_other_values_are_refused() -> None:
    """Also after a restart, and in another order; what is refused leaves nothing behind."""
    world, rng = World(), np.random.default_rng(4)
    lines = counts(0, 10, rng)
    first = world.minute(lines, 10)
    world.restart()
    assert (world.following.post(lines[::-1]), world.following.ask(Asked(10))) == (0, first)
    changed = [*counts(1, 10, rng), {**lines[0], "x": lines[0]["x"] + 1}]
    with pytest.raises(Conflict, match="Line 5: error_rate of the canary arm in block 0"):
        world.following.post(changed)
    assert world.following.ask(Asked(10)) == first


def test_replicas_add_up_and_one_that_falls_silent_is_waited_for_two_blocks() -> None:
    """Half of the counts of an interval would be a verdict on half of the users."""
    world, rng = World(), np.random.default_rng(5)

    def sent(minute: int, source: str) -> int:
        lines = counts(minute, 10, rng, source=source)
        world.following.post(lines)
        return sum(one["n"] for one in lines if _is_canary(one))

    sent(0, "a")
    world.now += 15
    assert world.following.ask(Asked(10)).n_canary > 0
    with pytest.raises(Conflict, match="too late"):
        sent(0, "b")
    before = world.following.ask(Asked(10)).n_canary
    both = before + sent(1, "a")
    world.now += 15
    assert world.following.ask(Asked(10)).n_canary == before
    both += sent(1, "b")
    world.following.beat()
    assert world.following.ask(Asked(10)).n_canary == both
    late = sent(2, "a")
    world.now += 60
    late += sent(3, "a")
    assert world.following.ask(Asked(10)).n_canary == both
    world.now += 125
    assert world.following.ask(Asked(10)).n_canary == both + late


def test_an_interval_that_is_not_whole_waits() -> None:
    """The canary's lines without the stable arm's prove nothing."""
    world = World()
    lines = counts(0, 10, np.random.default_rng(6))
    world.following.post(lines[:2])
    assert world.following.ask(Asked(10)).n_canary == 0
    world.following.post(lines[2:])
    assert world.following.ask(Asked(10)).n_canary == lines[0]["n"]


def test_nothing_is_promoted_without_data_of_the_step_that_was_asked_for() -> None:
    """A step that passed says nothing about the next, and old evidence nothing about now."""
    world, rng, word, minute = World(), np.random.default_rng(7), "continue", 0
    assert world.following.ask(Asked(10)).decision == "continue"
    while word == "continue":
        word = world.minute(counts(minute, 10, rng), 10).decision
        minute += 1
    assert word == "promote"
    assert "No block at 50 %" in world.following.ask(Asked(50)).reason
    world.now += 600
    stale = World()
    stale.store, stale.now = world.store, world.now
    stale.restart()
    answer = stale.following.ask(Asked(10))
    assert (answer.decision, answer.reason[:28]) == ("continue", "The evidence is 10m old: not")


@pytest.mark.parametrize(("policy", "word"), [("hold", "continue"), ("rollback", "rollback"), ("promote", "continue")])
def test_a_step_without_any_data_ends_by_on_inconclusive_and_never_well(policy: str, word: str) -> None:
    """Telemetry that broke is no evidence for anybody."""
    world = World(step={"min": "2m", "max": "1h", "on_inconclusive": policy})
    assert world.following.ask(Asked(10)).decision == "continue"
    world.now += 3601
    assert world.following.ask(Asked(10)).decision == word


def test_a_weight_that_telemetry_contradicts_voids_the_verdict_for_good() -> None:
    """Whoever asks for less than what came knows something else than the gateway."""
    world, rng = World(), np.random.default_rng(8)
    for minute in range(10):
        world.minute(counts(minute, 50, rng), 50)
    assert world.following.ask(Asked(50)).decision == "promote"
    assert "telemetry is of 50 %" in world.following.ask(Asked(10)).reason
    world.restart()
    assert world.following.ask(Asked(50)).decision == "continue"
    assert "no step of the plan" in World().following.ask(Asked(30)).reason


def test_arms_that_answer_for_each_other_void_the_verdict() -> None:
    """Where a label was mixed up, a comparison would compare anything."""
    world, rng = World(), np.random.default_rng(9)
    for minute in range(10):
        lines = counts(minute, 10, rng)
        lines[1]["misrouted"] = 100
        answer = world.minute(lines, 10)
    assert (answer.decision, "by the other arm" in answer.reason) == ("continue", True)


def test_a_dead_canary_is_stopped_by_the_guard_before_its_block_is_whole() -> None:
    """And while both arms fail, nobody is blamed."""
    failing = [
        {"rollout": KEY, "minute": 0, "arm": arm, "metric": "attempts", "n": 40, "x": x, "weight": 10}
        for arm, x in (("canary", 40), ("stable", 1))
    ]
    world, outage = World(), World()
    world.following.post(failing)
    assert world.following.guard().decision == "rollback"
    world.restart()
    assert world.following.ask(Asked(10)).reason == "All 40 requests to the canary in block 0 failed."
    outage.following.post([failing[0], {**failing[1], "x": 40}])
    assert outage.following.guard().decision == "continue"


def test_another_canary_under_the_same_id_is_never_promoted() -> None:
    """A third revision in the middle of a rollout is not what the evidence is about."""
    world = World(step={"min": "2m", "max": "1h", "on_inconclusive": "rollback"})
    assert (world.following.pair("c-1"), world.following.pair("c-2")) == (True, False)
    assert world.following.stranger("c-2").decision == "continue"
    world.now += 3601
    world.restart()
    assert (world.following.pair("c-2"), world.following.stranger("c-2").decision) == (False, "rollback")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"weight": 30}, "30 % on the canary"),
        ({"weight": None}, "no weight"),
        ({"bunching": 2.0}, "design effect"),
        ({"cohort": 0}, "known at once"),
        ({"sum": 3.0, "sumsq": 4.0}, "another form"),
        ({"x": 10_000}, "10000"),
    ],
)
def test_lines_that_cannot_be_judged_are_refused_by_number(line: dict[str, Any], told: str) -> None:
    """Nothing of them is kept."""
    world, lines = World(), counts(0, 10, np.random.default_rng(10))
    with pytest.raises(UsageError, match=told):
        world.following.post([lines[2] | line])
    assert not [path for path in world.store.files if "/posted/" in path]


def test_what_a_checkpoint_says_is_what_the_laptops_status_reads() -> None:
    """One form for both, so that one reader shows both."""
    world = World()
    ramp(world, 11)
    document = read_checkpoint(world.store, KEY)
    assert document is not None
    assert document["verdict"] == world.following.verdict.to_dict()
