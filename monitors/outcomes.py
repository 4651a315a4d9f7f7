"""What is said about a window, and about each of its columns. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ColumnOutcome = Literal[
    "ok",
    "drifted",
    "missing_column",
    "all_null",
    "type_changed",
    "new_category",
    "too_few_rows",
    "no_reference",
    "not_comparable",
]
WindowOutcome = Literal["drift", "no_drift", "cannot_tell"]


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """One column of a window against the reference.

    It drifted if `value - floor > threshold`, if its share of missing values did, or if it is not there as it was.

    Attributes:
        name: of the request column; of a prediction label, value or score.
        kind: of the reference.
        outcome: in one word; `new_category` may be too few rows to be drift.
        drifted: what counts.
        weight: its part of the model's decisions, 0 to 1, all columns together 1.
        method: of the distance; None where none could be taken.
        value: the distance.
        floor: what chance and the reference's own seasons make at these sample sizes.
        threshold: the effect size above the floor that is drift.
        nulls: share of rows without a value, of the reference and of the window.
        means: of the reference and of the window, for numbers.
        new: the share of the window's rows of each new category, the most frequent five.
        note: what else a person should know, in a sentence.
    """

    name: str
    kind: str
    outcome: ColumnOutcome
    drifted: bool
    weight: float = 0.0
    method: str | None = None
    value: float | None = None
    floor: float | None = None
    threshold: float | None = None
    nulls: tuple[float, float] | None = None
    means: tuple[float, float] | None = None
    new: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `monitor run --json` and `drift.json` hold it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "method": self.method,
            "value": self.value,
            "floor": self.floor,
            "threshold": self.threshold,
            "drifted": self.drifted,
            "outcome": self.outcome,
            "importance": self.weight,
            "nulls": _pair(self.nulls),
            "mean": _pair(self.means),
            "new": [{"value": value, "share": share} for value, share in self.new.items()],
            "note": self.note,
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> ColumnResult:
        """Read what `to_json` wrote."""
        same = {name: document[name] for name in ("name", "kind", "outcome", "drifted", "method", "value", "floor")}
        return ColumnResult(
            **same,
            threshold=document["threshold"],
            weight=document["importance"],
            nulls=_read_pair(document["nulls"]),
            means=_read_pair(document["mean"]),
            new={one["value"]: one["share"] for one in document["new"]},
            note=document["note"],
        )


@dataclass(frozen=True, slots=True)
class Compared:
    """A window against a reference.

    Attributes:
        rows: of the window.
        outcome: drift, no_drift or cannot_tell.
        share: the weight of the columns that drifted, 0 to 1; None where nothing could be compared.
        columns: the request columns.
        predictions: what the model answered: label, value, score.
        reasons: why the outcome is what it is, in sentences, the most important first.
    """

    rows: int
    outcome: WindowOutcome
    share: float | None
    columns: tuple[ColumnResult, ...]
    predictions: tuple[ColumnResult, ...]
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The part of `drift.json` that the comparison fills."""
        return {
            "outcome": self.outcome,
            "share": self.share,
            "columns": [one.to_json() for one in self.columns],
            "predictions": [one.to_json() for one in self.predictions],
            "reasons": list(self.reasons),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Compared:
        """Read what `to_json` wrote, from a document that has `window.rows` beside it."""
        return Compared(
            document["window"]["rows"],
            document["outcome"],
            document["share"],
            tuple(ColumnResult.from_json(one) for one in document["columns"]),
            tuple(ColumnResult.from_json(one) for one in document["predictions"]),
            tuple(document["reasons"]),
        )


def _read_pair(document: Mapping[str, float] | None) -> tuple[float, float] | None:
    return None if document is None else (document["reference"], document["window"])


def _pair(values: tuple[float, float] | None) -> dict[str, float] | None:
    return None if values is None else {"reference": values[0], "window": values[1]}
