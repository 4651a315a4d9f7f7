"""The accounts that the pipelines' pods run as, each with the least that its steps need.

Training runs the user's code, and everything that it installed: its account may write the results of its own step for
Argo and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tidegate.pipelines.workflows import names

if TYPE_CHECKING:
    from tidegate.pipelines.workflows.settings import Settings

PIPELINE: Final = "pipeline"
MONITOR: Final = "monitor"
ROLLOUT: Final = "rollout"

_RBAC: Final = "rbac.authorization.k8s.io"
_ARGO: Final = "argoproj.io"
_RESULTS: Final = {"apiGroups": [_ARGO], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}
_SUBMIT: Final = {"apiGroups": [_ARGO], "resources": ["workflows"], "verbs": ["create", "get"]}
_TEMPLATES: Final = {"apiGroups": [_ARGO], "resources": ["workflowtemplates"], "verbs": ["get"]}
# What starting a rollout applies: the objects of the model's chart, by API group.
_APPLIED: Final = {
    _ARGO: ("rollouts", "analysistemplates"),
    "gateway.networking.k8s.io": ("httproutes",),
    "gateway.envoyproxy.io": ("backendtrafficpolicies", "envoyextensionpolicies", "envoypatchpolicies"),
    "": ("services", "serviceaccounts", "configmaps"),
    "policy": ("poddisruptionbudgets",),
    "autoscaling": ("horizontalpodautoscalers",),
    "networking.k8s.io": ("networkpolicies",),
}
_STATUS: Final = {"apiGroups": [_ARGO], "resources": ["rollouts/status"], "verbs": ["patch"]}


def account(settings: Settings, which: str) -> str:
    """The service account's name."""
    return names.of(which, settings.model)


def documents(settings: Settings) -> list[dict[str, Any]]:
    """ServiceAccount, Role and RoleBinding of each."""
    rules = {PIPELINE: [_RESULTS], MONITOR: [_RESULTS, _SUBMIT, _TEMPLATES]}
    if settings.acts:
        rules[ROLLOUT] = [_RESULTS, *map(_may_apply, _APPLIED), _STATUS]
    return [one for which, allowed in rules.items() for one in _account(settings, account(settings, which), allowed)]


def _may_apply(group: str) -> dict[str, Any]:
    return {
        "apiGroups": [group],
        "resources": list(_APPLIED[group]),
        "verbs": ["get", "list", "watch", "create", "patch"],
    }


def _account(settings: Settings, name: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    metadata = {
        "name": name,
        "namespace": settings.namespace,
        "labels": names.labels(settings.model, settings.environment),
    }
    pull = [{"name": settings.pull_secret}] if settings.pull_secret else []
    subject = {"kind": "ServiceAccount", "name": name, "namespace": settings.namespace}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata,
            "automountServiceAccountToken": False,
            **({"imagePullSecrets": pull} if pull else {}),
        },
        {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
            "subjects": [subject],
        },
    ]
