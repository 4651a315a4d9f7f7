"""A project that a cluster could work on: a bare repository, a shared DVC remote, a store in a bucket."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tidegate.core import git
from tidegate.core.project import Project, open_project

IMAGE = "ghcr.io/acme/demand-trainer@sha256:" + "a" * 64
ENVIRONMENT = """
environments:
  prod:
    kind: kubernetes
    namespace: models
    store: {store}
    mlflow: http://mlflow.example
    gate: {{latency_p99: null}}
    train: {{image: {image}, resources: {{cpu: 4, memory: 16Gi, gpu: 1}}}}
"""


@dataclass
class Site:
    """The project here, and what pods share of it."""

    project: Project
    remote: Path
    secret: dict[str, str]

    @property
    def revision(self) -> str:
        """The commit that is checked out and pushed."""
        return git.head(self.project.root)

    def documents(self) -> dict[str, dict[str, Any]]:
        """Workflow objects by the name of their flow."""
        from tidegate.pipelines.workflows import workflow_documents

        found = workflow_documents(self.project)
        return {one["metadata"]["labels"].get("tidegate.dev/flow", one["metadata"]["name"]): one for one in found}

    def commit(self, message: str) -> None:
        """Commit everything and push it."""
        root = self.project.root
        git.git(root, "add", "--all")
        git.git(root, "commit", "--quiet", "--message", message)
        git.git(root, "push", "--quiet", "origin", "HEAD:main")
        self.project = open_project(root, "prod")


Build = Callable[[str], Site]


@pytest.fixture
def build_site(written: Path, tmp_path: Path) -> Build:
    """Make the site around a store's address."""

    def build(store: str) -> Site:
        root, remote, shared = tmp_path / "mine", tmp_path / "remote.git", tmp_path / "shared"
        shutil.copytree(written, root, symlinks=True)
        subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
        git.git(root, "remote", "add", "origin", str(remote))
        (shared / "dvc").mkdir(parents=True)
        shutil.move(root / ".tidegate" / "mlflow.db", shared / "mlflow.db")
        shutil.rmtree(root / ".tidegate")
        settings = root / ".dvc" / "config"
        settings.write_text(settings.read_text().replace(".tidegate/dvc-remote", f"{shared}/dvc").replace("../", ""))
        (root / ".dvcignore").write_text("__pycache__\n")  # as `init` writes it
        file = root / "tidegate.yaml"
        file.write_text(file.read_text() + ENVIRONMENT.format(store=store, image=IMAGE))
        secret = {"MLFLOW_TRACKING_URI": f"sqlite:///{shared}/mlflow.db"}
        site = Site(open_project(root, "prod"), remote, secret)
        site.commit("Go to the cluster")
        return site

    return build
