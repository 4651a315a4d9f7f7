"""What the console knows: one place that reads the ledger, the store and the running stack, for pages, API and metrics.

Requests are answered in threads, so what is kept here between them is kept under a lock, and short.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tidegate.console.reports import Reports, Window
from tidegate.core import identifiers
from tidegate.core.errors import Conflict, TidegateError, UsageError
from tidegate.pipelines import control
from tidegate.registry.state import RolloutState, State
from tidegate.rollouts.checkpoint import checkpoint_path

if TYPE_CHECKING:
    from tidegate.pipelines.environment import Environment
    from tidegate.registry.ledger import Event
    from tidegate.rollouts.report import Report

_STACK_SECONDS: Final = 1.0
"""How long an answer of `up` serves all who ask."""
_STACK_PATIENCE: Final = 2.0
_LABELS_SECONDS: Final = 60.0
_LABELS_SPAN: Final = timedelta(days=30)
_PATIENCE: Final = 10
_LONGEST_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class _Judged:
    """A report, what it is of, and until when it may be shown although there are new blocks."""

    decided: str
    seen: str
    report: Report
    good_until: float

    def serves(self, decided: str, seen: str) -> bool:
        """Whether it may be shown for what there is now."""
        return self.decided == decided and (self.seen == seen or time.monotonic() < self.good_until)


class Known:
    """Everything of one environment that is shown.

    Args:
        environment: whose console it is.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.reports = Reports(environment.store, environment.stream)
        self._asking, self._judging = threading.Lock(), threading.Lock()
        self._stack: tuple[float, dict[str, Any] | None] = (0.0, None)
        self._judged: _Judged | None = None
        self._joining = threading.Lock()
        self._labels: tuple[float, dict[str, Any]] = (0.0, {})

    @property
    def state(self) -> State:
        """What the ledger says is true now."""
        return self.environment.state()

    @property
    def events(self) -> Sequence[Event]:
        """Every event so far, oldest first."""
        return self.environment.ledger.events()

    def windows(self, most: int) -> list[Window]:
        """The newest windows with their reports, oldest first."""
        return self.reports.newest(self.state.windows, most)

    def window(self, name: str) -> Window:
        """One window by the name of its folder.

        Raises:
            UsageError: nobody looked at such a window, or it is too long ago.
        """
        found = next((one for one in self.windows(len(self.state.windows)) if one.id == name), None)
        if found is None:
            raise UsageError(f"There is no window {name}.", "The drift page lists those that are kept.")
        return found

    def rollout(self, typed: str) -> RolloutState:
        """The rollout with this id, or the one that begins like that.

        Raises:
            UsageError: there is none, or there are several.
        """
        rollouts = {one.id: one for one in self.state.rollouts}
        whole = identifiers.whole(typed, rollouts, identifiers.ROLLOUT)
        if whole is None:
            raise UsageError(f"There is no rollout {typed}.", "`tidegate rollout history` lists them.")
        return rollouts[whole]

    def stack(self) -> dict[str, Any] | None:
        """The document of `ps`; None while `up` does not run, or does not answer."""
        with self._asking:
            at, document = self._stack
            if at and time.monotonic() - at < _STACK_SECONDS:
                return document
            project, document = self.environment.project, None
            with suppress(TidegateError):
                document = control.ask(control.socket_path(project.root, project.env), "ps", _STACK_PATIENCE)
            self._stack = time.monotonic(), document
            return document

    def report(self, rollout: str) -> Report:
        """All that is known of a rollout, judged once more when something is new.

        Judging a thousand blocks takes seconds, so while no decision was taken an answer stays good for ten times as
        long as it took: an open page costs a tenth of a processor at most.

        Raises:
            TidegateError: its plan or its blocks cannot be read.
        """
        from tidegate.rollouts.report import report

        environment = self.environment
        decided, seen = f"{rollout} {self.state.length}", self._rollout_version(rollout)
        with self._judging:
            kept, began = self._judged, time.monotonic()
            if kept is None or not kept.serves(decided, seen):
                model, status = environment.project.config.model, environment.driver.status(rollout)
                made = report(model, status, environment.ledger.events(), environment.store)
                took = time.monotonic() - began
                kept = self._judged = _Judged(decided, seen, made, began + (1 + _PATIENCE) * took)
            return kept.report

    def labels(self) -> dict[str, Any]:
        """The document of `labels status` of the last 30 days, at most a minute old: it joins all predictions."""
        from tidegate.pipelines.labels import status, status_document

        with self._joining:
            at, document = self._labels
            if not at or time.monotonic() - at > _LABELS_SECONDS:
                maturity = self.environment.project.config.monitor.labels.maturity
                document = status_document(status(self.environment, datetime.now(UTC) - _LABELS_SPAN), maturity)
                self._labels = time.monotonic(), document
            return document

    def version(self) -> str:
        """Changes when a page may show something new; cheap, since open pages ask every other second."""
        rollout, stack = self.state.rollout, self.stack()
        seen = self._shown_version(rollout.id) if rollout else ""
        processes = [(one["name"], one["pid"], one["ready"]) for one in stack["processes"]] if stack else None
        return _digest(f"{self.state.length} {seen} {processes}".encode())

    def act(
        self,
        action: str,
        rollout: str,
        reason: str,
        actor: str,
        *,
        step: int | None = None,
        shadowing: bool | None = None,
    ) -> dict[str, Any]:
        """Promote or abort, and return the rollout's document.

        Args:
            action: promote (this step), full (to 100 %) or abort.
            rollout: its id.
            reason: kept in the ledger.
            actor: who decides.
            step: the step that the person saw; None: whichever it is in now.
            shadowing: whether they saw it in its shadow phase.

        Raises:
            UsageError: there is no such rollout, or no reason.
            Conflict: it is over, or left the step; says what happened.
        """
        found, reason = self.rollout(rollout), reason.strip()
        if not reason:
            raise UsageError("A reason is missing.", "Others read it in the ledger: say why.")
        if len(reason) > _LONGEST_REASON:
            raise UsageError(f"The reason is longer than {_LONGEST_REASON} characters.", "The ledger keeps a sentence.")
        if step is not None and not 0 <= step < len(found.steps):
            raise Conflict(f"Rollout {found.id} has no step {step}.", f"Its steps are 0 to {len(found.steps) - 1}.")
        seen = replace(
            found,
            step=found.step if step is None else step,
            shadowing=found.shadowing if shadowing is None else shadowing,
        )
        driver = self.environment.driver
        if action == "abort":
            driver.abort(reason, actor, seen)
        else:
            driver.promote(full=action == "full", reason=reason, actor=actor, seen=seen)
        return driver.status(found.id)

    def _shown_version(self, rollout: str) -> str:
        """Of the report that a page would get now."""
        seen, kept = self._rollout_version(rollout), self._judged
        return kept.seen if kept is not None and kept.serves(f"{rollout} {self.state.length}", seen) else seen

    def _rollout_version(self, rollout: str) -> str:
        try:
            checkpoint = _digest(self.environment.store.read(checkpoint_path(rollout)))
        except FileNotFoundError:
            checkpoint = ""
        return checkpoint


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
