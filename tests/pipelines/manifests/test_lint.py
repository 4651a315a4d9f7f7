"""`tidegate lint`: each rule finds the one mistake that it is for, and nothing in what the charts make."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from golden import kept

from tidegate.core.errors import UsageError
from tidegate.pipelines.manifests import lint

Objects = dict[str, dict[str, Any]]
DIGEST = "sha256:" + "3f" * 32


def objects(name: str = "hpa") -> Objects:
    """Committed manifests, by kind and name, to be spoiled."""
    return {f"{one['kind']}/{one['metadata']['name']}": copy.deepcopy(one) for one in kept(name)}


def found(documents: Objects) -> set[tuple[str, str]]:
    """Object and path of each finding."""
    sources = [lint.Source("all.yaml", index, one) for index, one in enumerate(documents.values())]
    return {(one.object, one.path) for one in lint.check(sources)}


def canary(documents: Objects) -> dict[str, Any]:
    """The strategy of the one Rollout."""
    strategy: dict[str, Any] = documents["Rollout/demand"]["spec"]["strategy"]["canary"]
    return strategy


def metric(documents: Objects, template: str = "tidegate-verdict") -> dict[str, Any]:
    """The one metric of a template."""
    one: dict[str, Any] = documents[f"AnalysisTemplate/{template}"]["spec"]["metrics"][0]
    return one


def backends(documents: Objects) -> list[dict[str, Any]]:
    """Those of the one rule."""
    refs: list[dict[str, Any]] = documents["HTTPRoute/demand"]["spec"]["rules"][0]["backendRefs"]
    return refs


def _two_things(all_: Objects) -> None:
    canary(all_)["steps"][5]["pause"] = {}


def _weight_shrinks(all_: Objects) -> None:
    canary(all_)["steps"][7]["setWeight"] = 5


def _weight_is_none(all_: Objects) -> None:
    canary(all_)["steps"][-2]["setWeight"] = 150


def _nothing_holds(all_: Objects) -> None:
    del canary(all_)["steps"][6]


def _unmanaged(all_: Objects) -> None:
    canary(all_)["trafficRouting"]["managedRoutes"] = [{"name": "tidegate-force-canari"}]


def _no_header_routes(all_: Objects) -> None:
    canary(all_)["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"]["httpRoutes"][0]["useHeaderRoutes"] = False


def _silent_router(all_: Objects) -> None:
    canary(all_)["trafficRouting"]["nginx"] = {"stableIngress": "demand"}


def _route_stays(all_: Objects) -> None:
    del canary(all_)["steps"][3]


def _mirror(all_: Objects) -> None:
    canary(all_)["trafficRouting"]["managedRoutes"].append({"name": "mirror"})
    canary(all_)["steps"].insert(0, {"setMirrorRoute": {"name": "mirror", "percentage": 10}})


def _unbound(all_: Objects) -> None:
    arguments = canary(all_)["steps"][6]["analysis"]["args"]
    arguments[:] = [one for one in arguments if one["name"] != "weight"]


def _dropped(all_: Objects) -> None:
    canary(all_)["steps"][6]["analysis"]["args"][-1]["name"] = "horizont"


def _no_annotation(all_: Objects) -> None:
    reference = {"fieldRef": {"fieldPath": "metadata.annotations['acme.dev/id']"}}
    canary(all_)["analysis"]["args"][4] = {"name": "experiment", "valueFrom": reference}


def _endless(all_: Objects) -> None:
    del metric(all_)["count"]


def _one_service(all_: Objects) -> None:
    canary(all_)["canaryService"] = "demand-stable"


def _no_service(all_: Objects) -> None:
    del all_["Service/demand-canary"]


def _unnamed_service(all_: Objects) -> None:
    del canary(all_)["stableService"]


def _selects_nothing(all_: Objects) -> None:
    all_["Service/demand-canary"]["spec"]["selector"]["app.kubernetes.io/name"] = "fraud"


def _no_route(all_: Objects) -> None:
    canary(all_)["trafficRouting"]["plugins"]["argoproj-labs/gatewayAPI"]["httpRoutes"][0]["name"] = "demandd"


def _unrouted(all_: Objects) -> None:
    del canary(all_)["trafficRouting"]


def _undeclared(all_: Objects) -> None:
    metric(all_)["provider"]["web"]["jsonBody"]["user"] = "{{args.user}}"


def _no_default(all_: Objects) -> None:
    arguments = all_["AnalysisTemplate/tidegate-verdict"]["spec"]["args"]
    del next(one for one in arguments if one["name"] == "horizon")["value"]


def _no_interval(all_: Objects) -> None:
    del metric(all_)["interval"]


def _never_ends(all_: Objects) -> None:
    metric(all_, "tidegate-guard")["failureLimit"] = -1


def _too_few(all_: Objects) -> None:
    metric(all_).update(count=1, inconclusiveLimit=1, consecutiveSuccessLimit=3)


def _more_doubts_than_answers(all_: Objects) -> None:
    metric(all_)["inconclusiveLimit"] = 121


def _pauses_early(all_: Objects) -> None:
    metric(all_)["inconclusiveLimit"] = 5


def _unconditional(all_: Objects) -> None:
    spec = all_["AnalysisTemplate/tidegate-guard"]["spec"]
    spec["metrics"][0].pop("successCondition")
    spec["metrics"][0].pop("failureCondition")
    spec["metrics"][0]["provider"]["web"]["url"] = "http://acme/check"


def _empty_vector(all_: Objects) -> None:
    spec = all_["AnalysisTemplate/tidegate-guard"]["spec"]
    spec["metrics"][0] = {
        "name": "errors",
        "interval": "30s",
        "successCondition": "result[0] < 0.01",
        "provider": {"prometheus": {"address": "http://prometheus:9090", "query": "up"}},
    }


def _one_condition(all_: Objects) -> None:
    del metric(all_)["failureCondition"]


def _hears_it_twice(all_: Objects) -> None:
    metric(all_)["failureLimit"] = 2


def _impatient(all_: Objects) -> None:
    del metric(all_, "tidegate-guard")["consecutiveErrorLimit"]


def _open_token(all_: Objects) -> None:
    metric(all_)["provider"]["web"]["headers"][0]["value"] = "Bearer 0123456789abcdef"


def _token_from_nowhere(all_: Objects) -> None:
    arguments = all_["AnalysisTemplate/tidegate-guard"]["spec"]["args"]
    arguments[-1] = {"name": "token", "value": "0123456789abcdef"}


def _unchecked_certificate(all_: Objects) -> None:
    metric(all_)["provider"]["web"]["insecure"] = True


def _canary_last(all_: Objects) -> None:
    backends(all_).reverse()


def _no_weight(all_: Objects) -> None:
    del backends(all_)[0]["weight"]


def _not_100(all_: Objects) -> None:
    backends(all_)[1]["weight"] = 1


def _arms_apart(all_: Objects) -> None:
    rules = all_["HTTPRoute/demand"]["spec"]["rules"]
    rules.append({"backendRefs": [backends(all_).pop()]})


def _session(all_: Objects) -> None:
    all_["HTTPRoute/demand"]["spec"]["rules"][0]["sessionPersistence"] = {"type": "Cookie"}


def _weights_ignored(all_: Objects) -> None:
    all_["BackendTrafficPolicy/demand"]["spec"]["loadBalancer"] = {"consistentHash": {"type": "Headers"}}
    del backends(all_)[1]["filters"]


def _second_policy(all_: Objects) -> None:
    more = copy.deepcopy(all_["BackendTrafficPolicy/demand"])
    more["metadata"]["name"] = "mine"
    all_["BackendTrafficPolicy/mine"] = more


def _tag(all_: Objects) -> None:
    all_["Rollout/demand"]["spec"]["template"]["spec"]["containers"][0]["image"] = "ghcr.io/acme/demand:1.2"


def _tests_a_tag(all_: Objects) -> None:
    next(one for one in canary(all_)["steps"][2]["analysis"]["args"] if one["name"] == "image")["value"] = "demand:1.2"


def _written_secret(all_: Objects) -> None:
    box = all_["Deployment/tidegate-judge"]["spec"]["template"]["spec"]["containers"][0]
    box["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "example"})


def _two_masters(all_: Objects) -> None:
    all_["Rollout/demand"]["spec"]["replicas"] = 2


def _scales_a_deployment(all_: Objects) -> None:
    all_["HorizontalPodAutoscaler/demand"]["spec"]["scaleTargetRef"]["apiVersion"] = "apps/v1"


def _scales_nothing(all_: Objects) -> None:
    all_["HorizontalPodAutoscaler/demand"]["spec"]["scaleTargetRef"]["name"] = "demandd"


def _protects_nothing(all_: Objects) -> None:
    all_["PodDisruptionBudget/demand"]["spec"]["selector"]["matchLabels"] = {"app": "demand"}


def _secret_in_git(all_: Objects) -> None:
    all_["Secret/token"] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "token"},
        "data": {"token": "eA=="},
    }


def _twice(all_: Objects) -> None:
    all_["again"] = copy.deepcopy(all_["Service/demand-stable"])


STRATEGY = "spec.strategy.canary"
PLUGIN = f'{STRATEGY}.trafficRouting.plugins["argoproj-labs/gatewayAPI"].httpRoutes[0]'
ROLLOUT, VERDICT, GUARD = "Rollout/demand", "AnalysisTemplate/tidegate-verdict", "AnalysisTemplate/tidegate-guard"
RULES: list[tuple[Callable[[Objects], None], str, str]] = [
    (_two_things, ROLLOUT, f"{STRATEGY}.steps[5]"),
    (_weight_shrinks, ROLLOUT, f"{STRATEGY}.steps[7].setWeight"),
    (_weight_is_none, ROLLOUT, f"{STRATEGY}.steps[9].setWeight"),
    (_nothing_holds, ROLLOUT, f"{STRATEGY}.steps[5].setWeight"),
    (_unmanaged, ROLLOUT, f"{STRATEGY}.steps[1].setHeaderRoute.name"),
    (_unmanaged, ROLLOUT, f"{STRATEGY}.trafficRouting.managedRoutes"),
    (_no_header_routes, ROLLOUT, f"{PLUGIN}.useHeaderRoutes"),
    (_silent_router, ROLLOUT, f"{STRATEGY}.steps[1].setHeaderRoute"),
    (_route_stays, ROLLOUT, f"{STRATEGY}.steps[1].setHeaderRoute"),
    (_mirror, ROLLOUT, f"{STRATEGY}.steps[0].setMirrorRoute"),
    (_unbound, ROLLOUT, f"{STRATEGY}.steps[6].analysis.args"),
    (_dropped, ROLLOUT, f"{STRATEGY}.steps[6].analysis.args[10].name"),
    (_no_annotation, ROLLOUT, f"{STRATEGY}.analysis.args[4].valueFrom.fieldRef.fieldPath"),
    (_endless, ROLLOUT, f"{STRATEGY}.steps[6].analysis"),
    (_one_service, ROLLOUT, f"{STRATEGY}.canaryService"),
    (_no_service, ROLLOUT, f"{STRATEGY}.canaryService"),
    (_unnamed_service, ROLLOUT, f"{STRATEGY}.stableService"),
    (_selects_nothing, ROLLOUT, f"{STRATEGY}.canaryService"),
    (_no_route, ROLLOUT, f"{PLUGIN}.name"),
    (_unrouted, ROLLOUT, f"{STRATEGY}.steps[6].analysis"),
    (_undeclared, VERDICT, "spec.metrics[0].provider.web.jsonBody.user"),
    (_no_default, VERDICT, "spec.metrics[0].count"),
    (_no_interval, VERDICT, "spec.metrics[0].interval"),
    (_never_ends, GUARD, "spec.metrics[0].failureLimit"),
    (_too_few, VERDICT, "spec.metrics[0].count"),
    (_more_doubts_than_answers, VERDICT, "spec.metrics[0].inconclusiveLimit"),
    (_pauses_early, VERDICT, "spec.metrics[0].inconclusiveLimit"),
    (_unconditional, GUARD, "spec.metrics[0]"),
    (_empty_vector, GUARD, "spec.metrics[0].successCondition"),
    (_one_condition, VERDICT, "spec.metrics[0]"),
    (_hears_it_twice, VERDICT, "spec.metrics[0].failureLimit"),
    (_impatient, GUARD, "spec.metrics[0].consecutiveErrorLimit"),
    (_open_token, VERDICT, "spec.metrics[0].provider.web.headers[0].value"),
    (_token_from_nowhere, GUARD, "spec.metrics[0].provider.web.headers[0].value"),
    (_unchecked_certificate, VERDICT, "spec.metrics[0].provider.web.insecure"),
    (_canary_last, "HTTPRoute/demand", "spec.rules[0].backendRefs"),
    (_no_weight, "HTTPRoute/demand", "spec.rules[0].backendRefs[0].weight"),
    (_not_100, "HTTPRoute/demand", "spec.rules[0].backendRefs"),
    (_arms_apart, "HTTPRoute/demand", "spec.rules"),
    (_session, "HTTPRoute/demand", "spec.rules[0].sessionPersistence"),
    (_weights_ignored, "HTTPRoute/demand", "spec.rules[0].backendRefs"),
    (_second_policy, "BackendTrafficPolicy/mine", "spec.targetRefs"),
    (_tag, ROLLOUT, "spec.template.spec.containers[0].image"),
    (_tests_a_tag, ROLLOUT, f"{STRATEGY}.steps[2].analysis.args[7].value"),
    (_written_secret, "Deployment/tidegate-judge", "spec.template.spec.containers[0].env[6].value"),
    (_two_masters, "HorizontalPodAutoscaler/demand", "spec.scaleTargetRef"),
    (_scales_a_deployment, "HorizontalPodAutoscaler/demand", "spec.scaleTargetRef.apiVersion"),
    (_scales_nothing, "HorizontalPodAutoscaler/demand", "spec.scaleTargetRef"),
    (_protects_nothing, "PodDisruptionBudget/demand", "spec.selector"),
    (_secret_in_git, "Secret/token", "data"),
    (_twice, "Service/demand-stable", "metadata.name"),
]


@pytest.mark.parametrize(("spoil", "thing", "path"), RULES, ids=lambda one: getattr(one, "__name__", None))
def test_a_mistake_is_found_where_it_is(spoil: Callable[[Objects], None], thing: str, path: str) -> None:
    """In what lint had nothing to say about before."""
    documents = objects()
    assert found(documents) == set()
    spoil(documents)
    assert (thing, path) in found(documents)


def test_every_rule_has_a_mistake_of_its_own() -> None:
    """A rule that finds nothing would pass for ever."""
    reasons = set()
    for spoil, thing, path in RULES:
        documents = objects()
        spoil(documents)
        sources = [lint.Source("all.yaml", index, one) for index, one in enumerate(documents.values())]
        reasons |= {one.reason[:24] for one in lint.check(sources) if (one.object, one.path) == (thing, path)}
    assert len(reasons) >= len(RULES) - 4


def test_each_finding_says_file_reason_and_what_to_write(tmp_path: Path) -> None:
    """As a person reads it, and as JSON has it."""
    file = tmp_path / "route.yaml"
    route = objects()["HTTPRoute/demand"]
    del route["spec"]["rules"][0]["backendRefs"][0]["weight"]
    file.write_text(yaml.safe_dump(route))
    (one,) = lint.check(lint.read([file]))
    assert (one.file, one.object) == (str(file), "HTTPRoute/demand")
    assert "half of all users" in one.reason
    assert one.fix == "Write 0 for the canary and 100 for stable."


def test_what_is_elsewhere_is_taken_on_trust(tmp_path: Path) -> None:
    """A Rollout alone may refer to templates, Services and routes that are not among the files."""
    file = tmp_path / "rollout.yaml"
    file.write_text(yaml.safe_dump(objects()["Rollout/demand"]))
    assert lint.check(lint.read([file])) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "no YAML"),
        ("- 1\n", "no Kubernetes object"),
        ("", "no object in these files"),
        ("kind: Pod\n", "no Kubernetes object"),
    ],
)
def test_files_that_hold_no_objects_are_an_error(content: str, said: str, tmp_path: Path) -> None:
    """Nothing looked at is not the same as nothing wrong."""
    (tmp_path / "some.yaml").write_text(content)
    with pytest.raises(UsageError, match=said):
        lint.read([tmp_path])


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(UsageError, match=r"gone\.yaml"):
        lint.read([tmp_path / "gone.yaml"])


def test_on_the_command_line_a_finding_is_exit_code_1(cli: Any, tmp_path: Path) -> None:
    """Outside any project, too; JSON holds each part of a finding."""
    documents = objects()
    (tmp_path / "good.yaml").write_text(yaml.safe_dump_all(documents.values()))
    clean = cli("lint", tmp_path / "good.yaml", "--json", cwd=tmp_path)
    assert (clean.exit_code, clean.json["findings"]) == (0, [])
    assert clean.json["documents"] == len(documents)
    _tag(documents)
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump_all(documents.values()))
    wrong = cli("lint", tmp_path / "bad.yaml", "--json", cwd=tmp_path)
    assert wrong.exit_code == 1
    assert [set(one) for one in wrong.json["findings"]] == [{"file", "object", "path", "reason", "fix"}]
    told = cli("lint", tmp_path / "bad.yaml", cwd=tmp_path)
    assert "Rollout/demand: spec.template.spec.containers[0].image" in told.stdout
    assert json.loads(cli("lint", "--json", cwd=tmp_path).stdout)["kind"] == "error"
