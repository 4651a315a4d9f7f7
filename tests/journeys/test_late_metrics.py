"""Labels and outcomes that come after the answers decide a rollout: a real gateway, two real releases, a real store."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from journeys.journey import Journey, wait_until

from tidegate.serving.labels import answered, ingest_labels, ingest_outcomes

pytestmark = pytest.mark.long

ACCURACY = ", {metric: accuracy, harm: {ratio: 1.1, margin: 0.05}, safe: {ratio: 1.1, margin: 0.25}}"
EQUAL = {"stable": 0.9, "canary": 0.9}


class World(threading.Thread):
    """What happens after the answers: labels within a second or two, and some users convert.

    Args:
        journey: whose answers they are.
        right: share of right predictions of each arm.
        converts: share of users of each arm who convert.
    """

    def __init__(self, journey: Journey, right: Mapping[str, float], converts: Mapping[str, float]) -> None:
        super().__init__(daemon=True)
        self.environment, self.right, self.converts = journey.environment, right, converts
        self.done, self._labelled, self._met = threading.Event(), set[str](), set[int]()
        self._since = datetime.now(UTC) - timedelta(seconds=1)

    def run(self) -> None:
        """Until `done`."""
        while not self.done.wait(0.5):
            self.tell(datetime.now(UTC))

    def tell(self, now: datetime) -> None:
        """Labels of the predictions that are new in the store, and outcomes of the users who are."""
        store, stream = self.environment.store, self.environment.stream
        with duckdb.connect() as connection:
            known = answered(connection, store, stream, self._since, now + timedelta(seconds=1))
            rows = known.project("id, arm, label, unit").fetchall()
        labels, outcomes = [], []
        for name, arm, label, unit in rows:
            if name not in self._labelled and arm in self.right:
                self._labelled.add(name)
                right = int(name[:4], 16) / 0x10000 < self.right[arm]
                labels.append({"prediction_id": name, "label": label if right else str(1 - int(label))})
            if unit is not None and unit not in self._met:
                self._met.add(unit)
                if unit % 1000 < 1000 * self.converts[arm]:
                    outcomes.append({"prediction_id": name, "name": "conversion", "at": now.isoformat()})
        ingest_labels(store, stream, labels, now)
        ingest_outcomes(store, stream, outcomes, now)


@contextlib.contextmanager
def happening(
    stack: Journey, right: Mapping[str, float], converts: Mapping[str, float] | None = None
) -> Iterator[None]:
    """Traffic with its labels and outcomes; the champion's are known well enough for a plan when the block begins."""
    with stack.traffic(rps=90, users_per_second=60) as load:
        world = World(stack, right, converts or {"stable": 0.2, "canary": 0.2})
        world.start()
        try:
            wait_until(lambda: load.report.users > 250, "no users come")
            wait_until(lambda: stack.cli("rollout", "plan", "--json").exit_code == 0, "no plan can be made")
            yield
        finally:
            world.done.set()
            world.join()


def test_a_canary_that_is_wrong_more_often_is_rolled_back_by_its_labels(stack: Journey) -> None:
    """It answers as fast and as soundly as the champion; only its labels tell, and the reason says so."""
    stack.configure(steps="[50]", also=ACCURACY)
    refused = stack.cli("rollout", "plan", "--units-per-minute", "1000")
    if refused.exit_code:
        assert "accuracy of the champion is not known" in refused.stderr
        assert "labels ingest" in refused.stderr
    champion = stack.champion
    with happening(stack, {"stable": 0.9, "canary": 0.5}):
        stack.must("rollout", "start", stack.other())
        over = stack.ended()
    assert (over.state, stack.champion) == ("rolled_back", champion), over
    assert over.reasons[0].startswith("accuracy of "), over.reasons


def test_an_equal_canary_with_more_conversions_is_promoted(stack: Journey) -> None:
    """Accuracy has proven it as good, the goal that it is better; the recorded blocks tell the same story again."""
    stack.configure(steps="[50]", also=ACCURACY, goal="{metric: conversion}", unit="{window: 3s}")
    release = stack.other()
    with happening(stack, EQUAL, {"stable": 0.15, "canary": 0.5}):
        stack.must("rollout", "start", release)
        over = stack.ended()
        stack.settled()
    assert (over.state, stack.champion) == ("promoted", release), over
    assert any(reason.startswith("conversion of ") for reason in over.reasons), over.reasons
    report = stack.must("rollout", "report", over.id, "--json", "--output", str(stack.root / "out.html")).json
    kept = {one["name"]: one for one in report["verdict"]["metrics"]}
    live = {one["name"]: one for one in stack.environment.driver.status(over.id)["metrics"]}
    assert report["verdict"]["decision"] == "promote"
    assert kept == live
    assert 0.5 < kept["accuracy"]["labelled"]["canary"] <= 1
