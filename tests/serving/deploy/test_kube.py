"""Revisions on a cluster: what its ReplicaSets and pods say runs, and who may start and stop them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_api import KubeApi, kubeconfig, serving
from kube_argo import Argo, documents

from tidegate.core.errors import Conflict
from tidegate.core.kube import POD, REPLICA_SET, Cluster
from tidegate.serving.deploy import Revision, Running
from tidegate.serving.deploy.kube import KubeDeployer, object_name, put


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with serving(KubeApi()) as server:
        Argo(server)
        yield server


@pytest.fixture
def cluster(api: KubeApi, tmp_path: Path) -> Cluster:
    return Cluster("fake", "default", kubeconfig(tmp_path, api))


@pytest.fixture
def deployer(cluster: Cluster) -> KubeDeployer:
    return KubeDeployer(cluster, "demand")


def test_what_runs_is_read_from_replica_sets(cluster: Cluster, deployer: KubeDeployer) -> None:
    """The release and version are those of the pod template; champion and canary are two revisions."""
    put(cluster, documents("r-1", version=7))
    put(cluster, documents("r-2", version=8))
    assert deployer.running() == (Running("r-1", 7, 0, 3000, ready=True), Running("r-2", 8, 0, 3000, ready=True))
    assert deployer.find("r-3") is None


def test_a_revision_is_ready_when_all_its_pods_are(api: KubeApi, cluster: Cluster, deployer: KubeDeployer) -> None:
    """One of two answers: it is not ready; none lives: it does not run."""
    put(cluster, documents("r-1"))
    (one,) = api.all(REPLICA_SET)
    one["spec"]["replicas"] = 2
    api.write(REPLICA_SET, one)
    found = deployer.find("r-1")
    assert found is not None
    assert not found.ready
    (pod,) = api.all(POD)
    pod["status"]["phase"] = "Failed"
    api.write(POD, pod)
    assert deployer.running() == ()


def test_only_argo_starts_and_stops(cluster: Cluster, deployer: KubeDeployer, tmp_path: Path) -> None:
    """What is so already is accepted; everything else says which command does it."""
    with pytest.raises(Conflict, match="r-1 does not run") as caught:
        deployer.start(Revision("r-1", 7, tmp_path))
    assert "tidegate rollback r-1" in caught.value.hint
    put(cluster, documents("r-1"))
    deployer.start(Revision("r-1", 7, tmp_path))
    with pytest.raises(Conflict, match="r-1 runs"):
        deployer.stop("r-1")
    deployer.stop("r-2")
    assert deployer.end_unrecorded() == 0


@pytest.mark.parametrize(("model", "name"), [("demand", "demand"), ("My_Model 2", "my-model-2"), ("x" * 80, "x" * 52)])
def test_objects_are_called_as_the_chart_calls_them(model: str, name: str) -> None:
    """A DNS label, whatever the model's name."""
    assert object_name(model) == name
