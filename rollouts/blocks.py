"""From the gateway's log to blocks: sums for each arm over one interval, counting every user once.

A user counts in the block and arm of the FIRST request in this rollout; later ones are ignored, so a few heavy users
cannot decide, and users who come back after a change of weight are not counted twice. What is left out, is left out
before its outcome is looked at: forced and mirrored routes, requests without a user, requests that the gateway itself
answered (rate limit, wrong key, too large) without asking an arm.

Where a metric of the plan is known late (labels, outcomes), every counted user is also written down as `Exposed`, so
that the block's cohort can be judged when it is old enough; the block that is closed then carries it as `matured`.

Reads and writes nothing: the driver feeds `Exposure`s and keeps `checkpoint()`, the bytes of `Seen` and `drain()`.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from tidegate.core.errors import UsageError
from tidegate.rollouts.moving_lines import MovingLines
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.seen import Seen
from tidegate.rollouts.stats.latency import SHARES, LatencyLines

Arm = Literal["stable", "canary"]
ARMS: tuple[Arm, Arm] = ("canary", "stable")

CLIENT_ERROR, SERVER_ERROR = 4, 5
"""Hundreds of an HTTP status."""

DEAD = 20
"""Attempts on the canary in one block that all failed: no statistics are needed to stop."""

SETTLE = 0.25
"""Seconds around a change of weight whose new users are seen but not counted: Envoy takes it over in 23 to 43 ms, and
which side of it a user fell on is not in the log."""


# So many absences are remembered until the blocks in them are closed, which takes seconds.
_ABSENCES = 16
# Beyond so many units a count is a mistake, and its arithmetic too.
_MOST = 1e15
# Sums of floats miss each other by so much, relative to their size.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Exposure:
    """One request as the gateway logged it.

    Attributes:
        at: when it began, seconds since the epoch.
        unit: the user; empty if the request named none.
        arm: where the weights sent it.
        status: HTTP status; 0 if nothing came back.
        seconds: how long it took.
        forced: the caller chose the arm, or the request was a mirrored copy.
        served_by: the arm that really answered, by the upstream's address; empty if none did.
        invalid: a row of the answer is no prediction.
        prediction: the answer's prediction id; empty without one.
    """

    at: float
    unit: str
    arm: Arm
    status: int
    seconds: float
    forced: bool = False
    served_by: str = ""
    invalid: bool = False
    prediction: str = ""

    @property
    def reached(self) -> bool:
        """Whether an arm was asked: a 4xx that no upstream sent is the gateway's own."""
        return bool(self.served_by) or self.status // 100 != CLIENT_ERROR

    @property
    def failed(self) -> bool:
        """A 5xx, no answer, or another arm's answer because this one had none. A 4xx is the caller's own mistake."""
        by_other = bool(self.served_by) and self.served_by != self.arm
        return self.status // 100 == SERVER_ERROR or self.status == 0 or by_other


@dataclass(frozen=True, slots=True)
class Counts:
    """Units and events of the canary (n1, x1) and the stable arm (n0, x0) in one block."""

    n1: float = 0
    x1: float = 0
    n0: float = 0
    x0: float = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be counted."""
        for n, x in ((self.n1, self.x1), (self.n0, self.x0)):
            if not 0 <= x <= n <= _MOST:
                raise UsageError(
                    f"A block says that {x} of {n} units had an event.", "Counts are numbers with 0 <= x <= n."
                )

    def __add__(self, other: Counts) -> Counts:
        """Counts of the same block from another replica."""
        return Counts(self.n1 + other.n1, self.x1 + other.x1, self.n0 + other.n0, self.x0 + other.x0)

    @property
    def row(self) -> tuple[float, ...]:
        """``(n1, x1, q1, n0, x0, q0)``; the squares q of events are the events."""
        return self.n1, self.x1, self.x1, self.n0, self.x0, self.x0


@dataclass(frozen=True, slots=True)
class Moments:
    """Units, sums and sums of squares of a quantity: canary (n1, s1, q1), stable (n0, s0, q0) in one block."""

    n1: float = 0
    s1: float = 0
    q1: float = 0
    n0: float = 0
    s0: float = 0
    q0: float = 0

    def __post_init__(self) -> None:
        """Refuse what no numbers can add up to: ``(sum)^2 <= n * sum of squares`` (Cauchy and Schwarz)."""
        for n, s, q in ((self.n1, self.s1, self.q1), (self.n0, self.s0, self.q0)):
            finite = all(math.isfinite(v) for v in (s, q))
            if not (finite and 0 <= n <= _MOST and q >= 0 and s * s <= n * q * (1 + _ROUNDING) + _ROUNDING):
                raise UsageError(
                    f"A block says that {n} units sum up to {s} and their squares to {q}.",
                    "They are `n`, `sum` and `sumsq` of one arm's units: sum * sum is at most n * sumsq.",
                )

    def __add__(self, other: Moments) -> Moments:
        """Moments of the same block from another replica."""
        return Moments(*(mine + theirs for mine, theirs in zip(self.row, other.row, strict=True)))

    @property
    def row(self) -> tuple[float, ...]:
        """``(n1, s1, q1, n0, s0, q0)``."""
        return self.n1, self.s1, self.q1, self.n0, self.s0, self.q0


Sums = Counts | Moments
_NONE = Counts()

LABELLED = "labelled"
"""The name under which a cohort counts all of its users (n) and those whose truth is known (x)."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """A user's first exposure, which is what labels and outcomes are counted for.

    Attributes:
        index: of the block.
        weight: per cent on the canary.
        arm: where the user was sent.
        unit: the user's keyed hash (serving/telemetry.py).
        prediction: id of the first answer; empty without one.
        at: when it began, seconds since the epoch.
    """

    index: int
    weight: int
    arm: Arm
    unit: int
    prediction: str
    at: float


@dataclass(frozen=True, slots=True)
class Cohort:
    """What was known, at one age for both arms, of the users who were new in an earlier block.

    Attributes:
        index: of the block in which they were new.
        weight: per cent on the canary then; None where it is not known.
        metrics: late metrics by name, and `LABELLED` beside those that come from labels.
    """

    index: int
    weight: int | None
    metrics: Mapping[str, Sums]


@dataclass(frozen=True, slots=True)
class Block:
    """Sums of one interval at one weight.

    Attributes:
        index: which interval of `block_seconds` since the start; elapsed time is counted with it.
        weight: per cent on the canary; None where it is not known (a replay with one step).
        metrics: stream -> first-exposure counts, or moments of a mean.
        attempts: every request of each arm and the failed ones, for hard stops.
        misrouted: requests that an upstream of the other arm answered.
        ready: whether the canary said it was ready at the end of the interval.
        skipped: how many empty intervals right before it nobody watched: they are no time of the step.
        matured: cohorts of earlier blocks that became old enough and are judged with this one.
    """

    index: int
    weight: int | None
    metrics: Mapping[str, Sums] = field(default_factory=dict)
    attempts: Counts = _NONE
    misrouted: int = 0
    ready: bool = True
    skipped: int = 0
    matured: tuple[Cohort, ...] = ()

    @property
    def dead(self) -> bool:
        """Whether the canary failed everything it was asked."""
        return self.attempts.n1 >= DEAD and self.attempts.x1 >= self.attempts.n1

    def __add__(self, other: Block) -> Block:
        """Merge the same interval of another replica; addition is all there is to it."""
        if (self.index, self.weight) != (other.index, other.weight):
            raise ValueError("only blocks of one interval and weight can be added")
        return Block(
            self.index,
            self.weight,
            _merged(self.metrics, other.metrics),
            self.attempts + other.attempts,
            self.misrouted + other.misrouted,
            self.ready and other.ready,
            max(self.skipped, other.skipped),
            _together(self.matured, other.matured),
        )


def _together(mine: tuple[Cohort, ...], theirs: tuple[Cohort, ...]) -> tuple[Cohort, ...]:
    """Cohorts of one block and weight added up, oldest first."""
    found: dict[tuple[int, int], Cohort] = {}
    for one in (*mine, *theirs):
        key = one.index, -1 if one.weight is None else one.weight
        known = found.get(key)
        found[key] = Cohort(one.index, one.weight, _merged(known.metrics, one.metrics)) if known else one
    return tuple(found[key] for key in sorted(found))


def _merged(mine: Mapping[str, Sums], theirs: Mapping[str, Sums]) -> dict[str, Sums]:
    added = {name: _added(name, mine[name], sums) if name in mine else sums for name, sums in theirs.items()}
    return {**mine, **added}


def _added(name: str, one: Sums, other: Sums) -> Sums:
    if isinstance(one, Counts) and isinstance(other, Counts):
        return one + other
    if isinstance(one, Moments) and isinstance(other, Moments):
        return one + other
    raise UsageError(
        f"{name} comes as counts and as sums.", "A metric is `n` and `x`, or `n`, `sum` and `sumsq`, not both."
    )


class BlockBuilder:
    """Sorts exposures into the blocks of one rollout.

    A line belongs to the block of its own time if that block is open, else to the oldest open one: never lost, never
    counted twice. Close a block a little after its end (the request timeout and the log's flush), so that slow
    requests are not late.

    Args:
        plan: names the metrics, the thresholds, the block length and the rollout.
        start: seconds since the epoch at which block 0 begins.
        weight: of the first step.
        seen: users counted before a restart.
        name: how a user is written down; needed where a metric of the plan is known late.
    """

    def __init__(
        self,
        plan: RolloutPlan,
        start: float,
        weight: int,
        seen: Seen | None = None,
        name: Callable[[str], int] | None = None,
    ) -> None:
        self.plan, self.start, self.seen = plan, start, Seen() if seen is None else seen
        self._name, self._exposed = name, list[Exposed]()
        self._phases = [_Phase(start, weight)]
        self._lines = MovingLines(plan.latency)
        self._sums: dict[tuple[int, int], _Sums] = {}
        self._next = self._skipped = 0
        self._absences: deque[tuple[float, float]] = deque(maxlen=_ABSENCES)

    @property
    def oldest(self) -> int:
        """Index of the oldest block that is not closed yet."""
        return self._next

    def set_weight(self, weight: int, at: float) -> None:
        """Say that the gateway changed to `weight` at time `at`; later exposures belong to the next step."""
        self._phases.append(_Phase(at, weight))

    def add(self, exposures: Iterable[Exposure]) -> None:
        """Count log lines, in any order."""
        for exposure in exposures:
            if exposure.forced or not exposure.reached or exposure.at < self.start:
                continue
            index, sums = self._place(exposure.at)
            sums.attempt(exposure)
            if self._is_new(exposure):
                sums.unit(exposure, self._lines.of(index))
                if self._name is not None:
                    sums.exposed.append(
                        (ARMS.index(exposure.arm), self._name(exposure.unit), exposure.prediction, exposure.at)
                    )
            self._lines.saw(index, _stable_seconds(exposure))

    def absent(self, since: float, until: float) -> None:
        """Say that nobody watched from `since` to `until`, seconds since the epoch: the stack was down or slept.

        Empty intervals within are left out, and counted as `skipped` of the block that follows. What holds requests
        is a block as any other: somebody served them.
        """
        self._absences.append((since, until))

    def close(self, until: float, *, ready: bool = True) -> tuple[Block, ...]:
        """Return every block that ended at or before `until`, oldest first, watched empty ones too.

        Args:
            until: seconds since the epoch; now minus the grace for late lines.
            ready: whether the canary is ready now.
        """
        end = int((until - self.start) // self.plan.block_seconds)
        blocks: list[Block] = []
        for index in range(self._next, end):
            counted = {w for i, w in self._sums if i == index}
            if not counted and self._nobody_watched(index):
                self._skipped += 1
                continue
            weights = sorted(counted | {self._phase(self._start_of(index)).weight})
            sums = {w: self._sums.pop((index, w), _Sums()) for w in weights}
            self._exposed += [one for w in weights for one in sums[w].cohort(index, w)]
            made = [sums[w].block(index, w, self.plan, ready=ready) for w in weights]
            blocks += [replace(made[0], skipped=self._skipped), *made[1:]]
            self._skipped = 0
        self._next = max(self._next, end)
        if blocks:
            self._lines.move(self._next)
        return tuple(blocks)

    def drain(self) -> list[Exposed]:
        """Every user of the blocks that were closed since the last call; empty without a `name`."""
        drained, self._exposed = self._exposed, []
        return drained

    def end_of(self, index: int, weight: int) -> float:
        """When a block at a weight ended, seconds since the epoch: users of both arms may have changed since then."""
        changes = (phase.at for phase in self._phases if phase.weight > weight)
        return min(self._start_of(index + 1), *changes, math.inf)

    def checkpoint(self) -> dict[str, Any]:
        """JSON with which `restore` goes on.

        First append `seen.drain()` to its file, then store this together with the offset in the log.
        """
        return {
            "start": self.start,
            "next": self._next,
            "skipped": self._skipped,
            "seen": self.seen.count,
            "phases": [asdict(phase) for phase in self._phases],
            "lines": self._lines.state(),
            "sums": [[index, weight, sums.state()] for (index, weight), sums in self._sums.items()],
        }

    @classmethod
    def restore(
        cls,
        plan: RolloutPlan,
        checkpoint: Mapping[str, Any],
        seen: bytes,
        name: Callable[[str], int] | None = None,
    ) -> BlockBuilder:
        """Go on from a checkpoint; hashes in `seen` that were appended after it are dropped, their lines come again."""
        size = int(checkpoint["seen"]) * 8
        if len(seen) < size:
            raise UsageError(
                f"The list of users seen holds {len(seen) // 8} of {checkpoint['seen']} entries.",
                "The file was truncated; abort this rollout and start it again.",
            )
        phases = [_Phase(**phase) for phase in checkpoint["phases"]]
        builder = cls(plan, checkpoint["start"], phases[0].weight, Seen(seen[:size]), name)
        builder._phases, builder._next, builder._skipped = phases, checkpoint["next"], checkpoint["skipped"]
        builder._lines = MovingLines.restore(checkpoint["lines"])
        builder._sums = {(index, weight): _Sums.from_state(state) for index, weight, state in checkpoint["sums"]}
        return builder

    def _nobody_watched(self, index: int) -> bool:
        start, end = self._start_of(index), self._start_of(index + 1)
        return any(since <= start and end <= until for since, until in self._absences)

    def _start_of(self, index: int) -> float:
        return self.start + index * self.plan.block_seconds

    def _phase(self, at: float) -> _Phase:
        return next((phase for phase in reversed(self._phases) if at >= phase.at), self._phases[0])

    def _place(self, at: float) -> tuple[int, _Sums]:
        """The block that the line counts in, and its sums at the weight of that time."""
        index = int((at - self.start) // self.plan.block_seconds)
        counted = at if index >= self._next else self._start_of(self._next)
        index = max(index, self._next)
        return index, self._sums.setdefault((index, self._phase(counted).weight), _Sums())

    def _is_new(self, exposure: Exposure) -> bool:
        named = exposure.unit and self.seen.add(self.plan.rollout, exposure.unit)
        if self.plan.unit == "user" and not named:
            return False
        return all(abs(exposure.at - phase.at) > SETTLE for phase in self._phases[1:])


@dataclass(frozen=True, slots=True)
class _Phase:
    """What holds from `at` on."""

    at: float
    weight: int


def _stable_seconds(exposure: Exposure) -> float | None:
    """How long the stable arm took, if it answered."""
    answered = exposure.served_by == "stable" and math.isfinite(exposure.seconds)
    return exposure.seconds if answered else None


class _Sums:
    """The growing content of one block; every pair of numbers is (canary, stable)."""

    def __init__(self) -> None:
        self.units = [0, 0]
        self.events = {name: [0, 0] for name in ("error_rate", "invalid_output", *SHARES)}
        self.attempts = [0, 0]
        self.failures = [0, 0]
        self.misrouted = 0
        self.exposed: list[tuple[int, int, str, float]] = []

    def attempt(self, exposure: Exposure) -> None:
        row = ARMS.index(exposure.arm)
        self.attempts[row] += 1
        self.failures[row] += exposure.failed
        self.misrouted += bool(exposure.served_by) and exposure.served_by != exposure.arm

    def unit(self, exposure: Exposure, latency: LatencyLines | None) -> None:
        row = ARMS.index(exposure.arm)
        self.units[row] += 1
        self.events["error_rate"][row] += exposure.failed
        self.events["invalid_output"][row] += exposure.invalid
        if latency is not None:
            thresholds = latency.canary if exposure.arm == "canary" else latency.stable
            for name, threshold in zip(SHARES, thresholds, strict=True):
                self.events[name][row] += exposure.seconds > threshold

    def block(self, index: int, weight: int, plan: RolloutPlan, *, ready: bool) -> Block:
        (n1, n0), events = self.units, self.events
        # The first says how many users were new, also where every metric is known late.
        names = dict.fromkeys([plan.counted, *(one.metric for one in plan.metrics if one.source == "requests")])
        metrics = {name: Counts(n1, events[name][0], n0, events[name][1]) for name in names}
        attempts = Counts(self.attempts[0], self.failures[0], self.attempts[1], self.failures[1])
        return Block(index, weight, metrics, attempts, self.misrouted, ready)

    def cohort(self, index: int, weight: int) -> list[Exposed]:
        return [Exposed(index, weight, ARMS[arm], unit, told, at) for arm, unit, told, at in self.exposed]

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(vars(self))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> _Sums:
        sums = cls()
        vars(sums).update(copy.deepcopy(dict(state)))
        return sums
