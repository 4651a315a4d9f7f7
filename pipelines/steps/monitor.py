"""The monitor step: look at every window of live data that is over, once, and say in the ledger what was seen.

A window's report is written first and its event after it, decided on the ledger: whoever is killed in between leaves a
report that the next run writes again, and never two events of one window.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import Temporary, TidegateError
from tidegate.core.store import StoreError
from tidegate.monitors.outcomes import Compared
from tidegate.monitors.windows import Window, closed, without_gaps
from tidegate.pipelines import live_quality
from tidegate.registry.ledger import Draft
from tidegate.registry.state import State, deciding

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

    from tidegate.core.artifacts import Release
    from tidegate.core.progress import Progress
    from tidegate.monitors.report import Sides
    from tidegate.pipelines.environment import Environment
    from tidegate.serving.telemetry import Captured

Document = dict[str, Any]
Decide = Callable[[State, Mapping[str, Any]], Mapping[str, Any]]
"""What a window means for retraining: the ledger's state and the window's document -> {asked, reason}."""

FILE: Final = "drift.json"
# Beyond the flush interval: a flush takes time itself, and clocks differ.
_GRACE: Final = 2.0
ANSWERED: Final = "\"status\" = 200 and \"arm\" in ('stable', 'canary')"


def run(environment: Environment, progress: Progress, decide: Decide, now: datetime | None = None) -> list[Document]:
    """Look at every window that is over and was not looked at; returns their documents, oldest first.

    Args:
        environment: whose telemetry, config and ledger.
        progress: where to report.
        decide: whether a window asks for a retrain.
        now: the time; for tests.
    """
    found = []
    _mend(environment)
    for window in due(environment, now or datetime.now(UTC)):
        with progress.task(f"window {window.since:%Y-%m-%d %H:%M}"):
            document = watch(environment, window, decide)
        if document is not None:
            found.append(document)
    return found


def run_and_draw(environment: Environment, progress: Progress, decide: Decide) -> list[Document]:
    """`run`, then Evidently's report of the newest window; a report that fails is said, and takes no verdict back."""
    found = run(environment, progress, decide)
    if found and found[-1]["columns"]:
        try:
            found[-1] = draw(environment, found[-1], progress)
        except TidegateError as error:
            progress.note(str(error))
    return found


def draw_newest(environment: Environment, progress: Progress) -> None:
    """Evidently's report of the newest window that was looked at, unless there is one, or nothing to draw."""
    watched = environment.state().watched
    document = read_report(environment, watched.report) if watched is not None else {}
    if document.get("columns") and "evidently" not in document:
        draw(environment, document, progress)


def due(environment: Environment, now: datetime) -> list[Window]:
    """The windows that are over and not in the ledger yet."""
    from tidegate.serving.telemetry import Predictions

    config = environment.project.config
    predictions = Predictions(environment.store, environment.stream)
    begin = _begin(environment)
    if begin is None:
        return []
    over = closed(begin, now, config.monitor.window, config.serve.capture.flush + _GRACE)
    return list(without_gaps(over, lambda one: not predictions.files(one.since, one.until)))


def watch(environment: Environment, window: Window, decide: Decide) -> Document | None:
    """Look at one window and enter it into the ledger; None where somebody else did so meanwhile."""
    if _is_watched(environment.state(), window):
        return None
    document = _looked_at(environment, window)
    folder = report_folder(environment, window)
    undecided = {**document, "report": folder, "retrain": {"asked": False, "reason": "not decided yet"}}
    _write(environment, folder, undecided)
    entered: list[Document] = []

    def once(state: State) -> Draft | None:
        if _is_watched(state, window):
            return None
        entered[:] = [_entered(environment, state, undecided, decide)]
        told = entered[0]
        return Draft(
            "watched",
            {
                "window": told["window"]["from"],
                "until": told["window"]["to"],
                "outcome": told["outcome"],
                "share": told["share"],
                "lost": live_quality.lost(told["quality"], state.champion),
                "retrain": told["retrain"],
                "report": folder,
            },
        )

    if environment.ledger.append(deciding(once)) is None:
        _mend(environment)
        return None
    _write(environment, folder, entered[0])
    return entered[0]


def _is_watched(state: State, window: Window) -> bool:
    return state.watched is not None and datetime.fromisoformat(state.watched.until) >= window.until


def _mend(environment: Environment) -> None:
    """Tell the newest report what the ledger decided, where whoever should have was killed or came second."""
    state = environment.state()
    if state.watched is None or not environment.store.exists(f"{state.watched.report}/{FILE}"):
        return
    document = read_report(environment, state.watched.report)
    if "in_a_row" in document:
        return
    needed = environment.project.config.monitor.drift.windows
    row = drifting(state) if state.watched.outcome == "drift" else 0
    retrain = {"asked": state.watched.asked, "reason": state.watched.reason}
    told = {**document, "in_a_row": row, "needed": needed, "drifted": row >= needed, "retrain": retrain}
    _write(environment, state.watched.report, told)


def _entered(environment: Environment, state: State, document: Document, decide: Decide) -> Document:
    """The document with what only the ledger knows: how many windows in a row drifted, and what that means."""
    needed = environment.project.config.monitor.drift.windows
    row = in_a_row(state, document["outcome"])
    counted = {**document, "in_a_row": row, "needed": needed, "drifted": row >= needed}
    return {**counted, "retrain": dict(decide(state, counted))}


def in_a_row(state: State, outcome: str) -> int:
    """How many windows drifted up to one of this outcome, which follows on the state's; 0 unless it drifts itself."""
    return _row([*(one.outcome for one in state.windows), outcome]) if outcome == "drift" else 0


def drifting(state: State) -> int:
    """How many windows drifted up to now, without one in between that did not."""
    return _row([one.outcome for one in state.windows])


def _row(outcomes: list[str]) -> int:
    """What cannot tell neither counts nor ends a row."""
    told = [one for one in reversed(outcomes) if one != "cannot_tell"]
    return next((place for place, one in enumerate(told) if one != "drift"), len(told))


def _looked_at(environment: Environment, window: Window) -> Document:
    """What a window shows; one that can never be read is entered as such, so that those after it are looked at.

    Raises:
        Temporary, OSError: the store does not answer now; the next run looks again.
    """
    import duckdb

    try:
        return look(environment, window)
    except (Temporary, StoreError, OSError, duckdb.IOException):
        raise
    except Exception as error:  # noqa: BLE001 - columns that changed their type, a damaged release: told, not repeated
        why = error.message if isinstance(error, TidegateError) else f"{type(error).__name__}: {error}"
        compared = Compared(0, "cannot_tell", None, (), (), (f"the window cannot be read: {why}",))
        return _document(window, None, compared, None)


def look(environment: Environment, window: Window) -> Document:
    """What a window shows, without a word to anybody.

    Raises:
        TidegateError: the release that answered most of it, or its reference, is damaged.
    """
    from tidegate.monitors.tables import connection
    from tidegate.serving.telemetry import Predictions

    predictions = Predictions(environment.store, environment.stream)
    with connection() as opened:
        answered = predictions.relation(opened, window.since, window.until).filter(ANSWERED)
        release = _serving(environment, answered)
        compared = _compared(environment, opened, answered, release, window)
    return _document(window, release, compared, live_quality.newest(environment, window.until))


def _document(
    window: Window, release: Release | None, compared: Compared, quality: Mapping[str, Any] | None
) -> Document:
    return {
        "kind": "drift",
        "window": {"from": window.since.isoformat(), "to": window.until.isoformat(), "rows": compared.rows},
        "release": release.id if release else None,
        "version": release.version if release else None,
        **compared.to_json(),
        "drifted": False,
        "quality": quality,
        "retrain": None,
        "report": None,
    }


def _compared(
    environment: Environment,
    opened: DuckDBPyConnection,
    answered: DuckDBPyRelation,
    release: Release | None,
    window: Window,
) -> Compared:
    from tidegate.monitors import reference
    from tidegate.monitors.comparable import unlike
    from tidegate.monitors.drift import cannot_tell, compare

    policy = environment.project.config.monitor
    if release is None or release.reference is None:
        rows = answered.aggregate("count(*)").fetchall()[0][0]
        if release is None or rows < policy.min_rows:
            return cannot_tell(rows, policy.min_rows)
        old = f"release {release.id} was made before references were kept; the next `tidegate ship` makes one with it"
        return Compared(rows, "cannot_tell", None, (), (), (old,))
    sides = _sides(environment, opened, answered, release)
    left_out = environment.project.config.serve.capture.exclude
    known, captured = reference.load(environment.store, release.reference), _captured(environment, opened, window)
    strange = unlike(known.hidden, captured, known.columns)
    return compare(sides.known, sides.inputs, sides.predictions, policy, left_out=left_out, unlike=strange)


def _captured(environment: Environment, opened: DuckDBPyConnection, window: Window) -> list[Captured]:
    from tidegate.serving.telemetry import Predictions

    return Predictions(environment.store, environment.stream).captured(opened, window.since, window.until)


def _sides(environment: Environment, opened: DuckDBPyConnection, answered: DuckDBPyRelation, release: Release) -> Sides:
    """Inputs of the whole window; answers only of the release itself, since another one answers otherwise."""
    from tidegate.monitors import reference
    from tidegate.monitors.report import Sides
    from tidegate.monitors.tables import Table
    from tidegate.serving.telemetry import INPUT

    _, known = reference.opened(environment.store, str(release.reference), opened)
    own = answered.filter(f"coalesce(\"release\", '') in ('', '{release.id}')")
    return Sides(known, Table(opened, answered, INPUT), Table(opened, own))


def draw(environment: Environment, document: Document, progress: Progress) -> Document:
    """Let Evidently draw a window that was looked at, and keep what it made beside the verdict.

    Returns:
        The document with Evidently's own distances under `evidently`.

    Raises:
        TidegateError: there is nothing to draw, or Evidently failed.
    """
    from tidegate.monitors import report
    from tidegate.monitors.tables import connection
    from tidegate.registry import releases
    from tidegate.serving.telemetry import Predictions

    window = Window(*(datetime.fromisoformat(document["window"][end]) for end in ("from", "to")))
    compared = Compared.from_json(document)
    if not compared.columns:
        raise TidegateError("There is nothing to draw of this window.", "; ".join(compared.reasons))
    store, folder = environment.store, report_folder(environment, window)
    kept = None if store.filesystem is not None else Path(store.location(f"reports/{environment.stream}/evidently"))
    title = f"{environment.stream} {window.since:%Y-%m-%d %H:%M}"
    with progress.task("draw Evidently's report"), connection() as opened:
        predictions = Predictions(store, environment.stream)
        answered = predictions.relation(opened, window.since, window.until).filter(ANSWERED)
        sides = _sides(environment, opened, answered, releases.load(store, document["release"]))
        made = report.make(sides, compared, environment.project.config.monitor.drift, title, kept)
    store.write(f"{folder}/{report.HTML}", made.html)
    store.write(f"{folder}/{report.SNAPSHOT}", made.snapshot)
    drawn = {**document, "evidently": dict(made.values)}
    _write(environment, folder, drawn)
    return drawn


def _serving(environment: Environment, answered: DuckDBPyRelation) -> Release | None:
    """The release that answered most of the window; what was recorded without one counts for the champion."""
    from tidegate.registry import releases

    counted = (
        answered.filter("coalesce(\"release\", '') <> ''")
        .aggregate('"release", count(*) as n')
        .order('n desc, "release"')
    )
    named = [name for name, _ in counted.limit(1).fetchall()]
    found = named[0] if named else environment.state().champion
    return releases.load(environment.store, found) if found else None


def _begin(environment: Environment) -> datetime | None:
    """Where the windows that nobody looked at begin: behind the last one, else with the first record."""
    from tidegate.serving.labels.join import first_record

    watched = environment.state().watched
    if watched is not None:
        return datetime.fromisoformat(watched.until)
    hour = first_record(environment.store, environment.stream)
    return None if hour is None else _first_record(environment, hour)


def _first_record(environment: Environment, hour: datetime) -> datetime:
    from tidegate.monitors.tables import connection
    from tidegate.serving.telemetry import Predictions

    with connection() as opened:
        records = Predictions(environment.store, environment.stream).relation(opened, hour, hour + timedelta(hours=1))
        first: datetime | None = records.aggregate('min("at")').fetchall()[0][0]
    return hour if first is None else first.replace(tzinfo=UTC)


def report_folder(environment: Environment, window: Window) -> str:
    """Where the reports of a window are in the store."""
    return f"reports/{environment.stream}/{window.name}"


def read_report(environment: Environment, folder: str) -> Document:
    """The document of a window that was looked at.

    Raises:
        TidegateError: it is missing or damaged.
    """
    try:
        found: Document = json.loads(environment.store.read(f"{folder}/{FILE}"))
    except (FileNotFoundError, ValueError) as error:
        raise TidegateError(
            f"The report {folder}/{FILE} is missing or damaged.",
            "`tidegate monitor run --window FROM..UNTIL` looks at the window again.",
        ) from error
    return found


def _write(environment: Environment, folder: str, document: Document) -> None:
    environment.store.write(f"{folder}/{FILE}", json.dumps(document, indent=1, allow_nan=False).encode())
