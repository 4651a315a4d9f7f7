"""Sections of tidegate.yaml up to the image: data, contract, train, gate, serve, image."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    PlainSerializer,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from tidegate.core.config_types import (
    Bytes,
    CodeReference,
    Many,
    MetricName,
    Name,
    PositiveSeconds,
    ProjectPath,
    Seconds,
    Secret,
    Section,
    Text,
    duration,
    show,
    wrong,
)
from tidegate.core.units import DURATION_PATTERN, format_duration


def _holdout(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str):
        seconds = duration(value, info)
        if seconds < 1:  # below one it would read as a share
            raise wrong("should be a share such as 0.2, or a duration of at least 1s")
        return seconds
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong("should be a share such as 0.2, or a duration such as 7d")
    # From Python a number from 1 on is seconds; in the file a duration has its unit.
    if not 0 < value < 1 and (info.context or value < 1):
        raise wrong(f"a share is between 0 and 1, not {show(value)}; a duration has a unit, such as 7d")
    return float(value)


def _show_holdout(value: float) -> float | str:
    return value if value < 1 else format_duration(value)


Holdout = Annotated[
    float,
    BeforeValidator(_holdout),
    PlainSerializer(_show_holdout, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                {"type": "string", "pattern": f"^{DURATION_PATTERN}$"},
            ]
        }
    ),
]


class Split(Section):
    """Which rows are held out to judge a model."""

    by: Literal["random", "time", "group"] = Field(
        default="time", description="How rows are chosen: the newest, whole groups, or at random."
    )
    column: Text | None = Field(
        default=None, description="Time or group column; time without a column is the order of the file."
    )
    holdout: Holdout = Field(
        default=0.2, description="Share of the rows (0.2), or with a time column a duration (7d): the newest so much."
    )
    gap: Seconds | None = Field(
        default=None, description="Time left out between training rows and holdout, where labels would leak."
    )

    @property
    def holdout_share(self) -> float | None:
        """The share held out, or None when it is a duration."""
        return self.holdout if self.holdout < 1 else None

    @property
    def holdout_seconds(self) -> float | None:
        """The duration held out in seconds, or None when it is a share."""
        return self.holdout if self.holdout >= 1 else None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.by == "group" and self.column is None:
            raise wrong("a split by group needs data.split.column", "by")
        if self.by == "random" and self.column is not None:
            raise wrong("a random split has no column; did you mean by: group or by: time?", "column")
        timed = self.by == "time" and self.column is not None
        if self.gap is not None and not timed:
            raise wrong("a gap needs by: time and a column", "gap")
        if self.holdout_seconds is not None and not timed:
            raise wrong("a duration needs by: time and a column; otherwise write a share such as 0.2", "holdout")
        return self


class Data(Section):
    """The training data."""

    path: ProjectPath = Field(description="CSV or Parquet file, tracked by DVC, relative to the project.")
    command: Text | None = Field(
        default=None, description="Command that writes `path`; `tidegate data refresh` runs it."
    )
    target: Text = Field(description="Column that the model predicts.")
    drop: Many[Text] = Field(default=(), description="Columns that the model must not see, such as row numbers.")
    split: Split = Field(default=Split(), description="Which rows are held out.")

    @field_validator("path")
    @classmethod
    def _is_table(cls, value: str) -> str:
        if not value.lower().endswith((".csv", ".parquet")):
            raise wrong(f"{show(value)} should end in .csv or .parquet")
        return value

    @model_validator(mode="after")
    def _target_stays(self) -> Self:
        if self.target in self.drop:
            raise wrong(f"{show(self.target)} is the target and cannot be dropped", "drop")
        if self.split.by == "group" and self.split.column == self.target:
            raise wrong("the target cannot be the group column", "split")
        return self


class Resources(Section):
    """What training gets on a cluster."""

    cpu: float = Field(default=2, gt=0, description="Processor cores.")
    memory: Bytes = Field(default=8 * 2**30, description="Memory.")
    gpu: int = Field(default=0, ge=0, description="Whole GPUs.")


class Train(Section):
    """How a model is trained: exactly one of entrypoint, command, stage."""

    entrypoint: CodeReference | None = Field(
        default="train.py:train", description="def train(X: DataFrame, y: Series, params: dict) -> fitted estimator"
    )
    command: Text | None = Field(
        default=None, description="Script that logs one MLflow model; it finds its run in the environment."
    )
    stage: Name | None = Field(default=None, description="Stage of dvc.yaml whose script logs one MLflow model.")
    params: dict[str, JsonValue] = Field(
        default={}, description="Given to the train function, logged, and overridden by `-p key=value`."
    )
    code: Many[ProjectPath] = Field(default=(), description="Files and folders that travel with the model.")
    image: Text | None = Field(
        default=None, description="Trainer image for the cluster; `package --trainer` builds it."
    )
    requirements: ProjectPath | None = Field(
        default=None,
        description="Requirements file of the training code; without it the installed versions are pinned.",
    )
    resources: Resources = Field(default=Resources(), description="What training gets on a cluster.")

    @model_validator(mode="before")
    @classmethod
    def _default_yields(cls, values: Any) -> Any:
        """`train.py:train` is the default only while nothing else is said."""
        if isinstance(values, dict) and "entrypoint" not in values and (values.get("command") or values.get("stage")):
            return {**values, "entrypoint": None}
        return values

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [key for key in ("entrypoint", "command", "stage") if getattr(self, key) is not None]
        if len(given) != 1:
            found = f"both {' and '.join(given)} are given" if given else "none is given"
            raise wrong(f"exactly one of entrypoint, command, stage: {found}", given[-1] if given else None)
        return self


class Check(Section):
    """One more metric that must not get worse."""

    metric: MetricName = Field(description="Name, or module:function.")
    tolerance: float = Field(default=0.0, ge=0, description="May be this much worse than the champion.")


class SliceCheck(Section):
    """The gate's metric again, within each value of one column."""

    column: Text = Field(description="Column whose values make the slices.")
    tolerance: float = Field(default=0.05, ge=0, description="May be this much worse than the champion within a slice.")


class Gate(Section):
    """The offline check before a rollout."""

    metric: MetricName | None = Field(
        default=None,
        description="Default: by the target (roc_auc, or average_precision under 5 % positives). Own: module:function.",
    )
    required: float | None = Field(default=None, description="At least, if higher is better; at most, if lower is.")
    tolerance: float = Field(
        default=0.005, ge=0, description="May be this much worse than the champion (paired bootstrap, 95 %)."
    )
    checks: Many[Check] = Field(default=(), description="More metrics that must not get worse.")
    slices: Many[SliceCheck] = Field(
        default=(), description="Columns within whose values it must not get worse either."
    )
    latency_p99: PositiveSeconds | None = Field(
        default=0.05, description="Slowest accepted p99 of a one-row prediction; null: not checked."
    )
    size: Bytes | None = Field(default=200 * 10**6, description="Largest accepted model; null: not checked.")


class Threshold(Section):
    """The decision threshold that reaches a precision or a recall on the holdout."""

    precision: float | None = Field(default=None, gt=0, lt=1, description="Precision to reach with the highest recall.")
    recall: float | None = Field(default=None, gt=0, lt=1, description="Recall to reach with the highest precision.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.precision is None) == (self.recall is None):
            raise wrong("exactly one of precision, recall")
        return self


def _kind_of_threshold(value: Any) -> str:
    return "rule" if isinstance(value, dict | Threshold) else "number"


AnyThreshold = Annotated[
    Annotated[float, Field(gt=0, lt=1), Tag("number")] | Annotated[Threshold, Tag("rule")],
    Discriminator(_kind_of_threshold),
]


class Auth(Section):
    """Who may call the model."""

    api_keys: Secret = Field(description="Reference to the accepted keys, one a line or separated by commas.")


class RateLimit(Section):
    """How much one environment accepts."""

    requests_per_second: int = Field(default=500, gt=0, description="More are answered 429 by the gateway.")


class Capture(Section):
    """What is kept of each prediction."""

    flush: PositiveSeconds = Field(default=5.0, description="How often records are written.")
    exclude: Many[Text] = Field(default=(), description="Columns that are never written.")
    hash: Many[Text] = Field(default=(), description="Columns of which only a keyed hash is written.")
    retention: PositiveSeconds = Field(default=30 * 86400.0, description="How long records are kept.")

    @model_validator(mode="after")
    def _one_fate(self) -> Self:
        both = sorted(set(self.exclude) & set(self.hash))
        if both:
            raise wrong(f"{', '.join(map(show, both))} cannot be both excluded and hashed", "hash")
        return self


class Serve(Section):
    """How a model answers."""

    runtime: Literal["onnx", "native"] = Field(
        default="onnx", description="onnx where the model converts exactly, else native."
    )
    device: Literal["cpu", "gpu"] = Field(default="cpu", description="Where the model runs.")
    workers: int = Field(default=1, ge=1, le=256, description="Processes of each revision, sharing its port.")
    code: ProjectPath | None = Field(
        default=None, description="File with the hooks prepare(columns) and respond(predictions); part of the release."
    )
    threshold: AnyThreshold | None = Field(
        default=None, description="Decision threshold: a number, or {precision: 0.9}, fixed on the holdout."
    )
    id: Text | None = Field(
        default=None,
        description="Column or header that names the request in the caller's words (order_id); labels may use it.",
    )
    timeout: PositiveSeconds = Field(default=0.5, description="A request that takes longer is answered 504.")
    max_concurrency: int = Field(
        default=64, ge=1, description="Requests in progress in each process; more are answered 503 with Retry-After."
    )
    max_body: Bytes = Field(default=10**6, description="Largest accepted request.")
    allow_pickle: bool = Field(
        default=False, description="Load a model that only pickle can read; it may run any code."
    )
    auth: Auth | None = Field(
        default=None, description="Who may call the model; null: everybody who reaches the gateway."
    )
    rate_limit: RateLimit | None = Field(default=None, description="How much the gateway accepts; null: everything.")
    capture: Capture = Field(default=Capture(), description="What is kept of each prediction.")

    @model_validator(mode="after")
    def _id_may_be_seen(self) -> Self:
        if self.id is not None and self.id in {*self.capture.exclude, *self.capture.hash}:
            raise wrong(
                f"{show(self.id)} is recorded to find labels by it, but capture keeps it out of the records", "id"
            )
        return self


class Image(Section):
    """How the image of a model is built."""

    base: Text = Field(default="python:3.11-slim", description="Base image.")
    system_packages: Many[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]*$")]] = Field(
        default=(), description="Debian packages to install."
    )
    pull_secret: Text | None = Field(default=None, description="Name of the Kubernetes secret that pulls the image.")
    index: Text | None = Field(
        default=None, description="Package index, an https address or a secret reference; build time only."
    )
    ca: Text | None = Field(default=None, description="File with extra certificate authorities; build time only.")
    sign: Secret | None = Field(default=None, description="ed25519 key (PEM) that signs where an image came from.")

    @field_validator("index")
    @classmethod
    def _holds_no_secret(cls, value: str | None) -> str | None:
        if value is not None and "@" in value and "://" in value:
            raise wrong("an address in this file must not hold credentials; write a reference such as env:INDEX_URL")
        if value is not None and not value.startswith(("https://", "http://", "env:", "file:", "secret:")):
            raise wrong(f"{show(value)} should be an https address or a reference such as env:INDEX_URL")
        return value
