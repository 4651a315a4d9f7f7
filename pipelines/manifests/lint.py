"""`tidegate lint`: what the schemas of Kubernetes do not see, found without a cluster.

Each rule looks at one object and at those around it, and knows a case in which the controllers refuse, abort, or - the
worst - do nothing and say nothing. What refers to objects that are not among the files is taken on trust.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tidegate.core.errors import TidegateError, UsageError
from tidegate.pipelines.manifests import lint_analysis, lint_pods, lint_rollout, lint_route
from tidegate.pipelines.manifests.lint_world import Document, Problem, Rule, World
from tidegate.pipelines.manifests.render import documents

_RULES: Final[Mapping[str, tuple[Rule, ...]]] = MappingProxyType(
    {
        "Rollout": lint_rollout.RULES,
        "AnalysisTemplate": lint_analysis.RULES,
        "ClusterAnalysisTemplate": lint_analysis.RULES,
        "HTTPRoute": lint_route.ROUTE_RULES,
        "BackendTrafficPolicy": lint_route.POLICY_RULES,
        "SecurityPolicy": lint_route.POLICY_RULES,
        "EnvoyExtensionPolicy": lint_route.POLICY_RULES,
        "HorizontalPodAutoscaler": lint_pods.SCALING_RULES,
        "PodDisruptionBudget": lint_pods.BUDGET_RULES,
        "Secret": lint_pods.SECRET_RULES,
    }
)
"""Kind -> its rules. Those of pods apply to whatever has pods in it."""


@dataclass(frozen=True, slots=True)
class Source:
    """One object, and where it stands: the file and its number in it."""

    file: str
    index: int
    document: Document


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, why, and what to write instead."""

    file: str
    object: str
    path: str
    reason: str
    fix: str


def read(files: Sequence[Path]) -> list[Source]:
    """The objects of YAML files, and of the `.yaml` and `.yml` files of folders.

    Raises:
        UsageError: a file cannot be read, is no YAML, or holds something else than objects.
    """
    found = []
    for path in _expanded(files):
        try:
            text = path.read_text(encoding="utf-8")
            found += [Source(str(path), index, one) for index, one in enumerate(documents(text))]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}", "Name YAML files, or folders of them.") from error
        except TidegateError as error:
            raise UsageError(f"{path}: {error.message}", "Only whole Kubernetes objects can be looked at.") from error
    if not found:
        raise UsageError("There is no object in these files.", "Nothing looked at is not the same as nothing wrong.")
    return found


def _expanded(files: Sequence[Path]) -> Iterator[Path]:
    for path in files:
        yield from (sorted(one for one in path.rglob("*.y*ml") if one.is_file()) if path.is_dir() else [path])


def check(sources: Sequence[Source]) -> list[Finding]:
    """Every finding, in the order of the files."""
    world = World([one.document for one in sources])
    return [
        Finding(one.file, _called(one.document), problem.path, problem.reason, problem.fix)
        for one in sources
        for problem in _problems(one.document, world)
    ] + list(_twice(sources))


def _problems(document: Document, world: World) -> Iterator[Problem]:
    for rule in (*_RULES.get(document["kind"], ()), *lint_pods.POD_RULES):
        yield from rule(document, world)


def _called(document: Document) -> str:
    metadata = document["metadata"]
    return f"{document['kind']}/{metadata.get('name') or metadata.get('generateName', '?')}"


def _twice(sources: Sequence[Source]) -> Iterator[Finding]:
    def identity(one: Source) -> tuple[str, str, str]:
        group = str(one.document.get("apiVersion", "")).rpartition("/")[0]
        return group, one.document["metadata"].get("namespace", ""), _called(one.document)

    counted = Counter(identity(one) for one in sources)
    seen: set[tuple[str, str, str]] = set()
    for one in sources:
        key = identity(one)
        if counted[key] > 1 and key in seen and one.document["metadata"].get("name"):
            yield Finding(
                one.file,
                _called(one.document),
                "metadata.name",
                "This object is there twice: whichever is applied last wins.",
                "Remove one of them.",
            )
        seen.add(key)
