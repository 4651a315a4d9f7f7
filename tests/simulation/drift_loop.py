"""The whole loop on a recorded stream: watch, decide, train, compare, promote; by the functions that production uses.

Only the surroundings are made up: a window of labelled rows takes one hour, labels mature at its end, and a promotion
takes effect with the next window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from tidegate.core.config_live import Monitor, Retrain
from tidegate.core.metrics import Scored
from tidegate.monitors.candidates import Candidate, Choice, Rules, choose, formers
from tidegate.monitors.trigger import Signs, changed_since, decide, rows_to_keep
from tidegate.pipelines.bootstrap import advantage
from tidegate.pipelines.own_metrics import Measure
from tidegate.registry.ledger import Event
from tidegate.registry.state import State, fold

START = datetime(2026, 3, 1, tzinfo=UTC)
ACCURACY = Measure("accuracy", "higher")

Fit = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Version:
    """A trained model: its answers to the whole stream, what it learnt from, its accuracy on its holdout."""

    number: int
    answers: Any
    learnt: slice
    reference: float


@dataclass
class Loop:
    """One stream and one policy.

    Args:
        inputs: shape (rows, columns), in order of time.
        truth: shape (rows,).
        fit: gives a fitted classifier.
        first: rows of the first training; later ones keep that length.
        window: rows.
        monitor: the section.
        retrain: the section.
        holdout: the newest share of the training data, which is held out as `data.split` does by time.
    """

    inputs: Any
    truth: Any
    fit: Fit
    first: int
    window: int
    monitor: Monitor
    retrain: Retrain
    holdout: float = 0.2
    events: list[Event] = field(default_factory=list)
    versions: dict[str, Version] = field(default_factory=dict)
    accuracy: list[float] = field(default_factory=list)
    served: list[int] = field(default_factory=list)

    def run(self) -> Loop:
        """Play it to the end."""
        self._register(self._train(self.first), hour=0)
        self._tell(0, "deployed", release="r-1")
        for number in range((len(self.truth) - self.first) // self.window):
            self._watch(number)
        return self

    @property
    def state(self) -> State:
        """What the ledger says."""
        return fold(self.events)

    def asked(self) -> list[int]:
        """The windows that asked for a retrain."""
        watched = [event for event in self.events if event.kind == "watched"]
        return [number for number, event in enumerate(watched) if event.data["retrain"]["asked"]]

    def outcomes(self) -> list[tuple[int, str]]:
        """Window and outcome of every retrain."""
        return [
            (int((event.moment - START).total_seconds() // 3600) - 1, event.data["outcome"])
            for event in self.events
            if event.kind == "retrain_ended"
        ]

    def never(self) -> list[float]:
        """The accuracy in each window of the first version, had nobody ever retrained."""
        return [self._right("r-1", self._rows(number)).mean() for number in range(len(self.accuracy))]

    def _watch(self, number: int) -> None:
        rows, state = self._rows(number), self.state
        champion = str(state.champion)
        right = self._right(champion, rows)
        self.accuracy.append(float(right.mean()))
        self.served.append(self.versions[champion].number)
        newest = self._choose(formers(state), number, windows=1)
        seen = Signs(
            _hour(number),
            "no_drift",
            self._lost(right, self.versions[champion].reference),
            former=newest.winner.sentence if newest.winner else "",
            short=self._short(right, state),
        )
        decision = decide(state, seen, self.retrain, self.monitor, START + timedelta(hours=number + 1))
        times = {"window": _hour(number), "until": _hour(number + 1)}
        self._tell(number + 1, "watched", **times, outcome=seen.outcome, lost=seen.lost, retrain=decision.to_json())
        if decision.asked:
            self._retrain(number, decision.reason)

    def _retrain(self, number: int, reason: str) -> None:
        """A former champion that is better goes first; else a new version is trained and must win."""
        name = f"t-{number}"
        self._tell(number + 1, "retrain_started", retrain=name, reason=reason, window=_hour(number))
        known = formers(self.state)
        windows, outcome = self.monitor.drift.windows, "former"
        choice = self._choose(known, number, windows=1)
        if choice.winner is None:
            outcome = "released"
            fresh = self._train(self.first + (number + 1) * self.window, self._recent(number))
            self._register(fresh, hour=number + 1)
            choice = self._choose((*known, f"r-{fresh.number}"), number, windows=windows)
        if choice.winner is None:
            outcome = "kept"
        else:
            self._tell(number + 1, "deployed", release=choice.release)
        self._tell(number + 1, "retrain_ended", retrain=name, outcome=outcome, release=choice.release, reasons=[])

    def _choose(self, others: tuple[str, ...], number: int, *, windows: int) -> Choice:
        end = self._rows(number).stop
        rows = slice(max(self.first, end - windows * self.window), end)
        rules = Rules(compare, "accuracy", margin=0.005)
        champion, *rest = (self._candidate(one, rows) for one in (str(self.state.champion), *others))
        return choose(champion, rest, rules)

    def _candidate(self, release: str, rows: slice) -> Candidate:
        version = self.versions[release]
        places = np.arange(rows.start, rows.stop)
        unseen = (places < version.learnt.start) | (places >= version.learnt.stop)
        scored = Scored(self.truth[rows], version.answers[rows], None, (0, 1))
        return Candidate(release, version.number, scored, unseen)

    def _recent(self, number: int) -> int | None:
        since = changed_since(self.state, self.retrain, self.monitor)
        hours = None if since is None else (datetime.fromisoformat(since) - START).total_seconds() / 3600
        return None if hours is None else round(number + 1 - hours) * self.window

    def _train(self, end: int, recent: int | None = None) -> Version:
        """On the newest rows before `end`, the newest share of them held out."""
        size = rows_to_keep(self.first, recent)
        held = round(size * self.holdout)
        learnt = slice(end - size, end - held)
        model = self.fit(self.inputs[learnt], self.truth[learnt])
        answers = model.predict(self.inputs)
        reference = float((answers == self.truth)[end - held : end].mean())
        return Version(len(self.versions) + 1, answers, learnt, reference)

    def _register(self, version: Version, hour: int) -> None:
        release = f"r-{version.number}"
        self.versions[release] = version
        self._tell(hour, "registered", release=release, version=version.number, run_id=release, gate=[])

    def _lost(self, right: Any, reference: float) -> bool:
        """Whether the 95 % interval of the window's accuracy lies below the tolerance."""
        half = NormalDist().inv_cdf(0.975) * float(right.std()) / len(right) ** 0.5
        return bool(right.mean() + half < reference - self.monitor.quality.tolerance)

    def _short(self, right: Any, state: State) -> str:
        best = max((self.versions[one].reference for one in formers(state)), default=0.0)
        return f"a former champion had {best:.3f}" if self._lost(right, best) else ""

    def _right(self, release: str, rows: slice) -> Any:
        return self.versions[release].answers[rows] == self.truth[rows]

    def _rows(self, number: int) -> slice:
        start = self.first + number * self.window
        return slice(start, start + self.window)

    def _tell(self, hour: int, kind: str, **data: Any) -> None:
        self.events.append(Event(len(self.events), _hour(hour), kind, "loop", data))


def compare(one: Scored, champion: Scored, confidence: float, _rows: Any) -> tuple[float, float, float, float]:
    """Accuracy of both, and the paired bootstrap's advantage."""
    frame = pd.DataFrame(index=range(len(one.truth)))
    found = advantage(ACCURACY, one, champion, frame, confidence)
    return (ACCURACY.of(one, frame), ACCURACY.of(champion, frame), found.estimate, found.low)


def _hour(number: int) -> str:
    return (START + timedelta(hours=number)).isoformat()
