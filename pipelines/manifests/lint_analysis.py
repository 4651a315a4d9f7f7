"""Rules for AnalysisTemplates (argo-rollouts 1.9, `utils/analysis/factory.go` and `analysis/analysis.go`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from tidegate.pipelines.manifests.lint_world import ARGUMENT, Document, Problem, Rule, World, at, texts

_VERDICTS, _GUARD = "/v1/verdicts", "/v1/guard"
_LIMITS: Final = ("count", "failureLimit", "consecutiveSuccessLimit", "inconclusiveLimit", "consecutiveErrorLimit")
# Argo waits ten seconds after an error, whatever the interval is.
_ERROR_SECONDS, _DEFAULT_ERRORS = 10, 4


def metrics(template: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and content of each metric."""
    for index, metric in enumerate(at(template, "spec", "metrics", default=[])):
        yield f"spec.metrics[{index}]", metric


def _values(template: Document) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in at(template, "spec", "args", default=[])}


def _number(template: Document, metric: dict[str, Any], key: str) -> int | None:
    """A limit as the controller reads it: an argument by its default; None where there is none."""
    value = metric.get(key)
    argument = ARGUMENT.fullmatch(value) if isinstance(value, str) else None
    if argument:
        value = _values(template).get(argument[1])
    try:
        return None if value is None else int(value)
    except ValueError:
        return None


def _declared(template: Document, _: World) -> Iterator[Problem]:
    declared = _values(template)
    for path, metric in metrics(template):
        for below, text in texts(metric, path):
            for name in ARGUMENT.findall(text):
                if name not in declared:
                    yield Problem(
                        below,
                        f"spec.args does not declare {name}: no AnalysisRun can be made of this template.",
                        f"Add {{name: {name}}} to spec.args.",
                    )


def _counted(template: Document, _: World) -> Iterator[Problem]:
    for path, metric in metrics(template):
        for key in _LIMITS:
            value = metric.get(key)
            if isinstance(value, str) and _number(template, metric, key) is None:
                argument = ARGUMENT.fullmatch(value)
                yield Problem(
                    f"{path}.{key}",
                    f"{argument[1]} has no default, and the controller looks at this number before a Rollout gives one."
                    if argument
                    else f"{value} is no number.",
                    f'Give it one in spec.args: {{name: {argument[1]}, value: "120"}}.'
                    if argument
                    else "Write a number.",
                )


def _arithmetic(template: Document, _: World) -> Iterator[Problem]:
    for path, metric in metrics(template):
        count = _number(template, metric, "count") or 0
        failures = _number(template, metric, "failureLimit") or 0
        successes = _number(template, metric, "consecutiveSuccessLimit") or 0
        inconclusive = _number(template, metric, "inconclusiveLimit") or 0
        if count > 1 and not metric.get("interval"):
            yield Problem(f"{path}.interval", "More than one measurement needs an interval.", "Add interval: 30s.")
        if successes == 0 and failures == -1:
            yield Problem(
                f"{path}.failureLimit",
                "Neither failures nor successes end it: the controller refuses the template.",
                "Leave failureLimit out, or set consecutiveSuccessLimit.",
            )
        if count and count < max(failures, 0) + successes:
            yield Problem(
                f"{path}.count",
                f"{count} is less than failureLimit + consecutiveSuccessLimit, {failures} + {successes}: refused.",
                "Raise the count.",
            )
        if count and count < inconclusive:
            yield Problem(
                f"{path}.inconclusiveLimit",
                f"It is {inconclusive} with a count of {count}: it is refused.",
                "At most the count.",
            )


def _conditions(template: Document, _: World) -> Iterator[Problem]:
    for path, metric in metrics(template):
        if at(metric, "provider", "job") is not None:
            continue
        if not metric.get("successCondition") and not metric.get("failureCondition"):
            yield Problem(
                path, "Without a condition every measurement is a success.", "Write a successCondition, and what fails."
            )
        for key in ("successCondition", "failureCondition"):
            condition = metric.get(key) or ""
            if at(metric, "provider", "prometheus") and "result[0]" in condition and "len(result)" not in condition:
                yield Problem(
                    f"{path}.{key}",
                    "A canary without traffic has no series: result[0] is an error then, or passes for nothing.",
                    f"Write len(result) > 0 && !isNaN(result[0]) && {condition}",
                )


def _judged(template: Document, _: World) -> Iterator[Problem]:
    for path, metric in metrics(template):
        url = str(at(metric, "provider", "web", "url", default=""))
        if not url.endswith((_VERDICTS, _GUARD)):
            continue
        if not metric.get("successCondition") or not metric.get("failureCondition"):
            yield Problem(
                path,
                "With one condition alone `continue` counts as the other: a rollout passes, or aborts, too soon.",
                'Write both: successCondition: result.decision == "promote" and the other for "rollback".',
            )
        if _number(template, metric, "failureLimit"):
            yield Problem(
                f"{path}.failureLimit",
                "The judge answers rollback once it is sure. Hearing it again is no proof, only more harmed users.",
                "Write failureLimit: 0.",
            )
        count, limit = _number(template, metric, "count"), _number(template, metric, "inconclusiveLimit") or 0
        if url.endswith(_VERDICTS) and (count or 1) > limit:
            yield Problem(
                f"{path}.inconclusiveLimit",
                f"`continue` is an inconclusive measurement: after {limit} of them the Rollout pauses.",
                "Give it the count's value.",
            )
        if metric.get("consecutiveErrorLimit") is None:
            seconds = (_DEFAULT_ERRORS + 1) * _ERROR_SECONDS
            yield Problem(
                f"{path}.consecutiveErrorLimit",
                f"It is {_DEFAULT_ERRORS} by default: a judge that is away for {seconds} s aborts every rollout.",
                "Write consecutiveErrorLimit: 30.",
            )


def _tokens(template: Document, _: World) -> Iterator[Problem]:
    secret = {
        one["name"]
        for one in at(template, "spec", "args", default=[])
        if at(one, "valueFrom", "secretKeyRef") is not None
    }
    for path, metric in metrics(template):
        web = at(metric, "provider", "web", default={})
        for index, header in enumerate(web.get("headers") or []):
            if not re.fullmatch(r"(?i)authorization|x-api-key|.*token.*", str(header.get("key", ""))):
                continue
            used = ARGUMENT.findall(str(header.get("value", "")))
            if not used or not set(used) <= secret:
                yield Problem(
                    f"{path}.provider.web.headers[{index}].value",
                    "The token does not come from a Secret, so it is readable in the AnalysisRun and in git.",
                    'Write "Bearer {{args.token}}" and valueFrom: {secretKeyRef: ...} for that argument.',
                )
        if web.get("insecure"):
            yield Problem(
                f"{path}.provider.web.insecure",
                "Certificates are not checked: whoever is on the way reads the token and writes the verdict.",
                "Use plain HTTP behind a NetworkPolicy, a mesh, or a certificate of a public authority.",
            )


RULES: Final[tuple[Rule, ...]] = (_declared, _counted, _arithmetic, _conditions, _judged, _tokens)
