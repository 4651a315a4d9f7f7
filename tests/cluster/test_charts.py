"""The charts by Helm on a real API server: they install, are taken as they are, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_world import CONFIG, ENV, MODEL

from tidegate.core import kube
from tidegate.core.kube import KINDS, Cluster
from tidegate.core.project import open_project
from tidegate.pipelines.manifests import from_config, helm

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

IMAGE = f"registry.example.org/demand@sha256:{1:064x}"
OURS = {"app.kubernetes.io/part-of": "tidegate"}


def run(*words: str) -> str:
    """Helm on the cluster of the test."""
    done = subprocess.run(["helm", *words], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout


def ours(cluster: Cluster) -> set[str]:
    """Every object in the namespace that carries our label."""
    served = [kind for kind in KINDS.values() if kind.namespaced and kind != kube.EVENT and cluster.serves(kind)]
    return {f"{kind.kind}/{one['metadata']['name']}" for kind in served for one in cluster.list(kind, OURS)}


@pytest.fixture
def values(cluster: Cluster, git_repo: Path) -> dict[str, Path]:
    """Values of both charts, as tidegate makes them of a project."""
    text = CONFIG.format(namespace=cluster.namespace, repository="registry.example.org/demand", store="s3://b/p")
    (git_repo / "tidegate.yaml").write_text(text)
    project = open_project(git_repo, ENV)
    deployment = from_config.Deployment(IMAGE, "r-0123456789", 1)
    made: dict[str, dict[str, Any]] = {
        "tidegate": from_config.platform_values(project),
        "tidegate-model": from_config.model_values(project, deployment),
    }
    files = {}
    for name, content in made.items():
        files[name] = git_repo / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump(content))
    return files


def test_helm_installs_both_charts_and_uninstalls_without_a_trace(cluster: Cluster, values: dict[str, Path]) -> None:
    """An upgrade with the same values changes nothing that matters; afterwards no object of ours is left."""
    place = ("--namespace", cluster.namespace)
    for name, chart in (("tidegate", "tidegate"), (MODEL, "tidegate-model")):
        run("install", name, str(helm.chart(chart)), *place, "--values", str(values[chart]))
    there = ours(cluster)
    wanted = {
        "Rollout/demand",
        "HTTPRoute/demand",
        "Service/demand-stable",
        "Service/demand-canary",
        "Deployment/tidegate-judge",
        "AnalysisTemplate/tidegate-verdict",
        "AnalysisTemplate/tidegate-guard",
    }
    assert wanted <= there, wanted - there
    before = cluster.get(kube.ROLLOUT, MODEL)
    run("upgrade", MODEL, str(helm.chart("tidegate-model")), *place, "--values", str(values["tidegate-model"]))
    after = cluster.get(kube.ROLLOUT, MODEL)
    assert before is not None
    assert after is not None
    assert after["spec"]["template"] == before["spec"]["template"]
    for name in (MODEL, "tidegate"):
        run("uninstall", name, *place, "--wait", "--timeout", "120s")
    assert {one for one in ours(cluster) if not one.startswith(("Pod/", "ReplicaSet/"))} == set()
