"""The model of one bundle: rows in, predictions out, the same whether ONNX or Python computes them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tidegate.core.errors import TidegateError
from tidegate.serving.service import hooks as hook_files
from tidegate.serving.service import manifest as manifests
from tidegate.serving.service import tensors
from tidegate.serving.service.manifest import Label, Manifest
from tidegate.serving.service.schema import Row, Schema

if TYPE_CHECKING:
    from tidegate.registry.model_folder import Predictor

logger = logging.getLogger("tidegate.serving")

# ONNX on another processor may round the last bits of float32 differently; more than this is another model.
GOLDEN_TOLERANCE = 1e-4

CUDA = "CUDAExecutionProvider"

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """Predictions of some rows; probabilities in the order of `manifest.classes`, None where the model has none.

    `own` is what the model itself predicted, where a hook has made something else of it for callers.
    """

    predictions: list[Any]
    probabilities: list[list[float]] | None = None
    own: list[Any] | None = None

    def part(self, start: int, stop: int) -> Answer:
        """The answer of rows `start` to `stop`."""
        chosen = None if self.probabilities is None else self.probabilities[start:stop]
        return Answer(self.predictions[start:stop], chosen, None if self.own is None else self.own[start:stop])

    @property
    def sound(self) -> bool:
        """Whether every row got an answer: no null, no NaN, no infinity, which JSON would show as null."""
        if any(one is None or (one.__class__ is float and not isfinite(one)) for one in self.predictions):
            return False
        return self.probabilities is None or all(isfinite(share) for row in self.probabilities for share in row)


Compute = Callable[[Sequence[Row], bool], tuple[Array | None, Array | None]]


class Model:
    """A loaded bundle.

    Args:
        folder: the bundle.
        threads: what ONNX may use for one run.
        load_hooks: how its hooks are loaded.
    """

    def __init__(
        self, folder: Path, threads: int = 1, load_hooks: Callable[[Path], hook_files.Hooks] = hook_files.load
    ) -> None:
        self.folder = folder
        self.manifest = manifests.read(folder)
        self.schema = Schema(self.manifest.columns, self.manifest.limits.max_rows)
        code = self.manifest.hooks
        self.hooks = load_hooks(folder / "code" / code) if code else hook_files.Hooks()
        self._classes = self.manifest.classes
        self.provider = ""
        self._compute = self._native() if self.manifest.runtime == "native" else self._onnx(threads)

    @property
    def fell_back(self) -> bool:
        """Whether a GPU was asked for and the processor computes, which ONNX Runtime itself only whispers."""
        return self.manifest.device == "gpu" and self.provider != CUDA

    def predict(self, rows: Sequence[Row], shadow: bool = False) -> Answer:
        """The answer to checked rows, with `respond` applied.

        Args:
            rows: as `schema` returns them.
            shadow: they are copies that nobody waits for, which hooks are told.

        Raises:
            TidegateError: a hook returned something of the wrong length.
        """
        answer = self.plain(rows, shadow)
        if self.hooks.respond is None:
            return answer
        shown = self.hooks.respond(list(answer.predictions), answer.probabilities, shadow)
        shown = shown.tolist() if isinstance(shown, np.ndarray) else list(shown)
        if len(shown) != len(rows):
            message = f"respond returned {len(shown)} values for {len(rows)} predictions."
            raise TidegateError(message, "It must return one value a prediction, in the same order.")
        return Answer(shown, answer.probabilities, answer.predictions)

    def plain(self, rows: Sequence[Row], shadow: bool = False) -> Answer:
        """The model's own answer, before `respond`."""
        return decide(self.manifest, *self._compute(rows, shadow))

    def warm(self) -> None:
        """Predict the golden rows.

        Raises:
            TidegateError: the answers are not those that packaging recorded.
        """
        golden = self.manifest.golden
        answer = self.plain(self.schema.check(golden.rows))
        if not _same(answer.predictions, golden.predictions):
            message = f"The model answers {answer.predictions[:5]} where packaging recorded {golden.predictions[:5]}."
            raise TidegateError(message, "The bundle was changed, or this machine computes differently: package again.")
        if not _same(_flat(answer.probabilities), _flat(golden.probabilities)):
            message = "The model's probabilities are not those that packaging recorded."
            raise TidegateError(message, "The bundle was changed, or this machine computes differently: package again.")

    def columns(self, rows: Sequence[Row], shadow: bool = False) -> tensors.Columns:
        """The prepared columns of these rows."""
        return hook_files.run_prepare(self.hooks, tensors.raw_columns(self.manifest.columns, rows), shadow)

    def _onnx(self, threads: int) -> Compute:
        session = open_session(self.folder / "model.onnx", self.manifest.device, threads)
        self.provider = str(session.get_providers()[0])
        if self.fell_back:
            logger.error("serve.device is gpu, but CUDA did not load: the processor computes, many times slower")
        named = output_names(session)
        inputs = self.manifest.inputs
        fast = self.hooks.prepare is None and tensors.FastFeeds.fits(self.manifest.columns, inputs)
        if fast:
            feeds: Callable[[Sequence[Row]], Mapping[str, Array]] = tensors.FastFeeds(self.manifest.columns, inputs)
            return lambda rows, _shadow: run_session(session, named, feeds(rows))
        return lambda rows, shadow: run_session(session, named, tensors.onnx_feeds(inputs, self.columns(rows, shadow)))

    def _native(self) -> Compute:
        # One row at a time gains nothing from more threads, and they would fight the event loop for the processor.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from tidegate.registry import model_folder

        # Packaging refuses what is not the project's own, and a release names its bundle by the hash of all of it.
        model = model_folder.load(self.folder / "model", allow_pickle=self.manifest.allow_pickle, own=True)
        inputs = self.manifest.inputs
        return lambda rows, shadow: run_native(model, tensors.native_frame(inputs, self.columns(rows, shadow)))


def open_session(file: Path, device: str, threads: int = 1) -> Any:
    """An onnxruntime session for `cpu` or `gpu`.

    Raises:
        TidegateError: the file cannot be read, or a GPU is asked for and onnxruntime has none.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would take the processor from the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if device == "gpu":
        if CUDA not in onnxruntime.get_available_providers():
            message = "serve.device is gpu, but this onnxruntime sees no CUDA device."
            raise TidegateError(message, "Install onnxruntime-gpu on a machine with a GPU, or set serve.device: cpu.")
        # CUDA's libraries come as wheels, where the loader of the system does not look.
        onnxruntime.preload_dlls()
        providers = [CUDA, *providers]
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:
        message = f"{file} cannot be opened: {str(error).splitlines()[0]}"
        raise TidegateError(message, "The bundle is damaged: package the model again.") from error


def output_names(session: Any) -> tuple[str | None, str | None]:
    """Names of the outputs that hold labels or values, and probabilities."""
    outputs = session.get_outputs()
    if len(outputs) == 1:
        return outputs[0].name, None
    # A classifier of skl2onnx: labels first, then scores of shape (rows, classes).
    return outputs[0].name, outputs[1].name


def run_session(
    session: Any, names: tuple[str | None, str | None], feeds: Mapping[str, Array]
) -> tuple[Array, Array | None]:
    """Labels (or values) and probabilities of one run."""
    wanted = [name for name in names if name is not None]
    values, *scores = session.run(wanted, feeds)
    return values, (scores[0] if scores else None)


def run_native(model: Predictor, frame: Any) -> tuple[Array | None, Array | None]:
    """The same from a Python model; one with `predict_proba` is asked once, not twice."""
    if hasattr(model, "predict_proba"):
        return None, np.asarray(model.predict_proba(frame))
    return np.asarray(model.predict(frame)), None


def decide(manifest: Manifest, values: Array | None, scores: Array | None) -> Answer:
    """Predictions from the model's outputs; the threshold decides between two classes, else the likeliest wins.

    Raises:
        TidegateError: there is nothing to decide with.
    """
    classes = manifest.classes
    if scores is not None and classes is not None:
        chosen = pick(scores, manifest.threshold)
        return Answer([classes[i] for i in chosen], scores.tolist())
    if values is None:
        raise TidegateError(
            "The model returned probabilities, but the bundle has no classes.", "Package the model again."
        )
    return Answer(values.ravel().tolist() if values.ndim <= 1 or values.shape[1] == 1 else values.tolist())


def pick(scores: Array, threshold: float | None) -> list[int]:
    """The index of the predicted class of each row of `scores` (rows, classes)."""
    if threshold is not None and scores.shape[1] == 2:  # noqa: PLR2004 # two classes
        return [int(score >= threshold) for score in scores[:, 1]]
    chosen: list[int] = scores.argmax(axis=1).tolist()
    return chosen


def _flat(nested: list[list[float]] | None) -> list[float]:
    return [] if nested is None else [value for row in nested for value in row]


def _same(found: Sequence[Label], wanted: Sequence[Label]) -> bool:
    if len(found) != len(wanted):
        return False
    return all(_close(a, b) for a, b in zip(found, wanted, strict=True))


def _close(found: Label, wanted: Label) -> bool:
    if isinstance(found, float) and isinstance(wanted, int | float):
        return abs(found - wanted) <= GOLDEN_TOLERANCE * max(1.0, abs(wanted))
    return found == wanted
