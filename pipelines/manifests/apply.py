"""`tidegate apply` and `tidegate diff`: make a namespace what tidegate.yaml and the ledger say, and nothing else.

Server-side, with the field manager `tidegate`: a field that somebody else set is a conflict, not a loss. Removed is
only what we made (labels and manager say so) and render no more. While a rollout runs, the Rollout and its route belong
to Argo Rollouts and stay as they are; everything else is applied.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import Conflict
from tidegate.core.kube import HTTP_ROUTE, KINDS, MANAGER, ROLLOUT, Cluster, Kind
from tidegate.pipelines.yaml_text import whole
from tidegate.rollouts.drivers.argo import filled
from tidegate.serving.deploy.kube import label_value, moving

if TYPE_CHECKING:
    from tidegate.pipelines.environment import Environment

Document = dict[str, Any]

_PART_OF: Final = {"app.kubernetes.io/part-of": "tidegate"}
_MODEL, _ENVIRONMENT = "tidegate.dev/model", "tidegate.dev/environment"
_MANAGED: Final = "app.kubernetes.io/managed-by"
# What a rollout in progress owns.
_MOVING: Final = frozenset({(ROLLOUT.api_version, ROLLOUT.kind), (HTTP_ROUTE.api_version, HTTP_ROUTE.kind)})
# Kinds that charts and Workflows make, in the order in which what is not rendered any more is removed.
_MADE: Final = (
    "CronWorkflow", "WorkflowTemplate", "HorizontalPodAutoscaler", "PodDisruptionBudget", "ServiceMonitor",
    "PrometheusRule", "EnvoyPatchPolicy", "EnvoyExtensionPolicy", "BackendTrafficPolicy", "HTTPRoute", "Rollout",
    "AnalysisTemplate", "Deployment", "Gateway", "EnvoyProxy", "Service", "NetworkPolicy", "RoleBinding", "Role",
    "ConfigMap", "ServiceAccount",
)  # fmt: skip
# What the server writes by itself.
_SERVERS: Final = frozenset({"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One object: `new`, `changed`, `removed` or `same`; lines as `diff -u` writes them."""

    object: str
    change: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of the objects, by their names as `Kind/name`; `kept` belong to a running rollout."""

    applied: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]


def apply(environment: Environment, documents: Sequence[Document], *, platform: bool, force: bool) -> Applied:
    """Apply what was rendered, and remove what was rendered once and is not any more.

    Where pods of the model change outside a rollout, everybody gets the new ones without a judge: the release is the
    same, or a person chose it.

    Args:
        environment: on a cluster.
        documents: all objects of the model, or of the platform.
        platform: they are what the models of the namespace share.
        force: take fields from whoever owns them.

    Raises:
        Conflict: others own a field.
        TidegateError: the cluster refused.
    """
    cluster = environment.cluster
    kept = _kept(environment, documents, platform=platform)
    wanted = [one for one in documents if name_of(one) not in kept]
    environment.kube_driver.put(wanted, force=force)
    gone = [one for one in stale(cluster, documents, owner(environment, platform=platform)) if name_of(one) not in kept]
    removed = [name_of(one) for one in gone if _delete(cluster, one)]
    return Applied(tuple(map(name_of, wanted)), tuple(sorted(kept)), tuple(removed))


def diff(
    environment: Environment, documents: Sequence[Document], *, platform: bool
) -> tuple[list[Difference], tuple[str, ...]]:
    """What `apply` would change, by the server's own opinion (a dry run), and what it would leave to a rollout.

    Raises:
        TidegateError: the cluster refused.
    """
    cluster = environment.cluster
    kept = _kept(environment, documents, platform=platform)
    found = [_difference(cluster, one) for one in documents if name_of(one) not in kept]
    gone = [one for one in stale(cluster, documents, owner(environment, platform=platform)) if name_of(one) not in kept]
    found += [Difference(name_of(one), "removed", tuple(_lines(one, None))) for one in gone]
    return found, tuple(sorted(kept))


def stale(cluster: Cluster, documents: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> list[Document]:
    """Objects of ours in the namespace that are not among `documents`: ours by labels, and by who applied them."""
    wanted = {name_of(one) for one in documents}
    found = []
    for kind in _made():
        if not cluster.serves(kind):
            continue
        listed = cluster.list(kind, labels)
        found += [one for one in listed if name_of(one) not in wanted and _is_ours(one, labels)]
    return found


def owner(environment: Environment, *, platform: bool) -> dict[str, str]:
    """The labels of everything that one rendering makes; the platform's objects have no model."""
    labels = {**_PART_OF, _MANAGED: MANAGER, _ENVIRONMENT: label_value(environment.project.env)}
    return labels if platform else {**labels, _MODEL: label_value(environment.project.config.model)}


def name_of(document: Mapping[str, Any]) -> str:
    """`Kind/name`."""
    return f"{document['kind']}/{document['metadata']['name']}"


def _kept(environment: Environment, documents: Sequence[Document], *, platform: bool) -> frozenset[str]:
    """What belongs to Argo Rollouts now: while the ledger has an open rollout, or the plugin moves the route."""
    if platform:
        return frozenset()
    environment.kube_driver.settle()
    name = environment.kube_driver.name
    route = environment.cluster.get(HTTP_ROUTE, name) if environment.cluster.serves(HTTP_ROUTE) else None
    busy = environment.state().open_rollout is not None
    if not busy and (route is None or not moving(route)):
        return frozenset()
    ours = {name_of(one) for one in documents if (one["apiVersion"], one["kind"]) in _MOVING}
    return frozenset(ours | {f"Rollout/{name}", f"HTTPRoute/{name}"})


def _delete(cluster: Cluster, thing: Mapping[str, Any]) -> bool:
    """Remove this very object, and not one that took its name since."""
    metadata = thing["metadata"]
    return cluster.delete(cluster.kind_of(thing), metadata["name"], uid=metadata["uid"])


def _difference(cluster: Cluster, document: Document) -> Difference:
    before = cluster.get(cluster.kind_of(document), document["metadata"]["name"])
    try:
        after = cluster.apply(document, dry_run=True)
    except Conflict:
        # What somebody else owns is a difference too; `apply` says whose it is.
        after = cluster.apply(document, dry_run=True, force=True)
    lines = tuple(_lines(before, after))
    return Difference(name_of(document), "new" if before is None else "changed" if lines else "same", lines)


def _lines(before: Document | None, after: Document | None) -> Iterable[str]:
    old, new = (_plain(one) for one in (before, after))
    yield from difflib.unified_diff(old, new, "in the cluster", "rendered", lineterm="", n=2)


def _plain(document: Document | None) -> list[str]:
    """An object as YAML without what the server keeps about it; a Secret's values are nobody's to read."""
    if document is None:
        return []
    metadata = {key: value for key, value in document["metadata"].items() if key not in _SERVERS}
    shown = {**document, "metadata": metadata}
    shown.pop("status", None)
    for key in ("data", "stringData") if document["kind"] == "Secret" else ():
        if key in shown:
            shown[key] = dict.fromkeys(shown[key], "(not shown)")
    # Controllers leave out what is empty, or write it where it was not.
    return whole(filled(shown), sort_keys=True).splitlines()


def _made() -> list[Kind]:
    by_name = {one.kind: one for one in KINDS.values()}
    return [by_name[name] for name in _MADE if name in by_name]


def _is_ours(thing: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Applied by tidegate; the platform's labels are those of a model's objects too, which have one more.

    What a controller made of ours (the Services of a Gateway, the pods of a Rollout) has labels of ours and an owner.
    """
    metadata = thing["metadata"]
    if _MODEL not in labels and _MODEL in (metadata.get("labels") or {}):
        return False
    applied = any(
        one.get("manager") == MANAGER and one.get("operation") == "Apply" for one in metadata.get("managedFields") or ()
    )
    return applied and not metadata.get("ownerReferences") and not metadata.get("deletionTimestamp")
