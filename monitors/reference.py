"""What a release's live data is compared with: the rows that its model learnt from, and its answers on the holdout.

In the store, named by its content: `references/<sha16>/reference.parquet` and `reference.json`. The rows are in the
data's own order; `part` says `train` or `holdout`. The request columns are `input.<name>`, the answers `label`, `value`
and `score`, as in recorded predictions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import TidegateError
from tidegate.monitors import facts as facts_of
from tidegate.monitors.drift import Known, Side
from tidegate.monitors.facts import KEPT, Facts, Kind, Role
from tidegate.monitors.tables import Table, connection, parquet
from tidegate.serving.telemetry import INPUT, Hidden

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from tidegate.core.store import Store

MOST: Final = 1_000_000
"""Rows of a reference; of more data a seeded sample is kept."""
SCHEMA: Final = 1
PREDICTIONS: Final = ("label", "value", "score")
_ROWS, _FACTS = "reference.parquet", "reference.json"


@dataclass(frozen=True)
class Reference:
    """The facts of a reference.

    Attributes:
        columns: by name; a request column and a prediction of the same name are told apart by `predictions`.
        predictions: label, value and score, where the model gives them.
        ordered: whether the rows are in the order of time.
        rows: of the training data that are kept, and of the holdout.
        metrics: of the holdout.
        metric: which of them the gate decides by.
        classes: of the model, as text.
        hidden: which columns are left out or hashed, as they were recorded when it was made; None: it does not say.
    """

    columns: Mapping[str, Facts]
    predictions: Mapping[str, Facts] = field(default_factory=dict)
    ordered: bool = False
    rows: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    metric: str = ""
    task: str = ""
    classes: tuple[str, ...] = ()
    hidden: Hidden | None = None

    def to_json(self) -> dict[str, Any]:
        """As `reference.json` holds it."""
        return {
            "kind": "reference",
            "schema": SCHEMA,
            "task": self.task,
            "classes": list(self.classes),
            "metric": self.metric,
            "metrics": dict(self.metrics),
            "ordered": self.ordered,
            "capture": None if self.hidden is None else self.hidden.to_json(),
            "rows": dict(self.rows),
            "columns": {name: one.to_json() for name, one in self.columns.items()},
            "predictions": {name: one.to_json() for name, one in self.predictions.items()},
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Reference:
        """Read what `to_json` wrote."""
        return Reference(
            columns={name: Facts.from_json(one) for name, one in document["columns"].items()},
            predictions={name: Facts.from_json(one) for name, one in document["predictions"].items()},
            ordered=document["ordered"],
            rows=document["rows"],
            metrics=document["metrics"],
            metric=document["metric"],
            task=document["task"],
            classes=tuple(document["classes"]),
            hidden=Hidden.from_json(said) if (said := document.get("capture")) else None,
        )


def facts(table: Table, kinds: Mapping[str, Kind], role: Role = "input", *, ordered: bool = False) -> dict[str, Facts]:
    """The facts of columns, read one at a time.

    Args:
        table: the rows.
        kinds: the columns and what they are.
        role: of all of them.
        ordered: whether the rows are in the order of time.
    """
    return {name: _facts(table, name, kind, role, ordered=ordered) for name, kind in kinds.items()}


def _facts(table: Table, name: str, kind: Kind, role: Role, *, ordered: bool) -> Facts:
    if kind in facts_of.NUMERIC:
        return facts_of.of_numbers(table.numbers(name), kind, role, ordered=ordered)
    rows = table.rows()
    nulls = rows - table.present([name])[name]
    if kind == "datetime":
        return Facts(kind, role, rows, nulls)
    made = facts_of.of_categories(table.categories(name), kind, role, rows=rows, nulls=nulls)
    if not ordered:
        return made
    codes = table.codes(name, list(made.categories))
    return replace(made, season=facts_of.category_seasons(codes, min(made.distinct, KEPT) + 1))


def of_release(
    path: Path, kinds: Mapping[str, Kind], importance: Mapping[str, float], *, ordered: bool
) -> tuple[dict[str, Facts], dict[str, Facts]]:
    """The facts of the request columns and of the predictions, from the Parquet file of a release's reference.

    Args:
        path: the file.
        kinds: of the request columns.
        importance: of the request columns.
        ordered: whether the rows are in the order of time.
    """
    with connection() as opened:
        rows = parquet(opened, path)
        learnt = Table(opened, rows.filter("part = 'train'"), INPUT)
        columns = {
            name: replace(one, importance=importance.get(name))
            for name, one in facts(learnt, kinds, ordered=ordered).items()
        }
        answers = Table(opened, rows.filter("part = 'holdout'"))
        given = [name for name, count in answers.present(PREDICTIONS).items() if count]
        predictions = {name: _facts(answers, name, _PREDICTED[name], "prediction", ordered=ordered) for name in given}
    return columns, predictions


_PREDICTED: Final[Mapping[str, Kind]] = {"label": "string", "value": "number", "score": "number"}


def save(store: Store, rows: Path, reference: Reference) -> str:
    """Store a reference; returns its name, the first 16 digits of its content's sha256."""
    content = rows.read_bytes()
    document = json.dumps(reference.to_json(), allow_nan=False).encode()
    name = hashlib.sha256(hashlib.sha256(content).digest() + document).hexdigest()[:16]
    store.write(f"references/{name}/{_ROWS}", content)
    # Last: a reference is whole or absent.
    store.write(f"references/{name}/{_FACTS}", document)
    return name


def load(store: Store, name: str) -> Reference:
    """Read the facts of a reference.

    Raises:
        TidegateError: it is missing, damaged, or of a newer tidegate.
    """
    again = "Ship once more to make it again, or restore the store from a backup."
    try:
        document = json.loads(store.read(f"references/{name}/{_FACTS}"))
    except (FileNotFoundError, ValueError) as error:
        raise TidegateError(f"The reference {name} is missing or damaged.", again) from error
    if document.get("schema") != SCHEMA:
        raise TidegateError(f"The reference {name} was made by a newer tidegate.", "Upgrade this one.")
    try:
        return Reference.from_json(document)
    except (KeyError, TypeError) as error:
        raise TidegateError(f"The reference {name} is damaged.", again) from error


def opened(store: Store, name: str, connected: DuckDBPyConnection) -> tuple[Reference, Known]:
    """A reference with its rows, ready to compare with.

    Raises:
        TidegateError: as `load` does, or its rows are gone.
    """
    reference = load(store, name)
    path = f"references/{name}/{_ROWS}"
    if not store.exists(path):
        raise TidegateError(f"The rows of the reference {name} are missing.", "Restore the store from a backup.")
    if store.filesystem is not None:
        connected.register_filesystem(store.filesystem)
    rows = parquet(connected, store.location(path))
    learnt, answers = (Table(connected, rows.filter(f"part = '{part}'")) for part in ("train", "holdout"))
    return reference, Known(
        Side(reference.columns, replace(learnt, prefix=INPUT)), Side(reference.predictions, answers)
    )
