"""A real cluster, named by TIDEGATE_TEST_KUBECONFIG; without it every test here is skipped.

TIDEGATE_TEST_JUDGE_HOST is the address of this machine that the cluster's controllers reach (default 127.0.0.1, for a
control plane that runs beside the tests); TIDEGATE_TEST_IMAGE, as REPOSITORY@sha256:DIGEST, an image of a model that
nodes can pull, where pods really run; TIDEGATE_TEST_PATIENCE how many seconds anything is waited for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_world import CONFIG, ENV, LABELS, TOKEN, Judge, World, until

from tidegate.core import kube
from tidegate.core.kube import Cluster
from tidegate.core.project import open_project
from tidegate.pipelines.manifests import render
from tidegate.serving.deploy.kube import put
from tidegate.serving.deploy.local import free_port

# Before a test's own machine forgets every variable of ours.
KUBECONFIG = os.environ.get("TIDEGATE_TEST_KUBECONFIG", "")
HOST = os.environ.get("TIDEGATE_TEST_JUDGE_HOST", "127.0.0.1")
IMAGE = os.environ.get("TIDEGATE_TEST_IMAGE", "")
MADE_UP = "registry.example.org/demand"


@pytest.fixture
def kubeconfig(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cluster's kubeconfig, and helm."""
    if not KUBECONFIG:
        pytest.skip("TIDEGATE_TEST_KUBECONFIG names no cluster")
    if shutil.which("helm") is None:
        pytest.skip("there is no helm on PATH, and it fills in the charts")
    monkeypatch.setenv("KUBECONFIG", KUBECONFIG)
    return Path(KUBECONFIG)


@pytest.fixture
def cluster(kubeconfig: Path) -> Iterator[Cluster]:
    """A namespace of its own, which takes only pods without privileges; gone afterwards, with all that is in it."""
    name = f"tidegate-test-{uuid.uuid4().hex[:8]}"
    opened = Cluster(None, name, kubeconfig)
    for kind, bringer in ((kube.ROLLOUT, "Argo Rollouts"), (kube.HTTP_ROUTE, "the Gateway API"),
                          (kube.BACKEND_TRAFFIC_POLICY, "Envoy Gateway")):  # fmt: skip
        if not opened.serves(kind):
            pytest.skip(f"the cluster serves no {kind.kind}: {bringer} is not installed")
    opened.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": LABELS}})
    try:
        # Pods need the account that a controller makes in every new namespace.
        until("the default ServiceAccount", lambda: opened.get(kube.SERVICE_ACCOUNT, "default"), 60)
        yield opened
    finally:
        opened.delete(kube.NAMESPACE, name)
        until("the end of the namespace", lambda: opened.get(kube.NAMESPACE, name) is None, 120)


@pytest.fixture
def world(cluster: Cluster, git_repo: Path, s3: str) -> Iterator[World]:
    """The platform's objects in the namespace, and a judge that its analyses ask."""
    repository = IMAGE.partition("@")[0] or MADE_UP
    text = CONFIG.format(namespace=cluster.namespace, repository=repository, store=s3)
    (git_repo / "tidegate.yaml").write_text(text)
    judge = Judge(git_repo, HOST, free_port())
    made = World(cluster, git_repo, judge, IMAGE or MADE_UP)
    cluster.apply({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tidegate-judge"}, "stringData": {"token": TOKEN},
    })  # fmt: skip
    over = {"analysisTemplates": {"judgeUrl": judge.url}, "console": {"enabled": False}}
    put(cluster, render.platform_documents(open_project(git_repo, ENV), over))
    judge.start()
    try:
        yield made
    finally:
        judge.kill()
        with contextlib.suppress(Exception):
            cluster.delete(kube.ROLLOUT, "demand")
