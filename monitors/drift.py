"""Is this window still what the model learnt from? Exact statistics of every row, column by column, then one verdict.

A column drifts if its distance from the reference passes the threshold by more than chance and season explain (see
`noise.limit`), or if it is not there, empty, or of another type. A window drifts if the columns that make up a share of
the model's decisions drift, or if what the model answers does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tidegate.monitors.columns import Pair, judge
from tidegate.monitors.facts import Facts
from tidegate.monitors.outcomes import ColumnResult, Compared, WindowOutcome
from tidegate.monitors.tables import Table

if TYPE_CHECKING:
    from tidegate.core.config_live import Monitor

_NAMED: Final = 5
_UNKNOWN: Final = frozenset({"too_few_rows", "no_reference", "not_comparable"})


@dataclass(frozen=True)
class Side:
    """Columns of a reference: their facts, and their rows."""

    facts: Mapping[str, Facts]
    table: Table


@dataclass(frozen=True)
class Known:
    """What a window is compared with.

    Args:
        inputs: the request columns of the rows that the model learnt from.
        predictions: its answers on the holdout; None: not known.
    """

    inputs: Side
    predictions: Side | None = None


def compare(
    known: Known,
    inputs: Table,
    predictions: Table | None,
    policy: Monitor,
    *,
    left_out: Collection[str] = (),
    unlike: Mapping[str, str] | None = None,
) -> Compared:
    """Judge a window.

    Args:
        known: the reference.
        inputs: the window's rows, for the request columns.
        predictions: those of them that the reference's own release answered; None: nothing is known of them.
        policy: the section `monitor`.
        left_out: columns that are not recorded, on purpose.
        unlike: columns that were recorded in another way than the reference has them, and since when, in a sentence.
    """
    rows = inputs.rows()
    if rows < policy.min_rows:
        return cannot_tell(rows, policy.min_rows)
    unlike = unlike or {}
    wanted = {name: facts for name, facts in known.inputs.facts.items() if name in unlike or name not in left_out}
    columns = _weighted(_judged(Side(wanted, known.inputs.table), inputs, policy, unlike), wanted)
    answers: tuple[ColumnResult, ...] = ()
    if predictions is not None and known.predictions is not None:
        answers = _judged(known.predictions, predictions, policy)
    return _verdict(rows, columns, answers, policy.drift.drifted_share)


def cannot_tell(rows: int, min_rows: int) -> Compared:
    """What is said of a window that is empty, or too small."""
    few = "no prediction was recorded" if not rows else f"{rows:,} rows, and monitor.min_rows is {min_rows:,}"
    return Compared(rows, "cannot_tell", None, (), (), (few,))


def _judged(
    known: Side, window: Table, policy: Monitor, unlike: Mapping[str, str] = MappingProxyType({})
) -> tuple[ColumnResult, ...]:
    kinds = window.kinds
    present = window.present([name for name in known.facts if name in kinds])
    rows = window.rows()
    pairs = [Pair(name, facts, known.table, window, rows, present.get(name)) for name, facts in known.facts.items()]
    return tuple(
        ColumnResult(pair.name, pair.facts.kind, "not_comparable", drifted=False, note=unlike[pair.name])
        if pair.name in unlike
        else judge(pair, policy.drift, policy.min_rows)
        for pair in pairs
    )


def _weighted(columns: Sequence[ColumnResult], facts: Mapping[str, Facts]) -> tuple[ColumnResult, ...]:
    """Each column's part of the model's decisions; equal parts where none is known."""
    importance = [max(0.0, facts[one.name].importance or 0.0) for one in columns]
    if not sum(importance):
        importance = [1.0] * len(columns)
    return tuple(
        replace(one, weight=round(part / sum(importance), 6)) for one, part in zip(columns, importance, strict=True)
    )


def _verdict(
    rows: int, columns: tuple[ColumnResult, ...], answers: tuple[ColumnResult, ...], enough: float
) -> Compared:
    if all(one.outcome in _UNKNOWN for one in (*columns, *answers)):
        why = _unseen(columns) or "the reference has too little to compare with"
        return Compared(rows, "cannot_tell", None, columns, answers, (why,))
    drifted = sorted((one for one in columns if one.drifted), key=lambda one: -one.weight)
    share = min(1.0, round(sum(one.weight for one in drifted), 6))
    moved = [one for one in answers if one.drifted]
    reasons = [f"the model's {one.name} moved: {_how_far(one)}" for one in moved]
    if drifted:
        line = "which is drift" if share >= enough else f"and drifted_share is {enough:.0%}"
        reasons.append(f"{_named(drifted)} drifted: {share:.0%} of what the model decides by, {line}")
    hidden = _unseen(columns)
    # What could be drift and cannot be seen is no sign that there is none.
    blind = sum(one.weight for one in columns if one.outcome == "not_comparable") >= enough
    if hidden:
        reasons.insert(0 if blind and not (moved or share >= enough) else len(reasons), hidden)
    if not reasons:
        reasons.append("nothing moved by more than chance and season explain")
    outcome: WindowOutcome = "drift" if moved or share >= enough else "cannot_tell" if blind else "no_drift"
    return Compared(rows, outcome, share, columns, answers, tuple(reasons))


def _unseen(columns: Sequence[ColumnResult]) -> str:
    """Which columns cannot be compared because they are recorded in another way now, the most important first."""
    unlike = sorted((one for one in columns if one.outcome == "not_comparable"), key=lambda one: -one.weight)
    if not unlike:
        return ""
    shown = ", ".join(one.name for one in unlike[:_NAMED])
    more = f" and {len(unlike) - _NAMED} more" if len(unlike) > _NAMED else ""
    share = sum(one.weight for one in unlike)
    return f"{shown}{more} ({share:.0%} of what the model decides by): {unlike[0].note}"


def _named(columns: Sequence[ColumnResult]) -> str:
    shown = [f"{one.name} ({_how_far(one)})" for one in columns[:_NAMED]]
    return ", ".join(shown) + (f" and {len(columns) - _NAMED} more" if len(columns) > _NAMED else "")


def _how_far(one: ColumnResult) -> str:
    """The distance and what it must pass, or what happened to the column."""
    if one.value is None or one.floor is None or one.threshold is None:
        return one.outcome.replace("_", " ")
    limit = one.floor + one.threshold
    return f"{one.method} {one.value:.3g}, limit {limit:.3g}" if one.value > limit else "missing values"
