"""Champion, former champions and a new release on the newest predictions whose truth has matured.

The inputs that were recorded are answered once more by each bundle, so that all of them are compared on the same rows,
whoever served them. Rows that a release learnt from are left out for it (learnt.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tidegate.core import metrics
from tidegate.core.artifacts import Release
from tidegate.core.errors import TidegateError
from tidegate.core.metrics import Scored
from tidegate.monitors.candidates import Candidate, Choice, Rules, choose
from tidegate.monitors.own_quality import native
from tidegate.monitors.quality import metric_for
from tidegate.pipelines import bootstrap
from tidegate.pipelines.bundles import bundle_of
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.learnt import LEARNT_FILE, Learnt
from tidegate.pipelines.own_metrics import Measure, own_measure
from tidegate.registry import releases
from tidegate.serving.service.records import INPUT, label_text

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

    from tidegate.core.progress import Progress
    from tidegate.serving.service.model import Model

MOST_ROWS: Final = 20_000
"""The newest so many rows are compared on: an accuracy is then known to half a point, and scoring takes seconds."""


@dataclass(frozen=True)
class Matured:
    """Recorded rows with their truth, newest first.

    Attributes:
        inputs: one mapping of request column to value for each row.
        truth: of each row, as `label_text` writes it.
        times: when each request came, UTC without a zone.
    """

    inputs: Sequence[Mapping[str, Any]]
    truth: Sequence[str]
    times: Sequence[datetime]


def matured(environment: Environment, since: datetime | None, now: datetime, most: int | None = MOST_ROWS) -> Matured:
    """The newest labelled rows of [since, now - maturity).

    Args:
        environment: whose telemetry and labels.
        since: the first moment; None: all that is kept.
        now: with a zone.
        most: rows at most; None: all of them.
    """
    import duckdb

    from tidegate.serving.labels import joined
    from tidegate.serving.labels.join import first_record

    until = now - timedelta(seconds=environment.project.config.monitor.labels.maturity)
    first = first_record(environment.store, environment.stream)
    since = max(since, first) if since is not None and first is not None else first
    if since is None or since >= until:
        return Matured((), (), ())
    with duckdb.connect() as connection:
        since = _as_they_came(environment, connection, since, until)
        rows = joined(connection, environment.store, environment.stream, since, until).filter("truth is not null")
        rows = rows.order('"at" desc, id')
        table = (rows if most is None else rows.limit(most)).to_arrow_table()
    names = [name for name in table.column_names if name.startswith(INPUT)]
    columns = {name.removeprefix(INPUT): table[name].to_pylist() for name in names}
    inputs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Matured(inputs, table["truth"].to_pylist(), table["at"].to_pylist())


def _as_they_came(
    environment: Environment, connection: DuckDBPyConnection, since: datetime, until: datetime
) -> datetime:
    """From when on every column that a model sees was recorded as it came: a hash asks a model something else."""
    from tidegate.serving.telemetry import Predictions

    unseen = set(environment.project.config.data.drop)
    for one in Predictions(environment.store, environment.stream).captured(connection, since, until):
        if (one.hidden.exclude | one.hidden.hash) - unseen:
            since = max(since, one.last + timedelta(microseconds=1))
    return since


def newest(environment: Environment, windows: int, now: datetime) -> Matured:
    """The matured rows of the last `windows` lengths of a window."""
    monitor = environment.project.config.monitor
    seconds = windows * monitor.window + monitor.labels.maturity
    return matured(environment, now - timedelta(seconds=seconds), now)


def contest(environment: Environment, rows: Matured, others: Sequence[str], progress: Progress) -> Choice | None:
    """Who answers these rows best; None without rows, rivals or a champion.

    Args:
        environment: where.
        rows: compared on.
        others: releases beside the champion, former ones first; one that cannot be loaded is said and left out.
        progress: told what is left out.

    Raises:
        TidegateError: the champion itself cannot be loaded, or a needed column was not recorded.
    """
    state = environment.state()
    if state.champion is None or not rows.truth or not others:
        return None
    field = _Field.of(environment, rows)
    champion = _candidate(environment, field, state.champion)
    rivals = []
    for release in others:
        try:
            rivals.append(_candidate(environment, field, release))
        except TidegateError as error:
            progress.note(f"{error.message} Release {release} is no candidate.")
    rules = Rules(partial(_compare, field), field.measure.name, environment.project.config.gate.tolerance)
    return choose(champion, rivals, rules) if rivals else None


def metric_of(environment: Environment) -> str:
    """The metric that live answers are compared by: the one that is watched."""
    config = environment.project.config
    return metric_for(config.task, config.monitor.quality.metric)


@dataclass(frozen=True)
class _Field:
    """What every candidate meets: the rows, and the metric."""

    rows: Matured
    frame: pd.DataFrame
    measure: Measure

    @staticmethod
    def of(environment: Environment, rows: Matured) -> _Field:
        import pandas as pd

        name, frame = metric_of(environment), pd.DataFrame(list(rows.inputs))
        if ":" in name:
            return _Field(rows, frame, own_measure(environment.project, name))
        if name not in metrics.DIRECTIONS:
            raise TidegateError(
                f"The metric {name} is not computed on live answers.",
                f"monitor.quality.metric can be one of {', '.join(metrics.DIRECTIONS)}.",
            )
        return _Field(rows, frame, Measure(name, metrics.DIRECTIONS[name]))


def _candidate(environment: Environment, field: _Field, name: str) -> Candidate:
    """A release's answers to the rows.

    Raises:
        TidegateError: it cannot be loaded, or answers nothing: what its own code raises on values of today included.
    """
    try:
        return _answering(environment, field, name)
    except TidegateError:
        raise
    except Exception as error:
        raise TidegateError(
            f"Release {name} cannot answer the recorded rows: {type(error).__name__}: {error}.",
            "Its hooks or its model do not know values of today.",
        ) from error


def _answering(environment: Environment, field: _Field, name: str) -> Candidate:
    from tidegate.serving import checked_hooks
    from tidegate.serving.service.model import Model

    release = releases.load(environment.store, name)
    _require_recorded(environment, release)
    model = Model(bundle_of(environment.project, release), load_hooks=checked_hooks.load)
    scored, answered = _answers(model, field.rows)
    return Candidate(name, release.version, scored, answered & ~_learnt(environment, release, field.frame))


def _require_recorded(environment: Environment, release: Release) -> None:
    """Refuse what `serve.capture` leaves out or hashes: a model asked with other values answers something else."""
    capture = environment.project.config.serve.capture
    hidden = [*capture.exclude, *capture.hash]
    used = {column.name for column in _columns(environment, release)}
    if lost := [name for name in hidden if name in used]:
        raise TidegateError(
            f"The column {lost[0]!r} is not recorded as it came (serve.capture), so nothing can be answered again.",
            "Models are then compared by a rollout only; or take it out of serve.capture.exclude and hash.",
        )


def _columns(environment: Environment, release: Release) -> Sequence[Any]:
    from tidegate.serving.service import manifest

    return manifest.read(bundle_of(environment.project, release)).columns


def _answers(model: Model, rows: Matured) -> tuple[Scored, NDArray[np.bool_]]:
    """What the model says to every row, classes as text; and which rows it could answer, and whose truth it knows."""
    import numpy as np

    good, places = [], []
    for place, cells in enumerate(rows.inputs):
        problems: list[Any] = []
        row = model.schema.check_row({name: _cell(cells.get(name)) for name in model.schema.names}, "", problems)
        if not problems:
            good.append(row)
            places.append(place)
    answer = model.plain(good) if good else None
    answered = np.zeros(len(rows.truth), dtype=np.bool_)
    answered[places] = True
    if model.manifest.classes is None:
        return _numbers(rows, answered, places, answer.predictions if answer else [])
    classes = tuple(label_text(one) for one in model.manifest.classes)
    truth = np.array(rows.truth, dtype=object)
    answered &= np.isin(truth, np.array(classes, dtype=object))
    said = np.full(len(truth), classes[0], dtype=object)
    said[places] = [label_text(one) for one in answer.predictions] if answer else []
    scores = None
    if answer is not None and answer.probabilities is not None:
        scores = np.zeros((len(truth), len(classes)))
        scores[places] = answer.probabilities
    return Scored(truth, said, scores, classes), answered


def _numbers(
    rows: Matured, answered: NDArray[np.bool_], places: Sequence[int], predictions: Sequence[Any]
) -> tuple[Scored, NDArray[np.bool_]]:
    import numpy as np
    import pandas as pd

    truth = pd.to_numeric(pd.Series(list(rows.truth)), errors="coerce").to_numpy(dtype=float)
    said = np.zeros(len(truth))
    said[list(places)] = predictions
    return Scored(np.nan_to_num(truth), said), answered & np.isfinite(truth)


def _cell(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _learnt(environment: Environment, release: Release, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """The rows that it learnt from; all of them where that is not known: whoever may know the answers is not asked."""
    import numpy as np

    content = environment.registry.result(release.run_id, LEARNT_FILE)
    try:
        return Learnt.parse(content).among(frame) if content is not None else np.ones(len(frame), dtype=np.bool_)
    except TidegateError:
        return np.ones(len(frame), dtype=np.bool_)


def _compare(
    field: _Field, one: Scored, champion: Scored, confidence: float, rows: NDArray[np.bool_]
) -> tuple[float, float, float, float]:
    """Values of both, the paired advantage and its lower bound; NaN where a metric needs what a model does not give."""
    measure, frame = field.measure, field.frame[rows].reset_index(drop=True)
    if measure.function is not None:
        one, champion = _native(one), _native(champion)
    try:
        found = bootstrap.advantage(measure, one, champion, frame, confidence)
        return (measure.of(one, frame), measure.of(champion, frame), found.estimate, found.low)
    except KeyError:
        nothing = float("nan")
        return (nothing, nothing, nothing, nothing)


def _native(scored: Scored) -> Scored:
    """Classes in the model's own kind, as the user's function knows them; a quantity is one already."""
    import numpy as np

    if not scored.classes:
        return scored
    meant = dict(zip(scored.classes, native([str(one) for one in scored.classes]), strict=True))
    truth, said = (np.array([meant[one] for one in column]) for column in (scored.truth, scored.prediction))
    return Scored(truth, said, scored.scores, tuple(meant.values()))
