"""tidegate.yaml as one frozen object: read, checked whole, and explained in one place.

`load` is the only way from a file to a `Config`. It reports every mistake of the file at once, also those in
environments that are not used right now, because a broken production section found at release time is too late.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from pydantic import Field, model_validator

from tidegate.core.config_build import (
    Auth,
    Capture,
    Check,
    Data,
    Gate,
    Image,
    RateLimit,
    Resources,
    Serve,
    SliceCheck,
    Split,
    Threshold,
    Train,
)
from tidegate.core.config_live import (
    Advanced,
    Budget,
    Drift,
    Environment,
    Event,
    Goal,
    Guardrail,
    Labels,
    Line,
    Monitor,
    Notify,
    Quality,
    Retrain,
    Rollout,
    Step,
    Unit,
)
from tidegate.core.config_problems import validate
from tidegate.core.config_types import (
    Many,
    MlflowAddress,
    Name,
    ProjectPath,
    Section,
    StoreAddress,
    did_you_mean,
    wrong,
)
from tidegate.core.errors import ConfigError, UsageError
from tidegate.core.metrics import CLASSIFICATION, REGRESSION
from tidegate.core.yaml_lines import Entry, NotReadable, Problem, read

__all__ = [
    "FILE_NAME",
    "LOCAL",
    "Advanced",
    "Auth",
    "Budget",
    "Capture",
    "Check",
    "Config",
    "Data",
    "Drift",
    "Environment",
    "Event",
    "Gate",
    "Goal",
    "Guardrail",
    "Image",
    "Labels",
    "Line",
    "Monitor",
    "Notify",
    "Quality",
    "RateLimit",
    "Resources",
    "Retrain",
    "Rollout",
    "Section",
    "Serve",
    "SliceCheck",
    "Split",
    "Step",
    "Threshold",
    "Train",
    "Unit",
    "load",
    "load_section",
    "resolved",
    "schema",
]

FILE_NAME: Final = "tidegate.yaml"
LOCAL: Final = "local"
OVERRIDABLE: Final = (
    "data", "contract", "train", "gate", "serve", "image", "rollout", "monitor", "retrain", "notify", "store", "mlflow",
    "advanced",
)  # fmt: skip
_OTHER_TASK: Final = {"classification": REGRESSION, "regression": CLASSIFICATION}
_WAYS_TO_TRAIN: Final = frozenset({"entrypoint", "command", "stage"})
# A config is some kilobytes; something larger is the wrong file.
_MAX_BYTES: Final = 1_000_000

S = TypeVar("S", bound=Section)


class Config(Section):
    """The whole file."""

    version: Literal[1] = Field(default=1, description="Version of this format.")
    model: Name = Field(description="Registered model name.")
    task: Literal["classification", "regression", "custom"] = Field(
        default="classification", description="What is predicted; custom takes its schema from the MLflow signature."
    )
    data: Data = Field(description="The training data.")
    contract: ProjectPath = Field(
        default="contract.yaml", description="Great Expectations suite that the data must pass."
    )
    train: Train = Field(default_factory=Train, description="How a model is trained.")
    gate: Gate = Field(default=Gate(), description="The offline check before a rollout.")
    serve: Serve = Field(default=Serve(), description="How a model answers.")
    image: Image = Field(default=Image(), description="How the image of a model is built.")
    rollout: Rollout = Field(default=Rollout(), description="Who gets the new version, and when it is believed.")
    monitor: Monitor = Field(default=Monitor(), description="Watching the running model.")
    retrain: Retrain = Field(default=Retrain(), description="When the road is driven again by itself.")
    notify: Many[Notify] = Field(default=(), description="Who is told.")
    store: StoreAddress = Field(
        default=".tidegate/store", description="Ledger, telemetry, labels and reports: a folder or an fsspec address."
    )
    mlflow: MlflowAddress = Field(
        default="sqlite:///.tidegate/mlflow.db", description="MLflow tracking address; MLFLOW_TRACKING_URI wins."
    )
    environments: dict[Name, Environment] = Field(default={}, description="Places that run the road, beside `local`.")
    advanced: Advanced = Field(default=Advanced(), description="Rarely changed.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.serve.threshold is not None and self.task != "classification":
            raise wrong("only a classifier has serve.threshold", "task")
        metrics = [("gate", self.gate.metric), *(("gate", check.metric) for check in self.gate.checks)]
        for section, metric in metrics:
            if self.task != "custom" and metric in _OTHER_TASK[self.task]:
                raise wrong(f"{metric} is no metric of a {self.task}", section)
        if self.rollout.unit.per == "request":
            raise wrong("the gateway assigns users; `request` is for `rollout replay`", "rollout")
        if LOCAL in self.environments and self.environments[LOCAL].kind != "local":
            raise wrong("the environment called local is this machine: kind: local", "environments")
        return self

    def environment(self, name: str) -> Environment:
        """The named environment; `local` needs no entry.

        Raises:
            UsageError: there is none of that name.
        """
        if name in self.environments:
            return self.environments[name]
        if name == LOCAL:
            return Environment(kind="local")
        known = (LOCAL, *self.environments)
        raise UsageError(
            f'There is no environment "{name}"{did_you_mean(name, known)}',
            f"Environments are defined in {FILE_NAME} under `environments`.",
        )


def load(root: Path, env: str = LOCAL) -> Config:
    """Read ROOT/tidegate.yaml as the environment `env` sees it.

    Raises:
        ConfigError: anything is wrong with the file; `problems` holds one line for each mistake.
        UsageError: there is no environment of that name.
    """
    path = root / FILE_NAME
    entry, problems = _read(path)
    config, found = validate(Config, entry)
    problems += found
    configs = {LOCAL: config}
    environments = entry.child("environments")
    for name, environment in (
        environments.value.items() if environments and isinstance(environments.value, dict) else ()
    ):
        configs[name], found = validate(Config, _overridden(entry, environment))
        known = {(problem.path, problem.text) for problem in problems}
        problems += [_blame(problem, name) for problem in found if (problem.path, problem.text) not in known]
    if problems or config is None:
        raise _refusal(path, problems)
    config.environment(env)
    return configs.get(env) or config


def load_section(path: Path, model: type[S], within: str = "") -> S:
    """Read a file that holds the keys of one section, such as the plan of `rollout replay`.

    Args:
        path: of the file.
        model: the section.
        within: a key under which they may stand instead, as in tidegate.yaml; only what is under it is checked.

    Raises:
        ConfigError: as `load`.
    """
    entry, problems = _read(path)
    section, found = validate(model, entry.child(within) or entry)
    if problems or found or section is None:
        raise _refusal(path, problems + found)
    return section


def resolved(config: Config) -> dict[str, Any]:
    """The config with every default, as JSON; durations and sizes as text again, so `load` accepts it."""
    document: dict[str, Any] = config.model_dump(mode="json")
    for environment in document["environments"].values():
        for key in OVERRIDABLE:
            if environment[key] is None:
                del environment[key]
    return document


def schema() -> dict[str, Any]:
    """JSON schema of tidegate.yaml, for editors."""
    document = Config.model_json_schema()
    definitions: dict[str, Any] = document["$defs"]
    sections: list[type[Section]] = [Config, *Section.__subclasses__()]
    for section in sections:
        _show_defaults(section, document if section is Config else definitions.get(section.__name__, {}))
    overrides = definitions["Environment"]["properties"]
    for key in OVERRIDABLE:
        section = document["properties"][key]
        overrides[key] = _partial(section, definitions) | {"description": f"Overrides `{key}` here."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document, "title": FILE_NAME}


def _show_defaults(section: type[Section], definition: dict[str, Any]) -> None:
    """Print durations and sizes in defaults as one would write them."""
    properties = definition.get("properties", {})
    optional = {key for key, value in properties.items() if "default" in value}
    written = section.model_construct().model_dump(mode="json", include=optional)
    for key in optional:
        properties[key]["default"] = written[key]


def _partial(section: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A section whose keys may all be left out, because the rest of the file gives them."""
    reference = section.get("$ref", "").rpartition("/")[2]
    if not reference:
        return {key: value for key, value in section.items() if key != "default"}
    name = f"{reference}Override"
    if name not in definitions:
        partial = copy.deepcopy(definitions[reference])
        partial.pop("required", None)
        definitions[name] = partial
        for key, value in partial["properties"].items():
            if "$ref" in value:
                partial["properties"][key] = _partial(value, definitions)
            else:
                value.pop("default", None)
    return {"$ref": f"#/$defs/{name}"}


def _read(path: Path) -> tuple[Entry, list[Problem]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist.", "Make a project with `tidegate init`, or name its folder with -C."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror or error}.", "Check that it is a file you may read."
        ) from error
    if len(content) > _MAX_BYTES:
        raise _refusal(path, [Problem(1, (), "is larger than 1 MB; is it the right file?")])
    try:
        entry, problems = read(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refusal(path, [Problem(line, (), "is not UTF-8 text")]) from error
    except NotReadable as error:
        raise _refusal(path, error.problems) from error
    if entry.value is None:
        raise _refusal(path, [*problems, Problem(1, (), "is empty; `tidegate init` writes one")])
    if not isinstance(entry.value, dict):
        raise _refusal(
            path, [*problems, Problem(entry.line, (), "should be a mapping of keys, such as `model: demand`")]
        )
    return entry, problems


def _refusal(path: Path, problems: list[Problem]) -> ConfigError:
    lines = tuple(
        dict.fromkeys(problem.show(path.name) for problem in sorted(problems, key=lambda problem: problem.line))
    )
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return ConfigError(
        f"{path.name} has {count}.", "`tidegate schema` prints every key; `tidegate config` what was resolved.", lines
    )


def _overridden(entry: Entry, environment: Entry) -> Entry:
    """The file with one environment's sections laid over it; every value still knows its own line."""
    assert isinstance(entry.value, dict)  # noqa: S101 - `_read` refuses everything else
    merged = dict(entry.value)
    for key in OVERRIDABLE:
        over = environment.child(key)
        if over is not None:
            merged[key] = _laid_over(merged[key], over, key) if key in merged else over
    return Entry((), entry.line, merged)


def _laid_over(base: Entry, over: Entry, key: str = "") -> Entry:
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    if key == "train" and _WAYS_TO_TRAIN & over.value.keys():
        # Another way to train replaces the one above, it does not join it.
        merged = {name: child for name, child in merged.items() if name not in _WAYS_TO_TRAIN}
    for name, child in over.value.items():
        merged[name] = _laid_over(merged[name], child) if name in merged else child
    return Entry(over.path, over.line, merged)


def _blame(problem: Problem, name: str) -> Problem:
    """Name the environment where the place alone does not."""
    if problem.path[:2] == ("environments", name):
        return problem
    return Problem(problem.line, problem.path, f"{problem.text} (in the environment {name})")
