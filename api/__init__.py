"""The road as public Python functions, for notebooks and scripts; the command line stands on them.

Each takes `project`: a folder in or below a project (by default the one you are in), or a `Project` that is open
already. `env` names an environment of its tidegate.yaml. What goes wrong is a `TidegateError`, which says what happened
and, in `hint`, what to do; nothing is printed but what `progress` is given.

    from tidegate.api import train, ship, why
    train(params={"max_iter": 300}).metrics["roc_auc"]
    ship().decision
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.config import LOCAL
from tidegate.core.errors import TidegateError
from tidegate.core.progress import Progress, Silent
from tidegate.core.project import Project, open_project

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.artifacts import ModelVersion, Release
    from tidegate.pipelines.environment import Environment
    from tidegate.pipelines.flows import Shipped
    from tidegate.pipelines.report import Report
    from tidegate.pipelines.runners.local import TrainResult
    from tidegate.registry.ledger import Event

__all__ = [
    "Project",
    "TidegateError",
    "events",
    "open_project",
    "predict",
    "releases",
    "report",
    "rollback",
    "rollout",
    "ship",
    "train",
    "versions",
    "why",
]

Where = Project | PathLike[str] | str


def train(
    project: Where = ".",
    *,
    params: Mapping[str, object] | None = None,
    env: str = LOCAL,
    progress: Progress | None = None,
) -> TrainResult:
    """Check the contract, train and evaluate, as far as something changed.

    Args:
        project: where.
        params: new values of `train.params`; they are written into tidegate.yaml, as `tidegate train -p` does.
        env: environment.
        progress: told what runs.

    Raises:
        ContractFailed: the data breaks its contract.
        TidegateError: training failed, or somebody trains already.
    """
    import json

    from tidegate.pipelines.runners import local

    # As typed on a command line: text is itself, everything else the YAML that JSON is.
    typed = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (params or {}).items()}
    return local.train(_opened(project, env), typed, progress or Silent())


def ship(
    project: Where = ".",
    *,
    release: str | None = None,
    wait: bool = True,
    timeout: float = 1800.0,
    allow_dirty: bool = False,
    env: str = LOCAL,
    progress: Progress | None = None,
) -> Shipped:
    """Take the project down the whole road: train, gate, register, package, A/B rollout, verdict.

    A refusal and a rollback are answers: see `Shipped.gate` and `Shipped.decision`.

    Args:
        project: where.
        release: ship this release (its id or a beginning of it) instead of the files as they are.
        wait: follow the rollout to its verdict.
        timeout: seconds to follow it; it goes on afterwards.
        allow_dirty: outside of the local environment, ship what no commit holds.
        env: environment.
        progress: told what happens.

    Raises:
        TidegateError: as `train`, or packaging or MLflow failed.
    """
    from tidegate.pipelines import flows

    environment, told = _environment(project, env), progress or Silent()
    if release is None:
        return flows.ship(environment, told, wait=wait, timeout=timeout, allow_dirty=allow_dirty)
    return flows.ship_release(environment, release, told, wait=wait, timeout=timeout, allow_dirty=allow_dirty)


def rollout(project: Where = ".", *, id: str | None = None, env: str = LOCAL) -> dict[str, Any]:  # noqa: A002 - its name
    """Weight, users and evidence of a rollout, by default the newest: the document of `tidegate rollout status`.

    Raises:
        UsageError: there is none.
    """
    return _environment(project, env).driver.status(id)


def rollback(
    reason: str,
    project: Where = ".",
    *,
    release: str | None = None,
    env: str = LOCAL,
    progress: Progress | None = None,
) -> str:
    """Go back at once, unjudged; needs neither MLflow nor a running stack.

    Args:
        reason: kept in the ledger.
        project: where.
        release: what to serve (an id or a beginning of it); by default the champion while a rollout runs, else the one
            before.
        env: environment.
        progress: told what happens.

    Returns:
        The release that is the champion now.

    Raises:
        UsageError: there is nothing to go back to.
    """
    from tidegate.pipelines import flows
    from tidegate.registry import releases as kept

    environment = _environment(project, env)
    wanted = kept.resolve(environment.store, release) if release is not None else None
    return str(flows.rollback(environment, wanted, reason, progress or Silent()).champion)


def why(what: str, project: Where = ".", *, env: str = LOCAL) -> dict[str, Any]:
    """Trace a prediction id, or `release:ID`, `version:N`, `data:MD5`: the document of `tidegate why`.

    Raises:
        UsageError: nothing of that name is known.
    """
    from tidegate.pipelines import lineage

    return lineage.why(_environment(project, env), what)


def report(
    project: Where = ".", *, against: str = "HEAD", plots: str = "", env: str = LOCAL, progress: Progress | None = None
) -> Report:
    """Data, contract, gate and cost of the trained project; nothing is registered.

    Args:
        project: where.
        against: git revision whose data is compared with that of now.
        plots: where the plots can be seen; empty: at the run in MLflow, where that has pages.
        env: environment.
        progress: told what is looked at.

    Raises:
        UsageError: the data is not there.
    """
    from tidegate.pipelines import report as gathered

    return gathered.make(_environment(project, env), progress or Silent(), against, plots)


def predict(rows: pd.DataFrame, project: Where = ".", *, version: int | None = None, env: str = LOCAL) -> pd.DataFrame:
    """The rows with their predictions beside them, by the model that is served, or was.

    Args:
        rows: raw columns, as callers send them.
        project: where.
        version: by default the champion.
        env: environment.

    Raises:
        TidegateError: a row is bad, or there is no such version.
    """
    import tempfile

    import pandas as pd

    from tidegate.pipelines import predict as scoring

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        rows.to_parquet(source, index=False)
        scoring.predict(_opened(project, env), source, target, version=version, skip_bad=False, progress=Silent())
        return pd.read_parquet(target)


def versions(project: Where = ".", *, env: str = LOCAL) -> tuple[ModelVersion, ...]:
    """Every version of the model with its aliases, metrics, commit and data; newest first."""
    from tidegate.registry.mlflow_registry import open_registry

    return open_registry(_opened(project, env)).list()


def releases(project: Where = ".", *, env: str = LOCAL) -> tuple[Release, ...]:
    """Every registered release, oldest first."""
    from tidegate.registry import releases as kept

    environment = _environment(project, env)
    return tuple(kept.load(environment.store, one) for one in environment.state().versions)


def events(project: Where = ".", *, env: str = LOCAL) -> tuple[Event, ...]:
    """Every decision with who took it, oldest first."""
    return tuple(_environment(project, env).ledger.events())


def _opened(project: Where, env: str) -> Project:
    return project if isinstance(project, Project) else open_project(Path(project), env)


def _environment(project: Where, env: str) -> Environment:
    from tidegate.pipelines.environment import environment_for

    return environment_for(_opened(project, env))
