"""How a flow in a cluster ended, in the ledger: written by the Workflow's exit hook, and by whoever cancels one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from tidegate.pipelines.dag import RETRAIN, References
from tidegate.registry.ledger import Draft, Event

if TYPE_CHECKING:
    from tidegate.pipelines.environment import Environment

Outcome = Literal["failed", "was cancelled"]

_SUCCEEDED: Final = "Succeeded"
# What Argo writes into the message of a step that `spec.shutdown` ended.
_SHUTDOWN: Final = "shutdown"
_MOST_REASONS: Final = 5


def record(environment: Environment, flow: str, said: References) -> None:
    """Write what the exit hook was told: `workflow`, `uid`, `status` and `failures`, as Argo fills them in.

    A flow that succeeded has written its own events, so it leaves none here.
    """
    if said["status"] == _SUCCEEDED:
        return
    failures = _failures(said.get("failures", ""))
    reasons = [f"{one.get('displayName', '?')}: {one.get('message', 'no message')}" for one in failures]
    cancelled = any(_SHUTDOWN in str(one.get("message", "")) for one in failures)
    outcome: Outcome = "was cancelled" if cancelled else "failed"
    write(environment, (flow, said["workflow"], said["uid"]), outcome, reasons[:_MOST_REASONS])


def write(environment: Environment, which: tuple[str, str, str], outcome: Outcome, reasons: Sequence[str]) -> None:
    """Write that a flow ended without a result, once, and end the retrain that it was.

    Args:
        environment: whose ledger.
        which: the flow, the Workflow's name and its uid.
        outcome: failed, or cancelled by a person.
        reasons: in sentences.
    """
    flow, workflow, uid = which
    data: dict[str, Any] = {"flow": flow, "workflow": workflow, "uid": uid, "outcome": outcome}

    def once(past: Sequence[Event]) -> Draft | None:
        if any(one.kind == "flow_ended" and one.data["uid"] == uid for one in past):
            return None
        return Draft("flow_ended", {**data, "reasons": list(reasons)})

    environment.ledger.append(once)
    begun = environment.state().open_retrain
    if flow == RETRAIN.name and begun is not None:
        from tidegate.core.progress import Silent
        from tidegate.pipelines import retrain

        ended = retrain.Ended("failed", (f"the Workflow {workflow} {outcome}", *reasons))
        retrain.end(environment, begun, ended, Silent())


def _failures(text: str) -> list[dict[str, Any]]:
    """Argo's list of failed nodes; it comes as JSON, or as JSON within a JSON string."""
    try:
        found = json.loads(text)
        found = json.loads(found) if isinstance(found, str) else found
    except ValueError:
        return [{"displayName": "workflow", "message": text}] if text else []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
