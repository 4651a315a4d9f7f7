"""The laptop's control loop of one rollout: gateway log in, ledger events out.

Everything it knows is in its checkpoint, written when a block closes: the place in the log, the open sums, the users
seen, the judge's state. Killed at any point, it reads the same lines again and comes to the same decision; an event
that was already written is not written twice, because it is decided on the ledger's state.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tidegate.core.errors import Temporary, TidegateError, UsageError
from tidegate.core.store import Store
from tidegate.registry.ledger import Ledger
from tidegate.registry.state import RolloutState
from tidegate.rollouts.block_files import forget_from
from tidegate.rollouts.blocks import Block, BlockBuilder, Exposure
from tidegate.rollouts.checkpoint import checkpoint_path, read_checkpoint
from tidegate.rollouts.cohorts import Aside, Cohorts, Reading, in_background
from tidegate.rollouts.copies import Copies
from tidegate.rollouts.failing import CLIENT_LEFT, Failing
from tidegate.rollouts.health import CanaryWatch, Health
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.judging import decide_on, judge_all, keep_blocks
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.verdict import Verdict
from tidegate.serving.gateway.access_log import AccessLogReader, AccessRecord, LogPosition

# A line is written when its request ends: the service's timeout, the gateway's flush, and some air.
_LATE = 1.5
_MOST_LATE = 2
# Status for what has none: half an answer began with 200.
_NO_ANSWER = 500

Clock = Callable[[], float]


class RolloutLoop:
    """Follows one rollout until the ledger says that it is over.

    Args:
        rollout: as the ledger has it now.
        ledger: gets the decisions.
        store: keeps the checkpoint and the blocks.
        log: the gateway's access log.
        pairs: the folder in which a shadow phase leaves its pairs.
        reading: knows what became of users, for metrics that are known late.
        clock: seconds since the epoch.
        aside: runs what reads records, beside everything else.
    """

    def __init__(
        self,
        rollout: RolloutState,
        ledger: Ledger,
        store: Store,
        log: Path,
        *,
        pairs: Path,
        reading: Reading,
        clock: Clock = time.time,
        aside: Aside = in_background,
    ) -> None:
        self.id, self._canary = rollout.id, rollout.canary
        self._folder = pairs
        self.plan = RolloutPlan.from_dict(rollout.plan)
        self._ledger, self._store, self._clock = ledger, store, clock
        self._reading, self._aside = reading, aside
        self._name = hashing(store)
        self._watch, self._failing = CanaryWatch(clock()), Failing(self.plan.block_seconds, name=self._name)
        self._condemned = False
        self._told = ""
        self._stable_ready = True
        self._weight = 0
        self._awake = clock()
        document = read_checkpoint(store, rollout.id)
        # A verdict that was reached before a kill may still wait for its event.
        self._undecided = document is not None
        if document is None:
            self._builder: BlockBuilder | None = None
            self._judge = Judge(self.plan)
            self._reader = AccessLogReader(log, end_of(log))
            self._copies = Copies(self.plan, pairs)
            self._cohorts = self._new_cohorts()
            self._write_checkpoint()
        else:
            try:
                self._restore(document, log)
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(
                    f"The checkpoint of rollout {self.id} cannot be read: {type(error).__name__}: {error}.",
                    "Another version of tidegate wrote it: `tidegate rollout abort`, then start it again.",
                ) from error

    @property
    def position(self) -> LogPosition:
        """Where the log must still be kept from."""
        return self._saved

    def lost(self, release: str) -> bool:
        """Whether this is the canary and it has served before: when it is gone, it is not started again."""
        return release == self._canary and self._watch.was_ready

    @property
    def condemned(self) -> bool:
        """Whether the judge's verdict is to roll back: no more users for the canary, even if it cannot be written."""
        return self._condemned

    def applied(self, weight: int) -> None:
        """Say that the gateway routes by `weight` from now on (whole per cent on the canary)."""
        if weight in {0, self._weight}:
            return
        now = self._clock()
        if self._builder is None:
            self._builder = BlockBuilder(self.plan, now, weight, name=self._name_late)
        else:
            self._builder.set_weight(weight, now)
        self._weight = weight
        self._write_checkpoint()

    def tick(self, rollout: RolloutState, health: Health) -> list[str]:
        """Read what is new, judge every block that has ended, decide; returns lines for a person."""
        now, before = self._clock(), self._awake
        self._awake = now
        gone = self._watch.why_stop(health, now)
        if gone:
            return self._stop(rollout, gone)
        if rollout.shadowing:
            return self._follow_copies(rollout, health)
        if self._builder is None:
            return []
        self._stable_ready = self._stable_ready and health.stable_ready
        self._builder.absent(before, now)
        self._builder.add(self._exposures())
        dead = self._failing.why_stop(stable_ready=health.stable_ready)
        if dead:
            return self._stop(rollout, dead)
        closed = self._builder.close(now - self._late, ready=True)
        if self._cohorts is not None:
            self._cohorts.look(self._builder.start, now)
            closed = self._cohorts.take(closed)
        if not closed and not self._undecided:
            return []
        return self._judge_blocks(closed, rollout, health)

    def _judge_blocks(self, blocks: tuple[Block, ...], rollout: RolloutState, health: Health) -> list[str]:
        self._undecided = False
        verdict, kept = judge_all(self._judge, blocks, stable_ready=self._stable_ready)
        self._condemned = verdict.decision == "rollback"
        if blocks:
            self._stable_ready = health.stable_ready
            keep_blocks(self._store, self.plan, self.id, kept)
            if self._cohorts is not None and self._builder is not None:
                self._cohorts.keep(self._builder.drain(), kept, self._builder.end_of)
            self._write_checkpoint(verdict)
        if verdict.next_weight and not health.canary_ready:
            # Nobody more is sent to a process that does not answer now, whatever it did before.
            self._undecided = True
            return []
        trouble = self._cohorts.trouble if self._cohorts is not None else None
        if trouble is not None and verdict.decision != "rollback":
            return self._hold_for(trouble, verdict)
        return self._act(verdict, rollout.keep)

    def _hold_for(self, trouble: TidegateError, verdict: Verdict) -> list[str]:
        """While a metric cannot be measured nothing is promoted; where trying again cannot help, a person is asked."""
        if isinstance(trouble, Temporary):
            told, self._told = self._told, trouble.message
            return [] if told == trouble.message else [f"Rollout {self.id}: {trouble.message} Trying again."]
        reasons = [trouble.message, trouble.hint] if trouble.hint else [trouble.message]
        return self._write("held", verdict.step, {"reasons": reasons, "units": verdict.units})

    @property
    def _name_late(self) -> Callable[[str], int] | None:
        """How users are kept for what is known late; None where everything is known at once."""
        return self._name if self.plan.late else None

    @property
    def _late(self) -> float:
        return min(_LATE, _MOST_LATE * self.plan.block_seconds)

    def _stop(self, rollout: RolloutState, reason: str) -> list[str]:
        self._condemned = True
        data: dict[str, Any] = {"reasons": [reason], "units": self._judge.verdict().units}
        if rollout.shadowing:
            data["shadow"] = self._copies.numbers(self._clock())
        return self._write("rolled_back", rollout.step, data, shadowing=rollout.shadowing)

    def _follow_copies(self, rollout: RolloutState, health: Health) -> list[str]:
        """The phase before the first step: nobody meets the canary, so there is no block to judge."""
        now, copies = self._clock(), self._copies
        for _ in self._exposures():
            # Nobody is counted: only the place in the log moves on, so that old files may go.
            pass
        copies.read(now, health)
        if copies.due(now):
            self._write_checkpoint()
        ending = copies.ending(now, health, held=rollout.state == "held")
        if ending is None:
            return []
        if ending.kind == "rolled_back":
            return self._stop(rollout, ending.reason)
        data = {"reasons": [ending.reason], "units": self._judge.verdict().units, "shadow": copies.numbers(now)}
        return self._write(ending.kind, rollout.step, data, shadowing=True)

    def _exposures(self) -> Iterable[Exposure]:
        while records := self._reader.read():
            for record in records:
                if record.rollout == self.id and record.kind == "split" and record.weight and record.attempted:
                    self._follow_weight(record.weight, record.at)
                    seen = exposure(record)
                    self._failing.add(seen)
                    yield seen

    def _follow_weight(self, weight: int, at: float) -> None:
        """The log tells of a step that began while nobody was here to see it: the share only grows."""
        if self._builder is not None and weight > self._weight:
            self._builder.set_weight(weight, at)
            self._weight = weight

    def _act(self, verdict: Verdict, keep: float) -> list[str]:
        """Turn the verdict into the event that follows, if any."""
        data: dict[str, Any] = {"reasons": list(verdict.reasons), "units": verdict.units}
        last = verdict.step == len(self.plan.steps) - 1
        if verdict.decision == "continue":
            return []
        if verdict.decision == "rollback":
            return self._write("rolled_back", verdict.step, {**data, "verdict": verdict.to_dict()})
        if verdict.decision == "inconclusive" and verdict.next_weight is None:
            return self._write("held", verdict.step, data)
        if verdict.decision == "inconclusive" and verdict.next_weight == 0:
            return self._write("inconclusive", verdict.step, {**data, "verdict": verdict.to_dict()})
        if last:
            return self._write("promoted", verdict.step, {**data, "keep": keep, "verdict": verdict.to_dict()})
        return self._write("step_passed", verdict.step, {**data, "step": verdict.step + 1})

    def _write(self, kind: str, step: int, data: Mapping[str, Any], *, shadowing: bool = False) -> list[str]:
        """Append the event unless the rollout is over, moved on, or holds already."""
        if decide_on(self._ledger, self.id, kind, step, data, shadowing=shadowing) is None:
            return []
        because = "; ".join(str(reason) for reason in data.get("reasons", ()))
        return [f"Rollout {self.id}: {kind.replace('_', ' ')}. {because}"]

    def _write_checkpoint(self, verdict: Verdict | None = None) -> None:
        """Users first, then the state that counts on them."""
        builder = self._builder
        if builder is not None:
            before = builder.seen.count - len(fresh := builder.seen.drain()) // 8
            if fresh:
                self._store.write(f"rollouts/{self.id}/seen/{before:012d}.bin", fresh)
        position = self._reader.position
        document = {
            "position": [position.sequence, position.offset],
            "builder": builder.checkpoint() if builder else None,
            "judge": self._judge.state(),
            "weight": self._weight,
            "was_ready": self._watch.was_ready,
            "stable_ready": self._stable_ready,
            "failing": self._failing.state(),
            "cohorts": self._cohorts.state() if self._cohorts is not None else None,
            "verdict": (verdict or self._judge.verdict()).to_dict(),
            "shadow": self._copies.state(self._clock()) if self.plan.shadow_min and builder is None else None,
            "at": self._clock(),
        }
        self._store.write(checkpoint_path(self.id), json.dumps(document).encode())
        self._saved = position

    def _restore(self, document: Mapping[str, Any], log: Path) -> None:
        self._saved = LogPosition(*document["position"])
        self._reader = AccessLogReader(log, self._saved)
        self._judge = Judge(self.plan, document["judge"])
        self._weight = document["weight"]
        self._awake, self._stable_ready = document["at"], document["stable_ready"]
        self._watch = CanaryWatch(self._clock(), was_ready=document.get("was_ready", False))
        self._failing = Failing(self.plan.block_seconds, document.get("failing"), self._name)
        self._copies = Copies(self.plan, self._folder, document.get("shadow"))
        self._builder = None
        if document["builder"] is not None:
            seen = b"".join(self._store.read(path) for path in self._store.list(f"rollouts/{self.id}/seen"))
            self._builder = BlockBuilder.restore(self.plan, document["builder"], seen, self._name_late)
            forget_from(self._store, self.id, self._builder.oldest)
        self._cohorts = self._new_cohorts(document.get("cohorts"))

    def _new_cohorts(self, state: Mapping[str, Any] | None = None) -> Cohorts | None:
        """None where everything is known at once."""
        if not self.plan.late:
            return None
        oldest = self._builder.oldest if self._builder is not None else 0
        return Cohorts(self.plan, self._store, self._reading, aside=self._aside, state=state, oldest=oldest)


def hashing(store: Store) -> Callable[[str], int]:
    """How users are written down, as in the records of predictions."""
    from tidegate.serving.telemetry import salt_of, unit_hash

    salt = salt_of(store)
    return lambda unit: unit_hash(salt, unit)


def exposure(record: AccessRecord) -> Exposure:
    """The judge's view of one line of the gateway's log; `seconds` is the service's own time where it is known.

    What failed is what the log says, as in the baseline of the plan: half an answer did, a client that left did not.
    """
    seconds = record.upstream_seconds if record.upstream_seconds is not None else record.seconds
    answered = record.details == "via_upstream" or (record.attempted and not record.failed)
    return Exposure(
        at=record.at,
        unit=record.unit or "",
        arm=record.arm or "stable",
        status=max(record.status, _NO_ANSWER) if record.failed else record.status or CLIENT_LEFT,
        seconds=seconds if seconds is not None else float("inf"),
        forced=record.kind != "split",
        served_by=record.arm or "" if answered else "",
        invalid=record.invalid,
        prediction=record.prediction or "",
    )


def end_of(log: Path) -> LogPosition:
    """Behind everything that has been logged so far."""
    from tidegate.serving.gateway.access_log import rotated_sequences

    size = log.stat().st_size if log.exists() else 0
    return LogPosition(max(rotated_sequences(log), default=0) + 1, size)
