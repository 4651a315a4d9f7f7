"""From a trained model to a release: gate, register, package, store. Repeating it finds what is done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tidegate.core.artifacts import DatasetRef, GateResult, ModelVersion, Release, RunRef
from tidegate.core.config import FILE_NAME, resolved
from tidegate.core.errors import TidegateError, UsageError
from tidegate.core.project import Project
from tidegate.pipelines import collector
from tidegate.pipelines.bundles import bento_home, bundle_of
from tidegate.pipelines.dag import PASSED, REFUSED, RELEASE, References, Work, walk
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.reference import Measured, store_reference
from tidegate.pipelines.runners.local import TrainResult, train
from tidegate.registry import releases
from tidegate.registry.ledger import Draft
from tidegate.registry.state import State, deciding

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tidegate.core.git import WorkTree
    from tidegate.core.progress import Progress
    from tidegate.pipelines.steps.train import Prepared
    from tidegate.serving import package
    from tidegate.serving.package import BentoRef


@dataclass(frozen=True)
class Made:
    """A release, or None with the gate that refused it. `gate` is None for a champion that is shipped once more.

    `metrics` were measured on the holdout; `metric` names the one that decides.
    """

    release: Release | None
    gate: GateResult | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    metric: str = ""


def make_release(environment: Environment, progress: Progress) -> Made:
    """Train what changed, gate it, register and package it.

    Raises:
        ContractFailed: the data breaks its contract.
        TidegateError: training, packaging or MLflow failed.
    """
    with collector.seldom(), Road(environment, progress) as road:
        walk(RELEASE, road.work, {})
        return road.made


@dataclass
class Road:
    """The steps from the files as they are to a release, in one process: they share the training and the bundle.

    Each is idempotent, and a process that runs one of them alone finds what those before it left.

    Attributes:
        environment: where.
        progress: told what happens.
        gate: the last gate; None before it, and for a champion that is shipped once more.
        release: what came out.
    """

    environment: Environment
    progress: Progress
    gate: GateResult | None = None
    release: Release | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        """Begin; nothing is read yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Drop the bundle's scratch folder."""
        self._open.close()

    @property
    def work(self) -> Mapping[str, Work]:
        """Step name -> the work. The three that DVC records share one look at what changed, by the first of them."""
        return {
            "contract": lambda _: self._reproduced(),
            "train": lambda _: {"run_id": self.trained.run_id},
            "evaluate": lambda _: {},
            "gate": lambda _: self._decide(),
            "register": lambda _: {"version": str(self._version())},
            "package": lambda taken: {"release": self._packaged(int(taken["version"])).id},
        }

    @property
    def made(self) -> Made:
        """What came out, with what was measured."""
        return Made(self.release, self.gate, self.trained.metrics, self.trained.metric)

    @cached_property
    def trained(self) -> TrainResult:
        """The model of the files as they are; trained now if it never was."""
        return train(self.environment.project, {}, self.progress)

    def _reproduced(self) -> References:
        _ = self.trained  # a contract that is broken raises
        return {"contract": PASSED}

    @cached_property
    def _found(self) -> Release | None:
        return _existing(self.environment, self.trained, self.progress)

    @cached_property
    def _prepared(self) -> Prepared:
        from tidegate.pipelines.steps.train import prepare_data

        return prepare_data(self.environment.project)

    @cached_property
    def _draft(self) -> package.Draft:
        return self._open.enter_context(drafted(self.environment.project, self._prepared, self.progress))

    def _decide(self) -> References:
        """The gate: a release that was made before must pass that of today, against today's champion and config."""
        from tidegate.serving.package import bundle_size

        found, state = self._found, self.environment.state()
        if found is not None and state.champion == found.id:
            return {"gate": PASSED}
        known = state.gates.get(found.id) if found is not None else None
        if known and known.champion == state.champion and known.section == _section(self.environment.project):
            self.gate = GateResult(passed=True, reasons=known.reasons)
        elif found is not None:
            bundle = bundle_of(self.environment.project, found)
            self.gate = _gate(self.environment, bundle, bundle_size(bundle), self.progress)
        else:
            self.gate = _gate(self.environment, self._draft.bundle, self._draft.size, self.progress)
        if not self.gate.passed:
            refused = Draft("gate_refused", {"run_id": self.trained.run_id, "reasons": list(self.gate.reasons)})
            self.environment.ledger.append(lambda _: refused)
        return {"gate": PASSED if self.gate.passed else REFUSED}

    def _version(self) -> int:
        if self._found is not None:
            return self._found.version
        with self.progress.task("register the version"):
            return self.environment.registry.register(_run(self.trained)).version

    def _packaged(self, version: int) -> Release:
        self.release = self._found or self._record(version)
        if self.gate is not None:
            _register(self.environment, self.release, self.gate)
        return self.release

    def _record(self, version: int) -> Release:
        """Build the Bento and the reference, and store the release of a version."""
        from tidegate.serving import package

        environment, trained = self.environment, self.trained
        reference = store_reference(
            environment, self._draft.bundle, self._prepared, Measured(trained.metrics, trained.metric), self.progress
        )
        with self.progress.task("build the Bento"):
            bento = package.build(self._draft, version, bento_home(environment.project))
        return _record(environment, _run(trained), self._prepared.data, (version, bento, reference))


def drafted(project: Project, prepared: Prepared, progress: Progress) -> AbstractContextManager[package.Draft]:
    """The bundle of `out/model` in a scratch folder: what the gate measures, and what a Bento is built from."""
    from tidegate.pipelines.steps.evaluate import holdout
    from tidegate.pipelines.steps.train import MODEL_FOLDER
    from tidegate.serving import package

    frame = holdout(prepared)
    source = package.Source(
        project.out_dir / MODEL_FOLDER,
        project.config.model,
        task=project.config.task,
        columns=prepared.interface.columns,
    )
    truth = prepared.table.target.loc[frame.index]
    return package.drafted(source, frame, truth, serve=project.config.serve, progress=progress)


def _gate(environment: Environment, bundle: Path, size: int, progress: Progress) -> GateResult:
    from tidegate.pipelines.steps import gate
    from tidegate.serving.package import row_predictor

    return gate.run(
        environment.project,
        champion_version(environment),
        environment.registry,
        progress,
        predict_row=row_predictor(bundle),
        size=size,
    )


def _section(project: Project) -> dict[str, Any]:
    """What a gate decides by: the section of the config, and the code of the user's own metrics."""
    from tidegate.pipelines import stage_deps

    found: dict[str, Any] = resolved(project.config)["gate"]
    code = {name: project.path(name).read_bytes() for name in stage_deps.metrics_code(project.root, project.config)}
    return {**found, "code": releases.digests(code)} if code else found


def champion_version(environment: Environment) -> ModelVersion | None:
    """The version to be compared with.

    Raises:
        TidegateError: the ledger has one, and MLflow does not know it.
    """
    state = environment.state()
    version = state.versions.get(state.champion) if state.champion else None
    if version is None:
        return None
    try:
        return environment.registry.get(version)
    except UsageError as error:
        raise TidegateError(
            f"The champion, version {version}, is not in MLflow, so nothing can be compared with it.",
            "Is its database another one than before (`mlflow` in tidegate.yaml, MLFLOW_TRACKING_URI)? Name the old "
            "one, or restore it from a backup, then ship again.",
        ) from error


def _run(trained: TrainResult) -> RunRef:
    return RunRef(trained.run_id, trained.metrics, trained.data)


def _record(environment: Environment, run: RunRef, data: DatasetRef, built: tuple[int, BentoRef, str]) -> Release:
    """Store the release of a version, its Bento and its reference."""
    from tidegate.serving.service.manifest import digest

    project = environment.project
    version, bento, reference = built
    tree = project.work_tree()
    files = _files(project, tree)
    release = Release(
        model=project.config.model,
        version=version,
        run_id=run.run_id,
        bento=bento.tag,
        bundle=digest(bento.bundle),
        git_commit=tree.commit,
        git_dirty=tree.dirty,
        data=(data,),
        files=releases.digests(files),
        config=resolved(project.config),
        contract=_contract(project),
        reference=reference,
    )
    releases.save(environment.store, release, files)
    return release


def _register(environment: Environment, release: Release, gate: GateResult) -> None:
    """Say in the ledger that the release passed this gate, unless it says so already."""
    section = _section(environment.project)

    def once(state: State) -> Draft | None:
        known = state.gates.get(release.id)
        if known and known.champion == state.champion and known.section == section:
            return None
        passed = {"gate": list(gate.reasons), "against": state.champion, "section": section}
        return Draft(
            "registered", {"release": release.id, "version": release.version, "run_id": release.run_id, **passed}
        )

    environment.ledger.append(deciding(once))


def _files(project: Project, tree: WorkTree) -> dict[str, bytes]:
    """What a checkout needs beside the commit: the patch, the config, the contract, DVC's pointers, the hooks."""
    config = project.config
    names = {FILE_NAME, config.contract, "dvc.yaml", "dvc.lock", f"{config.data.path}.dvc"}
    if config.serve.code:
        names.add(config.serve.code)
    files = {name: path.read_bytes() for name in sorted(names) if (path := project.path(name)).is_file()}
    return {**files, releases.DIFF: tree.diff} if tree.dirty else files


def _contract(project: Project) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads((project.out_dir / "contract.json").read_text(encoding="utf-8"))
    return found


def _existing(environment: Environment, trained: TrainResult, progress: Progress) -> Release | None:
    """The newest release that would serve exactly the same: same run, same `serve` section, same hooks.

    One that cannot be used any more is no match: then the same content is packaged once more. A champion that is
    served from elsewhere is one.
    """
    project, state = environment.project, environment.state()
    wanted = (resolved(project.config)["serve"], _hooks_digest(project))
    for release_id in reversed(tuple(state.versions)):
        if state.runs[release_id] != trained.run_id:
            continue
        try:
            release = releases.load(environment.store, release_id)
            if (release.config["serve"], release.files.get(project.config.serve.code or "")) == wanted:
                # Where nothing was ever packaged, as on a runner of CI, the champion is served from elsewhere.
                if release_id != state.champion or bento_home(project).exists():
                    bundle_of(project, release)
                return release
        except TidegateError as error:
            progress.note(f"{error.message} It is made again.")
    return None


def _hooks_digest(project: Project) -> str | None:
    code = project.config.serve.code
    if not code:
        return None
    return releases.digests({code: project.path(code).read_bytes()})[code]
