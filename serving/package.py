"""A registered version becomes a Bento: ONNX where that is exact, else Python, with everything the server needs.

The tag holds the digest of the bundle, so packaging the same content twice is one Bento. BentoML runs in this process
and locks no packages: the local target serves from this very environment, and an image locks its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tidegate.core.errors import Conflict, Permanent, TidegateError
from tidegate.core.held import held
from tidegate.core.progress import Progress, Silent

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.config import Serve
    from tidegate.registry.model_folder import Predictor
    from tidegate.serving.service.manifest import Column, Input, Manifest
    from tidegate.serving.service.tensors import Columns

Task = Literal["classification", "regression", "custom"]

# Enough to see both classes and missing values, few enough to be answered in milliseconds when a server starts.
GOLDEN_ROWS = 20
# Beyond this, more holdout rows only cost time; they are taken evenly from the whole.
COMPARED_ROWS = 50_000
_BUILD_SECONDS = 120.0  # a build takes seconds; two `ship`s at once build one after the other
_MLFLOW_KINDS = {
    "double": "number",
    "float": "number",
    "long": "integer",
    "integer": "integer",
    "boolean": "boolean",
    "string": "string",
    "datetime": "datetime",
}


@dataclass(frozen=True, slots=True)
class BentoRef:
    """A built Bento; `size` is the bundle's bytes.

    `reason` says why the runtime is what it is; `threshold` is the one that was fixed on the holdout.
    """

    tag: str
    path: Path
    runtime: str
    reason: str
    size: int
    threshold: float | None = None

    @property
    def bundle(self) -> Path:
        """What `python -m tidegate.serving.service --bundle` serves."""
        return self.path / "src" / "bundle"


@dataclass(frozen=True, slots=True)
class Source:
    """The model to package: an MLflow model folder and what the registry calls it.

    `task`, `columns` and `hooks` are for a model that tidegate did not train; its own MLmodel file wins.
    `own` is false for a model that no run of this project made: it may bring neither code nor types of its own.
    """

    folder: Path
    model: str
    version: int = 0
    task: Task = "custom"
    columns: Sequence[Column] = ()
    hooks: Path | None = None
    own: bool = True


@dataclass(frozen=True)
class Draft:
    """A bundle that is whole but for the version, which the registry gives once the gate has passed.

    `bundle` is the folder, valid inside `drafted` only; `size` its bytes.
    """

    bundle: Path
    manifest: Manifest
    size: int


@contextmanager
def drafted(
    source: Source, holdout: pd.DataFrame, truth: Any, *, serve: Serve, progress: Progress | None = None
) -> Iterator[Draft]:
    """Make the bundle of a model in a scratch folder: what the gate measures and `build` builds.

    Args:
        source: the model.
        holdout: raw request columns of the holdout; other columns are ignored.
        truth: the target of the same rows (None is allowed unless the threshold is a precision or a recall).
        serve: the `serve` section.
        progress: where to report.

    Raises:
        TidegateError: the model cannot be loaded or served; the text says why and what to do.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-package-") as scratch:
        bundle = Path(scratch) / "bundle"
        bundle.mkdir()
        with (progress or Silent()).task("compare ONNX with the Python model"):
            described = _fill(bundle, source, holdout, truth, serve)
        yield Draft(bundle, described, bundle_size(bundle))


def bundle_size(bundle: Path) -> int:
    """Bytes of all files of a bundle folder."""
    return sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())


def build(draft: Draft, version: int, bento_home: Path) -> BentoRef:
    """Build the Bento of a draft under the registered version; the same content is built once.

    Args:
        draft: from `drafted`, while it is open.
        version: of the registered model.
        bento_home: BentoML's home of this project.
    """
    import msgspec

    from tidegate.serving.service import manifest

    described = msgspec.structs.replace(draft.manifest, version=version)
    manifest.write(described, draft.bundle)
    tag, path = _build(draft.bundle.parent, described, bento_home)
    return BentoRef(tag, path, described.runtime, described.reason, draft.size, described.threshold)


def package(
    source: Source,
    holdout: pd.DataFrame,
    truth: Any,
    *,
    serve: Serve,
    bento_home: Path,
    progress: Progress | None = None,
) -> BentoRef:
    """Draft and build the Bento of a version that is registered already; arguments as in `drafted` and `build`."""
    with drafted(source, holdout, truth, serve=serve, progress=progress) as draft:
        return build(draft, source.version, bento_home)


def row_predictor(bundle: Path) -> Callable[[dict[str, Any]], object]:
    """A function that answers one raw row by the path of a request, without HTTP: for measuring latency."""
    from tidegate.serving import checked_hooks
    from tidegate.serving.service.model import Model

    model = Model(bundle, load_hooks=checked_hooks.load)
    return lambda row: model.predict(model.schema.check([row]))


def _fill(bundle: Path, source: Source, holdout: pd.DataFrame, truth: Any, serve: Serve) -> Manifest:
    """Write everything into the bundle folder."""
    import msgspec
    import numpy as np

    from tidegate.registry import model_folder
    from tidegate.serving import checked_hooks
    from tidegate.serving.service import hooks, manifest, tensors
    from tidegate.serving.service.recording import check_columns

    if holdout.empty:
        raise TidegateError("The holdout is empty, so nothing can be compared.", "Check data.split in tidegate.yaml.")
    described = _describe(source, holdout, serve)
    check_columns(serve.capture.exclude, serve.capture.hash, [column.name for column in described.columns])
    if described.hooks:
        _copy_code(source, bundle / "code")
    loaded = model_folder.load(source.folder, allow_pickle=serve.allow_pickle, own=source.own)
    hooked = checked_hooks.load(bundle / "code" / described.hooks) if described.hooks else hooks.Hooks()
    every = slice(None, None, max(1, len(holdout) // COMPARED_ROWS))
    some = holdout.iloc[every]
    prepared = hooks.run_prepare(hooked, tensors.frame_columns(described.columns, some))
    described = _runtime(described, (source, loaded), prepared, bundle, serve)
    scores = _scores(described, bundle, loaded, prepared)
    described = _threshold(described, serve, scores, None if truth is None else np.asarray(truth)[every])
    manifest.write(described, bundle)
    described = msgspec.structs.replace(described, golden=_golden(bundle, some))
    manifest.write(described, bundle)
    return described


def _describe(source: Source, holdout: pd.DataFrame, serve: Serve) -> Manifest:
    """The manifest but for runtime, threshold and golden rows."""
    from tidegate.registry import model_folder
    from tidegate.serving.service.manifest import Column, Golden, Input, Limits, Manifest

    facts = model_folder.facts(source.folder)
    own = facts.metadata
    if own.get("columns"):
        columns = [Column(entry["name"], entry["kind"], entry["nullable"]) for entry in own["columns"]]
        inputs = [Input(entry["name"], entry["name"], entry["kind"]) for entry in own["inputs"]]
        hooks = own.get("hooks")
    else:
        columns = list(source.columns) or _signature_columns(facts.signature)
        hooks = source.hooks.name if source.hooks else None
        inputs = _inputs(columns, facts.signature)
    missing = {name for name in holdout.columns if holdout[name].isna().any()}
    return Manifest(
        model=source.model,
        version=source.version,
        task=own.get("task") or source.task,
        runtime="native",
        # What is missing in the holdout will be missing in a request.
        columns=[Column(c.name, c.kind, c.nullable or c.name in missing) for c in columns],
        inputs=inputs,
        golden=Golden([], []),
        device=serve.device,
        classes=own.get("classes"),
        hooks=hooks,
        allow_pickle=serve.allow_pickle,
        limits=Limits(timeout=serve.timeout, max_concurrency=serve.max_concurrency, max_body=serve.max_body),
    )


def _signature_columns(signature: Any) -> list[Column]:
    """Request columns from an MLflow signature, the only thing an adopted model says about its rows."""
    import json

    from tidegate.serving.service.manifest import Column

    entries = json.loads(signature.get("inputs") or "[]")
    columns = []
    for entry in entries:
        kind: Any = _MLFLOW_KINDS.get(entry.get("type", ""))
        if kind is None or not entry.get("name"):
            message = (
                f"The model's signature has the input {entry.get('name') or '(no name)'} of type {entry.get('type')}."
            )
            raise TidegateError(message, "Log the model with a signature of named columns: numbers, strings, booleans.")
        columns.append(Column(entry["name"], kind, nullable=not entry.get("required", True)))
    if not columns:
        raise TidegateError("The model has no signature.", "Log it with one: mlflow.models.infer_signature(X, y).")
    return columns


def _inputs(columns: Sequence[Column], signature: Any) -> list[Input]:
    from tidegate.serving.service.manifest import Input

    named = _signature_columns(signature) if signature.get("inputs") else columns
    return [Input(c.name, c.name, "string" if c.kind in {"string", "datetime"} else "number") for c in named]


def _copy_code(source: Source, target: Path) -> None:
    """The hooks and what they import: the model folder's code, else the hooks file alone."""
    code = source.folder / "code"
    if code.is_dir():
        shutil.copytree(code, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.hooks is not None:
        target.mkdir()
        shutil.copy(source.hooks, target / source.hooks.name)


def _runtime(
    described: Manifest, model: tuple[Source, Predictor], prepared: Columns, bundle: Path, serve: Serve
) -> Manifest:
    """Convert if that is exact; else take the Python model along, with the reason."""
    import msgspec

    from tidegate.serving import convert

    source, loaded = model
    # Without classes there are no probabilities to name, whatever the graph puts out.
    classes = described.classes if hasattr(loaded, "predict_proba") else None
    if classes is not None:
        classes = [label.item() if hasattr(label, "item") else label for label in getattr(loaded, "classes_", classes)]
    described = msgspec.structs.replace(described, classes=classes)
    if serve.runtime == "native":
        reason = "serve.runtime is native"
    else:
        try:
            made = convert.convert(loaded, described.inputs, prepared, bundle / "model.onnx")
        except convert.NotConverted as error:
            reason = str(error)
        else:
            reason = f"ONNX differs from the Python model by at most {made.difference:.1g} on {made.rows} rows"
            return msgspec.structs.replace(described, runtime="onnx", inputs=list(made.inputs), reason=reason)
    if described.device == "gpu":
        raise Permanent(f"serve.device is gpu, but the model stays Python: {reason}.", "Set serve.device: cpu.")
    shutil.copytree(source.folder, bundle / "model", ignore=shutil.ignore_patterns("__pycache__"))
    return msgspec.structs.replace(described, runtime="native", reason=reason)


def _scores(described: Manifest, bundle: Path, loaded: Predictor, prepared: Columns) -> Any:
    """Probabilities of the holdout from the runtime that will serve; None where there are none."""
    from tidegate.serving import convert
    from tidegate.serving.service import model, tensors

    if described.classes is None:
        return None
    if described.runtime == "native":
        return convert.outputs(loaded, described.inputs, prepared)[1]
    session = model.open_session(bundle / "model.onnx", "cpu")
    return model.run_session(session, model.output_names(session), tensors.onnx_feeds(described.inputs, prepared))[1]


def _threshold(described: Manifest, serve: Serve, scores: Any, truth: Any) -> Manifest:
    import msgspec
    import numpy as np

    from tidegate.serving import threshold

    if serve.threshold is None:
        return described
    classes = described.classes
    if scores is None or classes is None or len(classes) != 2:  # noqa: PLR2004 # two classes
        message = "serve.threshold needs a model with probabilities for two classes."
        raise TidegateError(message, "Remove serve.threshold.")
    if truth is None and not isinstance(serve.threshold, int | float):
        raise TidegateError("serve.threshold needs the holdout's true labels.", "Set a number: serve.threshold: 0.5")
    positive = np.zeros(len(scores), dtype=bool) if truth is None else np.asarray(truth) == classes[1]
    return msgspec.structs.replace(described, threshold=threshold.fix(serve.threshold, scores[:, 1], positive))


def _golden(bundle: Path, holdout: pd.DataFrame) -> Any:
    """Rows spread over the holdout and what the finished bundle answers to them, by the path of a request."""
    from tidegate.serving import checked_hooks, rows
    from tidegate.serving.service.manifest import Golden
    from tidegate.serving.service.model import Model

    model = Model(bundle, load_hooks=checked_hooks.load)
    spread = holdout.iloc[:: max(1, len(holdout) // GOLDEN_ROWS)].head(GOLDEN_ROWS)
    golden = rows.request_rows(model.manifest.columns, spread)
    answer = model.plain(model.schema.check(golden))
    return Golden(golden, answer.predictions, answer.probabilities)


def _build(context: Path, described: Manifest, home: Path) -> tuple[str, Path]:
    """Let BentoML build `context`; a Bento of the same content is used again, whoever built it."""
    from tidegate.serving.service import bento, manifest

    name = bento.service_name(described.model)
    content = manifest.digest(context / "bundle")
    version = f"{described.version}-{content[:12]}"
    target = home.resolve() / "bentos" / name / version
    busy = Conflict("Another process builds a Bento of this project.", "Wait until it ends and run the command again.")
    with held(home / "build.lock", _BUILD_SECONDS, busy):
        if (target / "bento.yaml").is_file() and manifest.digest(target / "src" / "bundle") == content:
            return f"{name}:{version}", target
        shutil.rmtree(target, ignore_errors=True)  # what a killed build left, or somebody changed
        return _build_anew(context, described, home.resolve(), (name, version))


def _build_anew(context: Path, described: Manifest, home: Path, tag: tuple[str, str]) -> tuple[str, Path]:
    from tidegate.serving.service import bento

    name, version = tag
    (context / bento.SERVICE_FILE).write_text(bento.SOURCE)
    with _bentoml(home, context) as (bentoml, store):
        built = bentoml.bentos.build(
            "service:model",
            name=name,
            version=version,
            build_ctx=str(context),
            labels={"tidegate_model": name, "tidegate_version": str(described.version)},
            # Locking asks the package index for 75 packages (26 s); only an image needs that.
            python={"packages": ["tidegate[serve]"], "lock_packages": False},
            _bento_store=store,
        )
        return str(built.tag), Path(built.path)


@contextmanager
def _bentoml(home: Path, context: Path) -> Iterator[Any]:
    """BentoML with its home in the project, and nothing of the build left in this process."""
    from tidegate.core.optouts import opt_out

    opt_out()
    for part in ("bentos", "models", "tmp"):
        (home / part).mkdir(parents=True, exist_ok=True)
    os.environ["BENTOML_HOME"] = str(home)
    sys.modules.pop("service", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import bentoml
        from bentoml._internal.bento import BentoStore
        from bentoml._internal.configuration.containers import BentoMLContainer

        BentoMLContainer.bentoml_home.set(str(home))
        try:
            # The store is given, because BentoML makes its own once a process and keeps the first home.
            yield bentoml, BentoStore(str(home / "bentos"))

        except bentoml.exceptions.BentoMLException as error:
            raise TidegateError(f"BentoML cannot build the Bento: {error}", f"Look into {home}.") from error
        finally:
            sys.modules.pop("service", None)
            if str(context) in sys.path:
                sys.path.remove(str(context))
