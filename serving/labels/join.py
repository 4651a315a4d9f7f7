"""The truth of each prediction, and the outcomes of each user, out of whatever came in whatever order.

A label by prediction id belongs to that prediction. A label by the caller's id belongs to the newest prediction of
that name at or before the label's time (a retry is answered twice and known by one name; a name may be used again
later), else, where the label is older than all of them, to the oldest. Of all the labels of a prediction the one with
the newest time counts; of several with the same time, the one received last. The same label sent again changes nothing.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tidegate.core.store import Store
from tidegate.serving.labels import stored
from tidegate.serving.telemetry import Predictions, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

_MOMENT: Final = timedelta(microseconds=1)


def answered(
    connection: DuckDBPyConnection, store: Store, stream: str, since: datetime, until: datetime
) -> DuckDBPyRelation:
    """The predictions of [since, until) that a user got: answered with 200, and no copies for a shadow."""
    recorded = Predictions(store, stream).relation(connection, since, until)
    return recorded.filter("status = 200 and arm is distinct from 'shadow'")


def joined(
    connection: DuckDBPyConnection,
    store: Store,
    stream: str,
    since: datetime,
    until: datetime,
    *,
    within: timedelta | None = None,
) -> DuckDBPyRelation:
    """Every answered prediction of [since, until) once, with its truth or null.

    Args:
        connection: where the relation lives; it is made of the records' files and a temporary table.
        store: where records and labels are.
        stream: of the model and environment.
        since: the first moment.
        until: the moment after the last.
        within: only labels that were received this long after their prediction, so that the answer stays the same
            whenever it is asked after that; default: every label there is.

    Returns:
        the columns of telemetry, `truth`, `truth_at`, `truth_received` and `ambiguous` (the label came by a name that
        several predictions have).
    """
    predictions = answered(connection, store, stream, since, until).set_alias("p")
    truth = truths(connection, store, stream, since, until, within=within).set_alias("t")
    return predictions.join(truth, "p.id = t.id", how="left").project(
        "p.*, t.truth, t.truth_at, t.truth_received, coalesce(t.ambiguous, false) as ambiguous"
    )


def truths(
    connection: DuckDBPyConnection,
    store: Store,
    stream: str,
    since: datetime,
    until: datetime,
    *,
    within: timedelta | None = None,
) -> DuckDBPyRelation:
    """One row for each labelled prediction of [since, until); arguments as in `joined`.

    Returns:
        `id` of the prediction, `truth`, `truth_at`, `truth_received`, `ambiguous`.
    """
    scope = _Scope(connection, store, stream, since, until)
    return connection.table(
        stored.reading(store, "labels", stream, connection, lambda labels: _find_truths(scope, labels, within))
    )


def outcomes(
    connection: DuckDBPyConnection, store: Store, stream: str, since: datetime, until: datetime
) -> DuckDBPyRelation:
    """Every event whose time lies in [since, until), once.

    An event that names a prediction is given its unit where the prediction is one of [since, until) too.

    Returns:
        `unit` (null where it is not known), `prediction` (null for an event by unit), `name`, `value`, `at`,
        `received`, and `by` and `key` as they came.
    """
    scope = _Scope(connection, store, stream, since, until)
    return connection.table(
        stored.reading(store, "outcomes", stream, connection, lambda events: _find_outcomes(scope, events))
    )


def first_record(store: Store, stream: str) -> datetime | None:
    """The first hour of which there are records."""
    return min(Predictions(store, stream).hours(), default=None)


@dataclass(frozen=True)
class _Scope:
    """The predictions of [since, until) of one stream, and those elsewhere that share their names."""

    connection: DuckDBPyConnection
    store: Store
    stream: str
    since: datetime
    until: datetime

    def answered(self) -> DuckDBPyRelation:
        """Those of the window itself."""
        return answered(self.connection, self.store, self.stream, self.since, self.until)

    def assigned(self, named: str) -> str:
        """The prediction that each row of the table `named` (key, at, ...) means: a table with `id`, `several` added.

        The predictions after the window are looked at too, since one of them may be meant; those before it only where a
        row is older than every one since.
        """
        connection = self.connection
        ((last,),) = connection.sql(f'select max("at") from {named}').fetchall()
        newest = last.replace(tzinfo=UTC) + _MOMENT if last else self.until
        found = self._named_so(named, self.since, max(newest, self.until))
        early = connection.sql(_EARLY.format(named=named, found=found))
        first = first_record(self.store, self.stream) if early.limit(1).fetchall() else None
        if first is not None and first < self.since:
            wanted = _table(connection, early)
            before = self._named_so(wanted, first, self.since)
            connection.execute(f"insert into {found} select * from {before}")
            _drop(connection, wanted, before)
        table = _table(connection, connection.sql(_ASSIGNED.format(named=named, found=found)))
        _drop(connection, found)
        return table

    def _named_so(self, named: str, since: datetime, until: datetime) -> str:
        """A table of the predictions in [since, until) whose caller's id is a key of the table `named`."""
        if not self.connection.sql(f"select 1 from {named} limit 1").fetchall():
            return _table(self.connection, self.connection.sql(_NONE))  # nothing is read for nobody
        predictions = answered(self.connection, self.store, self.stream, since, until).project('caller, "at", id')
        keys = self.connection.sql(f"select distinct key from {named}").set_alias("n")
        same = predictions.set_alias("p").join(keys, "p.caller = n.key", how="semi")
        return _table(self.connection, same)


def _find_truths(scope: _Scope, labels: DuckDBPyRelation, within: timedelta | None) -> str:
    connection = scope.connection
    window = _table(connection, scope.answered().project('id, "at", caller'))
    direct = _table(connection, _of(labels, "prediction", connection.sql(f"select id as name from {window}")))
    named = _table(connection, _of(labels, "caller", connection.sql(f"select distinct caller as name from {window}")))
    assigned = scope.assigned(named)
    timely = f"received <= p_at + interval {round(within / _MOMENT)} microseconds" if within is not None else "true"
    query = _TRUTHS.format(window=window, direct=direct, assigned=assigned, timely=timely)
    table = _table(connection, connection.sql(query))
    _drop(connection, window, direct, named, assigned)
    return table


def _of(labels: DuckDBPyRelation, by: str, names: DuckDBPyRelation) -> DuckDBPyRelation:
    """The labels of predictions that are called one of `names`."""
    called = labels.filter(f"\"by\" = '{by}'").project('key, label, "at", received').set_alias("l")
    return called.join(names.set_alias("n"), "l.key = n.name", how="semi")


def _find_outcomes(scope: _Scope, events: DuckDBPyRelation) -> str:
    connection = scope.connection
    few = _table(connection, events.filter(f'"at" >= {literal(scope.since)} and "at" < {literal(scope.until)}'))
    named = _table(connection, connection.sql(f"""select key, "at" from {few} where "by" = 'caller' group by all"""))
    assigned = scope.assigned(named)
    window = _table(connection, scope.answered().filter("unit is not null").project("id, unit"))
    query = _OUTCOMES.format(events=few, assigned=assigned, window=window)
    table = _table(connection, connection.sql(query))
    _drop(connection, few, named, assigned, window)
    return table


def _table(connection: DuckDBPyConnection, relation: DuckDBPyRelation) -> str:
    """Run it now; the name of the temporary table that holds the result until the connection is closed."""
    name = f"labels_{secrets.token_hex(6)}"
    relation.create_view(f"{name}_view")
    connection.execute(f"create temp table {name} as select * from {name}_view")
    connection.execute(f"drop view {name}_view")
    return name


def _drop(connection: DuckDBPyConnection, *tables: str) -> None:
    for table in tables:
        connection.execute(f"drop table {table}")


_NONE: Final = 'select null::varchar as caller, null::timestamp as "at", null::varchar as id where false'
_EARLY: Final = """
    with firsts as (select caller, min("at") as first from {found} group by caller)
    select distinct n.key from {named} n left join firsts f on f.caller = n.key
    where f.first is null or f.first > n."at" """
# Two predictions of one name at the same moment: the greater id, so that the answer is always the same.
_ASSIGNED: Final = """
    with names as (select caller, "at", max(id) as id, count(*) as ids from {found} group by caller, "at"),
    about as (select caller, sum(ids) > 1 as several, arg_min(id, "at") as oldest from names group by all)
    select n.*, coalesce(c.id, a.oldest) as id, coalesce(a.several, false) as several
    from {named} n asof left join names c on c.caller = n.key and n."at" >= c."at"
    left join about a on a.caller = n.key"""
_TRUTHS: Final = """
    with every as (
        select p.id, p."at" as p_at, d.label, d."at", d.received, false as several
        from {direct} d join {window} p on p.id = d.key
        union all
        select p.id, p."at", a.label, a."at", a.received, a.several
        from {assigned} a join {window} p on p.id = a.id
    ),
    once as (
        select id, label, "at", min(received) as received, bool_or(several) as several
        from every where {timely} group by id, label, "at"
    )
    select id, newest.label as truth, newest."at" as truth_at, newest.received as truth_received,
        newest.several as ambiguous
    from (select id, max({{'at': "at", 'received': received, 'label': label, 'several': several}}) as newest
        from once group by id)"""
_OUTCOMES: Final = """
    with once as (
        select "by", key, unit, name, value, "at", min(received) as received from {events} group by all
    )
    select coalesce(o.unit, w.unit) as unit,
        coalesce(a.id, case when o."by" = 'prediction' then o.key end) as prediction,
        o.name, o.value, o."at", o.received, o."by", o.key
    from once o
    left join {assigned} a on o."by" = 'caller' and a.key = o.key and a."at" = o."at"
    left join {window} w on w.id = coalesce(a.id, case when o."by" = 'prediction' then o.key end)"""
