"""A retrain as a Workflow that a real Argo Workflows runs; what its pods would leave is reported for them."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from cluster_world import ENV, World, until

from tidegate.core import kube
from tidegate.core.errors import TidegateError
from tidegate.core.kube import Cluster, Kind
from tidegate.core.project import open_project
from tidegate.pipelines import dag
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.runners.kube import KubeRunner
from tidegate.pipelines.workflows import workflow_documents

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

IMAGE = f"registry.example.org/trainer@sha256:{7:064x}"
RESULT = Kind("argoproj.io/v1alpha1", "WorkflowTaskResult", "workflowtaskresults")
LEFT = {
    "goes_on": dag.YES, "data": "0123456789abcdef0123456789abcdef", "fresh": dag.YES, "contract": dag.PASSED,
    "run_id": "r" * 32, "gate": dag.REFUSED, "outcome": "refused",
}  # fmt: skip
PODS_RUN = os.environ.get("TIDEGATE_TEST_IMAGE", "")


@pytest.fixture
def runner(world: World) -> KubeRunner:
    """The model's WorkflowTemplates in the namespace, and who starts them."""
    if not world.cluster.serves(kube.WORKFLOW):
        pytest.skip("the cluster serves no Workflow: Argo Workflows is not installed")
    if PODS_RUN:
        pytest.skip("pods run here (TIDEGATE_TEST_IMAGE), and would clone a repository that this test made up")
    config = world.project / "tidegate.yaml"
    text = config.read_text().replace("http://127.0.0.1:9", "https://mlflow.example.org")
    config.write_text(f"{text}train: {{entrypoint: train.py:train, image: {IMAGE}}}\n")
    for command in (
        ("remote", "add", "origin", "https://git.example.org/acme/demand.git"),
        ("add", "-A"),
        ("commit", "--quiet", "--message", "a project"),
    ):
        subprocess.run(["git", "-C", str(world.project), *command], check=True, capture_output=True)
    project = open_project(world.project, ENV)
    for document in workflow_documents(project):
        world.cluster.apply(document)
    return KubeRunner(world.cluster, Environment(project))


@contextmanager
def reported(cluster: Cluster) -> Iterator[list[str]]:
    """For every pod of a Workflow, the result that Argo's own container beside the step would report."""
    done: list[str] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.1):
            with suppress(TidegateError):
                for pod in cluster.list(kube.POD):
                    labels = pod["metadata"].get("labels") or {}
                    if "workflows.argoproj.io/workflow" in labels and pod["metadata"]["name"] not in done:
                        report(cluster, pod)
                        done.append(pod["metadata"]["name"])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join(10)


def report(cluster: Cluster, pod: dict[str, Any]) -> None:
    """The outputs of one step, by the names that its template promises."""
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    told = {one["name"]: one.get("value", "") for container in containers for one in container.get("env", [])}
    template = json.loads(told["ARGO_TEMPLATE"])
    promised = (template.get("outputs") or {}).get("parameters") or []
    outputs = {"parameters": [{"name": one["name"], "value": LEFT[one["name"]]} for one in promised]}
    workflow = pod["metadata"]["labels"]["workflows.argoproj.io/workflow"]
    labels = {
        "workflows.argoproj.io/workflow": workflow,
        "workflows.argoproj.io/report-outputs-completed": "true",
    }
    metadata = {"name": told["ARGO_NODE_ID"], "labels": labels}
    cluster.create({
        "apiVersion": RESULT.api_version, "kind": RESULT.kind, "metadata": metadata,
        **({"outputs": outputs} if promised else {}),
    })  # fmt: skip


def test_a_retrain_that_the_gate_refuses_ends_without_a_release(runner: KubeRunner) -> None:
    """Argo runs the steps one after the other, passes their references on, and leaves out what the gate refused."""
    commit = subprocess.run(
        ["git", "-C", str(runner.environment.project.root), "rev-parse", "HEAD"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    with reported(runner.cluster):
        started = runner.start(dag.RETRAIN, {"reason": "somebody asked", "window": ""}, commit)
        again = runner.start(dag.RETRAIN, {"reason": "somebody asked", "window": ""}, commit)
        assert again.uid == started.uid, "asked twice, it runs once"
        try:
            until("a look of Argo's controller", lambda: runner.find(started.name).phase, 60)
        except AssertionError:
            pytest.skip("no controller of Argo Workflows looks at this cluster's Workflows")
        found = until("the end of the Workflow", lambda: (one := runner.find(started.name)).ended and one)
    phases = {one.name: one.phase for one in found.steps}
    assert found.phase == "Succeeded", found
    assert [phases[name] for name in ("begin", "data", "contract", "train", "evaluate", "gate")] == ["Succeeded"] * 6
    assert {phases.get(name) for name in ("register", "package", "compare")} <= {"Skipped", "Omitted"}
    assert found.given["gate"] == dag.REFUSED
