"""Flows in a cluster: a Workflow made from the template, followed by its own status; no argo-server is asked.

A Workflow's name is made of what goes into it, so whoever asks for the same twice gets the one that is there: a second
terminal, a workflow of CI that runs again, a monitor that looked at the same window.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import Conflict, UsageError
from tidegate.core.kube import WORKFLOW, WORKFLOW_TEMPLATE, Cluster
from tidegate.pipelines import ended_flow
from tidegate.pipelines.dag import FLOWS, Flow, References
from tidegate.pipelines.runners import LeftRunning, Running, StepState
from tidegate.pipelines.workflows import names

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.pipelines.environment import Environment

_HASH_DIGITS: Final = 8
# Seconds of one watch, after which the deadline is looked at.
_LOOK: Final = 15.0
_LEFT_OUT: Final = frozenset({"Skipped", "Omitted"})
_MAIN: Final = "main"
_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class KubeRunner:
    """The Workflows of one model in one environment."""

    cluster: Cluster
    environment: Environment

    def start(self, flow: Flow, given: References, revision: str) -> Running:
        """Make the Workflow of these inputs, or find it.

        One that failed is made anew, since nothing that it finished is lost.

        Args:
            flow: what to run.
            given: values of `flow.given`.
            revision: the commit to work on, in full.

        Raises:
            UsageError: the cluster has no template of this flow.
            Conflict: somebody else started another Workflow of that name this moment.
        """
        template = names.of(flow.name, self._model)
        if self.cluster.get(WORKFLOW_TEMPLATE, template) is None:
            raise UsageError(
                f"The cluster has no WorkflowTemplate {template}, so it cannot {flow.name}.",
                f"`tidegate apply --env {self._env}` brings it; it needs train.image.",
            )
        document = self._document(flow, given, revision, template)
        return self._made(flow, document, again=True)

    def find(self, name: str) -> Running:
        """A Workflow of this model.

        Raises:
            UsageError: there is none of that name.
        """
        found = self.cluster.get(WORKFLOW, name)
        if found is None or found["metadata"].get("labels", {}).get(names.MODEL) != names.label(self._model):
            raise UsageError(
                f"There is no Workflow {name} of {self._model} in {self._env}.",
                f"`tidegate workflow list --env {self._env}` lists those that are kept.",
            )
        return _running(found)

    def all(self) -> list[Running]:
        """Every Workflow of this model that the cluster still keeps, oldest first."""
        return sorted(map(_running, self.cluster.list(WORKFLOW, self._labels)), key=lambda one: one.created_at)

    def follow(self, name: str, progress: Progress, timeout: float = _SECONDS) -> Running:
        """Follow a Workflow until it ends or `timeout` seconds have passed; it goes on afterwards.

        Raises:
            LeftRunning: Ctrl-C.
            Conflict: it was deleted meanwhile.
        """
        import time

        end = time.monotonic() + timeout
        try:
            with progress.task(f"Workflow {name}") as task:
                while True:
                    for state in self._states(name, min(_LOOK, max(0.0, end - time.monotonic()))):
                        task.advance(0, _position(state))
                        if state.ended:
                            return state
                    state = self._still(name)
                    if state.ended or time.monotonic() >= end:
                        return state
        except KeyboardInterrupt as stop:
            raise LeftRunning(name) from stop

    def logs(self, name: str, step: str | None = None, *, follow: bool = False) -> Iterator[tuple[str, str]]:
        """What its pods printed, as (step, line), in the order of the steps.

        Args:
            name: of the Workflow.
            step: this step alone.
            follow: wait for more until the step's pod ends.

        Raises:
            UsageError: no such Workflow, or none of its steps has begun.
        """
        running = self.find(name)
        begun = [one for one in running.steps if one.pod and step in {None, one.name}]
        if not begun:
            known = ", ".join(one.name for one in running.steps) or "none yet"
            raise UsageError(f"No such step of Workflow {name} has begun.", f"Its steps: {known}.")
        for one in begun:
            # A pod that was cleaned away has no logs any more; those of the others are worth showing.
            with suppress(Conflict):
                for line in self.cluster.logs(one.pod, _MAIN, follow=follow):
                    yield one.name, line

    def cancel(self, name: str, reason: str) -> Running:
        """Stop a Workflow, and write in the ledger who did; its exit hook still runs.

        Raises:
            UsageError: there is none of that name.
            Conflict: it has ended already.
        """
        running = self.find(name)
        if running.ended:
            raise Conflict(f"Workflow {name} has ended already: {running.phase}.", "Nothing was cancelled.")
        self.cluster.patch(WORKFLOW, name, {"spec": {"shutdown": "Stop"}})
        ended_flow.write(self.environment, (running.flow, name, running.uid), "was cancelled", [reason])
        return running

    @property
    def _model(self) -> str:
        return self.environment.project.config.model

    @property
    def _env(self) -> str:
        return self.environment.project.env

    @property
    def _labels(self) -> dict[str, str]:
        return {names.MODEL: names.label(self._model), names.ENVIRONMENT: self._env}

    def _document(self, flow: Flow, given: References, revision: str, template: str) -> dict[str, Any]:
        state = self.environment.state()
        # What the flow would decide by: the same commit against another champion is another question.
        known = {"champion": state.champion, "retrains": len(state.retrains)}
        inputs = json.dumps([flow.name, revision, dict(given), known], sort_keys=True)
        mark = hashlib.sha256(inputs.encode()).hexdigest()[:_HASH_DIGITS]
        labels = {**names.labels(self._model, self._env), names.FLOW: flow.name}
        parameters = {"revision": revision, **given}
        return {
            "apiVersion": WORKFLOW.api_version,
            "kind": WORKFLOW.kind,
            "metadata": {"name": names.of(flow.name, self._model, mark), "labels": labels},
            "spec": {
                "workflowTemplateRef": {"name": template},
                "arguments": {"parameters": [{"name": name, "value": value} for name, value in parameters.items()]},
            },
        }

    def _made(self, flow: Flow, document: dict[str, Any], *, again: bool) -> Running:
        name = document["metadata"]["name"]
        try:
            return _running(self.cluster.create(document))
        except Conflict:
            found = self.cluster.get(WORKFLOW, name)
            if found is None and again:  # its time was over this moment
                return self._made(flow, document, again=False)
            if found is None:
                raise
        running = _running(found)
        if running.phase in {"Failed", "Error"} and again:
            # By its uid: somebody else may have made it anew already.
            with suppress(Conflict):
                self.cluster.delete(WORKFLOW, name, uid=running.uid)
            return self._made(flow, document, again=False)
        return running

    def _states(self, name: str, seconds: float) -> Iterator[Running]:
        for found in self.cluster.watch(WORKFLOW, self._labels, seconds=seconds):
            if found["metadata"]["name"] == name:
                yield _running(found)

    def _still(self, name: str) -> Running:
        try:
            return self.find(name)
        except UsageError as error:
            raise Conflict(
                f"Workflow {name} was deleted while it was followed.", "`tidegate events` shows what it wrote before."
            ) from error


def runner(environment: Environment) -> KubeRunner:
    """The runner of an environment on a cluster; in a pod it is the pod's own account that asks.

    Raises:
        UsageError: the environment is this machine.
    """
    project = environment.project
    place = project.config.environment(project.env)
    if place.kind != "kubernetes":
        raise UsageError(f"The environment {project.env} is this machine: it has no Workflows.", "Add `--env NAME`.")
    return KubeRunner(Cluster(place.context, place.namespace), environment)


def _running(document: Mapping[str, Any]) -> Running:
    metadata, status = document["metadata"], document.get("status") or {}
    flow = (metadata.get("labels") or {}).get(names.FLOW, "")
    return Running(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        flow=flow,
        phase=status.get("phase", ""),
        steps=_steps(flow, status.get("nodes") or {}),
        created_at=metadata.get("creationTimestamp", ""),
        message=status.get("message", ""),
    )


def _steps(flow: str, nodes: Mapping[str, Mapping[str, Any]]) -> tuple[StepState, ...]:
    """The tasks that Argo has begun or left out, in the flow's order; of one that was retried, the newest pod."""
    order = [step.name for step in FLOWS[flow].steps] if flow in FLOWS else []
    by_name = {node["displayName"]: node for node in nodes.values() if node.get("displayName") in order}
    return tuple(_step(name, by_name[name], nodes) for name in order if name in by_name)


def _step(name: str, node: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> StepState:
    given = {
        one["name"]: str(one.get("value", "")) for one in (node.get("outputs") or {}).get("parameters") or () if one
    }
    attempts = [nodes[one] for one in node.get("children") or () if one in nodes] if node["type"] == "Retry" else [node]
    pods = [one for one in attempts if one["type"] == "Pod"]
    newest = max(pods, key=lambda one: str(one.get("startedAt") or ""), default=None)
    return StepState(name, node["phase"], given, node.get("message", ""), _pod_name(newest, name))


def _pod_name(node: Mapping[str, Any] | None, template: str) -> str:
    """As Argo names pods (v2): WORKFLOW-TEMPLATE-HASH, where the node's id ends in the same hash."""
    if node is None or node["phase"] in _LEFT_OUT:
        return ""
    workflow, _, number = str(node["id"]).rpartition("-")
    return f"{workflow}-{template}-{number}" if workflow else str(node["id"])


def _position(state: Running) -> str:
    at = [one.name for one in state.steps if one.phase in {"Pending", "Running"}]
    done = sum(one.phase == "Succeeded" for one in state.steps)
    return f"{', '.join(at) or state.phase or 'waits'} ({done} steps done)"
