"""What a pull request should know of its model, gathered: data, contract, the gate against the champion, what it cost.

Nothing is registered or written to the ledger: a proposal is not a decision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import ExitCode, TidegateError, UsageError
from tidegate.pipelines.gate import Facts, decide

if TYPE_CHECKING:
    from tidegate.core.artifacts import GateResult
    from tidegate.core.progress import Progress
    from tidegate.core.project import Project
    from tidegate.pipelines.environment import Environment
    from tidegate.pipelines.steps.train import RunFile


@dataclass(frozen=True)
class Cost:
    """What the model takes: `seconds` of training on `processors`, `rows` it learnt from, and what serving it takes.

    `latency_p99` is seconds for one row, None where gate.latency_p99 does not ask for it; `size` is bytes.
    """

    seconds: float
    processors: int
    rows: int
    size: int | None = None
    latency_p99: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything that is shown; None is what could not be had, and `problem` then says why.

    `data` is the document of `tidegate data diff`; `contract` and `failed` are how many promises there are, and a
    sentence for each that is broken; `advice` is what to do about a refusal; `plots` maps a name to its address.
    """

    model: str
    env: str
    contract: int
    failed: tuple[str, ...]
    data: Mapping[str, Any] | None = None
    data_problem: str = ""
    facts: Facts | None = None
    gate: GateResult | None = None
    problem: str = ""
    advice: str = ""
    cost: Cost | None = None
    run_id: str = ""
    plots: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the model may be merged: the contract holds, everything was measured, and the gate passes it."""
        return not self.failed and not self.problem and self.gate is not None and self.gate.passed

    @property
    def exit_code(self) -> ExitCode:
        """0, 3 where contract or gate refuse, 1 where it could not be judged."""
        if self.passed:
            return ExitCode.OK
        return ExitCode.ERROR if self.problem else ExitCode.REFUSED

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it passes or not, refusals first."""
        if self.failed or self.problem:
            return self.failed or (self.problem,)
        return self.gate.reasons if self.gate else ()


def make(environment: Environment, progress: Progress, against: str, plots: str = "") -> Report:
    """Look at the project as it is.

    Args:
        environment: whose champion the model is compared with.
        progress: told what is looked at.
        against: the git revision whose data the data of now is compared with.
        plots: where the plots can be seen; empty: at the run in MLflow, where that has pages.

    Raises:
        UsageError: the data is not there.
        ConfigError: the contract cannot be read.
    """
    project = environment.project
    stale = _stale(project)
    with progress.task("check the contract"):
        promises, failed = _contract(project, fresh=stale is None)
    with progress.task(f"compare the data with {against}"):
        data, data_problem = _data(project, against)
    found = Report(
        model=project.config.model,
        env=project.env,
        contract=promises,
        failed=failed,
        data=data,
        data_problem=data_problem,
    )
    if failed:
        return found
    if stale is not None:
        return _with(found, problem=stale.message, advice=stale.hint)
    try:
        return _judged(environment, progress, found, plots)
    except TidegateError as error:
        return _with(found, problem=error.message, advice=error.hint)


def _judged(environment: Environment, progress: Progress, found: Report, plots: str) -> Report:
    """The same with the gate's answer, what the model costs, and where its plots are."""
    from tidegate.pipelines.release import champion_version, drafted
    from tidegate.pipelines.steps import gate
    from tidegate.pipelines.steps.train import RunFile, prepare_data
    from tidegate.serving.package import row_predictor

    project = environment.project
    run = RunFile.read(project.out_dir)
    with drafted(project, prepare_data(project), progress) as draft:
        facts = gate.measured(
            project,
            champion_version(environment),
            environment.registry,
            progress,
            predict_row=row_predictor(draft.bundle),
            size=draft.size,
        )
    decided = decide(facts, project.config.gate)
    return _with(
        found,
        facts=facts,
        gate=decided,
        advice="\n".join(decided.advice),
        cost=_cost(run, facts),
        run_id=run.run_id,
        plots=_plots(environment, run.run_id, plots),
    )


def _stale(project: Project) -> UsageError | None:
    """Why out/ is not of the files as they are; None if it is. A gate of yesterday's model would say nothing."""
    from tidegate.pipelines import dvc_repo

    changed = [one.path for one in dvc_repo.status(project.root)]
    if not changed and (project.out_dir / "evaluation" / "metrics.json").is_file():
        return None
    differs = f" ({', '.join(changed[:3])} changed)" if changed else ""
    return UsageError(
        f"The project is not trained as it is{differs}.",
        "`tidegate train` trains it; on a runner the log of that step says what went wrong.",
    )


def _contract(project: Project, *, fresh: bool) -> tuple[int, tuple[str, ...]]:
    """How many promises there are, and what breaks them; what training found is true while nothing has changed."""
    if fresh:
        kept = json.loads((project.out_dir / "contract.json").read_text(encoding="utf-8"))
        return len(kept["results"]), tuple(kept["failed"])
    from tidegate.pipelines.dataset import read_frame
    from tidegate.pipelines.steps.contract import check_contract

    frame = read_frame(project.path(project.config.data.path))
    found = check_contract(frame, project.path(project.config.contract))
    return len(found.results), found.failed


def _data(project: Project, against: str) -> tuple[dict[str, Any] | None, str]:
    """What changed in the data, or a sentence on why nobody can tell: a new model has no data to compare with."""
    from tidegate.pipelines.data_diff import compare

    try:
        return compare(project, against, None), ""
    except TidegateError as error:
        return None, error.message


def _cost(run: RunFile, facts: Facts) -> Cost:
    return Cost(run.seconds, os.cpu_count() or 1, int(run.rows.get("train", 0)), facts.size, facts.latency_p99)


def _plots(environment: Environment, run_id: str, address: str) -> dict[str, str]:
    """Every plot of the evaluation and where it can be seen; empty if nowhere."""
    from tidegate.pipelines.steps.evaluate import EVALUATION_FOLDER

    address = address or environment.registry.page(run_id) or ""
    files = sorted((environment.project.out_dir / EVALUATION_FOLDER / "plots").glob("*.png"))
    return {file.stem.replace("_", " "): address for file in files} if address else {}


def _with(found: Report, **changes: Any) -> Report:
    from dataclasses import replace

    return replace(found, **changes)
