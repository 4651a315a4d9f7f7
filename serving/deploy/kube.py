"""Revisions on a cluster: ReplicaSets that Argo Rollouts keeps, and how a model's objects get there.

Argo starts and stops pods; who wants another revision changes the Rollout. So `start` and `stop` only accept what is so
already (docs/decisions/0017-what-a-cluster-owns.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tidegate.core.errors import Conflict
from tidegate.core.kube import HTTP_ROUTE, MANAGER, POD, REPLICA_SET, Cluster
from tidegate.core.kube_errors import FieldsOwned
from tidegate.serving.deploy import Revision, Running

RELEASE: Final = "tidegate.dev/release"
VERSION: Final = "tidegate.dev/version"
MODEL: Final = "tidegate.dev/model"
IN_PROGRESS: Final = "rollouts.argoproj.io/gatewayapi-canary"
"""The label that Argo's Gateway API plugin puts on a route while it moves weights."""
_HASH: Final = "rollouts-pod-template-hash"
_PORT: Final = 3000
# Argo's controller, and our own patches, which are another owner than what we apply.
_OURS: Final = frozenset({"rollouts-controller", "argo-rollouts", MANAGER})

Document = dict[str, Any]


class KubeDeployer:
    """The revisions of one model in one namespace.

    Args:
        cluster: with the namespace.
        model: as the labels have it.
    """

    def __init__(self, cluster: Cluster, model: str) -> None:
        self._cluster, self._labels = cluster, {MODEL: model}

    def start(self, revision: Revision) -> None:
        """Accept a revision that runs.

        Raises:
            Conflict: it does not, and only a rollout or a rollback brings it.
        """
        if self.find(revision.release) is None:
            raise Conflict(
                f"Release {revision.release} does not run, and on a cluster nobody but Argo Rollouts starts pods.",
                f"`tidegate ship --release {revision.release}` tries it, `tidegate rollback {revision.release}` goes"
                " back to it at once.",
            )

    def find(self, release: str) -> Running | None:
        """The pods of a release, or None when it has none; `ready` when as many as are wanted answer."""
        return next((one for one in self.running() if one.release == release), None)

    def running(self) -> tuple[Running, ...]:
        """Every release that has pods, once each; there is no pid, and the port is that of its containers."""
        sets = [one for one in self._cluster.list(REPLICA_SET, self._labels) if one["spec"].get("replicas", 0) > 0]
        alive = {pod["metadata"]["labels"].get(_HASH) for pod in self._cluster.list(POD, self._labels) if _lives(pod)}
        found: dict[str, Running] = {}
        for one in sets:
            told = one["spec"]["template"]["metadata"].get("annotations") or {}
            if one["metadata"]["labels"].get(_HASH) not in alive or RELEASE not in told:
                continue
            wanted, ready = one["spec"]["replicas"], (one.get("status") or {}).get("readyReplicas", 0)
            version = int(told.get(VERSION) or 0)
            before = found.get(told[RELEASE])
            # One release may be two ReplicaSets while a changed setting rolls out.
            whole = ready >= wanted and (before is None or before.ready)
            found[told[RELEASE]] = Running(told[RELEASE], version, 0, _PORT, whole)
        return tuple(found[release] for release in sorted(found))

    def stop(self, release: str) -> None:
        """Accept that a revision does not run.

        Raises:
            Conflict: it does, and only the end of its rollout or a rollback takes its pods away.
        """
        if self.find(release) is not None:
            raise Conflict(
                f"Release {release} runs, and on a cluster nobody but Argo Rollouts stops pods.",
                "`tidegate rollout abort` ends a canary; a former champion's pods go after rollout.keep_previous.",
            )

    def end_unrecorded(self) -> int:
        """There are none: the cluster records everything that it runs."""
        return 0


def object_name(model: str) -> str:
    """What the objects of a model are called, as the chart does: a DNS label."""
    return re.sub(r"[^a-z0-9-]+", "-", model.lower())[:52].strip("-")


def label_value(text: str) -> str:
    """A name as the chart writes it into a label."""
    return text[:63].strip("-_.")


def put(cluster: Cluster, documents: Iterable[Mapping[str, Any]], *, force: bool = False) -> list[Document]:
    """Apply objects in their order; the route only while nobody moves weights on it.

    Returns:
        What the server made of those that were applied.

    Raises:
        Conflict: others own a field.
    """
    made = []
    for document in documents:
        if document["kind"] == HTTP_ROUTE.kind:
            seen = cluster.get(HTTP_ROUTE, document["metadata"]["name"])
            if seen is not None and moving(seen):
                continue
            made.append(cluster.apply(_as_seen(document, seen), force=True))
        else:
            made.append(_applied(cluster, document, force=force))
    return made


def _applied(cluster: Cluster, document: Mapping[str, Any], *, force: bool) -> Document:
    """Apply; what only Argo's controller owns is taken back: it writes a Rollout's steps anew, in its own words."""
    try:
        return cluster.apply(document, force=force)
    except FieldsOwned as error:
        if not error.owners <= _OURS:
            raise
        return cluster.apply(document, force=True)


def moving(route: Mapping[str, Any]) -> bool:
    """Whether Argo's plugin moves this route's weights now."""
    return (route["metadata"].get("labels") or {}).get(IN_PROGRESS) == "in-progress"


def _as_seen(document: Mapping[str, Any], seen: Mapping[str, Any] | None) -> Document:
    """The route on top of what was looked at: a rollout that begins in between is a conflict, not a reset to 0 %.

    The plugin's weights are taken back by force: at rest they are 0 and 100, as ours.
    """
    version = {"resourceVersion": seen["metadata"]["resourceVersion"]} if seen is not None else {}
    return {**document, "metadata": {**document["metadata"], **version}}


def _lives(pod: Mapping[str, Any]) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase not in {"Succeeded", "Failed"} and not pod["metadata"].get("deletionTimestamp")
