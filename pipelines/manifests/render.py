"""`tidegate render`: every object of an environment as plain YAML, the same bytes for the same input."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import TidegateError, UsageError
from tidegate.pipelines.manifests import helm
from tidegate.pipelines.manifests.from_config import (
    Deployment,
    kubernetes_environment,
    model_values,
    platform_values,
)
from tidegate.pipelines.yaml_text import whole
from tidegate.registry import releases

if TYPE_CHECKING:
    from tidegate.core.artifacts import Release
    from tidegate.core.project import Project
    from tidegate.pipelines.environment import Environment

Document = dict[str, Any]

MANAGER: Final = "tidegate"
_MANAGED: Final = "app.kubernetes.io/managed-by"
_HEADER: Final = "# Rendered by tidegate; change tidegate.yaml or its values, not this file.\n"


@dataclass(frozen=True, slots=True)
class Written:
    """Files of a folder: what was written, and what was removed because nothing renders it any more."""

    files: tuple[str, ...]
    removed: tuple[str, ...]


def deployment_of(environment: Environment, release: str | None = None) -> Deployment:
    """What the environment's ledger says is deployed: a release's pushed image.

    Args:
        environment: whose ledger.
        release: as typed; None takes the champion, or the challenger where nothing runs yet.

    Raises:
        UsageError: there is no release, or its image was not pushed.
    """
    state, project = environment.state(), environment.project
    wanted = releases.resolve(environment.store, release) if release else state.champion or state.challenger
    if wanted is None:
        raise UsageError(
            f"No release of {project.config.model} is known in {project.env}, so nobody knows the image.",
            "Name one: `tidegate render --image REPOSITORY@sha256:DIGEST`.",
        )
    image = state.images.get(wanted)
    known = releases.load(environment.store, wanted)
    if image is None or not image.pushed:
        raise UsageError(
            f"The image of release {wanted} was not pushed, so no cluster can pull it.",
            f"`tidegate package {known.version} --image --push --env {project.env}`, or name one with --image.",
        )
    repository = image.reference.rpartition(":")[0]
    return Deployment(f"{repository}@{image.pushed}", wanted, known.version)


def model_documents(
    project: Project, deployment: Deployment, *more: Mapping[str, Any], release: Release | None = None
) -> list[Document]:
    """The objects of one model, and the Workflows of its pipelines.

    Args:
        project: seen by the environment.
        deployment: what is to run.
        more: values laid over those from tidegate.yaml.
        release: for the Workflows; None leaves to them what they need.

    Raises:
        UsageError: no helm; something in the config that no cluster does.
        ConfigError: a value that the chart does not know.
    """
    values = model_values(project, deployment, *more)
    namespace = kubernetes_environment(project).namespace
    made = _filled("tidegate-model", project.config.model, namespace, values)
    return made + _workflows(project, release)


def platform_documents(project: Project, *more: Mapping[str, Any]) -> list[Document]:
    """The objects that all models of the namespace share; errors as `model_documents`."""
    values = platform_values(project, *more)
    return _filled("tidegate", "tidegate", kubernetes_environment(project).namespace, values)


def _filled(chart: str, name: str, namespace: str, values: Mapping[str, Any]) -> list[Document]:
    release = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:52].strip("-")
    return [_ours(one) for one in documents(helm.template(helm.chart(chart), release, namespace, values))]


def documents(text: str) -> list[Document]:
    """The objects of a YAML stream.

    Raises:
        TidegateError: it is no YAML, or a document is no object.
    """
    import yaml

    try:
        # C is there wherever PyYAML comes as a wheel, and ten times as fast.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        found = [one for one in yaml.load_all(text, loader) if one]
    except yaml.YAMLError as error:
        raise TidegateError(f"This is no YAML: {error}", "A template made something else of a value.") from error
    for one in found:
        if not isinstance(one, dict) or not one.get("kind") or not isinstance(one.get("metadata"), dict):
            raise TidegateError(f"This is no Kubernetes object: {str(one)[:100]}", "It needs a kind and metadata.")
    return found


def _ours(document: Document) -> Document:
    """Say who manages it: not Helm, which only filled the chart in. Selectors do not have this label."""
    labels = document["metadata"].get("labels", {})
    if _MANAGED in labels:
        labels[_MANAGED] = MANAGER
    return document


def _workflows(project: Project, release: Release | None) -> list[Document]:
    if importlib.util.find_spec("tidegate.pipelines.workflows") is None:
        return []
    module = importlib.import_module("tidegate.pipelines.workflows")
    made: list[Document] = module.workflow_documents(project, release)
    return made


def text(rendered: Iterable[Document]) -> str:
    """All of them as one YAML stream."""
    return "---\n".join(whole(one) for one in rendered)


def write(rendered: Iterable[Document], folder: Path) -> Written:
    """One file for each object; files of an earlier rendering that nothing renders now are removed.

    Raises:
        UsageError: the folder cannot be written, or a file in the way is somebody else's.
    """
    wanted = {file_name(one): _HEADER + whole(one) for one in rendered}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ours = {path.name for path in folder.glob("*.yaml") if path.read_text(encoding="utf-8").startswith(_HEADER)}
        foreign = [name for name in wanted if name not in ours and (folder / name).exists()]
        if foreign:
            raise UsageError(f"{folder / foreign[0]} is there and not ours.", "Name another folder after --out.")
        for name, content in wanted.items():
            (folder / name).write_text(content, encoding="utf-8")
        gone = sorted(ours - wanted.keys())
        for name in gone:
            (folder / name).unlink()
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror or error}.", "Name another after --out."
        ) from error
    return Written(tuple(sorted(wanted)), tuple(gone))


def file_name(document: Document) -> str:
    """`kind-name.yaml`, in small letters."""
    name = document["metadata"].get("name") or document["metadata"].get("generateName", "")
    return f"{document['kind'].lower()}-{name}.yaml"
