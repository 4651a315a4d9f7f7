"""The phase before the first step: the canary gets copies, nobody gets its answers, and the two are compared.

A better model differs, so what is compared rolls nothing back. A canary that fails what the stable arm answers is
stopped, by the rule that stops one in a step; one that disagrees about most of what it is asked is no version of the
same model, and that is for a person to look at before a user meets it. Pure: pairs and the time come in, numbers come
out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tidegate.core.units import format_duration
from tidegate.rollouts import disagreement
from tidegate.rollouts.blocks import CLIENT_ERROR, SERVER_ERROR, Exposure
from tidegate.rollouts.failing import Failing
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.words import shadow_sentence
from tidegate.serving.pairs import Pair

_OK = 2
"""Hundreds of an HTTP status."""
# Quantiles are those of the newest pairs: a p99 with little noise, and little to keep.
_SECONDS = 5000
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
# Where one version is a coin thrown against the other, or a number lies a whole spread away on average.
_MOST_DIFFERENT, _MOST_RELATIVE = 0.5, 1.0
_ROWS = 100
_CLASS = "class"
"""The grouping by what the stable arm predicts; slices are named `slice.<column>`."""
_SLICE = "slice."


class ShadowPhase:
    """What the copies of one rollout have shown.

    Args:
        plan: of the rollout; `shadow_min` is above 0.
        state: JSON of a former `state()`.
    """

    def __init__(self, plan: RolloutPlan, state: Mapping[str, Any] | None = None) -> None:
        self._plan = plan
        self._failing = Failing(plan.block_seconds, state["failing"] if state else None)
        # Seconds with copies that somebody watched, and the moment of the newest look.
        self._waited: float = state["waited"] if state else 0.0
        self._looked: float | None = None
        self._first: float | None = state["first"] if state else None
        # Blocks in which a pair was answered by both, and the newest of them.
        self._blocks: int = state["blocks"] if state else 0
        self._newest: int = state["newest"] if state else -1
        self._sums = _Sums()
        self._seconds: deque[Sequence[float]] = deque(state["seconds"] if state else (), maxlen=_SECONDS)
        if state:
            vars(self._sums).update(state["sums"])

    def look(self, now: float) -> None:
        """Say that the canary can answer copies at `now`, seconds since the epoch.

        What lies between two looks counts as time of the phase, a block at most: while the stack was down or the
        machine slept, nobody could have answered.
        """
        if self._looked is not None:
            self._waited += min(now - self._looked, self._plan.block_seconds)
        self._looked = now

    def add(self, pairs: Iterable[Pair]) -> None:
        """Count pairs, in any order."""
        for pair in pairs:
            stable, canary = pair.stable, pair.canary
            refused = stable.status // 100 == _OK and canary.status // 100 == CLIENT_ERROR
            self._sums.count(pair, refused=refused)
            # What the stable arm refuses says nothing of the canary, whatever became of the copy.
            if stable.status // 100 != CLIENT_ERROR:
                self._judge(pair, SERVER_ERROR * 100 if refused else canary.status)
            if stable.status // 100 == canary.status // 100 == _OK:
                self._sums.compare(pair)
                self._seconds.append((stable.seconds, canary.seconds))
                self._saw(stable.at)

    def why_stop(self, *, stable_ready: bool) -> str:
        """Why the canary must go before any user meets it, or nothing."""
        return self._failing.why_stop(stable_ready=stable_ready, what="copied requests")

    def passed(self, now: float) -> bool:
        """Whether enough was compared: for `shadow_min`, and in as many blocks with traffic."""
        return min(_since(self._first, now), self._traffic()) >= self._plan.shadow_min

    def why_over(self) -> str:
        """Why it ends without that, or nothing."""
        elapsed = self._waited
        if elapsed <= self._plan.shadow_max:
            return ""
        requests = f"{self._sums.answered:,} copied requests" if self._sums.answered else "no copied request"
        return (
            f"In {format_duration(round(elapsed))} of the shadow phase {requests} "
            f"{'were' if self._sums.answered else 'was'} answered by both versions: too little to compare."
        )

    def why_doubtful(self, now: float) -> str:
        """Why a person should look before the first step, although the phase is over; or nothing."""
        numbers = self.numbers(now)
        if numbers["rows"] < _ROWS:
            return ""
        relative, different = numbers["relative_difference"], numbers["different"]
        if max(different or 0.0, 0.0) <= _MOST_DIFFERENT and max(relative or 0.0, 0.0) <= _MOST_RELATIVE:
            return ""
        told = "The versions disagree about most of what they are asked, which no small change does."
        return f"{told} {numbers['sentence']}"

    def numbers(self, now: float) -> dict[str, Any]:
        """JSON: what `rollout status` and the ledger show.

        `seconds` since the first pair that both answered; `requests` are pairs, `rows` predictions compared;
        `failures` and `refused` count requests; `different` is a share of rows with another class,
        `score_difference` a mean distance of class probabilities (0 to 1), `difference` a mean absolute difference of
        numbers, `relative_difference` the same in standard deviations of the stable arm's; `latency` in seconds.
        `by_class` and `by_slice` hold rows and difference (a share of other classes, or a mean distance of numbers) of
        each class that the stable arm predicts, and of each value of the gate's slices. What was not there to compare
        is None.
        """
        document = {"seconds": round(_since(self._first, now), 3), **self._sums.numbers(), "latency": self._latency()}
        return {**document, "sentence": shadow_sentence(document)}

    def left(self, now: float) -> float | None:
        """Seconds until it passes at the traffic of now; None while there is none."""
        if not self._blocks:
            return None
        return max(0.0, self._plan.shadow_min - min(_since(self._first, now), self._traffic()))

    def state(self) -> dict[str, Any]:
        """JSON."""
        return {
            "failing": self._failing.state(),
            "waited": self._waited,
            "first": self._first,
            "blocks": self._blocks,
            "newest": self._newest,
            "sums": dict(vars(self._sums)),
            "seconds": list(self._seconds),
        }

    def _judge(self, pair: Pair, status: int) -> None:
        unit, stable = str(pair.stable.unit), pair.stable
        self._failing.add(Exposure(pair.canary.at, unit, "canary", status, pair.canary.seconds, served_by="canary"))
        self._failing.add(Exposure(stable.at, unit, "stable", stable.status, stable.seconds, served_by="stable"))

    def _saw(self, at: float) -> None:
        self._first = at if self._first is None else min(self._first, at)
        block = int(at // self._plan.block_seconds)
        if block > self._newest:
            self._blocks, self._newest = self._blocks + 1, block

    def _traffic(self) -> float:
        return self._blocks * self._plan.block_seconds

    def _latency(self) -> dict[str, dict[str, float] | None]:
        columns = zip(*self._seconds, strict=True) if self._seconds else ((), ())
        return {arm: _quantiles(column) for arm, column in zip(("stable", "canary"), columns, strict=True)}


class _Sums:
    """Counts and moments of all pairs so far; attributes are JSON."""

    def __init__(self) -> None:
        self.requests = self.answered = self.rows = self.refused = 0
        self.stable_failures = self.canary_failures = 0
        self.named = self.different = 0
        self.scored, self.distance = 0, 0.0
        self.numeric, self.absolute = 0, 0.0
        # Welford's mean and sum of squares of the stable arm's numbers.
        self.mean = self.squares = 0.0
        self.groups: dict[str, dict[str, list[float]]] = {}

    def count(self, pair: Pair, *, refused: bool) -> None:
        """Add the statuses of a pair."""
        self.requests += 1
        self.refused += refused
        self.stable_failures += pair.stable.status // 100 == SERVER_ERROR
        self.canary_failures += pair.canary.status // 100 == SERVER_ERROR

    def compare(self, pair: Pair) -> None:
        """Add the rows of a pair that both answered."""
        stable, canary = pair.stable, pair.canary
        self.answered += 1
        numeric = stable.numeric and canary.numeric
        groups = disagreement.Groups(self.groups)
        for row, (before, after) in enumerate(zip(stable.predictions or (), canary.predictions or (), strict=False)):
            self.rows += 1
            if numeric and math.isfinite(after - before):
                distance = abs(after - before)
                self._number(before, after)
            else:
                distance = float(before != after)
                self.named += 1
                self.different += before != after
                groups.add(_CLASS, before, distance)
            for column, values in (stable.slices or {}).items():
                groups.add(_SLICE + column, values[row], distance)
        self.groups = groups.state()
        for ours, theirs in zip(stable.scores or (), canary.scores or (), strict=False):
            self.scored += 1
            self.distance += sum(abs(ours.get(name, 0.0) - theirs.get(name, 0.0)) for name in {*ours, *theirs}) / 2

    def _number(self, before: float, after: float) -> None:
        self.numeric += 1
        self.absolute += abs(after - before)
        away = before - self.mean
        self.mean += away / self.numeric
        self.squares += away * (before - self.mean)

    def numbers(self) -> dict[str, Any]:
        """JSON, as in `ShadowPhase.numbers`."""
        difference = self.absolute / self.numeric if self.numeric else None
        spread = math.sqrt(self.squares / self.numeric) if self.numeric else 0.0
        return {
            "requests": self.requests,
            "rows": self.rows,
            "different": self.different / self.named if self.named else None,
            "score_difference": self.distance / self.scored if self.scored else None,
            "difference": _finite(difference),
            "relative_difference": _finite(difference / spread) if difference is not None and spread > 0 else None,
            "failures": {"stable": self.stable_failures, "canary": self.canary_failures},
            "refused": self.refused,
            **self._by_group(),
        }

    def _by_group(self) -> dict[str, Any]:
        groups = disagreement.Groups(self.groups)
        slices = [name for name in groups.columns() if name.startswith(_SLICE)]
        return {
            "by_class": groups.numbers(_CLASS),
            "by_slice": {name.removeprefix(_SLICE): groups.numbers(name) for name in slices},
        }


def _since(began: float | None, now: float) -> float:
    return 0.0 if began is None else max(0.0, now - began)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _quantiles(seconds: Sequence[float]) -> dict[str, float] | None:
    ordered = sorted(seconds)
    if not ordered:
        return None
    return {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in _QUANTILES.items()}
