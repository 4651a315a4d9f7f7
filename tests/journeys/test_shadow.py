"""Copied traffic before the first step: the canary is compared, and nobody is answered by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from journeys.journey import Journey, Load, wait_until

from tidegate.pipelines.bundles import bundle_of
from tidegate.registry import releases
from tidegate.serving.service.model import Answer, Model

pytestmark = pytest.mark.long


@contextmanager
def shadowing(stack: Journey, release: str) -> Iterator[Load]:
    """Traffic, and a rollout whose canary is ready for copies."""
    with stack.traffic() as load:
        wait_until(lambda: load.report.users > 60, "no users come")
        said = stack.must("rollout", "start", release)
        assert "begins with copied traffic only" in said.stdout
        stack.wait_for_canary_process()
        yield load


def answers(stack: Journey, release: str) -> Answer:
    """What a release's model answers to every row that the traffic sends, asked without any server."""
    environment = stack.environment
    model = Model(bundle_of(environment.project, releases.load(environment.store, release)))
    return model.plain(model.schema.check([row for body in stack.bodies for row in json.loads(body)["rows"]]))


def test_a_canary_that_fails_its_copies_is_rolled_back_before_any_user_met_it(stack: Journey) -> None:
    """Within seconds of a phase of minutes, with its reason; no user sees an error."""
    stack.configure(shadow="true", step="{min: 10m, max: 20m}")
    champion, release = stack.champion, stack.other()
    with shadowing(stack, release) as load:
        stack.fault(release, fail=1.0)
        over = stack.ended()
        stack.settled()
    assert (over.state, stack.champion) == ("rolled_back", champion), over
    assert "copied requests to the canary failed within" in over.reasons[0]
    assert [(one.weight, one.units["canary"]) for one in over.results] == [(0, 0)]
    assert over.shadow is not None
    assert over.shadow["failures"]["canary"] >= 20 > over.shadow["failures"]["stable"]
    assert {one.arm for one in stack.log() if one.rollout == over.id} == {"stable"}
    assert (load.report.failed, set(load.report.statuses)) == (0, {200})
    wait_until(lambda: not stack.environment.pairs_dir.exists(), "the pairs are not removed")


def test_a_canary_that_answers_otherwise_waits_for_a_person_with_the_right_numbers(stack: Journey) -> None:
    """Whatever is killed meanwhile: what was compared is what the two models answer to those rows."""
    stack.configure(shadow="true", step="{min: 6s, max: 2m}")
    champion, release = stack.champion, stack.other()
    stack.fault(release, flip=1)
    with shadowing(stack, release) as load:
        stack.kill("up", "gateway")
        stack.up()
        watched = stack.cli("rollout", "watch", "--timeout", "1s", "--json")
        assert (watched.exit_code, json.loads(watched.stdout.splitlines()[-1])["weight"]) == (5, 0)
        wait_until(lambda: stack.rollout.state == "held", lambda: str(stack.environment.driver.status()))
        assert (stack.rollout.shadowing, "disagree about most" in stack.rollout.reasons[0]) == (True, True)
        stack.must("rollout", "promote")
        wait_until(lambda: not stack.rollout.shadowing, lambda: str(stack.environment.driver.status()))
        assert stack.rollout.open, stack.rollout
        stack.wait_for_canary()
        shipped = stack.cli("ship", "--release", release, "--timeout", "100ms", "--json")
        status = stack.must("rollout", "status")
        stack.must("rollout", "abort")
    shadow = stack.rollout.shadow
    assert shadow is not None
    ours, theirs = answers(stack, champion), answers(stack, release)
    pairs = zip(ours.predictions, theirs.predictions, strict=True)
    different = sum(before != 1 - after for before, after in pairs) / len(ours.predictions)
    assert shadow["different"] == pytest.approx(different, abs=0.03)
    rows = zip(ours.probabilities or (), theirs.probabilities or (), strict=True)
    distance = sum(abs(before[1] - after[1]) for before, after in rows) / len(ours.predictions)
    assert shadow["score_difference"] == pytest.approx(distance, rel=0.25, abs=1e-4)
    assert shadow["requests"] == shadow["rows"] > 200
    assert (shadow["failures"], shadow["refused"]) == ({"stable": 0, "canary": 0}, 0)
    assert 0 < shadow["latency"]["canary"]["p50"] <= shadow["latency"]["canary"]["p99"] < 2
    assert shipped.json["rollout"]["shadow"] == shadow
    assert f"shadow phase: {shadow['sentence']}" in status.stdout
    # On a busy machine the first step may be over before the abort is typed.
    weights = [one.weight for one in stack.rollout.results]
    assert weights in ([0, 20], [0, 20, 50])
    rollout = stack.rollout.id
    met = [one for one in stack.log() if one.rollout == rollout and one.arm == "canary"]
    assert {one.weight for one in met} <= set(weights[1:])
    assert stack.switched_back(rollout) == []
    assert 500 not in load.report.statuses
