"""Questions about releases, and what the ledger tells about each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidegate.core.artifacts import DatasetRef, Release
from tidegate.core.errors import UsageError
from tidegate.core.store import Store, open_store
from tidegate.registry import lineage, releases
from tidegate.registry.ledger import Draft, Ledger
from tidegate.registry.state import fold


def made(version: int, md5: str) -> Release:
    return Release(
        model="demand",
        version=version,
        run_id=f"run{version}",
        bento=f"demand:{version}",
        bundle=f"{version:064x}",
        git_commit="c0ffee",
        git_dirty=version == 2,
        data=(DatasetRef("data/train.csv", md5, 100),),
        files={},
        config={},
        contract={},
    )


ONE, TWO, THREE = made(1, "aaaa1111"), made(2, "aaaa2222"), made(3, "bbbb3333")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = open_store(str(tmp_path))
    for release in (ONE, TWO, THREE):
        releases.save(found, release, {})
    return found


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """Version 1 is deployed, 2 is promoted over it, 3 is rolled back."""
    found = Ledger(store, "demand.local")

    def write(kind: str, **data: Any) -> None:
        found.append(lambda _: Draft(kind, data))

    for release in (ONE, TWO, THREE):
        write("registered", release=release.id, version=release.version, run_id=release.run_id)
    write("deployed", release=ONE.id)
    for number, (stable, canary, end) in enumerate([(ONE, TWO, "promoted"), (TWO, THREE, "rolled_back")]):
        ids = {"stable": stable.id, "canary": canary.id}
        write("rollout_started", rollout=f"o-{number}", **ids, plan={}, steps=[50])
        write(end, rollout=f"o-{number}", reasons=["because"], keep=0.0)
    return found


@pytest.mark.parametrize(
    ("question", "found"),
    [
        (f"release:{TWO.id}", [TWO]),
        (f"release:{TWO.id[:8]}", [TWO]),
        ("version:3", [THREE]),
        ("data:bbbb3333", [THREE]),
        ("data:aaaa", [ONE, TWO]),
    ],
)
def test_a_question_finds_its_releases(store: Store, question: str, found: list[Release]) -> None:
    """By id or its beginning, by version, and by the start of a data hash."""
    assert sorted(one.version for one in lineage.find_releases(store, question)) == [one.version for one in found]


@pytest.mark.parametrize("question", ["release:r-nope", "release:", "release:r-"])
def test_a_release_that_is_not_there_is_a_usage_error(store: Store, question: str) -> None:
    """An empty value never means everything."""
    with pytest.raises(UsageError, match="There is no release"):
        lineage.find_releases(store, question)


@pytest.mark.parametrize("question", ["version:4", "version:03", "version:", "data:cccc", "data:"])
def test_a_question_without_an_answer_is_a_usage_error(store: Store, question: str) -> None:
    """An empty value never means everything."""
    with pytest.raises(UsageError, match="There is no release with"):
        lineage.find_releases(store, question)


@pytest.mark.parametrize("question", ["colour:red", "nonsense", ""])
def test_what_is_no_question_is_answered_with_the_questions(store: Store, question: str) -> None:
    """The hint names the four forms."""
    with pytest.raises(UsageError, match="is not a question") as caught:
        lineage.find_releases(store, question)
    assert "data:MD5" in caught.value.hint


def test_the_first_release_of_an_empty_store_is_nobody(tmp_path: Path) -> None:
    """An empty store answers like any other without a match."""
    with pytest.raises(UsageError, match="There is no release"):
        lineage.find_releases(open_store(str(tmp_path)), "version:1")


def test_a_release_knows_where_it_came_from_and_what_became_of_it(ledger: Ledger) -> None:
    """Run, commit, data, whether it is champion, its rollouts on either side, and the events that name it."""
    events = ledger.events()
    document = lineage.of_release(TWO, fold(events), events)
    assert (document["release"], document["version"], document["run_id"]) == (TWO.id, 2, "run2")
    assert (document["git_commit"], document["git_dirty"], document["champion"]) == ("c0ffee", True, True)
    assert document["data"] == [{"path": "data/train.csv", "md5": "aaaa2222", "rows": 100}]
    assert document["rollouts"] == [{"id": "o-0", "state": "promoted"}, {"id": "o-1", "state": "rolled_back"}]
    assert [event["kind"] for event in document["events"]] == [
        "registered",
        "rollout_started",
        "promoted",
        "rollout_started",
        "rolled_back",
    ]


def test_a_release_that_never_served_has_no_rollouts(store: Store) -> None:
    """Nothing is made up for it."""
    document = lineage.of_release(ONE, fold(()), ())
    assert (document["champion"], document["rollouts"], document["events"]) == (False, [], [])
