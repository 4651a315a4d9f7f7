"""Who executes a flow: one file for each place it can run.

In this process a flow is walked (dag.walk); a Runner gives it to somebody else, who goes on when this process ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from tidegate.core.errors import TidegateError

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.pipelines.dag import Flow, References

_ENDED: Final = frozenset({"Succeeded", "Failed", "Error"})


class LeftRunning(KeyboardInterrupt):
    """Ctrl-C while somebody followed `workflow`, which goes on by itself."""

    def __init__(self, workflow: str) -> None:
        super().__init__(workflow)
        self.workflow = workflow


@dataclass(frozen=True, slots=True)
class StepState:
    """One step of a Workflow: `phase` is Argo's word, `given` what it left, `pod` where its logs are."""

    name: str
    phase: str
    given: References
    message: str = ""
    pod: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """A Workflow as the cluster last showed it; `phase` is Argo's word, empty before its controller saw it."""

    name: str
    uid: str
    flow: str
    phase: str
    steps: tuple[StepState, ...]
    created_at: str = ""
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.phase in _ENDED

    @property
    def given(self) -> dict[str, str]:
        """Every reference that its steps left."""
        return {name: value for step in self.steps for name, value in step.given.items() if value}

    def to_json(self) -> dict[str, Any]:
        """One Workflow of `tidegate workflow list`."""
        steps = [{"name": one.name, "phase": one.phase, "message": one.message} for one in self.steps]
        return {"name": self.name, "flow": self.flow, "phase": self.phase or "Pending", "steps": steps}


class Runner(Protocol):
    """Flows that run elsewhere."""

    def start(self, flow: Flow, given: References, revision: str) -> Running:
        """Begin a flow on a commit, or find it: the same inputs are one run, however often they are asked for."""

    def find(self, name: str) -> Running:
        """A run of this model."""

    def all(self) -> list[Running]:
        """Every run of this model that is still known, oldest first."""

    def follow(self, name: str, progress: Progress, timeout: float = 86_400.0) -> Running:
        """Follow a run until it ends or `timeout` seconds have passed; it goes on afterwards."""

    def cancel(self, name: str, reason: str) -> Running:
        """Stop a run, and say in the ledger who did."""


def require_done(running: Running) -> References:
    """What a Workflow gave, if it came to its end.

    Raises:
        TidegateError: it failed; names the steps that did.
    """
    if running.phase == "Succeeded":
        return running.given
    failed = [one for one in running.steps if one.phase in {"Failed", "Error"}]
    why = "\n".join(f"  - {one.name}: {one.message or one.phase}" for one in failed) or f"  - {running.message}"
    raise TidegateError(
        f"Workflow {running.name} {running.phase.lower() or 'did not begin'}:\n{why}",
        f"`tidegate workflow logs {running.name}` shows what its pods printed.",
    )
