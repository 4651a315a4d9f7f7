"""Workflows of a cluster, by an API server that fails as the real one does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_api import Fault, KubeApi, kubeconfig, serving

from tidegate.core.errors import Conflict, Permanent, UsageError
from tidegate.core.kube import POD, WORKFLOW, WORKFLOW_TEMPLATE, Cluster
from tidegate.core.progress import Silent
from tidegate.core.project import open_project
from tidegate.pipelines import ended_flow
from tidegate.pipelines.dag import RELEASE, RETRAIN
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.runners import LeftRunning
from tidegate.pipelines.runners.kube import KubeRunner, runner
from tidegate.registry.ledger import Draft

CONFIG = """
version: 1
model: demand
data: {path: data/train.csv, target: class}
environments:
  prod: {kind: kubernetes, store: .tidegate/store}
"""


@pytest.fixture
def api() -> Iterator[KubeApi]:
    """A cluster with the model's templates."""
    made = KubeApi()
    with serving(made):
        for flow in ("release", "retrain"):
            template = {"apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTemplate"}
            made.write(WORKFLOW_TEMPLATE, {**template, "metadata": {"name": f"tidegate-{flow}-demand"}})
        yield made


@pytest.fixture
def kube(api: KubeApi, tmp_path: Path) -> KubeRunner:
    """The runner of one model there."""
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    cluster = Cluster("fake", "default", kubeconfig(tmp_path, api), patience=5.0)
    return KubeRunner(cluster, Environment(open_project(tmp_path, "prod")))


def put_status(api: KubeApi, name: str, phase: str, **nodes: str) -> None:
    """Write what Argo would: `nodes` are phases of steps."""
    found = api.read(WORKFLOW, name)
    assert found is not None
    made = {
        f"{name}-{number}": {"id": f"{name}-{number}", "displayName": step, "type": "Pod", "phase": state}
        for number, (step, state) in enumerate(nodes.items())
    }
    api.write(WORKFLOW, {**found, "status": {"phase": phase, "nodes": made}})


def kinds(kube: KubeRunner) -> list[str]:
    """Kinds of the ledger's events."""
    return [one.kind for one in kube.environment.ledger.events()]


def test_eight_who_submit_the_same_make_one_workflow(api: KubeApi, kube: KubeRunner) -> None:
    """At the same moment, and one answer gets lost on its way."""
    api.faults.append(Fault(lambda method, path: method == "POST" and "workflows" in path, lost=True))
    started: list[str] = []
    barrier = threading.Barrier(8)

    def submit() -> None:
        barrier.wait()
        started.append(kube.start(RELEASE, {}, "c0ffee").name)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(started) == 8
    assert len(set(started)) == 1
    assert [one["metadata"]["name"] for one in api.all(WORKFLOW)] == started[:1]


def test_eight_who_find_a_failed_one_make_one_new_workflow(api: KubeApi, kube: KubeRunner) -> None:
    """It is deleted by its uid, so nobody deletes what another made in its place."""
    first = kube.start(RELEASE, {}, "c0ffee")
    put_status(api, first.name, "Failed", contract="Failed")
    found: list[str] = []
    barrier = threading.Barrier(8)

    def submit() -> None:
        barrier.wait()
        found.append(kube.start(RELEASE, {}, "c0ffee").uid)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    (left,) = api.all(WORKFLOW)
    assert set(found) == {left["metadata"]["uid"]} != {first.uid}


def test_another_champion_is_another_question(kube: KubeRunner) -> None:
    """The same commit may pass a gate that it did not pass before."""
    first = kube.start(RELEASE, {}, "c0ffee")
    data = {"release": "r-1", "version": 1, "run_id": "run"}
    for kind in ("registered", "deployed"):
        kube.environment.ledger.append(lambda _, kind=kind: Draft(kind, data))
    assert kube.start(RELEASE, {}, "c0ffee").name != first.name


def test_a_workflow_says_what_it_works_on(api: KubeApi, kube: KubeRunner) -> None:
    """By references: a commit and words; everything else is the template's."""
    started = kube.start(RETRAIN, {"reason": "drift", "window": "w1"}, "c0ffee")
    made = api.read(WORKFLOW, started.name)
    assert made is not None
    assert made["spec"] == {
        "workflowTemplateRef": {"name": "tidegate-retrain-demand"},
        "arguments": {
            "parameters": [
                {"name": "revision", "value": "c0ffee"},
                {"name": "reason", "value": "drift"},
                {"name": "window", "value": "w1"},
            ]
        },
    }


def test_a_cluster_without_the_template_is_told_what_brings_it(api: KubeApi, kube: KubeRunner) -> None:
    """No Workflow is left that could never run."""
    kube.cluster.delete(WORKFLOW_TEMPLATE, "tidegate-release-demand")
    with pytest.raises(UsageError, match="no WorkflowTemplate tidegate-release-demand") as refused:
        kube.start(RELEASE, {}, "c0ffee")
    assert "tidegate apply --env prod" in refused.value.hint
    assert api.all(WORKFLOW) == []


def test_who_may_not_create_workflows_is_told_so(api: KubeApi, kube: KubeRunner) -> None:
    """Verb and kind, as RBAC calls them."""
    api.denied.add(("create", "workflows"))
    with pytest.raises(Permanent, match=r"create.*workflows"):
        kube.start(RELEASE, {}, "c0ffee")


def test_following_survives_a_busy_server_and_a_lost_history(api: KubeApi, kube: KubeRunner) -> None:
    """429, 503, a watch that is cut, and 410: the end is seen all the same."""
    name = kube.start(RELEASE, {}, "c0ffee").name
    api.faults += [
        Fault(lambda method, path: method == "GET" and "workflows" in path, 429, {"Retry-After": "0"}, times=2),
        Fault(lambda method, path: method == "GET" and "workflows" in path, 503, times=2),
    ]
    api.cut_watches_after.append(0)

    def work() -> None:
        put_status(api, name, "Running", contract="Running")
        api.forget()
        put_status(api, name, "Succeeded", contract="Succeeded", train="Succeeded")

    later = threading.Timer(1.0, work)
    later.start()
    done = kube.follow(name, Silent(), 30.0)
    later.join()
    assert (done.phase, [(one.name, one.phase) for one in done.steps]) == (
        "Succeeded",
        [("contract", "Succeeded"), ("train", "Succeeded")],
    )


def test_a_timeout_leaves_it_running(kube: KubeRunner) -> None:
    """It is not said to have ended."""
    name = kube.start(RELEASE, {}, "c0ffee").name
    assert not kube.follow(name, Silent(), 0.0).ended


def test_ctrl_c_leaves_it_running(kube: KubeRunner, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command line says how to follow and how to cancel."""
    from tidegate.cli.interrupted import left_running

    name = kube.start(RELEASE, {}, "c0ffee").name

    def interrupted(*_: Any, **__: Any) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cluster, "watch", interrupted)
    with pytest.raises(LeftRunning) as stop:
        kube.follow(name, Silent())
    assert stop.value.workflow == name
    assert "shutdown" not in (api.read(WORKFLOW, name) or {})["spec"]
    said = left_running(kube.environment, name)
    assert f"tidegate workflow cancel --env prod {name}" in said.hint


def test_a_workflow_that_somebody_deletes_is_not_followed_for_ever(kube: KubeRunner, api: KubeApi) -> None:
    """Nor is it said to have ended well."""
    name = kube.start(RELEASE, {}, "c0ffee").name
    kube.cluster.delete(WORKFLOW, name)
    with pytest.raises(Conflict, match="was deleted"):
        kube.follow(name, Silent(), 1.0)


def test_cancelling_is_in_the_ledger_with_whoever_did_it(kube: KubeRunner, api: KubeApi) -> None:
    """Once: the exit hook that Argo then runs finds it written. What has ended cannot be cancelled."""
    running = kube.start(RELEASE, {}, "c0ffee")
    kube.cancel(running.name, "wrong branch")
    assert (api.read(WORKFLOW, running.name) or {})["spec"]["shutdown"] == "Stop"
    told = {"workflow": running.name, "uid": running.uid, "status": "Failed", "failures": "null"}
    ended_flow.record(kube.environment, "release", told)
    (event,) = kube.environment.ledger.events()
    assert (event.kind, event.data["outcome"], event.data["reasons"]) == (
        "flow_ended", "was cancelled", ["wrong branch"],
    )  # fmt: skip
    put_status(api, running.name, "Failed")
    with pytest.raises(Conflict, match="has ended already"):
        kube.cancel(running.name, "again")


@pytest.mark.parametrize(
    ("failures", "outcome", "reasons"),
    [
        (
            '[{"displayName":"train","message":"OOMKilled (exit code 137)"}]',
            "failed",
            ["train: OOMKilled (exit code 137)"],
        ),
        (
            '"[{\\"displayName\\":\\"train\\",\\"message\\":\\"workflow shutdown with strategy: Stop\\"}]"',
            "was cancelled",
            ["train: workflow shutdown with strategy: Stop"],
        ),
        ("{{workflow.failures}}", "failed", ["workflow: {{workflow.failures}}"]),
        ('"null"', "failed", []),
    ],
)
def test_the_exit_hook_understands_what_argo_says(
    kube: KubeRunner, failures: str, outcome: str, reasons: list[str]
) -> None:
    """A list, a list within a string, nothing at all; a stop by a person is told from a failure."""
    told = {"workflow": "w", "uid": "u", "status": "Failed", "failures": failures}
    for _ in range(2):
        ended_flow.record(kube.environment, "release", told)
    (event,) = kube.environment.ledger.events()
    assert (event.data["outcome"], event.data["reasons"]) == (outcome, reasons)


def test_a_flow_that_succeeded_leaves_no_event(kube: KubeRunner) -> None:
    """It has written its own."""
    ended_flow.record(kube.environment, "release", {"workflow": "w", "uid": "u", "status": "Succeeded"})
    assert kinds(kube) == []


def test_the_retrain_of_a_workflow_that_failed_has_ended(kube: KubeRunner) -> None:
    """So the next window may ask again."""
    ledger = kube.environment.ledger
    ledger.append(lambda _: Draft("retrain_started", {"retrain": "t-1", "reason": "drift"}))
    told = {"workflow": "w", "uid": "u", "status": "Failed", "failures": "null"}
    ended_flow.record(kube.environment, "retrain", told)
    assert kinds(kube) == ["retrain_started", "flow_ended", "retrain_ended"]
    assert kube.environment.state().retrains[-1].reasons == ("the Workflow w failed",)


def test_logs_come_in_the_order_of_the_steps(kube: KubeRunner, api: KubeApi) -> None:
    """Of one step, or of all whose pods are still there."""
    name = kube.start(RELEASE, {}, "c0ffee").name
    put_status(api, name, "Running", train="Running", contract="Succeeded")
    pods = {"train": f"{name}-train-0", "contract": f"{name}-contract-1"}
    for step, pod in pods.items():
        metadata = {"name": pod, "labels": {}}
        api.write(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata})
        api.logs[pod, "main"] = [("2026-11-25T04:00:00.0Z", f"{step} says hello")]
    assert list(kube.logs(name)) == [("contract", "contract says hello"), ("train", "train says hello")]
    assert list(kube.logs(name, "train")) == [("train", "train says hello")]
    with pytest.raises(UsageError, match="No such step"):
        list(kube.logs(name, "package"))


def test_another_model_in_the_namespace_is_none_of_ours(kube: KubeRunner, api: KubeApi) -> None:
    """Not listed, not cancelled."""
    labels = {"tidegate.dev/model": "other", "tidegate.dev/environment": "prod"}
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
    api.write(WORKFLOW, {**workflow, "metadata": {"name": "theirs", "labels": labels}, "spec": {}})
    assert kube.all() == []
    with pytest.raises(UsageError, match="no Workflow theirs of demand"):
        kube.cancel("theirs", "mine")


def test_this_machine_has_no_workflows(kube: KubeRunner) -> None:
    """`--env` is what is missing."""
    with pytest.raises(UsageError, match="is this machine"):
        runner(Environment(open_project(kube.environment.project.root)))
