"""charts/tidegate, part by part: the judge, its templates, the console, the gateway and their rights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from golden import CHARTS, filled, kept, values

from tidegate.core.errors import TidegateError
from tidegate.pipelines.manifests import helm as tool
from tidegate.pipelines.manifests.from_config import laid_over


def committed(name: str, kind: str, called: str) -> dict[str, Any]:
    """One committed object."""
    return next(one for one in kept(name) if (one["kind"], one["metadata"]["name"]) == (kind, called))


def metric(name: str, template: str) -> dict[str, Any]:
    """The one metric of a committed AnalysisTemplate."""
    (found,) = committed(name, "AnalysisTemplate", template)["spec"]["metrics"]
    return dict(found)


def test_there_is_one_judge_apart_from_the_console() -> None:
    """It holds what is no block yet, so that a second one must never answer beside it."""
    judge = committed("secured", "Deployment", "tidegate-judge")["spec"]
    assert (judge["replicas"], judge["strategy"]) == (1, {"type": "Recreate"})
    assert committed("secured", "Deployment", "tidegate-console")["spec"]["replicas"] == 2
    budgets = {one["metadata"]["name"] for one in kept("secured") if one["kind"] == "PodDisruptionBudget"}
    assert budgets == {"tidegate-console", "demand"}


def test_the_judge_takes_its_token_from_the_secret_that_analyses_read() -> None:
    """One Secret, made by somebody else; the collector beside it sends the same token over the loopback."""
    pod = committed("secured", "Deployment", "tidegate-judge")["spec"]["template"]["spec"]
    reference = {"name": "tidegate-judge", "key": "token"}
    for container in pod["containers"]:
        token = next(one for one in container["env"] if one["name"] == "TIDEGATE_JUDGE_TOKEN")
        assert token["valueFrom"]["secretKeyRef"] == reference
    for template in ("tidegate-verdict", "tidegate-guard"):
        spec = committed("secured", "AnalysisTemplate", template)["spec"]
        assert {"name": "token", "valueFrom": {"secretKeyRef": reference}} in spec["args"]
        header = {"key": "Authorization", "value": "Bearer {{args.token}}"}
        assert spec["metrics"][0]["provider"]["web"]["headers"] == [header]


def test_the_judge_without_a_project_is_told_its_store() -> None:
    """With one, tidegate.yaml says it, and the driver of that environment settles what Argo did."""

    def variables(name: str) -> dict[str, Any]:
        pod = committed(name, "Deployment", "tidegate-judge")["spec"]["template"]["spec"]
        return {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}

    assert variables("judge")["TIDEGATE_JUDGE_STORE"] == "s3://acme-ml/tidegate"
    assert "TIDEGATE_JUDGE_STORE" not in variables("secured")
    assert variables("secured")["TIDEGATE_ENV"] == "prod"


def test_the_command_lines_of_the_pods_exist() -> None:
    """What a pod runs is a command of this version, with its options."""
    from typer.core import TyperGroup

    from tidegate.cli.main import root

    for part in ("judge", "console"):
        container = committed("secured", "Deployment", f"tidegate-{part}")["spec"]["template"]["spec"]["containers"][0]
        assert container["command"] == ["tidegate"]
        serve = root().load("serve")
        assert isinstance(serve, TyperGroup)
        if part not in serve.commands:
            pytest.skip(f"`tidegate serve {part}` is not part of this version yet")
        known = {name for option in serve.commands[part].params for name in option.opts}
        assert container["args"][:2] == ["serve", part]
        assert {word for word in container["args"] if word.startswith("--")} <= known


def test_the_smoke_request_is_a_module_of_the_models_image() -> None:
    """With the options that the Job gives it."""
    from tidegate.serving.service import smoke

    job = metric("minimal", "tidegate-smoke")["provider"]["job"]["spec"]["template"]["spec"]["containers"][0]
    assert job["command"] == ["python3", "-m", smoke.__name__]
    with pytest.raises(SystemExit) as end:
        smoke.main([*job["args"], "--help"])
    assert end.value.code == 0


def test_an_answer_ends_a_step_and_continue_does_not() -> None:
    """First promote: passed. First rollback: aborted. Everything else is inconclusive, however often."""
    verdict = metric("minimal", "tidegate-verdict")
    assert (verdict["consecutiveSuccessLimit"], verdict["failureLimit"]) == (1, 0)
    assert verdict["count"] == verdict["inconclusiveLimit"] == "{{args.horizon}}"
    assert verdict["consecutiveErrorLimit"] == 30
    assert set(verdict["provider"]["web"]["jsonBody"]) == {
        "rollout", "model", "environment", "id", "experiment", "stable", "canary", "weight", "delay",
    }  # fmt: skip
    assert verdict["provider"]["web"]["url"] == "http://tidegate-judge.models.svc:8080/v1/verdicts"


def test_the_guard_never_ends_by_itself_and_an_answer_that_is_none_pauses() -> None:
    """No count: it runs until the rollout is over. Neither condition true: inconclusive, of which none is allowed."""
    guard = metric("minimal", "tidegate-guard")
    assert "count" not in guard
    assert "inconclusiveLimit" not in guard
    assert guard["provider"]["web"]["url"].endswith("/v1/guard")


def test_a_rollout_of_somebody_else_sends_its_plan_along() -> None:
    """The judge alone: no gateway, no console, no ledger."""
    documents = kept("judge")
    kinds = {one["kind"] for one in documents}
    assert not kinds & {"Gateway", "EnvoyProxy", "Rollout", "HTTPRoute"}
    body = metric("judge", "tidegate-verdict")["provider"]["web"]["jsonBody"]
    assert body["plan"]["steps"] == [10, 50]
    assert "plan" not in metric("minimal", "tidegate-verdict")["provider"]["web"]["jsonBody"]


def test_the_console_acts_only_where_its_operators_may() -> None:
    """Reading is a right of its own."""

    def verbs(name: str) -> set[str]:
        return {verb for rule in committed(name, "Role", "tidegate-console")["rules"] for verb in rule["verbs"]}

    assert verbs("secured") == {"get", "list", "watch", "patch"}
    assert verbs("gitops") == {"get", "list", "watch"}


def test_the_project_is_mounted_and_a_changed_one_starts_the_pods_again() -> None:
    """As text, into a folder that may be written."""
    config = committed("gitops", "ConfigMap", "tidegate-project")["data"]["tidegate.yaml"]
    assert yaml.safe_load(config)["model"] == "demand"
    for part in ("judge", "console"):
        template = committed("gitops", "Deployment", f"tidegate-{part}")["spec"]["template"]
        mounts = {one["mountPath"]: one for one in template["spec"]["containers"][0]["volumeMounts"]}
        assert mounts["/project/tidegate.yaml"]["subPath"] == "tidegate.yaml"
        assert len(template["metadata"]["annotations"]["checksum/config"]) == 64


def test_the_collector_hands_over_what_the_gateway_sends() -> None:
    """GRPC in, HTTP to the judge beside it out; its token comes from the environment."""
    config = yaml.safe_load(committed("minimal", "ConfigMap", "tidegate-collector")["data"]["collector.yaml"])
    assert config["service"]["pipelines"] == {
        "logs": {"receivers": ["otlp"], "processors": ["batch"], "exporters": ["otlphttp"]}
    }
    assert config["exporters"]["otlphttp"]["endpoint"] == "http://127.0.0.1:8080"
    assert config["exporters"]["otlphttp"]["headers"] == {"authorization": "Bearer ${env:TIDEGATE_JUDGE_TOKEN}"}


def test_only_argo_the_gateway_and_prometheus_reach_the_judge() -> None:
    """And it reaches names, the store and the API server."""
    policy = committed("secured", "NetworkPolicy", "tidegate-judge")["spec"]
    asking, sending = policy["ingress"]
    spaces = [one["namespaceSelector"]["matchLabels"] for one in asking["from"] if "namespaceSelector" in one]
    assert [one["kubernetes.io/metadata.name"] for one in spaces] == ["argo-rollouts", "monitoring"]
    assert sending["ports"] == [{"protocol": "TCP", "port": "otlp"}]
    assert [one["port"] for one in policy["egress"][1]["ports"]] == [443, 9000, 6443]


REFUSED = [
    ({"store": {"address": ""}}, "store.address"),
    ({"console": {"enabled": True}}, "--set-file project"),
    ({"judge": {"enabled": False}, "analysisTemplates": {"enabled": False}}, "gateway.enabled=false"),
    ({"judge": {"enabled": False}, "gateway": {"enabled": False}}, "analysisTemplates.judgeUrl"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_would_fail_later_is_refused_at_once(given: dict[str, Any], said: str, helm: Path) -> None:
    """In words of the values."""
    with pytest.raises(TidegateError, match=said):
        filled("tidegate", laid_over(values("minimal")["platform"], given))


@pytest.mark.parametrize("missing", [one for one in tool.APIS if one.endswith(("Template", "Gateway", "EnvoyProxy"))])
def test_a_cluster_that_lacks_a_kind_is_told_what_to_install(missing: str, helm: Path) -> None:
    """By its name."""
    others = [one for one in tool.APIS if one != missing]
    with pytest.raises(TidegateError, match=f"knows no {missing.rpartition('/')[2]} .*install"):
        tool.template(CHARTS / "tidegate", "tidegate", "models", values("minimal")["platform"], apis=others)
