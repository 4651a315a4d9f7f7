"""A Kubernetes environment whose cluster and store are of this process."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from fakes import MemoryStore
from kube_api import KubeApi, kubeconfig, serving
from kube_argo import Argo, documents

from tidegate.core.kube import Cluster
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.manifests import apply as applying
from tidegate.registry.ledger import Draft, Ledger
from tidegate.rollouts.drivers.kube import KubeDriver

CONFIG = """
model: demand
data: {path: train.csv, target: class}
environments:
  prod: {kind: kubernetes, context: fake, store: "s3://acme/tidegate"}
"""
LABELS = {
    "app.kubernetes.io/part-of": "tidegate",
    "app.kubernetes.io/managed-by": "tidegate",
    "tidegate.dev/environment": "prod",
    "tidegate.dev/model": "demand",
}
Document = dict[str, Any]


class InMemory(Environment):
    """An environment whose cluster and store are of this process."""

    memory: MemoryStore
    reached: Cluster

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.memory, self.stream)

    @cached_property
    def cluster(self) -> Cluster:
        return self.reached

    @cached_property
    def kube_driver(self) -> KubeDriver:
        return KubeDriver(self.ledger, self.memory, 60.0, self.cluster, "demand", render=rendered, patience=1.0)


@dataclass
class World:
    """What is applied to, and what applies."""

    api: KubeApi
    environment: InMemory

    def apply(self, *documents: Document, force: bool = False) -> applying.Applied:
        return applying.apply(self.environment, documents, platform=False, force=force)

    def diff(self, *documents: Document) -> dict[str, str]:
        found, _ = applying.diff(self.environment, documents, platform=False)
        return {one.object: one.change for one in found}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "tidegate.yaml").write_text(CONFIG)
    with serving(KubeApi()) as api:
        Argo(api)
        environment = InMemory(open_project(tmp_path, "prod"))
        object.__setattr__(environment, "memory", MemoryStore())
        object.__setattr__(environment, "reached", Cluster("fake", "default", kubeconfig(tmp_path, api), patience=3.0))
        for number in (1, 2):
            data = {"release": f"r-{number}", "version": number, "run_id": "x"}
            environment.ledger.append(lambda _, data=data: Draft("registered", data))  # type: ignore[misc]  # a default
        environment.ledger.append(lambda _: Draft("deployed", {"release": "r-1"}))
        yield World(api, environment)


def labelled(document: Document) -> Document:
    """With the labels that the chart puts on everything."""
    made = copy.deepcopy(document)
    made["metadata"]["labels"] = {**made["metadata"].get("labels", {}), **LABELS}
    return made


def rendered(release: str, plan: Any) -> list[Document]:
    """The objects of a release."""
    return [labelled(one) for one in documents(release, plan)]


def service(name: str = "demand-stable", port: int = 3000) -> Document:
    """One of the smaller objects."""
    ports = [{"name": "http", "port": port}]
    return labelled({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}})
