"""The judge alone on recorded blocks: any number of streams, each a rollout under the same plan.

What a stream's blocks tell besides their counts, traffic and weights, fills in what a plan is otherwise measured for:
`steps: auto` are the weights that came in that stream, `step.max: auto` follows its own traffic. Outcomes never do.
Metrics that come for cohorts are judged as a live rollout judges them: when they were known, with the step of their
users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tidegate.core.artifacts import VerdictWord
from tidegate.core.config_types import did_you_mean
from tidegate.core.errors import UsageError
from tidegate.rollouts.block_lines import ATTEMPTS, CANARY, NO_COHORT, NO_WEIGHT, Lines, last_weight
from tidegate.rollouts.blocks import DEAD, LABELLED
from tidegate.rollouts.judge import reasons
from tidegate.rollouts.panel import INCONCLUSIVE, WORDS, Late, Panel, Row
from tidegate.rollouts.plan import source_of
from tidegate.rollouts.planning import Measured, kind_of, make_plan, with_traffic
from tidegate.rollouts.stats.latency import SHARES, LatencyLines

if TYPE_CHECKING:
    from tidegate.core.config import Rollout
    from tidegate.rollouts.plan import RolloutPlan

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# What a share is believed to be before the first block; worth 200 units, then the stable arm speaks for itself.
_EXPECTED: Final = {"accuracy": 0.9, "conversion": 0.05}
_RATE: Final = 0.005
# So many streams at once: their arrays stay in a processor's cache.
_TOGETHER: Final = 1024
# Two digits of a stream's traffic are enough for `step.max`.
_DIGITS: Final = 1


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one stream.

    Attributes:
        stream: its name.
        decision: the judge's word; a step that passed before the data ended continues.
        minute: the block that decided; None while it continues.
        canary_units: the canary's units of the first guardrail until then.
        reasons: sentences that explain it.
    """

    stream: str
    decision: VerdictWord
    minute: int | None
    canary_units: int
    reasons: tuple[str, ...]


def replay(rollout: Rollout, lines: Lines, block_seconds: float = 60.0) -> list[Replayed]:
    """Judge every stream of `lines` by the policy `rollout`.

    Raises:
        UsageError: a metric of the policy is not in the lines, weights are told for some of them only, go back, or are
            no step of the policy; or there can be no plan of it.
    """
    if not lines.streams:
        return []
    names = list(_metrics(rollout))
    _check_metrics(names, lines)
    blocks, labels = _Blocks.of(lines, names), list(lines.streams)
    untold = np.array(lines.weight) == NO_WEIGHT
    if untold.any() and not untold.all():
        raise UsageError("Some lines tell a weight and some do not.", "Give every line its weight, or none.")
    ladders = blocks.ladders(len(labels)) if rollout.steps == "auto" else [np.arange(len(labels))]
    found: dict[str, Replayed] = {}
    for streams in ladders:
        some = [labels[stream] for stream in streams]
        judged = _judge(rollout, lines, blocks.of_streams(streams), some, block_seconds)
        found.update(zip(some, judged, strict=True))
    return [found[label] for label in labels]


def _judge(rollout: Rollout, lines: Lines, blocks: _Blocks, labels: list[str], block_seconds: float) -> list[Replayed]:
    """Judge streams of one ladder."""
    names = list(_metrics(rollout))
    pace = blocks.units_per_minute(len(labels), block_seconds)
    typical = float(np.median(pace))
    plan = _plan(rollout, names, lines, blocks, block_seconds=block_seconds, units_per_minute=typical)
    steps, limits = blocks.steps(plan, labels), _limits(rollout, plan, pace)
    found: list[Replayed] = []
    for start in range(0, len(labels), _TOGETHER):
        part = slice(start, min(start + _TOGETHER, len(labels)))
        found += _replay(Panel(plan, part.stop - start, limits[part]), blocks, steps, part, labels[part])
    return found


@dataclass(frozen=True)
class _Blocks:
    """The blocks of all streams, in the order of stream, minute and weight; `place` counts within a stream.

    `cohorts` are what matured, each with the block it is judged with.
    """

    stream: Ints
    minute: Ints
    weight: Ints
    place: Ints
    sums: Floats
    dead: Mask
    skipped: Ints
    new: Floats
    cohorts: _Cohorts

    @classmethod
    def of(cls, lines: Lines, names: list[str]) -> _Blocks:
        """Sum up the lines of each block, metrics in the order of `names`."""
        at_once = np.array(lines.cohort) == NO_COHORT
        stream, minute, weight, arm, metric, n, x, q = (np.array(column)[at_once] for column in lines.columns)
        keys, block = np.unique(np.stack([stream, minute, weight]), axis=1, return_inverse=True)
        place = np.arange(keys.shape[1]) - np.searchsorted(keys[0], keys[0])
        sums = np.zeros((keys.shape[1], len(names), 6))
        told = np.zeros((keys.shape[1], len(names)), dtype=np.bool_)
        offset = np.where(arm == CANARY, 0, 3)
        # A metric may be guarded and a goal: then it has two places.
        for at, name in enumerate(names):
            told[:, at] |= lines.late[name]
            mine = metric == lines.metrics[name]
            for part, values in enumerate((n, x, q)):
                np.add.at(sums, (block[mine], at, offset[mine] + part), values[mine])
            told[block[mine], at] = True
        told[~told[:, [not lines.late[name] for name in names]].any(axis=1)] = False
        _check_whole(told, keys, names, lines)
        skipped = np.array([lines.skipped.get(tuple(key), 0) for key in keys.T.tolist()] if lines.skipped else 0)
        skipped = np.broadcast_to(skipped, keys.shape[1:])
        at_hand = next((at for at, name in enumerate(names) if not lines.late[name]), None)
        new = sums[:, at_hand, [0, 3]] if at_hand is not None else _units(lines, block, keys.shape[1])
        cohorts = _Cohorts.of(lines, names, keys)
        return cls(keys[0], keys[1], keys[2], place, sums, _dead(lines, block, keys), skipped, new, cohorts)

    def ladders(self, count: int) -> list[Ints]:
        """The streams that have the same weights, for each set of weights."""
        weights, place = np.unique(self.weight, return_inverse=True)
        came = np.zeros((count, len(weights)), dtype=np.bool_)
        came[self.stream, place] = True
        _, which = np.unique(came, axis=0, return_inverse=True)
        return [np.flatnonzero(which == one) for one in range(which.max() + 1)]

    def of_streams(self, streams: Ints) -> _Blocks:
        """Those of some streams, which are counted anew from 0."""
        mine, cohorts = np.isin(self.stream, streams), self.cohorts
        if mine.all():
            return self
        kept = {name: getattr(self, name)[mine] for name in _OF_A_BLOCK}
        theirs = np.isin(cohorts.stream, streams)
        late = {name: getattr(cohorts, name)[theirs] for name in _OF_A_COHORT}
        late["stream"] = np.searchsorted(streams, late["stream"])
        late["block"] = np.searchsorted(np.flatnonzero(mine), late["block"])
        return _Blocks(**kept | {"stream": np.searchsorted(streams, kept["stream"])}, cohorts=_Cohorts(**late))

    def steps(self, plan: RolloutPlan, labels: list[str]) -> Ints:
        """Which step of the plan each block belongs to."""
        if (self.weight == NO_WEIGHT).all():
            return np.zeros(len(self.weight), dtype=np.int64)
        step = np.searchsorted(plan.steps, self.weight)
        for weight, named in ((self.weight, self._named), (self.cohorts.weight, self.cohorts.named)):
            known = np.isin(weight, plan.steps)
            if not known.all():
                raise UsageError(
                    f"{named(~known, labels)} on the canary; the steps are {list(plan.steps)}.",
                    "Write the weights that came as `steps`, or `steps: auto`.",
                )
        back = np.zeros(len(step), dtype=np.bool_)
        back[1:] = (np.diff(self.stream) == 0) & (np.diff(step) < 0)
        if back.any():
            raise UsageError(
                f"{self._named(back, labels)} on the canary, after a step with more.",
                "The share only grows in a rollout: give what came after it a stream of its own.",
            )
        return step

    def _named(self, which: Mask, labels: list[str]) -> str:
        first = int(np.flatnonzero(which)[0])
        return f"Block {self.minute[first]} of stream {labels[self.stream[first]]!r} has {self.weight[first]} %"

    def units_per_minute(self, streams: int, block_seconds: float) -> Floats:
        """Of both arms, for each stream."""
        units = np.bincount(self.stream, weights=self.new.sum(axis=1), minlength=streams)
        first, last = np.full(streams, np.iinfo(np.int64).max), np.zeros(streams, dtype=np.int64)
        np.minimum.at(first, self.stream, self.minute)
        np.maximum.at(last, self.stream, self.minute)
        return np.asarray(units / ((last - first + 1) * block_seconds / 60))


@dataclass(frozen=True)
class _Cohorts:
    """What matured, in the order of the blocks; `block` is the place among all blocks of the one it is judged with.

    `rank` counts within such a block: the cohorts of one rank are judged at once.
    """

    stream: Ints
    block: Ints
    index: Ints
    weight: Ints
    rank: Ints
    sums: Floats
    labelled: Floats

    @classmethod
    def of(cls, lines: Lines, names: list[str], keys: Ints) -> _Cohorts:
        """Sum up the lines of each cohort, metrics in the order of `names`; `keys` are those of the blocks."""
        cohort = np.array(lines.cohort, dtype=np.int64)
        late = cohort != NO_COHORT
        stream, minute, weight, arm, metric, n, x, q = (np.array(column)[late] for column in lines.columns)
        found, place = np.unique(np.stack([stream, minute, cohort[late], weight]), axis=1, return_inverse=True)
        sums, labelled = np.zeros((found.shape[1], len(names), 6)), np.zeros((found.shape[1], 4))
        offset = np.where(arm == CANARY, 0, 3)
        for at, name in enumerate(names):
            mine = metric == lines.metrics[name]
            for part, values in enumerate((n, x, q)):
                np.add.at(sums, (place[mine], at, offset[mine] + part), values[mine])
        mine = metric == lines.metrics.get(LABELLED, -1)
        for part, values in enumerate((n, x)):
            np.add.at(labelled, (place[mine], np.where(arm == CANARY, 0, 2)[mine] + part), values[mine])
        block = _last_block_of(found[:2], keys, list(lines.streams))
        rank = np.arange(len(block)) - np.searchsorted(block, block)
        return cls(found[0], block, found[2], found[3], rank, sums, labelled)

    def named(self, which: Mask, labels: list[str]) -> str:
        """The first one of some, for a sentence about its weight."""
        first = int(np.flatnonzero(which)[0])
        return f"Cohort {self.index[first]} of stream {labels[self.stream[first]]!r} has {self.weight[first]} %"


def _units(lines: Lines, block: Ints, count: int) -> Floats:
    """New users of each block where every metric is known late: those that errors were counted of."""
    at_once = np.array(lines.cohort) == NO_COHORT
    arm, metric, n = (np.array(column)[at_once] for column in (lines.arm, lines.metric, lines.n))
    units = np.zeros((count, 2))
    mine = metric == lines.metrics.get("error_rate", -1)
    np.add.at(units, (block[mine], np.where(arm == CANARY, 0, 1)[mine]), n[mine])
    return units


_OF_A_BLOCK: Final = tuple(one.name for one in fields(_Blocks) if one.name != "cohorts")
_OF_A_COHORT: Final = tuple(one.name for one in fields(_Cohorts))


def _last_block_of(cohorts: Ints, keys: Ints, labels: list[str]) -> Ints:
    """The last block of each cohort's stream and minute, as a place among all blocks, which are in order."""
    if cohorts.shape[1] == 0:
        return np.zeros(0, dtype=np.int64)
    most = max(int(keys[1].max()), int(cohorts[1].max())) + 1
    place = np.searchsorted(keys[0] * most + keys[1], cohorts[0] * most + cohorts[1], side="right") - 1
    alone = (place < 0) | (keys[:2, place] != cohorts).any(axis=0)
    if alone.any():
        stream, minute = cohorts[:, int(np.flatnonzero(alone)[0])]
        last_weight(labels[stream], int(minute), [])
    return np.asarray(place, dtype=np.int64)


def _dead(lines: Lines, block: Ints, keys: Ints) -> Mask:
    """Which blocks need no statistics: the canary failed everything it was asked, or was not ready."""
    count = keys.shape[1]
    at_once = np.array(lines.cohort) == NO_COHORT
    arm, metric, n, x = (np.array(column)[at_once] for column in (lines.arm, lines.metric, lines.n, lines.x))
    mine = (metric == lines.metrics.get(ATTEMPTS, -1)) & (arm == CANARY)
    asked, failed = (np.bincount(block[mine], weights=column[mine], minlength=count) for column in (n, x))
    return np.asarray(((asked >= DEAD) & (failed >= asked)) | _among(lines.unready, keys))


def _among(some: set[tuple[int, int, int]], keys: Ints) -> Mask:
    """Which of the blocks are among `some`."""
    if not some:
        return np.zeros(keys.shape[1], dtype=np.bool_)
    return np.array([tuple(key) in some for key in keys.T.tolist()], dtype=np.bool_)


def _check_metrics(names: list[str], lines: Lines) -> None:
    for name in names:
        if name not in lines.metrics:
            known = tuple(metric for metric in lines.metrics if metric != ATTEMPTS)
            raise UsageError(
                f"The blocks hold nothing of {name}{did_you_mean(name, known)}.",
                "Record it, or leave it out of the plan. Latency comes as latency_p50, latency_p90 and latency_p99.",
            )
        wanted = kind_of(name)
        if ":" not in name and lines.means[name] != (wanted == "mean"):
            form = "`n`, `sum` and `sumsq`" if wanted == "mean" else "`n` and `x`"
            raise UsageError(f"{name} is a {wanted}, and its lines are not.", f"Its lines hold {form}.")


def _check_whole(told: Mask, keys: Ints, names: list[str], lines: Lines) -> None:
    """A block holds every metric of the plan, or none: one of several missing is a mistake of the source."""
    broken = np.flatnonzero(told.any(axis=1) & ~told.all(axis=1))
    if broken.size:
        stream, minute, _ = keys[:, broken[0]]
        lacking = ", ".join(name for name, there in zip(names, told[broken[0]], strict=True) if not there)
        raise UsageError(
            f"Block {minute} of stream {list(lines.streams)[stream]!r} has no counts of {lacking}.",
            "Every block carries every metric of the plan.",
        )


def _plan(
    rollout: Rollout, names: list[str], lines: Lines, blocks: _Blocks, *, block_seconds: float, units_per_minute: float
) -> RolloutPlan:
    untold = blocks.weight == NO_WEIGHT
    if untold.all():
        canary, both = blocks.new[:, 0].sum(), blocks.new.sum()
        steps: tuple[int, ...] = (int(np.clip(round(100 * canary / max(both, 1)), 1, 99)),)
    else:
        steps = tuple(int(weight) for weight in np.unique(blocks.weight))
    if rollout.steps != "auto" and not untold.all():
        steps = rollout.steps
    return make_plan(
        rollout.model_copy(update={"steps": steps, "shadow": False}),
        rollout_id="replay",
        block_seconds=block_seconds,
        units_per_minute=units_per_minute,
        error_rate=_RATE,
        latency=_latency(lines),
        others={
            name: _measured(name, lines, blocks, at, block_seconds)
            for at, name in enumerate(names)
            if name not in SHARES
        },
    )


def _metrics(rollout: Rollout) -> Iterator[str]:
    for guardrail in rollout.guardrails:
        yield from SHARES if guardrail.metric == "latency" else [guardrail.metric]
    if rollout.goal:
        yield rollout.goal.metric


def _measured(name: str, lines: Lines, blocks: _Blocks, at: int, block_seconds: float) -> Measured:
    """What a metric is expected to be; a mean's first blocks say how it varies, which only tunes its test."""
    late: dict[str, Any] = {"better": "higher"} if name in lines.higher else {}
    if lines.late[name]:
        own = np.array(lines.metric) == lines.metrics[name]
        ages = np.array(lines.minute)[own] - np.array(lines.cohort)[own]
        late |= {"source": source_of(name), "delay": float(ages.min() * block_seconds)}
    if not lines.means[name]:
        return Measured(_EXPECTED.get(name, _RATE), kind="share", **late)
    first = blocks.cohorts.sums[blocks.cohorts.rank == 0][:1] if lines.late[name] else blocks.sums[blocks.place == 0]
    n, s, q = first[:, at, 3:].sum(axis=0)
    mean = s / max(n, 1)
    return Measured(float(mean), float(max(q / max(n, 1) - mean**2, 0.0)) or 1.0, "mean", **late)


def _latency(lines: Lines) -> LatencyLines:
    """What recorded latency was measured against is not in the blocks, and not needed: they hold shares."""
    return LatencyLines((0.0,) * 3, (0.0,) * 3, tuple(lines.bunching.get(name, 1.0) for name in SHARES), 0)


def _limits(rollout: Rollout, plan: RolloutPlan, pace: Floats) -> Floats:
    """Seconds until each step of each stream is given up, at its units a minute."""
    if rollout.step.max != "auto":
        return np.broadcast_to(np.array(plan.step_max), (len(pace), len(plan.steps)))
    rounded = np.array([float(f"{value:.{_DIGITS}e}") for value in pace])
    known = {value: with_traffic(plan, value).step_max for value in np.unique(rounded).tolist()}
    return np.array([known[value] for value in rounded.tolist()])


def _replay(panel: Panel, blocks: _Blocks, steps: Ints, part: slice, labels: list[str]) -> list[Replayed]:
    """Judge the streams of `part`: the k-th block of every stream at once, whatever its minute."""
    count = part.stop - part.start
    mine = slice(*np.searchsorted(blocks.stream, [part.start, part.stop]))
    units, decided, dead = np.zeros(count), np.zeros(count), np.full(count, -1)
    order = np.argsort(blocks.place[mine], kind="stable") + mine.start
    for rows in np.split(order, np.cumsum(np.bincount(blocks.place[mine]))[:-1]):
        going = rows[~_ended(panel)[blocks.stream[rows] - part.start]]
        row, before = _row(blocks, panel.plan, steps, going, part), panel.decision
        live = panel.add(row)
        changed = live & (panel.decision != before)
        units += np.where(live, row.sums[:, 0, 0] if row.new is None else row.new[:, 0], 0.0)
        decided, dead = np.where(changed, units, decided), np.where(changed & row.dead, row.index, dead)
    return [
        _told(panel, at, label, all_units=round(float(units[at])), units=round(float(decided[at])), dead=int(dead[at]))
        for at, label in enumerate(labels)
    ]


def _ended(panel: Panel) -> Mask:
    """Which rollouts are over, so that what was recorded afterwards is not theirs."""
    action, last = panel.plan.on_inconclusive, panel.step == len(panel.plan.steps) - 1
    cannot = panel.decision == INCONCLUSIVE
    ended = (action == "rollback") | ((action == "promote") & last & (panel.void == 0))
    return np.asarray(panel.final | (cannot & ended))


def _row(blocks: _Blocks, plan: RolloutPlan, steps: Ints, rows: Ints, part: slice) -> Row:
    at, count = blocks.stream[rows] - part.start, part.stop - part.start
    sums = np.zeros((count, blocks.sums.shape[1], 6))
    sums[at] = blocks.sums[rows]
    index, step, skipped = (np.zeros(count, dtype=np.int64) for _ in range(3))
    index[at], step[at], skipped[at] = blocks.minute[rows], steps[rows], blocks.skipped[rows]
    weighed, dead, present = (np.zeros(count, dtype=np.bool_) for _ in range(3))
    weighed[at], dead[at], present[at] = blocks.weight[rows] != NO_WEIGHT, blocks.dead[rows], True
    new = np.zeros((count, 2))
    new[at] = blocks.new[rows]
    late = tuple(_late(blocks.cohorts, plan, rows, part))
    return Row(index, step, sums, weighed=weighed, dead=dead, skipped=skipped, present=present, new=new, late=late)


def _late(cohorts: _Cohorts, plan: RolloutPlan, rows: Ints, part: slice) -> Iterator[Late]:
    """The cohorts that are judged with these blocks: the first of each block, then the second, and so on."""
    mine = np.flatnonzero(np.isin(cohorts.block, rows)) if len(cohorts.block) else cohorts.block
    count, names = part.stop - part.start, cohorts.sums.shape[1]
    for rank in np.unique(cohorts.rank[mine]):
        these = mine[cohorts.rank[mine] == rank]
        at = cohorts.stream[these] - part.start
        step, sums, labelled = np.zeros(count, dtype=np.int64), np.zeros((count, names, 6)), np.zeros((count, 4))
        known = np.searchsorted(plan.steps, cohorts.weight[these])
        step[at] = np.where(cohorts.weight[these] == NO_WEIGHT, 0, known)
        sums[at], labelled[at] = cohorts.sums[these], cohorts.labelled[these]
        yield Late(step, sums, labelled)


def _told(panel: Panel, stream: int, label: str, *, all_units: int, units: int, dead: int) -> Replayed:
    word = WORDS[int(panel.decision[stream])]
    if word == "continue" or (word == "promote" and not panel.final[stream]):
        return Replayed(label, "continue", None, all_units, ())
    said = reasons(panel, stream)
    if word == "rollback" and dead >= 0:
        said = (f"The canary failed every request of block {dead}, or was not ready.",)
    return Replayed(label, word, int(panel.decided[stream]), units, said)
