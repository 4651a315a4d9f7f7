"""What every deployer promises: processes of this machine, pods of a cluster, and the fake that other tests use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeDeployer
from kube_api import KubeApi, kubeconfig, serving
from kube_argo import Argo

from tidegate.core.kube import Cluster
from tidegate.serving.deploy import Deployer, Revision, Running
from tidegate.serving.deploy.kube import KubeDeployer
from tidegate.serving.deploy.local import LocalDeployer

# On a cluster Argo Rollouts alone starts and stops pods, so these cases have no meaning there: what is promised instead
# is in tests/serving/deploy/test_kube.py and docs/decisions/0017-what-a-cluster-owns.md.
STARTING = ("local", "fake")


@pytest.fixture(params=["local", "kube", "fake"])
def deployer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployer]:
    found: Deployer = FakeDeployer()
    if request.param == "kube":
        with serving(KubeApi()) as api:
            Argo(api)
            yield KubeDeployer(Cluster("fake", "default", kubeconfig(tmp_path, api)), "demand")
        return
    if request.param == "local":
        found = LocalDeployer(tmp_path / "revisions", tmp_path / "logs")
    yield found
    for one in found.running():
        found.stop(one.release)


def ready(deployer: Deployer, release: str) -> Running:
    """Wait until it answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = deployer.find(release)
        assert found is not None, "it died"
        if found.ready:
            return found
        time.sleep(0.05)
    raise AssertionError("it does not get ready")


def test_nothing_runs_at_first(deployer: Deployer) -> None:
    """What never ran is not found, and stopping it is fine."""
    assert deployer.running() == ()
    assert deployer.find("r-1") is None
    deployer.stop("r-1")


@pytest.mark.parametrize("deployer", STARTING, indirect=True)
def test_a_revision_lives_from_start_to_stop(deployer: Deployer, bundle: Path) -> None:
    """Started twice it runs once; it gets ready, is listed with what it serves, and is gone after the stop."""
    began = time.monotonic()
    deployer.start(Revision("r-1", 7, bundle))
    assert time.monotonic() - began < 5, "start waits for readiness"
    first = deployer.find("r-1")
    assert first is not None
    deployer.start(Revision("r-1", 7, bundle))
    found = ready(deployer, "r-1")
    assert (found.release, found.version, found.pid, found.port) == ("r-1", 7, first.pid, first.port)
    assert [one.release for one in deployer.running()] == ["r-1"]
    deployer.stop("r-1")
    assert (deployer.find("r-1"), deployer.running()) == (None, ())
    deployer.stop("r-1")


@pytest.mark.parametrize("deployer", STARTING, indirect=True)
def test_revisions_do_not_share_a_process(deployer: Deployer, bundle: Path) -> None:
    """Two releases have two pids and two ports; stopping one leaves the other; a started one is a new process."""
    for release in ("r-1", "r-2"):
        deployer.start(Revision(release, 1, bundle))
    one, two = deployer.running()
    assert (one.release, two.release) == ("r-1", "r-2")
    assert len({one.pid, two.pid, one.port, two.port}) == 4
    deployer.stop("r-1")
    assert [found.release for found in deployer.running()] == ["r-2"]
    deployer.start(Revision("r-1", 1, bundle))
    again = deployer.find("r-1")
    assert again is not None
    assert again.pid != one.pid
