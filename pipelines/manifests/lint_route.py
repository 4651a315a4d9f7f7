"""Rules for HTTPRoutes that Argo's Gateway API plugin moves, and for Envoy Gateway's policies on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tidegate.pipelines.manifests.lint_rollout import PLUGIN, routing
from tidegate.pipelines.manifests.lint_world import Document, Problem, Rule, World, at, name_of, same_place

_WHOLE: Final = 100


def arms(route: Document, world: World) -> tuple[str, str] | None:
    """Canary's and stable's Service of the Rollout that moves this route; by their names where it is elsewhere."""
    for rollout in world.kind("Rollout"):
        moved = at(routing(rollout), "plugins", PLUGIN, "httpRoutes", default=[])
        if same_place(rollout, route) and any(one.get("name") == name_of(route) for one in moved):
            canary = at(rollout, "spec", "strategy", "canary", default={})
            return str(canary.get("canaryService")), str(canary.get("stableService"))
    named = [str(one.get("name")) for _, rule in rules(route) for one in rule.get("backendRefs") or []]
    found = [one.removesuffix("-canary") for one in named if one.endswith("-canary")]
    return (f"{found[0]}-canary", f"{found[0]}-stable") if found else None


def rules(route: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and content of each rule."""
    for index, rule in enumerate(at(route, "spec", "rules", default=[])):
        yield f"spec.rules[{index}]", rule


def _split(route: Document, world: World) -> Iterator[Problem]:
    both = arms(route, world)
    if both is None:
        return
    canary, stable = both
    split = False
    for path, rule in rules(route):
        backends = {str(one.get("name")): (index, one) for index, one in enumerate(rule.get("backendRefs") or [])}
        if canary not in backends or stable not in backends:
            continue
        split = True
        if backends[canary][0] != 0:
            yield Problem(
                f"{path}.backendRefs",
                f"{canary} is not the first: Envoy gives the first backend the low hashes, so a user would get another "
                "arm here than on a laptop, and the sample-ratio check would void the rollout.",
                "Put the canary first.",
            )
        missing = [index for index, one in backends.values() if "weight" not in one]
        if missing:
            yield Problem(
                f"{path}.backendRefs[{missing[0]}].weight",
                "Without a weight a backend has 1: applied in a rollout, this sends half of all users to the canary.",
                "Write 0 for the canary and 100 for stable.",
            )
        total = sum(one.get("weight", 1) for _, one in backends.values())
        if not missing and total != _WHOLE:
            yield Problem(
                f"{path}.backendRefs",
                f"The weights add up to {total}, but Argo writes per cents, and users are hashed into {_WHOLE}.",
                f"Let them add up to {_WHOLE}.",
            )
    if not split:
        yield Problem(
            "spec.rules",
            f"No rule names both {canary} and {stable}: the plugin moves only rules that do, so nobody gets a canary.",
            "Name both in one rule.",
        )


def _sticky(route: Document, world: World) -> Iterator[Problem]:
    for path, rule in rules(route):
        if rule.get("sessionPersistence"):
            yield Problem(
                f"{path}.sessionPersistence",
                "A session stays on its backend even at weight 0: after an abort users would stay on the bad canary.",
                "Remove it; users stay on their arm by hash.",
            )
    both = arms(route, world)
    hashed = any(
        at(policy, "spec", "loadBalancer", "consistentHash") and _targets(policy, route)
        for policy in world.kind("BackendTrafficPolicy")
    )
    if both is None or not hashed:
        return
    for path, rule in rules(route):
        backends = [one for one in rule.get("backendRefs") or [] if one.get("name") in both]
        if len(backends) > 1 and not all(one.get("filters") for one in backends):
            yield Problem(
                f"{path}.backendRefs",
                "A hash and backends without filters: Envoy Gateway makes one cluster of them and ignores the "
                "weights (envoyproxy/gateway#9775).",
                "Give each backend a filter, such as the response header x-tidegate-arm.",
            )


def _targets(policy: Document, route: Document) -> bool:
    targets = at(policy, "spec", "targetRefs", default=[]) or [at(policy, "spec", "targetRef", default={})]
    wanted = ("HTTPRoute", name_of(route))
    return same_place(policy, route) and any((one.get("kind"), one.get("name")) == wanted for one in targets)


def _alone(policy: Document, world: World) -> Iterator[Problem]:
    def targets(one: Document) -> set[tuple[Any, Any, Any]]:
        found = at(one, "spec", "targetRefs", default=[]) or [at(one, "spec", "targetRef", default={})]
        return {(target.get("kind"), target.get("name"), target.get("sectionName")) for target in found}

    for other in world.kind(policy["kind"]):
        shared = targets(policy) & targets(other)
        if other is not policy and same_place(other, policy) and shared and name_of(other) < name_of(policy):
            kind, name, _ = next(iter(shared))
            yield Problem(
                "spec.targetRefs",
                f"{policy['kind']}/{name_of(other)} has the target {kind}/{name} too: only the older counts.",
                "Make one policy of them.",
            )


ROUTE_RULES: Final[tuple[Rule, ...]] = (_split, _sticky)
POLICY_RULES: Final[tuple[Rule, ...]] = (_alone,)
