"""Argo Rollouts' controller as far as a driver can see it, on the API server in memory.

It goes through the steps of a canary as rollout/canary.go of v1.9 does: a changed template or ladder begins anew, a
smoke analysis passes, a verdict waits for `answer`. What a person does with `kubectl argo rollouts` is `by_hand`.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from tidegate.core.kube import ANALYSIS_RUN, POD, REPLICA_SET, ROLLOUT, Kind

if TYPE_CHECKING:
    from kube_api import KubeApi

Document = dict[str, Any]
CONTROLLER = "rollouts-controller"


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


class Argo:
    """One controller; `asleep` says that it does not look."""

    def __init__(self, api: KubeApi) -> None:
        self.api, self.asleep = api, False
        api.hooks.append(self._changed)

    def _changed(self, kind: Kind, document: Document) -> None:
        if kind == ROLLOUT and document.get("spec"):
            self.reconcile(document["metadata"]["name"])

    def reconcile(self, name: str) -> None:
        """Look at a Rollout until there is nothing left to do."""
        while not self.asleep:
            with self.api.lock:
                thing = self.api.read(ROLLOUT, name)
                if thing is None:
                    return
                before = json.dumps(thing, sort_keys=True)
                self._act(thing)
                if json.dumps(thing, sort_keys=True) == before:
                    return
                self.api.write(ROLLOUT, thing, manager=CONTROLLER)

    def by_hand(self, name: str = "demand", manager: str = "kubectl-argo-rollouts", **status: Any) -> None:
        """Patch the status as somebody else's tool does."""
        thing = self.api.read(ROLLOUT, name)
        assert thing is not None
        thing["status"] |= status
        self.api.write(ROLLOUT, thing, manager=manager)
        self.reconcile(name)

    def set_image(self, image: str, name: str = "demand", manager: str = "kubectl") -> None:
        """Ask for another revision past tidegate."""
        thing = self.api.read(ROLLOUT, name)
        assert thing is not None
        thing["spec"]["template"]["spec"]["containers"][0]["image"] = image
        thing["metadata"]["generation"] += 1
        self.api.write(ROLLOUT, thing, manager=manager)
        self.reconcile(name)

    def answer(self, decision: str, reason: str = "because", *, phase: str = "", name: str = "demand") -> None:
        """Let the running analysis end: with a verdict of the judge, or in the `phase` Error or Inconclusive."""
        thing = self.api.read(ROLLOUT, name)
        assert thing is not None
        run = self.api.read(ANALYSIS_RUN, self._run_name(thing))
        assert run is not None
        ended = phase or {"promote": "Successful", "rollback": "Failed"}[decision]
        value = json.dumps({"decision": decision, "reason": reason}) if decision else ""
        measured = [{"phase": ended, "value": value, "message": "" if decision else reason}]
        run["status"] = {"phase": ended, "metricResults": [{"name": "verdict", "measurements": measured}]}
        if not decision:
            run["status"]["message"] = reason
        self.api.write(ANALYSIS_RUN, run, manager=CONTROLLER)
        self.reconcile(name)

    def time_out(self, name: str = "demand") -> None:
        """The canary's pods do not get ready in time, and progressDeadlineAbort is set."""
        thing = self.api.read(ROLLOUT, name)
        assert thing is not None
        self._abort(thing, f'ReplicaSet "{name}-{thing["status"]["currentPodHash"]}" has timed out progressing.')
        self.api.write(ROLLOUT, thing, manager=CONTROLLER)

    def _act(self, thing: Document) -> None:
        status = thing.setdefault("status", {})
        steps = thing["spec"]["strategy"]["canary"].get("steps") or []
        current, ladder = digest(thing["spec"]["template"]), digest(steps)
        if (status.get("currentPodHash"), status.get("currentStepHash")) != (current, ladder):
            for key in ("abort", "abortedAt", "promoteFull", "pauseConditions", "controllerPause", "conditions"):
                status.pop(key, None)
            stable = status.get("stableRS") == current
            status |= {"currentPodHash": current, "currentStepHash": ladder, "currentStepIndex": len(steps) * stable}
            self._pods(thing)
        status["observedGeneration"] = str(thing["metadata"]["generation"])
        if not status.get("stableRS"):
            status |= {"stableRS": current, "currentStepIndex": len(steps)}
        if status.get("promoteFull"):
            status |= {"stableRS": current, "currentStepIndex": len(steps)}
            status.pop("promoteFull")
            status.pop("abort", None)
        elif status.get("abort"):
            if not status.get("abortedAt"):
                self._abort(thing, "")
            return
        if status["currentStepIndex"] == len(steps):
            status |= {"stableRS": current, "phase": "Healthy", "message": ""}
            self._pods(thing)
            return
        if status.get("pauseConditions"):
            status |= {"phase": "Paused", "message": status["pauseConditions"][0]["reason"]}
            return
        status |= {"phase": "Progressing", "message": "more replicas need to be updated"}
        step = steps[status["currentStepIndex"]]
        verdict = "analysis" in step and step["analysis"]["templates"][0]["templateName"] == "tidegate-verdict"
        if not verdict or self._passed(thing):
            status["currentStepIndex"] += 1

    def _passed(self, thing: Document) -> bool:
        """Start the analysis of a step, or act on how it ended."""
        status = thing["status"]
        name = self._run_name(thing)
        run = self.api.read(ANALYSIS_RUN, name)
        status["canary"] = {"currentStepAnalysisRunStatus": {"name": name, "status": "Running"}}
        if run is None:
            step = thing["spec"]["strategy"]["canary"]["steps"][status["currentStepIndex"]]
            labels = {
                "rollouts-pod-template-hash": status["currentPodHash"],
                "rollout-type": "Step",
                "step-index": str(status["currentStepIndex"]),
            }
            spec = {"args": step["analysis"]["args"]}
            self.api.write(ANALYSIS_RUN, {"metadata": {"name": name, "labels": labels}, "spec": spec})
            return False
        phase = run.get("status", {}).get("phase", "")
        if phase in {"Failed", "Error"}:
            message = run["status"].get("message") or 'Metric "verdict" assessed Failed due to failed (1)'
            self._abort(thing, f"Step-based analysis phase error/failed: {message}")
        if phase == "Inconclusive":
            status |= {"pauseConditions": [{"reason": "InconclusiveAnalysisRun"}], "controllerPause": True}
        return bool(phase == "Successful")

    def _run_name(self, thing: Document) -> str:
        status = thing["status"]
        told = f"{status['currentPodHash']}-{status['currentStepHash']}-{status['currentStepIndex']}"
        return f"{thing['metadata']['name']}-{told}"

    def _abort(self, thing: Document, because: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        message = "Rollout aborted update to revision 2" + (f": {because}" if because else "")
        told = {"type": "Progressing", "status": "False", "reason": "RolloutAborted", "message": message}
        thing["status"] |= {"abort": True, "abortedAt": now, "currentStepIndex": 0, "conditions": [told]}
        thing["status"] |= {"phase": "Degraded", "message": f"RolloutAborted: {message}"}

    def _pods(self, thing: Document) -> None:
        """The ReplicaSet of the revision, and its pods."""
        name, status, template = thing["metadata"]["name"], thing["status"], thing["spec"]["template"]
        labels = {**template["metadata"].get("labels", {}), "rollouts-pod-template-hash": status["currentPodHash"]}
        full = f"{name}-{status['currentPodHash']}"
        self.api.write(
            REPLICA_SET,
            {
                "metadata": {"name": full, "labels": labels},
                "spec": {"replicas": 1, "template": template},
                "status": {"readyReplicas": 1},
            },
        )
        self.api.write(POD, {"metadata": {"name": f"{full}-0", "labels": labels}, "status": {"phase": "Running"}})
        # Those of other revisions than these two go.
        kept = {status["currentPodHash"], status.get("stableRS")}
        if status.get("stableRS") == status["currentPodHash"]:
            for kind in (REPLICA_SET, POD):
                for one in self.api.all(kind):
                    if one["metadata"].get("labels", {}).get("rollouts-pod-template-hash") not in kept:
                        self.api._drop(kind, "default", one["metadata"]["name"])


def documents(release: str, plan: Any = None, *, image: str = "", version: int = 1) -> list[Document]:
    """What the chart of a model makes, as short as a driver can do with."""
    rollout = plan.rollout if plan is not None else ""
    weights = plan.steps if plan is not None else (5, 25, 50)
    args = [{"name": "id", "value": rollout}]
    notes = {"tidegate.dev/release": release, "tidegate.dev/version": str(version)}
    labels = {"app.kubernetes.io/name": "demand", "tidegate.dev/model": "demand"}
    steps: list[Document] = [
        {"setCanaryScale": {"replicas": 1}},
        {"analysis": {"templates": [{"templateName": "tidegate-smoke"}], "args": args}},
    ]
    for weight in weights:
        steps.append({"setWeight": weight})
        steps.append({"analysis": {"templates": [{"templateName": "tidegate-verdict"}], "args": args}})
    names = ("demand-canary", "demand-stable")
    back = [{"name": name, "port": 3000, "weight": share} for name, share in zip(names, (0, 100), strict=True)]
    containers = [{"name": "model", "image": image or f"ghcr.io/acme/demand@sha256:{release}"}]
    return [
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "demand", "labels": labels},
            "spec": {"rules": [{"backendRefs": back}]},
        },
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Rollout",
            "metadata": {"name": "demand", "labels": labels, "annotations": {**notes, "tidegate.dev/rollout": rollout}},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app.kubernetes.io/name": "demand"}},
                "strategy": {"canary": {"steps": steps}},
                "template": {"metadata": {"labels": labels, "annotations": notes}, "spec": {"containers": containers}},
            },
        },
    ]
