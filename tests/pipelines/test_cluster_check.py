"""`doctor --env`: a cluster that has everything is fine, and each thing taken away is found with its fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_api import KubeApi, kubeconfig, serving

from tidegate.core import kube
from tidegate.core.project import open_project
from tidegate.pipelines.cluster_check import places
from tidegate.pipelines.machine import Finding

Cli = Callable[..., Any]
Look = Callable[[], dict[str, dict[str, str]]]
CONFIG = """\
model: Demand_Forecast
data: {path: data.csv, target: class}
image: {pull_secret: registry}
environments:
  prod:
    kind: kubernetes
    context: fake
    namespace: models
    image_repository: registry.example.org/demand
    store: .tidegate/store
    mlflow: http://127.0.0.1:9
"""
PLUGINS = '- name: "argoproj-labs/gatewayAPI"\n  location: https://example.org/plugin\n'


def controller(image: str) -> dict[str, Any]:
    """A Deployment that runs."""
    return {"spec": {"template": {"spec": {"containers": [{"image": image}]}}}, "status": {"availableReplicas": 1}}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    """A cluster on which everything that a rollout needs is there."""
    api = KubeApi()
    for name in ("argo-rollouts", "argo", "envoy-gateway-system"):
        api.seed(name)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.write(kube.NAMESPACE, {"metadata": {"name": "models", "labels": labels}}, "")
    for namespace, name, image in (
        ("argo-rollouts", "argo-rollouts", "quay.io/argoproj/argo-rollouts:v1.9.1"),
        ("argo", "workflow-controller", "quay.io/argoproj/workflow-controller:v4.1.2"),
        ("envoy-gateway-system", "envoy-gateway", "docker.io/envoyproxy/gateway:v1.7.2"),
    ):
        api.write(kube.DEPLOYMENT, {"metadata": {"name": name}, **controller(image)}, namespace)
    config = {"metadata": {"name": "argo-rollouts-config"}, "data": {"trafficRouterPlugins": PLUGINS}}
    api.write(kube.CONFIG_MAP, config, "argo-rollouts")
    api.write(kube.SECRET, {"metadata": {"name": "tidegate-judge"}, "data": {"token": "c2VzYW1l"}}, "models")
    api.write(kube.SECRET, {"metadata": {"name": "registry"}, "data": {}}, "models")
    api.write(kube.SERVICE, {"metadata": {"name": "tidegate-judge"}, "spec": {}}, "models")
    api.services["tidegate-judge", 8080] = lambda _: (200, {"ready": True})
    for name in ("tidegate-verdict", "tidegate-guard"):
        api.write(kube.ANALYSIS_TEMPLATE, {"metadata": {"name": name}, "spec": {}}, "models")
    with serving(api):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, api)))
        yield api


@pytest.fixture
def project(git_repo: Path) -> Path:
    """A project with an environment on that cluster."""
    (git_repo / "tidegate.yaml").write_text(CONFIG)
    return git_repo


@pytest.fixture
def look(cli: Cli, api: KubeApi, project: Path) -> Look:
    """What `doctor --env prod` says of the cluster, by name; store and MLflow are another test's."""

    def ask() -> dict[str, dict[str, str]]:
        result = cli("--env", "prod", "doctor", "--json", cwd=project)
        found = {one["name"]: one for one in result.json["findings"]}
        assert len(found) == len(result.json["findings"])
        assert result.exit_code == 1, "its store is no bucket"
        return {name: one for name, one in found.items() if name not in {"store", "mlflow"}}

    return ask


def test_a_cluster_that_has_everything_is_fine(look: Look) -> None:
    """Nothing is warned of, and each thing that a rollout needs was looked at."""
    found = look()
    assert {name: one["detail"] for name, one in found.items() if one["status"] != "ok"} == {}
    assert set(found) == {
        "cluster", "namespace", "Argo Rollouts", "the Gateway API", "Envoy Gateway", "Argo Workflows", "argo-rollouts",
        "envoy-gateway", "workflow-controller", "traffic plugin", "rights: apply", "rights: rollouts",
        "rights: workflows", "judge token", "judge", "analysis templates", "route", "pull secret", "image pulls",
    }  # fmt: skip
    assert found["cluster"]["detail"] == "fake runs Kubernetes v1.34.4"


def lacks(*kinds: kube.Kind) -> Callable[[KubeApi], None]:
    """A cluster without these kinds."""
    return lambda api: api.kinds.difference_update(kinds)


def without(kind: kube.Kind, name: str, namespace: str = "models") -> Callable[[KubeApi], None]:
    """A cluster without this object."""
    return lambda api: api.objects.pop((kind, namespace, name))  # type: ignore[return-value]


def runs(name: str, namespace: str, **change: Any) -> Callable[[KubeApi], None]:
    """A controller of another image, or of which no pod runs."""
    image = change.get("image", "quay.io/argoproj/argo-rollouts:v1.9.1")
    status = {} if change.get("away") else {"availableReplicas": 1}
    document = {"metadata": {"name": name}, **controller(image), "status": status}
    return lambda api: api.write(kube.DEPLOYMENT, document, namespace)  # type: ignore[return-value]


def denies(verb: str, resource: str) -> Callable[[KubeApi], None]:
    """A user who may not do this."""
    return lambda api: api.denied.add((verb, resource))


def old_kubernetes(api: KubeApi) -> None:
    """An API server of years ago."""
    api.kubernetes = "v1.27.3"


def no_token(api: KubeApi) -> None:
    """A Secret with another entry."""
    api.write(kube.SECRET, {"metadata": {"name": "tidegate-judge"}, "data": {"password": "eA=="}}, "models")


def judge_away(api: KubeApi) -> None:
    """A Service with nobody behind it."""
    api.services.clear()


def other_plugin(api: KubeApi) -> None:
    """Argo Rollouts with another router's plugin."""
    data = {"trafficRouterPlugins": "- name: acme/other\n  location: file:///other\n"}
    api.write(kube.CONFIG_MAP, {"metadata": {"name": "argo-rollouts-config"}, "data": data}, "argo-rollouts")


def bad_route(api: KubeApi) -> None:
    """A route whose Gateway does not let it in."""
    refused = {"type": "Accepted", "status": "False", "reason": "NotAllowedByListeners", "message": "not allowed here"}
    status = {"parents": [{"parentRef": {"name": "tidegate"}, "conditions": [refused]}]}
    document = {
        "metadata": {"name": "demand-forecast"},
        "spec": {"parentRefs": [{"name": "tidegate"}]},
        "status": status,
    }
    api.write(kube.HTTP_ROUTE, document, "models")


def unseen_route(api: KubeApi) -> None:
    """A route that no controller has looked at."""
    document = {"metadata": {"name": "demand-forecast"}, "spec": {"parentRefs": [{"name": "tidegate"}]}}
    api.write(kube.HTTP_ROUTE, document, "models")


def not_pulled(api: KubeApi) -> None:
    """A pod of ours that waits for its image."""
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    metadata = {"name": "demand-1", "labels": {"app.kubernetes.io/part-of": "tidegate"}}
    status = {"containerStatuses": [{"name": "model", "state": waiting}]}
    api.write(kube.POD, {"metadata": metadata, "status": status}, "models")


def loose_namespace(api: KubeApi) -> None:
    """A namespace that takes privileged pods."""
    api.objects[kube.NAMESPACE, "", "models"]["metadata"]["labels"] = {}


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (old_kubernetes, ("cluster", "problem", "v1.27.3", "1.29 or newer")),
        (without(kube.NAMESPACE, "models", ""), ("namespace", "problem", "no namespace", "create namespace models")),
        (loose_namespace, ("namespace", "warning", "takes any pod", "enforce=restricted")),
        (lacks(kube.ROLLOUT), ("Argo Rollouts", "problem", "Rollout", "Install Argo Rollouts")),
        (lacks(kube.HTTP_ROUTE), ("the Gateway API", "problem", "HTTPRoute", "Install the Gateway API")),
        (
            lacks(kube.BACKEND_TRAFFIC_POLICY),
            ("Envoy Gateway", "problem", "BackendTrafficPolicy", "Install Envoy Gateway"),
        ),
        (lacks(kube.WORKFLOW, kube.CRON_WORKFLOW), ("Argo Workflows", "warning", "Workflow, Cron", "Install Argo")),
        (
            runs("argo-rollouts", "argo-rollouts", image="quay.io/argoproj/argo-rollouts:v1.7.2"),
            ("argo-rollouts", "problem", "too old", "1.8 or newer"),
        ),
        (
            runs("argo-rollouts", "argo-rollouts", image="acme/rollouts@sha256:" + "1" * 64),
            ("argo-rollouts", "warning", "does not tell", "1.8"),
        ),
        (runs("argo-rollouts", "argo-rollouts", away=True), ("argo-rollouts", "problem", "no pod", "describe")),
        (without(kube.DEPLOYMENT, "argo-rollouts", "argo-rollouts"), ("argo-rollouts", "warning", "not known", "-A")),
        (
            without(kube.DEPLOYMENT, "workflow-controller", "argo"),
            ("workflow-controller", "warning", "not known", "-A"),
        ),
        (other_plugin, ("traffic plugin", "problem", "argoproj-labs/gatewayAPI", "trafficRouterPlugins")),
        (
            without(kube.CONFIG_MAP, "argo-rollouts-config", "argo-rollouts"),
            ("traffic plugin", "problem", "does not name", "trafficRouterPlugins"),
        ),
        (denies("get", "configmaps"), ("traffic plugin", "warning", "may not get configmaps", "can-i get configmaps")),
        (
            denies("patch", "rollouts/status"),
            ("rights: rollouts", "problem", "patch rollouts/status", "-n models --subresource=status"),
        ),
        (denies("create", "services"), ("rights: apply", "problem", "create services", "can-i create services")),
        (denies("create", "workflows"), ("rights: workflows", "warning", "create workflows", "can-i create workflows")),
        (without(kube.SECRET, "tidegate-judge"), ("judge token", "problem", "no Secret", "create secret generic")),
        (no_token, ("judge token", "problem", "no entry `token`", "create secret generic")),
        (judge_away, ("judge", "problem", "does not answer", "describe deployment")),
        (without(kube.SERVICE, "tidegate-judge"), ("judge", "problem", "no Service", "Install charts/tidegate")),
        (denies("get", "services/proxy"), ("judge", "warning", "not known", "port-forward")),
        (
            without(kube.ANALYSIS_TEMPLATE, "tidegate-guard"),
            ("analysis templates", "problem", "tidegate-guard", "Install charts/tidegate"),
        ),
        (bad_route, ("route", "problem", "not allowed here", "describe httproute demand-forecast")),
        (unseen_route, ("route", "problem", "no gateway has looked", "describe gateway tidegate")),
        (
            without(kube.SECRET, "registry"),
            ("pull secret", "problem", "no Secret registry", "docker-registry registry"),
        ),
        (not_pulled, ("image pulls", "problem", "Back-off pulling image", "pull_secret")),
    ],
)
def test_what_is_missing_is_found_with_its_fix(
    api: KubeApi, look: Look, broken: Callable[[KubeApi], None], expected: tuple[str, str, str, str]
) -> None:
    """Its own finding says it and what to type; no other finding cries with it."""
    name, status, says, fix = expected
    broken(api)
    found = look()
    assert found[name]["status"] == status
    assert says in found[name]["detail"]
    assert fix in found[name]["fix"]
    assert [other for other, one in found.items() if one["status"] == "problem" and other != name] == []


def test_a_cluster_that_nobody_reaches_is_one_finding(
    cli: Cli, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which context, and asks nothing more of it."""
    api = KubeApi()
    api.url = "http://127.0.0.1:9"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, api)))
    monkeypatch.setattr("tidegate.pipelines.cluster_check.PATIENCE", 0.1)
    result = cli("--env", "prod", "doctor", "--json", cwd=project)
    assert result.exit_code == 1
    assert [(one["name"], one["status"]) for one in result.json["findings"]][-1] == ("cluster", "problem")
    assert "fake" in result.json["findings"][-1]["detail"]


def test_a_context_that_the_kubeconfig_lacks_is_named(cli: Cli, project: Path, api: KubeApi) -> None:
    """The finding names the key that picks it."""
    (project / "tidegate.yaml").write_text(CONFIG.replace("context: fake", "context: other"))
    last = cli("--env", "prod", "doctor", "--json", cwd=project).json["findings"][-1]
    assert (last["name"], last["status"]) == ("cluster", "problem")
    assert "environments.NAME.context" in last["fix"]


def found_places(project: Path, **keys: str) -> dict[str, Finding]:
    """What is said of a store and an MLflow address."""
    text = CONFIG
    for key, value in keys.items():
        old = {"store": ".tidegate/store", "mlflow": "http://127.0.0.1:9"}[key]
        text = text.replace(f"{key}: {old}", f"{key}: {value}")
    (project / "tidegate.yaml").write_text(text)
    return {one.name: one for one in places(open_project(project, "prod"))}


def test_a_store_or_mlflow_of_this_machine_is_a_problem(project: Path) -> None:
    """Pods do not see this disk, whatever is on it."""
    found = found_places(project, mlflow="sqlite:///mlflow.db")
    assert {one.status for one in found.values()} == {"problem"}
    assert "environments.prod.store" in found["store"].fix
    assert "environments.prod.mlflow" in found["mlflow"].fix


def test_a_bucket_is_tried_and_a_server_that_is_away_is_said(project: Path, s3: str) -> None:
    """The bucket takes a probe; nobody listens at the MLflow address."""
    found = found_places(project, store=s3)
    assert found["store"].status == "ok"
    assert (found["mlflow"].status, "does not answer" in found["mlflow"].detail) == ("problem", True)


def test_a_bucket_without_credentials_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bucket's own library raises is the finding."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = found_places(project, store="s3://a-bucket-of-nobody/tidegate")["store"]
    assert store.status == "problem"
    assert "credentials" in store.detail
