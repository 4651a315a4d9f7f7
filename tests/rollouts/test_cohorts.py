"""Metrics that are known late, in the loop: users are kept, judged once at one age, and never promoted without.

The world is `loop_world`'s; `Known` stands for the records and tells what became of the users who were exposed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from loop_world import Killed, World, bad

from tidegate.core.config import Rollout
from tidegate.core.errors import Temporary
from tidegate.rollouts.block_files import read_blocks
from tidegate.rollouts.block_lines import read, to_lines
from tidegate.rollouts.blocks import LABELLED, Cohort, Counts
from tidegate.rollouts.checkpoint import read_checkpoint
from tidegate.rollouts.exposures import erase_exposures, exposed_blocks, read_exposures
from tidegate.rollouts.judge import judge
from tidegate.rollouts.late import OwnMetricFailed
from tidegate.rollouts.late_reading import Exposure
from tidegate.rollouts.replay import replay

WIDE = {"harm": {"ratio": 1.1, "margin": 0.02}, "safe": {"ratio": 1.5, "margin": 0.15}}
ERRORS, ACCURACY = {"metric": "error_rate", **WIDE}, {"metric": "accuracy", **WIDE}
BOTH = {"guardrails": [ERRORS, ACCURACY]}


class Known:
    """Tells of each user what a hash says: `shares` of the event in (canary, stable).

    Args:
        shares: of each metric.
        labelled: share of users with a label, in (canary, stable).
    """

    def __init__(self, labelled: tuple[float, float] = (1.0, 1.0), **shares: tuple[float, float]) -> None:
        self.shares, self.labelled = shares, labelled
        self.asked: list[tuple[str, int, int]] = []
        self.fails: Exception | None = None

    def cohorts(self, metrics: Sequence[Any], exposed: Sequence[Exposure], settle: float) -> tuple[Cohort, ...]:
        """One cohort for each block and weight."""
        assert settle == 0
        if self.fails is not None:
            raise self.fails
        keys = sorted({(one.user.index, one.user.weight) for one in exposed})
        return tuple(Cohort(i, w, self._sums(metrics, exposed, i, w)) for i, w in keys)

    def late_labels(self, since: float, until: float, age: float) -> int:
        """One a block."""
        assert age == 3
        return round(until - since)

    def _sums(self, metrics: Sequence[Any], exposed: Sequence[Exposure], index: int, weight: int) -> dict[str, Counts]:
        mine = [one.user for one in exposed if (one.user.index, one.user.weight) == (index, weight)]
        arms = [[one for one in mine if one.arm == arm] for arm in ("canary", "stable")]
        found = {}
        for metric in metrics:
            self.asked.append((metric.metric, index, weight))
            of_labels = metric.source == "labels"
            known = [
                [u for u in arm if not of_labels or u.unit % 89 < 89 * s]
                for arm, s in zip(arms, self.labelled, strict=True)
            ]
            shares = self.shares[metric.metric]
            counts = [
                (len(users), sum(u.unit % 97 < 97 * s for u in users)) for users, s in zip(known, shares, strict=True)
            ]
            found[metric.metric] = Counts(*counts[0], *counts[1])
            if of_labels:
                found[LABELLED] = Counts(len(arms[0]), counts[0][0], len(arms[1]), counts[1][0])
        return found


def test_a_canary_that_is_wrong_more_often_is_rolled_back_by_its_labels(tmp_path: Path) -> None:
    """With not an error; the reason names the metric and both arms' shares."""
    world = World(tmp_path, reading=Known(accuracy=(0.5, 0.8)), **BOTH)
    assert world.run() == ["rolled_back"]
    assert world.events[0].data["reasons"][0].startswith("accuracy of ")
    assert "with the canary" in world.events[0].data["reasons"][0]


def test_a_step_waits_for_labels_and_passes_with_them(tmp_path: Path) -> None:
    """Errors alone would pass at once; no step passes before its own first users are old enough."""
    quick, world = World(tmp_path / "q"), World(tmp_path, reading=Known(accuracy=(0.8, 0.8)), **BOTH)
    (tmp_path / "q").mkdir()
    assert quick.run() == ["step_passed", "promoted"]
    assert world.run(300) == ["step_passed", "promoted"]
    for result, soon in zip(world.rollout.results, quick.rollout.results, strict=True):
        assert result.seconds >= max(4.0, soon.seconds)
    document = read_checkpoint(world.store, "o-1")
    assert document is not None
    assert document["cohorts"]["late"] > 0


def test_users_who_were_erased_change_no_verdict_and_stop_no_rollout(tmp_path: Path) -> None:
    """They are in no cohort that is measured later; blocks of which nobody is left are done, not waited for."""
    known = Known(accuracy=(0.8, 0.8))
    world = World(tmp_path, reading=known, **BOTH)
    world.run(8)
    asked, judged = len(known.asked), read_checkpoint(world.store, "o-1")
    gone = {one.user.unit for i in exposed_blocks(world.store, "o-1") for one in read_exposures(world.store, "o-1", i)}
    assert gone
    for unit in gone:
        assert erase_exposures(world.store, "o-1", unit) == 1
    assert read_checkpoint(world.store, "o-1") == judged
    assert world.run(300) == ["step_passed", "promoted"]
    kept = {one.user.unit for i in exposed_blocks(world.store, "o-1") for one in read_exposures(world.store, "o-1", i)}
    assert kept.isdisjoint(gone)
    assert len(known.asked) > asked


def test_a_goal_of_outcomes_promotes_and_its_absence_does_not(tmp_path: Path) -> None:
    """More conversions of the canary's users are evidence; as many are none, however good the errors look."""
    goal = {"goal": {"metric": "conversion"}, "step": {"min": "3s", "max": "40s"}, "guardrails": [ERRORS]}
    for number, (shares, kinds) in enumerate({(0.5, 0.2): ["step_passed", "promoted"], (0.2, 0.2): ["held"]}.items()):
        (tmp_path / str(number)).mkdir()
        world = World(tmp_path / str(number), reading=Known(conversion=shares), **goal)
        assert world.run(300) == kinds
    assert any("conversion of " in reason for reason in world.events[-1].data["reasons"])


def test_each_cohort_is_judged_once_and_of_every_user(tmp_path: Path) -> None:
    """Every counted user is in one file, hashed; every block's users are asked for once, at one age."""
    known = Known(accuracy=(0.8, 0.8))
    world = World(tmp_path, reading=known, **BOTH)
    world.run(30)
    assert len(set(known.asked)) == len(known.asked) > 0
    kept = [one.user for i in exposed_blocks(world.store, "o-1") for one in read_exposures(world.store, "o-1", i)]
    assert len({one.unit for one in kept}) == len(kept) == sum(world.units.values())
    assert {one.prediction for one in kept} == {"p"}
    assert all(one.user.at <= one.until for one in [
        each for i in exposed_blocks(world.store, "o-1") for each in read_exposures(world.store, "o-1", i)
    ])  # fmt: skip
    for block in read_blocks(world.store, "o-1"):
        # Closed a moment after its end, so the block that is judged may be one younger than the age.
        assert all(block.index - cohort.index >= 2 for cohort in block.matured)


def test_the_recorded_blocks_decide_the_same_again(tmp_path: Path) -> None:
    """By the judge, number by number, and by a replay of the policy: cohorts come from the store with their blocks."""
    for name, shares in {"good": (0.8, 0.8), "bad": (0.5, 0.8)}.items():
        folder = tmp_path / name
        folder.mkdir()
        world = World(folder, reading=Known(accuracy=shares), **BOTH)
        world.run(300)
        blocks, document = read_blocks(world.store, "o-1"), read_checkpoint(world.store, "o-1")
        assert document is not None
        again = judge(world.plan, blocks).to_dict()
        assert again["metrics"] == document["verdict"]["metrics"]
        assert again["log_e_harm"] == document["verdict"]["log_e_harm"]
        policy = Rollout.model_validate({**BOTH, "steps": [20, 50], "step": {"min": "3s", "max": "1h"}})
        lines = [line for block in blocks for line in json.loads(json.dumps(to_lines("o-1", block)))]
        (told,) = replay(policy, read(lines), 1.0)
        assert told.decision == document["verdict"]["decision"]
        assert told.reasons[-1].startswith("accuracy of ")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same rollouts without a kill, and how often each wrote."""
    found = {}
    for name, shares in {"good": (0.8, 0.8), "bad": (0.4, 0.8)}.items():
        world = World(tmp_path_factory.mktemp(name), reading=Known(accuracy=shares), **BOTH)
        writes: list[str] = []
        world.store.on_write = writes.append
        world.run(300)
        found[name] = (world, writes.count("before"), shares)
    return found


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["good", "bad"])
def test_a_kill_at_any_write_loses_and_doubles_no_cohort(
    undisturbed: dict[str, Any], tmp_path: Path, name: str, when: str
) -> None:
    """Exposures, blocks, checkpoint, ledger: the same events and the same recorded blocks, to the number."""
    expected, writes, shares = undisturbed[name]
    for number in range(0, writes, 1 if name == "bad" else 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(folder, reading=Known(accuracy=shares), **BOTH)
        left = [number]

        def kill(moment: str, left: list[int] = left) -> None:
            if moment == when:
                left[0] -= 1
                if left[0] == -1:
                    raise Killed

        world.store.on_write = kill
        with pytest.raises(Killed):
            world.run(300)
        world.restart()
        world.run(300)
        assert [event.to_json() for event in world.events] == [event.to_json() for event in expected.events], number
        assert read_blocks(world.store, "o-1") == read_blocks(expected.store, "o-1"), number


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (OwnMetricFailed("The metric mine:worth failed: mine.py:3", "Look there."), ["held"]),
        (ValueError("nonsense"), ["held"]),
        (Temporary("The bucket does not answer."), []),
    ],
    ids=["own", "ours", "temporary"],
)
def test_what_cannot_be_measured_is_never_promoted(tmp_path: Path, error: Exception, kinds: list[str]) -> None:
    """A person is asked where trying again cannot help; where it answers again, the rollout goes on."""
    known = Known(accuracy=(0.8, 0.8))
    world = World(tmp_path, reading=known, **BOTH)
    known.fails = error
    for _ in range(20):
        world.tick()
        world.traffic()
    assert world.kinds == kinds
    if kinds:
        assert isinstance(error, ValueError) or world.events[0].data["reasons"] == [error.message, error.hint]  # type: ignore[attr-defined]  # one of ours
    known.fails = None
    for _ in range(120):
        if not world.rollout.open:
            break
        world.tick()
        world.traffic()
    assert world.kinds == [*kinds, "step_passed", "promoted"]


def test_harm_is_acted_on_while_labels_cannot_be_read(tmp_path: Path) -> None:
    """Errors roll back, whatever became of the labels."""
    known = Known(accuracy=(0.8, 0.8))
    known.fails = Temporary("The bucket does not answer.")
    world = World(tmp_path, reading=known, answer=bad, **BOTH)
    assert world.run() == ["rolled_back"]


def test_arms_of_which_another_share_is_labelled_are_not_compared(tmp_path: Path) -> None:
    """Half of the canary's users have a label and all of stable's: inconclusive, however accurate those are."""
    world = World(tmp_path, reading=Known(labelled=(0.5, 1.0), accuracy=(0.8, 0.8)), **BOTH)
    assert world.run(300)[-1] == "held"
    assert "The truth is known of" in world.events[-1].data["reasons"][0]


def test_users_without_a_label_are_left_out_and_the_share_is_shown(tmp_path: Path) -> None:
    """A third has one in both arms: the rollout is decided by those, and the verdict says how many they are."""
    world = World(tmp_path, reading=Known(labelled=(0.34, 0.34), accuracy=(0.8, 0.8)), **BOTH)
    assert world.run(600) == ["step_passed", "promoted"]
    document = read_checkpoint(world.store, "o-1")
    assert document is not None
    told = next(one for one in document["verdict"]["metrics"] if one["name"] == "accuracy")
    assert all(0.2 < share < 0.5 for share in told["labelled"].values())
    assert told["units"]["canary"] < document["verdict"]["units"]["canary"] / 2


def test_late_metrics_alone_still_count_users(tmp_path: Path) -> None:
    """A plan of accuracy only: users and the sample ratio are known from the first block on."""
    world = World(tmp_path, reading=Known(accuracy=(0.8, 0.8)), guardrails=[ACCURACY])
    world.run(8)
    assert world.units["canary"] > 0
    assert world.run(300) == ["step_passed", "promoted"]


def test_what_was_measured_is_judged_while_the_next_look_goes_on(tmp_path: Path) -> None:
    """Where a look takes longer than a block, each is handed over when it is done, and not when nobody looks."""
    waiting: list[Any] = []
    world = World(tmp_path, reading=Known(accuracy=(0.8, 0.8)), **BOTH)
    world.aside = waiting.append
    for _ in range(40):
        world.tick()
        world.traffic()
        if waiting and world.loop is not None and world.number % 3 == 0:
            waiting.pop()()
            # The next one begins at once, and is not over when a block is closed.
    assert any(block.matured for block in read_blocks(world.store, "o-1"))
    assert len({(c.index, c.weight) for b in read_blocks(world.store, "o-1") for c in b.matured}) == sum(
        len(block.matured) for block in read_blocks(world.store, "o-1")
    )
