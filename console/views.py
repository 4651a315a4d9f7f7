"""What the pages show, made of what is known. Pure: nothing here reads or writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final, Literal

from tidegate.console.reports import Window
from tidegate.core.units import span
from tidegate.registry.ledger import Event
from tidegate.registry.state import RetrainState, RolloutState, State
from tidegate.rollouts.charts import Axis, Band, Chart, Line, number_axis
from tidegate.serving.service.records import utc

Look = Literal["good", "bad", "open", "plain"]

ROLLOUT_LOOKS: Final[Mapping[str, Look]] = {
    "running": "open",
    "held": "open",
    "promoted": "good",
    "rolled_back": "bad",
    "aborted": "bad",
    "inconclusive": "plain",
    "replaced": "plain",
}
WINDOW_LOOKS: Final[Mapping[str, Look]] = {"drift": "bad", "no_drift": "good", "cannot_tell": "plain"}
WINDOW_WORDS: Final[Mapping[str, str]] = {"drift": "drift", "no_drift": "no drift", "cannot_tell": "cannot tell"}
COLUMN_WORDS: Final[Mapping[str, str]] = {
    "ok": "no drift",
    "drifted": "drifted",
    "missing_column": "missing",
    "all_null": "only nulls",
    "type_changed": "another type",
    "new_category": "new category",
    "too_few_rows": "too few rows",
    "no_reference": "nothing to compare with",
    "not_comparable": "recorded in another way",
}
# Neither good nor bad: nobody can tell.
_UNTOLD: Final = frozenset({"too_few_rows", "no_reference", "not_comparable"})
_MARKS: Final[Mapping[str, str]] = {
    "missing_column": "M",
    "all_null": "N",
    "type_changed": "T",
    "new_category": "C",
    "too_few_rows": "?",
    "no_reference": "?",
    "not_comparable": "?",
}
RETRAIN_WORDS: Final[Mapping[str | None, str]] = {
    None: "runs",
    "released": "released",
    "registered": "waits for a person",
    "kept": "champion kept",
    "refused": "refused by the gate",
    "failed": "failed",
    "former": "a former champion is better",
    "nothing_new": "nothing new to learn from",
}

# Steps of the heat map: 1 is where a column counts as drifted.
_HEAT: Final = (0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0)
_MOST_COLUMNS: Final = 60

LIMIT: Final = 40
"""Where a bar's limit is drawn, of 100; what is 2.5 times as far fills the bar."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event in words."""

    seq: int
    at: str
    kind: str
    look: Look
    what: str
    because: str
    actor: str
    link: str = ""


def told(event: Event, state: State) -> Told:
    """Say what happened, for a person."""
    data, write = event.data, _SENTENCES.get(event.kind)
    try:
        what, look = write(data, state) if write else (event.kind.replace("_", " "), "plain")
    except (KeyError, IndexError, TypeError, StopIteration):
        # An event of another version; its data is shown beside it.
        what, look = event.kind.replace("_", " "), "plain"
    reasons = data.get("reasons") or data.get("gate") or ()
    because = " ".join(map(str, reasons)) if isinstance(reasons, list | tuple) else str(reasons)
    because = because or str(data.get("reason") or "")
    return Told(event.seq, event.at, event.kind, look, what, because, event.actor, _link(event))


def decisions(events: Sequence[Event], most: int = 8) -> list[Event]:
    """The newest events, without the windows of which nothing came."""
    kept: list[Event] = []
    for event in reversed(events):
        if len(kept) == most:
            break
        if event.kind != "watched" or event.data["retrain"]["asked"]:
            kept.append(event)
    return kept


def _link(event: Event) -> str:
    data = event.data
    if data.get("rollout"):
        return f"/rollouts/{data['rollout']}"
    if event.kind == "watched" and data.get("window"):
        from tidegate.console.reports import folder_name

        return f"/drift/{folder_name(data['window'])}"
    return f"/lineage?q=release:{data['release']}" if data.get("release") else ""


def version(release: str | None, state: State) -> str:
    """A release by the number that people know it by."""
    return f"version {state.versions[release]}" if release and release in state.versions else str(release or "nothing")


def _rollout(data: Mapping[str, Any], state: State) -> RolloutState:
    return next(one for one in reversed(state.rollouts) if one.id == data["rollout"])


def _canary(data: Mapping[str, Any], state: State) -> str:
    return version(_rollout(data, state).canary, state)


def _started(data: Mapping[str, Any], state: State) -> tuple[str, Look]:
    return f"Rollout began: {version(data['canary'], state)} against {version(data['stable'], state)}", "open"


def _stepped(data: Mapping[str, Any], state: State) -> tuple[str, Look]:
    share = _rollout(data, state).steps[data["step"]]
    return f"Step passed: {_canary(data, state)} answers {share} % of users", "good"


def _watched(data: Mapping[str, Any], _: State) -> tuple[str, Look]:
    lost = ", quality lost" if data.get("lost") else ""
    asked = "; asked for a retrain" if data["retrain"]["asked"] else ""
    word = WINDOW_WORDS.get(data["outcome"], data["outcome"])
    return f"Window looked at: {word}{lost}{asked}", "bad" if lost else WINDOW_LOOKS.get(data["outcome"], "plain")


def _retrained(data: Mapping[str, Any], _: State) -> tuple[str, Look]:
    good = data["outcome"] in {"released", "registered", "former"}
    return f"Retrain ended: {RETRAIN_WORDS.get(data['outcome'], data['outcome'])}", "good" if good else "plain"


_SENTENCES: Final[Mapping[str, Callable[[Mapping[str, Any], State], tuple[str, Look]]]] = {
    "registered": lambda data, _: (f"Version {data['version']} passed the gate and was registered", "plain"),
    "gate_refused": lambda _data, _state: ("The gate refused a training", "bad"),
    "deployed": lambda data, state: (f"{version(data['release'], state).capitalize()} was deployed", "good"),
    "rollout_started": _started,
    "shadow": lambda data, state: (f"Shadow phase passed: {_canary(data, state)} meets its first users", "good"),
    "step_passed": _stepped,
    "held": lambda data, state: (f"Held: a person must decide about {_canary(data, state)}", "open"),
    "promoted": lambda data, state: (f"Promoted: {_canary(data, state)} is everybody's", "good"),
    "rolled_back": lambda data, state: (f"Rolled back: {_canary(data, state)} was taken back", "bad"),
    "inconclusive": lambda data, state: (f"Not decided: {_canary(data, state)} was taken back", "plain"),
    "aborted": lambda data, state: (f"Aborted: {_canary(data, state)} was taken back", "bad"),
    "replaced": lambda _data, _state: ("Replaced by a newer rollout", "plain"),
    "rollback": lambda data, state: (f"Went back to {version(data['release'], state)} at once", "bad"),
    "imaged": lambda data, state: (f"An image of {version(data['release'], state)} was built", "plain"),
    "watched": _watched,
    "retrain_started": lambda _data, _state: ("Retrain began", "open"),
    "retrain_ended": _retrained,
    "erased": lambda data, _: (f"A user was erased: {data['predictions']:,} predictions", "plain"),
    "frozen": lambda _data, _state: ("Automatic retrains and rollouts were stopped", "open"),
    "unfrozen": lambda _data, _state: ("Automatic retrains and rollouts go on", "good"),
}


@dataclass(frozen=True, slots=True)
class Need:
    """Something that waits for a person: what, where to look, what to type."""

    text: str
    link: str
    command: str = ""


def needs(state: State, windows: Sequence[Window], *, is_up: bool) -> list[Need]:
    """What waits for a person, the most urgent first."""
    found = []
    rollout, watched, retrain = state.open_rollout, state.watched, state.retrains[-1] if state.retrains else None
    if not is_up:
        found.append(Need("The stack is down: nobody is answered and nobody decides.", "/", "tidegate up -d"))
    if rollout is not None and rollout.state == "held":
        because = rollout.reasons[0] if rollout.reasons else "the judge cannot tell."
        found.append(Need(f"Rollout {rollout.id} is held: {because}", f"/rollouts/{rollout.id}"))
    if watched is not None and watched.lost:
        found.append(Need(f"Quality was lost in the newest window: {watched.reason}", "/quality"))
    elif watched is not None and watched.outcome == "drift" and windows:
        found.append(Need(f"The newest window drifted: {watched.reason}", f"/drift/{windows[-1].id}"))
    if retrain is not None and retrain.outcome == "registered" and retrain.release == state.challenger:
        command = f"tidegate rollout start {retrain.release}" if retrain.release else "tidegate rollout start"
        found.append(
            Need(f"Retrain {retrain.id} made {version(retrain.release, state)}; it waits.", "/lineage", command)
        )
    if state.frozen is not None:
        found.append(Need(f"Frozen: {state.frozen}", "/ledger?kind=frozen", "tidegate unfreeze --reason TEXT"))
    return found


def champion_since(state: State, events: Sequence[Event]) -> str:
    """When the champion became it (ISO 8601), "" if nobody knows."""
    for event in reversed(events):
        data = event.data
        if event.kind in {"deployed", "rollback"} and data.get("release") == state.champion:
            return event.at
        if event.kind == "promoted":
            crowned = next((one.canary for one in state.rollouts if one.id == data.get("rollout")), None)
            if crowned == state.champion:
                return event.at
    return ""


@dataclass(frozen=True, slots=True)
class Share:
    """One arm's part of the traffic, in per cent; `x` is where its bar begins."""

    arm: str
    version: str
    weight: int
    x: int


def traffic(state: State) -> list[Share]:
    """How users are dealt, the stable arm first."""
    rollout = state.open_rollout
    if state.champion is None:
        return []
    if rollout is None:
        return [Share("stable", version(state.champion, state), 100, 0)]
    rest = 100 - rollout.weight
    stable = Share("stable", version(rollout.stable, state), rest, 0)
    return [stable, Share("canary", version(rollout.canary, state), rollout.weight, rest)]


# --- drift -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """One column in one window: `heat` is 0 to 8, or -1 where there is no value; `mark` is one letter or none."""

    heat: int
    mark: str
    text: str


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One column over the windows."""

    name: str
    answer: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Columns by windows; `left_out` columns had no room."""

    windows: tuple[Window, ...]
    rows: tuple[HeatRow, ...]
    left_out: int


def heat_map(windows: Sequence[Window], most: int = _MOST_COLUMNS) -> HeatMap:
    """Every column over the windows, those that moved most in the newest ones first."""
    found = [{(bool(one.get("answer")), str(one["name"])): one for one in window.columns} for window in windows]
    names = dict.fromkeys(name for columns in reversed(found) for name in columns)
    ranked = sorted(names, key=lambda name: -max(_size(columns.get(name)) for columns in found[-6:]))
    rows = [
        HeatRow(
            name[1],
            name[0],
            tuple(_cell(columns.get(name), window) for columns, window in zip(found, windows, strict=True)),
        )
        for name in ranked[:most]
    ]
    return HeatMap(tuple(windows), tuple(rows), max(0, len(names) - most))


def importance(column: Mapping[str, Any]) -> float | None:
    """How much the model uses a column, as far as the reference knows."""
    return number(column.get("importance"))


def _cell(column: Mapping[str, Any] | None, window: Window) -> Cell:
    if column is None:
        return Cell(-1, "", f"{period(window)}: not compared")
    outcome = outcome_of(column)
    word = COLUMN_WORDS.get(outcome, outcome.replace("_", " "))
    value = number(column.get("value"))
    if value is None:
        return Cell(-1, _MARKS.get(outcome, "?"), f"{period(window)}: {word}")
    size = _size(column)
    heat = sum(size >= limit for limit in _HEAT) + 1 if size > 0 else 0
    limit = (number(column.get("floor")) or 0.0) + (number(column.get("threshold")) or 0.0)
    return Cell(heat, _MARKS.get(outcome, ""), f"{period(window)}: {value:.3g}, drifts from {limit:.3g}: {word}")


def outcome_of(column: Mapping[str, Any]) -> str:
    """The named outcome of a column."""
    return str(column.get("outcome") or ("drifted" if column.get("drifted") else "ok"))


def _size(column: Mapping[str, Any] | None) -> float:
    """How far the value is above its noise floor, in thresholds: at 1 the column drifts."""
    if column is None:
        return 0.0
    value, floor, threshold = (number(column.get(one)) for one in ("value", "floor", "threshold"))
    if value is None:
        return 0.0 if outcome_of(column) in {"ok", *_UNTOLD} else 1.0
    return max(0.0, value - (floor or 0.0)) / (threshold or 1.0)


@dataclass(frozen=True, slots=True)
class Bar:
    """A column's value against its limit.

    `numbers` are value, floor and threshold; `value` and `floor` are drawn on a scale of 100 on which every column's
    limit lies at `LIMIT`, so that bars can be compared.
    """

    name: str
    method: str
    outcome: str
    word: str
    look: Look
    importance: float | None
    answer: bool
    numbers: tuple[float | None, float | None, float | None]
    value: float
    floor: float
    detail: str


def bars(window: Window) -> list[Bar]:
    """The columns of one window, those that moved most first."""
    return [_bar(one) for one in sorted(window.columns, key=_size, reverse=True)]


def _bar(column: Mapping[str, Any]) -> Bar:
    value, floor, threshold = (number(column.get(one)) for one in ("value", "floor", "threshold"))
    outcome, limit = outcome_of(column), (floor or 0.0) + (threshold or 0.0)
    scale = LIMIT / max(limit, 1e-12)
    look: Look = "good" if outcome == "ok" else "plain" if outcome in _UNTOLD else "bad"
    return Bar(
        str(column["name"]),
        str(column.get("method") or ""),
        outcome,
        COLUMN_WORDS.get(outcome, outcome.replace("_", " ")),
        look,
        importance(column),
        bool(column.get("answer")),
        (value, floor, threshold),
        min(100.0, scale * (value or 0.0)),
        min(100.0, scale * (floor or 0.0)),
        str(column.get("note") or ""),
    )


def period(window: Window) -> str:
    """The window's time: "2026-01-02 03:00 to 04:00 UTC"."""
    since, until = (_moment(one) for one in (window.watched.since, window.watched.until))
    last = f"{until:%H:%M}" if since.date() == until.date() else f"{until:%Y-%m-%d %H:%M}"
    if last.endswith(" 00:00") and until - since <= timedelta(days=1):
        last = "24:00"
    return f"{since:%Y-%m-%d %H:%M} to {last} UTC"


def share_chart(windows: Sequence[Window], limit: float) -> Chart | None:
    """The weight of the drifted columns over the windows, against what counts as drift; None if too few."""
    points = [(_end(one), 100 * one.watched.share) for one in windows if one.watched.share is not None]
    if len(points) < 2:  # noqa: PLR2004 - a line needs two points
        return None
    axis = date_axis(points[0][0], points[-1][0])
    limits = Line("threshold", f"drift from {100 * limit:g} %", [(axis.low, 100 * limit), (axis.high, 100 * limit)])
    ticks = tuple((float(at), str(at)) for at in (0, 25, 50, 75, 100))
    return Chart(
        "Share of the model's inputs that drifted",
        f"Over {len(points)} windows; {points[-1][1]:.0f} % in the newest.",
        axis,
        Axis(0, 104, ticks, "per cent, weighted by importance"),
        [limits, Line("effect", "drifted share", points)],
    )


# --- quality ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QualityRow:
    """Quality of one version in one window."""

    window: Window
    version: str
    arm: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    reference: float | None
    labelled: int
    predictions: int
    share: float | None
    look: Look
    word: str


def quality_rows(windows: Sequence[Window]) -> list[QualityRow]:
    """Every version in every window, newest first."""
    return [_quality(window, one) for window in reversed(windows) for one in window.qualities]


def _quality(window: Window, told_of: Mapping[str, Any]) -> QualityRow:
    why, lost, value = told_of.get("cannot_tell"), told_of.get("lost"), number(told_of.get("value"))
    look: Look = "bad" if lost else "plain" if why or value is None else "good"
    word = "lost" if lost else f"cannot tell: {why}" if why else "kept" if value is not None else "no labels yet"
    return QualityRow(
        window,
        str(told_of.get("version", "?")),
        str(told_of.get("arm") or ""),
        str(told_of.get("metric") or (window.document.get("quality") or {}).get("metric") or ""),
        value,
        number(told_of.get("low")),
        number(told_of.get("high")),
        number(told_of.get("reference")),
        int(number(told_of.get("labelled")) or 0),
        int(number(told_of.get("predictions")) or 0),
        number(told_of.get("share_labelled")),
        look,
        word,
    )


def quality_charts(rows: Sequence[QualityRow], tolerance: float, *, higher_is_better: bool) -> list[Chart]:
    """For each version that was measured twice or more, the newest first: value with its interval, and its limit."""
    charts = []
    for one in dict.fromkeys(row.version for row in rows):
        seen = sorted(
            (row for row in rows if row.version == one and row.value is not None and row.arm != "canary"),
            key=lambda row: _end(row.window),
        )
        if len(seen) > 1:
            charts.append(_quality_chart(one, seen, tolerance if higher_is_better else -tolerance))
    return charts


def _quality_chart(name: str, rows: Sequence[QualityRow], tolerance: float) -> Chart:
    def line(of: Callable[[QualityRow], float | None]) -> list[tuple[float, float]]:
        return [(_end(row.window), value) for row in rows if (value := of(row)) is not None]

    axis = date_axis(_end(rows[0].window), _end(rows[-1].window))
    value = line(lambda row: row.value)
    reference = line(lambda row: row.reference)
    limit = [(x, y - tolerance) for x, y in reference]
    whole = [row for row in rows if row.low is not None and row.high is not None]
    low, high = ([(_end(row.window), number(of(row)) or 0.0) for row in whole] for of in (_low, _high))
    heights = [y for points in (value, reference, limit, low, high) for _, y in points]
    air = 0.06 * (max(heights) - min(heights)) or 0.01
    metric = rows[-1].metric
    lines = [Line("safe", "on the holdout", reference), Line("harm", "lost beyond this", limit)] if reference else []
    return Chart(
        f"Version {name}: {metric}",
        f"Over {len(rows)} windows; {value[-1][1]:.3g} in the newest.",
        axis,
        number_axis(min(heights) - air, max(heights) + air, metric),
        [*lines, Line("effect", metric, value)],
        [Band("interval", "95 % interval", low, high)],
    )


def _low(row: QualityRow) -> float | None:
    return row.low


def _high(row: QualityRow) -> float | None:
    return row.high


@dataclass(frozen=True, slots=True)
class Labels:
    """What the quality page says of labels: (name, text) pairs, and the curve of how soon they come."""

    facts: tuple[tuple[str, str], ...]
    chart: Chart | None


def labels(document: Mapping[str, Any]) -> Labels | None:
    """From the document of `labels status`; None where no prediction was recorded."""
    if not document["predictions"]:
        return None
    maturity = document["maturity"]
    suggested, configured = maturity["suggested"], float(maturity["configured"])
    facts = [
        ("predictions of the last 30 days", f"{document['predictions']:,}"),
        ("with a label", f"{document['labelled']:,} ({100 * document['share_labelled']:.0f} %)"),
        ("count as mature after", span(configured)),
        ("95 % of the labels are there after", span(suggested) if suggested else "too early to say"),
        ("labels that name no prediction", f"{document['unknown']:,}"),
        ("labels by a name of several", f"{document['ambiguous']:,}"),
    ]
    strange = ", ".join(f"{label} ({count:,})" for label, count in document["strange"].items())
    curve = [(0.0, 0.0), *((float(one["age"]), float(one["share"])) for one in maturity["curve"])]
    named = [*facts, ("no answer of the model", strange)] if strange else facts
    return Labels(tuple(named), maturity_chart(curve, configured) if len(curve) > 1 else None)


def maturity_chart(points: Sequence[tuple[float, float]], maturity: float) -> Chart | None:
    """The share of predictions labelled (0 to 1) within an age (seconds), and the age that counts as mature."""
    if len(points) < 2:  # noqa: PLR2004 - a line needs two points
        return None
    from tidegate.rollouts.charts import Mark, time_axis

    axis = time_axis(max(points[-1][0], 1.05 * maturity))
    ticks = tuple((float(at), str(at)) for at in (0, 25, 50, 75, 100))
    return Chart(
        "How soon labels come",
        f"In the end {100 * points[-1][1]:.0f} % of the predictions are labelled.",
        axis,
        Axis(0, 104, ticks, "per cent labelled"),
        [Line("effect", "labelled within this age", [(x, 100 * y) for x, y in points])],
        (),
        [Mark(maturity, "mature")],
    )


# --- the API ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One request of the API for people; `parameters` and `body` are (name, description)."""

    method: str
    path: str
    text: str
    parameters: tuple[tuple[str, str], ...]
    body: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]


def endpoints(schema: Mapping[str, Any]) -> list[Endpoint]:
    """Every request that an OpenAPI description holds."""
    return [
        Endpoint(
            method,
            path,
            str(one.get("description") or one.get("summary") or ""),
            tuple((str(p["name"]), str(p.get("description") or "")) for p in one.get("parameters", ())),
            _fields(schema, one.get("requestBody", {})),
            tuple(one["responses"]),
        )
        for path, methods in schema["paths"].items()
        for method, one in methods.items()
    ]


def _fields(schema: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = []
    for content in body.get("content", {}).values():
        name = str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]
        fields = schema["components"]["schemas"].get(name, {}).get("properties", {})
        found += [(key, str(field.get("description") or "")) for key, field in fields.items()]
    return tuple(dict(found).items())


# --- time ------------------------------------------------------------------------------------------------------------

_TICKS: Final = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 2 * 86_400, 7 * 86_400, 30 * 86_400)


def date_axis(low: float, high: float) -> Axis:
    """From one moment to another (seconds since the epoch), with ticks at round times in UTC."""
    high = max(high, low + 1)
    step = next((one for one in _TICKS if (high - low) / one <= 5), int(high - low) // 4)  # noqa: PLR2004 - what fits
    first = -(-int(low) // step) * step
    pattern = "%H:%M" if step < 86_400 else "%m-%d"  # noqa: PLR2004 - a day
    at = range(first, int(high) + 1, step)
    return Axis(low, high, tuple((float(one), f"{datetime.fromtimestamp(one, UTC):{pattern}}") for one in at))


def _end(window: Window) -> float:
    return _moment(window.watched.until).timestamp()


def _moment(at: str) -> datetime:
    return utc(datetime.fromisoformat(at))


def number(value: object) -> float | None:
    """A finite number, or None for anything else that a document may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def seconds_between(since: str, until: str) -> float | None:
    """Between two moments in ISO 8601; None while the second one has not come."""
    return (_moment(until) - _moment(since)).total_seconds() if since and until else None


def retrain_text(retrain: RetrainState) -> str:
    """How a retrain stands."""
    return RETRAIN_WORDS.get(retrain.outcome, str(retrain.outcome))


def gaps(windows: Iterable[Window]) -> int:
    """How many windows nobody looked at between those there are."""
    return sum(before.watched.until != after.watched.since for before, after in pairwise(windows))
