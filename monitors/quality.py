"""How good the answers were, by the labels that came: each version in a window, against its own holdout.

A window counts once it is mature (`monitor.labels.maturity`), because labels that come early are not like those that
come late. A version has lost quality only if the whole 95 % interval lies beyond `reference` -+ `tolerance`; if it
reaches over that line, nothing is claimed. Metrics of the user's own are for own_quality.py.

Interval: delete-a-group jackknife (Kott 2001, "The delete-a-group jackknife", J. Official Statistics 17) over groups of
whole users, so that somebody who came a hundred times is no hundred pieces of evidence; with Student's t. A share
(accuracy; precision and recall of two classes) gets Wilson's interval (1927) at the sample size that the jackknife's
variance amounts to (Korn and Graubard 1998), which stays sound next to 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from tidegate.core import metrics
from tidegate.core.metrics import CLASSIFICATION, DIRECTIONS, REGRESSION, Scored
from tidegate.core.store import Store
from tidegate.serving.labels import joined
from tidegate.serving.telemetry import Predictions, text

if TYPE_CHECKING:
    import numpy as np
    from duckdb import DuckDBPyConnection, DuckDBPyRelation
    from numpy.typing import NDArray

    from tidegate.core.metrics import Direction

# With fewer no interval is worth its name.
LEAST: Final = 50
# Groups of the jackknife: Student's t with 39 degrees of freedom is within 3 % of the normal.
GROUPS: Final = 40
# More labels than this that name no class are a mistake of the labels, or a new class: no number can be given.
STRAY: Final = 0.01
# Arms whose labels come so differently were not compared by the same truth (two-sided test of two shares).
_DIFFERENT: Final = 0.001
_AT_ONCE: Final = 5


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of one version on one arm in one window.

    Args:
        version: of the model; None where the records do not say.
        release: that served it.
        arm: stable or canary; empty past the gateway.
        metric: its name.
        predictions: how many were answered.
        labelled: how many of them have a truth.
        value: of the metric; None where it cannot be told.
        low: the lower end of its 95 % interval.
        high: the upper end.
        reference: the metric on the release's holdout.
        lost: whether the interval lies beyond the tolerance; None where that cannot be told.
        cannot_tell: why it cannot be told.
        better: which way is better, where the name does not say.
    """

    version: int | None
    release: str | None
    arm: str
    metric: str
    predictions: int
    labelled: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    lost: bool | None = None
    cannot_tell: str | None = None
    better: Direction | None = None

    def to_json(self) -> dict[str, Any]:
        """As `monitor run` prints it."""
        share = self.labelled / self.predictions if self.predictions else None
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "share_labelled": share}


@dataclass(frozen=True, slots=True)
class WindowQuality:
    """Every version of a window, that with the most users first, and what else a reader should know."""

    versions: tuple[Quality, ...]
    notes: tuple[str, ...] = ()

    @property
    def lost(self) -> bool:
        """Whether the version that most users get has lost quality."""
        return bool(self.versions) and self.versions[0].lost is True

    def to_json(self) -> dict[str, Any]:
        """The first version's numbers, with all of them under `versions`."""
        first = self.versions[0].to_json() if self.versions else {"cannot_tell": "nothing was predicted"}
        versions = [one.to_json() for one in self.versions]
        return {**first, "lost": self.lost, "versions": versions, "notes": list(self.notes)}


class OwnJudge(Protocol):
    """As `own_quality.judge`, with whoever calls the function."""

    def __call__(
        self,
        about: Quality,
        rows: DuckDBPyRelation,
        classes: tuple[str, ...] | None,
        *,
        reference: float | None,
        tolerance: float,
    ) -> Quality:
        """What the labels say about one version."""


def metric_for(task: str, configured: str) -> str:
    """The metric to watch: `accuracy`, the default of the format, is `r2` for a regression."""
    return "r2" if task == "regression" and configured == "accuracy" else configured


def mature_since(until: datetime, maturity: float) -> datetime:
    """When every prediction before `until` has the age (in seconds) at which its label is final."""
    return until + timedelta(seconds=maturity)


def newest_mature(now: datetime, window: float, maturity: float) -> tuple[datetime, datetime]:
    """The newest window (seconds long, counted from 1970) whose labels are final."""
    end = (now.timestamp() - maturity) // window * window
    return datetime.fromtimestamp(end - window, UTC), datetime.fromtimestamp(end, UTC)


def window_quality(
    connection: DuckDBPyConnection,
    store: Store,
    stream: str,
    since: datetime,
    until: datetime,
    *,
    metric: str,
    tolerance: float,
    maturity: float,
    references: Mapping[str, Mapping[str, float]],
    now: datetime,
    own: OwnJudge | None = None,
) -> WindowQuality:
    """The quality of every version in [since, until).

    Args:
        connection: where records and labels are read.
        store: where they are.
        stream: of the model and environment.
        since: the first moment of the window.
        until: the moment after its last.
        metric: one of core/metrics.py, by name (see `metric_for`).
        tolerance: may be this much worse than the reference.
        maturity: seconds after which labels are final.
        references: the metrics of each release on its holdout.
        now: the time of asking.
        own: judges by a metric of the user's own (`own_quality.judge`).
    """
    judge = own if ":" in metric else None
    rows = joined(connection, store, stream, since, until)
    # A metric of the user's own may ask for any column.
    rows = _once(connection, rows) if judge is None else rows
    files = Predictions(store, stream).files(since, until)
    classes = _classes(connection, [store.location(file) for file in files])
    found, notes = [], []
    counts = rows.aggregate("version, release, arm, count(*) as predictions, count(truth) as labelled")
    for version, release, arm, predictions, labelled in counts.order("predictions desc, version").fetchall():
        about = Quality(version, release, arm or "", metric, predictions, labelled)
        reference = references.get(release or "", {}).get(metric)
        if now < mature_since(until, maturity):
            found.append(untold(about, f"its labels are final at {mature_since(until, maturity):%Y-%m-%d %H:%M} UTC"))
            continue
        theirs = _of_version(rows, version, release, arm)
        if judge is not None:
            found.append(judge(about, theirs, classes.get(version, ()), reference=reference, tolerance=tolerance))
            continue
        scored, groups, strays = _scored(theirs, metric, classes.get(version, ()))
        notes += strays
        found.append(judged(about, scored, groups, reference=reference, tolerance=tolerance, strays=strays))
    order = sorted(found, key=lambda one: (one.arm == "canary", -one.predictions))
    return WindowQuality(tuple(order), (*notes, *_unlike(found)))


def _once(connection: DuckDBPyConnection, rows: DuckDBPyRelation) -> DuckDBPyRelation:
    """What is asked of the rows, in a temporary table: every version is looked at, and each would be a join more."""
    asked = rows.project(f"version, release, arm, label, value, probabilities, truth, {GROUP} as place")
    asked.create_view("quality_view")
    connection.execute("create or replace temp table quality_rows as select * from quality_view")
    connection.execute("drop view quality_view")
    return connection.table("quality_rows")


def judged(
    about: Quality,
    scored: Scored | None,
    groups: NDArray[np.int64],
    *,
    reference: float | None,
    tolerance: float,
    strays: Sequence[str] = (),
) -> Quality:
    """What the labels say about one version. Pure.

    Args:
        about: with everything but the result.
        scored: its answers and their truths; None where the metric cannot be computed for them.
        groups: of each row, equal for rows of one user.
        reference: the metric on its holdout.
        tolerance: may be this much worse.
        strays: what is wrong with labels that could not be used.
    """
    metric = about.metric
    if about.labelled < LEAST:
        return untold(about, f"{about.labelled} labels are too few; {LEAST} are needed at least")
    if scored is None or metric not in DIRECTIONS:
        return untold(about, f"{metric} cannot be computed from what is recorded")
    if about.labelled - len(scored.truth) > STRAY * about.labelled:
        return untold(about, "; ".join(strays))
    value = metrics.compute(metric, scored)
    low, high = interval(metric, scored, value, groups)
    if not all(map(math.isfinite, (value, low, high))):
        return untold(about, f"{metric} is not defined for these labels (all of one class?)")
    measured = replace(about, value=value, low=low, high=high, reference=reference)
    if reference is None:
        return untold(measured, f"the release has no {metric} of its holdout to compare with")
    return compared(measured, reference, tolerance)


def interval(metric: str, scored: Scored, value: float, groups: NDArray[np.int64]) -> tuple[float, float]:
    """The 95 % interval of a metric, as the module says.

    Args:
        metric: its name.
        scored: the rows.
        value: the metric of all of them.
        groups: of each row; two rows of one user are in one group.
    """
    import numpy as np
    from scipy import stats

    _, place = np.unique(groups, return_inverse=True)
    count = int(place.max()) + 1
    values = _without_each(metric, scored, place, count)
    variance = (count - 1) / count * float(((values - values.mean()) ** 2).sum())
    trials = _trials(metric, scored)
    if trials is not None:
        spread = value * (1 - value)
        effective = min(trials, spread / variance) if variance > 0 and spread > 0 else trials
        return wilson(value, effective)
    margin = float(stats.t.ppf(0.975, count - 1)) * math.sqrt(variance)
    return value - margin, value + margin


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share of `trials`, which need not be whole."""
    z = 1.959963984540054
    centre = share + z * z / (2 * trials)
    margin = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max((centre - margin) / scale, 0.0), min((centre + margin) / scale, 1.0)


def _without_each(metric: str, scored: Scored, place: NDArray[np.int64], count: int) -> NDArray[Any]:
    """The metric without each group; a few at a time, since each weighting is as long as the window."""
    import numpy as np

    of = metrics.statistic(metric, scored)
    values = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for first in range(0, count, _AT_ONCE):
            some = np.arange(first, min(first + _AT_ONCE, count))
            values.append(of((place[:, None] != some).astype(float)))
    return np.concatenate(values)


def _trials(metric: str, scored: Scored) -> float | None:
    """How many trials a share is one of; None for what is no share."""
    if metric == "accuracy":
        return float(len(scored.truth))
    two = len(scored.classes) == 2  # noqa: PLR2004 - then the second class is the positive one
    if metric == "precision" and two:
        return float((scored.prediction == scored.classes[1]).sum()) or None
    if metric == "recall" and two:
        return float((scored.truth == scored.classes[1]).sum()) or None
    return None


def compared(measured: Quality, reference: float, tolerance: float) -> Quality:
    """Lost, not lost, or the interval of what was measured reaches over the line."""
    value, low, high = measured.value, measured.low, measured.high
    assert value is not None  # noqa: S101 - it was measured
    assert low is not None  # noqa: S101
    assert high is not None  # noqa: S101
    higher = (measured.better or DIRECTIONS[measured.metric]) == "higher"
    line = reference - tolerance if higher else reference + tolerance
    if low >= line if higher else high <= line:
        return replace(measured, lost=False)
    if high < line if higher else low > line:
        return replace(measured, lost=True)
    return untold(measured, f"between {low:.4g} and {high:.4g}, and the line is {line:.4g}" + _enough(measured, line))


def _enough(measured: Quality, line: float) -> str:
    """About how many labels would tell, if the value stayed; the interval shrinks with their square root."""
    assert measured.value is not None  # noqa: S101 - it was measured
    assert measured.low is not None  # noqa: S101
    assert measured.high is not None  # noqa: S101
    distance = abs(measured.value - line)
    if not distance:
        return ""
    needed = measured.labelled * ((measured.high - measured.low) / 2 / distance) ** 2
    return f": about {math.ceil(max(needed, measured.labelled + 1)):,} labels would tell" if needed < 1e7 else ""  # noqa: PLR2004 - nobody waits for so many


def untold(about: Quality, why: str) -> Quality:
    """The same, with why nothing is claimed."""
    return replace(about, lost=None, cannot_tell=why)


def _of_version(rows: DuckDBPyRelation, version: int | None, release: str | None, arm: str | None) -> DuckDBPyRelation:
    """The labelled rows of one version; two of one user share `user_group`."""
    same = " and ".join(
        f"{name} is not distinct from {'null' if value is None else value if isinstance(value, int) else text(value)}"
        for name, value in (("version", version), ("release", release), ("arm", arm))
    )
    return rows.filter(f"truth is not null and {same}")


def _scored(
    rows: DuckDBPyRelation, metric: str, classes: tuple[str, ...] | None
) -> tuple[Scored | None, NDArray[np.int64], list[str]]:
    """Answers with truths as arrays, the users' groups, and what is wrong with the labels that are left out."""
    import numpy as np

    if metric in REGRESSION:
        return _numbers(rows)
    if metric in CLASSIFICATION and classes is not None:
        return _classified(rows, classes)
    # No metric of ours, or two files of this version name different classes.
    return None, np.zeros(0, dtype=np.int64), []


def _numbers(rows: DuckDBPyRelation) -> tuple[Scored | None, NDArray[np.int64], list[str]]:
    found = rows.project("try_cast(truth as double) as truth, value, place").to_arrow_table()
    truth, value, place = (found[name].to_numpy() for name in ("truth", "value", "place"))
    import numpy as np

    if len(value) and np.isnan(value.astype(float)).all():
        return None, place, ["no predicted numbers are recorded"]
    good = np.isfinite(truth.astype(float)) & np.isfinite(value.astype(float))
    strays = [f"{(~good).sum():,} of {len(good):,} labels are no numbers"] if not good.all() else []
    return Scored(truth[good].astype(float), value[good].astype(float)), place[good], strays


def _classified(rows: DuckDBPyRelation, names: tuple[str, ...]) -> tuple[Scored | None, NDArray[np.int64], list[str]]:
    """Classes become their places in `names`."""
    import numpy as np

    if not names:  # a model that does not say its classes: those that occur
        seen = rows.project("label as one").union(rows.project("truth as one")).distinct().order("one").fetchall()
        names = tuple(one for (one,) in seen if one is not None)
    listed = f"[{', '.join(map(text, names))}]"
    found = rows.project(
        f"list_position({listed}, truth) as truth, list_position({listed}, label) as label, probabilities,"
        f"place, case when truth not in {listed} then truth end as word"
    ).to_arrow_table()
    truth, label = (found[name].to_numpy().astype(float) for name in ("truth", "label"))
    place = found["place"].to_numpy()
    good = np.isfinite(truth)
    words = found["word"].drop_null().to_pandas().value_counts()
    strays = []
    if len(words):
        which = ", ".join(map(repr, list(words.index[:3])))
        strays = [f"{int(words.sum()):,} of {len(good):,} labels name no class of the model: {which}"]
    scores = _scores(found["probabilities"], len(names))
    scored = Scored(
        truth[good] - 1,
        np.nan_to_num(label[good], nan=0.0) - 1,
        None if scores is None else scores[good],
        tuple(float(one) for one in range(len(names))),
    )
    return scored, place[good], strays


def _scores(column: Any, count: int) -> NDArray[np.floating[Any]] | None:
    """Probabilities as (rows, classes); None unless every row has one for each class."""
    import numpy as np

    column = column.combine_chunks()
    if column.null_count or not count:
        return None
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, count).astype(np.float64) if len(flat) == len(column) * count else None


def _classes(connection: DuckDBPyConnection, files: Sequence[str]) -> dict[int | None, tuple[str, ...] | None]:
    """The classes of each version by the files' metadata; None where two files of one version differ."""
    import json

    if not files:
        return {}
    listed = f"[{', '.join(map(text, files))}]"
    # File names are quoted, and ours.
    query = f"""
        select distinct r.version, decode(m.value) from parquet_kv_metadata({listed}) m
        join (select distinct filename, version from read_parquet({listed}, filename = true, hive_partitioning = false))
            r on r.filename = m.file_name
        where decode(m.key) = 'tidegate.classes'"""  # noqa: S608
    rows = connection.sql(query).fetchall()
    found: dict[int | None, tuple[str, ...] | None] = {}
    for version, classes in rows:
        names = tuple(json.loads(classes))
        found[version] = names if found.get(version, names) == names else None
    return found


def _unlike(found: Sequence[Quality]) -> list[str]:
    """Arms whose labels come at different rates."""
    told = []
    for canary in (one for one in found if one.arm == "canary"):
        for stable in (one for one in found if one.arm == "stable"):
            if _differ(canary, stable):
                shares = " and ".join(f"{one.labelled / one.predictions:.1%}" for one in (stable, canary))
                told.append(f"{shares} of the stable and the canary arm are labelled, so their truths may not compare")
    return told


def _differ(one: Quality, other: Quality) -> bool:
    """Pearson's test (1900) of two shares."""
    from scipy import stats

    total, labelled = one.predictions + other.predictions, one.labelled + other.labelled
    if labelled in {0, total}:
        return False
    share = labelled / total
    gap = one.labelled / one.predictions - other.labelled / other.predictions
    spread = share * (1 - share) * (1 / one.predictions + 1 / other.predictions)
    return float(stats.chi2.sf(gap * gap / spread, 1)) < _DIFFERENT


# Groups of whole users in SQL; somebody unknown is a user alone.
GROUP: Final = f"(hash(coalesce(unit, hash(id) % 4611686018427387904)) % {GROUPS})::bigint"
