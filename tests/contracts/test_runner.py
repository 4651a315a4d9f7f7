"""The same flow gives the same references wherever it runs: in this process, in a cluster, in the fake."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeRunner
from kube_api import KubeApi, kubeconfig, serving

from tidegate.core.errors import Permanent, TidegateError
from tidegate.core.kube import WORKFLOW, WORKFLOW_TEMPLATE, Cluster
from tidegate.core.progress import Silent
from tidegate.core.project import open_project
from tidegate.pipelines.dag import PASSED, REFUSED, RELEASE, Flow, References, Work, walk
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.runners import Runner, require_done
from tidegate.pipelines.runners.kube import KubeRunner
from tidegate.pipelines.workflows import names

CONFIG = """
version: 1
model: demand
data: {path: data/train.csv, target: class}
environments:
  prod: {kind: kubernetes, store: .tidegate/store}
"""
WORK: Mapping[str, Work] = {
    "contract": lambda _: {"contract": PASSED},
    "train": lambda _: {"run_id": "r1"},
    "evaluate": lambda _: {},
    "gate": lambda taken: {"gate": PASSED if taken["run_id"] == "r1" else REFUSED},
    "register": lambda _: {"version": "7"},
    "package": lambda taken: {"release": f"release-of-{taken['run_id']}-{taken['version']}"},
}


def execute(document: dict[str, Any], flow: Flow, work: Mapping[str, Work]) -> dict[str, Any]:
    """The status that Argo would write after running the steps of a Workflow by `work`."""
    name = document["metadata"]["name"]
    nodes: dict[str, Any] = {}
    failed = False

    def noted(step: str) -> Work:
        def run(taken: References) -> References:
            node = {"id": f"{name}-{len(nodes)}", "displayName": step, "type": "Pod", "phase": "Failed"}
            nodes[node["id"]] = node
            try:
                made = work[step](taken)
            except TidegateError as error:
                node["message"] = error.message
                raise
            node["phase"] = "Succeeded"
            parameters = [{"name": key, "value": value} for key, value in made.items()]
            nodes[node["id"]] = {**node, "outputs": {"parameters": parameters}}
            return made

        return run

    given = {one["name"]: one["value"] for one in document["spec"]["arguments"]["parameters"]}
    try:
        walk(flow, {one.name: noted(one.name) for one in flow.steps}, {key: given.get(key, "") for key in flow.given})
    except TidegateError:
        failed = True
    return {"phase": "Failed" if failed else "Succeeded", "nodes": nodes}


class Controller(threading.Thread):
    """What Argo's controller does here: runs each new Workflow, and writes its status."""

    def __init__(self, api: KubeApi, work: Mapping[str, Work]) -> None:
        super().__init__(daemon=True)
        self.api, self.work, self.done = api, work, threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while not self.done.wait(0.02):
            for one in self.api.all(WORKFLOW):
                if not one.get("status"):
                    self.api.write(WORKFLOW, {**one, "status": execute(one, RELEASE, self.work)})


Ask = Callable[[Mapping[str, Work]], Runner]


@pytest.fixture(params=["kube", "fake"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ask]:
    """A runner whose steps do the given work."""
    if request.param == "fake":
        yield FakeRunner
        return
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    api = KubeApi()
    controllers: list[Controller] = []
    with serving(api):
        template = {"apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTemplate"}
        api.write(WORKFLOW_TEMPLATE, {**template, "metadata": {"name": names.of("release", "demand")}})

        def kube(work: Mapping[str, Work]) -> Runner:
            controllers.append(Controller(api, work))
            controllers[-1].start()
            cluster = Cluster("fake", "default", kubeconfig(tmp_path, api))
            return KubeRunner(cluster, Environment(open_project(tmp_path, "prod")))

        yield kube
        for one in controllers:
            one.done.set()
            one.join()


def run(runner: Runner) -> References:
    """Start, follow, take what it gave."""
    started = runner.start(RELEASE, {}, "c0ffee")
    return require_done(runner.follow(started.name, Silent(), 20.0))


def test_what_a_step_gives_reaches_those_after_it(ask: Ask) -> None:
    """Elsewhere and here."""
    here = walk(RELEASE, WORK, {})
    assert run(ask(WORK)) == here
    assert here["release"] == "release-of-r1-7"


def test_a_condition_that_does_not_hold_ends_a_flow_without_a_failure(ask: Ask) -> None:
    """The steps after it leave nothing."""
    work = {**WORK, "gate": lambda _: {"gate": REFUSED}}
    here = walk(RELEASE, work, {})
    assert run(ask(work)) == here
    assert here == {"contract": PASSED, "run_id": "r1", "gate": REFUSED}


def test_a_step_that_fails_ends_the_flow_with_its_words(ask: Ask) -> None:
    """Nothing after it begins."""
    begun: list[str] = []

    def broken(_: References) -> References:
        raise Permanent("out of memory")

    def register(_: References) -> References:
        begun.append("register")
        return {"version": "1"}

    work = {**WORK, "train": broken, "register": register}
    with pytest.raises(Permanent, match="out of memory"):
        walk(RELEASE, work, {})
    with pytest.raises(TidegateError, match=r"train: .*out of memory"):
        run(ask(work))
    assert begun == []


def test_who_asks_twice_gets_one_run(ask: Ask) -> None:
    """The same commit against the same champion is the same question."""
    trained: list[float] = []

    def train(_: References) -> References:
        trained.append(time.monotonic())
        return {"run_id": "r1"}

    runner = ask({**WORK, "train": train})
    first, second = runner.start(RELEASE, {}, "c0ffee"), runner.start(RELEASE, {}, "c0ffee")
    run(runner)
    other = runner.start(RELEASE, {}, "decade")
    runner.follow(other.name, Silent(), 20.0)
    assert first.name == second.name != other.name
    assert len(trained) == len(runner.all()) == 2


def test_a_run_that_failed_is_made_anew(ask: Ask) -> None:
    """What went wrong may be over; what its steps finished is found again by them."""
    broken = [True]

    def train(_: References) -> References:
        if broken:
            raise Permanent("no GPU")
        return {"run_id": "r1"}

    runner = ask({**WORK, "train": train})
    with pytest.raises(TidegateError, match="no GPU"):
        run(runner)
    broken.clear()
    assert run(runner)["release"] == "release-of-r1-7"
    assert len(runner.all()) == 1


def test_a_step_gives_what_it_promises() -> None:
    """Nothing less, so that no step after it works on an empty name; nothing more, so that the flow tells all."""
    for made in ({}, {"run_id": "r1", "secret": "s"}):
        with pytest.raises(Permanent, match="The step train gave"):
            walk(RELEASE, {**WORK, "train": lambda _, made=made: made}, {})
