"""Rules for whatever has pods in it, and for what scales, protects and configures them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tidegate.pipelines.manifests.lint_world import (
    ARGUMENT,
    Document,
    Problem,
    Rule,
    World,
    at,
    name_of,
    same_place,
    selects,
)

_DIGEST: Final = re.compile(r".+@sha256:[0-9a-f]{64}")
_FILLED_IN: Final = re.compile(r"\{\{.*\}\}")
_SECRET: Final = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|API_KEY|ACCESS_KEY|CREDENTIAL)S?$")
_WORKLOADS: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Rollout")


def containers(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and content of every container below a node, in whichever kind they are wrapped."""
    if isinstance(node, Mapping):
        if isinstance(node.get("image"), str) and ({"name", "command", "args", "source", "env"} & node.keys()):
            yield path, dict(node)
        for key, value in node.items():
            yield from containers(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from containers(value, f"{path}[{index}]")


def _by_digest(document: Document, _: World) -> Iterator[Problem]:
    for path, container in containers(document.get("spec"), "spec"):
        image = container["image"]
        if not _DIGEST.fullmatch(image) and not _FILLED_IN.search(image):
            yield Problem(
                f"{path}.image",
                f"{image} is a tag, and a tag may be another image tomorrow: no new hash of the pods, so no rollout.",
                "Write REPOSITORY@sha256:DIGEST; `tidegate package --image --push` prints it.",
            )


def _handed_images(rollout: Document, _: World) -> Iterator[Problem]:
    """Images that a Rollout gives to an analysis as an argument."""
    if rollout["kind"] != "Rollout":
        return
    for index, step in enumerate(at(rollout, "spec", "strategy", "canary", "steps", default=[])):
        for number, one in enumerate(at(step, "analysis", "args", default=[])):
            if one.get("name") == "image" and not _DIGEST.fullmatch(str(one.get("value", ""))):
                yield Problem(
                    f"spec.strategy.canary.steps[{index}].analysis.args[{number}].value",
                    f"{one.get('value')} is a tag, so another image may be tested than the one that is rolled out.",
                    "Write REPOSITORY@sha256:DIGEST.",
                )


def _plain_secrets(document: Document, _: World) -> Iterator[Problem]:
    for path, container in containers(document.get("spec"), "spec"):
        for index, one in enumerate(container.get("env") or []):
            value = one.get("value")
            if value and _SECRET.search(str(one.get("name", ""))) and not ARGUMENT.search(str(value)):
                yield Problem(
                    f"{path}.env[{index}].value",
                    f"{one['name']} is written in plain text: whoever reads this object or its git history has it.",
                    "Use valueFrom: {secretKeyRef: ...}.",
                )


def _scales(scaler: Document, world: World) -> Iterator[Problem]:
    target = at(scaler, "spec", "scaleTargetRef", default={})
    workload = world.named(target.get("kind", ""), target.get("name", ""), scaler)
    if workload is None:
        if world.has(target.get("kind", "")):
            yield Problem(
                "spec.scaleTargetRef",
                f"There is no {target.get('kind')} {target.get('name')} among these objects.",
                "Correct the name.",
            )
        return
    if workload.get("apiVersion") != target.get("apiVersion"):
        yield Problem(
            "spec.scaleTargetRef.apiVersion",
            f"{target.get('apiVersion')} is not the {workload.get('apiVersion')} of its target: it scales nothing.",
            f"Write {workload.get('apiVersion')}.",
        )
    if at(workload, "spec", "replicas") is not None:
        yield Problem(
            "spec.scaleTargetRef",
            f"spec.replicas of {target.get('kind')}/{target.get('name')} is set: each apply undoes what was scaled.",
            "Leave spec.replicas out.",
        )


def _protects(budget: Document, world: World) -> Iterator[Problem]:
    wanted = at(budget, "spec", "selector", "matchLabels", default={})
    pods = [
        at(one, "spec", "template", "metadata", "labels", default={})
        for one in world.kind(*_WORKLOADS)
        if same_place(one, budget)
    ]
    if wanted and pods and not any(selects(wanted, labels) for labels in pods):
        yield Problem(
            "spec.selector",
            f"No pod of these objects has these labels: {name_of(budget)} protects nothing.",
            "Correct it.",
        )


def _kept_out(secret: Document, _: World) -> Iterator[Problem]:
    if secret.get("data") or secret.get("stringData"):
        yield Problem(
            "data",
            "A Secret among manifests is a secret in git.",
            "Make it in the cluster, and name it: every value `existingSecret` takes its name.",
        )


POD_RULES: Final[tuple[Rule, ...]] = (_by_digest, _handed_images, _plain_secrets)
SCALING_RULES: Final[tuple[Rule, ...]] = (_scales,)
BUDGET_RULES: Final[tuple[Rule, ...]] = (_protects,)
SECRET_RULES: Final[tuple[Rule, ...]] = (_kept_out,)
