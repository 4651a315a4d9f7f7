"""The committed manifests: what the charts make today, held against the schemas of everything that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from golden import CHARTS, NAMES, file, kept, made

from tidegate.pipelines.manifests import lint, render
from tidegate.pipelines.manifests.lint_pods import containers

UNCHECKED = {
    "BackendTrafficPolicy",
    "EnvoyExtensionPolicy",
    "EnvoyPatchPolicy",
    "EnvoyProxy",
    "SecurityPolicy",
    "ServiceMonitor",
}
"""Kinds without a schema here: test_unchecked.py looks at each of their fields."""
WORKLOADS = {"Deployment", "Rollout"}


def pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod specs in an object: of a pod, of a workload, of a Job within an AnalysisTemplate."""
    if document["kind"] == "Pod":
        yield document["spec"]
    elif document["kind"] in WORKLOADS:
        yield document["spec"]["template"]["spec"]
    elif document["kind"] == "AnalysisTemplate":
        for metric in document["spec"]["metrics"]:
            if "job" in metric["provider"]:
                yield metric["provider"]["job"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", NAMES)
def test_what_the_charts_make_is_what_is_committed(name: str, helm: Path) -> None:
    """A changed template shows as a changed manifest; `make charts` writes them again."""
    assert render.text(made(name)) == file(name).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_object_holds_against_its_schema(name: str, check: Any) -> None:
    """Strictly: an unknown field is an error. Only kinds that nobody has a schema of here go unchecked."""
    answers = [(document, *check(document)) for document in kept(name)]
    assert [(one["kind"], why) for one, code, why in answers if code == 1] == []
    assert {one["kind"] for one, code, _ in answers if code == 2} <= UNCHECKED


@pytest.mark.parametrize("name", NAMES)
def test_lint_has_nothing_to_say(name: str) -> None:
    """But that two sets leave the platform's image to a tag, which is what a first trial does."""
    found = lint.check([lint.Source(name, index, one) for index, one in enumerate(kept(name))])
    tags = [one for one in found if "is a tag" in one.reason]
    assert [one for one in found if one not in tags] == []
    assert bool(tags) == (name in {"minimal", "gitops"})


def keys(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every key of every mapping below a node."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*path, key)
            yield from keys(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from keys(value, (*path, index))


# Mappings whose keys are the user's own.
FREE = {
    "annotations", "data", "labels", "matchLabels", "nodeSelector", "limits", "requests", "plugins", "jsonBody",
    "argoproj-labs/gatewayAPI", "httpRoutes", "selector",
}  # fmt: skip


def test_a_typing_error_in_any_field_is_found(check: Any) -> None:
    """Every field of every kind once: with another letter in its name, the object is refused."""
    seen: set[tuple[object, ...]] = set()
    missed = []
    for document in (one for name in ("gpu", "hpa", "secured") for one in kept(name)):
        if document["kind"] in UNCHECKED:
            continue
        for path in list(keys(document)):
            shape = (document["kind"], *("[]" if isinstance(part, int) else part for part in path))
            # CRDs say nothing of metadata: the API server has its own way with it.
            if shape in seen or FREE & set(path[:-1]) or path[0] != "spec":
                continue
            seen.add(shape)
            around: Any = document
            for part in path[:-1]:
                around = around[part]
            around[f"{path[-1]}x"] = around.pop(path[-1])
            if check(document)[0] != 1:
                missed.append(shape)
            around[path[-1]] = around.pop(f"{path[-1]}x")
    assert len(seen) > 300
    assert missed == [], [".".join(map(str, one)) for one in missed]


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_may_run_where_the_restricted_standard_holds(name: str) -> None:
    """No root, no writable image, no privilege, no capability, no token that nobody needs."""
    for document in kept(name):
        for pod in pods(document):
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["enableServiceLinks"] is False
            asks = document["metadata"]["name"] in {"tidegate-judge", "tidegate-console"}
            assert pod["automountServiceAccountToken"] is asks
            for container in pod["containers"]:
                context = container["securityContext"]
                assert context["allowPrivilegeEscalation"] is False
                assert context["readOnlyRootFilesystem"] is True
                assert context["capabilities"] == {"drop": ["ALL"]}
                assert container["resources"]["limits"]["memory"]
                assert set(container["resources"]["requests"]) >= {"cpu", "memory"}


@pytest.mark.parametrize("name", NAMES)
def test_no_manifest_holds_a_secret(name: str) -> None:
    """Neither an object of that kind nor a value in the environment; every secret is named and made by somebody else."""
    documents = kept(name)
    assert [one for one in documents if one["kind"] == "Secret"] == []
    environment = [
        one for document in documents for _, box in containers(document.get("spec")) for one in box.get("env", [])
    ]
    named = [one for one in environment if one["name"].endswith(("TOKEN", "TOKENS", "KEY"))]
    assert all("secretKeyRef" in one["valueFrom"] for one in named)


@pytest.mark.parametrize("name", NAMES)
def test_rights_are_few_and_end_at_the_namespace(name: str) -> None:
    """No star, no secret, no right that would give others, and nothing for the whole cluster."""
    documents = kept(name)
    assert [one["kind"] for one in documents if one["kind"].startswith("Cluster")] == []
    for role in (one for one in documents if one["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]
            assert not {"escalate", "bind", "impersonate", "delete", "deletecollection"} & set(rule["verbs"])
            assert not {"roles", "rolebindings", "pods/exec"} & set(rule["resources"])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "off"])
def test_every_pod_has_its_network_policy(name: str) -> None:
    """Who serves is selected by a policy for both directions."""
    documents = kept(name)
    policies = [one["spec"] for one in documents if one["kind"] == "NetworkPolicy"]
    for workload in (one for one in documents if one["kind"] in WORKLOADS):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        covering = [one for one in policies if one["podSelector"]["matchLabels"].items() <= labels.items()]
        assert [one["policyTypes"] for one in covering] == [["Ingress", "Egress"]]


@pytest.mark.parametrize("name", NAMES)
def test_services_and_budgets_select_who_serves_and_nobody_else(name: str) -> None:
    """The pods of `helm test` and of the smoke request are none of the model's."""
    documents = kept(name)
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in documents
        if one["kind"] in WORKLOADS
    }
    others = [one["metadata"]["labels"] for one in documents if one["kind"] == "Pod"]
    for one in documents:
        if one["kind"] == "Service":
            wanted = one["spec"]["selector"].items()
        elif one["kind"] == "PodDisruptionBudget":
            wanted = one["spec"]["selector"]["matchLabels"].items()
        else:
            continue
        assert len([name for name, given in labels.items() if wanted <= given.items()]) == 1
        assert [given for given in others if wanted <= given.items()] == []


def test_the_trial_values_hold_too(helm: Path, check: Any) -> None:
    """values-dev.yaml brings an MLflow and an object store; their objects are as strict as ours."""
    from tidegate.pipelines.manifests import helm as tool

    values = yaml.safe_load((CHARTS / "tidegate" / "values-dev.yaml").read_text())
    documents = render.documents(tool.template(CHARTS / "tidegate", "tidegate", "models", values))
    assert [(one["kind"], why) for one in documents for code, why in [check(one)] if code == 1] == []
    deployed = {one["metadata"]["name"] for one in documents if one["kind"] == "Deployment"}
    assert deployed == {"tidegate-judge", "tidegate-mlflow", "tidegate-objects"}
