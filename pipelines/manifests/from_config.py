"""Values of the charts from tidegate.yaml, and what of it a cluster cannot do: nothing is dropped in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import ValidationError

from tidegate.core.config import FILE_NAME
from tidegate.core.errors import ConfigError, UsageError
from tidegate.pipelines.manifests.model_values import ModelValues
from tidegate.pipelines.manifests.platform_values import PlatformValues
from tidegate.pipelines.manifests.value_types import Values
from tidegate.rollouts.planning import HORIZON

if TYPE_CHECKING:
    from tidegate.core.config import Environment
    from tidegate.core.project import Project
    from tidegate.rollouts.plan import RolloutPlan

V = TypeVar("V", bound=Values)

_IMAGE: Final = re.compile(r"(?P<repository>[a-z0-9][a-z0-9.:_/-]*)@(?P<digest>sha256:[0-9a-f]{64})")
# Seconds: asking more often than that learns nothing new, asking more rarely makes people wait.
_OFTEN, _RARELY = 10, 30
# The service answers its own timeout first and says why; the gateway's only catches one that hangs.
_SLACK: Final = 0.5
_LADDER: Final = (5, 25, 50)
"""Where nobody has measured the traffic that `steps: auto` needs."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is to run: an image by digest, and the rollout that brings it.

    Attributes:
        image: REPOSITORY@sha256:DIGEST, as `package --image --push` recorded it.
        release: id of the release it was made of.
        version: MLflow version in it.
        rollout: the ledger's id of the rollout; empty for a first deployment, and outside one.
        plan: of that rollout; None takes the ladder of the config.
    """

    image: str
    release: str = ""
    version: int | None = None
    rollout: str = ""
    plan: RolloutPlan | None = None


def kubernetes_environment(project: Project) -> Environment:
    """The project's environment, if it is on a cluster.

    Raises:
        UsageError: it is this machine.
    """
    environment = project.config.environment(project.env)
    if environment.kind == "kubernetes":
        return environment
    others = [name for name, one in project.config.environments.items() if one.kind == "kubernetes"]
    hint = f"Add `--env {others[0]}`." if others else f"Add one to `environments` of {FILE_NAME}."
    raise UsageError(f"The environment {project.env} is this machine: it has no manifests.", hint)


def model_values(project: Project, deployment: Deployment, *more: Mapping[str, Any]) -> dict[str, Any]:
    """Values of charts/tidegate-model.

    Args:
        project: seen by the environment that is deployed to.
        deployment: what is to run.
        more: laid over them, later ones win; `environments.NAME.values` comes before all of them.

    Raises:
        UsageError: something in the config that no cluster does, or an image without a digest.
        ConfigError: a value that the chart does not know; one line for each.
    """
    environment = kubernetes_environment(project)
    _refuse_what_no_cluster_does(project)
    named = _IMAGE.fullmatch(deployment.image)
    if named is None:
        raise UsageError(
            f"{deployment.image} names no image by its digest.",
            "Write REPOSITORY@sha256:DIGEST: a tag may be another image tomorrow, and nobody would see a rollout.",
        )
    config = project.config
    serve, rollout = config.serve, config.rollout
    made: dict[str, Any] = {
        "model": config.model,
        "environment": project.env,
        "release": deployment.release,
        "version": "" if deployment.version is None else str(deployment.version),
        "image": {**named.groupdict(), "pullSecrets": [config.image.pull_secret] * bool(config.image.pull_secret)},
        "gpu": {"count": int(serve.device == "gpu")},
        "workers": serve.workers,
        "ladder": _ladder(project, deployment),
        "traffic": {
            "hostnames": [environment.hostname] * bool(environment.hostname),
            "timeout": f"{round(1000 * (serve.timeout + _SLACK))}ms",
            "maxBodyBytes": serve.max_body,
            "requestsPerSecond": serve.rate_limit.requests_per_second if serve.rate_limit else 0,
            "apiKeys": _api_keys(project),
            "sticky": {"header": rollout.unit.header, "cookie": rollout.unit.cookie},
        },
        "capture": {
            "enabled": True,
            "store": project.store_url,
            "unitHeader": rollout.unit.header,
            "id": serve.id or "",
            "flushSeconds": serve.capture.flush,
            "exclude": list(serve.capture.exclude),
            "hash": list(serve.capture.hash),
        },
    }
    return _checked(ModelValues, made, {f"environments.{project.env}.values": environment.values}, more)


def platform_values(project: Project, *more: Mapping[str, Any]) -> dict[str, Any]:
    """Values of charts/tidegate, as `model_values`; `environments.NAME.values` is the model's alone."""
    kubernetes_environment(project)
    _refuse_what_no_cluster_does(project)
    mlflow = project.config.mlflow
    if not mlflow.startswith(("http://", "https://", "databricks")):
        raise UsageError(
            f"The MLflow of {project.env} is {mlflow.partition(':')[0]}, which no pod of a cluster reaches.",
            f"Give it a server: environments: {{{project.env}: {{mlflow: https://mlflow.acme.dev}}}}",
        )
    made = {
        "environment": project.env,
        "project": (project.root / FILE_NAME).read_text(encoding="utf-8"),
        "store": {"address": project.store_url},
        "mlflow": {"address": mlflow},
        "console": {"enabled": True},
        "gateway": {"unitHeader": project.config.rollout.unit.header},
    }
    return _checked(PlatformValues, made, {}, more)


def read_values(path: Path) -> dict[str, Any]:
    """A file of values, as `helm --values` takes it.

    Raises:
        UsageError: it cannot be read or is no mapping.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", "It should be YAML, as `helm --values` takes it."
        ) from error
    if not isinstance(document, dict | None):
        raise UsageError(f"{path} is no mapping of keys.", "It should be YAML, as `helm --values` takes it.")
    return document or {}


def _refuse_what_no_cluster_does(project: Project) -> None:
    config, env = project.config, project.env
    if "://" not in config.store or config.store.startswith("file:"):
        raise UsageError(
            f"The store of {env} is a folder, and the pods of a cluster share none.",
            f"Give it a bucket: environments: {{{env}: {{store: s3://bucket/tidegate}}}}",
        )
    if config.rollout.shadow:
        raise UsageError(
            "rollout.shadow is on, and the gateway plugin of Argo Rollouts mirrors nothing: no copy would be compared.",
            f"Turn it off there: environments: {{{env}: {{rollout: {{shadow: false}}}}}}",
        )


def _api_keys(project: Project) -> dict[str, str]:
    auth = project.config.serve.auth
    if auth is None:
        return {}
    kind, _, place = auth.api_keys.partition(":")
    if kind != "secret":
        raise UsageError(
            f"serve.auth.api_keys is {kind}:..., which no gateway of a cluster can read.",
            f"Write secret:NAME/KEY for {project.env}: each entry of that Secret is one caller's key, and KEY is the "
            "one that the smoke request sends.",
        )
    name, _, entry = place.partition("/")
    return {"existingSecret": name, "smokeEntry": entry}


def _ladder(project: Project, deployment: Deployment) -> dict[str, Any]:
    rollout = project.config.rollout
    plan = deployment.plan
    if plan is not None:
        steps = [(weight, plan.step_min, maximum) for weight, maximum in zip(plan.steps, plan.step_max, strict=True)]
    else:
        weights = _LADDER if rollout.steps == "auto" else tuple(step for step in rollout.steps if step < 100)  # noqa: PLR2004
        longest = HORIZON if rollout.step.max == "auto" else rollout.step.max
        steps = [(weight, rollout.step.min, max(longest, 1)) for weight in weights]
    return {
        "id": deployment.rollout,
        "steps": [
            {"weight": weight, "minSeconds": round(shortest), "maxSeconds": max(1, round(longest))}
            for weight, shortest, longest in steps
        ],
        "intervalSeconds": round(min(_RARELY, max(_OFTEN, project.config.advanced.block / 2))),
        "keepPreviousSeconds": round(rollout.keep_previous),
    }


def _checked(
    model: type[V], made: dict[str, Any], named: Mapping[str, Mapping[str, Any]], more: tuple[Mapping[str, Any], ...]
) -> dict[str, Any]:
    """The values with everything laid over them, in the order given; refused as the chart's schema would."""
    merged = made
    for over in (*named.values(), *more):
        merged = laid_over(merged, over)
    try:
        model.model_validate(merged)
    except ValidationError as error:
        where = next(iter(named), "values")
        lines = tuple(
            f"{where}: {'.'.join(map(str, one['loc']))}: {_words(one['msg'])}"
            for one in error.errors(include_url=False)
        )
        raise ConfigError(
            "The chart does not take these values.", "values.yaml of the chart describes every key.", lines
        ) from error
    return merged


def _words(message: str) -> str:
    return "no such key" if message == "Extra inputs are not permitted" else message[:1].lower() + message[1:]


def laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings as Helm merges values: deep, lists whole, the second wins."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = laid_over(below, value) if both else value  # type: ignore[arg-type]  # `both` says so
    return merged
