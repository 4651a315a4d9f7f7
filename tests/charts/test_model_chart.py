"""charts/tidegate-model, part by part: what a value changes, and what the chart refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from golden import CHARTS, NAMES, filled, kept, values

from tidegate.core.errors import TidegateError
from tidegate.pipelines.manifests import helm as tool
from tidegate.pipelines.manifests.from_config import laid_over

CANARY = ("spec", "strategy", "canary")


def made(*over: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The objects of the smallest set of values with these laid over it, by kind and name."""
    given = values("minimal")["model"]
    for one in over:
        given = laid_over(given, one)
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in filled("tidegate-model", given)}


def committed(name: str, kind: str, called: str = "demand") -> dict[str, Any]:
    """One committed object."""
    return next(one for one in kept(name) if (one["kind"], one["metadata"]["name"]) == (kind, called))


def steps(rollout: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a Rollout."""
    found: list[dict[str, Any]] = rollout["spec"]["strategy"]["canary"]["steps"]
    return found


def args(analysis: dict[str, Any]) -> dict[str, Any]:
    """Of an analysis, by name; what a controller fills in is its whole reference."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in analysis["args"]}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"judge", "gitops"}])
def test_helm_lint_finds_nothing(name: str, helm: Path, tmp_path: Path) -> None:
    """Strictly, with each set of values."""
    import yaml

    for chart, part in (("tidegate", "platform"), ("tidegate-model", "model")):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values(name)[part] | {"requireCRDs": False}))
        command = [str(helm), "lint", "--strict", str(CHARTS / chart), "--values", str(file), "--namespace", "models"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_release_climbs_the_ladder_and_each_step_asks_the_judge() -> None:
    """Smoke at weight 0, then weight and analysis in turn; the last per cents follow by themselves."""
    shape = [next(iter(step)) for step in steps(committed("minimal", "Rollout"))]
    before = ["setCanaryScale", "setHeaderRoute", "analysis", "setHeaderRoute", "setCanaryScale"]
    assert shape == before + ["setWeight", "analysis"] * 3
    weights = [step["setWeight"] for step in steps(committed("gitops", "Rollout")) if "setWeight" in step]
    assert weights == [5, 25, 50]


def test_the_judge_is_asked_until_the_step_is_over_and_a_little_longer() -> None:
    """horizon: as many intervals as step.max has, rounded up, and two more that hear the answer after it."""
    verdicts = [args(step["analysis"]) for step in steps(committed("gitops", "Rollout")) if "analysis" in step][1:]
    told = [(one["weight"], one["delay"], one["interval"], one["horizon"]) for one in verdicts]
    assert told == [(weight, "300s", "30s", str(6 * 3600 // 30 + 2)) for weight in ("5", "25", "50")]
    assert verdicts[0]["id"] == "k-20260101-120000-abcd"
    assert verdicts[0]["experiment"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


@pytest.mark.parametrize(
    ("longest", "interval", "horizon"), [(3600, 30, 122), (3601, 30, 123), (1, 30, 3), (60, 60, 3)]
)
def test_horizons(longest: int, interval: int, horizon: int, helm: Path) -> None:
    """Whole intervals."""
    ladder = {"intervalSeconds": interval, "steps": [{"weight": 10, "maxSeconds": longest}]}
    analysis = steps(made({"ladder": ladder})["Rollout/demand"])[-1]["analysis"]
    assert args(analysis)["horizon"] == str(horizon)


def test_the_smoke_request_takes_the_header_route_and_the_route_is_gone_before_users_come() -> None:
    """Made, used, removed; the Job runs the very image that is rolled out."""
    rollout = committed("minimal", "Rollout")
    _, route, smoke, gone, _ = steps(rollout)[:5]
    assert route["setHeaderRoute"]["match"] == [{"headerName": "x-tidegate-arm", "headerValue": {"exact": "canary"}}]
    assert gone["setHeaderRoute"] == {"name": "tidegate-force-canary"}
    image = rollout["spec"]["template"]["spec"]["containers"][0]["image"]
    assert args(smoke["analysis"])["image"] == image
    traffic = rollout["spec"]["strategy"]["canary"]["trafficRouting"]
    assert traffic["managedRoutes"] == [{"name": "tidegate-force-canary"}]
    assert traffic["plugins"]["argoproj-labs/gatewayAPI"]["httpRoutes"] == [{"name": "demand", "useHeaderRoutes": True}]


def test_without_an_address_the_smoke_request_goes_straight_to_the_canary(helm: Path) -> None:
    """Then there is no header route to make or to forget."""
    rollout = made({"ladder": {"smoke": {"address": ""}}})["Rollout/demand"]
    assert [next(iter(step)) for step in steps(rollout)][:3] == ["setCanaryScale", "analysis", "setCanaryScale"]
    assert args(steps(rollout)[1]["analysis"])["address"] == "http://demand-canary.models:3000"
    assert "managedRoutes" not in rollout["spec"]["strategy"]["canary"]["trafficRouting"]


def test_the_guard_begins_with_the_first_user() -> None:
    """StartingStep is the index of the first setWeight."""
    for name in ("minimal", "gpu", "secured"):
        called = "fraud-net-v2" if name == "gpu" else "demand"
        rollout = committed(name, "Rollout", called)
        first = next(index for index, step in enumerate(steps(rollout)) if "setWeight" in step)
        assert rollout["spec"]["strategy"]["canary"]["analysis"]["startingStep"] == first


def test_the_canary_is_the_first_backend_and_the_weights_add_up_to_100() -> None:
    """Explicit weights: a missing one is 1, which would send half of all users to the canary."""
    (rule,) = committed("minimal", "HTTPRoute")["spec"]["rules"]
    assert [(one["name"], one["weight"]) for one in rule["backendRefs"]] == [
        ("demand-canary", 0),
        ("demand-stable", 100),
    ]
    headers = [one["filters"][0]["responseHeaderModifier"]["set"] for one in rule["backendRefs"]]
    assert headers == [[{"name": "x-tidegate-arm", "value": arm}] for arm in ("canary", "stable")]


def test_scaled_by_load_the_rollout_says_no_number_of_pods() -> None:
    """Each apply would undo what the autoscaler did."""
    assert "replicas" not in committed("hpa", "Rollout")["spec"]
    assert committed("minimal", "Rollout")["spec"]["replicas"] == 2
    scaler = committed("hpa", "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "demand"}
    assert [one["type"] for one in scaler["metrics"]] == ["Resource", "Resource", "Pods"]
    assert scaler["behavior"] == {"scaleDown": {"stabilizationWindowSeconds": 600}}


def test_a_pod_with_a_gpu_asks_for_one_and_tolerates_its_nodes() -> None:
    """Limits only: the API server makes the request from them; the own taints stay."""
    pod = committed("gpu", "Rollout", "fraud-net-v2")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1, "memory": "16Gi"}
    assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu", "acme.dev/spot"]
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["containers"][0]["startupProbe"]["failureThreshold"] * 5 == 1200
    assert pod["imagePullSecrets"] == [{"name": "acme-registry"}]


def test_a_name_that_is_no_label_becomes_one() -> None:
    """Objects carry the label, analyses and labels the model's own name."""
    rollout = committed("gpu", "Rollout", "fraud-net-v2")
    assert rollout["metadata"]["labels"]["tidegate.dev/model"] == "Fraud_Net.v2"
    assert args(rollout["spec"]["strategy"]["canary"]["analysis"])["model"] == "Fraud_Net.v2"


def test_release_and_version_are_on_the_rollout_and_its_pods_and_the_rollouts_id_is_not_on_the_pods() -> None:
    """An id on the pods would change their hash: a rollout of nothing."""
    rollout = committed("gitops", "Rollout")
    said = {"tidegate.dev/release": "r-0123456789", "tidegate.dev/version": "7"}
    assert rollout["metadata"]["annotations"] == said | {"tidegate.dev/rollout": "k-20260101-120000-abcd"}
    assert rollout["spec"]["template"]["metadata"]["annotations"] == said


def test_predictions_are_recorded_as_the_service_reads_it() -> None:
    """The environment variable is what the serving process parses, of the stream MODEL.ENVIRONMENT."""
    from tidegate.serving.service import capture

    container = committed("hpa", "Rollout")["spec"]["template"]["spec"]["containers"][0]
    said = next(one["value"] for one in container["env"] if one["name"] == "TIDEGATE_CAPTURE")
    settings = capture.parse(said)
    assert settings == capture.Settings(
        store="s3://acme-ml/tidegate",
        stream="demand.prod",
        id="x-order-id",
        exclude=("email",),
        hash=("customer",),
    )
    assert container["envFrom"] == [{"secretRef": {"name": "tidegate-store"}}]
    ports = committed("hpa", "NetworkPolicy")["spec"]["egress"][1]["ports"]
    assert ports == [{"protocol": "TCP", "port": 443}]


def test_without_a_gateway_the_share_of_pods_splits_and_people_pass_the_steps() -> None:
    """Nothing of the gateway is made, and nothing that would need it."""
    documents = kept("off")
    assert {one["kind"] for one in documents} == {"ConfigMap", "Pod", "Rollout", "Service"}
    rollout = committed("off", "Rollout")
    assert "trafficRouting" not in rollout["spec"]["strategy"]["canary"]
    assert steps(rollout) == [{"setWeight": 50}, {"pause": {}}]
    assert rollout["spec"]["template"]["spec"]["serviceAccountName"] == "default"


def test_a_protected_model_is_asked_by_its_own_smoke_key() -> None:
    """The Secret is somebody else's; analyses get its name and the entry."""
    smoke = args(steps(committed("secured", "Rollout"))[2]["analysis"])
    assert (smoke["keys"], smoke["key"], smoke["host"]) == ("demand-keys", "smoke", "demand.acme.dev")


REFUSED = [
    ({"graceSeconds": 10}, "graceSeconds"),
    ({"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}}, "minReplicas"),
    ({"autoscaling": {"enabled": True, "targetCpu": 0}}, "without a metric"),
    ({"capture": {"enabled": True}}, "capture.store"),
    ({"traffic": {"router": "none"}}, "ladder.judge"),
    ({"traffic": {"router": "none", "requestsPerSecond": 5}, "ladder": {"judge": False}}, "requestsPerSecond"),
    ({"traffic": {"router": "none", "hostnames": ["a.dev"]}, "ladder": {"judge": False}}, "hostnames"),
    ({"traffic": {"apiKeys": {"existingSecret": "keys"}}}, "smokeEntry"),
    ({"ladder": {"steps": [{"weight": 25}, {"weight": 5}]}}, "must grow"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_would_fail_later_is_refused_at_once(given: dict[str, Any], said: str, helm: Path) -> None:
    """In words of the values, not of a template."""
    with pytest.raises(TidegateError, match=said):
        made(given)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("argoproj.io/v1alpha1/Rollout", "install Argo Rollouts"),
        ("gateway.networking.k8s.io/v1/HTTPRoute", "install the Gateway API"),
        ("gateway.envoyproxy.io/v1alpha1/BackendTrafficPolicy", "install Envoy Gateway"),
    ],
)
def test_a_cluster_that_lacks_a_kind_is_told_what_to_install(missing: str, said: str, helm: Path) -> None:
    """And how to go on without a cluster."""
    given = values("minimal")["model"]
    others = [one for one in tool.APIS if one != missing]
    with pytest.raises(TidegateError, match=f"{said}.*requireCRDs=false"):
        tool.template(CHARTS / "tidegate-model", "demand", "models", given, apis=others)
    made_anyway = tool.template(
        CHARTS / "tidegate-model", "demand", "models", given | {"requireCRDs": False}, apis=others
    )
    assert "kind: Rollout" in made_anyway


def test_a_service_monitor_waits_until_the_cluster_knows_the_kind(helm: Path) -> None:
    """Asked for by the values and known to the cluster: both."""
    given = values("secured")["model"]
    without = [one for one in tool.APIS if not one.startswith("monitoring")]
    assert "kind: ServiceMonitor" in tool.template(CHARTS / "tidegate-model", "demand", "models", given)
    assert "kind: ServiceMonitor" not in tool.template(
        CHARTS / "tidegate-model", "demand", "models", given, apis=without
    )


def test_extra_objects_are_templates(helm: Path) -> None:
    """They may use the release's own names."""
    extra = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "mine"},
        "data": {"of": "{{ .Values.model }}"},
    }
    assert made({"extraObjects": [extra]})["ConfigMap/mine"]["data"] == {"of": "demand"}
