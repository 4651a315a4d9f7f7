"""What the store holds of users who were exposed: their predictions with the truth, and their outcome events.

DuckDB reads telemetry, labels and outcomes of the time in question only; the rules of `late` say which prediction is a
user's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tidegate.core.store import Store
from tidegate.rollouts.blocks import Cohort, Exposed
from tidegate.rollouts.late import OUTCOME, cohorts
from tidegate.rollouts.plan import GoalPlan, Stream
from tidegate.serving import labels
from tidegate.serving.labels import stored
from tidegate.serving.small_reads import small_connection
from tidegate.serving.telemetry import INPUT, Predictions

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

    from tidegate.rollouts.late import Own

# How much later the service may note a request than the gateway; the first answer is found by its id all the same.
_SKEW: Final = timedelta(seconds=5)
_COLUMNS: Final = ("id", "at", "unit", "arm", "label", "value", "score", "probabilities", "truth", "truth_received")
_CLASSES: Final = b"tidegate.classes"
_WHAT: Final = "What became of the rollout's users"


@dataclass(frozen=True, slots=True)
class Exposure:
    """A user, and until when a prediction may be theirs: the end of the block or of its weight, in epoch seconds."""

    user: Exposed
    until: float


class LateReading:
    """Reads one stream's records.

    Args:
        store: where they are.
        stream: of the model and environment.
        own: calls the user's functions.
    """

    def __init__(self, store: Store, stream: str, own: Own) -> None:
        self._store, self._stream, self._own = store, stream, own

    def cohorts(
        self, metrics: Sequence[Stream | GoalPlan], exposed: Sequence[Exposure], settle: float
    ) -> tuple[Cohort, ...]:
        """The sums of metrics of one age over these users.

        Raises:
            OwnMetricFailed: a function of the user's does not answer.
            TidegateError: what the store holds cannot be read.
        """
        age = max(one.delay for one in metrics)
        whole = any(one.source == "own" for one in metrics)
        return cohorts(metrics, self.frame(exposed, age, settle, inputs=whole), self._own)

    def late_labels(self, since: float, until: float, age: float) -> int:
        """How many predictions of [since, until) have a truth that came, or changed, after they had reached an age."""
        with small_connection(_WHAT) as connection:
            known = labels.joined(connection, self._store, self._stream, _moment(since), _moment(until))
            late = known.filter(f'truth_received > "at" + interval {round(age * 1e6)} microseconds')
            ((count,),) = late.aggregate("count(*)").fetchall()
        return int(count)

    def frame(self, exposed: Sequence[Exposure], age: float, settle: float, *, inputs: bool = False) -> pd.DataFrame:
        """One row for each of these users, in their order: see `late`, and `block` and `weight`.

        Args:
            exposed: at least one.
            age: seconds after a prediction within which its label must have come; seconds after the exposure within
                which an outcome must have happened.
            settle: seconds after that within which the outcome must have come.
            inputs: whether the model's own columns are wanted.
        """
        since = _moment(min(one.user.at for one in exposed)) - _SKEW
        until = _moment(max(one.until for one in exposed)) + _SKEW
        with small_connection(_WHAT) as connection:
            connection.register("exposed", _table(exposed))
            self._predictions(connection, since, until, timedelta(seconds=age), inputs=inputs)
            frame: pd.DataFrame = connection.sql(_FRAME).df()
            classes = self._classes(since, until)
            frame["prediction"] = frame["label"] if classes else frame["value"]
            names = [name for name in map(str, frame) if name.startswith(INPUT)] if inputs else []
            found: pd.DataFrame = frame[[*_SHOWN, *names]]
            for name, sums in self._outcomes(connection, since, until + timedelta(seconds=age), age, settle).items():
                found = found.assign(**{OUTCOME + name: sums})
            if inputs:
                # What a function may read must not depend on who happens to be in a cohort.
                absent = [OUTCOME + name for name in self._ever(connection) if OUTCOME + name not in found]
                found = found.assign(**dict.fromkeys(absent, 0.0))
        found.attrs["classes"] = classes
        return found

    def _predictions(
        self, connection: DuckDBPyConnection, since: datetime, until: datetime, within: timedelta, *, inputs: bool
    ) -> None:
        joined = labels.joined(connection, self._store, self._stream, since, until, within=within)
        wanted = [name for name in joined.columns if name in _COLUMNS or (inputs and name.startswith(INPUT))]
        joined.project(", ".join(f'"{name}"' for name in wanted)).create("told")

    def _outcomes(
        self, connection: DuckDBPyConnection, since: datetime, until: datetime, age: float, settle: float
    ) -> dict[str, pd.Series]:
        events = labels.outcomes(connection, self._store, self._stream, since, until)
        events.create("events")
        happened = _OUTCOMES.format(age=round(age * 1e6), known=round((age + settle) * 1e6))
        rows = connection.sql(happened).df()
        count = len(connection.sql("from exposed"))
        return {
            str(name): found.set_index("row")["value"].reindex(range(count), fill_value=0.0)
            for name, found in rows.groupby("name")
        }

    def _ever(self, connection: DuckDBPyConnection) -> list[str]:
        """The names of all outcomes that ever came."""

        def names(events: DuckDBPyRelation) -> list[str]:
            return [str(name) for (name,) in events.project("name").distinct().order("name").fetchall()]

        return stored.reading(self._store, "outcomes", self._stream, connection, names)

    def _classes(self, since: datetime, until: datetime) -> tuple[str, ...]:
        """What the places of `probabilities` stand for; empty for a quantity. Both arms have the same (the gate)."""
        import pyarrow.parquet as pq

        for path in reversed(Predictions(self._store, self._stream).files(since, until)):
            about = pq.read_metadata(io.BytesIO(self._store.read(path))).metadata or {}
            return tuple(json.loads(about.get(_CLASSES, b"[]")))
        return ()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _table(exposed: Sequence[Exposure]) -> pa.Table:
    import pyarrow as pa

    users, moments = [one.user for one in exposed], pa.timestamp("us")
    return pa.table(
        {
            "row": pa.array(range(len(users)), pa.int64()),
            "block": pa.array([one.index for one in users], pa.int64()),
            "weight": pa.array([one.weight for one in users], pa.int64()),
            "unit": pa.array([one.unit for one in users], pa.int64()),
            "arm": pa.array([one.arm for one in users], pa.string()),
            "prediction": pa.array([one.prediction for one in users], pa.string()),
            "at": pa.array([round(one.at * 1e6) for one in users], pa.int64()).cast(moments),
            "until": pa.array([round(one.until * 1e6) for one in exposed], pa.int64()).cast(moments),
        }
    )


_SHOWN: Final = ("block", "weight", "unit", "arm", "at", "prediction", "score", "probabilities", "truth")
# Rows of one request are numbered, `<id>.<row>`: the shorter number is the earlier row.
_FRAME: Final = """
    with theirs as (
        select e.row, t.* exclude (unit, arm, "at"), t."at" as answered
        from exposed e join told t on e.arm = t.arm and e.prediction = split_part(t.id, '.', 1)
        union all
        select e.row, t.* exclude (unit, arm, "at"), t."at"
        from exposed e join told t on e.arm = t.arm and e.unit = t.unit and t."at" >= e."at" and t."at" < e.until
    ),
    one as (
        select * from theirs
        qualify row_number() over (partition by row order by truth is null, answered, length(id), id) = 1
    )
    select e.row, e.block, e.weight, e.unit, e.arm, e."at", o.* exclude (row, id, answered)
    from exposed e left join one o using (row) order by e.row"""
_OUTCOMES: Final = """
    select e.row, o.name, sum(o.value) as value
    from exposed e join events o on e.unit = o.unit
        and o."at" >= e."at" and o."at" < e."at" + interval {age} microseconds
        and o.received <= e.until + interval {known} microseconds
    group by e.row, o.name"""
