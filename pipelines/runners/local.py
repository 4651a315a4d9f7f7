"""The reproducible half on this machine: contract -> train -> evaluate, in this process, only what changed.

DVC decides what changed; if nothing did, nothing heavier than DVC is imported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.artifacts import DatasetRef
from tidegate.core.errors import Conflict, TidegateError, UsageError
from tidegate.core.held import held
from tidegate.core.project import Project
from tidegate.pipelines import collector
from tidegate.pipelines.dag import REPRODUCIBLE

if TYPE_CHECKING:
    from tidegate.core.config import Config
    from tidegate.core.progress import Progress
    from tidegate.pipelines.dvc_repo import Own, StageOutcome

_WAIT_SECONDS = 3.0  # as DVC waits for its own lock: two commands that find nothing to do must not collide
STEPS = REPRODUCIBLE


class Stopped(KeyboardInterrupt):
    """Ctrl-C while a step worked: `step` begins anew next time, the results of those in `kept` are recorded."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step
        self.kept = STEPS[: STEPS.index(step)]


@dataclass(frozen=True)
class TrainResult:
    """What `tidegate train` did: `metrics` are the holdout's, `stages` say what ran."""

    changed: bool
    run_id: str
    metrics: Mapping[str, float]
    metric: str
    data: DatasetRef
    seconds: float
    stages: tuple[StageOutcome, ...]


def train(project: Project, params: Mapping[str, str], progress: Progress) -> TrainResult:
    """Bring contract, model and evaluation up to date.

    Args:
        project: the project; `params` are written into its tidegate.yaml first.
        params: new values of `train.params`, as typed.
        progress: told what runs.

    Raises:
        UsageError: no such param; the data file is missing.
        Stopped: Ctrl-C, in one of the steps.
        ContractFailed: the data breaks its contract.
        Conflict: the project is being trained already, or its files changed while a stage ran.
        TidegateError: training failed, or MLflow's database is unreadable.
    """
    from tidegate.pipelines import stage_deps
    from tidegate.registry import sqlite_probe

    started = time.monotonic()
    # Held before anything is written: who is refused has changed nothing that the other one is working with.
    with held(project.state_dir / "train.lock", _WAIT_SECONDS, _busy()):
        project = _with(project, params, progress)
        for sentence in stage_deps.complete(project):
            progress.note(sentence)
        sqlite_probe.relocate(project.mlflow_uri, project.config.model)
        with collector.seldom():
            stages = tuple(_run_stages(project, progress))
    if not any(one.name == "contract" and one.how == "ran" for one in stages):
        _repeat_warnings(project, progress)
    run_id = _living_run(project, progress)
    metrics, metric = _measured(project)
    return TrainResult(
        changed=any(stage.changed for stage in stages),
        run_id=run_id,
        metrics=metrics,
        metric=metric,
        data=_data(project),
        seconds=round(time.monotonic() - started, 3),
        stages=stages,
    )


def bring(project: Project, step: str, progress: Progress) -> None:
    """Bring one of the reproducible steps, and all before it, up to date: what one pod does, with what others made.

    Errors are those of `train`.
    """
    from tidegate.pipelines import stage_deps

    with held(project.state_dir / "train.lock", _WAIT_SECONDS, _busy()):
        for sentence in stage_deps.complete(project):
            progress.note(sentence)
        _run_stages(project, progress, STEPS[: STEPS.index(step) + 1], fetch=True)


def run_of(project: Project, progress: Progress) -> str:
    """The MLflow run of what was trained; one that MLflow lost is logged again."""
    return _living_run(project, progress)


def _busy() -> Conflict:
    return Conflict(
        "Another `tidegate train` or `ship` is training this project; nothing was changed.",
        "Wait until it ends and run the command again.",
    )


def run_step(project: Project, name: str, progress: Progress) -> None:
    """Run one step by itself, whatever DVC thinks of it: what a DVC stage and a Workflow pod call.

    Raises:
        UsageError: there is no such step.
    """
    steps = _steps(project, progress)
    if name not in steps:
        raise UsageError(f"There is no step called {name}.", f"Steps: {', '.join(steps)}.")
    steps[name]()


def _with(project: Project, params: Mapping[str, str], progress: Progress) -> Project:
    """The project with the overrides written to its file and read back."""
    if not params:
        return project
    from tidegate.core.config import FILE_NAME, load
    from tidegate.pipelines.params_edit import override

    for sentence in override(project.root / FILE_NAME, params):
        progress.note(sentence)
    return Project(project.root, load(project.root, project.env), project.env)


def _run_stages(
    project: Project, progress: Progress, names: Sequence[str] = STEPS, *, fetch: bool = False
) -> list[StageOutcome]:
    from tidegate.pipelines.dvc_repo import run_stages

    own = _own_stage(project, project.config.train.stage) if project.config.train.stage is not None else None
    began: list[str] = []
    every = _steps(project, progress)
    steps = {name: _noting(project, name, every[name], began) for name in names}
    try:
        return run_stages(project.root, steps, progress, own, partial(_accept, project), fetch=fetch)
    except KeyboardInterrupt as stop:
        if began:
            raise Stopped(began[-1]) from stop
        raise


def _own_stage(project: Project, name: str) -> Own:
    """What DVC's side must know of a training stage of the user's."""
    from tidegate.pipelines.dvc_repo import Own
    from tidegate.pipelines.steps.train import stage_environment
    from tidegate.registry import sqlite_probe

    if not sqlite_probe.has_experiment(project.mlflow_uri, project.config.model):
        # A script that opens the experiment first would give it an artifact folder of its own.
        from tidegate.registry.mlflow_registry import prepare

        prepare(project.mlflow_uri, project.config.model)

    def known(execution: str) -> bool:
        from tidegate.registry.mlflow_registry import open_registry

        return open_registry(project).run_of_stage(execution) is not None

    return Own(name, partial(stage_environment, project), known)


def _accept(project: Project, path: str) -> None:
    """Data that was changed in place must keep the contract before it is recorded as a version.

    Raises:
        ContractFailed: it does not; the version before is still the recorded one.
    """
    data = project.path(project.config.data.path)
    if data.is_relative_to(project.path(path)):
        from tidegate.pipelines.dataset import read_frame
        from tidegate.pipelines.steps.contract import check_contract

        check_contract(read_frame(data), project.path(project.config.contract)).require()


def _noting(project: Project, name: str, work: Callable[[], None], began: list[str]) -> Callable[[], None]:
    """The same work, which first says that it begins, and refuses another config than DVC has just hashed."""
    from tidegate.core.config import FILE_NAME, load

    def noted() -> None:
        began.append(name)
        if _decisive(load(project.root, project.env)) != _decisive(project.config):
            raise Conflict(
                f"{FILE_NAME} changed while the stages before {name} ran, so {name} was not begun.",
                "Run it again: it takes the file as it is then.",
            )
        work()

    return noted


def _decisive(config: Config) -> tuple[object, ...]:
    """What the steps read of the config."""
    return (config.model, config.task, config.data, config.contract, config.train, config.gate, config.serve)


def _steps(project: Project, progress: Progress) -> dict[str, Callable[[], None]]:
    """Step name -> the work; a step's module is imported when it runs."""

    def contract() -> None:
        from tidegate.pipelines.steps import contract as step

        step.run(project, progress)

    def fit() -> None:
        from tidegate.pipelines.steps import train as step

        step.run(project, progress)

    def evaluate() -> None:
        from tidegate.pipelines.steps import evaluate as step

        step.run(project, progress)

    return dict(zip(STEPS, (contract, fit, evaluate), strict=True))


def _repeat_warnings(project: Project, progress: Progress) -> None:
    """Say what the contract warned of when it was checked: the data breaks the same promises still."""
    for text in _read(project.out_dir / "contract.json").get("warned") or ():
        progress.note(f"contract warning: {text}")


def _living_run(project: Project, progress: Progress) -> str:
    """The run of out/run.json as MLflow knows it; a run that MLflow lost is logged again from the outputs.

    DVC's run-cache may bring back outputs whose run was deleted, or that another machine's MLflow holds.
    """
    from tidegate.registry import sqlite_probe

    recorded = str(_read(project.out_dir / "run.json").get("run_id", ""))
    found = sqlite_probe.find_run(project.mlflow_uri, recorded)
    if found is None:
        from tidegate.registry.mlflow_registry import open_registry

        found = open_registry(project).find_run(recorded)
    return found or _log_again(project, recorded, progress)


def _log_again(project: Project, run_id: str, progress: Progress) -> str:
    from tidegate.pipelines.steps.evaluate import EVALUATION_FOLDER
    from tidegate.pipelines.steps.train import MODEL_FOLDER, RunFile, run_source
    from tidegate.registry.mlflow_registry import open_registry

    out = project.out_dir
    with progress.task("log the run again from its outputs"):
        registry = open_registry(project)
        source = run_source(project, RunFile.read(out).data)
        copy = registry.restore_run(run_id, source, out / MODEL_FOLDER)
        registry.log_results(copy, _measured(project)[0], out / EVALUATION_FOLDER)
    progress.note(f"MLflow had lost the run {run_id}; it was logged again as {copy}.")
    return copy


def _measured(project: Project) -> tuple[dict[str, float], str]:
    document = _read(project.out_dir / "evaluation" / "metrics.json")
    return dict(document.get("metrics") or {}), str(document.get("metric", ""))


def _data(project: Project) -> DatasetRef:
    data = _read(project.out_dir / "run.json").get("data") or {}
    return DatasetRef(str(data.get("path", "")), str(data.get("md5", "")), data.get("rows"))


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TidegateError(f"{file.name} in {file.parent} is missing or damaged.", "Run `tidegate train`.") from error
    return document if isinstance(document, dict) else {}
