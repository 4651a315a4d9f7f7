"""What a simulated rollout goes through, as a YAML file: a checked, frozen object. Reads files, draws nothing.

Shares are between 0 and 1, durations carry a unit, weights are whole per cents. Every count is of the bad event: a
failed request, a slow one, a wrong label.
"""

from __future__ import annotations

import math
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from tidegate.core.config import Rollout, load_section
from tidegate.core.config_types import PositiveSeconds, Section, Text, did_you_mean, wrong
from tidegate.core.errors import ConfigError, UsageError
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import Measured, make_plan
from tidegate.rollouts.stats.latency import MINIMUM, SHARES, LatencyLines

MINUTE: Final = 60.0
ERRORS, LABELS = "error_rate", "accuracy"

# 2,000 rollouts know a share of 5 % to half a point; ten times as many need minutes and gigabytes.
MOST_RUNS: Final = 20_000
# Two weeks of minutes.
_MOST_BLOCKS = 20_160
_SUFFIXES = (".yaml", ".yml")

Share = Annotated[float, Field(gt=0, lt=1)]
Metric = Literal["error_rate", "latency_p50", "latency_p90", "latency_p99", "accuracy"]


class Cycle(Section):
    """A tide in the error rate of both arms: the base times ``1 + amplitude sin(2 pi t / period)``."""

    amplitude: Annotated[float, Field(ge=0, le=1)] = Field(description="How far it swings, as a share of the base.")
    period: PositiveSeconds = Field(default=86_400.0, description="How long one swing takes.")


class Incident(Section):
    """Something that hits both arms alike."""

    start: PositiveSeconds = Field(description="When it begins, after the rollout did.")
    lasts: PositiveSeconds = Field(description="How long it goes on.")
    rate: Share = Field(description="Share of requests that fail, and that are slow, on both arms meanwhile.")


class Regulars(Section):
    """Users who stay for the whole rollout and come again and again, each in the arm that its hash says."""

    users: int = Field(gt=0, le=10_000_000, description="How many of them there are.")
    requests_per_minute: float = Field(gt=0, le=100, description="How often each comes, on average.")
    error_rate: Share = Field(description="Share of their requests that fail on the stable arm.")


class LateLabels(Section):
    """What was right becomes known later, and wrong answers are not heard of at the same age as right ones."""

    wrong: Share = Field(description="Share of the stable arm's predictions that are wrong.")
    wrong_after: PositiveSeconds = Field(description="Mean age at which a wrong one is heard of.")
    right_after: PositiveSeconds = Field(description="Mean age at which a right one is.")
    maturity: PositiveSeconds = Field(description="Age at which the judge scores a prediction, the same on both arms.")


class Bound(Section):
    """What a number of the report must keep to."""

    min: float | None = Field(default=None, ge=0, description="At least.")
    max: float | None = Field(default=None, ge=0, description="At most.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.min is None and self.max is None:
            raise wrong("should have a min or a max")
        return self

    def broken_by(self, value: float | None) -> str:
        """How `value` (None: more than half of the runs were not decided) breaks it, or nothing."""
        shown = "never" if value is None else f"{value:.4g}"
        if self.min is not None and value is not None and value < self.min:
            return f"{shown}, less than {self.min:g}"
        if self.max is not None and (value is None or value > self.max):
            return f"{shown}, more than {self.max:g}"
        return ""


class Expect(Section):
    """Bounds on tidegate's row; `rollout simulate` ends with exit code 3 if one is broken."""

    false_rollback: Bound | None = Field(default=None, description="Share rolled back, of a harmless canary.")
    power: Bound | None = Field(default=None, description="Share rolled back, of a harmful canary.")
    promoted: Bound | None = Field(default=None, description="Share promoted.")
    inconclusive: Bound | None = Field(default=None, description="Share that waits for a person.")
    undecided: Bound | None = Field(default=None, description="Share that was still running at the end.")
    median_minutes: Bound | None = Field(default=None, description="Until half of the runs were decided.")
    median_canary_units: Bound | None = Field(default=None, description="Who met the canary until then.")


class Scenario(Section):
    """A whole scenario; every key has a default, so that a file says only what is special."""

    about: Text = Field(default="A scenario of your own.", description="One sentence for `--list`.")
    runs: int = Field(default=1000, ge=1, le=MOST_RUNS, description="How many rollouts are drawn for each policy.")
    seed: int = Field(default=1, ge=0, description="Of the random numbers: the same seed gives the same report.")
    duration: PositiveSeconds = Field(default=7200.0, description="How long each rollout is followed.")
    block: PositiveSeconds = Field(default=60.0, description="As `advanced.block`: divides a minute.")
    units_per_minute: float = Field(
        default=1200.0, gt=0, le=10_000_000, description="New users a minute, each with one request, both arms."
    )
    error_rate: Share = Field(default=0.005, description="Share of their requests that fail on the stable arm.")
    effect: dict[Metric, Annotated[float, Field(gt=0, le=1000)]] = Field(
        default={}, description="Factor on the canary's share of the bad event, for each metric; 1 where not named."
    )
    effect_from_weight: int = Field(default=1, ge=1, le=100, description="The effect shows from this weight on.")
    daily_cycle: Cycle | None = Field(default=None, description="Error rates swing in both arms.")
    incident: Incident | None = Field(default=None, description="Both arms fail for a while.")
    heavy_users: Regulars | None = Field(default=None, description="Few users with many requests, and many failures.")
    returning_users: Regulars | None = Field(default=None, description="Users who come back and differ from new ones.")
    labels: LateLabels | None = Field(default=None, description="Judge `accuracy` from labels that come later.")
    rollout: Rollout = Field(default=Rollout(), description="The policy under test, as `rollout:` of tidegate.yaml.")
    expect: Expect = Field(default=Expect(), description="What must hold.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if MINUTE % self.block or self.duration % MINUTE:
            raise wrong("a block divides a minute, and rollouts last whole minutes", "block")
        if self.blocks > _MOST_BLOCKS:
            raise wrong(f"{self.blocks:,} blocks are more than {_MOST_BLOCKS:,}", "duration")
        for guardrail in self.rollout.guardrails:
            if guardrail.metric not in ((LABELS,) if self.labels else (ERRORS, "latency")):
                drawn = "with `labels`, accuracy alone" if self.labels else "errors and latency"
                raise wrong(f"{guardrail.metric} is not simulated here: what is drawn is {drawn}", "rollout")
        if self.rollout.goal is not None:
            raise wrong("a goal is not simulated", "rollout")
        if any((metric == LABELS) != bool(self.labels) for metric in self.effect):
            raise wrong("with `labels` the effect is on accuracy, else on errors and latency", "effect")
        if self.labels and (self.heavy_users or self.returning_users or self.rollout.unit.per == "request"):
            raise wrong("labels are scored once for each user: no regulars and no unit: request beside them", "labels")
        return self

    @property
    def blocks(self) -> int:
        """How many blocks a rollout has."""
        return round(self.duration / self.block)

    @property
    def regulars(self) -> tuple[Regulars, ...]:
        """Those users who come more than once."""
        return tuple(one for one in (self.heavy_users, self.returning_users) if one)

    @property
    def baseline(self) -> float:
        """The stable arm's share of bad events as somebody would measure it before the start.

        Of first requests; of labels, among those that are known at maturity.
        """
        if self.labels:
            return matured_share(self.labels, self.labels.wrong)
        groups = [(self.units_per_minute * self.duration / MINUTE, self.error_rate)]
        groups += [(one.users, one.error_rate) for one in self.regulars]
        if self.rollout.unit.per == "request":
            groups = [(self.units_per_minute, self.error_rate)]
            groups += [(one.users * one.requests_per_minute, one.error_rate) for one in self.regulars]
        return sum(n * rate for n, rate in groups) / sum(n for n, _ in groups)

    def factor(self, metric: str) -> float:
        """The effect on a metric."""
        return {str(name): factor for name, factor in self.effect.items()}.get(metric, 1.0)

    def harmful(self, plan: RolloutPlan) -> bool:
        """Whether the canary is beyond a harm line at some step: then to roll it back is right, else it is false."""
        if self.effect_from_weight > plan.steps[-1]:
            return False
        return any(self.factor(stream.metric) * stream.bad > stream.harm.at(stream.bad) for stream in plan.streams)


def matured_share(labels: LateLabels, wrong: float) -> float:
    """Share of wrong ones among the labels that are known at maturity, if a share `wrong` of all is."""
    heard = [known_by(labels.maturity, after) for after in (labels.wrong_after, labels.right_after)]
    return wrong * heard[0] / (wrong * heard[0] + (1 - wrong) * heard[1])


def known_by(age: float, mean: float) -> float:
    """Probability that an exponential delay of that mean is over; both in one unit."""
    return -math.expm1(-age / mean)


def plan_for(scenario: Scenario) -> RolloutPlan:
    """The plan that `rollout start` would make of the scenario's policy at its traffic.

    Raises:
        UsageError: the policy cannot be planned.
    """
    return make_plan(
        scenario.rollout,
        rollout_id="simulation",
        block_seconds=scenario.block,
        units_per_minute=scenario.units_per_minute,
        error_rate=scenario.error_rate if scenario.labels else scenario.baseline,
        latency=_latency(),
        others={LABELS: Measured(1 - scenario.baseline)} if scenario.labels else None,
    )


def _latency() -> LatencyLines:
    """Lines that the stable arm keeps exactly; slow requests come one by one. Seconds do not matter here."""
    seconds = tuple(1 / share for share in SHARES.values())
    return LatencyLines(seconds, seconds, (1.0,) * len(SHARES), MINIMUM)


def load(name: str, *, runs: int | None = None, seed: int | None = None) -> Scenario:
    """Read a built-in scenario by its name, or a YAML file by its path.

    Args:
        name: of either.
        runs: instead of the file's.
        seed: instead of the file's.

    Raises:
        UsageError: there is none of that name, and no such file.
        ConfigError: the file is wrong; `problems` holds one line for each mistake.
    """
    known = names()
    path = Path(str(_folder() / f"{name}.yaml")) if name in known else Path(name)
    if name not in known and path.suffix not in _SUFFIXES:
        raise UsageError(
            f'There is no scenario "{name}"{did_you_mean(name, known)}',
            "`tidegate rollout simulate --list` shows the built-in ones; your own is a path that ends in .yaml.",
        )
    try:
        read = load_section(path, Scenario)
    except ConfigError as error:
        raise ConfigError(
            error.message,
            "docs/judge.md lists the keys of a scenario; `--list` shows the built-in ones.",
            error.problems,
        ) from error
    if runs is not None and not 1 <= runs <= MOST_RUNS:
        raise UsageError(f"{runs} runs cannot be drawn.", f"--runs is a number from 1 to {MOST_RUNS:,}.")
    if seed is not None and seed < 0:
        raise UsageError(f"{seed} is no seed.", "--seed is a whole number, 0 or more.")
    changed = {key: value for key, value in (("runs", runs), ("seed", seed)) if value is not None}
    return read.model_copy(update=changed)


def names() -> tuple[str, ...]:
    """The built-in scenarios, in the order of the alphabet."""
    return tuple(sorted(one.name.removesuffix(".yaml") for one in _folder().iterdir() if one.name.endswith(".yaml")))


def _folder() -> Traversable:
    return files("tidegate.rollouts.simulation") / "scenarios"
