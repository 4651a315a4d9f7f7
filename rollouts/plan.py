"""The plan of a rollout: everything the judge may know, fixed before the first user sees the canary.

Made once (`planning.py`), kept in the ledger, never changed: the same plan and the same blocks give the same verdict
on any machine. Data only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tidegate.core.config_types import LABEL_METRICS, OUTCOME_METRICS
from tidegate.rollouts.stats.latency import LatencyLines

Source = Literal["requests", "labels", "outcomes", "own"]
"""Where a metric comes from: the requests themselves, at once; labels, outcome events or the user's function, later."""


@dataclass(frozen=True, slots=True)
class Line:
    """``p(canary) = ratio * p(stable) + margin``."""

    ratio: float
    margin: float = 0.0

    def at(self, rate: float) -> float:
        """The canary's rate on the line when the stable arm's is `rate`."""
        return self.ratio * rate + self.margin

    def above(self, rate: float) -> float:
        """How far the line lies above the stable arm's `rate`: p1 - p0 on the line."""
        return self.at(rate) - rate


@dataclass(frozen=True, slots=True)
class Stream:
    """One metric that is counted or summed up.

    Attributes:
        metric: its name in the blocks, whose counts are of the metric as named (accuracy: correct ones).
        harm: the line beyond which it is worse, in its badness: 1 - share, or minus the mean, if higher is better.
        safe: the line within which it is as good.
        baseline: the stable arm's share or mean, of the metric as named.
        bunching: the design effect of a share.
        kind: share of units with an event, or mean of a quantity.
        better: which way is better.
        variance: of a mean: the stable arm's, from unit to unit.
        source: where it comes from; anything but requests is known later.
        delay: how old users are, in seconds, when it is counted: the same for both arms.
        known: share of users whose value is known by then, as measured before the start.
        bound: of a mean: values beyond it, on both sides of 0, count as it (winsorised).
    """

    metric: str
    harm: Line
    safe: Line
    baseline: float
    bunching: float = 1.0
    kind: Literal["share", "mean"] = "share"
    better: Literal["lower", "higher"] = "lower"
    variance: float = 1.0
    source: Source = "requests"
    delay: float = 0.0
    known: float = 1.0
    bound: float | None = None

    def shift(self, line: Line, stable: float) -> float:
        """The difference canary - stable, of the metric as named, at which the canary lies on a line."""
        if self.better == "lower":
            return line.above(stable)
        return -line.above(1 - stable if self.kind == "share" else -stable)

    @property
    def bad(self) -> float:
        """The baseline as badness: what the lines are about."""
        if self.better == "lower":
            return self.baseline
        return 1 - self.baseline if self.kind == "share" else -self.baseline


@dataclass(frozen=True, slots=True)
class GuardrailPlan:
    """A metric that must not get worse: one stream, or three for latency."""

    metric: str
    streams: tuple[Stream, ...]

    @property
    def source(self) -> Source:
        """Where it comes from."""
        return self.streams[0].source


@dataclass(frozen=True, slots=True)
class GoalPlan:
    """A metric that must get better by `improve_by`, in its own unit; the rest as of a `Stream`."""

    metric: str
    improve_by: float
    baseline: float
    kind: Literal["share", "mean"] = "share"
    better: Literal["lower", "higher"] = "higher"
    variance: float = 1.0
    source: Source = "requests"
    delay: float = 0.0
    known: float = 1.0
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class StepForecast:
    """What one step is expected to take.

    Attributes:
        weight: per cent on the canary.
        promote_seconds: until half of all good canaries pass; None: longer than anybody can wait.
        canary_units: users who see the canary until then.
        rollback_seconds: effect ("error_rate x10") -> until half of such canaries are rolled back; None: not detected.
        slowest: the metric that good canaries wait for.
        delay: how much of `promote_seconds` is spent waiting for the age at which late metrics are counted.
        goal_seconds: improvement ("conversion +10 %") -> until the goal is proven for half of such canaries; None: not
            within 48 hours. `promote_seconds` is without it, because the improvement is not known.
    """

    weight: int
    promote_seconds: float | None
    canary_units: float | None
    rollback_seconds: Mapping[str, float | None]
    slowest: str
    delay: float = 0.0
    goal_seconds: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """See the module. Times in seconds; `step_max` holds one for each step; `units_per_minute` counts both arms.

    `shadow_min` is how long the canary gets copies before the first step; 0: it does not. `settle` is how long a
    recorded prediction may take to reach the store. `code` is the sha256 of the user's own metrics, whose modules
    are kept with the rollout; empty: there are none.
    """

    rollout: str
    steps: tuple[int, ...]
    step_min: float
    step_max: tuple[float, ...]
    on_inconclusive: Literal["hold", "rollback", "promote"]
    mode: Literal["test", "guard"]
    alpha: float
    beta: float
    block_seconds: float
    unit: Literal["user", "request"]
    guardrails: tuple[GuardrailPlan, ...]
    goal: GoalPlan | None = None
    latency: LatencyLines | None = None
    units_per_minute: float = 0.0
    forecast: tuple[StepForecast, ...] = ()
    warnings: tuple[str, ...] = ()
    shadow_min: float = 0.0
    settle: float = 0.0
    code: str = ""

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Every counted metric, in the order of the guardrails."""
        return tuple(stream for guardrail in self.guardrails for stream in guardrail.streams)

    @property
    def metrics(self) -> tuple[Stream | GoalPlan, ...]:
        """Every counted metric, then the goal."""
        return (*self.streams, *([self.goal] if self.goal else []))

    @property
    def late(self) -> tuple[Stream | GoalPlan, ...]:
        """Those that are known only when users have a certain age."""
        return tuple(one for one in self.metrics if one.source != "requests")

    @property
    def counted(self) -> str:
        """The metric whose units are a block's new users: one that is known at once."""
        return next((one.metric for one in self.metrics if one.source == "requests"), "error_rate")

    @property
    def forecast_seconds(self) -> float | None:
        """How long a good canary needs for the shadow phase and the whole ramp; None: too long to say."""
        ramp = total_seconds(self.forecast)
        return None if ramp is None else self.shadow_min + ramp

    @property
    def exposed_units(self) -> float | None:
        """How many users meet a good canary before it is everybody's; None: too long to say."""
        units = [step.canary_units for step in self.forecast]
        return None if None in units or not units else sum(u for u in units if u is not None)

    @property
    def shadow_max(self) -> float:
        """When the shadow phase is given up: like the first step."""
        return max(self.shadow_min, *self.step_max[:1])

    def to_dict(self) -> dict[str, Any]:
        """JSON that `from_dict` turns into an equal plan."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> RolloutPlan:
        """Read what `to_dict` wrote, also after a trip through JSON."""
        fields = dict(document)
        latency, goal = fields["latency"], fields["goal"]
        return cls(
            **fields
            | {
                "steps": tuple(fields["steps"]),
                "step_max": tuple(fields["step_max"]),
                "warnings": tuple(fields["warnings"]),
                "guardrails": tuple(
                    GuardrailPlan(g["metric"], tuple(_stream(s) for s in g["streams"])) for g in fields["guardrails"]
                ),
                "goal": GoalPlan(**goal) if goal else None,
                "latency": lines_from_dict(latency) if latency else None,
                "forecast": tuple(StepForecast(**f) for f in fields["forecast"]),
            }
        )


def _stream(document: Mapping[str, Any]) -> Stream:
    return Stream(**dict(document) | {"harm": Line(**document["harm"]), "safe": Line(**document["safe"])})


def lines_from_dict(document: Mapping[str, Any]) -> LatencyLines:
    """Read the latency thresholds that `dataclasses.asdict` wrote."""
    return LatencyLines(
        tuple(document["stable"]), tuple(document["canary"]), tuple(document["bunching"]), document["requests"]
    )


def source_of(metric: str) -> Source:
    """Where a metric comes from, by its name."""
    if ":" in metric:
        return "own"
    if metric in LABEL_METRICS:
        return "labels"
    return "outcomes" if metric in OUTCOME_METRICS else "requests"


def total_seconds(forecast: tuple[StepForecast, ...]) -> float | None:
    """The sum over the steps, None if one of them has no end."""
    seconds = [step.promote_seconds for step in forecast]
    return None if None in seconds or not seconds else sum(s for s in seconds if s is not None)
