"""Cohorts on their way: users are kept when they are new, and their late metrics handed to the judge at one age.

Metrics of one source have one age. When the newest user of a block has it, and records have had time to settle, the
block's users are measured, in a thread of its own because files are read, and the result waits for the next block that
is closed. Each cohort is handed over once for each source, in the order of the blocks; what is not checkpointed is
measured again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from tidegate.core.errors import Temporary, TidegateError
from tidegate.core.store import Store, StoreError
from tidegate.rollouts.blocks import LABELLED, Block, Cohort, Exposed, Sums
from tidegate.rollouts.exposures import exposed_blocks, forget_exposures, read_exposures, write_exposures
from tidegate.rollouts.late_reading import Exposure
from tidegate.rollouts.plan import GoalPlan, RolloutPlan, Source, Stream

_AT_ONCE: Final = 200
"""Blocks of one look, after a night in which nobody looked."""

_RESTARTED: Final = "What became of the rollout's users is being read again after a restart."

Aside = Callable[[Callable[[], None]], None]


class Reading(Protocol):
    """Who knows what became of users: `late_reading.LateReading`."""

    def cohorts(
        self, metrics: Sequence[Stream | GoalPlan], exposed: Sequence[Exposure], settle: float
    ) -> tuple[Cohort, ...]:
        """The sums of metrics of one age."""

    def late_labels(self, since: float, until: float, age: float) -> int:
        """How many labels of the predictions of [since, until) came when those were older than `age`."""


def in_background(work: Callable[[], None]) -> None:
    """Do it beside everything else; a stack that ends waits for it, since DuckDB does not survive a cut-off thread."""
    threading.Thread(target=work, name="cohorts").start()


class Cohorts:
    """The cohorts of one rollout.

    Args:
        plan: of the rollout.
        store: keeps the exposures.
        reading: knows what became of users.
        aside: runs a look at the records; default: a thread.
        state: of a former `state()`.
        oldest: the oldest block that is not closed; younger exposures are forgotten.

    Attributes:
        late: labels that came too late to count, as far as anybody looked.
    """

    def __init__(
        self,
        plan: RolloutPlan,
        store: Store,
        reading: Reading,
        *,
        aside: Aside = in_background,
        state: Mapping[str, Any] | None = None,
        oldest: int = 0,
    ) -> None:
        self.plan, self._store, self._reading, self._aside = plan, store, reading, aside
        self._ages: dict[Source, tuple[Stream | GoalPlan, ...]] = {
            source: tuple(one for one in plan.late if one.source == source)
            for source in dict.fromkeys(one.source for one in plan.late)
        }
        known = state or {}
        self._next: dict[Source, int] = dict.fromkeys(self._ages, 0) | dict(known.get("next", {}))
        self.late, self._fresh_late = int(known.get("late", 0)), 0
        forget_exposures(store, plan.rollout, oldest)
        self._kept = exposed_blocks(store, plan.rollout)
        self._ready: list[Cohort] = []
        self._looking, self._lock = threading.Event(), threading.Lock()
        # Whatever held the rollout before a restart may still be so: nothing is promoted until somebody has looked.
        self._trouble: TidegateError | None = Temporary(_RESTARTED) if state is not None and self._ages else None
        self._again = 0.0

    @property
    def trouble(self) -> TidegateError | None:
        """Why the newest look failed: until one succeeds, nothing may be promoted."""
        return self._trouble

    def keep(self, users: Iterable[Exposed], blocks: Iterable[Block], until: Callable[[int, int], float]) -> None:
        """Keep the users of blocks that were closed and judged; those without a control arm are nobody's cohort."""
        judged = {(block.index, block.weight) for block in blocks if block.metrics}
        kept = [Exposure(one, until(one.index, one.weight)) for one in users if (one.index, one.weight) in judged]
        self._kept += write_exposures(self._store, self.plan.rollout, kept)

    def look(self, start: float, now: float) -> None:
        """Measure what has become old enough, unless a look is going on; both in seconds since the epoch.

        What failed is tried again a block later.
        """
        if self._looking.is_set() or (self._trouble is not None and now < self._again):
            return
        self._again = now + self.plan.block_seconds
        self._kept = [index for index in self._kept if index >= min(self._next.values())]
        due = {source: blocks for source in self._ages if (blocks := self._due(source, start, now))}
        if due:
            self._looking.set()
            self._aside(lambda: self._measure_all(due, start))
        else:
            self._trouble = None

    def _due(self, source: Source, start: float, now: float) -> list[int]:
        """The blocks whose users are all old enough, and have not been measured."""
        age = max(one.delay for one in self._ages[source])
        ended = int((now - start - age - self.plan.settle) // self.plan.block_seconds)
        return [index for index in self._kept if self._next[source] <= index < ended][:_AT_ONCE]

    def take(self, blocks: Sequence[Block]) -> tuple[Block, ...]:
        """Hand over what was measured, with the last of these blocks."""
        if not blocks:
            return ()
        with self._lock:
            ready, self._ready = self._ready, []
            self.late, self._fresh_late = self.late + self._fresh_late, 0
        *before, last = blocks
        return (*before, last + Block(last.index, last.weight, matured=tuple(ready))) if ready else tuple(blocks)

    def state(self) -> dict[str, Any]:
        """JSON; write it together with what `take` gave and the judge has counted."""
        with self._lock:
            return {"next": self._handed(), "late": self.late}

    def _handed(self) -> dict[Source, int]:
        """What was not handed over yet is measured again after a kill."""
        handed = dict(self._next)
        for cohort in self._ready:
            for source, metrics in self._ages.items():
                if any(one.metric in cohort.metrics for one in metrics):
                    handed[source] = min(handed[source], cohort.index)
        return handed

    def _measure_all(self, due: Mapping[Source, list[int]], start: float) -> None:
        try:
            for source, blocks in due.items():
                self._measure(source, blocks, start)
            self._trouble = None
        except (OSError, StoreError) as error:
            self._trouble = Temporary(f"What became of the rollout's users cannot be read now: {error}")
        except TidegateError as error:
            self._trouble = error
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the stack, nor pass for an answer
            self._trouble = TidegateError(
                f"What became of the rollout's users cannot be read: {type(error).__name__}: {error}.",
                "`tidegate doctor` checks the store; `tidegate rollout abort` ends the rollout.",
            )
        finally:
            self._looking.clear()

    def _measure(self, source: Source, blocks: list[int], start: float) -> None:
        metrics = self._ages[source]
        users = [one for index in blocks for one in read_exposures(self._store, self.plan.rollout, index)]
        # Whoever was erased is in no cohort any more, and may have been the only one of these blocks.
        found = self._reading.cohorts(metrics, users, self.plan.settle) if users else ()
        if source != "labels" and "labels" in self._ages:
            # Whose truth is known is counted once, whoever needs it.
            found = tuple(replace(one, metrics=_without_labelled(one)) for one in found)
        late = self._late_labels(metrics, blocks, start) if source == "labels" else 0
        with self._lock:
            self._fresh_late += late
            self._ready += found
            self._next[source] = blocks[-1] + 1

    def _late_labels(self, metrics: tuple[Stream | GoalPlan, ...], due: list[int], start: float) -> int:
        """Labels that came too late for blocks which are twice as old now: what comes later still is not counted."""
        age, block = max(one.delay for one in metrics), self.plan.block_seconds
        back = int(age // block) + 1
        since, until = max(due[0] - back, 0), max(due[-1] + 1 - back, 0)
        return self._reading.late_labels(start + since * block, start + until * block, age) if until > since else 0


def _without_labelled(cohort: Cohort) -> dict[str, Sums]:
    return {name: sums for name, sums in cohort.metrics.items() if name != LABELLED}
