"""Which release should be the champion, on rows whose truth has matured: the one of now, a new one, or a former one.

The champion stays unless another is better by more than a margin, with the confidence of one test shared among all
that are tried (Bonferroni): one of five that are equal looks better by chance more often than one of one. Whoever
learnt from a row is not asked about it. Pure: answers in, a choice out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tidegate.core.metrics import Scored
    from tidegate.registry.state import State

CONFIDENCE: Final = 0.95
"""That whoever is chosen is better than the champion, all candidates together."""

LEAST_ROWS: Final = 200
"""Rows below which two models are not compared: an accuracy of 200 rows moves by three points by chance."""

FORMERS: Final = 5
"""So many former champions are candidates, the newest: each costs a scoring of the rows, and shares the confidence."""


@dataclass(frozen=True)
class Candidate:
    """A release and what it answers.

    Attributes:
        release: its id.
        version: of its model.
        scored: its answers to all rows that are compared on, in one order for all candidates.
        unseen: which of the rows it did not learn from, shape (rows,).
    """

    release: str
    version: int
    scored: Scored
    unseen: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Contest:
    """One candidate beside the champion, on the rows that neither learnt from.

    `advantage` is how much better it is in the metric's good direction, `low` its lower bound; NaN: not compared.
    """

    release: str
    version: int
    rows: int
    value: float
    champion: float
    advantage: float
    low: float
    better: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Choice:
    """`release` is who should serve; the champion unless another won. `contests` has every candidate, as given."""

    release: str
    contests: tuple[Contest, ...]

    @property
    def decided(self) -> bool:
        """Whether at least one candidate could be compared at all."""
        return any(not math.isnan(one.low) for one in self.contests)

    @property
    def winner(self) -> Contest | None:
        """The contest that was won by whoever should serve; None: the champion stays."""
        return next((one for one in self.contests if one.release == self.release), None)


Compare = Callable[["Scored", "Scored", float, "NDArray[np.bool_]"], tuple[float, float, float, float]]
"""(candidate, champion, confidence, which rows these are) -> value of both, the advantage and its lower bound."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How two models are compared.

    Attributes:
        compare: measures two models on the same rows.
        metric: its name, for the sentences.
        margin: a smaller advantage is not worth a change, in the metric's unit.
    """

    compare: Compare
    metric: str
    margin: float


def formers(state: State) -> tuple[str, ...]:
    """The former champions that may serve again, newest first: not the one of now, nor those that were rolled back."""
    sound = [one for one in reversed(state.history) if one != state.champion and one not in state.left]
    return tuple(dict.fromkeys(sound))[:FORMERS]


def choose(champion: Candidate, others: Sequence[Candidate], rules: Rules) -> Choice:
    """The candidate with the largest lower bound above the margin, or the champion.

    Args:
        champion: who serves now.
        others: who could; ties go to the first, so name former champions before a new release: they are proven.
        rules: how they are compared.
    """
    confidence = 1 - (1 - CONFIDENCE) / max(len(others), 1)
    contests = tuple(_contest(champion, one, confidence, rules) for one in others)
    best = max((one for one in contests if one.better), key=lambda one: one.low, default=None)
    return Choice(champion.release if best is None else best.release, contests)


def _contest(champion: Candidate, one: Candidate, confidence: float, rules: Rules) -> Contest:
    both = champion.unseen & one.unseen
    rows = int(both.sum())
    about = f"version {one.version}"
    if rows < LEAST_ROWS:
        few = f"{rows:,} matured rows that neither learnt from, {LEAST_ROWS} are needed"
        nothing = math.nan
        said = f"{about} cannot be compared: {few}"
        return Contest(one.release, one.version, rows, nothing, nothing, nothing, nothing, better=False, sentence=said)
    value, before, advantage, low = rules.compare(one.scored.rows(both), champion.scored.rows(both), confidence, both)
    better = low > rules.margin
    said = (
        f"{about} has {rules.metric} {value:.4g} on {rows:,} matured rows, version {champion.version} has "
        f"{before:.4g}: {_words(low, better=better, margin=rules.margin)}"
    )
    return Contest(one.release, one.version, rows, value, before, advantage, low, better=better, sentence=said)


def _words(low: float, *, better: bool, margin: float) -> str:
    if math.isnan(low):
        return "not defined on so few rows"
    if better:
        return f"better by at least {low:.3g}"
    return f"not better beyond doubt (at least {low:+.3g}, more than {margin:.3g} is asked for)"
