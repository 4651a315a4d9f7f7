"""What every rollout driver promises a person: one rollout at a time, one answer to it, and the whole document."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from fakes import FakeDriver, MemoryStore
from kube_api import KubeApi, kubeconfig, serving
from kube_argo import Argo, documents

from tidegate.core.config import Rollout
from tidegate.core.errors import Conflict
from tidegate.core.kube import Cluster
from tidegate.registry.ledger import Draft, Ledger
from tidegate.rollouts.drivers import RolloutDriver
from tidegate.rollouts.drivers.kube import KubeDriver
from tidegate.rollouts.drivers.local import LocalDriver
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan

# Not on a cluster: Argo's Gateway API plugin mirrors nothing, so `rollout.shadow` is refused before a driver is asked.
SHADOWING = ("local", "fake")
VERSIONS = {"r-1": 1, "r-2": 2, "r-3": 3}


@cache
def plan(rollout: str = "o-1", *, shadow: bool = False) -> RolloutPlan:
    section = Rollout.model_validate({"guardrails": [Rollout().guardrails[0]], "steps": [20, 50], "shadow": shadow})
    return make_plan(section, rollout_id=rollout, block_seconds=60, units_per_minute=6000, error_rate=0.01)


class Environment:
    """A driver and what the environment around it says."""

    def __init__(self, kind: str, cluster: Cluster, champion: str | None = "r-1") -> None:
        self.kind, self.cluster = kind, cluster
        self.driver: RolloutDriver
        if kind == "fake":
            self.fake = FakeDriver(champion, VERSIONS)
            self.driver = self.fake
            return
        self.fake = None  # type: ignore[assignment]  # the other kinds
        store = MemoryStore()
        self.ledger = Ledger(store, f"demand.{kind}")
        for release, version in VERSIONS.items():
            self.write("registered", release=release, version=version, run_id="x")
        if champion:
            self.write("deployed", release=champion)
        if kind == "local":
            self.driver = LocalDriver(self.ledger, store, 60.0)
            return
        driver = KubeDriver(self.ledger, store, 60.0, cluster, "demand", render=documents)
        if champion:
            driver.serve(champion)
        self.driver = driver

    def write(self, kind: str, **data: object) -> None:
        self.ledger.append(lambda _: Draft(kind, data))

    def freeze(self) -> None:
        if self.fake is not None:
            self.fake.frozen = "black friday"
        else:
            self.write("frozen", reason="black friday")


@pytest.fixture(params=["local", "kube", "fake"])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with serving(KubeApi()) as api:
        Argo(api)
        yield Cluster("fake", "default", kubeconfig(tmp_path, api), patience=5.0)


@pytest.fixture
def environment(kind: str, cluster: Cluster) -> Environment:
    return Environment(kind, cluster)


@pytest.fixture
def driver(environment: Environment) -> RolloutDriver:
    return environment.driver


def begin(driver: RolloutDriver, release: str = "r-2", rollout: str = "o-1", **how: bool) -> str:
    return driver.start(release, plan(rollout), **{"by_hand": True, "replace": False} | how).id


def test_before_the_first_rollout_there_is_nothing_to_tell(driver: RolloutDriver) -> None:
    """Every question and every answer is refused."""
    for refused in (driver.status, lambda: driver.promote(full=True, reason="x"), lambda: driver.abort("x")):
        with pytest.raises(Conflict):
            refused()


def test_a_started_rollout_has_the_whole_document(driver: RolloutDriver) -> None:
    """The fields that scripts rely on are there from the first moment."""
    begin(driver)
    document = driver.status()
    assert document == driver.status("o-1")
    assert {"metrics", "srm", "forecast_seconds", "units", "reasons", "steps", "decision"} <= set(document)
    assert (document["kind"], document["id"], document["state"], document["weight"]) == (
        "rollout",
        "o-1",
        "running",
        20,
    )
    assert document["arms"] == {
        "stable": {"version": 1, "release": "r-1"},
        "canary": {"version": 2, "release": "r-2"},
    }
    with pytest.raises(Conflict):
        driver.status("o-nope")


def test_a_person_may_pass_each_step(driver: RolloutDriver) -> None:
    """One step at a time, then everybody; after that there is nothing left to decide."""
    begin(driver)
    assert [driver.promote(full=False, reason="fine").weight for _ in range(2)] == [50, 100]
    assert driver.status()["state"] == "promoted"
    assert driver.status()["reasons"] == ["fine"]
    with pytest.raises(Conflict):
        driver.promote(full=False, reason="again")


def test_an_answer_to_what_a_person_saw_hits_nothing_else(driver: RolloutDriver) -> None:
    """On a page that is a step old, or about another rollout; whoever wants everybody back means it at any step."""
    seen = driver.start("r-2", plan(), by_hand=True, replace=False)
    assert driver.promote(full=False, reason="fine", actor="ada@console", seen=seen).weight == 50
    with pytest.raises(Conflict):
        driver.promote(full=False, reason="fine", seen=seen)
    assert driver.status()["weight"] == 50
    assert driver.abort("enough", "ada@console", seen).weight == 0
    begin(driver, rollout="o-2")
    for late in (lambda: driver.abort("again", seen=seen), lambda: driver.promote(full=True, reason="x", seen=seen)):
        with pytest.raises(Conflict):
            late()
    assert driver.status()["state"] == "running"


@pytest.mark.parametrize("kind", SHADOWING, indirect=True)
def test_a_person_may_pass_the_shadow_phase(driver: RolloutDriver) -> None:
    """Nobody meets the canary before; then the first step begins."""
    driver.start("r-2", plan(shadow=True), by_hand=True, replace=False)
    document = driver.status()
    assert (document["state"], document["weight"], document["shadow"]["running"]) == ("running", 0, True)
    assert [driver.promote(full=False, reason="fine").weight for _ in range(2)] == [20, 50]
    assert not driver.status()["shadow"]["running"]


@pytest.mark.parametrize("kind", SHADOWING, indirect=True)
def test_a_person_may_skip_or_end_a_shadow_phase(driver: RolloutDriver) -> None:
    """`--full` goes to 100 % from there too, and an abort leaves the champion."""
    driver.start("r-2", plan(shadow=True), by_hand=True, replace=False)
    assert driver.abort("enough").weight == 0
    driver.start("r-2", plan("o-2", shadow=True), by_hand=True, replace=False)
    assert driver.promote(full=True, reason="trust me").weight == 100


def test_without_a_shadow_phase_there_is_none_to_show(driver: RolloutDriver) -> None:
    """The field is there all the same."""
    begin(driver)
    assert driver.status()["shadow"] is None


def test_a_person_may_skip_the_steps(driver: RolloutDriver) -> None:
    """`--full` goes to 100 % at once."""
    begin(driver)
    after = driver.promote(full=True, reason="trust me")
    assert (after.state, after.weight, after.open) == ("promoted", 100, False)


def test_an_abort_sends_everybody_back(driver: RolloutDriver) -> None:
    """With the reason, and only once: the second of two people is told."""
    begin(driver)
    after = driver.abort("I saw the graph")
    assert (after.state, after.weight, after.reasons) == ("aborted", 0, ("I saw the graph",))
    for late in (lambda: driver.promote(full=True, reason="x"), lambda: driver.abort("x")):
        with pytest.raises(Conflict, match="abort"):
            late()


def test_a_second_rollout_waits_or_replaces(driver: RolloutDriver) -> None:
    """It is refused with what runs, unless it is meant to end it; the first one's story is kept."""
    begin(driver)
    with pytest.raises(Conflict, match="o-1"):
        begin(driver, "r-3", "o-2")
    begin(driver, "r-3", "o-2", replace=True)
    assert driver.status()["id"] == "o-2"
    assert (driver.status("o-1")["state"], driver.status("o-1")["weight"]) == ("replaced", 0)


def test_replacing_nothing_is_starting(driver: RolloutDriver) -> None:
    """`--replace` does not need something to replace."""
    assert begin(driver, replace=True) == "o-1"


def test_the_champion_is_not_rolled_out_against_itself(environment: Environment) -> None:
    """Nor anything where nobody serves yet."""
    with pytest.raises(Conflict):
        begin(environment.driver, "r-1")
    with pytest.raises(Conflict, match="champion"):
        begin(Environment(environment.kind, environment.cluster, champion=None).driver)


def test_a_refused_replacement_does_not_end_what_runs(driver: RolloutDriver) -> None:
    """The champion cannot be tried against itself, so the rollout that runs goes on."""
    begin(driver)
    with pytest.raises(Conflict):
        begin(driver, "r-1", "o-2", replace=True)
    assert (driver.status()["id"], driver.status()["state"]) == ("o-1", "running")


def test_a_freeze_stops_robots_only(environment: Environment) -> None:
    """A person may still start one."""
    environment.freeze()
    with pytest.raises(Conflict, match="black friday"):
        begin(environment.driver, by_hand=False)
    assert begin(environment.driver) == "o-1"


def test_after_a_promotion_the_next_one_starts_from_the_new_champion(driver: RolloutDriver) -> None:
    """Its stable arm is the canary of before."""
    begin(driver)
    driver.promote(full=True, reason="x")
    begin(driver, "r-3", "o-2")
    assert driver.status()["arms"]["stable"]["release"] == "r-2"


def test_a_release_that_was_never_registered_is_refused(driver: RolloutDriver) -> None:
    """A kill in the middle of a `ship` leaves such a one; also with `replace`, and what runs goes on."""
    begin(driver)
    for how in ({}, {"replace": True}):
        with pytest.raises(Conflict):
            begin(driver, "r-9", "o-2", **how)
    assert (driver.status()["id"], driver.status()["state"]) == ("o-1", "running")
    driver.abort("x")
    with pytest.raises(Conflict, match="r-9 was never registered"):
        begin(driver, "r-9", "o-3")
