"""Rules for Rollouts (argo-rollouts 1.9, `pkg/apis/rollouts/validation` and its routers) and what they refer to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from tidegate.pipelines.manifests.lint_world import Document, Problem, Rule, World, at, name_of, selects

PLUGIN: Final = "argoproj-labs/gatewayAPI"
_CANARY: Final = "spec.strategy.canary"
# Their SetHeaderRoute returns without doing anything.
_NO_HEADERS: Final = ("nginx", "ambassador", "smi", "traefik", "appMesh")
_HOLDS: Final = ("analysis", "pause", "experiment")


def steps(rollout: Document) -> list[dict[str, Any]]:
    """The steps of its canary."""
    return list(at(rollout, "spec", "strategy", "canary", "steps", default=[]))


def routing(rollout: Document) -> dict[str, Any]:
    """Its `trafficRouting`; empty where the share of pods is the share of requests."""
    return dict(at(rollout, "spec", "strategy", "canary", "trafficRouting", default={}))


def analyses(rollout: Document) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Path, content and whether it is inline, of each analysis."""
    background = at(rollout, "spec", "strategy", "canary", "analysis")
    if background:
        yield f"{_CANARY}.analysis", background, False
    for index, step in enumerate(steps(rollout)):
        if step.get("analysis"):
            yield f"{_CANARY}.steps[{index}].analysis", step["analysis"], True


def _one_key_a_step(rollout: Document, _: World) -> Iterator[Problem]:
    for index, step in enumerate(steps(rollout)):
        if len(step) != 1:
            yield Problem(
                f"{_CANARY}.steps[{index}]",
                f"A step does one thing, and this one names {', '.join(step) or 'nothing'}: the controller refuses it.",
                "Make each of them a step of its own.",
            )


def _weights_grow(rollout: Document, _: World) -> Iterator[Problem]:
    weights = [(index, step["setWeight"]) for index, step in enumerate(steps(rollout)) if "setWeight" in step]
    for index, weight in weights:
        if not isinstance(weight, int) or not 0 <= weight <= 100:  # noqa: PLR2004 - per cent
            yield Problem(f"{_CANARY}.steps[{index}].setWeight", f"{weight} is no whole per cent.", "Write 0 to 100.")
    for (_before, before), (index, after) in pairwise(weights):
        if isinstance(before, int) and isinstance(after, int) and after <= before:
            yield Problem(
                f"{_CANARY}.steps[{index}].setWeight",
                f"{after} follows {before}: users who had the canary would lose it, and meet it again later.",
                "Let the weights grow.",
            )
    for (first, weight), (second, _) in pairwise(weights):
        if not any(key in step for step in steps(rollout)[first + 1 : second] for key in _HOLDS):
            yield Problem(
                f"{_CANARY}.steps[{first}].setWeight",
                f"Nothing holds the canary at {weight} %: the next weight follows at once.",
                "Put an analysis or a pause between them.",
            )


def _managed_routes(rollout: Document, _: World) -> Iterator[Problem]:
    managed = {one.get("name") for one in routing(rollout).get("managedRoutes") or []}
    used = set()
    for index, step in enumerate(steps(rollout)):
        for kind in ("setHeaderRoute", "setMirrorRoute"):
            name = at(step, kind, "name")
            used.add(name)
            if name is not None and name not in managed:
                yield Problem(
                    f"{_CANARY}.steps[{index}].{kind}.name",
                    f"{name} is not among trafficRouting.managedRoutes: the controller refuses the Rollout.",
                    f"Add it: managedRoutes: [{{name: {name}}}].",
                )
    for name in sorted(str(one) for one in managed - used):
        yield Problem(
            f"{_CANARY}.trafficRouting.managedRoutes",
            f"No step makes the route {name}.",
            "Remove it.",
        )


def _header_routes(rollout: Document, _: World) -> Iterator[Problem]:
    indexes = [index for index, step in enumerate(steps(rollout)) if "setHeaderRoute" in step]
    if not indexes:
        return
    path = f"{_CANARY}.steps[{indexes[0]}].setHeaderRoute"
    for router in _NO_HEADERS:
        if router in routing(rollout):
            yield Problem(path, f"The router {router} makes no header routes, and says nothing about it.", "Remove it.")
    for index, route in enumerate(at(routing(rollout), "plugins", PLUGIN, "httpRoutes", default=[])):
        if not route.get("useHeaderRoutes"):
            yield Problem(
                f'{_CANARY}.trafficRouting.plugins["{PLUGIN}"].httpRoutes[{index}].useHeaderRoutes',
                "It is not true, so the plugin leaves this route out when a step makes a header route.",
                "Write useHeaderRoutes: true.",
            )
    if not any(len(at(steps(rollout)[index], "setHeaderRoute", "match", default=[])) == 0 for index in indexes[1:]):
        yield Problem(
            path,
            "No later step takes the header route away: whoever sends the header picks an arm until the rollout ends.",
            "After the step that needs it, add setHeaderRoute with the same name and without match.",
        )


def _mirrors(rollout: Document, _: World) -> Iterator[Problem]:
    for index, step in enumerate(steps(rollout)):
        if "setMirrorRoute" in step and "istio" not in routing(rollout):
            yield Problem(
                f"{_CANARY}.steps[{index}].setMirrorRoute",
                "Only Istio mirrors; every other router, the Gateway API plugin too, does nothing and says nothing.",
                "Remove the step. On a laptop rollout.shadow compares predictions on copied traffic.",
            )


def _arguments(rollout: Document, world: World) -> Iterator[Problem]:
    for path, analysis, _ in analyses(rollout):
        templates = _templates(rollout, analysis, world)
        if templates is None:
            continue
        declared = {one["name"]: one for template in templates for one in at(template, "spec", "args", default=[])}
        given = {one["name"] for one in analysis.get("args") or []}
        names = ", ".join(name_of(template) for template in templates)
        for name, one in declared.items():
            if name not in given and one.get("value") is None and not one.get("valueFrom"):
                yield Problem(
                    f"{path}.args",
                    f"{names} wants {name}, and nobody gives it: no AnalysisRun can be made.",
                    f"Add {{name: {name}, value: ...}}.",
                )
        for index, one in enumerate(analysis.get("args") or []):
            if one["name"] not in declared:
                yield Problem(
                    f"{path}.args[{index}].name",
                    f"{names} has no argument {one['name']}: it is dropped without a word.",
                    "Correct the name, or declare it in the template.",
                )


def _templates(rollout: Document, analysis: dict[str, Any], world: World) -> list[Document] | None:
    """The templates of an analysis, None if one of them is elsewhere."""
    found = []
    for one in analysis.get("templates") or []:
        kind = "ClusterAnalysisTemplate" if one.get("clusterScope") else "AnalysisTemplate"
        template = world.named(kind, one.get("templateName", ""), rollout)
        if template is None:
            return None
        found.append(template)
    return found


def _references(rollout: Document, _: World) -> Iterator[Problem]:
    """argo-rollouts#4504: an annotation that is not there leaves the Rollout hanging."""
    for path, analysis, _inline in analyses(rollout):
        for index, one in enumerate(analysis.get("args") or []):
            field = str(at(one, "valueFrom", "fieldRef", "fieldPath", default=""))
            wanted = re.fullmatch(r"metadata\.(annotations|labels)\['([^']+)'\]", field)
            if wanted and wanted[2] not in at(rollout, "metadata", wanted[1], default={}):
                yield Problem(
                    f"{path}.args[{index}].valueFrom.fieldRef.fieldPath",
                    f"This Rollout has no {wanted[1][:-1]} {wanted[2]}: it would hang and not say why.",
                    "Use metadata.uid, or give it one.",
                )


def _inline_ends(rollout: Document, world: World) -> Iterator[Problem]:
    for path, analysis, inline in analyses(rollout):
        for template in (_templates(rollout, analysis, world) or []) if inline else []:
            for metric in at(template, "spec", "metrics", default=[]):
                if metric.get("interval") and metric.get("count") is None:
                    yield Problem(
                        path,
                        f"{metric.get('name')} of {name_of(template)} has no count: with an interval it never ends.",
                        "Give the metric a count, or use the template in the background.",
                    )


def _services(rollout: Document, world: World) -> Iterator[Problem]:
    canary = at(rollout, "spec", "strategy", "canary", default={})
    labels = at(rollout, "spec", "template", "metadata", "labels", default={})
    if routing(rollout) and canary.get("canaryService") == canary.get("stableService"):
        yield Problem(
            f"{_CANARY}.canaryService", "Both arms are one Service, so nothing can be split.", "Give each arm its own."
        )
        return
    for key in ("canaryService", "stableService"):
        name = canary.get(key)
        if name is None:
            if routing(rollout):
                yield Problem(f"{_CANARY}.{key}", "trafficRouting splits between two Services.", f"Name the {key}.")
            continue
        service = world.named("Service", name, rollout)
        if service is None and world.has("Service"):
            yield Problem(f"{_CANARY}.{key}", f"There is no Service {name} among these objects.", "Add it.")
        elif service is not None and not selects(at(service, "spec", "selector", default={}), labels):
            yield Problem(
                f"{_CANARY}.{key}",
                f"The selector of the Service {name} does not match the labels of the pods: the Rollout is refused.",
                "Select by labels that spec.template has.",
            )


def _routes(rollout: Document, world: World) -> Iterator[Problem]:
    for index, route in enumerate(at(routing(rollout), "plugins", PLUGIN, "httpRoutes", default=[])):
        if world.has("HTTPRoute") and world.named("HTTPRoute", route.get("name", ""), rollout) is None:
            yield Problem(
                f'{_CANARY}.trafficRouting.plugins["{PLUGIN}"].httpRoutes[{index}].name',
                f"There is no HTTPRoute {route.get('name')} among these objects.",
                "Correct the name.",
            )


def _sticky_verdicts(rollout: Document, _: World) -> Iterator[Problem]:
    for path, analysis, _inline in analyses(rollout):
        names = [one.get("templateName") for one in analysis.get("templates") or []]
        if "tidegate-verdict" in names and not routing(rollout):
            yield Problem(
                path,
                "Without trafficRouting nobody stays on one arm, so the verdict would compare users with themselves.",
                "Route by the gateway, or let a person pass each step: pause: {}.",
            )


RULES: Final[tuple[Rule, ...]] = (
    _one_key_a_step,
    _weights_grow,
    _managed_routes,
    _header_routes,
    _mirrors,
    _arguments,
    _references,
    _inline_ends,
    _services,
    _routes,
    _sticky_verdicts,
)
