"""Blocks as JSON lines, the form of `rollout replay` and of `POST /v1/blocks`.

A line holds what one source counted of one metric on one arm in one block. A metric that is known late names, as
`cohort`, the block in which its users were new; `minute` is then the block it was judged with, and `weight` the one of
the cohort. Writing and reading stand side by side.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tidegate.core.errors import UsageError
from tidegate.rollouts.blocks import Block, Cohort, Counts, Moments, Sums

ATTEMPTS = "attempts"
"""The metric name under which JSON lines carry raw requests (n) and failures (x)."""

NO_WEIGHT = -1
"""Stands for a weight that a line does not tell."""
NO_COHORT = -1
"""Stands for the cohort of what was known at once."""

CANARY, STABLE = 0, 1
_ARMS: Final = {"canary": CANARY, "stable": STABLE}
_EXAMPLE = '{"stream": "a", "minute": 0, "arm": "canary", "metric": "error_rate", "n": 60, "x": 1}'
_WHOLE = 100


def to_lines(
    stream: str, block: Block, bunching: Mapping[str, float] | None = None, higher: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The block as JSON lines ``{stream, minute, arm, metric, n, x, weight?}``; `minute` is the index of the block.

    A mean has ``sum, sumsq`` in place of `x`. Raw requests are two lines of the metric "attempts"; the canary's also
    carries `misrouted`, `ready` and `skipped` when they say something. `bunching` is the design effect of each metric:
    lines of one that is not 1 carry it, because their counts are worth so many times less. `higher` are metrics of the
    user's own that are better when higher, which their lines say because no name tells it.
    """
    head: dict[str, Any] = {"stream": stream, "minute": block.index}
    tail: dict[str, Any] = {} if block.weight is None else {"weight": block.weight}
    lines = []
    for cohort in block.matured:
        told = {} if cohort.weight is None else {"weight": cohort.weight}
        for metric, sums in cohort.metrics.items():
            good = {"better": "higher"} if metric in higher else {}
            lines += [{**head, **one, **told, **good, "cohort": cohort.index} for one in _arms(metric, sums)]
    for metric, sums in [*block.metrics.items(), (ATTEMPTS, block.attempts)]:
        effect = (bunching or {}).get(metric, 1.0)
        worth = {} if effect == 1 else {"bunching": effect}
        lines += [{**head, **one, **tail, **worth} for one in _arms(metric, sums)]
    if block.misrouted:
        lines[-2]["misrouted"] = block.misrouted
    if not block.ready:
        lines[-2]["ready"] = False
    if block.skipped:
        lines[-2]["skipped"] = block.skipped
    return lines


def _arms(metric: str, sums: Sums) -> Iterator[dict[str, Any]]:
    n1, x1, q1, n0, x0, q0 = sums.row
    for arm, n, x, q in (("canary", n1, x1, q1), ("stable", n0, x0, q0)):
        counted = {"n": n, "x": x} if isinstance(sums, Counts) else {"n": n, "sum": x, "sumsq": q}
        yield {"arm": arm, "metric": metric, **counted}


@dataclass
class Lines:
    """Any number of lines as columns: one entry of each array for each line that was kept.

    Attributes:
        streams: their names, in the order in which they came; `stream` holds positions in it.
        metrics: the same for `metric`.
        means: which metrics came as sums of a quantity.
        late: which metrics came for cohorts; `cohort` holds theirs, `NO_COHORT` of the others.
        bunching: the largest design effect that lines of a metric carry.
        higher: the user's own metrics whose lines say that they are better when higher.
        q: sums of squares; of counts the events once more.
        misrouted: (stream, minute, weight) -> requests that the other arm answered.
        unready: blocks at whose end the canary was not ready.
        skipped: (stream, minute, weight) -> empty blocks right before it that nobody watched.
    """

    streams: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, int] = field(default_factory=dict)
    means: dict[str, bool] = field(default_factory=dict)
    late: dict[str, bool] = field(default_factory=dict)
    bunching: dict[str, float] = field(default_factory=dict)
    higher: set[str] = field(default_factory=set)
    stream: array[int] = field(default_factory=lambda: array("l"))
    minute: array[int] = field(default_factory=lambda: array("l"))
    weight: array[int] = field(default_factory=lambda: array("l"))
    arm: array[int] = field(default_factory=lambda: array("b"))
    metric: array[int] = field(default_factory=lambda: array("l"))
    n: array[float] = field(default_factory=lambda: array("d"))
    x: array[float] = field(default_factory=lambda: array("d"))
    q: array[float] = field(default_factory=lambda: array("d"))
    sources: dict[str, int] = field(default_factory=dict)
    source: array[int] = field(default_factory=lambda: array("l"))
    cohort: array[int] = field(default_factory=lambda: array("l"))
    misrouted: dict[tuple[int, int, int], int] = field(default_factory=dict)
    unready: set[tuple[int, int, int]] = field(default_factory=set)
    skipped: dict[tuple[int, int, int], int] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[array[Any], ...]:
        """Stream, minute, weight, arm, metric, n, x, q."""
        return tuple(getattr(self, name) for name in _COLUMNS)


_COLUMNS: Final = ("stream", "minute", "weight", "arm", "metric", "n", "x", "q")


def parse(text: Iterable[str | bytes]) -> Iterator[Mapping[str, Any]]:
    """JSON of each line that is not empty.

    Raises:
        UsageError: a line is no JSON object.
    """
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except ValueError as error:
            raise UsageError(f"Line {number} of the blocks is no JSON: {error}.", _hint()) from error
        if not isinstance(document, dict):
            raise UsageError(f"Line {number} of the blocks is no JSON object.", _hint())
        yield document


def read(lines: Iterable[Mapping[str, Any]]) -> Lines:
    """Read lines of any number of streams, in any order.

    Lines of several sources add up. The same line of the same `source` counts once, so that a file may hold what was
    sent twice.

    Raises:
        UsageError: a line lacks a field, its counts cannot be, or it contradicts an earlier one.
    """
    found = Lines()
    for number, line in enumerate(lines, 1):
        try:
            _take(line, found)
        except UsageError as error:
            raise UsageError(f"Line {number} of the blocks: {error.message}", error.hint) from error
        except KeyError as error:
            raise UsageError(f"Line {number} of the blocks lacks or misnames {error}.", _hint()) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"Line {number} of the blocks cannot be read: {error}.", _hint()) from error
    _count_once(found)
    return found


def _count_once(found: Lines) -> None:
    """Drop every line that says again what an earlier one said.

    Raises:
        UsageError: it says something else.
    """
    import numpy as np

    keys = np.array([found.stream, found.minute, found.weight, found.arm, found.metric, found.source, found.cohort])
    sums = np.array([found.n, found.x, found.q])
    # Stable, so of equal lines the first stays.
    order = np.lexsort(keys)
    again = (keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0)
    later, earlier = order[1:][again], order[:-1][again]
    other = (sums[:, later] != sums[:, earlier]).any(axis=0)
    if other.any():
        at = int(later[other].min())
        before = int(earlier[later == at][0])
        metric, arm = list(found.metrics)[found.metric[at]], list(_ARMS)[found.arm[at]]
        raise UsageError(
            f"Line {at + 1} of the blocks: {metric} of the {arm} arm in block {found.minute[at]} was "
            f"{(found.n[before], found.x[before])} before and is {(found.n[at], found.x[at])} now.",
            "Counts of several replicas add up when each line names its `source`.",
        )
    _refuse_cohorts_twice(keys)
    if later.size:
        kept = np.ones(len(found.n), dtype=np.bool_)
        kept[later] = False
        for name in (*_COLUMNS, "source", "cohort"):
            column = getattr(found, name)
            setattr(found, name, array(column.typecode, np.array(column)[kept].tolist()))


def _refuse_cohorts_twice(keys: Any) -> None:
    """A cohort is judged once: told again with another block, its users would count twice.

    Raises:
        UsageError: one is.
    """
    import numpy as np

    late = np.flatnonzero(keys[6] != NO_COHORT)
    whole = np.unique(keys[:, late], axis=1)
    once = np.unique(np.delete(whole, 1, axis=0), axis=1)
    if whole.shape[1] > once.shape[1]:
        raise UsageError(
            "A cohort comes with several blocks.", "It is judged once, with the block (`minute`) in which it matured."
        )


def _take(line: Mapping[str, Any], found: Lines) -> None:
    name, mean, cohort = str(line["metric"]), "sum" in line, line.get("cohort")
    weight, source = line.get("weight"), line.get("source")
    n, x, q = _sums(line, mean=mean)
    stream = found.streams.setdefault(str(line.get("stream", "")), len(found.streams))
    minute = _whole(line["minute"], "minute")
    share = NO_WEIGHT if weight is None else _whole(weight, "weight", _WHOLE)
    if found.means.setdefault(name, mean) != mean:
        raise UsageError(f"{name} comes as counts and as sums.", "A metric is `n` and `x`, or `n`, `sum` and `sumsq`.")
    _take_cohort(name, cohort, minute, found)
    found.arm.append(_ARMS[line["arm"]])
    found.stream.append(stream)
    found.minute.append(minute)
    found.weight.append(share)
    found.metric.append(found.metrics.setdefault(name, len(found.metrics)))
    found.source.append(0 if source is None else found.sources.setdefault(str(source), len(found.sources) + 1))
    found.n.append(n)
    found.x.append(x)
    found.q.append(q)
    _extra(line, found, (stream, minute, share), name)


def _take_cohort(name: str, cohort: Any, minute: int, found: Lines) -> None:
    late = cohort is not None
    if found.late.setdefault(name, late) != late:
        raise UsageError(
            f"{name} comes with a cohort and without.", "A metric is known late in every block, or in none."
        )
    if late and _whole(cohort, "cohort") > minute:
        raise UsageError(f"The cohort {cohort} is newer than block {minute}.", "It is an earlier block, or the same.")
    found.cohort.append(int(cohort) if late else NO_COHORT)


def _sums(line: Mapping[str, Any], *, mean: bool) -> tuple[float, float, float]:
    """(n, x, x) of counts, (n, sum, sumsq) of a mean; checked as `Counts` and `Moments` do."""
    if mean:
        n, s, q = _number(line["n"]), _number(line["sum"]), _number(line["sumsq"])
        Moments(n, s, q)
        return n, s, q
    n, x = _number(line["n"]), _number(line["x"])
    Counts(n, x)
    return n, x, x


def _number(value: Any) -> float:
    if value.__class__ is not int and value.__class__ is not float:
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _whole(value: Any, name: str, most: int = 10**12) -> int:
    number = _number(value)
    if not (0 <= number <= most and number == int(number)):
        raise UsageError(f"{name} is {value!r}.", f"A {name} is a whole number from 0 on.")
    return int(number)


def _extra(line: Mapping[str, Any], found: Lines, block: tuple[int, int, int], metric: str) -> None:
    if "bunching" in line:
        found.bunching[metric] = max(found.bunching.get(metric, 1.0), _effect(line["bunching"]))
    if "better" in line:
        _better(line["better"], metric, found)
    if line.get("misrouted"):
        found.misrouted[block] = max(found.misrouted.get(block, 0), _whole(line["misrouted"], "misrouted"))
    if line.get("ready") is False:
        found.unready.add(block)
    if line.get("skipped") and "cohort" not in line:
        found.skipped[block] = _whole(line["skipped"], "skipped")


def _better(value: Any, metric: str, found: Lines) -> None:
    if value not in {"lower", "higher"}:
        raise UsageError(f"better is {value!r}.", "It is lower or higher, and is said of metrics of your own.")
    if value == "higher":
        found.higher.add(metric)


def _effect(value: Any) -> float:
    number = _number(value)
    if not 1 <= number < float("inf"):
        raise UsageError(f"bunching is {value!r}.", "A design effect is 1 or more.")
    return number


def _hint() -> str:
    return f"A line looks like {_EXAMPLE}."


def from_lines(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Block]]:
    """Read JSON lines as the blocks of each stream, oldest first.

    Raises:
        UsageError: see `read`.
    """
    found = read(lines)
    names = list(found.metrics)
    blocks: dict[int, dict[tuple[int, int], Block]] = {number: {} for number in found.streams.values()}
    matured: dict[tuple[int, int], list[Cohort]] = {}
    for stream, minute, weight, arm, metric, n, x, q, cohort in zip(*found.columns, found.cohort, strict=True):
        one = _block(minute, weight, names[metric], (n, x, q), canary=arm == CANARY, mean=found.means[names[metric]])
        if cohort != NO_COHORT:
            matured.setdefault((stream, minute), []).append(Cohort(cohort, _told(weight), one.metrics))
            continue
        known = blocks[stream]
        known[minute, weight] = known[minute, weight] + one if (minute, weight) in known else one
    for (stream, minute), cohorts in matured.items():
        weight = last_weight(list(found.streams)[stream], minute, [w for m, w in blocks[stream] if m == minute])
        for each in cohorts:
            blocks[stream][minute, weight] += Block(minute, _told(weight), matured=(each,))
    for (stream, minute, weight), count in found.misrouted.items():
        blocks[stream][minute, weight] += Block(minute, _told(weight), misrouted=count)
    for stream, minute, weight in found.unready:
        blocks[stream][minute, weight] += Block(minute, _told(weight), ready=False)
    for (stream, minute, weight), count in found.skipped.items():
        blocks[stream][minute, weight] += Block(minute, _told(weight), skipped=count)
    return {name: [blocks[number][key] for key in sorted(blocks[number])] for name, number in found.streams.items()}


def last_weight(stream: str, minute: int, weights: list[int]) -> int:
    """The weight of the block that cohorts of its minute are judged with: the last one of that minute.

    Raises:
        UsageError: there is none.
    """
    if not weights:
        raise UsageError(
            f"Block {minute} of stream {stream!r} has cohorts, and no line of its own.",
            f"Every block has lines of `{ATTEMPTS}` at least, with n = 0 where nobody came.",
        )
    return max(weights)


def _block(
    minute: int, weight: int, metric: str, sums: tuple[float, float, float], *, canary: bool, mean: bool
) -> Block:
    n, x, q = sums
    if mean:
        moments = Moments(n1=n, s1=x, q1=q) if canary else Moments(n0=n, s0=x, q0=q)
        return Block(minute, _told(weight), {metric: moments})
    counts = Counts(n1=n, x1=x) if canary else Counts(n0=n, x0=x)
    if metric == ATTEMPTS:
        return Block(minute, _told(weight), {}, counts)
    return Block(minute, _told(weight), {metric: counts})


def _told(weight: int) -> int | None:
    return None if weight == NO_WEIGHT else weight
