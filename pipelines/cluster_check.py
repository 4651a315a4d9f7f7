"""What a Kubernetes environment lacks: every check answers with findings, each with a fix if it needs one.

Nothing here changes the cluster: it reads, and asks the API server what we may do (SelfSubjectAccessReview). What we
may not even read is a warning, not a problem: others may have set it up well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tidegate.core.errors import Conflict, Permanent, Temporary, TidegateError
from tidegate.core.kube import (
    ANALYSIS_RUN,
    ANALYSIS_TEMPLATE,
    BACKEND_TRAFFIC_POLICY,
    CONFIG_MAP,
    CRON_WORKFLOW,
    DEPLOYMENT,
    ENVOY_PROXY,
    EVENT,
    GATEWAY,
    HORIZONTAL_POD_AUTOSCALER,
    HTTP_ROUTE,
    NAMESPACE,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    REPLICA_SET,
    ROLLOUT,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    WORKFLOW,
    WORKFLOW_TEMPLATE,
    Cluster,
    Kind,
)
from tidegate.core.project import Project
from tidegate.pipelines.machine import Finding, Status, mlflow, store

PLUGIN: Final = "argoproj-labs/gatewayAPI"
PATIENCE: Final = 5.0
"""Seconds for which a busy or absent server is asked again: who looks for what is wrong does not wait for it."""
_JUDGE: Final = "tidegate-judge"
_JUDGE_PORT: Final = 8080
_ROLES: Final = "docs/kubernetes.md has the Role; `{can_i}` asks for one verb."
# The charts' kubeVersion; `consecutiveSuccessLimit` came with 1.8, CronWorkflow's `schedules` with 3.6.
_OLDEST: Final = {
    "kubernetes": (1, 29),
    "argo-rollouts": (1, 8),
    "workflow-controller": (3, 6),
    "envoy-gateway": (1, 5),
}
_NOT_PULLED: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName"})


@dataclass(frozen=True, slots=True)
class Controller:
    """Somebody else's Deployment that the road needs: where its own install instructions put it."""

    namespace: str
    name: str
    needed: bool
    purpose: str


CONTROLLERS: Final = (
    Controller("argo-rollouts", "argo-rollouts", needed=True, purpose="it moves the traffic"),
    Controller("envoy-gateway-system", "envoy-gateway", needed=True, purpose="it splits the traffic"),
    Controller("argo", "workflow-controller", needed=False, purpose="it runs retrains and monitors"),
)

KINDS: Final[tuple[tuple[Kind, bool, str], ...]] = (
    (ROLLOUT, True, "Argo Rollouts"),
    (ANALYSIS_TEMPLATE, True, "Argo Rollouts"),
    (HTTP_ROUTE, True, "the Gateway API"),
    (GATEWAY, True, "the Gateway API"),
    (ENVOY_PROXY, True, "Envoy Gateway"),
    (BACKEND_TRAFFIC_POLICY, True, "Envoy Gateway"),
    (WORKFLOW, False, "Argo Workflows"),
    (WORKFLOW_TEMPLATE, False, "Argo Workflows"),
    (CRON_WORKFLOW, False, "Argo Workflows"),
)
"""What must be served, whether a rollout is impossible without it, and who brings it."""

_READ: Final = ("get", "list", "watch")
_OWN: Final = ("get", "list", "create", "patch", "delete")
RIGHTS: Final[Mapping[str, tuple[tuple[Kind, tuple[str, ...], str], ...]]] = {
    "apply": tuple(
        (kind, _OWN, "")
        for kind in (
            ROLLOUT,
            SERVICE,
            SERVICE_ACCOUNT,
            HTTP_ROUTE,
            NETWORK_POLICY,
            POD_DISRUPTION_BUDGET,
            HORIZONTAL_POD_AUTOSCALER,
            BACKEND_TRAFFIC_POLICY,
        )
    ),
    "rollouts": (
        (ROLLOUT, ("watch",), ""),
        (ROLLOUT, ("patch",), "status"),
        (ANALYSIS_RUN, _READ, ""),
        (REPLICA_SET, ("list",), ""),
        (POD, ("list",), ""),
        (EVENT, ("list",), ""),
    ),
    "workflows": (
        (WORKFLOW, (*_READ, "create", "patch"), ""),
        (WORKFLOW_TEMPLATE, _OWN, ""),
        (CRON_WORKFLOW, _OWN, ""),
        (POD, ("get",), "log"),
    ),
}
"""What a person or CI needs in the namespace for a purpose: kind, verbs, subresource."""


def examine(project: Project, cluster: Cluster, elsewhere: Callable[[str], Cluster]) -> Iterator[Finding]:
    """Look at everything, one finding at a time; a cluster that does not answer ends it early.

    Args:
        project: opened as the environment.
        cluster: the environment's namespace.
        elsewhere: opens another namespace of the same cluster: those of the controllers.
    """
    yield from places(project)
    try:
        yield reached(cluster)
    except TidegateError as error:
        yield Finding("cluster", "problem", error.message, error.hint)
        return
    yield from _guarded("namespace", lambda: namespace(cluster))
    served = [kind for kind, _, _ in KINDS if cluster.serves(kind)]
    yield from kinds(cluster, served)
    for controller in CONTROLLERS:
        there = elsewhere(controller.namespace)
        yield from _guarded(controller.name, lambda there=there, one=controller: version_of(there, one))  # type: ignore[misc]
    there = elsewhere(CONTROLLERS[0].namespace)
    yield from _guarded("traffic plugin", lambda: plugin(there))
    for purpose in RIGHTS:
        yield rights(cluster, purpose, served)
    yield from _guarded("judge token", lambda: token(cluster))
    yield from _guarded("judge", lambda: judge(cluster))
    if ANALYSIS_TEMPLATE in served:
        yield from _guarded("analysis templates", lambda: templates(cluster))
    if HTTP_ROUTE in served:
        yield from _guarded("route", lambda: route(cluster, object_name(project)))
    yield from images(project, cluster)


def object_name(project: Project) -> str:
    """The name of the model's objects: `nameOverride`, else the model's as a DNS label."""
    override = project.config.environment(project.env).values.get("nameOverride")
    return str(override) if override else re.sub(r"[^a-z0-9]+", "-", project.config.model.lower()).strip("-")[:63]


def places(project: Project) -> Iterator[Finding]:
    """Store and MLflow: pods see neither this machine's disk nor its databases."""
    url, uri = project.store_url, project.mlflow_uri
    if "://" in url and not url.startswith(("file://", "local://", "memory://")):
        yield store(url)
    else:
        fix = f"Set environments.{project.env}.store to a bucket: s3://, gs:// or az://."
        yield Finding("store", "problem", f"{url} is a folder of this machine; pods cannot see it", fix)
    if uri.startswith(("http://", "https://", "databricks")):
        yield mlflow(uri)
    else:
        fix = f"Set environments.{project.env}.mlflow to the address of an MLflow server."
        detail = f"{uri.rpartition('@')[2]} is a database or folder of this machine; pods cannot see it"
        yield Finding("mlflow", "problem", detail, fix)


def reached(cluster: Cluster) -> Finding:
    """The API server's version.

    Raises:
        TidegateError: it does not answer, or does not know us.
    """
    version = cluster.version()
    where = cluster.context or "the current context"
    if _number(version) < _OLDEST["kubernetes"]:
        fix = f"The charts need Kubernetes {_dotted(_OLDEST['kubernetes'])} or newer."
        return Finding("cluster", "problem", f"{where} runs Kubernetes {version}", fix)
    return Finding("cluster", "ok", f"{where} runs Kubernetes {version}")


def namespace(cluster: Cluster) -> Finding:
    """Whether the namespace is there, and how strict it is about pods."""
    found = cluster.get(NAMESPACE, cluster.namespace)
    if found is None:
        fix = f"kubectl create namespace {cluster.namespace}"
        return Finding("namespace", "problem", f"there is no namespace {cluster.namespace}", fix)
    level = (found["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce")
    if level is None:
        fix = f"kubectl label namespace {cluster.namespace} pod-security.kubernetes.io/enforce=restricted"
        return Finding("namespace", "warning", f"{cluster.namespace} takes any pod; ours need no privilege", fix)
    return Finding("namespace", "ok", f"{cluster.namespace}, pods are held to {level}")


def kinds(cluster: Cluster, served: list[Kind]) -> Iterator[Finding]:
    """One finding for each of those who bring kinds."""
    for bringer in dict.fromkeys(by for _, _, by in KINDS):
        missing = [kind for kind, _, by in KINDS if by == bringer and kind not in served]
        needed = any(must for kind, must, by in KINDS if by == bringer)
        if not missing:
            yield Finding(bringer, "ok", "its kinds are served")
            continue
        status: Status = "problem" if needed else "warning"
        without = "" if needed else "; retrains and monitors run on the cluster only with it"
        detail = (
            f"{cluster.context or 'the cluster'} does not serve {', '.join(kind.kind for kind in missing)}{without}"
        )
        yield Finding(bringer, status, detail, f"Install {bringer}: docs/kubernetes.md has the commands.")


def version_of(there: Cluster, controller: Controller) -> Finding:
    """The version that a controller's image tells."""
    found = there.get(DEPLOYMENT, controller.name)
    if found is None:
        detail = f"no Deployment {controller.name} in namespace {controller.namespace}, so its version is not known"
        fix = "If it runs in another namespace all is well; `kubectl get deployments -A` tells."
        return Finding(controller.name, "warning", detail, fix)
    image = str(found["spec"]["template"]["spec"]["containers"][0]["image"])
    oldest = _OLDEST[controller.name]
    if not _number(image):
        return Finding(controller.name, "warning", f"{image} does not tell its version", f"Needed: {_dotted(oldest)}.")
    if _number(image) < oldest:
        status: Status = "problem" if controller.needed else "warning"
        return Finding(controller.name, status, f"{image} is too old", f"Upgrade it to {_dotted(oldest)} or newer.")
    if not (found.get("status") or {}).get("availableReplicas"):
        fix = f"kubectl -n {controller.namespace} describe deployment {controller.name}"
        status = "problem" if controller.needed else "warning"
        return Finding(controller.name, status, f"{image}: no pod of it is available, and {controller.purpose}", fix)
    return Finding(controller.name, "ok", image)


def plugin(there: Cluster) -> Finding:
    """Whether Argo Rollouts knows the plugin that writes an HTTPRoute's weights."""
    found = there.get(CONFIG_MAP, "argo-rollouts-config") or {}
    text = str((found.get("data") or {}).get("trafficRouterPlugins") or "")
    if any(one.get("name") == PLUGIN for one in _listed(text)):
        return Finding("traffic plugin", "ok", PLUGIN)
    return Finding(
        "traffic plugin",
        "problem",
        f"argo-rollouts-config in {there.namespace} does not name {PLUGIN}: every rollout would stop at its first step",
        "Add it under trafficRouterPlugins and restart the controller: docs/kubernetes.md has the ConfigMap.",
    )


def rights(cluster: Cluster, purpose: str, served: list[Kind]) -> Finding:
    """What we may not do of what one purpose needs; kinds that the cluster lacks are not asked for."""
    unserved = [kind for kind, _, _ in KINDS if kind not in served]
    lacking: list[tuple[str, Kind, str]] = []
    asked = 0
    for kind, verbs, subresource in RIGHTS[purpose]:
        if kind in unserved:
            continue
        for verb in verbs:
            asked += 1
            if not cluster.may(verb, kind, subresource=subresource):
                lacking.append((verb, kind, subresource))
    name = f"rights: {purpose}"
    if not lacking:
        return Finding(name, "ok", f"all {asked} verbs are allowed")
    verb, kind, subresource = lacking[0]
    can_i = f"kubectl auth can-i {verb} {_resource(kind)} -n {cluster.namespace}"
    can_i += f" --subresource={subresource}" if subresource else ""
    # Without Workflows the rollout still goes.
    status: Status = "warning" if purpose == "workflows" else "problem"
    return Finding(name, status, f"you may not {_told(lacking)}", _ROLES.format(can_i=can_i))


def token(cluster: Cluster) -> Finding:
    """Whether there is a token that analyses can send to the judge; its value is not looked at."""
    found = cluster.get(SECRET, _JUDGE)
    if found is not None and "token" in (found.get("data") or {}):
        return Finding("judge token", "ok", f"Secret {_JUDGE}")
    what = f"Secret {_JUDGE} has no entry `token`" if found else f"there is no Secret {_JUDGE}"
    fix = f"kubectl -n {cluster.namespace} create secret generic {_JUDGE} --from-literal=token=$(openssl rand -hex 32)"
    return Finding("judge token", "problem", what, fix)


def judge(cluster: Cluster) -> Finding:
    """Whether the judge answers, asked through the API server."""
    try:
        cluster.ask_service(_JUDGE, _JUDGE_PORT, "readyz")
    except Permanent as error:
        fix = f"kubectl -n {cluster.namespace} port-forward service/{_JUDGE} {_JUDGE_PORT}, then ask /readyz there."
        return Finding("judge", "warning", f"whether it answers is not known: {error.message}", fix)
    except Conflict:
        fix = "Install charts/tidegate in this namespace: docs/kubernetes.md has the command."
        return Finding("judge", "problem", f"there is no Service {_JUDGE} in {cluster.namespace}", fix)
    except Temporary as error:
        fix = f"kubectl -n {cluster.namespace} describe deployment {_JUDGE}"
        return Finding("judge", "problem", f"{_JUDGE} does not answer: {error.message}", fix)
    return Finding("judge", "ok", f"{_JUDGE}:{_JUDGE_PORT} is ready")


def templates(cluster: Cluster) -> Finding:
    """Whether what our Rollouts refer to is there; one that is missing makes a Rollout invalid."""
    needed = ("tidegate-verdict", "tidegate-guard")
    there = {one["metadata"]["name"] for one in cluster.list(ANALYSIS_TEMPLATE)}
    missing = [name for name in needed if name not in there]
    if missing:
        fix = "Install charts/tidegate in this namespace: docs/kubernetes.md has the command."
        return Finding("analysis templates", "problem", f"{', '.join(missing)} not in {cluster.namespace}", fix)
    return Finding("analysis templates", "ok", ", ".join(needed))


def route(cluster: Cluster, name: str) -> Finding:
    """Whether a gateway took the model's route; before the first `apply` there is none."""
    found = cluster.get(HTTP_ROUTE, name)
    if found is None:
        return Finding("route", "ok", f"HTTPRoute {name} comes with the first `tidegate apply`")
    parents = (found.get("status") or {}).get("parents") or []
    if not parents:
        wanted = ", ".join(str(one.get("name")) for one in found["spec"].get("parentRefs") or [])
        fix = f"kubectl -n {cluster.namespace} describe gateway {wanted}; its class must be of a running controller."
        return Finding("route", "problem", f"no gateway has looked at HTTPRoute {name} (it names {wanted})", fix)
    for parent in parents:
        for condition in parent.get("conditions") or []:
            if condition["type"] in {"Accepted", "ResolvedRefs"} and condition["status"] != "True":
                detail = (
                    f"HTTPRoute {name} is not {condition['type']}: {condition.get('message') or condition['reason']}"
                )
                return Finding("route", "problem", detail, f"kubectl -n {cluster.namespace} describe httproute {name}")
    return Finding("route", "ok", f"HTTPRoute {name} is accepted")


def images(project: Project, cluster: Cluster) -> Iterator[Finding]:
    """Whether there is a place for images, what may pull from it, and whether a pod could not."""
    repository = project.config.environment(project.env).image_repository
    if repository is None:
        fix = f"Set environments.{project.env}.image_repository, such as ghcr.io/acme/{object_name(project)}."
        yield Finding("image", "problem", "no repository is named that pods could pull from", fix)
    secret = project.config.image.pull_secret
    if secret:
        yield from _guarded("pull secret", lambda: _pull_secret(cluster, secret))
    yield from _guarded("image pulls", lambda: pulls(cluster))


def _pull_secret(cluster: Cluster, name: str) -> Finding:
    if cluster.get(SECRET, name) is None:
        fix = f"kubectl -n {cluster.namespace} create secret docker-registry {name} --docker-server=... "
        return Finding("pull secret", "problem", f"there is no Secret {name}", fix.rstrip())
    return Finding("pull secret", "ok", name)


def pulls(cluster: Cluster) -> Finding:
    """Whether a pod of ours waits for an image that does not come."""
    for pod in cluster.list(POD, {"app.kubernetes.io/part-of": "tidegate"}):
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _NOT_PULLED:
                detail = f"pod {pod['metadata']['name']}: {waiting.get('message') or waiting['reason']}"
                fix = (
                    "Check the repository, its pull secret (`image.pull_secret`), and that the digest was pushed there."
                )
                return Finding("image pulls", "problem", detail, fix)
    return Finding("image pulls", "ok", "no pod waits for an image")


def _guarded(name: str, look: Callable[[], Finding]) -> Iterator[Finding]:
    """The finding, or a warning with the reason why we could not look."""
    try:
        yield look()
    except TidegateError as error:
        yield Finding(name, "warning", error.message, error.hint)


def _number(text: str) -> tuple[int, ...]:
    """`quay.io/argoproj/argo-rollouts:v1.9.1` -> (1, 9); () where there is none."""
    found = re.search(r"(?:^|:)v?(\d+)\.(\d+)", text.partition("@")[0])
    return tuple(int(part) for part in found.groups()) if found else ()


def _dotted(number: tuple[int, ...]) -> str:
    return ".".join(map(str, number))


def _resource(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def _told(lacking: list[tuple[str, Kind, str]]) -> str:
    """Such as `patch rollouts/status, create and patch services`."""
    verbs: dict[str, list[str]] = {}
    for verb, kind, subresource in lacking:
        verbs.setdefault(f"{kind.plural}/{subresource}" if subresource else kind.plural, []).append(verb)
    return ", ".join(f"{' and '.join(found)} {resource}" for resource, found in verbs.items())


def _listed(text: str) -> list[Mapping[str, Any]]:
    """A YAML list of mappings; anything else is none."""
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
