"""The train step: verified data in, one MLflow run and its model folder out.

Writes `out/model/` (the MLflow model folder) and `out/run.json`, which names the run and says what later steps need:
the model's interface, the holdout and the folder's hash.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.artifacts import DatasetRef
from tidegate.core.errors import TidegateError
from tidegate.core.optouts import OPT_OUTS
from tidegate.core.user_errors import failed
from tidegate.pipelines import collector, user_code
from tidegate.registry.tags import STAGE_TAG

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.progress import Progress
    from tidegate.core.project import Project
    from tidegate.pipelines.dataset import Split, Table
    from tidegate.pipelines.model_inputs import Interface
    from tidegate.registry import RunSource
    from tidegate.registry.mlflow_registry import MlflowRegistry

RUN_FILE = "run.json"
MODEL_FOLDER = "model"
_EXAMPLE_ROWS = 5
_CONTEXT = "MLFLOW_RUN_CONTEXT"
# Any fixed number: the same data, code and params give the same model.
SEED = 0


@dataclass(frozen=True)
class Prepared:
    """The data as a model sees it: rows with a target, divided, and the interface of the model to come."""

    data: DatasetRef
    table: Table
    split: Split
    interface: Interface

    def train(self) -> tuple[pd.DataFrame, pd.Series[Any]]:
        """Inputs and target of the training rows, numbered from 0."""
        rows = self.table.features.iloc[self.split.train]
        target = self.table.target.iloc[self.split.train]
        return self.interface.frame(rows).reset_index(drop=True), target.reset_index(drop=True)


@dataclass(frozen=True)
class RunFile:
    """What out/run.json says."""

    run_id: str
    seconds: float
    data: DatasetRef
    rows: Mapping[str, int]
    model_sha256: str
    params: Mapping[str, Any]

    @classmethod
    def read(cls, out: Path) -> RunFile:
        """Read it from the folder of outputs.

        Raises:
            TidegateError: it is missing or damaged.
        """
        try:
            document = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
            return cls(**{**document, "data": DatasetRef(**document["data"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TidegateError(f"{out.name}/{RUN_FILE} is missing or damaged.", "Run `tidegate train`.") from error

    def write(self, out: Path) -> None:
        """Write it whole or not at all."""
        from dataclasses import asdict

        part = out / f".{RUN_FILE}.part"
        part.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(out / RUN_FILE)


# The last data that was prepared, and what it was made of.
_newest: list[tuple[object, Prepared]] = []


def run(project: Project, progress: Progress) -> None:
    """Train as `train.entrypoint`, `train.command` or `train.stage` says.

    Raises:
        UsageError, ConfigError: the data or the entrypoint is not there.
        Permanent: the data is not what DVC recorded.
        TidegateError: the user's code failed, or gave something that is no model.
    """
    from tidegate.registry.mlflow_registry import open_registry

    started = time.monotonic()
    with progress.task("read the data"):
        prepared = prepare_data(project)
    registry = open_registry(project)
    source = run_source(project, prepared.data)
    project.out_dir.mkdir(exist_ok=True)
    train = project.config.train
    if train.stage is not None:
        run_id, digest = _collect(project, registry, source)
    else:
        work = _entrypoint if train.entrypoint is not None else _command
        with registry.running(source) as run_id:
            digest = work(project, prepared, registry, run_id, progress)
            registry.log_dataset(run_id, prepared.table.frame, source, project.config.data.target)
    RunFile(
        run_id=run_id,
        seconds=round(time.monotonic() - started, 3),
        data=prepared.data,
        rows={"train": len(prepared.split.train), "holdout": len(prepared.split.holdout)},
        model_sha256=digest,
        params=dict(train.params),
    ).write(project.out_dir)


def prepare_data(project: Project) -> Prepared:
    """Verify the data by its hash, read it and divide it; train, evaluate, gate and package share one reading.

    What it gives is shared, so nobody may write into it.
    """
    from tidegate.pipelines.dvc_repo import verify_data

    config = project.config
    recorded = verify_data(project)
    code = project.path(config.serve.code) if config.serve.code else None
    hooks = code.read_bytes() if code and code.is_file() else None
    made_of = (project.root, recorded, config.data, config.task, config.serve.code, hooks)
    if _newest and _newest[0][0] == made_of:
        return _newest[0][1]
    _newest.clear()  # before the new one is read: two may not fit into memory
    _newest.append((made_of, _prepare(project, recorded)))
    return _newest[0][1]


def _prepare(project: Project, recorded: DatasetRef) -> Prepared:
    from tidegate.pipelines.dataset import read_frame, split, training_table
    from tidegate.pipelines.model_inputs import from_features

    config = project.config
    frame = read_frame(project.path(config.data.path))
    table = training_table(frame, config.data, config.task)
    table = type(table)(table.frame, table.features, plain_target(table.target, config.task), table.unlabelled)
    hooks = project.path(config.serve.code) if config.serve.code else None
    return Prepared(
        data=DatasetRef(recorded.path, recorded.md5, len(frame)),
        table=table,
        split=split(table.frame, config.data, config.task),
        interface=from_features(table.features, hooks),
    )


def plain_target(target: pd.Series[Any], task: str) -> pd.Series[Any]:
    """The target in a dtype that scikit-learn takes: numbers for regression, int, bool or str labels otherwise."""
    if task == "regression":
        return target.astype("float64")
    if target.dtype.kind == "f" and (target % 1 == 0).all():
        return target.astype("int64")  # labels 0 and 1 in a column that misses some are read as floats
    if str(target.dtype) == "boolean":
        return target.astype("bool")
    return target.astype(str).astype(object) if target.dtype.kind in "OM" else target


def run_source(project: Project, data: DatasetRef) -> RunSource:
    """Data, params, commit and patch of a run that starts now."""
    from tidegate.registry import RunSource

    tree = project.work_tree()
    return RunSource(data=data, params=dict(project.config.train.params), git_commit=tree.commit, diff=tree.diff)


def _entrypoint(project: Project, prepared: Prepared, registry: MlflowRegistry, run_id: str, progress: Progress) -> str:
    """Fit with the user's train function and log the model; gives the model folder's hash."""
    from tidegate.registry import TrainedModel

    config = project.config
    reference = config.train.entrypoint or ""
    inputs, target = prepared.train()
    with user_code.importable(project.root, config.train.code):
        function = user_code.load_function(project.root, reference, "train.entrypoint")
        with progress.task(f"fit {len(inputs):,} rows with {reference}"):
            model = _fit(function, inputs, target, project)
        metadata = {
            **prepared.interface.document(),
            "task": config.task,
            "target": config.data.target,
            "classes": _classes(model, target, config.task),
            "hooks": Path(config.serve.code).name if config.serve.code else None,
        }
        trained = TrainedModel(
            estimator=model,
            inputs=inputs.head(_EXAMPLE_ROWS),
            requirements=_requirements(project),
            metadata=metadata,
            code=_travelling_code(project, model),
            allow_pickle=config.serve.allow_pickle,
        )
        with progress.task("log the model"):
            return registry.log_model(run_id, trained, project.out_dir / MODEL_FOLDER)


def _fit(function: Any, inputs: pd.DataFrame, target: pd.Series[Any], project: Project) -> Any:
    """Call the user's function and refuse whatever is no fitted estimator."""
    reference = project.config.train.entrypoint
    given = project.config.train.params
    params = user_code.Params(given)
    _seed(given)
    try:
        with collector.usual():
            model = function(inputs, target, params)
    except KeyError as error:
        if (wrong := user_code.typo(params, list(given))) and error.args == (wrong[1],):
            raise _typo(reference, *wrong) from error
        raise failed(error, project.root, f"running {reference}") from error
    except Exception as error:
        raise failed(error, project.root, f"running {reference}") from error
    if wrong := user_code.typo(params, list(given)):
        raise _typo(reference, *wrong)
    _check_fitted(model, inputs, str(reference))
    return model


def _typo(reference: str | None, given: str, asked: str) -> TidegateError:
    return TidegateError(
        f"train.params has {given!r}, but {reference} asks for {asked!r}.", f"Rename {given!r} in tidegate.yaml."
    )


def _check_fitted(model: Any, inputs: pd.DataFrame, reference: str) -> None:
    """Refuse nothing, a class, an unfitted estimator, and anything that cannot predict one value a row."""
    want = "It must return the fitted estimator: `return model.fit(X, y)`."
    if model is None:
        raise TidegateError(f"{reference} returned nothing.", want)
    if isinstance(model, type):
        raise TidegateError(f"{reference} returned the class {model.__name__}, not an estimator.", want)
    if not callable(getattr(model, "predict", None)):
        raise TidegateError(f"{reference} returned a {type(model).__name__}, which cannot predict.", want)
    from sklearn.exceptions import NotFittedError
    from threadpoolctl import threadpool_limits

    try:
        with threadpool_limits(1):  # waiting for threads takes longer than five rows
            answers = model.predict(inputs.head(_EXAMPLE_ROWS))
    except NotFittedError as error:
        raise TidegateError(f"{reference} returned a {type(model).__name__} that is not fitted.", want) from error
    except Exception as error:
        raise TidegateError(
            f"The {type(model).__name__} that {reference} returned cannot predict the rows it was fitted on: "
            f"{type(error).__name__}: {error}",
            "Everything that changes the inputs must be part of the returned model (a Pipeline) or of serve.code.",
        ) from error
    if getattr(answers, "shape", (None,))[0] != len(inputs.head(_EXAMPLE_ROWS)):
        raise TidegateError(f"{reference} returned a model that does not predict one value for each row.", want)


def _classes(model: Any, target: pd.Series[Any], task: str) -> list[Any] | None:
    """The labels in the order of the model's probabilities, as plain Python values."""
    if task != "classification":
        return None
    labels = getattr(model, "classes_", None)
    if labels is None:
        labels = sorted(target.unique())
    return [label.item() if hasattr(label, "item") else label for label in labels]


def _travelling_code(project: Project, model: Any) -> tuple[Path, ...]:
    """`train.code`, the hooks, and the entrypoint's own file if the model is made of classes defined there."""
    config = project.config
    paths = [project.path(part) for part in config.train.code]
    if config.serve.code:
        paths.append(project.path(config.serve.code))
    for missing in (path for path in paths if not path.exists()):
        raise TidegateError(f"{missing.name} in train.code or serve.code does not exist.", "Fix tidegate.yaml.")
    where = (config.train.entrypoint or "").rpartition(":")[0]
    if where.endswith(".py") and Path(where).stem in _modules_of(model):
        paths.append(project.path(where))
    return tuple(dict.fromkeys(path.resolve() for path in paths))


def _modules_of(model: Any) -> set[str]:
    """The modules of an estimator's class and of those inside it (steps of a pipeline)."""
    found, seen, queue = set(), set(), [model]
    while queue:
        one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found.add(getattr(one, "__module__", None) or type(one).__module__)
        if isinstance(one, Mapping):
            queue += one.values()
        elif isinstance(one, list | tuple):
            queue += one[:100]
        elif hasattr(one, "get_params"):
            queue += vars(one).values()
    return found


def _requirements(project: Project) -> tuple[str, ...]:
    from tidegate.pipelines.requirements import pinned

    return pinned(project)


def _command(project: Project, prepared: Prepared, registry: MlflowRegistry, run_id: str, progress: Progress) -> str:
    """Run the user's script, which logs one model into the run that the environment names."""
    command = project.config.train.command or ""
    # The script may open the sqlite file itself; its output belongs to people, so it goes to stderr.
    with progress.task(command):
        done = subprocess.run(  # noqa: S602 - the config holds a shell command
            command,
            shell=True,
            cwd=project.root,
            env={**os.environ, **script_environment(project), "MLFLOW_RUN_ID": run_id, "TIDEGATE_RUN_ID": run_id},
            stdout=2,
            check=False,
        )
    if done.returncode:
        raise TidegateError(
            f"`{command}` ended with exit code {done.returncode}.", "Its own output is above; nothing was logged."
        )
    del prepared
    return registry.collect_model(run_id, project.out_dir / MODEL_FOLDER)


def script_environment(project: Project) -> dict[str, str]:
    """What a user's own script finds in its environment to log into the right place."""
    return {
        **OPT_OUTS,
        "MLFLOW_TRACKING_URI": project.mlflow_uri,
        "MLFLOW_EXPERIMENT_NAME": project.config.model,
        "TIDEGATE_DATA": str(project.path(project.config.data.path)),
        "TIDEGATE_PARAMS": json.dumps(dict(project.config.train.params)),
    }


def stage_environment(project: Project, execution: str) -> dict[str, str]:
    """`script_environment` for a DVC stage of the user's own, which opens its run by itself.

    MLflow puts the tags of MLFLOW_RUN_CONTEXT on each run that `mlflow.start_run()` opens, so the run can be told from
    those of other people and of other executions.
    """
    tag = f"{execution}/{secrets.token_hex(4)}"
    context = json.loads(os.environ.get(_CONTEXT) or "{}")
    return {**script_environment(project), _CONTEXT: json.dumps({**context, STAGE_TAG: tag}), "TIDEGATE_STAGE": tag}


def _collect(project: Project, registry: MlflowRegistry, source: RunSource) -> tuple[str, str]:
    """The run that the recorded execution of the user's own DVC stage made, and its model folder's hash."""
    from tidegate.pipelines.dvc_repo import execution

    name = project.config.train.stage or ""
    run_id = registry.run_of_stage(execution(project.root, name))
    if run_id is None:
        raise TidegateError(
            f"The stage {name}, as dvc.lock records it, logged no model in the MLflow experiment "
            f"{project.config.model}.",
            "Its script must log exactly one, for example with mlflow.sklearn.log_model(..., name='model') inside "
            "mlflow.start_run(); the environment names server, experiment and the run's tag (for a client of its own: "
            f"{STAGE_TAG}=$TIDEGATE_STAGE). If `dvc repro` ran it: `tidegate train` runs it so that its run is known.",
        )
    digest = registry.collect_model(run_id, project.out_dir / MODEL_FOLDER)
    registry.describe_run(run_id, source)
    return run_id, digest


def _seed(params: Mapping[str, Any]) -> None:
    """Seed what a train function may draw from, so that equal inputs give an equal model."""
    import sys

    import numpy as np

    wanted = params.get("seed", params.get("random_state", SEED))
    seed = wanted if isinstance(wanted, int) and wanted >= 0 else SEED
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - scikit-learn draws from the global generator
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)
