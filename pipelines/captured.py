"""Recorded predictions with their truth as new rows of the training data: a new DVC version, each row taken once.

Which rows a version of the data has taken is kept in the store under the md5 of its content
(`retrains/<stream>/<md5>.json`), and written before the content is put in place: whoever is killed in between finds,
when it runs again, either the old data or the new one, and in both cases which rows are still to come. The version that
was extended first is remembered too, as one that has taken nothing: whoever goes back to it gets all rows anew.

A version that nobody remembers is somebody's own edit, as a rule of one that was extended. Whatever any version has
taken counts as taken there: a row that is still in it must not come twice, and one that a person deleted must not come
back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tidegate.core.artifacts import DatasetRef
from tidegate.core.errors import ConfigError, TidegateError
from tidegate.monitors.trigger import rows_to_keep
from tidegate.pipelines.contest import Matured, matured
from tidegate.pipelines.environment import Environment

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.config import Data
    from tidegate.core.progress import Progress

_FALSE_TRUE = {"false": False, "true": True}


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a version of the data has taken: rows before `until`; it had `length` rows before it took any."""

    until: datetime | None
    length: int


def extend(environment: Environment, changed_since: str | None, now: datetime, progress: Progress) -> DatasetRef:
    """Add the matured rows that the data has not taken yet, and drop the oldest ones.

    Args:
        environment: whose telemetry, labels and data.
        changed_since: rows before this time tell of another world (ISO 8601 with a zone); None: all rows count.
        now: with a zone.
        progress: where to report.

    Returns:
        The data as it is recorded now; unchanged where there is nothing new.

    Raises:
        ConfigError: a column that training needs is not recorded.
        ContractFailed: the new rows break the contract; the data is as it was.
    """
    from tidegate.pipelines import dvc_repo
    from tidegate.pipelines.dataset import read_frame

    project = environment.project
    require_recorded(environment)
    before = dvc_repo.verify_data(project)
    frame = read_frame(project.path(project.config.data.path))
    taken = _taken(environment, before.md5, len(frame), progress)
    # The file keeps its length, so older rows than so many are dropped again; by a time column any row may be newest.
    ordered = project.config.data.split.by == "time" and project.config.data.split.column is not None
    rows = matured(environment, taken.until, now, most=None if ordered else taken.length)
    if not rows.truth:
        return DatasetRef(before.path, before.md5, len(frame))
    recent = None if changed_since is None else _recent(rows, datetime.fromisoformat(changed_since))
    new = as_rows(rows, frame, project.config.data)
    whole = _newest(frame, new, project.config.data, rows_to_keep(taken.length, recent))
    until = now - timedelta(seconds=project.config.monitor.labels.maturity)
    _remember(environment, before.md5, taken)
    return _take(environment, whole, _Taken(until, taken.length), progress)


def require_recorded(environment: Environment) -> None:
    """Refuse before anything is read what `serve.capture` keeps out of the records.

    Raises:
        ConfigError: a column that the model learns from is excluded or hashed.
    """
    config = environment.project.config
    hidden = [(key, name) for key in ("exclude", "hash") for name in getattr(config.serve.capture, key)]
    for key, name in hidden:
        if name not in config.data.drop:
            raise ConfigError(
                f"serve.capture.{key} keeps {name!r} out of the records, so `retrain: {{data: telemetry}}` cannot "
                "train on them",
                "Use `data: refresh` with a data.command, drop that column (data.drop), or let it be recorded.",
            )


def as_rows(rows: Matured, frame: pd.DataFrame, data: Data) -> pd.DataFrame:
    """Recorded rows with the columns of the data, in order of time; what no model sees is empty.

    Raises:
        ConfigError: a column of the data was not recorded.
        TidegateError: a truth is no value of the target's kind.
    """
    import pandas as pd

    from tidegate.pipelines.dataset import canonical

    recorded = {name for row in rows.inputs[:1] for name in row}
    made: dict[str, Any] = {}
    for name in map(str, frame.columns):
        if name == data.target:
            made[name] = _truths(rows.truth, frame[name])
        elif name in recorded:
            made[name] = [row[name] for row in rows.inputs]
        elif name == data.split.column and data.split.by == "time":
            made[name] = list(rows.times)
        elif name in data.drop and name != data.split.column:
            made[name] = [None] * len(rows.truth)
        else:
            raise ConfigError(
                f"The data has a column {name!r} that requests do not have, so recorded rows cannot be added to it",
                "Use `retrain: {data: refresh}` with a data.command.",
            )
    # Records come newest first, and the order of a file may be its time.
    return canonical(pd.DataFrame(made).iloc[::-1], "The recorded rows")


def _truths(texts: Sequence[str], target: pd.Series[Any]) -> list[Any]:
    """Truths in the target's own kind."""
    kind = target.dtype.kind
    if kind == "O":
        return list(texts)
    named = _FALSE_TRUE if str(target.dtype).lower().startswith("bool") else None
    try:
        return [named[text] if named is not None else _number(text) for text in texts]
    except (KeyError, ValueError) as error:
        raise TidegateError(
            f"A label says {error.args[0]!r}, which is no value of the target {target.name!r}.",
            "`tidegate labels status` counts such labels; send the right one for that prediction.",
        ) from error


def _number(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number


def _recent(rows: Matured, since: datetime) -> int:
    start = since.astimezone(UTC).replace(tzinfo=None)
    return sum(time >= start for time in rows.times)


def _newest(frame: pd.DataFrame, new: pd.DataFrame, data: Data, keep: int) -> pd.DataFrame:
    """The last `keep` rows; recorded ones are newer than the file's, unless a time column says otherwise."""
    import pandas as pd

    parts = [part.dropna(axis="columns", how="all") for part in (frame, new)]
    whole = pd.concat(parts, ignore_index=True).reindex(columns=frame.columns)
    if data.split.by == "time" and data.split.column is not None:
        whole = whole.sort_values(data.split.column, kind="stable", na_position="first", ignore_index=True)
    return whole.tail(keep).reset_index(drop=True)


def _take(environment: Environment, frame: pd.DataFrame, taken: _Taken, progress: Progress) -> DatasetRef:
    """Make it the project's data if it keeps the contract."""
    from tidegate.pipelines import refresh
    from tidegate.pipelines.dataset import read_frame
    from tidegate.pipelines.steps.contract import check_contract

    project = environment.project
    file = environment.run_dir / "retrain" / project.path(project.config.data.path).name
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in {".parquet", ".pq"}:
        frame.to_parquet(file, index=False)
    else:
        frame.to_csv(file, index=False, date_format="%Y-%m-%dT%H:%M:%S.%f")
    with progress.task(f"take {len(frame):,} rows"):
        check_contract(read_frame(file), project.path(project.config.contract)).require()
        _remember(environment, hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest(), taken)
        return refresh.take(project, file).data


def _folder(environment: Environment) -> str:
    return f"retrains/{environment.stream}"


def _name(environment: Environment, md5: str) -> str:
    return f"{_folder(environment)}/{md5}.json"


def _remember(environment: Environment, md5: str, taken: _Taken) -> None:
    document = {"until": taken.until and taken.until.isoformat(), "length": taken.length}
    environment.store.write(_name(environment, md5), json.dumps(document).encode())


def _taken(environment: Environment, md5: str, length: int, progress: Progress) -> _Taken:
    """What this version of the data has taken, as far as anybody remembers.

    Args:
        environment: whose store remembers.
        md5: of the version.
        length: its rows.
        progress: told what is made of a version that nobody remembers.
    """
    known = set(environment.store.list(_folder(environment)))
    if (own := _name(environment, md5)) in known:
        return _read(environment, own)
    times = [(one.until, one.length) for name in sorted(known) if (one := _read(environment, name)).until is not None]
    if not times:
        return _Taken(None, length)
    until, before = max(times)
    progress.note(
        f"{environment.project.config.data.path} was changed by hand since recorded rows were added: those before "
        f"{until:%Y-%m-%d %H:%M} UTC count as taken, whether they are still in it or not."
    )
    return _Taken(until, max(before, length))


def _read(environment: Environment, name: str) -> _Taken:
    document: Mapping[str, Any] = json.loads(environment.store.read(name))
    until = document["until"]
    return _Taken(datetime.fromisoformat(until) if until else None, int(document["length"]))
