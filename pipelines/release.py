"""From a trained model to a release: gate, register, package, store. Repeating it finds what is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.artifacts import DatasetRef, GateResult, ModelVersion, Release, RunRef
from tidegate.core.config import FILE_NAME, resolved
from tidegate.core.errors import TidegateError, UsageError
from tidegate.core.project import Project
from tidegate.pipelines import collector
from tidegate.pipelines.bundles import bento_home, bundle_of
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
    with collector.seldom():
        trained = train(environment.project, {}, progress)
        found = _existing(environment, trained, progress)
        if found is not None:
            return _gated_again(environment, trained, found, progress)
        return _make(environment, trained, progress)


def _make(environment: Environment, trained: TrainResult, progress: Progress) -> Made:
    from tidegate.pipelines.steps.train import prepare_data
    from tidegate.serving import package

    project = environment.project
    prepared = prepare_data(project)
    with drafted(project, prepared, progress) as draft:
        gate = _gate(environment, draft.bundle, draft.size, progress)
        if not gate.passed:
            return _refused(environment, trained, gate)
        reference = store_reference(
            environment, draft.bundle, prepared, Measured(trained.metrics, trained.metric), progress
        )
        with progress.task("register the version"):
            version = environment.registry.register(_run(trained))
        with progress.task("build the Bento"):
            bento = package.build(draft, version.version, bento_home(project))
    release = _record(environment, _run(trained), prepared.data, (version.version, bento, reference), gate)
    return Made(release, gate, trained.metrics, trained.metric)


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


def _gated_again(environment: Environment, trained: TrainResult, release: Release, progress: Progress) -> Made:
    """A release that was made before must pass the gate of today: against today's champion, by today's config."""
    from tidegate.serving.package import bundle_size

    state = environment.state()
    if state.champion == release.id:
        return Made(release, None, trained.metrics, trained.metric)
    known = state.gates.get(release.id)
    if known and known.champion == state.champion and known.section == _section(environment.project):
        return Made(release, GateResult(passed=True, reasons=known.reasons), trained.metrics, trained.metric)
    bundle = bundle_of(environment.project, release)
    gate = _gate(environment, bundle, bundle_size(bundle), progress)
    if not gate.passed:
        return _refused(environment, trained, gate)
    _register(environment, release, gate)
    return Made(release, gate, trained.metrics, trained.metric)


def _refused(environment: Environment, trained: TrainResult, gate: GateResult) -> Made:
    refused = Draft("gate_refused", {"run_id": trained.run_id, "reasons": list(gate.reasons)})
    environment.ledger.append(lambda _: refused)
    return Made(None, gate, trained.metrics, trained.metric)


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


def _record(
    environment: Environment, run: RunRef, data: DatasetRef, built: tuple[int, BentoRef, str], gate: GateResult
) -> Release:
    """Store the release of a version, its Bento and its reference, then say so in the ledger."""
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
    _register(environment, release, gate)
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
