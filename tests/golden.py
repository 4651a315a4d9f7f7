"""The committed manifests: both charts filled in with each file of `values/`. `make charts` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tidegate.core.project import Project, open_project
from tidegate.pipelines.manifests import helm, render
from tidegate.pipelines.manifests.from_config import Deployment

HERE = Path(__file__).resolve().parent / "charts"
CHARTS = HERE.parent.parent / "charts"
NAMES = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
NAMESPACE = "models"


def values(name: str) -> dict[str, Any]:
    """A set of values, by the name of its file."""
    content: dict[str, Any] = yaml.safe_load((HERE / "values" / f"{name}.yaml").read_text())
    return content


def filled(chart: str, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A chart of this repository with these values, the tests of `helm test` included."""
    release = "tidegate" if chart == "tidegate" else "demand"
    return render.documents(helm.template(CHARTS / chart, release, NAMESPACE, given, tests=True))


def project(given: Mapping[str, Any], folder: Path) -> Project:
    """A project with this tidegate.yaml, seen by its environment prod."""
    (folder / "tidegate.yaml").write_text(yaml.safe_dump(dict(given), sort_keys=False))
    return open_project(folder, "prod")


def made(name: str) -> list[dict[str, Any]]:
    """Everything that a set of values makes."""
    given = values(name)
    if "project" in given:
        with TemporaryDirectory() as folder:
            opened = project(given["project"], Path(folder))
            deployment = Deployment(given["image"], "r-0123456789", 7, "k-20260101-120000-abcd")
            return render.platform_documents(opened) + render.model_documents(opened, deployment)
    return [one for chart in ("platform", "model") if chart in given for one in filled(_CHART[chart], given[chart])]


_CHART = {"platform": "tidegate", "model": "tidegate-model"}


def file(name: str) -> Path:
    """Where the manifests of a set are."""
    return HERE / "golden" / f"{name}.yaml"


def kept(name: str) -> list[dict[str, Any]]:
    """The committed manifests of a set."""
    return render.documents(file(name).read_text())


if __name__ == "__main__":
    for each in NAMES:
        file(each).write_text(render.text(made(each)))
