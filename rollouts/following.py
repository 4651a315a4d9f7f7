"""One rollout as the judge's service follows it: counts or log lines in, an answer for Argo Rollouts out.

The rules are `judge`'s, as on a laptop. Here is what a cluster adds: who asks says at which weight, an answer is given
at any time, and whatever contradicts the telemetry voids the verdict. What came is in the store before it is
acknowledged, and what follows from it before it is answered, so that a kill changes no verdict.

Three words are answered. `promote` passes the step that was asked for, on evidence of its own weight that is fresh;
`rollback` ends the rollout; `continue` is everything else, until `step.max`, and then what `on_inconclusive` says.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tidegate.core.errors import Conflict, UsageError
from tidegate.core.store import Store
from tidegate.core.units import format_duration
from tidegate.registry.ledger import Ledger
from tidegate.rollouts.block_files import forget_from, read_blocks
from tidegate.rollouts.blocks import DEAD, Block, BlockBuilder, Exposure
from tidegate.rollouts.checkpoint import checkpoint_path, read_checkpoint
from tidegate.rollouts.cohorts import Aside, Cohorts, Reading, in_background
from tidegate.rollouts.failing import Failing
from tidegate.rollouts.judge import Judge
from tidegate.rollouts.judging import decide_on, judge_all, keep_blocks
from tidegate.rollouts.loop import hashing
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.posted import NO_INTERVAL, Line, Posted
from tidegate.rollouts.verdict import MetricVerdict, Verdict

# Evidence that is older than so many blocks, and so many seconds, promotes nothing.
_STALE_BLOCKS, _STALE_SECONDS = 5, 120.0
# Seconds that a log line may take from the end of its request: the gateway's flush, and a collector's batch.
_LATE = 5.0
_MOST_LATE = 2
# Requests that the other arm answered: beyond this share the arms are not what they are called.
_MISROUTED = 0.01
# Log lines that wait for a weight; more are dropped, oldest first.
_WAITING = 200_000
# Characters of a reason: every answer is kept in the AnalysisRun's status.
_REASON = 400


@dataclass(frozen=True, slots=True)
class Asked:
    """What a measurement says: per cent on the canary, and for how many seconds that has been so at least."""

    weight: int
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered; the numbers are those of the metric that decides, or that is waited for."""

    decision: str
    reason: str
    log_e: float = 0.0
    n_stable: int = 0
    n_canary: int = 0
    ci_low: float | None = None
    ci_high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON, small: each one is stored in the cluster."""
        return {**asdict(self), "reason": self.reason[:_REASON]}


@dataclass
class _Notes:
    """What is remembered beside the evidence: when each weight was first asked for, and what makes it void."""

    asked: dict[str, float] = field(default_factory=dict)
    void: str = ""
    stopped: str = ""
    strangers: dict[str, float] = field(default_factory=dict)
    canary: str = ""
    attempts: float = 0.0
    misrouted: int = 0


class Following:
    """The running judgement of one rollout on a cluster.

    Args:
        key: the rollout's id, or what stands for it where there is no ledger; a name of a folder.
        plan: of the rollout.
        store: keeps everything.
        stream: of the model and environment; empty without a ledger.
        ledger: gets the steps that pass; None without one.
        reading: knows what became of users, for log lines and metrics that are known late.
        clock: seconds since the epoch.
        aside: runs what reads records, beside everything else.
    """

    def __init__(
        self,
        key: str,
        plan: RolloutPlan,
        store: Store,
        *,
        stream: str = "",
        ledger: Ledger | None = None,
        reading: Reading | None = None,
        clock: Callable[[], float] = time.time,
        aside: Aside = in_background,
    ) -> None:
        self.key, self.plan, self.stream = key, plan, stream
        self._store, self._ledger, self._reading, self._clock, self._aside = store, ledger, reading, clock, aside
        self._lock = threading.RLock()
        self._name = hashing(store) if plan.late and reading is not None else None
        self._since = self._confirmed = self._awake = clock()
        self._heard = 0.0
        self._written: list[Block] = []
        self._waiting: list[Exposure] = []
        self._builder: BlockBuilder | None = None
        self._numbers = {"posted": 0, "log": 0}
        self._told: set[str] = set()
        document = read_checkpoint(store, key)
        if document is None:
            self._notes, self._judge, self._posted = _Notes(), Judge(plan), Posted(plan)
            self._failing, self._cohorts, self._weight = Failing(plan.block_seconds), self._new_cohorts(), 0
            self._verdict = self._judge.verdict()
            self._save()
        else:
            self._restore(document)
        self._read_on()

    @property
    def verdict(self) -> Verdict:
        """The judge's own verdict on what it has seen."""
        return self._verdict

    def pair(self, canary: str) -> bool:
        """Whether this is the canary that was seen first: another one under the same key is a stranger."""
        with self._lock:
            if not self._notes.canary:
                self._notes.canary = canary
                self._save()
            return self._notes.canary == canary

    def post(self, lines: Sequence[Line]) -> int:
        """Take counts, and say how many of the lines were new; all of them, or none.

        Raises:
            UsageError: a line cannot be.
            Conflict: a line contradicts what was sent before, comes too late, or the log is counted already.
        """
        with self._lock:
            if self._builder is not None:
                raise Conflict(
                    "This rollout is judged by the gateway's log already.",
                    "Counted twice, users would be worth twice: send either the log or blocks.",
                )
            fresh = self._posted.fresh(lines)
            if fresh:
                now = self._clock()
                self._journal("posted", {"at": now, "lines": fresh})
                self._posted.take(fresh, now)
                self._heard = now
                self._look(now)
            return len(fresh)

    def see(self, exposures: Sequence[Exposure]) -> None:
        """Take lines of the gateway's log. Their weight is known when somebody asks the next time."""
        with self._lock:
            # Those who send counts have counted these too.
            if exposures and self._posted.empty and not self._notes.stopped:
                self._journal("log", {"at": self._clock(), "exposures": [_row(one) for one in exposures]})
                self._take(exposures)

    def beat(self) -> None:
        """Let time pass; to be called every second or so. Who was not called, was away: nobody watched."""
        with self._lock:
            now, before = self._clock(), self._awake
            self._awake = now
            if self._builder is not None:
                self._builder.absent(before, now)
            elif not self._posted.empty:
                self._look(now)

    def ask(self, asked: Asked) -> Answer:
        """What follows, for who asks in a step of the rollout."""
        with self._lock:
            now = self._clock()
            self._note(asked, now)
            self._look(now)
            answer = self._answer(asked, now)
            self._write(answer)
            return answer

    def guard(self) -> Answer:
        """Whether the canary must go at once."""
        with self._lock:
            self._look(self._clock())
            if self._stop_reason() or (self._verdict.decision == "rollback" and not self._notes.void):
                return self._rollback()
            return self._say("continue", "Nothing says that the canary must go at once.")

    def stranger(self, canary: str) -> Answer:
        """The answer for another canary than the one that this rollout is of: nothing is known of it."""
        with self._lock:
            now = self._clock()
            if canary not in self._notes.strangers:
                self._notes.strangers[canary] = now
                self._save()
            reason = f"Rollout {self.key} is of the canary {self._notes.canary}; another one was deployed meanwhile."
            return self._undecided(reason, self._notes.strangers[canary], self.plan.step_max[0], now)

    # What comes in.

    def _take(self, exposures: Sequence[Exposure]) -> None:
        for one in exposures:
            # The other arm's answers say nothing about this one; many of them void the verdict.
            if one.served_by in {"", one.arm}:
                self._failing.add(one)
        self._heard = max([self._heard, *(one.at for one in exposures if one.arm == "canary")])
        self._waiting = [*self._waiting, *exposures][-_WAITING:]

    def _note(self, asked: Asked, now: float) -> None:
        """Remember since when this weight is asked for; the log's lines until now get their weight by it."""
        before, self._confirmed = self._confirmed, now
        self._first(asked, now)
        if asked.weight not in self.plan.steps or not self._posted.empty:
            return
        if self._builder is None and self._waiting:
            began = max(self._notes.asked[str(asked.weight)] - asked.delay, self._since)
            self._builder = BlockBuilder(self.plan, began, asked.weight, name=self._name)
            self._weight = asked.weight
        elif self._builder is not None and asked.weight > self._weight:
            # In between the gateway may have had either weight.
            began = max(now - asked.delay, before)
            self._waiting = [one for one in self._waiting if one.at <= before or one.at >= began]
            self._builder.set_weight(asked.weight, began)
            self._weight = asked.weight
        if self._builder is not None:
            self._builder.add(self._waiting)
            self._waiting = []

    def _first(self, asked: Asked, now: float) -> None:
        if str(asked.weight) not in self._notes.asked:
            self._notes.asked[str(asked.weight)] = now
            self._save()

    def _look(self, now: float) -> None:
        """Judge what is complete."""
        blocks: Sequence[Block]
        if self._builder is None:
            blocks = self._posted.due(now)
        else:
            late = min(_LATE, _MOST_LATE * self.plan.block_seconds)
            blocks = self._builder.close(min(now - late, self._confirmed))
            if self._cohorts is not None:
                self._cohorts.look(self._builder.start, now)
                blocks = self._cohorts.take(blocks)
        if not blocks:
            return
        try:
            self._verdict, kept = judge_all(self._judge, blocks)
        except UsageError as error:
            self._notes.void = self._notes.void or error.message
            kept = []
        notes = self._notes
        notes.attempts += sum(one.attempts.n1 + one.attempts.n0 for one in blocks)
        notes.misrouted += sum(one.misrouted for one in blocks)
        if not notes.void and notes.misrouted >= DEAD and notes.misrouted > _MISROUTED * notes.attempts:
            notes.void = f"{notes.misrouted} requests were answered by the other arm: the arms are not what they say."
        self._keep(kept)
        self._save()

    def _keep(self, kept: list[Block]) -> None:
        if self._written and kept and self._written[0].index == kept[0].index:
            # The later weight of an interval that a change of weight cut in two.
            kept = [*self._written, *kept]
        if kept:
            keep_blocks(self._store, self.plan, self.key, kept)
            self._written = kept
        if self._cohorts is not None and self._builder is not None:
            self._cohorts.keep(self._builder.drain(), kept, self._builder.end_of)

    # What goes out.

    def _answer(self, asked: Asked, now: float) -> Answer:
        step = self.plan.steps.index(asked.weight) if asked.weight in self.plan.steps else 0
        since, limit = self._notes.asked[str(asked.weight)], self.plan.step_max[step]
        void = self._why_void(asked)
        if self._stop_reason() or (self._verdict.decision == "rollback" and not void):
            return self._rollback()
        doubt = void or self._doubt(asked)
        if doubt or self._verdict.decision == "continue":
            return self._undecided(doubt, since, limit, now)
        return self._promote(now) if self._verdict.decision == "promote" else self._inconclusive(now)

    def _doubt(self, asked: Asked) -> str:
        """Why nobody can say anything about this step yet."""
        if self._cohorts is not None and self._cohorts.trouble is not None:
            return self._cohorts.trouble.message
        if self._empty or self._verdict.weight != asked.weight:
            return f"No block at {asked.weight} % has been judged yet."
        return ""

    def _promote(self, now: float) -> Answer:
        quiet = now - self._heard
        if quiet > max(_STALE_BLOCKS * self.plan.block_seconds, _STALE_SECONDS):
            told = f"The evidence is {format_duration(round(quiet))} old: nothing is promoted without telemetry of now."
            return self._say("continue", told)
        return self._say("promote", " ".join(self._verdict.reasons))

    def _inconclusive(self, now: float) -> Answer:
        follows, said = self._verdict.next_weight, " ".join(self._verdict.reasons)
        if follows == 0:
            return self._say("rollback", said)
        return self._say("continue", said) if follows is None else self._promote(now)

    def _undecided(self, reason: str, since: float, limit: float, now: float) -> Answer:
        """`continue`, but not for ever: a step that nobody can judge ends as an undecided one, never as a good one."""
        said = reason or " ".join(self._verdict.reasons) or "Not enough evidence yet."
        if now - since >= limit and self.plan.on_inconclusive == "rollback":
            return self._say("rollback", f"{format_duration(limit)} gave no answer: {said}")
        return self._say("continue", said)

    def _rollback(self) -> Answer:
        return self._say("rollback", self._notes.stopped or " ".join(self._verdict.reasons))

    def _say(self, decision: str, reason: str) -> Answer:
        shown = _shown(self._verdict, decision)
        units = self._verdict.units
        low, high = (shown.low, shown.high) if shown is not None else (None, None)
        return Answer(decision, reason, self._verdict.log_e_harm, units["stable"], units["canary"], low, high)

    @property
    def _empty(self) -> bool:
        """Whether no block has been judged at all."""
        return self._posted.judged == NO_INTERVAL and (self._builder is None or self._builder.oldest == 0)

    def _stop_reason(self) -> str:
        if not self._notes.stopped:
            why = self._posted.stop_reason() or self._failing.why_stop(stable_ready=True)
            if why:
                self._notes.stopped = why
                self._save()
        return self._notes.stopped

    def _why_void(self, asked: Asked) -> str:
        """Why the verdict is void: from then on for good, but for a weight that is none of the plan."""
        notes, newest = self._notes, max(self._posted.newest_weight, self._weight)
        if not notes.void and asked.weight in self.plan.steps and newest > asked.weight:
            notes.void = f"The step has {asked.weight} % on the canary, and telemetry is of {newest} %."
            self._save()
        if not notes.void and asked.weight not in self.plan.steps:
            return f"{asked.weight} % is no step of the plan, which has {list(self.plan.steps)}."
        return notes.void

    def _write(self, answer: Answer) -> None:
        """Tell the ledger of a step that passed, or that waits for a person."""
        step = self._verdict.step
        held = answer.decision == "continue" and self._verdict.decision == "inconclusive" and not self._notes.void
        passed = answer.decision == "promote" and step + 1 < len(self.plan.steps)
        kind = "step_passed" if passed else "held" if held else ""
        if not kind or self._ledger is None or f"{kind}/{step}" in self._told:
            return
        data: dict[str, Any] = {"reasons": list(self._verdict.reasons), "units": self._verdict.units}
        decide_on(self._ledger, self.key, kind, step, data | ({"step": step + 1} if passed else {}))
        self._told.add(f"{kind}/{step}")

    # What is kept.

    def _journal(self, kind: str, document: Mapping[str, Any]) -> None:
        path = f"rollouts/{self.key}/{kind}/{self._numbers[kind]:08d}.json"
        self._store.write(path, json.dumps(document).encode())
        self._numbers[kind] += 1

    def _save(self) -> None:
        """Users first, then the state that counts on them, then what is in it may go."""
        builder = self._builder
        if builder is not None:
            before = builder.seen.count - len(fresh := builder.seen.drain()) // 8
            if fresh:
                self._store.write(f"rollouts/{self.key}/seen/{before:012d}.bin", fresh)
        document = {
            "judge": self._judge.state(),
            "verdict": self._verdict.to_dict(),
            "plan": self.plan.to_dict(),
            "stream": self.stream,
            "notes": asdict(self._notes),
            "judged": list(self._posted.judged),
            "builder": builder.checkpoint() if builder else None,
            "waiting": [_row(one) for one in self._waiting],
            "failing": self._failing.state(),
            "cohorts": self._cohorts.state() if self._cohorts is not None else None,
            "weight": self._weight,
            "since": self._since,
            "confirmed": self._confirmed,
            "heard": self._heard,
            "log": self._numbers["log"],
            "at": self._clock(),
        }
        self._store.write(checkpoint_path(self.key), json.dumps(document).encode())
        if builder is not None or self._waiting:
            self._forget_log()

    def _forget_log(self) -> None:
        for path in self._store.list(f"rollouts/{self.key}/log"):
            if _number(path) < self._numbers["log"]:
                self._store.delete(path)

    def _restore(self, document: Mapping[str, Any]) -> None:
        try:
            self._notes = _Notes(**document["notes"])
            self._judge = Judge(self.plan, document["judge"])
            minute, weight = document["judged"]
            self._posted = Posted(self.plan, (minute, weight))
            self._failing = Failing(self.plan.block_seconds, document["failing"])
            self._weight, self._since = document["weight"], document["since"]
            self._confirmed, self._heard, self._awake = document["confirmed"], document["heard"], document["at"]
            self._numbers["log"] = document["log"]
            self._waiting = [_exposure(row) for row in document["waiting"]]
            if document["builder"] is not None:
                seen = b"".join(self._store.read(path) for path in self._store.list(f"rollouts/{self.key}/seen"))
                self._builder = BlockBuilder.restore(self.plan, document["builder"], seen, self._name)
            self._cohorts = self._new_cohorts(document["cohorts"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"The judge's state of rollout {self.key} cannot be read: {type(error).__name__}: {error}.",
                "Another version of tidegate wrote it: abort the rollout, then start it again.",
            ) from error
        self._verdict = self._judge.verdict()
        oldest = self._builder.oldest if self._builder is not None else minute + 1
        forget_from(self._store, self.key, oldest)
        files = self._store.list(f"rollouts/{self.key}/blocks")
        first = _number(files[-1]) if files else oldest
        kept = [one for one in read_blocks(self._store, self.key) if one.index >= first] if files else []
        self._written = [one for one in kept if self._builder or (one.index, one.weight or -1) <= (minute, weight)]

    def _read_on(self) -> None:
        """What came and is in no state yet."""
        for path in self._store.list(f"rollouts/{self.key}/posted"):
            document = json.loads(self._store.read(path))
            self._posted.take(document["lines"], document["at"])
            self._numbers["posted"], self._heard = _number(path) + 1, max(self._heard, document["at"])
        done = self._numbers["log"]
        for path in self._store.list(f"rollouts/{self.key}/log"):
            if _number(path) >= done:
                self._take([_exposure(row) for row in json.loads(self._store.read(path))["exposures"]])
                self._numbers["log"] = _number(path) + 1

    def _new_cohorts(self, state: Mapping[str, Any] | None = None) -> Cohorts | None:
        """None where everything is known at once, or others count."""
        if not self.plan.late or self._reading is None:
            return None
        oldest = self._builder.oldest if self._builder is not None else 0
        return Cohorts(self.plan, self._store, self._reading, aside=self._aside, state=state, oldest=oldest)


def _shown(verdict: Verdict, decision: str) -> MetricVerdict | None:
    """The metric that speaks: the most harmful one, or the one that is least proven safe."""
    guarded = [one for one in verdict.metrics if one.log_e_harm is not None]
    if not guarded:
        return None
    if decision == "rollback":
        return max(guarded, key=lambda one: one.log_e_harm or 0.0)
    return min(guarded, key=lambda one: one.log_e_safe)


_FIELDS: Final = ("at", "unit", "arm", "status", "seconds", "forced", "served_by", "invalid", "prediction")


def _row(exposure: Exposure) -> list[Any]:
    # JSON has no infinity.
    told = [getattr(exposure, name) for name in _FIELDS]
    return [None if value == float("inf") else value for value in told]


def _exposure(row: Sequence[Any]) -> Exposure:
    told = dict(zip(_FIELDS, row, strict=True))
    return Exposure(**told | {"seconds": float("inf") if told["seconds"] is None else told["seconds"]})


def _number(path: str) -> int:
    return int(path.rsplit("/", 1)[1].partition(".")[0])
