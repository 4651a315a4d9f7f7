"""`tidegate render`: the same bytes for the same input, one file an object, and an image that was really pushed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from golden import project, values

from tidegate.core.artifacts import DatasetRef, Release
from tidegate.core.errors import TidegateError, UsageError
from tidegate.core.project import Project
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.manifests import helm as tool
from tidegate.pipelines.manifests import render
from tidegate.pipelines.manifests.from_config import laid_over
from tidegate.registry import releases
from tidegate.registry.ledger import Draft

IMAGE = "ghcr.io/acme/demand@sha256:" + "3f" * 32
CONFIG: dict[str, Any] = values("gitops")["project"]
RELEASE = Release(
    model="demand",
    version=7,
    run_id="run",
    bento="demand:7",
    bundle="00" * 32,
    git_commit="c0ffee",
    git_dirty=False,
    data=(DatasetRef("data/train.csv", "md5"),),
    files={},
    config={},
    contract={},
)
PUSHED = "sha256:" + "5a" * 32


@pytest.fixture
def opened(tmp_path: Path) -> Project:
    """A project of the GitOps set, in a folder of its own."""
    (tmp_path / "project").mkdir()
    return project(CONFIG, tmp_path / "project")


def known(opened: Project, store: str, *events: tuple[str, dict[str, Any]]) -> Environment:
    """Its environment, with a store that is a folder and a ledger that says this."""
    over = {**CONFIG, "environments": {"prod": laid_over(CONFIG["environments"]["prod"], {"store": store})}}
    environment = Environment(project(over, opened.root))
    releases.save(environment.store, RELEASE, {})
    for kind, data in events:
        environment.ledger.append(lambda _, kind=kind, data=data: Draft(kind, data))  # type: ignore[misc]
    return environment


def imaged(pushed: str) -> tuple[str, dict[str, Any]]:
    """The event that an image was built."""
    said = {"release": RELEASE.id, "digest": "sha256:" + "11" * 32, "reference": f"ghcr.io/acme/demand:{RELEASE.id}"}
    return "imaged", said | {"pushed": pushed, "sbom": "", "provenance": "", "key": ""}


def test_the_same_input_makes_the_same_files(opened: Project, cli: Any, helm: Path, tmp_path: Path) -> None:
    """Twice into two folders: no time, no random name, no order of a dictionary."""
    for folder in ("one", "two"):
        done = cli("render", "--env", "prod", "--image", IMAGE, "--out", tmp_path / folder, cwd=opened.root)
        assert done.exit_code == 0, done.stderr
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert {"rollout-demand.yaml", "httproute-demand.yaml", "service-demand-canary.yaml"} <= one.keys()


def test_files_of_ours_that_nothing_renders_any_more_are_removed(
    opened: Project, cli: Any, helm: Path, tmp_path: Path
) -> None:
    """And nobody else's; a file of somebody else in the way is an error."""
    out = tmp_path / "out"
    assert cli("render", "-e", "prod", "--image", IMAGE, "--out", out, cwd=opened.root).exit_code == 0
    (out / "kustomization.yaml").write_text("resources: []\n")
    more = tmp_path / "values.yaml"
    more.write_text("networkPolicy: {enabled: false}\n")
    again = cli("render", "-e", "prod", "--image", IMAGE, "--values", more, "--out", out, "--json", cwd=opened.root)
    assert again.json["removed"] == ["networkpolicy-demand.yaml"]
    assert (out / "kustomization.yaml").exists()
    assert not (out / "networkpolicy-demand.yaml").exists()
    (out / "rollout-demand.yaml").write_text("mine\n")
    refused = cli("render", "-e", "prod", "--image", IMAGE, "--out", out, cwd=opened.root)
    assert refused.exit_code == 2
    assert "not ours" in refused.stderr


def test_on_stdout_it_is_one_stream_that_tidegate_manages(opened: Project, cli: Any, helm: Path) -> None:
    """Without the pods of `helm test`; the platform is rendered apart."""
    text = cli("render", "-e", "prod", "--image", IMAGE, cwd=opened.root).stdout
    documents = render.documents(text)
    assert {one["metadata"]["labels"]["app.kubernetes.io/managed-by"] for one in documents} == {"tidegate"}
    assert {one["metadata"]["namespace"] for one in documents} == {"models"}
    assert "Pod" not in {one["kind"] for one in documents}
    whole = cli("render", "-e", "prod", "--platform", "--json", cwd=opened.root).json
    assert {"Gateway", "AnalysisTemplate"} <= {one["kind"] for one in whole["documents"]}


def test_the_image_is_the_one_that_was_pushed_for_the_release(opened: Project, tmp_path: Path) -> None:
    """As the ledger has it: the manifest's digest and not the config's."""
    deployed = ("deployed", {"release": RELEASE.id})
    environment = known(opened, str(tmp_path / "store"), deployed, imaged(PUSHED))
    for typed in (None, RELEASE.id):
        deployment = render.deployment_of(environment, typed)
        assert deployment.image == f"ghcr.io/acme/demand@{PUSHED}"
        assert (deployment.release, deployment.version) == (RELEASE.id, 7)


def test_a_release_that_was_not_pushed_is_refused_with_the_command(opened: Project, tmp_path: Path) -> None:
    """Nothing deployed, nothing built, nothing pushed: each says what to type."""
    with pytest.raises(UsageError, match="--image REPOSITORY"):
        render.deployment_of(known(opened, str(tmp_path / "none")))
    for name, events in (("bare", ()), ("kept", (imaged(""),))):
        environment = known(opened, str(tmp_path / name), *events)
        with pytest.raises(UsageError, match="tidegate package 7 --image --push --env prod"):
            render.deployment_of(environment, RELEASE.id)


def test_without_helm_the_command_that_gets_it_is_said(
    opened: Project, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it puts helm where it is then found without any setting."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = cli("render", "-e", "prod", "--image", IMAGE, cwd=opened.root)
    assert done.exit_code == 2
    folder = tmp_path / "cache" / "tidegate" / "bin"
    assert f"GOBIN={folder} go install helm.sh/helm/v4/cmd/helm@{tool.VERSION}" in done.stderr
    folder.mkdir(parents=True)
    (folder / "helm").write_text("#!/bin/sh\n")
    (folder / "helm").chmod(0o755)
    assert tool.find() == folder / "helm"


def test_helms_refusal_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the place in a template, which the reader did not write."""
    fake = tmp_path / "helm"
    said = (
        "Error: execution error at (x/templates/checks.yaml:3:4): y: error calling fail: This cluster knows no Rollout."
    )
    fake.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(TidegateError, match=r"^helm refused the chart x: This cluster knows no Rollout\."):
        tool.template(tmp_path / "x", "x", "default", {})


def test_the_charts_come_with_the_package() -> None:
    """Found by the package's name, wherever it is installed."""
    assert (tool.chart("tidegate-model") / "templates" / "_helpers.tpl").is_file()
    assert (tool.chart("tidegate") / ".helmignore").is_file()


def test_this_machine_has_nothing_to_render(opened: Project, cli: Any) -> None:
    """The environment is named in the hint."""
    done = cli("render", cwd=opened.root)
    assert done.exit_code == 2
    assert "--env prod" in done.stderr


def test_workflows_are_rendered_where_there_are_builders(
    opened: Project, helm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come after the chart's objects, as the pipelines make them."""
    import sys
    import types

    asked: list[object] = []

    def workflow_documents(*arguments: object) -> list[dict[str, Any]]:
        asked.extend(arguments)
        return [{"apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTemplate", "metadata": {"name": "w"}}]

    module = types.ModuleType("tidegate.pipelines.workflows")
    module.workflow_documents = workflow_documents  # type: ignore[attr-defined]
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "tidegate.pipelines.workflows", module)
    made = render.model_documents(opened, render.Deployment(IMAGE), release=RELEASE)
    assert made[-1]["kind"] == "WorkflowTemplate"
    assert asked == [opened, RELEASE]
