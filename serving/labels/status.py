"""What there is: how many predictions have their truth, which labels name nobody, which are no answer of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from tidegate.core.store import Store
from tidegate.serving.labels import stored
from tidegate.serving.labels.join import answered, first_record, joined
from tidegate.serving.labels.maturity import Maturity, maturity
from tidegate.serving.labels.rows import SKEW, Kind
from tidegate.serving.telemetry import folder, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

_MOST_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Share:
    """How many predictions of one version on one arm have a label."""

    version: int | None
    release: str | None
    arm: str
    predictions: int
    labelled: int


@dataclass(frozen=True, slots=True)
class Status:
    """The labels of one stream.

    Args:
        since: of the predictions that are counted; None where there are none.
        shares: by version and arm, the one with most predictions first.
        predictions: that were answered.
        labelled: of these.
        ambiguous: truths that came by a name which several predictions have.
        labels: ids that have a label in the store.
        unknown: of these, ids that no recorded prediction has.
        strange: label -> how many ids, of labels that are no class of the model, or no number for a regression.
        maturity: how long truth takes to come.
    """

    since: datetime | None
    shares: tuple[Share, ...]
    predictions: int
    labelled: int
    ambiguous: int
    labels: int
    unknown: int
    maturity: Maturity
    strange: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Matched:
    """How many ids of some rows name a recorded prediction (or its user), and how many name none so far.

    `callers` is how many of the unknown ones are the caller's own.
    """

    known: int
    unknown: int
    callers: int = 0
    strange: Mapping[str, int] = field(default_factory=dict)


def status(
    connection: DuckDBPyConnection, store: Store, stream: str, now: datetime, since: datetime | None = None
) -> Status:
    """All there is, or what was predicted since a time; labels of every age count.

    Args:
        connection: where it is computed.
        store: where predictions and labels are.
        stream: of the model and environment.
        now: the time of asking.
        since: only predictions from here on.
    """
    first = first_record(store, stream)
    begin = now if first is None else max(first, since or first)
    rows = joined(connection, store, stream, begin, now + SKEW)
    shares = tuple(
        Share(version, release, arm or "", predictions, labelled)
        for version, release, arm, predictions, labelled in rows.aggregate(
            "version, release, arm, count(*) as predictions, count(truth)"
        )
        .order("predictions desc, version, arm")
        .fetchall()
    )
    ((ambiguous,),) = rows.aggregate("count_if(ambiguous)").fetchall()
    found = stored.reading(
        store,
        "labels",
        stream,
        connection,
        lambda labels: matched(connection, store, stream, "labels", labels, now=now),
    )
    return Status(
        since=None if first is None else begin,
        shares=shares,
        predictions=sum(one.predictions for one in shares),
        labelled=sum(one.labelled for one in shares),
        ambiguous=ambiguous,
        labels=found.known + found.unknown,
        unknown=found.unknown,
        maturity=maturity(rows, now),
        strange=found.strange,
    )


def matched_file(
    connection: DuckDBPyConnection, store: Store, stream: str, kind: Kind, file: str | None, *, now: datetime
) -> Matched:
    """How much of a file in the store names recorded predictions."""
    if file is None:
        return Matched(0, 0)
    stored.attach(connection, store)
    rows = connection.read_parquet(store.location(file), hive_partitioning=False)
    return matched(connection, store, stream, kind, rows, now=now)


def matched(
    connection: DuckDBPyConnection, store: Store, stream: str, kind: Kind, rows: DuckDBPyRelation, *, now: datetime
) -> Matched:
    """How many ids of `rows` are recorded.

    Args:
        connection: where it is computed.
        store: where predictions are.
        stream: of the model and environment.
        kind: of the rows.
        rows: with the columns of the store.
        now: the newest predictions that are looked at.
    """
    first = first_record(store, stream) or now
    predictions = answered(connection, store, stream, first, now + timedelta(hours=1))
    unit = "unit::varchar" if kind == "outcomes" else "null"
    ids = rows.project(f'"by", coalesce(key, {unit}) as name').distinct()
    counts = dict(ids.aggregate('"by", count(*)').fetchall())
    recorded = {}
    for by, column in (("prediction", "id"), ("caller", "caller"), ("unit", "unit::varchar")):
        there = predictions.project(f"{column} as name").set_alias("p")
        named = ids.filter(f"\"by\" = '{by}'").set_alias("i").join(there, "i.name = p.name", how="semi")
        ((recorded[by],),) = named.aggregate("count(*)").fetchall()
    known = sum(recorded.values())
    return Matched(
        known=known,
        unknown=sum(counts.values()) - known,
        callers=counts.get("caller", 0) - recorded["caller"],
        strange=_strange(rows, store, stream) if kind == "labels" else {},
    )


def _strange(labels: DuckDBPyRelation, store: Store, stream: str) -> Mapping[str, int]:
    """Labels that are no answer of the version whose records are the newest."""
    task, classes = _served(store, stream)
    if task == "regression":
        wrong = "try_cast(label as double) is null"
    elif classes:
        wrong = f"label not in ({', '.join(map(text, classes))})"
    else:
        return {}
    counts = labels.filter(wrong).aggregate("label, count(distinct key) as ids").order("ids desc, label")
    return dict(counts.limit(_MOST_NAMED).fetchall())


def _served(store: Store, stream: str) -> tuple[str, tuple[str, ...]]:
    """The task and the classes of the newest file of records."""
    files = [name for name in store.list(folder(stream)) if name.endswith(".parquet")]
    about = stored.metadata(store, files[-1]) if files else {}
    classes = json.loads(about.get(b"tidegate.classes", b"[]"))
    return about.get(b"tidegate.task", b"").decode(), tuple(classes)
