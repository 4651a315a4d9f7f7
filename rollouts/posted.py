"""Counts that others send, line by line: each key is taken once, and an interval is judged when all sources told it.

The form of a line is that of `block_lines`. A line's key is (minute, weight, arm, metric, source, cohort). The same key
with the same value again changes nothing, with another value it is refused, and so is what comes for an interval that
has been judged without it. Pure: whoever holds this keeps the lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tidegate.core.errors import Conflict, UsageError
from tidegate.rollouts.block_lines import ATTEMPTS, NO_WEIGHT, from_lines, read
from tidegate.rollouts.blocks import ARMS, LABELLED, Block
from tidegate.rollouts.judging import has_control
from tidegate.rollouts.plan import RolloutPlan

Line = Mapping[str, Any]
Interval = tuple[int, int]
"""Minute and weight; intervals are judged in this order."""

NO_INTERVAL: Final[Interval] = (-1, NO_WEIGHT)
# Intervals that a silent source is waited for.
_PATIENCE: Final = 2
# Seconds in which another replica may tell its part of an interval before anybody knows that there is another.
_JOIN: Final = 10.0
_VALUES: Final = ("n", "x", "sum", "sumsq", "misrouted", "ready", "skipped", "bunching", "better")
_KEY: Final = ("minute", "weight", "arm", "metric", "source", "cohort")


class Posted:
    """The lines of one rollout.

    Args:
        plan: of the rollout.
        judged: the newest interval that has been judged.
    """

    def __init__(self, plan: RolloutPlan, judged: Interval = NO_INTERVAL) -> None:
        self._plan, self.judged = plan, judged
        self._known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._cohorts: dict[int, list[Line]] = {}
        self._pending: dict[Interval, list[Line]] = {}
        self._arrived: dict[Interval, float] = {}
        self._told: dict[str, Interval] = {}
        named = [one.metric for one in plan.metrics if one.source == "requests"]
        self._wanted = {(name, arm) for name in named or [plan.counted] for arm in ARMS}
        self._late = {one.metric for one in plan.late} | {LABELLED}
        self._means = {one.metric: one.kind == "mean" for one in plan.metrics}
        self._bunching = {one.metric: one.bunching for one in plan.streams}

    @property
    def empty(self) -> bool:
        """Whether nobody has sent anything."""
        return not self._known and self.judged == NO_INTERVAL

    @property
    def newest_weight(self) -> int:
        """The largest weight that any line told so far; -1: none did."""
        return max(self.judged[1], *(weight for _, weight in self._pending), NO_WEIGHT)

    def fresh(self, lines: Sequence[Line]) -> list[Line]:
        """Those that nobody sent before; nothing is taken yet.

        Raises:
            UsageError: one is no line of this rollout's plan; says which.
            Conflict: one contradicts an earlier line, or comes for an interval that was judged without it.
        """
        read(lines)
        found: dict[tuple[Any, ...], Line] = {}
        for number, line in enumerate(map(_normal, lines), 1):
            key, value = _key(line), _value(line)
            known = self._known.get(key, _value(found[key]) if key in found else None)
            if known is None:
                self._check(number, line)
                found[key] = line
            elif known != value:
                raise Conflict(
                    f"Line {number}: {line['metric']} of the {line['arm']} arm in block {line['minute']} was sent "
                    "before with another value.",
                    "Nothing of this request was taken. Several replicas each name a `source`.",
                )
        return list(found.values())

    def take(self, lines: Iterable[Line], at: float) -> None:
        """Take lines that `fresh` gave, now or before a restart; `at`: seconds since the epoch."""
        touched = set()
        for line in lines:
            self._known[_key(line)] = _value(line)
            interval = _interval(line)
            if "cohort" in line:
                # Of a restart: what has been judged is only known, so that it is not taken twice.
                if line["minute"] > self.judged[0] or line["minute"] in {minute for minute, _ in self._pending}:
                    self._cohorts.setdefault(line["minute"], []).append(line)
            elif interval > self.judged:
                self._pending.setdefault(interval, []).append(line)
                self._arrived.setdefault(interval, at)
                touched.add((interval, line["source"]))
            else:
                # Who told of what has been judged is waited for again.
                self._told[line["source"]] = max(interval, self._told.get(line["source"], NO_INTERVAL))
        for interval, source in touched:
            if interval > self._told.get(source, NO_INTERVAL) and self._whole(interval, source):
                self._told[source] = interval

    def due(self, now: float) -> list[Block]:
        """Blocks that nobody is waited for any more, oldest first; they are handed over once."""
        found: list[Block] = []
        for interval in sorted(self._pending):
            waited = self._waited_out(interval, now)
            if not waited and not self._settled(interval, now):
                break
            lines = self._pending.pop(interval)
            self.judged = interval
            # Half of what a source counted is no evidence; the time passes all the same.
            whole = [one for one in lines if self._whole_in(lines, one["source"])]
            self._told = {source: told for source, told in self._told.items() if told >= interval}
            minute = interval[0]
            if whole and minute not in {other for other, _ in self._pending}:
                whole += self._cohorts.pop(minute, [])
            found += _blocks(whole)
        self._arrived = {one: at for one, at in self._arrived.items() if one > self.judged}
        return found

    def stop_reason(self) -> str:
        """Why the canary must go before its interval is over, or nothing."""
        for interval, lines in self._pending.items():
            for block in _blocks([one for one in lines if one["metric"] == ATTEMPTS]):
                control = block.attempts.n0 > 0 and has_control(block)
                if control and block.dead:
                    return f"All {block.attempts.n1:.0f} requests to the canary in block {interval[0]} failed."
                if control and not block.ready:
                    return f"The canary was not ready in block {interval[0]}."
        return ""

    def _settled(self, interval: Interval, now: float) -> bool:
        """Whether everybody told it, as far as anybody knows who there is."""
        named = any(one["source"] for one in self._pending[interval])
        joined = not named or now - self._arrived[interval] >= min(_JOIN, self._plan.block_seconds)
        return joined and bool(self._told) and min(self._told.values()) >= interval

    def _waited_out(self, interval: Interval, now: float) -> bool:
        """Whether later intervals have been there for so long that nobody sends this one any more."""
        later = [at for other, at in self._arrived.items() if other > interval]
        return bool(later) and now - min(later) >= _PATIENCE * self._plan.block_seconds

    def _whole(self, interval: Interval, source: str) -> bool:
        return self._whole_in(self._pending[interval], source)

    def _whole_in(self, lines: Sequence[Line], source: str) -> bool:
        """Whether a source told every metric of both arms, or that nobody came."""
        mine = [one for one in lines if one["source"] == source]
        there = {(one["metric"], one["arm"]) for one in mine}
        idle = {(ATTEMPTS, arm) for arm in ARMS} <= there and all(one["n"] == 0 for one in mine)
        return self._wanted <= there or idle

    def _check(self, number: int, line: Line) -> None:
        """Refuse what cannot be judged by this plan, before anything is kept of it."""
        name, weight, steps = line["metric"], line["weight"], self._plan.steps
        if weight not in steps and not (weight is None and len(steps) == 1):
            told = "no weight" if weight is None else f"{weight} % on the canary"
            raise UsageError(
                f"Line {number} has {told}; the steps are {list(steps)}.",
                "Send what came at other weights to the rollout that it is of, or not at all.",
            )
        if name in self._means and self._means[name] != ("sum" in line):
            form = "`n`, `sum` and `sumsq`" if self._means[name] else "`n` and `x`"
            raise UsageError(f"Line {number}: {name} comes in another form.", f"Its lines hold {form}.")
        if name in {*self._means, LABELLED} and (name in self._late) != ("cohort" in line):
            raise UsageError(
                f"Line {number}: {name} is {'known late' if name in self._late else 'known at once'}.",
                "Lines of late metrics name their `cohort`, others have none.",
            )
        if line.get("bunching", 1.0) > self._bunching.get(name, float("inf")):
            raise UsageError(
                f"Line {number}: the design effect of {name} is {line['bunching']:g}, and the plan knows "
                f"{self._bunching[name]:g}.",
                "Write `bunching` into the plan: it is fixed before the first user sees the canary.",
            )
        self._check_order(number, line)

    def _check_order(self, number: int, line: Line) -> None:
        interval, minute = _interval(line), line["minute"]
        late = interval <= self.judged or interval[1] < self.judged[1]
        if "cohort" in line:
            late = minute <= self.judged[0] and minute not in {other for other, _ in self._pending}
        if late:
            # From now on it is waited for.
            self._told.setdefault(line["source"], NO_INTERVAL)
            raise Conflict(
                f"Line {number} comes too late: block {self.judged[0]} has been judged already.",
                f"Send a block's lines together, within {_PATIENCE} blocks of its end; a share never gets smaller.",
            )


def _blocks(lines: Sequence[Line]) -> list[Block]:
    return from_lines({**one, "stream": ""} for one in lines).get("", []) if lines else []


def _normal(line: Line) -> Line:
    """The line with its key in one spelling."""
    weight = line.get("weight")
    told = {name: line[name] for name in _VALUES if line.get(name) is not None}
    cohort = {} if line.get("cohort") is None else {"cohort": int(line["cohort"])}
    return {
        "minute": int(line["minute"]),
        "weight": None if weight is None else int(weight),
        "arm": str(line["arm"]),
        "metric": str(line["metric"]),
        "source": "" if line.get("source") is None else str(line["source"]),
        **told,
        **cohort,
    }


def _interval(line: Line) -> Interval:
    return line["minute"], NO_WEIGHT if line["weight"] is None else line["weight"]


def _key(line: Line) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in _KEY)


def _value(line: Line) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in _VALUES)
