"""The steps of a flow as pods run them: each in a process and a checkout of its own, from references to references.

What one pod makes reaches the next through what both can read: DVC's remote (outputs and run-cache), MLflow, the store.
So a step finds what those before it made as `tidegate train` finds what it made yesterday, and a pod that is tried
again goes on where the one before it was killed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidegate.core.artifacts import GateResult
from tidegate.core.errors import ConfigError, Conflict, ContractFailed, Permanent, Temporary, TidegateError, UsageError
from tidegate.pipelines import checkout
from tidegate.pipelines.dag import FLOWS, NO, PASSED, REFUSED, References, Work, kept

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.core.project import Project
    from tidegate.pipelines.environment import Environment
    from tidegate.pipelines.release import Road
    from tidegate.pipelines.retrain import Ended, Retraining

CLOSE: Final = "close"
"""The exit hook's step: what became of the whole flow goes into the ledger."""
PUSHES: Final = frozenset({"compare"})
"""Steps that may push a branch; all others lose the deploy token once their commit is here: user code runs in them."""
_GATE_FILE: Final = "gate.json"


def run(environment: Environment, flow: str, step: str, taken: References, progress: Progress) -> References:
    """Run one step and return what it gives.

    Args:
        environment: of the checkout.
        flow: release, retrain or monitor.
        step: of that flow, or `close`.
        taken: the references that it takes.
        progress: told what happens.

    Raises:
        UsageError: there is no such flow or step, or a reference is missing.
        Temporary: something did not answer; trying again may help.
        TidegateError: the step failed.
    """
    if flow not in FLOWS:
        raise UsageError(f"There is no flow {flow}.", f"Flows: {', '.join(FLOWS)}.")
    if step == CLOSE:
        from tidegate.pipelines import ended_flow

        ended_flow.record(environment, flow, taken)
        return {}
    promised = FLOWS[flow].step(step)
    if missing := [name for name in promised.takes if not taken.get(name)]:
        raise UsageError(f"The step {step} needs the reference {missing[0]}.", f"Give it: --reference {missing[0]}=...")
    return kept(promised, _Pod(environment, flow, taken, progress).work[step](taken))


def write(folder: Path, given: References) -> None:
    """One file a reference, where the Workflow's template looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in given.items():
        (folder / name).write_text(value, encoding="utf-8")


@dataclass(frozen=True)
class _Pod:
    """One step under way."""

    environment: Environment
    flow: str
    taken: References
    progress: Progress

    @property
    def work(self) -> Mapping[str, Work]:
        """Step name -> the work."""
        return {
            "contract": lambda _: self._contract(),
            "train": lambda _: {"run_id": self._stage("train")},
            "evaluate": lambda _: self._evaluated(),
            "gate": lambda _: self._on_road(self._gate),
            "register": lambda _: self._on_road(lambda road: road.work["register"]({})),
            "package": lambda _: self._on_road(self._package),
            "begin": lambda _: self._begin(),
            "data": lambda _: self._data(),
            "compare": lambda _: self._compare(),
            "watch": lambda _: self._watch(),
        }

    # --- what DVC records ------------------------------------------------------------------------------------------

    def _contract(self) -> References:
        from tidegate.pipelines.runners import local

        self._fetch()
        try:
            local.bring(self._project, "contract", self.progress)
        except ContractFailed as error:
            # The step did its work: it is the data that failed, and trying again would not help it.
            self.progress.note(error.message)
            self._refused((error.message,), error.hint)
            return {"contract": REFUSED}
        self._share()
        return {"contract": PASSED}

    def _stage(self, name: str) -> str:
        """Bring one stage up to date and share it; gives the run."""
        from tidegate.pipelines.runners import local

        self._fetch()
        local.bring(self._project, name, self.progress)
        self._share()
        return local.run_of(self._project, self.progress)

    def _evaluated(self) -> References:
        self._same_run(self._stage("evaluate"))
        return {}

    # --- what the ledger decides -----------------------------------------------------------------------------------

    def _on_road(self, work: Callable[[Road], References]) -> References:
        """Work on the model as those before trained it: everything of theirs comes back from DVC's run-cache."""
        from tidegate.pipelines.release import Road
        from tidegate.pipelines.runners import local

        self._fetch()
        local.bring(self._project, "evaluate", self.progress)
        with Road(self.environment, self.progress) as road:
            self._same_run(road.trained.run_id)
            return work(road)

    def _gate(self, road: Road) -> References:
        """The decision is kept with the run, for the pod that packages."""
        answer = road.work["gate"]({})
        gate = road.gate
        if gate is not None and not gate.passed:
            self._refused(gate.reasons)
        document = {"champion": self.environment.state().champion, "reasons": list(gate.reasons) if gate else None}
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, _GATE_FILE).write_text(json.dumps(document), encoding="utf-8")
            self.environment.registry.log_results(self.taken["run_id"], {}, Path(scratch))
        return answer

    def _package(self, road: Road) -> References:
        from tidegate.pipelines import bundles

        decided = json.loads(self.environment.registry.result(self.taken["run_id"], _GATE_FILE) or b"{}")
        if decided.get("champion", "") != self.environment.state().champion:
            raise Permanent(
                "The champion changed since the gate, or the run keeps no gate: it passed against another one.",
                "Start the flow again: only the gate and what follows it is done anew.",
            )
        if decided["reasons"] is not None:
            road.gate = GateResult(passed=True, reasons=tuple(decided["reasons"]))
        answer = road.work["package"](self.taken)
        release = road.made.release
        assert release is not None  # noqa: S101 - the step above made it
        bundle = bundles.bundle_of(self._project, release)
        with self.progress.task("keep the bundle in the store"):
            bundles.keep(self.environment.store, release, bundle)
        return answer

    # --- what only a retrain does ----------------------------------------------------------------------------------

    def _begin(self) -> References:
        from tidegate.pipelines import retrain

        self._fetch()
        try:
            begun = retrain.begin(self.environment, self.taken.get("reason", ""), by_window=bool(self.taken["window"]))
        except Conflict as error:
            if not self.taken["window"]:
                raise Permanent(error.message, error.hint) from error
            self.progress.note(error.message)
            return {"goes_on": NO}
        return self._retraining(begun.id, "begin")

    def _data(self) -> References:
        self._fetch()
        answer = self._retraining(None, "data")
        self._share()
        return answer

    def _compare(self) -> References:
        if self._project.config.retrain.git == "branch":
            from tidegate.pipelines.runners import local

            self._fetch()
            local.bring(self._project, "evaluate", self.progress)  # so that dvc.lock is that of the new model
        return self._retraining(None, "compare")

    def _retraining(self, begun: str | None, step: str) -> References:
        """One of the retrain's own steps; whatever end it finds goes into the ledger."""
        from tidegate.pipelines import retrain

        work = self._open_retrain()
        if work is None:
            raise Permanent(
                f"The retrain {begun or ''} is over already.".replace("  ", " "),
                "`tidegate events` shows how it ended.",
            )
        answer = work.work[step](self.taken)
        if work.ended is not None:
            retrain.end(self.environment, work.begun, work.ended, self.progress)
        return answer

    def _open_retrain(self) -> Retraining | None:
        from tidegate.pipelines.retrain import Retraining

        begun = self.environment.state().open_retrain
        return Retraining(self.environment, begun, self.progress) if begun is not None else None

    def _refused(self, reasons: tuple[str, ...], hint: str = "") -> None:
        """End the retrain, if this is one, whose data or model was refused."""
        from tidegate.pipelines import retrain

        begun = self.environment.state().open_retrain
        if self.flow == "retrain" and begun is not None:
            ended: Ended = replace(retrain.refused(None, self.taken["data"]), reasons=reasons, hint=hint)
            retrain.end(self.environment, begun, ended, self.progress)

    # --- what the schedule does ------------------------------------------------------------------------------------

    def _watch(self) -> References:
        """Labels, the window, messages and upkeep; one that fails does not keep the others from their turn."""
        from tidegate.pipelines.acts import ACTS

        names = ["labels"] * (self._project.config.monitor.labels.command is not None)
        failed: TidegateError | None = None
        for name in (*names, "monitor", "aliases", "upkeep"):
            try:
                ACTS[name](self.environment, self.progress)
            except TidegateError as error:
                self.progress.note(f"{name}: {error.message}")
                failed = failed or error
        self._trigger()
        ACTS["notify"](self.environment, self.progress)
        if failed is not None:
            raise failed
        return {}

    def _trigger(self) -> None:
        """Begin the retrain that the window asked for, with its own commit; asked again, it is the same Workflow."""
        from datetime import UTC, datetime

        from tidegate.core import git
        from tidegate.monitors.trigger import unanswered
        from tidegate.pipelines import retrain
        from tidegate.pipelines.dag import RETRAIN
        from tidegate.pipelines.runners import kube

        state = self.environment.state()
        window = unanswered(state)
        if window is None or state.open_retrain is not None or not retrain.due(self.environment, datetime.now(UTC)):
            return
        given = {"reason": window.reason, "window": window.since}
        started = kube.runner(self.environment).start(RETRAIN, given, git.head(self._project.root))
        self.progress.note(f"The window asks for a retrain: Workflow {started.name}.")

    # --- what every step needs -------------------------------------------------------------------------------------

    @property
    def _project(self) -> Project:
        return self.environment.project

    def _fetch(self) -> None:
        """Data, outputs and the run-cache of whoever worked before."""
        from tidegate.pipelines import dvc_repo

        if self.taken.get("data"):
            checkout.pin_data(self._project.root, self._project.config.data.path, self.taken["data"])
        with self.progress.task("fetch data and results"), _reached():
            dvc_repo.pull_data(self._project, force=True)

    def _share(self) -> None:
        from tidegate.pipelines import dvc_repo

        with self.progress.task("share data and results"), _reached():
            dvc_repo.push(self._project.root)

    def _same_run(self, run_id: str) -> None:
        """Refuse to go on with another model than the one that was trained.

        Raises:
            Permanent: the run-cache lacks it, so another run took its place.
        """
        if run_id != self.taken["run_id"]:
            raise Permanent(
                f"The results in DVC's remote are those of run {run_id}, not of {self.taken['run_id']}.",
                "The remote must keep the run-cache: S3, GCS, Azure, ssh or a shared folder do; plain HTTP does not.",
            )


@contextmanager
def _reached() -> Iterator[None]:
    """What fails on the way to a remote may work the next time."""
    try:
        yield
    except (Permanent, UsageError, ConfigError):
        raise
    except TidegateError as error:
        raise Temporary(error.message, error.hint) from error
