"""One namespace of one cluster: apply, create, get, list, patch, delete, watch, logs, with errors of ours.

The only file that imports `kubernetes`, and of that only what opens a kubeconfig and sends a request: addresses are
made from `Kind`, so that a custom resource costs no more than a Pod. What may be sent again without harm is sent again,
for `patience` seconds at most; what may not is first made so that it can be (see `Cluster.create`).
"""

from __future__ import annotations

import copy
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from tidegate.core.errors import Permanent, Temporary, UsageError
from tidegate.core.kube_errors import (
    CONFLICT,
    GONE,
    NOT_FOUND,
    TOO_MANY,
    UNAUTHORIZED,
    UNSURE,
    Answer,
    Ask,
    error_for,
    not_served,
)

MANAGER: Final = "tidegate"
# Who made an object, so that an answer that was lost is told from an object of somebody else's.
_REQUEST: Final = "tidegate.dev/request"
# Seconds. The API server itself gives up after 60; a watch is renewed before idle connections are cut (350 s on AWS).
_CONNECT, _READ, _WATCH = 5.0, 60.0, 50.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 8.0
# A server that nobody can reach is mostly a wrong address: a person waits for less than a busy one deserves.
_AWAY = 10.0
_PAGE = 500
_WRITING: Final = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
# Of a name made from `generateName`: hexadecimal digits; of a time stamp: up to its fraction.
_SUFFIX, _WHOLE_SECOND = 8, 19
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: `apps/v1`, `ReplicaSet`, and the plural that is in its address."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; "" is the core one."""
        return self.api_version.rpartition("/")[0]


ROLLOUT: Final = Kind("argoproj.io/v1alpha1", "Rollout", "rollouts")
ANALYSIS_RUN: Final = Kind("argoproj.io/v1alpha1", "AnalysisRun", "analysisruns")
ANALYSIS_TEMPLATE: Final = Kind("argoproj.io/v1alpha1", "AnalysisTemplate", "analysistemplates")
WORKFLOW: Final = Kind("argoproj.io/v1alpha1", "Workflow", "workflows")
WORKFLOW_TEMPLATE: Final = Kind("argoproj.io/v1alpha1", "WorkflowTemplate", "workflowtemplates")
CRON_WORKFLOW: Final = Kind("argoproj.io/v1alpha1", "CronWorkflow", "cronworkflows")
GATEWAY: Final = Kind("gateway.networking.k8s.io/v1", "Gateway", "gateways")
HTTP_ROUTE: Final = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
BACKEND_TRAFFIC_POLICY: Final = Kind("gateway.envoyproxy.io/v1alpha1", "BackendTrafficPolicy", "backendtrafficpolicies")
ENVOY_EXTENSION_POLICY: Final = Kind("gateway.envoyproxy.io/v1alpha1", "EnvoyExtensionPolicy", "envoyextensionpolicies")
ENVOY_PATCH_POLICY: Final = Kind("gateway.envoyproxy.io/v1alpha1", "EnvoyPatchPolicy", "envoypatchpolicies")
ENVOY_PROXY: Final = Kind("gateway.envoyproxy.io/v1alpha1", "EnvoyProxy", "envoyproxies")
NAMESPACE: Final = Kind("v1", "Namespace", "namespaces", namespaced=False)
SERVICE: Final = Kind("v1", "Service", "services")
SERVICE_ACCOUNT: Final = Kind("v1", "ServiceAccount", "serviceaccounts")
POD: Final = Kind("v1", "Pod", "pods")
CONFIG_MAP: Final = Kind("v1", "ConfigMap", "configmaps")
SECRET: Final = Kind("v1", "Secret", "secrets")
EVENT: Final = Kind("v1", "Event", "events")
DEPLOYMENT: Final = Kind("apps/v1", "Deployment", "deployments")
REPLICA_SET: Final = Kind("apps/v1", "ReplicaSet", "replicasets")
JOB: Final = Kind("batch/v1", "Job", "jobs")
HORIZONTAL_POD_AUTOSCALER: Final = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
POD_DISRUPTION_BUDGET: Final = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY: Final = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
ROLE: Final = Kind("rbac.authorization.k8s.io/v1", "Role", "roles")
ROLE_BINDING: Final = Kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
CLUSTER_ROLE: Final = Kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", namespaced=False)
CLUSTER_ROLE_BINDING: Final = Kind(
    "rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False
)
SERVICE_MONITOR: Final = Kind("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors")
PROMETHEUS_RULE: Final = Kind("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules")
_REVIEW: Final = Kind(
    "authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False
)
KINDS: Final = {(one.api_version, one.kind): one for one in list(globals().values()) if isinstance(one, Kind)}

Document = dict[str, Any]
Documents = list[Document]
_NONE: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class _Request:
    """One request; `read` is how many seconds may pass without a byte of the answer (None: any)."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Document | None = None
    content_type: str = "application/json"
    read: float | None = _READ

    @property
    def address(self) -> str:
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


class Cluster:
    """What tidegate does to one namespace.

    In a pod without a kubeconfig it is the pod's service account that asks. Nothing is opened before the first request.
    Threads may share one.

    Args:
        context: of the kubeconfig; None: the current one.
        namespace: of every object that names none.
        kubeconfig: the file; None: `KUBECONFIG`, else `~/.kube/config`.
        patience: seconds for which a request is tried again that the server was too busy for.
    """

    def __init__(
        self, context: str | None, namespace: str, kubeconfig: Path | None = None, *, patience: float = 30.0
    ) -> None:
        self.context, self.namespace = context, namespace
        self._line = _Line(context, kubeconfig, patience)
        self._discovered: dict[str, Documents] = {}

    def apply(self, document: Mapping[str, Any], *, force: bool = False, dry_run: bool = False) -> Document:
        """Make the object what the document says, server-side; fields that we applied before and left out now go.

        A field that the API does not know is refused, not dropped.

        Raises:
            Conflict: others own a field, and it is not `force`d; names the field and its owner.
        """
        kind, name = self.kind_of(document), document["metadata"]["name"]
        query = {**_WRITING, "force": str(force).lower(), **_dry(dry_run)}
        path = self._path(kind, name, namespace=_place(document))
        request = _Request("PATCH", path, query, dict(document), "application/apply-patch+yaml")
        return self._line.send(request, self._ask("patch", kind, name)).document

    def create(self, document: Mapping[str, Any], *, dry_run: bool = False) -> Document:
        """Make a new object. With `generateName` the name is made here: sent twice, it would be made twice.

        Raises:
            Conflict: there is one of that name already that is not this one.
        """
        kind = self.kind_of(document)
        made: Document = copy.deepcopy(dict(document))
        mark, metadata = uuid.uuid4().hex, made.setdefault("metadata", {})
        prefix = metadata.pop("generateName", "")
        metadata.setdefault("name", f"{prefix}{mark[:_SUFFIX]}")
        metadata["annotations"] = {**(metadata.get("annotations") or {}), _REQUEST: mark}
        path, ask = self._path(kind, namespace=_place(made)), self._ask("create", kind, metadata["name"])
        answer = self._line.send(_Request("POST", path, {**_WRITING, **_dry(dry_run)}, made), ask, (CONFLICT,))
        if answer.status != CONFLICT:
            return answer.document
        # An earlier attempt may have arrived though its answer did not.
        found = self.get(kind, metadata["name"])
        if found is not None and (found["metadata"].get("annotations") or {}).get(_REQUEST) == mark:
            return found
        raise error_for(answer, ask)

    def get(self, kind: Kind, name: str) -> Document | None:
        """The object, or None."""
        ask = self._ask("get", kind, name)
        answer = self._line.send(_Request("GET", self._path(kind, name)), ask, (NOT_FOUND,))
        if answer.status != NOT_FOUND:
            return answer.document
        if answer.about_object:
            return None
        raise error_for(answer, ask)

    def list(self, kind: Kind, labels: Mapping[str, str] = _NONE) -> Documents:
        """Every object with these labels, by name."""
        found, _ = self._listed(kind, labels)
        return sorted(found, key=lambda one: str(one["metadata"]["name"]))

    def patch(
        self,
        kind: Kind,
        name: str,
        body: Mapping[str, Any],
        *,
        subresource: str = "",
        resource_version: str | None = None,
    ) -> Document:
        """Merge `body` into the object; null removes a key.

        Args:
            kind: of the object.
            name: of the object.
            body: a JSON merge patch (RFC 7386).
            subresource: `status` or `scale`.
            resource_version: the object as it was seen; one that has changed since is not touched.

        Raises:
            Conflict: it has changed since, or is gone.
        """
        merged: Document = copy.deepcopy(dict(body))
        if resource_version is not None:
            merged.setdefault("metadata", {})["resourceVersion"] = resource_version
        path = self._path(kind, name, subresource)
        request = _Request("PATCH", path, _WRITING, merged, "application/merge-patch+json")
        return self._line.send(request, self._ask("patch", kind, name, subresource)).document

    def delete(self, kind: Kind, name: str, *, uid: str | None = None) -> bool:
        """Remove the object, and in the background what it owns; False when there is none.

        Raises:
            Conflict: an object of that name is there, but not the one with this `uid`.
        """
        body: Document = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        ask = self._ask("delete", kind, name)
        answer = self._line.send(_Request("DELETE", self._path(kind, name), body=body), ask, (NOT_FOUND,))
        if answer.status != NOT_FOUND:
            return True
        if answer.about_object:
            return False
        raise error_for(answer, ask)

    def watch(self, kind: Kind, labels: Mapping[str, str], *, seconds: float) -> Iterator[Document]:
        """Each state of each object once: those that are there, then every change, for `seconds`.

        An object that goes is given a last time, with `metadata.deletionTimestamp`. Dropped connections and a history
        that the server has forgotten (410) are gone over: states in between may be missed, the newest never is.
        """
        end, known, version = time.monotonic() + seconds, dict[str, Document](), ""
        while True:
            if not version:
                found, version = self._listed(kind, labels)
                yield from _news(known, found)
            begun = time.monotonic()
            if begun >= end:
                return
            for event in self._watched(kind, labels, version, min(end - begun, _WATCH)):
                version = _version(event)
                if not version:
                    break
                if event["type"] != "BOOKMARK" and (changed := _noted(known, event)) is not None:
                    yield changed
            # A server that closes every watch at once is not asked as fast as it closes.
            shortest = min(begun + _FIRST_PAUSE * 2, end)
            time.sleep(max(0.0, shortest - time.monotonic()))

    def logs(self, pod: str, container: str, *, follow: bool) -> Iterator[str]:
        """The lines that a container prints; `follow` waits for more until it ends.

        Raises:
            Conflict: there is no such pod.
        """
        query = {"container": container, "timestamps": "true", "follow": str(follow).lower()}
        path, ask, last, ended = self._path(POD, pod, "log"), self._ask("get", POD, pod, "log"), "", False
        while not ended:
            since = {"sinceTime": last[:_WHOLE_SECOND] + "Z"} if last else {}
            request = _Request("GET", path, {**query, **since}, read=None if follow else _READ)
            with self._line.open(request, ask) as response, suppress(*_dropped()):
                for line in _lines(response):
                    stamp, _, text = line.partition(" ")
                    # Asked again after a cut, the server begins with the whole second.
                    if stamp > last:
                        last = stamp
                        yield text
                ended = True

    def version(self) -> str:
        """The API server's own, such as v1.34.4."""
        ask = Ask("get", "version", context=self._line.name)
        return str(self._line.send(_Request("GET", "/version"), ask).document["gitVersion"])

    def ask_service(self, name: str, port: int, path: str) -> Document:
        """GET of a Service of ours through the API server, which reaches it where we do not.

        Raises:
            Permanent: we may not `get services/proxy`.
            Conflict: there is no such Service.
            Temporary: nothing behind it answers.
        """
        address = self._path(SERVICE, f"{name}:{port}", f"proxy/{path}")
        return self._line.send(_Request("GET", address), self._ask("get", SERVICE, name, "proxy")).document

    def serves(self, kind: Kind) -> bool:
        """Whether the cluster has this kind at all."""
        return any(one["name"] == kind.plural for one in self._resources(kind.api_version))

    def may(self, verb: str, kind: Kind, name: str = "", *, subresource: str = "") -> bool:
        """Whether we are allowed to, in our namespace."""
        attributes = {
            "verb": verb,
            "group": kind.group,
            "resource": kind.plural,
            "name": name,
            "subresource": subresource,
        }
        if kind.namespaced:
            attributes["namespace"] = self.namespace
        body = {
            "apiVersion": _REVIEW.api_version,
            "kind": _REVIEW.kind,
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        answer = self._line.send(_Request("POST", self._path(_REVIEW), body=body), self._ask("create", _REVIEW))
        return bool(answer.document["status"]["allowed"])

    def kind_of(self, document: Mapping[str, Any]) -> Kind:
        """The kind of an object; the cluster is asked about those that this file does not list.

        Raises:
            Permanent: the cluster does not serve it.
        """
        version, name = str(document["apiVersion"]), str(document["kind"])
        if (version, name) in KINDS:
            return KINDS[version, name]
        for one in self._resources(version):
            if one["kind"] == name and "/" not in one["name"]:
                return Kind(version, name, one["name"], bool(one["namespaced"]))
        raise not_served(self._ask("get", Kind(version, name, name)))

    def _resources(self, api_version: str) -> Documents:
        """What a group and version serves. What is not there may come: only what is there is remembered."""
        if api_version not in self._discovered:
            ask = self._ask("get", Kind(api_version, "", "apis"), api_version)
            answer = self._line.send(_Request("GET", _root(api_version)), ask, (NOT_FOUND,))
            if answer.status == NOT_FOUND:
                return []
            self._discovered[api_version] = answer.document["resources"]
        return self._discovered[api_version]

    def _listed(self, kind: Kind, labels: Mapping[str, str]) -> tuple[Documents, str]:
        """Every object and the version of the list; a list that grew too old between two pages begins again."""
        ask, found, page = self._ask("list", kind), Documents(), ""
        while True:
            query = {"limit": str(_PAGE), **_selected(labels), **({"continue": page} if page else {})}
            answer = self._line.send(_Request("GET", self._path(kind), query), ask, (GONE,) if page else ())
            if answer.status == GONE:
                found, page = Documents(), ""
                continue
            for item in answer.document["items"] or ():
                found.append({"apiVersion": kind.api_version, "kind": kind.kind, **item})
            page = answer.document["metadata"].get("continue", "")
            if not page:
                return found, answer.document["metadata"]["resourceVersion"]

    def _watched(self, kind: Kind, labels: Mapping[str, str], version: str, seconds: float) -> Iterator[Document]:
        """The events of one connection; it ends when the server or the network ends it."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, round(seconds))),
            **_selected(labels),
        }
        end = time.monotonic() + seconds
        request = _Request("GET", self._path(kind), query, read=seconds + _CONNECT)
        try:
            # Half an event is an event that the next connection gives whole.
            with suppress(*_dropped(), ValueError), self._line.open(request, self._ask("watch", kind)) as response:
                for line in _lines(response):
                    yield json.loads(line)
                    if time.monotonic() > end:
                        return
        except _Forgotten:
            yield {"type": "ERROR", "object": {}}

    def _ask(self, verb: str, kind: Kind, name: str = "", subresource: str = "") -> Ask:
        plural = f"{kind.plural}/{subresource}" if subresource else kind.plural
        return Ask(verb, plural, name, kind.group, self.namespace if kind.namespaced else "", self._line.name)

    def _path(self, kind: Kind, name: str = "", subresource: str = "", *, namespace: str = "") -> str:
        place = ["namespaces", quote(namespace or self.namespace, safe="")] if kind.namespaced else []
        parts = [_root(kind.api_version), *place, kind.plural, quote(name, safe=""), subresource]
        return "/".join(part for part in parts if part)


class _Forgotten(Exception):
    """The server does not know any more what happened since (410)."""


class _Line:
    """The connection to an API server: who we are, and how often we ask again."""

    def __init__(self, context: str | None, kubeconfig: Path | None, patience: float) -> None:
        self._context, self._kubeconfig, self._patience = context, kubeconfig, patience
        self._client: Any = None
        self._opening = threading.Lock()

    @property
    def name(self) -> str:
        """The cluster, for a person."""
        return self._context or "(current context)"

    def send(self, request: _Request, ask: Ask, accept: tuple[int, ...] = ()) -> Answer:
        """The whole answer; refusals but those of `accept` raise.

        Raises:
            Temporary: the server is busy or away for longer than we wait.
            Permanent: it refuses.
        """
        for response in self._attempts(request, ask):
            try:
                answer = _answer(response)
            except _dropped():
                continue
            if _is_success(answer.status) or answer.status in accept:
                return answer
            raise error_for(answer, ask)
        raise AssertionError  # `_attempts` ends by raising

    @contextmanager
    def open(self, request: _Request, ask: Ask) -> Iterator[Any]:
        """An answer to read from while it comes.

        Raises:
            _Forgotten: 410.
        """
        for response in self._attempts(request, ask):
            if not _is_success(response.status):
                answer = _answer(response)
                raise _Forgotten if answer.status == GONE else error_for(answer, ask)
            try:
                yield response
            finally:
                response.close()
            return

    def _attempts(self, request: _Request, ask: Ask) -> Iterator[Any]:
        """Open answers, each of a new attempt after the one that was of no use."""
        begun, pause, renewed = time.monotonic(), _FIRST_PAUSE, False
        end = begun + self._patience
        while True:
            client, wait = self._current(), None
            try:
                response = _sent(client, request)
                if response.status == UNAUTHORIZED and not renewed:
                    renewed = True
                    self._renew(client)
                    continue
                answer = _answer(response) if response.status in {TOO_MANY, *UNSURE} else None
                if answer is not None and not answer.busy:
                    raise error_for(answer, ask)
                if answer is not None:
                    trouble, wait = answer.message, answer.wait
                else:
                    yield response
                    trouble = "it hung up in the middle of its answer"
            except _dropped() as error:
                _refuse_certificate(error, self.name)
                trouble, end = _why(error), min(end, begun + _AWAY)
            pause = min(pause * 2, _LONGEST_PAUSE)
            # Half of it by chance, so that many who were refused at once do not come back at once.
            rest = pause * random.uniform(0.5, 1.0) if wait is None else wait  # noqa: S311 - not a secret
            if time.monotonic() + rest > end:
                raise Temporary(
                    f"The cluster {self.name} did not {ask.verb} {ask.plural}: {trouble}.",
                    "It is busy or away: `kubectl cluster-info` says more. Nothing is lost: run the same again.",
                )
            time.sleep(rest)

    def _current(self) -> Any:
        with self._opening:
            if self._client is None:
                self._client = self._opened()
            return self._client

    def _renew(self, refused: Any) -> None:
        """Read the credentials again: a token file changes, an exec plugin gives a new token."""
        with self._opening:
            if self._client is refused:
                self._client = self._opened()

    def _opened(self) -> Any:
        from kubernetes import client, config

        settings = client.Configuration()
        # Which requests may be sent again is decided here, not by urllib3.
        settings.retries = False
        settings.keep_alive = True
        try:
            if self._in_pod():
                config.load_incluster_config(client_configuration=settings)
            else:
                # The client would take the KUBECONFIG of the moment at which it was imported.
                file = str(self._kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
                config.load_kube_config(file, self._context, client_configuration=settings, persist_config=False)
        except (config.ConfigException, OSError) as error:
            raise UsageError(
                f"The cluster {self.name} cannot be opened: {str(error).rstrip('.')}.",
                "`kubectl config get-contexts` lists what the kubeconfig has; `environments.NAME.context` in"
                " tidegate.yaml picks one.",
            ) from error
        return client.ApiClient(configuration=settings)

    def _in_pod(self) -> bool:
        named = self._kubeconfig is not None or "KUBECONFIG" in os.environ
        return not named and "KUBERNETES_SERVICE_HOST" in os.environ and _ACCOUNT.is_file()


def _sent(client: Any, request: _Request) -> Any:
    """One attempt with whoever we are now; the answer is open."""
    settings = client.configuration
    headers = {"Accept": "application/json", "User-Agent": MANAGER}
    if request.body is not None:
        headers["Content-Type"] = request.content_type
    token = settings.get_api_key_with_prefix("BearerToken")
    if token:
        headers["Authorization"] = token
    return client.rest_client.request(
        request.method,
        settings.host + request.address,
        headers=headers,
        body=request.body,
        _request_timeout=(_CONNECT, request.read),
    ).response


def _answer(response: Any) -> Answer:
    """Read an open answer to its end."""
    return Answer.of(response.status, response.data, response.headers.get("Retry-After"))


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _selected(labels: Mapping[str, str]) -> dict[str, str]:
    return {"labelSelector": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))} if labels else {}


def _is_success(status: int) -> bool:
    return status // 100 == 2  # noqa: PLR2004 - HTTP


def _dropped() -> tuple[type[Exception], ...]:
    """What a network does to a connection, as the client's transport tells it."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    return HTTPError, OSError, ApiException


def _refuse_certificate(error: Exception, name: str) -> None:
    """A certificate does not get better by asking again.

    Raises:
        Permanent: that is what was wrong.
    """
    if "SSL" in str(getattr(error, "reason", "")) or "SSL" in type(error).__name__:
        raise Permanent(
            f"The certificate of the cluster {name} was not accepted: {_why(error)}.",
            "The kubeconfig's certificate-authority is not the cluster's, or a proxy is in between.",
        ) from error


def _why(error: Exception) -> str:
    """The network's own words without addresses of objects."""
    told = str(getattr(error, "reason", None) or error)
    return told.rpartition(": ")[2] or type(error).__name__


def _lines(response: Any) -> Iterator[str]:
    """Text of an open answer, line by line as it comes."""
    left = b""
    for chunk in response.stream(None, decode_content=True):
        *whole, left = (left + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    if left:
        yield left.decode(errors="replace")


def _place(document: Mapping[str, Any]) -> str:
    """The namespace that a document names, if any."""
    return str(document["metadata"].get("namespace") or "")


def _version(event: Mapping[str, Any]) -> str:
    """The version that the watch may go on from; "": from a new list."""
    if event["type"] == "ERROR":
        return ""
    return str(event["object"]["metadata"]["resourceVersion"])


def _noted(known: dict[str, Document], event: Mapping[str, Any]) -> Document | None:
    """Remember what an event says; the object, if nobody was given this state."""
    thing: Document = event["object"]
    uid, version = thing["metadata"]["uid"], thing["metadata"]["resourceVersion"]
    before = known.get(uid)
    if event["type"] == "DELETED":
        known.pop(uid, None)
        return _gone(thing) if before is not None else None
    known[uid] = thing
    return None if before is not None and before["metadata"]["resourceVersion"] == version else thing


def _news(known: dict[str, Document], found: Documents) -> Iterator[Document]:
    """What a new list says that nobody was given, and what is missing in it."""
    there = {one["metadata"]["uid"] for one in found}
    for uid in [uid for uid in known if uid not in there]:
        yield _gone(known.pop(uid))
    for one in found:
        if (changed := _noted(known, {"type": "ADDED", "object": one})) is not None:
            yield changed


def _gone(thing: Document) -> Document:
    """The last state of an object, marked as gone."""
    when = thing["metadata"].get("deletionTimestamp") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {**thing, "metadata": {**thing["metadata"], "deletionTimestamp": when}}
