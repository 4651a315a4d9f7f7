"""What is sent to a cluster: valid by its own schemas, confined, and the same steps as the flow says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.core import git
from tidegate.core.errors import ConfigError, UsageError
from tidegate.core.project import Project, open_project
from tidegate.pipelines.dag import MONITOR, RELEASE, RETRAIN, Flow
from tidegate.pipelines.workflows import access, names, objects, workflow_documents
from tidegate.pipelines.workflows.settings import Settings, repository, schedule

ROOT = Path(__file__).resolve().parents[3]
VALIDATE = ROOT.parent / "shared" / "tools" / "validate-manifests"
DIGEST = "sha256:" + "0" * 64
CPU = Settings(
    model="demand",
    environment="prod",
    namespace="models",
    image=f"ghcr.io/acme/demand-trainer@{DIGEST}",
    pull_secret=None,
    repository="https://github.com/acme/demand.git",
    folder=".",
    cpu=2,
    memory=8 * 2**30,
    gpu=0,
    schedule="1 * * * *",
    pushes=False,
    acts=False,
)
GPU = replace(CPU, pull_secret="registry", folder="models/demand", cpu=0.5, gpu=2, pushes=True, acts=True)
SETTINGS = {"cpu": CPU, "gpu": GPU}


def documents(settings: Settings) -> list[dict[str, Any]]:
    """All of them, as `workflow_documents` gives them."""
    return [*access.documents(settings), *objects.documents(settings)]


def of(settings: Settings, flow: Flow) -> dict[str, Any]:
    """The Workflow's spec of one flow."""
    found = {one["metadata"]["name"]: one for one in objects.documents(settings)}[names.of(flow.name, "demand")]
    return found["spec"].get("workflowSpec", found["spec"])


def templates(settings: Settings, flow: Flow) -> dict[str, dict[str, Any]]:
    """Its container templates by name."""
    return {one["name"]: one for one in of(settings, flow)["templates"] if "container" in one}


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container template of every flow and setting."""
    for settings in SETTINGS.values():
        for flow in (RELEASE, RETRAIN, MONITOR):
            for name, template in templates(settings, flow).items():
                yield f"{flow.name}/{name}", template


def validated(found: list[dict[str, Any]]) -> tuple[int, str]:
    """What the strict schemas of the CRDs say."""
    if not VALIDATE.exists():
        pytest.skip("the schemas are not on this machine (../shared/tools/validate-manifests)")
    text = yaml.safe_dump_all(found)
    done = subprocess.run([sys.executable, str(VALIDATE), "-"], input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", SETTINGS)
def test_every_object_is_what_its_schema_says(name: str) -> None:
    """Strictly: an unknown field is an error. Core kinds may go unchecked where their schemas are not installed."""
    said = validated(documents(SETTINGS[name]))[1].splitlines()
    assert [line for line in said if line.startswith("FAIL")] == [], said
    checked = {line.split()[1].partition("/")[0] for line in said if line.startswith("ok")}
    assert {"WorkflowTemplate", "CronWorkflow"} <= checked
    unchecked = {line.split()[1].partition("/")[0] for line in said if line.startswith("UNCHECKED")}
    assert unchecked <= {"ServiceAccount", "Role", "RoleBinding"}


def test_a_typo_in_an_object_is_caught() -> None:
    """One letter in a field's name, deep inside."""
    found = json.loads(json.dumps(objects.documents(CPU)[:1]))
    container = next(one["container"] for one in found[0]["spec"]["templates"] if "container" in one)
    container["workingdir"] = container.pop("workingDir")
    code, said = validated(found)
    assert code == 1
    assert "workingdir" in said


def test_a_mistake_in_a_builder_is_caught_by_hera() -> None:
    """Its classes know what Argo takes: a field that is none, and a value of another type."""
    from hera.workflows import Container
    from hera.workflows import models as argo

    with pytest.raises(TypeError, match="worked_dir"):
        Container(name="train", image="x", worked_dir="/out")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="mutexes"):
        argo.Synchronization(mutexes="tidegate-demand")  # type: ignore[arg-type]


class Indented(yaml.SafeDumper):
    """Writes lists as people do, a step further in than their key, and no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Further in, whatever is in it."""
        del indentless
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: object) -> bool:
        """Twice the same is written twice."""
        del data
        return True


@pytest.mark.parametrize("name", SETTINGS)
def test_the_objects_are_those_that_were_reviewed(name: str) -> None:
    """Written down as YAML, so that every change of them is seen; GOLDEN=write renews the files."""
    text = yaml.dump_all(documents(SETTINGS[name]), Dumper=Indented, width=120)
    file = Path(__file__).with_name(f"objects-{name}.yaml")
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text)
    assert file.read_text() == text


@pytest.mark.parametrize("flow", [RELEASE, RETRAIN], ids=lambda flow: flow.name)
def test_a_workflow_has_the_steps_of_its_flow(flow: Flow) -> None:
    """The same data that this process walks: order, conditions, inputs, outputs."""
    (dag,) = [one["dag"] for one in of(CPU, flow)["templates"] if "dag" in one]
    tasks = {one["name"]: one for one in dag["tasks"]}
    assert list(tasks) == [step.name for step in flow.steps]
    for step in flow.steps:
        task, template = tasks[step.name], templates(CPU, flow)[step.name]
        before = flow.before(step.name)
        assert task.get("depends") == (f"{before}.Succeeded" if before else None)
        assert ("when" in task) == (step.only_if is not None)
        assert [one["name"] for one in task.get("arguments", {}).get("parameters", ())] == list(step.takes)
        assert [one["name"] for one in template.get("outputs", {}).get("parameters", ())] == list(step.gives)
        given = [word for word in template["container"]["args"] if word.partition("=")[0] in {*flow.given, *step.takes}]
        assert len(given) == len(flow.given) + len(step.takes)


def test_two_trainings_of_a_model_wait_for_each_other() -> None:
    """One mutex for release and retrain, another for each model; the monitor needs none and never runs twice."""
    held = [of(CPU, flow)["synchronization"]["mutexes"] for flow in (RELEASE, RETRAIN)]
    assert held == [[{"name": "tidegate-demand"}]] * 2
    (cron,) = [one for one in objects.documents(CPU) if one["kind"] == "CronWorkflow"]
    assert (cron["spec"]["concurrencyPolicy"], cron["spec"]["schedules"]) == ("Forbid", ["1 * * * *"])


def test_only_training_gets_the_gpu() -> None:
    """With the toleration for it; every other step keeps the data in the same memory and takes one core."""
    for name, template in containers():
        limits, trains = template["container"]["resources"]["limits"], name.endswith("/train")
        assert ("nvidia.com/gpu" in limits) <= trains, name
    asked = templates(GPU, RELEASE)["train"]
    assert asked["container"]["resources"]["limits"]["nvidia.com/gpu"] in {2, "2"}
    assert [one["key"] for one in asked["tolerations"]] == ["nvidia.com/gpu"]
    assert "tolerations" not in templates(CPU, RELEASE)["train"]
    assert templates(GPU, RELEASE)["train"]["container"]["resources"]["requests"]["cpu"] == "500m"


def test_every_container_has_a_deadline_and_respects_do_not_retry() -> None:
    """On both levels; the exit code 78 ends a step, everything else is tried again."""
    for name, template in containers():
        strategy = template["retryStrategy"]
        assert template["activeDeadlineSeconds"] > 0, name
        assert (strategy["expression"], strategy["retryPolicy"]) == ("lastRetry.exitCode != '78'", "Always"), name
        assert "maxDuration" not in strategy["backoff"], name
    for flow in (RELEASE, RETRAIN, MONITOR):
        spec = of(CPU, flow)
        longest = max(one["activeDeadlineSeconds"] for one in spec["templates"] if "container" in one)
        assert spec["activeDeadlineSeconds"] > longest
        assert spec["onExit"] in {one["name"] for one in spec["templates"]}


def test_pods_are_as_confined_as_the_restricted_profile_wants() -> None:
    """A number for a user, no privileges, a root nobody can write; what is written lies in volumes of the pod."""
    for name, template in containers():
        security = template["container"]["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True), name
        assert template["container"]["image"].endswith(DIGEST), name
    for flow in (RELEASE, RETRAIN, MONITOR):
        pod = of(GPU, flow)["securityContext"]
        assert (pod["runAsNonRoot"], pod["runAsUser"], pod["seccompProfile"]) == (
            True,
            10001,
            {"type": "RuntimeDefault"},
        )


def test_accounts_may_do_no_more_than_their_steps() -> None:
    """Training reports its results; the monitor may submit; only where retrains may act is there one that rolls out."""
    rules = {one["metadata"]["name"]: one["rules"] for one in access.documents(CPU) if one["kind"] == "Role"}
    allowed = {
        name: {(resource, verb) for rule in some for resource in rule["resources"] for verb in rule["verbs"]}
        for name, some in rules.items()
    }
    results = {("workflowtaskresults", "create"), ("workflowtaskresults", "patch")}
    submit = {("workflows", "create"), ("workflows", "get"), ("workflowtemplates", "get")}
    assert allowed == {"tidegate-pipeline-demand": results, "tidegate-monitor-demand": results | submit}
    accounts = {name: template.get("serviceAccountName") for name, template in templates(GPU, RETRAIN).items()}
    assert {name for name, one in accounts.items() if one} == {"compare"}
    assert "serviceAccountName" not in templates(CPU, RETRAIN)["compare"]


def test_a_token_that_may_push_is_in_one_pod() -> None:
    """And only where the config asks for branches; nowhere is a secret's value."""
    for settings, pods in ((CPU, set()), (GPU, {"compare"})):
        found = templates(settings, RETRAIN)
        asks = {name for name, one in found.items() if len(one["container"]["envFrom"]) > 1}
        assert asks == pods
    assert objects.PUSH_SECRET not in json.dumps(objects.documents(CPU))


@pytest.mark.parametrize(
    ("window", "line"),
    [
        (60, "* * * * *"),
        (300, "1-59/5 * * * *"),
        (90 * 60, "1-59/30 * * * *"),
        (3600, "1 * * * *"),
        (6 * 3600, "1 */6 * * *"),
        (36 * 3600, "1 */12 * * *"),
        (86_400, "1 0 * * *"),
        (7 * 86_400, "1 0 * * *"),
    ],
)
def test_the_monitor_comes_by_in_every_window(window: float, line: str) -> None:
    """A minute after a window's end, in cron's words."""
    assert schedule(window) == line


@pytest.mark.parametrize(
    ("origin", "cloned"),
    [
        ("git@github.com:acme/demand.git", "https://github.com/acme/demand.git"),
        ("ssh://git@git.acme.dev:2222/ml/demand.git", "https://git.acme.dev/ml/demand.git"),
        ("https://ada:secret@github.com/acme/demand.git", "https://github.com/acme/demand.git"),
    ],
)
def test_pods_clone_without_a_persons_password(git_repo: Path, origin: str, cloned: str) -> None:
    """Over https, with the deploy token of their Secret."""
    (git_repo / "tidegate.yaml").write_text("version: 1\nmodel: m\ndata: {path: d.csv, target: y}\n")
    git.git(git_repo, "remote", "add", "origin", origin)
    assert repository(open_project(git_repo)) == cloned


def test_names_fit_what_argo_appends(git_repo: Path) -> None:
    """A CronWorkflow's name has 52 characters at most, and long names of models stay apart."""
    long = "a_model_with_a_name_that_is_much_longer_than_anybody_should_write"
    assert names.of("retrain", "Demand_Model.v2") == "tidegate-retrain-demand-model-v2"
    assert len(names.of("monitor", long)) <= 52
    assert names.of("monitor", long + "1") != names.of("monitor", long + "2")
    assert len(names.of("release", long, "0123abcd")) <= 52


CONFIG = """
version: 1
model: demand
data: {{path: data/train.csv, target: class}}
environments:
  prod:
    kind: kubernetes
    store: {store}
    mlflow: {mlflow}
    train: {{image: {image}}}
"""


def project(root: Path, **changes: str) -> Project:
    """One of the cluster, with something wrong perhaps."""
    good = {"store": "s3://acme/tidegate", "mlflow": "https://mlflow.acme.dev", "image": f"acme/trainer@{DIGEST}"}
    (root / "tidegate.yaml").write_text(CONFIG.format(**{**good, **changes}))
    git.git(root, "remote", "add", "origin", "https://github.com/acme/demand.git")
    return open_project(root, "prod")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image": "acme/trainer:latest"}, "names no image by its digest"),
        ({"store": ".tidegate/store"}, "which no pod can reach"),
        ({"mlflow": "sqlite:///mlflow.db"}, "which no pod can reach"),
    ],
)
def test_what_no_pod_could_do_is_refused_when_it_is_rendered(git_repo: Path, changes: dict[str, str], why: str) -> None:
    """Not an hour later, by a pod."""
    with pytest.raises(ConfigError, match=why):
        workflow_documents(project(git_repo, **changes))


def test_a_repository_without_a_remote_is_refused(git_repo: Path) -> None:
    """Pods clone it."""
    made = project(git_repo)
    git.git(git_repo, "remote", "remove", "origin")
    with pytest.raises(UsageError, match="no remote called origin"):
        workflow_documents(made)


def test_without_a_trainer_image_there_is_nothing_to_render(git_repo: Path) -> None:
    """Then everything is trained where the commands are typed."""
    assert workflow_documents(project(git_repo, image="null")) == []


def test_a_project_becomes_its_objects(git_repo: Path) -> None:
    """The config's words, in the namespace of its environment, the same twice."""
    found = workflow_documents(project(git_repo))
    kinds = [one["kind"] for one in found]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding"] * 2 + ["WorkflowTemplate"] * 2 + ["CronWorkflow"]
    assert {one["metadata"]["namespace"] for one in found} == {"default"}
    assert found == workflow_documents(open_project(git_repo, "prod"))
