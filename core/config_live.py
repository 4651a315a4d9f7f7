"""Sections of tidegate.yaml from the rollout on: rollout, monitor, retrain, notify, environments, advanced."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from tidegate.core.config_types import (
    MEAN_METRICS,
    Many,
    MetricName,
    MlflowAddress,
    OnlineMetric,
    Port,
    PositiveSeconds,
    ProjectPath,
    Seconds,
    Secret,
    Section,
    StoreAddress,
    Text,
    Token,
    duration,
    show,
    wrong,
)
from tidegate.core.units import DURATION_PATTERN, format_duration

MAX_PER_CENT = 100


class Unit(Section):
    """What is assigned to an arm and judged once: a user."""

    header: Token = Field(default="x-user-id", description="Header that names the user.")
    cookie: Token = Field(default="tg_uid", description="Cookie for users without the header; the gateway sets it.")
    window: PositiveSeconds = Field(
        default=600.0, description="A user's outcome is what happens this long after the first exposure."
    )
    per: Literal["user", "request"] = Field(
        default="user", description="`request` only for `rollout replay` of traffic that was routed per request."
    )


def _unit(value: Any) -> Any:
    return {"per": "request"} if value == "request" else value


def _max(value: Any, info: ValidationInfo) -> Any:
    return value if value == "auto" else duration(value, info)


AutoSeconds = Annotated[
    float | Literal["auto"],
    BeforeValidator(_max),
    PlainSerializer(lambda value: value if value == "auto" else format_duration(value), when_used="json"),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "string", "pattern": f"^{DURATION_PATTERN}$"}]}),
]


class Step(Section):
    """How long one weight is held."""

    min: Seconds = Field(default=120.0, description="A step does not pass sooner.")
    max: AutoSeconds = Field(
        default="auto", description="Then the verdict is inconclusive; auto: four times the forecast, at most 48h."
    )
    on_inconclusive: Literal["hold", "rollback", "promote"] = Field(
        default="hold", description="What happens then; hold waits for a person."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max != "auto" and self.max < max(self.min, 1e-9):
            raise wrong("should be at least step.min", "max")
        return self


class Line(Section):
    """p(canary) = ratio * p(stable) + margin."""

    ratio: float = Field(default=1.0, gt=0, description="Factor on the stable arm's value.")
    margin: float = Field(default=0.0, ge=0, description="Added to it, in the metric's own unit; for shares below 1.")


class Guardrail(Section):
    """A metric that must not get worse than its tolerance."""

    metric: OnlineMetric = Field(description="error_rate, latency, accuracy, conversion, ..., or module:function.")
    harm: Line = Field(description="Evidence for worse than this rolls back.")
    safe: Line = Field(description="Evidence for better than this passes; outside harm.")

    @model_validator(mode="after")
    def _lines_agree(self) -> Self:
        for name, line in (("harm", self.harm), ("safe", self.safe)):
            if self.metric in MEAN_METRICS:
                if self.metric == "revenue" and line.ratio != 1:
                    raise wrong(
                        "revenue has a margin only: a ratio of something that may be negative means nothing", name
                    )
            elif line.margin >= 1:
                raise wrong(f"a margin of {show(line.margin)} on a share lies outside 0 to 1", name)
        harm, safe = self.harm, self.safe
        if harm == safe or harm.ratio > safe.ratio or harm.margin > safe.margin:
            raise wrong("harm should lie inside safe: no larger ratio or margin, and one of them smaller", "harm")
        if self.metric == "latency" and (harm.margin or safe.margin):
            raise wrong(
                "latency has ratios only: they multiply the share of slow requests", "harm" if harm.margin else "safe"
            )
        if self.metric == "latency" and safe.ratio >= 2:  # noqa: PLR2004 - the p50's share is one half
            raise wrong("half of the requests are slower than the p50, so a ratio of latency stays below 2", "safe")
        return self


class Goal(Section):
    """A metric that must get better."""

    metric: OnlineMetric = Field(description="conversion, revenue, accuracy, ... or module:function.")
    improve_by: float = Field(default=0.0, ge=0, description="At least this much better, in the metric's own unit.")


GUARDRAILS = (
    Guardrail(metric="error_rate", harm=Line(ratio=1.1, margin=0.001), safe=Line(ratio=1.5, margin=0.002)),
    Guardrail(metric="latency", harm=Line(ratio=1.1), safe=Line(ratio=1.5)),
)
"""One line for both would miss doubled errors 94-96 % of the time at a base of 0.5 %."""


def _steps(value: Any) -> Any:
    if value == "auto":
        return value
    if not isinstance(value, list | tuple) or not value:
        raise wrong("should be auto or a list of per cents such as [5, 25, 50]")
    for step in value:
        if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= MAX_PER_CENT:
            raise wrong(f"a step is a whole per cent from 1 to 100, not {show(step)}")
    if list(value) != sorted(set(value)):
        raise wrong("steps must grow: the canary's share of users only ever gets larger")
    return tuple(value)


class Rollout(Section):
    """Who gets the new version, and when it is believed."""

    unit: Annotated[Unit, BeforeValidator(_unit)] = Field(default=Unit(), description="What is assigned to an arm.")
    steps: Annotated[Literal["auto"] | tuple[int, ...], BeforeValidator(_steps)] = Field(
        default="auto", description="Whole per cents on the canary; auto: the shortest of 1,5,10,25,50 that can decide."
    )
    step: Step = Field(default=Step(), description="How long one weight is held.")
    guardrails: Many[Guardrail] = Field(default=GUARDRAILS, description="Metrics that must not get worse.")
    goal: Goal | None = Field(default=None, description="A metric that must get better.")
    mode: Literal["test", "guard"] = Field(
        default="test",
        description="guard: harm test, hard stops and a fixed soak, where there is too little traffic to prove safety.",
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Chance to roll back a harmless canary.")
    beta: float = Field(default=0.05, gt=0, lt=0.5, description="Chance to promote a harmful canary.")
    keep_previous: Seconds = Field(default=3600.0, description="How long the old revision stays warm afterwards.")
    shadow: bool = Field(default=False, description="Compare the canary's predictions on copied traffic first.")

    @field_validator("guardrails")
    @classmethod
    def _named_once(cls, value: tuple[Guardrail, ...]) -> tuple[Guardrail, ...]:
        names = [guardrail.metric for guardrail in value]
        if not names:
            raise wrong("should not be empty: a rollout that nothing guards would promote anything")
        for index, name in enumerate(names):
            if name in names[:index]:
                raise wrong(f"{name} is guarded twice", index)
        return value


class Drift(Section):
    """When the world no longer looks like the training data."""

    numerical: Literal["wasserstein", "jensenshannon", "psi"] = Field(
        default="wasserstein", description="Distance for numbers."
    )
    categorical: Literal["jensenshannon", "psi"] = Field(default="jensenshannon", description="For categories.")
    threshold: float = Field(default=0.1, gt=0, description="Effect size above the noise floor that counts as drift.")
    drifted_share: float = Field(default=0.3, gt=0, le=1, description="Share of the columns that must drift.")
    windows: int = Field(default=3, ge=1, description="Windows in a row that must drift.")


class Quality(Section):
    """When the model got worse on matured labels."""

    metric: MetricName = Field(
        default="accuracy", description="Metric over matured labels; accuracy is r2 for a regression."
    )
    tolerance: float = Field(default=0.05, ge=0, description="May be this much worse than on the holdout.")


class Labels(Section):
    """Where delayed truth comes from."""

    maturity: Seconds = Field(default=1800.0, description="Age at which a label is final, the same for both arms.")
    command: Text | None = Field(default=None, description="Command that prints or writes labels.")
    every: PositiveSeconds = Field(default=86400.0, description="How often the command runs.")


class Monitor(Section):
    """Watching the running model."""

    window: PositiveSeconds = Field(default=3600.0, description="Length of one window.")
    min_rows: int = Field(default=500, ge=1, description="A smaller window gives no verdict.")
    drift: Drift = Field(default=Drift(), description="When inputs and scores count as drifted.")
    quality: Quality = Field(default=Quality(), description="When quality counts as lost.")
    labels: Labels = Field(default=Labels(), description="Where delayed truth comes from.")


class Budget(Section):
    """A brake on retraining."""

    runs: int = Field(default=4, ge=1, description="Retrains at most ...")
    per: PositiveSeconds = Field(default=86400.0, description="... in this time.")


class Retrain(Section):
    """When and how the road is driven again by itself."""

    on: Many[Literal["drift", "quality"]] = Field(
        default=("drift", "quality"), description="What asks for a retrain; [] for nothing."
    )
    data: Literal["refresh", "telemetry"] = Field(
        default="refresh", description="Data from data.command, or captured rows with matured labels."
    )
    release: Literal["ask", "auto"] = Field(default="ask", description="Whether a person approves the rollout.")
    git: Literal["none", "branch"] = Field(default="none", description="branch: push tidegate/retrain-ID, not main.")
    cooldown: Seconds = Field(default=6 * 3600.0, description="Quiet time after a retrain.")
    budget: Budget = Field(default=Budget(), description="At most so many retrains.")


Event = Literal["rolled_back", "inconclusive", "drift", "retrain", "promoted"]


class Notify(Section):
    """Who is told."""

    on: Many[Event] = Field(description="Which events.")
    webhook: Secret = Field(description="Reference to the address that gets a JSON POST.")

    @field_validator("on")
    @classmethod
    def _not_empty(cls, value: tuple[Event, ...]) -> tuple[Event, ...]:
        if not value:
            raise wrong("should name at least one event")
        return value


# Checked where it counts: merged over the rest of the file.
Override = dict[str, JsonValue] | None


class Environment(Section):
    """A place that runs the road. Any section of the file may be overridden here, key by key."""

    kind: Literal["local", "kubernetes"] = Field(default="kubernetes", description="local, or a cluster.")
    context: Text | None = Field(default=None, description="kubectl context; null: the current one.")
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = Field(
        default="default", description="Kubernetes namespace."
    )
    image_repository: Text | None = Field(default=None, description="Where images are pushed, without a tag.")
    hostname: Text | None = Field(default=None, description="Host name of the model's route.")
    values: dict[str, JsonValue] = Field(default={}, description="Chart values; checked by the chart's schema.")
    store: StoreAddress | None = Field(default=None, description="Overrides `store`.")
    mlflow: MlflowAddress | None = Field(default=None, description="Overrides `mlflow`.")
    contract: ProjectPath | None = Field(default=None, description="Overrides `contract`.")
    data: Override = Field(default=None, description="Overrides keys of `data`.")
    train: Override = Field(default=None, description="Overrides keys of `train`.")
    gate: Override = Field(default=None, description="Overrides keys of `gate`.")
    serve: Override = Field(default=None, description="Overrides keys of `serve`.")
    image: Override = Field(default=None, description="Overrides keys of `image`.")
    rollout: Override = Field(default=None, description="Overrides keys of `rollout`.")
    monitor: Override = Field(default=None, description="Overrides keys of `monitor`.")
    retrain: Override = Field(default=None, description="Overrides keys of `retrain`.")
    notify: list[JsonValue] | None = Field(default=None, description="Overrides `notify`.")
    advanced: Override = Field(default=None, description="Overrides keys of `advanced`.")


class Advanced(Section):
    """Rarely changed."""

    block: PositiveSeconds = Field(default=60.0, description="Interval whose per-arm sums are judged at once.")
    gateway_port: Port = Field(default=8400, description="Port of the local gateway.")
    console_port: Port = Field(default=8401, description="Port of the local console.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.gateway_port == self.console_port:
            raise wrong("is also the gateway's port", "console_port")
        return self
