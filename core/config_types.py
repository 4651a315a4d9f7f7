"""The kinds of value that tidegate.yaml is made of, each with its check, its printed form and its JSON schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from tidegate.core.metrics import DIRECTIONS
from tidegate.core.units import DURATION_PATTERN, SIZE_PATTERN, format_duration, format_size, parse_duration, parse_size

T = TypeVar("T")


class Section(BaseModel):
    """A mapping of tidegate.yaml: frozen, and a key that nobody knows is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def wrong(text: str, key: str | int | None = None) -> PydanticCustomError:
    """A mistake in the words a reader sees; `key` names the key of the section that it is about."""
    return PydanticCustomError("tidegate", "{text}", {"text": text, "key": key})


def from_file(info: ValidationInfo) -> bool:
    """Whether a value comes from a file (units must be written) or from Python (plain seconds and bytes)."""
    return bool(info.context and info.context.get("file"))


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """`, did you mean "min"?`, or the short list of what there is, or nothing."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f', did you mean "{close[0]}"?'
    return f" (known: {', '.join(known)})" if len(known) <= 20 else ""  # noqa: PLR2004 - what one still reads


def _quantity(parse: Callable[[str], float], what: str, example: str) -> Callable[[Any, ValidationInfo], Any]:
    def check(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            try:
                return parse(value)
            except ValueError as error:
                raise wrong(str(error)) from error
        if isinstance(value, bool) or not isinstance(value, int | float) or (value != 0 and from_file(info)):
            shown = "" if isinstance(value, dict | list) else f", not {show(value)}"
            raise wrong(f"should be a {what} with its unit, for instance {example}{shown}")
        return value

    return check


def show(value: object) -> str:
    """A value in an error: as YAML writes it, cut to one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - what fits into one line of an error


duration = _quantity(parse_duration, "duration", "30s, 2m or 1h30m")
size = _quantity(parse_size, "size", "200MB or 8Gi")

Seconds = Annotated[
    float,
    Field(ge=0),
    BeforeValidator(duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{DURATION_PATTERN}$", "examples": ["30s", "2m", "1h30m"]}),
]
"""Seconds; written with a unit."""


def _positive(value: float) -> float:
    if value <= 0:
        raise wrong("should be longer than zero")
    return value


PositiveSeconds = Annotated[Seconds, AfterValidator(_positive)]

Bytes = Annotated[
    int,
    Field(gt=0),
    BeforeValidator(size),
    PlainSerializer(format_size, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{SIZE_PATTERN}$", "examples": ["200MB", "8Gi"]}),
]
"""Bytes; written with a unit."""

# A YAML list; a tuple here, so that a config cannot change after it was read.
Many = Annotated[tuple[T, ...], Field(strict=False)]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)]
Text = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=1024, le=65535)]
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]+$")]
"""A header's or a cookie's name (RFC 9110, token)."""

_SECRET: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+|secret:[a-z0-9][a-z0-9.-]*/[A-Za-z0-9_.-]+")


def _secret(value: str) -> str:
    if not _SECRET.fullmatch(value):
        # The value is not repeated: it may well be the secret itself.
        raise wrong("a secret is only ever a reference: env:NAME, file:PATH or secret:NAME/KEY")
    return value


Secret = Annotated[
    str,
    AfterValidator(_secret),
    WithJsonSchema({"type": "string", "pattern": "^(env:|file:|secret:)", "examples": ["env:SLACK_URL"]}),
]


def _inside(value: str) -> str:
    if value.startswith(("/", "~")) or ".." in value.replace("\\", "/").split("/"):
        raise wrong(f"{show(value)} should be a path inside the project, relative to its folder")
    return value


ProjectPath = Annotated[Text, AfterValidator(_inside)]

_CODE: Final = re.compile(r"[\w./-]+:[A-Za-z_]\w*")


def _code(value: str) -> str:
    if not _CODE.fullmatch(value):
        raise wrong(f"{show(value)} should be file.py:function")
    return value


CodeReference = Annotated[ProjectPath, AfterValidator(_code)]

STORE_SCHEMES: Final = ("file", "s3", "gs", "gcs", "az", "abfs", "abfss")
MLFLOW_SCHEMES: Final = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")


def _no_password(value: str, instead: str) -> None:
    try:
        password = urlsplit(value).password
    except ValueError as error:
        raise wrong(f"is not an address: {error}") from error
    if password is not None:
        raise wrong(f"an address in this file must not hold a password; {instead}")


def _store(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if separator and scheme not in STORE_SCHEMES:
        raise wrong(f'unknown store "{scheme}://"{did_you_mean(scheme, STORE_SCHEMES)}')
    if separator and not rest.strip("/"):
        raise wrong(f"{show(value)} names no place; write for instance s3://bucket/prefix")
    _no_password(value, "let the environment give the credentials")
    return value


def _mlflow(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    kind = scheme.partition("+")[0]
    if value != "databricks" and (not separator or kind not in MLFLOW_SCHEMES):
        hint = did_you_mean(kind, MLFLOW_SCHEMES) if separator else "; write sqlite:///PATH or https://HOST"
        raise wrong(f"{show(value)} is no MLflow address{hint}")
    if kind == "sqlite" and (not rest.startswith("/") or not rest.strip("/")):
        raise wrong(f"{show(value)} should have three slashes: sqlite:///PATH")
    if kind in ("http", "https") and not rest.strip("/"):
        raise wrong(f"{show(value)} names no host")
    _no_password(value, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI")
    return value


StoreAddress = Annotated[Text, AfterValidator(_store)]
MlflowAddress = Annotated[Text, AfterValidator(_mlflow)]

_OWN_METRIC: Final = r"^[\w.]+:[A-Za-z_]\w*$"
_METRIC: Final = re.compile(r"[A-Za-z_]\w*|[\w.]+:[A-Za-z_]\w*")


def _metric(value: str) -> str:
    if not _METRIC.fullmatch(value):
        raise wrong(f"{show(value)} should be the name of a metric, or module:function")
    if ":" not in value and value not in DIRECTIONS:
        raise wrong(f'unknown metric "{value}"{did_you_mean(value, tuple(DIRECTIONS))}; own ones are module:function')
    return value


MetricName = Annotated[
    str,
    AfterValidator(_metric),
    WithJsonSchema({"anyOf": [{"enum": list(DIRECTIONS)}, {"type": "string", "pattern": _OWN_METRIC}]}),
]

LABEL_METRICS: Final = ("accuracy", "loss", "log_loss", "brier", "mae", "mape")
"""Judged live, one number for each prediction whose truth became known."""
OUTCOME_METRICS: Final = ("conversion", "revenue")
"""Judged live on the outcome events of that name."""
ONLINE_METRICS: Final = ("error_rate", "latency", "invalid_output", *LABEL_METRICS, *OUTCOME_METRICS)
MEAN_METRICS: Final = ("loss", "log_loss", "brier", "mae", "mape", "revenue")
"""Judged as means, in their own unit; the others are shares of units."""


def _online_metric(value: str) -> str:
    if ":" in value:
        return _metric(value)
    if value not in ONLINE_METRICS:
        raise wrong(f'unknown metric "{value}"{did_you_mean(value, ONLINE_METRICS)}; own ones are module:function')
    return value


OnlineMetric = Annotated[
    str,
    AfterValidator(_online_metric),
    WithJsonSchema(
        {"anyOf": [{"enum": list(ONLINE_METRICS)}, {"type": "string", "pattern": "^[\\w.]+:[A-Za-z_]\\w*$"}]}
    ),
]
