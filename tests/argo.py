"""A Workflow's containers run in order as processes of this machine, with as much of Argo's rules as our objects use.

Templates, parameters, `depends: X.Succeeded`, `when`, outputs from files, retries with their expression, the exit hook.
Whatever of an object it does not understand makes it raise, so that a test cannot pass by something being overlooked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Document = Mapping[str, Any]
_EXPRESSION = re.compile(r"lastRetry\.exitCode != '(\d+)'")
_WHEN = re.compile(r"'([^']*)' == '([^']*)'")


@dataclass
class Node:
    """What became of one task: Argo's phase, its outputs, the exit codes of its attempts, what the last one printed."""

    phase: str
    outputs: dict[str, str] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    printed: str = ""

    @property
    def message(self) -> str:
        """As Argo words it."""
        return f"Error (exit code {self.exit_codes[-1]})" if self.exit_codes else ""


@dataclass
class Ran:
    """A Workflow that ended; `closed` is its exit hook."""

    phase: str
    nodes: dict[str, Node]
    closed: Node

    @property
    def outputs(self) -> dict[str, str]:
        """Every output of every task."""
        return {name: value for node in self.nodes.values() for name, value in node.outputs.items()}


@dataclass
class Argo:
    """Runs Workflows.

    Args:
        folder: where pods have their volumes.
        secret: the environment that the Secrets give.
        before: called with task, attempt and environment before each container; may change the environment.
    """

    folder: Path
    secret: Mapping[str, str]
    before: Callable[[str, int, dict[str, str]], None] = lambda _task, _attempt, _environ: None

    def run(self, document: Document, name: str, **parameters: str) -> Ran:
        """Run a WorkflowTemplate as a Workflow called `name` with these parameters."""
        spec = document["spec"]
        known = {one["name"]: one.get("value") for one in spec["arguments"]["parameters"]} | parameters
        assert None not in known.values(), f"Argo refuses a Workflow without {known}"
        told = {f"workflow.parameters.{key}": value for key, value in known.items()}
        told |= {"workflow.name": name, "workflow.uid": f"uid-{name}"}
        templates = {one["name"]: one for one in spec["templates"]}
        nodes: dict[str, Node] = {}
        for task in templates[spec["entrypoint"]]["dag"]["tasks"]:
            nodes[task["name"]] = self._task(task, templates, told, nodes)
        failed = {task: node for task, node in nodes.items() if node.phase == "Failed"}
        phase = "Failed" if failed else "Succeeded"
        listed = json.dumps([{"displayName": task, "message": node.message} for task, node in failed.items()])
        told |= {"workflow.status": phase, "workflow.failures": json.dumps(listed)}
        return Ran(phase, nodes, self._container("exit", templates[spec["onExit"]], told))

    def _task(self, task: Document, templates: Document, told: Mapping[str, str], nodes: Mapping[str, Node]) -> Node:
        if task.get("depends"):
            before, _, word = task["depends"].partition(".")
            assert word == "Succeeded"
            if nodes[before].phase != "Succeeded":
                return Node("Omitted")
        outputs = {
            f"tasks.{name}.outputs.parameters.{key}": value
            for name, node in nodes.items()
            for key, value in node.outputs.items()
        }
        if task.get("when"):
            match = _WHEN.fullmatch(resolved(task["when"], outputs))
            assert match, task["when"]
            if match[1] != match[2]:
                return Node("Skipped")
        given = {
            one["name"]: resolved(one["value"], outputs) for one in task.get("arguments", {}).get("parameters", ())
        }
        template = templates[task["template"]]
        wanted = {one["name"] for one in template.get("inputs", {}).get("parameters", ())}
        assert wanted == set(given), f"{task['name']} wants {wanted} and is given {set(given)}"
        inputs = {f"inputs.parameters.{name}": value for name, value in given.items()}
        return self._container(task["name"], template, {**told, **inputs})

    def _container(self, task: str, template: Document, told: Mapping[str, str]) -> Node:
        strategy = template["retryStrategy"]
        never = _EXPRESSION.fullmatch(strategy["expression"])
        assert never, strategy["expression"]
        node = Node("Failed")
        for attempt in range(int(strategy["limit"]) + 1):
            self._attempt(task, attempt, template, told, node)
            if node.phase == "Succeeded" or node.exit_codes[-1] == int(never[1]):
                break
        return node

    def _attempt(self, task: str, attempt: int, template: Document, told: Mapping[str, str], node: Node) -> None:
        container, pod = template["container"], self.folder / told["workflow.name"] / f"{task}-{attempt}"
        paths = {one["mountPath"]: pod / one["name"] for one in container["volumeMounts"]}
        for path in paths.values():
            path.mkdir(parents=True)
        assert container["command"] == ["tidegate"]
        arguments = [str(paths.get(text, text)) for text in (resolved(one, told) for one in container["args"])]
        stated = {one["name"]: resolved(one["value"], told) for one in container["env"]}
        environ = {**os.environ, **self.secret, **stated, "HOME": str(paths[stated["HOME"]])}
        self.before(task, attempt, environ)
        done = subprocess.run(
            [sys.executable, "-m", "tidegate.cli", *arguments],
            cwd=paths[container["workingDir"]],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        node.exit_codes.append(done.returncode)
        node.printed = done.stdout + done.stderr
        if done.returncode == 0:
            node.phase = "Succeeded"
            for one in template.get("outputs", {}).get("parameters", ()):
                path = Path(one["valueFrom"]["path"])
                node.outputs[one["name"]] = (paths[str(path.parent)] / path.name).read_text()


def resolved(text: str, known: Mapping[str, str]) -> str:
    """The text with every {{name}} filled in; one that nobody knows fails, as Argo's validation does."""
    return re.sub(r"\{\{([^{}]+)\}\}", lambda match: known[match[1]], text)
