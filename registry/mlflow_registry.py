"""The one file that calls MLflow: runs, model folders, versions and aliases.

Two rules hold it together. Whatever may be interrupted is found again by the run's id, so doing it twice is doing
it once. And MLflow is asked only after the sqlite file has been looked at without it (sqlite_probe.py).
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.artifacts import ModelVersion, RunRef
from tidegate.core.errors import Permanent, TidegateError, UsageError
from tidegate.registry import RunSource, TrainedModel, model_folder, sqlite_probe, sqlite_versions
from tidegate.registry.tags import (
    ADOPTED_TAG,
    COMMIT_TAG,
    DATA_TAG,
    DIRTY_TAG,
    HASH_TAG,
    IMAGE_TAG,
    OWNER_TAG,
    PATH_TAG,
    RESTORES_TAG,
    RUN_TAG,
    STAGE_TAG,
)

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.project import Project

QUIET = {
    "DO_NOT_TRACK": "true",  # MLflow wants the word
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    # Without a server in the way, git is asked by us (commit and patch), not by MLflow.
    "GIT_PYTHON_REFRESH": "quiet",
    # A server that is down is said after ten seconds, not after four minutes; every command can be run again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
MODEL_NAME = "model"
_RESULTS = "evaluation"


def open_registry(project: Project) -> MlflowRegistry:
    """The registry that the project's environment uses."""
    return MlflowRegistry(project.mlflow_uri, project.config.model)


def prepare(uri: str, model: str) -> None:
    """Make MLflow's tables (seconds, once) and the model's experiment; nothing happens if they are there."""
    MlflowRegistry(uri, model).experiment()


def explain(error: Exception) -> TidegateError | None:
    """What one of MLflow's own errors means to the reader of a terminal; None for every other error."""
    if not type(error).__module__.startswith("mlflow."):
        return None
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Of SQLAlchemy's lines the one that quotes the database says what happened.
    said = next((line for line in lines if line.startswith("(sqlite3.")), lines[0])
    return TidegateError(
        f"MLflow failed: {said}",
        "Can its database or server be reached and written to, and is there space left (`mlflow` in tidegate.yaml, "
        "MLFLOW_TRACKING_URI)? Then run the command again: it goes on where it stopped.",
    )


def load_pyfunc(folder: Path) -> model_folder.Predictor:
    """Open a folder with MLflow's generic loader; only model_folder.load calls it, after its checks."""
    mlflow = _mlflow("pyfunc")
    loaded: model_folder.Predictor = mlflow.pyfunc.load_model(folder.as_uri())
    return loaded


def load_sklearn(folder: Path) -> model_folder.Predictor:
    """Open a pickled scikit-learn model as itself, with its probabilities; after the same checks."""
    loaded: model_folder.Predictor = _mlflow("sklearn").sklearn.load_model(folder.as_uri())
    return loaded


class MlflowRegistry:
    """Runs, versions and aliases of one registered model in the MLflow at `uri`.

    Args:
        uri: `sqlite:///PATH` (artifacts lie in `mlruns` beside it) or a tracking server.
        model: the registered model's name, also the experiment's.

    Raises:
        TidegateError: the sqlite file cannot be read.
    """

    def __init__(self, uri: str, model: str) -> None:
        sqlite_probe.probe(uri)
        if (file := sqlite_probe.database(uri)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            sqlite_probe.relocate(uri, model)
        self.uri = uri
        self.model = model
        self._client: Any = None

    # --- runs ------------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self, source: RunSource) -> Iterator[str]:
        """Open one run for the block and give its id; the block's exception marks it failed.

        The run is also the active one of MLflow's own functions, so a script's `mlflow.log_metric` lands in it.
        Runs that a killed process of this machine left open are closed first.
        """
        mlflow = self._library()
        self._close_abandoned()
        run_id = self._create_run(source)
        with mlflow.start_run(run_id=run_id):
            yield run_id

    def log_model(self, run_id: str, model: TrainedModel, folder: Path) -> str:
        """Log the estimator as the run's model and copy its folder to `folder`; gives the folder's sha256.

        Raises:
            TidegateError: skops cannot save this estimator and pickle is not allowed.
        """
        mlflow = self._library("pyfunc", "sklearn")
        with warnings.catch_warnings():
            # Hints about integer labels and example rows; the signature holds what was meant.
            warnings.simplefilter("ignore", UserWarning)
            info = mlflow.sklearn.log_model(
                model.estimator,
                name=MODEL_NAME,
                signature=_signature(model),
                input_example=model.inputs,
                pip_requirements=list(model.requirements),
                code_paths=[str(path) for path in model.code] or None,
                metadata={"tidegate": dict(model.metadata)},
                **_serialization(model),
            )
        return self._copy_model(run_id, str(info.model_id), folder)

    def collect_model(self, run_id: str, folder: Path) -> str:
        """Copy the one model that a script logged in this run to `folder`; gives the folder's sha256.

        Raises:
            TidegateError: the run holds no model, or several.
        """
        found = self.logged_models(run_id)
        if len(found) != 1:
            count = "no model" if not found else f"{len(found)} models"
            raise TidegateError(
                f"The training script logged {count} in its MLflow run {run_id}.",
                "It must log exactly one, for example with mlflow.sklearn.log_model(..., name='model') inside "
                "mlflow.start_run(); the environment already names tracking server and run.",
            )
        return self._copy_model(run_id, found[0], folder)

    def logged_models(self, run_id: str) -> tuple[str, ...]:
        """The ids of the models that the run logged, and that are whole."""
        run = self.client.get_run(run_id)
        outputs = run.outputs.model_outputs if run.outputs else []
        return tuple(dict.fromkeys(output.model_id for output in outputs))

    def run_of_stage(self, execution: str) -> str | None:
        """The run with a model that the newest execution of this name left behind; None if there is none.

        Raises:
            TidegateError: that execution logged models in several runs.
        """
        found = self.client.search_runs(
            [self.experiment()],
            f"attributes.status = 'FINISHED' and tags.`{STAGE_TAG}` LIKE '{execution}/%'",
            order_by=["attributes.start_time DESC"],
        )
        runs = [run for run in found if run.outputs and run.outputs.model_outputs]
        newest = [run for run in runs if run.data.tags[STAGE_TAG] == runs[0].data.tags[STAGE_TAG]]
        if len(newest) > 1:
            raise TidegateError(
                f"The training stage logged models in {len(newest)} MLflow runs.",
                "It must log exactly one model; leave the others of a search out, or log them as plain artifacts.",
            )
        return str(newest[0].info.run_id) if newest else None

    def describe_run(self, run_id: str, source: RunSource) -> None:
        """Add data, commit and patch to a run that a script opened by itself."""
        for key, value in _tags(source).items():
            self.client.set_tag(run_id, key, value)
        self._log_source(run_id, source)

    def log_dataset(self, run_id: str, frame: pd.DataFrame, source: RunSource, target: str) -> None:
        """Record the training data as the run's input: schema, and md5 as DVC has it."""
        mlflow = self._library("data")
        from mlflow.entities import DatasetInput, InputTag

        data = source.data
        with warnings.catch_warnings():
            # It warns of integer columns, and of a path that two kinds of source could explain.
            warnings.simplefilter("ignore", UserWarning)
            dataset = mlflow.data.from_pandas(
                frame, source=data.path, targets=target, name=data.path, digest=data.md5[:8]
            )
            entity = dataset._to_mlflow_entity()  # noqa: SLF001 - the only way to tag an input outside an active run
        tags = [InputTag("mlflow.data.context", "training"), InputTag("dvc.md5", data.md5)]
        self.client.log_inputs(run_id, [DatasetInput(entity, tags)])

    def log_results(self, run_id: str, metrics: Mapping[str, float], files: Path | None = None) -> None:
        """Add metrics, and every file of a folder, to a run."""
        mlflow = self._library()
        now = int(time.time() * 1000)
        entries = [mlflow.entities.Metric(name, float(value), now, 0) for name, value in metrics.items()]
        self.client.log_batch(run_id, metrics=entries)
        if files is not None:
            self.client.log_artifacts(run_id, str(files), _RESULTS)

    def result(self, run_id: str, name: str) -> bytes | None:
        """The content of one file that `log_results` added to a run; None if the run has none of that name."""
        found, path = self.find_run(run_id) if run_id else None, f"{_RESULTS}/{name}"
        if found is None or path not in {one.path for one in self.client.list_artifacts(found, _RESULTS)}:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return Path(self.client.download_artifacts(found, path, scratch)).read_bytes()

    def page(self, run_id: str) -> str | None:
        """The address where a browser shows a run's files; None where there are no pages, as with a bare database."""
        if not self.uri.startswith(("http://", "https://")):
            return None
        return f"{self.uri.rstrip('/')}/#/experiments/{self.experiment()}/runs/{run_id}/artifacts"

    def params(self, run_id: str) -> dict[str, str]:
        """The run's params as MLflow keeps them, text; empty if the run is gone."""
        if (read := sqlite_versions.params(self.uri, run_id)) is not None:
            return read
        self._library()
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):
            return dict(self.client.get_run(run_id).data.params)
        return {}

    def find_run(self, run_id: str) -> str | None:
        """The run's id in MLflow, or that of the copy logged after it was lost; None if there is neither."""
        self._library()
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):
            if self.client.get_run(run_id).info.lifecycle_stage == "active":
                return run_id
        found = self.client.search_runs([self.experiment()], f"tags.`{RESTORES_TAG}` = '{run_id}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def restore_run(self, run_id: str, source: RunSource, folder: Path) -> str:
        """Log a lost run again from its model folder; the copy's tag names the lost id.

        MLflow chooses every run's id, and run.json, an output that DVC has hashed, must not change.
        """
        mlflow = self._library()
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        with self.running(source) as copy:
            model = self.client.create_logged_model(self.experiment(), name=MODEL_NAME, source_run_id=copy)
            self.client.log_model_artifacts(model.model_id, str(folder))
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
            mlflow.MlflowClient(self.uri).log_outputs(copy, [LoggedModelOutput(model.model_id, step=0)])
            self.client.set_tag(copy, HASH_TAG, model_folder.tree_sha256(folder))
            # Last, because the tag is what makes the copy count.
            self.client.set_tag(copy, RESTORES_TAG, run_id)
        return copy

    # --- versions --------------------------------------------------------------------------------------------------

    def register(self, run: RunRef) -> ModelVersion:
        """The version of this run: made now, or found if an earlier attempt made it.

        MLflow writes a version and its tags in one transaction, so a killed process leaves all of it or nothing.

        Raises:
            TidegateError: the run is not in MLflow, or logged no model.
        """
        run_id = self.find_run(run.run_id)
        if run_id is None:
            raise TidegateError(f"MLflow has no run {run.run_id}.", "`tidegate train` logs it again from the outputs.")
        if (made := self._version_of_run(run_id)) is not None:
            return made
        models = self.logged_models(run_id)
        if len(models) != 1:
            raise TidegateError(
                f"Run {run_id} logged {len(models)} models; a version needs exactly one.", "Run `tidegate train` again."
            )
        tags = self._version_tags(run_id)
        self._ensure_model()
        made_now = self.client.create_model_version(
            self.model, f"models:/{models[0]}", run_id, tags=tags, await_creation_for=None, model_id=models[0]
        )
        return self._first_of_run(run_id, int(made_now.version))

    def adopt(self, reference: str, cache: Path) -> ModelVersion:
        """Take in an MLflow version that tidegate did not make: `3`, `other-model/3` or a run's id.

        Its content is hashed now, and every later use is checked against that. It stays somebody else's, whatever
        tags it brought: only `serve.allow_pickle` lets it use code or types of its own.

        Raises:
            UsageError: there is no such version or run.
        """
        name, _, number = reference.removeprefix("models:/").rpartition("/")
        if not number.isdigit():
            return self.register(RunRef(reference))
        found = self._raw(name or self.model, number)
        run_id = str(found.run_id or "")
        if found.name != self.model:
            found = self._copy_version(found)
        if HASH_TAG not in found.tags:  # neither ours nor adopted before
            with tempfile.TemporaryDirectory(dir=_made(cache)) as scratch:
                folder = self._download(str(found.source), Path(scratch))
                digest = model_folder.tree_sha256(folder)
            for key, value in {RUN_TAG: run_id, ADOPTED_TAG: "true", HASH_TAG: digest}.items():
                self.client.set_model_version_tag(self.model, found.version, key, value)
        return self.get(int(found.version))

    def get(self, reference: int | str) -> ModelVersion:
        """The version with this number or alias.

        Raises:
            UsageError: there is none; the message names those that exist.
        """
        text = str(reference)
        if (read := sqlite_versions.versions(self.uri, self.model)) is not None:
            found = [one for one in read if (one.version == int(text) if text.isdigit() else text in one.aliases)]
            if not found:
                raise _missing(
                    self.model, text, [one.version for one in read], [n for one in read for n in one.aliases]
                )
            return found[0]
        if text.isdigit():
            return self._version(self._raw(self.model, text))
        self._library()
        from mlflow.exceptions import MlflowException

        try:
            return self._version(self.client.get_model_version_by_alias(self.model, text))
        except MlflowException as error:
            raise self._unknown(self.model, text) from error

    def list(self) -> tuple[ModelVersion, ...]:
        """Every version, newest first."""
        if (read := sqlite_versions.versions(self.uri, self.model)) is not None:
            return read
        found = self._search(f"name = '{self.model}'")
        return tuple(sorted((self._version(one) for one in found), key=lambda one: -one.version))

    def set_alias(self, alias: str, version: int) -> None:
        """Point `alias` at `version`."""
        self._raw(self.model, str(version))
        self.client.set_registered_model_alias(self.model, alias, str(version))

    def tag_image(self, version: int, digest: str) -> None:
        """Say at `version` which image it became."""
        self.client.set_model_version_tag(self.model, str(version), IMAGE_TAG, digest)

    def delete_alias(self, alias: str) -> None:
        """Remove `alias`; nothing happens if it does not exist."""
        if alias in self._aliases():
            self.client.delete_registered_model_alias(self.model, alias)

    def fetch(self, version: ModelVersion, cache: Path) -> Path:
        """The version's model folder under `cache`, its content checked against the recorded sha256.

        Raises:
            Permanent: no hash was recorded, or the content is not what was registered.
        """
        recorded = str(self._raw(self.model, str(version.version)).tags.get(HASH_TAG) or "")
        if not recorded:
            raise Permanent(
                f"Version {version.version} has no recorded content hash, so its file cannot be trusted.",
                f"`tidegate model add {version.version}` records it, if you trust who registered it.",
            )
        kept = cache / recorded[:20]
        if kept.is_dir() and model_folder.tree_sha256(kept) == recorded:
            return kept
        with tempfile.TemporaryDirectory(dir=_made(cache)) as scratch:
            folder = self._download(version.source, Path(scratch))
            if model_folder.tree_sha256(folder) != recorded:
                raise Permanent(
                    f"The model file of version {version.version} is not the one that was registered.",
                    f"Somebody changed it under {version.source}; restore it, or train and register a new version.",
                )
            shutil.rmtree(kept, ignore_errors=True)
            folder.rename(kept)
        return kept

    # --- inside ----------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Any:
        """MLflow's client for this address."""
        if self._client is None:
            self._client = self._library().MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    def _library(self, *parts: str) -> Any:
        """MLflow, pointed at this address: some of its functions take none and would make a database of their own."""
        mlflow = _mlflow(*parts)
        # It also sets the variable, which would then win over the config of every other project of this process.
        with _environment_kept("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
        return mlflow

    def experiment(self) -> str:
        """The experiment's id; it is made if it is missing, or was deleted."""
        self._library()
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.model)
        if found is None:
            try:
                return str(self.client.create_experiment(self.model, sqlite_probe.artifacts(self.uri)))
            except MlflowException:  # another process made it meanwhile
                found = self.client.get_experiment_by_name(self.model)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _create_run(self, source: RunSource) -> str:
        tags = {**_tags(source), OWNER_TAG: _this_process(), "mlflow.source.type": "LOCAL"}
        run_id = str(self.client.create_run(self.experiment(), tags=tags).info.run_id)
        self._log_source(run_id, source)
        return run_id

    def _log_source(self, run_id: str, source: RunSource) -> None:
        mlflow = self._library()
        known = self.client.get_run(run_id).data.params
        params = [mlflow.entities.Param(key, str(value)) for key, value in source.params.items() if key not in known]
        if params:
            self.client.log_batch(run_id, params=params)
        if source.diff:
            with tempfile.TemporaryDirectory() as folder:
                patch = Path(folder, "dirty.patch")
                patch.write_bytes(source.diff)
                self.client.log_artifact(run_id, str(patch), "git")

    def _close_abandoned(self) -> None:
        """Mark runs as killed whose process, on this machine, is gone."""
        host = socket.gethostname()
        for run in self.client.search_runs([self.experiment()], "attributes.status = 'RUNNING'"):
            owner, _, pid = run.data.tags.get(OWNER_TAG, "").rpartition(":")
            if owner == host and not _alive(int(pid)):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _copy_model(self, run_id: str, model_id: str, folder: Path) -> str:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            copy = self._download(f"models:/{model_id}", Path(scratch))
            shutil.rmtree(folder, ignore_errors=True)
            copy.rename(folder)
        digest = model_folder.tree_sha256(folder)
        self.client.set_tag(run_id, HASH_TAG, digest)
        return digest

    def _download(self, uri: str, into: Path) -> Path:
        """A copy of the artifacts at `uri`, in a folder of its own below `into`."""
        mlflow = self._library()
        from mlflow.exceptions import MlflowException

        target = into / MODEL_NAME
        try:
            mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(_made(target)))
        except (MlflowException, OSError) as error:
            raise TidegateError(
                f"The model file at {uri} cannot be fetched: {error}",
                "Its artifact folder may be gone or out of reach; `tidegate doctor` looks at the addresses.",
            ) from error
        inner = tuple(target.rglob(model_folder.MODEL_FILE))
        if not inner:
            raise TidegateError(f"There is no MLflow model at {uri}.", "Its artifact folder is empty or damaged.")
        return min(inner, key=lambda path: len(path.parts)).parent

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _version_tags(self, run_id: str) -> dict[str, str]:
        tags = self.client.get_run(run_id).data.tags
        kept = {key: tags[key] for key in (COMMIT_TAG, DIRTY_TAG, DATA_TAG, PATH_TAG, HASH_TAG) if key in tags}
        if HASH_TAG not in kept:
            raise TidegateError(f"Run {run_id} did not finish logging its model.", "Run `tidegate train` again.")
        return {RUN_TAG: run_id, **kept}

    def _version_of_run(self, run_id: str) -> ModelVersion | None:
        found = self._search(f"name = '{self.model}' and run_id = '{run_id}'")
        return self._version(min(found, key=lambda one: int(one.version))) if found else None

    def _first_of_run(self, run_id: str, mine: int) -> ModelVersion:
        """Of two processes that registered the same run at once, the lower version stays."""
        first = self._version_of_run(run_id)
        if first is not None and first.version != mine:
            self.client.delete_model_version(self.model, str(mine))
            return first
        return self.get(mine)

    def _copy_version(self, other: Any) -> Any:
        """A version under our name with another model's source; found again on a second call."""
        for version in self._search(f"name = '{self.model}'"):
            if version.source == other.source:
                return version
        self._ensure_model()
        # A hash that came with it proves nothing: it is taken anew.
        tags = {key: value for key, value in other.tags.items() if key not in {HASH_TAG, RUN_TAG, ADOPTED_TAG}}
        return self.client.create_model_version(
            self.model, other.source, other.run_id or None, tags=tags, await_creation_for=None
        )

    def _search(self, query: str) -> Sequence[Any]:
        found: Any = []
        token = None
        while True:
            page = self.client.search_model_versions(query, max_results=1000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return tuple(found)

    def _raw(self, name: str, number: str) -> Any:
        self._library()
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version(name, number)
        except MlflowException as error:
            raise self._unknown(name, number) from error

    def _unknown(self, name: str, what: str) -> UsageError:
        numbers = [int(one.version) for one in self._search(f"name = '{name}'")]
        return _missing(name, what, numbers, list(self._aliases()) if name == self.model else [])

    def _aliases(self) -> dict[str, int]:
        self._library()
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_registered_model(self.model).aliases
        except MlflowException:
            return {}
        return {alias: int(version) for alias, version in found.items()}

    def _version(self, raw: Any) -> ModelVersion:
        self._library()
        from mlflow.exceptions import MlflowException

        metrics: Mapping[str, float] = {}
        logged = ""
        if raw.run_id:
            with suppress(MlflowException):
                data = self.client.get_run(raw.run_id).data
                metrics, logged = dict(data.metrics), data.tags.get(HASH_TAG, "")
        number = int(raw.version)
        return ModelVersion(
            name=str(raw.name),
            version=number,
            run_id=str(raw.run_id or ""),
            aliases=tuple(sorted(alias for alias, at in self._aliases().items() if at == number)),
            git_commit=raw.tags.get(COMMIT_TAG, ""),
            git_dirty=raw.tags.get(DIRTY_TAG) == "true",
            data_md5=raw.tags.get(DATA_TAG, ""),
            metrics=metrics,
            status=str(raw.status).lower(),
            source=str(raw.source),
            own=bool(logged) and raw.tags.get(HASH_TAG) == logged and ADOPTED_TAG not in raw.tags,
        )


def _mlflow(*parts: str) -> Any:
    """MLflow, imported quietly and with its telemetry off; `parts` are modules of it that are wanted too."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        # What its modules say about their own type hints is nothing that a reader of the terminal can change.
        warnings.simplefilter("ignore")
        import mlflow

        for part in parts:
            importlib.import_module(f"mlflow.{part}")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It prints a traceback of what it also raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow


@contextmanager
def _environment_kept(*names: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _missing(model: str, what: str, versions: Iterable[int], aliases: Iterable[str]) -> UsageError:
    """There is no such version; names the newest of those that there are, and the aliases."""
    known = ", ".join([*map(str, sorted(versions)[-20:]), *sorted(aliases)])
    asked = what if what.isdigit() else f"with the alias {what!r}"
    return UsageError(
        f"Model {model} has no version {asked}.", f"It has: {known or 'none yet: `tidegate ship` registers the first'}."
    )


def _tags(source: RunSource) -> dict[str, str]:
    return {
        COMMIT_TAG: source.git_commit,
        DIRTY_TAG: str(bool(source.diff)).lower(),
        DATA_TAG: source.data.md5,
        PATH_TAG: source.data.path,
    }


def _signature(model: TrainedModel) -> Any:
    from mlflow.models import infer_signature

    return infer_signature(model.inputs, model.estimator.predict(model.inputs))


def _serialization(model: TrainedModel) -> dict[str, Any]:
    """How to save: skops, trusting the types of this fresh object of ours; pickle only if it is allowed."""
    import skops.io

    try:
        content = skops.io.dumps(model.estimator)
        trusted = skops.io.get_untrusted_types(data=content)
        skops.io.loads(content, trusted=trusted)
    except Exception as error:
        if model.allow_pickle:
            return {"serialization_format": "cloudpickle"}
        kind = type(model.estimator).__name__
        raise TidegateError(
            f"skops cannot save this {kind}: {type(error).__name__}: {error}",
            "Classes and functions of a model must be defined at the top level of a file named in `train.code`; or "
            "set `serve: {allow_pickle: true}` if a pickle, which may run any code when it is opened, is acceptable.",
        ) from error
    return {"serialization_format": "skops", "skops_trusted_types": trusted}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
