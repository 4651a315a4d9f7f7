"""/metrics: what the ledger, the judge and the monitor know, in Prometheus' text format.

Every name is here or comes from the services' own /metrics; the dashboard in grafana/ uses no other. Columns are at
most `MOST_COLUMNS`, those that moved most, so that a wide table does not fill a time-series database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tidegate.console import views
from tidegate.console.known import Known
from tidegate.console.reports import Window
from tidegate.console.traffic import samples_of
from tidegate.registry.ledger import Event
from tidegate.registry.state import OPEN, RolloutState, State

MOST_COLUMNS: Final = 50
_OUTCOMES: Final = ("drift", "no_drift", "cannot_tell")
_STATES: Final = ("running", "held", "promoted", "rolled_back", "inconclusive", "aborted", "replaced")

# A metric: name, type, help, and its samples.
Family = tuple[str, str, str, Sequence[tuple[Mapping[str, object], float | None]]]


def render(known: Known) -> bytes:
    """The page."""
    state, events, stack = known.state, known.events, known.stack()
    families = [
        *_general(known, state, stack),
        *_rollouts(known, state, events),
        *_windows(known, events),
        *_retrains(state),
        *_labelled(known.labels()),
        *_services(stack),
    ]
    return "".join(_text(family) for family in families).encode()


def _general(known: Known, state: State, stack: Mapping[str, Any] | None) -> Iterator[Family]:
    project = known.environment.project
    info = {
        "model": project.config.model,
        "env": project.env,
        "release": state.champion or "",
        "version": _version(state),
    }
    yield "tidegate_champion_info", "gauge", "The release that is the champion.", [(info, 1)]
    yield "tidegate_up", "gauge", "Whether `tidegate up` runs.", [({}, stack is not None)]
    yield (
        "tidegate_frozen",
        "gauge",
        "Whether automatic retrains and rollouts are stopped.",
        [({}, state.frozen is not None)],
    )
    yield "tidegate_ledger_events_total", "counter", "Events in the ledger.", [({}, state.length)]
    ready = [({"name": one["name"]}, bool(one["ready"])) for one in (stack or {}).get("processes", ())]
    yield "tidegate_process_ready", "gauge", "Whether a process of the stack answers.", ready


def _version(state: State) -> str:
    return str(state.versions.get(state.champion or "", ""))


def _rollouts(known: Known, state: State, events: Iterable[Event]) -> Iterator[Family]:
    counts = Counter(one.state for one in state.rollouts)
    totals = [({"state": word}, counts[word]) for word in _STATES if word not in OPEN]
    yield "tidegate_rollouts_total", "counter", "Rollouts that ended, by how.", totals
    decided = Counter(one.kind for one in events if one.kind in {"step_passed", "held", "promoted", "rolled_back"})
    yield (
        "tidegate_verdicts_total",
        "counter",
        "Decisions about rollouts.",
        [({"kind": k}, n) for k, n in sorted(decided.items())],
    )
    rollout = state.rollout
    if rollout is None:
        return
    yield from _rollout(rollout, known.environment.driver.status(rollout.id))


def _rollout(rollout: RolloutState, document: Mapping[str, Any]) -> Iterator[Family]:
    who = {"rollout": rollout.id}
    words = [({**who, "state": word}, rollout.state == word) for word in _STATES]
    yield "tidegate_rollout_state", "gauge", "The newest rollout: 1 for the state it is in.", words
    yield "tidegate_rollout_weight", "gauge", "Share of users on the canary, 0 to 1.", [(who, rollout.weight / 100)]
    units = [({**who, "arm": arm}, count) for arm, count in document["units"].items()]
    yield "tidegate_rollout_units", "gauge", "Users of each arm so far.", units
    yield (
        "tidegate_rollout_sample_ratio_log_e",
        "gauge",
        "Log evidence against the sample ratio.",
        [(who, document["srm"]["log_e"])],
    )
    yield (
        "tidegate_rollout_harm_log_e",
        "gauge",
        "Log evidence of harm, all guardrails together.",
        [(who, document["log_e_harm"])],
    )
    yield (
        "tidegate_rollout_forecast_seconds",
        "gauge",
        "Until a good canary passes this step.",
        [(who, document["forecast_seconds"])],
    )
    streams = [part for metric in document["metrics"] for part in metric.get("parts") or (metric,)]
    for name, text, key in (
        ("tidegate_rollout_effect", "Canary minus stable.", "effect"),
        ("tidegate_rollout_effect_low", "Lower end of the confidence sequence.", "low"),
        ("tidegate_rollout_effect_high", "Upper end of the confidence sequence.", "high"),
        ("tidegate_rollout_log_e_harm", "Log evidence that the harm line is passed.", "log_e_harm"),
        ("tidegate_rollout_log_e_safe", "Log evidence that the safe line is kept.", "log_e_safe"),
    ):
        values = [({**who, "metric": one["name"]}, views.times.number(one.get(key))) for one in streams]
        yield name, "gauge", text, values


def _windows(known: Known, events: Iterable[Event]) -> Iterator[Family]:
    counts = Counter(one.data.get("outcome") for one in events if one.kind == "watched")
    totals = [({"outcome": word}, counts[word]) for word in _OUTCOMES]
    yield "tidegate_windows_total", "counter", "Windows of live data that were looked at.", totals
    windows = known.windows(12)
    if not windows:
        return
    newest = windows[-1]
    end = datetime.fromisoformat(newest.watched.until).timestamp()
    yield "tidegate_window_end_timestamp_seconds", "gauge", "When the newest window ended.", [({}, end)]
    yield "tidegate_window_rows", "gauge", "Predictions in the newest window.", [({}, views.times.number(newest.rows))]
    words = [({"outcome": word}, newest.watched.outcome == word) for word in _OUTCOMES]
    yield "tidegate_window_outcome", "gauge", "The newest window: 1 for its outcome.", words
    yield (
        "tidegate_window_drifted_share",
        "gauge",
        "Weight of the drifted columns, 0 to 1.",
        [({}, newest.watched.share)],
    )
    bars = views.drift.bars(newest)
    for name, text, at in (
        ("tidegate_drift_value", "Distance of a column from the training data.", 0),
        ("tidegate_drift_floor", "What noise alone makes of it.", 1),
        ("tidegate_drift_threshold", "How far above the floor counts as drift.", 2),
    ):
        values = [({"column": one.name, "of": _of(one)}, one.numbers[at]) for one in bars[:MOST_COLUMNS]]
        yield name, "gauge", text, values
    flags = [({"column": one.name, "of": _of(one)}, one.look == "bad") for one in bars[:MOST_COLUMNS]]
    yield "tidegate_drift_drifted", "gauge", "Whether a column drifted, or cannot be compared any more.", flags
    yield (
        "tidegate_drift_columns_left_out",
        "gauge",
        "Columns beyond those shown.",
        [({}, max(0, len(bars) - MOST_COLUMNS))],
    )
    yield from _quality(windows)


def _of(bar: views.drift.Bar) -> str:
    return "answer" if bar.answer else "input"


def _quality(windows: Sequence[Window]) -> Iterator[Family]:
    newest: dict[tuple[str, str, str], views.quality.QualityRow] = {}
    for row in views.quality.quality_rows(windows):
        if row.value is not None:
            newest.setdefault((row.version, row.arm, row.metric), row)
    named = [({"version": v, "arm": a, "metric": m}, row) for (v, a, m), row in newest.items()]
    yield (
        "tidegate_quality",
        "gauge",
        "Metric over matured labels, newest window.",
        [(who, row.value) for who, row in named],
    )
    yield "tidegate_quality_low", "gauge", "Lower end of its interval.", [(who, row.low) for who, row in named]
    yield "tidegate_quality_high", "gauge", "Upper end of its interval.", [(who, row.high) for who, row in named]
    yield (
        "tidegate_quality_reference",
        "gauge",
        "The same on the holdout.",
        [(who, row.reference) for who, row in named],
    )
    yield (
        "tidegate_quality_lost",
        "gauge",
        "Whether quality was lost.",
        [(who, row.look == "bad") for who, row in named],
    )
    yield (
        "tidegate_labelled",
        "gauge",
        "Predictions of the window with a label.",
        [(who, row.labelled) for who, row in named],
    )
    yield "tidegate_labelled_share", "gauge", "Their share, 0 to 1.", [(who, row.share) for who, row in named]


def _retrains(state: State) -> Iterator[Family]:
    yield "tidegate_retrain_open", "gauge", "Whether a retrain runs.", [({}, state.open_retrain is not None)]
    counts = Counter(one.outcome for one in state.retrains if one.outcome)
    values = [({"outcome": word}, count) for word, count in sorted(counts.items())]
    yield "tidegate_retrains_total", "counter", "Retrains that ended, by how.", values


def _labelled(document: Mapping[str, Any]) -> Iterator[Family]:
    window = "of the last 30 days"
    yield "tidegate_predictions", "gauge", f"Recorded predictions {window}.", [({}, document["predictions"])]
    yield "tidegate_predictions_labelled", "gauge", f"Predictions {window} with a label.", [({}, document["labelled"])]
    yield "tidegate_labels_unknown", "gauge", "Labels that name no recorded prediction.", [({}, document["unknown"])]
    suggested = views.times.number(document["maturity"]["suggested"])
    yield "tidegate_labels_maturity_seconds", "gauge", "Age at which 95 % of the labels are there.", [({}, suggested)]


def _services(stack: Mapping[str, Any] | None) -> Iterator[Family]:
    """What the services say of themselves, with the release that says it."""
    found: dict[str, list[tuple[Mapping[str, object], float | None]]] = {}
    for release, samples in samples_of(stack).items():
        for one in samples:
            found.setdefault(one.name, []).append(({**one.labels, "release": release}, one.value))
    for name, values in sorted(found.items()):
        base = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        # A histogram's three names are one family; without its head every parser takes them as they are.
        kind = "untyped" if base != name else "counter" if name.endswith("_total") else "gauge"
        yield name, kind, "Of a running service.", values


def _text(family: Family) -> str:
    name, kind, text, samples = family
    lines = [f"{name}{_labels(labels)} {float(value):.10g}\n" for labels, value in samples if value is not None]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{''.join(lines)}" if lines else ""


def _labels(labels: Mapping[str, object]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
