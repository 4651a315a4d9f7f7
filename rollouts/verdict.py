"""What the judge says: frozen, and JSON as `rollout status` prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tidegate.core.artifacts import VerdictWord


@dataclass(frozen=True, slots=True)
class Units:
    """Users of each arm, and those with the event or the sum of the quantity, since the rollout began."""

    canary: int
    canary_events: float
    stable: int
    stable_events: float

    @property
    def canary_share(self) -> float:
        """Share of the canary's users with the event, or their mean."""
        return self.canary_events / max(self.canary, 1)

    @property
    def stable_share(self) -> float:
        """Share of the stable arm's."""
        return self.stable_events / max(self.stable, 1)


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """One metric.

    Attributes:
        name: as in the plan.
        effect: the canary's share minus the stable arm's, averaged over blocks; None before there is data.
        low: lower end of its confidence sequence (`stats/confidence.py`).
        high: upper end.
        log_e_harm: log evidence that the harm line is passed; None for a goal.
        log_e_safe: log evidence that the safe line is kept; for a goal that it is reached.
        verdict: what this metric alone would say.
        units: counts behind it.
        sentence: for a person.
        parts: the three quantiles of latency.
        labelled: of a metric that needs labels: users old enough, and those of them whose truth is known.
    """

    name: str
    effect: float | None
    low: float | None
    high: float | None
    log_e_harm: float | None
    log_e_safe: float
    verdict: VerdictWord
    units: Units
    sentence: str
    parts: tuple[MetricVerdict, ...] = ()
    labelled: Units | None = None

    @classmethod
    def of_parts(
        cls, name: str, log_e_harm: float, log_e_safe: float, *, verdict: VerdictWord, parts: tuple[MetricVerdict, ...]
    ) -> MetricVerdict:
        """Speak for several streams with the one that matters most: most harmful, or least proven safe."""
        told = (
            max(parts, key=lambda p: p.log_e_harm or 0.0)
            if verdict == "rollback"
            else min(parts, key=lambda p: p.log_e_safe)
        )
        return cls(
            name, told.effect, told.low, told.high, log_e_harm, log_e_safe, verdict, told.units, told.sentence, parts
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        document: dict[str, Any] = {
            "name": self.name,
            "effect": self.effect,
            "low": self.low,
            "high": self.high,
            "log_e_harm": self.log_e_harm,
            "log_e_safe": self.log_e_safe,
            "verdict": self.verdict,
            "units": {"stable": self.units.stable, "canary": self.units.canary},
            "events": {"stable": self.units.stable_events, "canary": self.units.canary_events},
            "sentence": self.sentence,
        }
        if self.labelled is not None:
            shares = {"stable": self.labelled.stable_share, "canary": self.labelled.canary_share}
            document["labelled"] = shares
        if self.parts:
            document["parts"] = [part.to_dict() for part in self.parts]
        return document


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Whether the arms got their shares: log evidence against it."""

    log_e: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from the blocks so far.

    Attributes:
        decision: `promote` passes the step; with `final` the rollout.
        final: nothing will change it: rolled back, or the last step has passed.
        step: index of the step.
        weight: its per cent.
        next_weight: what the gateway should be set to now; None: leave it.
        elapsed_seconds: of the step.
        metrics: one for each guardrail, then the goal.
        log_e_harm: of all guardrails together; log(1 / alpha) rolls back.
        srm: the sample-ratio check.
        reasons: sentences that explain the decision.
        forecast_seconds: until a good canary passes this step; None if nobody can say, as when no users come.
        units: users of each arm so far.
    """

    decision: VerdictWord
    final: bool
    step: int
    weight: int
    next_weight: int | None
    elapsed_seconds: float
    metrics: tuple[MetricVerdict, ...]
    log_e_harm: float
    srm: SampleRatio
    reasons: tuple[str, ...]
    forecast_seconds: float | None
    units: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON: the judge's part of `rollout status`."""
        return {
            "decision": self.decision,
            "final": self.final,
            "step": self.step,
            "weight": self.weight,
            "next_weight": self.next_weight,
            "elapsed_seconds": self.elapsed_seconds,
            "metrics": [metric.to_dict() for metric in self.metrics],
            "log_e_harm": self.log_e_harm,
            "srm": {"log_e": self.srm.log_e, "ok": self.srm.ok},
            "units": self.units,
            "reasons": list(self.reasons),
            "forecast_seconds": self.forecast_seconds,
        }
