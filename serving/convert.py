"""A scikit-learn model as ONNX, or the reason why it stays what it is.

skl2onnx converts some models without an error and wrongly (HistGradientBoosting with `categorical_features` is off by
up to 0.99997), and ONNX trees compute in float32. So every conversion is compared with the Python model: on the
holdout, and on rows with missing values and categories that the holdout may not have. Above the tolerance it is
refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import TidegateError
from tidegate.serving import boosted
from tidegate.serving.service.manifest import Input

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tidegate.registry.model_folder import Predictor
    from tidegate.serving.service.tensors import Columns

    Array = npt.NDArray[np.generic]

# Float32 sums of some hundred trees differ by 1e-7 to 1e-6; one wrong branch of one tree by 1e-3 and more.
TOLERANCE = 1e-4
# Rows of the holdout that are varied one column at a time.
_PROBED_ROWS = 20
# At once: 32 MB.
_PROBED_CELLS = 4_000_000
_UNSEEN = "tidegate: a category nobody has seen"


@dataclass(frozen=True, slots=True)
class Converted:
    """An ONNX file that answers as the Python model does; `difference` is the largest one seen."""

    inputs: tuple[Input, ...]
    difference: float
    rows: int


class NotConverted(Exception):
    """The model stays Python; the text is the reason, for a reader of `model show`."""


def convert(model: Predictor, inputs: Sequence[Input], columns: Columns, file: Path) -> Converted:
    """Write `model` to `file` as ONNX with one tensor for each input.

    Args:
        model: a fitted scikit-learn estimator that takes a DataFrame of the inputs.
        inputs: the model's inputs, in the order it was fitted with.
        columns: prepared holdout columns to compare on.
        file: where to write.

    Raises:
        NotConverted: there is no converter, the result does not run, or it answers differently.
    """
    graph = _graph(model, inputs)
    file.write_bytes(graph)
    named = _tensor_names(file, inputs)
    try:
        difference, rows = _compare(model, named, columns, file)
    except NotConverted:
        file.unlink()
        raise
    return Converted(named, difference, rows)


def _graph(model: Predictor, inputs: Sequence[Input]) -> bytes:
    try:
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    except ImportError as error:
        raise NotConverted("skl2onnx is not installed (the `train` extra brings it)") from error
    opsets = _opsets(model)
    types = {"number": FloatTensorType, "string": StringTensorType}
    wanted = [(entry.name, types[entry.kind]([None, 1])) for entry in inputs]

    def attempt(estimator: Any) -> Any:
        options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert_sklearn(estimator, "tidegate", initial_types=wanted, options=options, target_opset=opsets)

    try:
        converted = attempt(model if _takes_columns(model) else _joined(model, inputs))
    except Exception as error:
        raise NotConverted(f"skl2onnx cannot convert it: {_first_line(error)}") from error
    # skl2onnx takes them from a set; in one order the same model is the same file, so a lost Bento can be built again.
    sets = sorted(converted.opset_import, key=lambda one: str(one.domain))
    del converted.opset_import[:]
    converted.opset_import.extend(sets)
    graph: bytes = converted.SerializeToString(deterministic=True)
    return graph


def _opsets(model: Any) -> dict[str, int] | None:
    """The versions of operators to write; None: the newest, which converters of boosted trees do not write yet."""
    from skl2onnx import get_latest_tested_opset_version

    libraries = boosted.used(model)
    if not libraries:
        return None
    try:
        boosted.teach(libraries)
    except ImportError as error:
        raise NotConverted(
            f"{libraries[0]} is converted by onnxmltools, which is not installed (the `boosted` extra brings it)"
        ) from error
    return {"": get_latest_tested_opset_version(), "ai.onnx.ml": boosted.TREES}


def _takes_columns(model: Any) -> bool:
    """Whether the first thing that happens to the inputs is a choice of columns by name."""
    first = model.steps[0][1] if hasattr(model, "steps") else model
    return type(first).__name__ == "ColumnTransformer"


def _joined(model: Any, inputs: Sequence[Input]) -> Any:
    """The model behind a step that joins the columns, for estimators that take one matrix."""
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    names = [entry.name for entry in inputs]
    if any(entry.kind == "string" for entry in inputs):
        raise NotConverted("strings need an encoder in a ColumnTransformer at the start of the model")
    join = ColumnTransformer([("columns", "passthrough", names)]).fit(pd.DataFrame([[0.0] * len(names)], columns=names))
    return Pipeline([("join", join), ("model", model)])


def _tensor_names(file: Path, inputs: Sequence[Input]) -> tuple[Input, ...]:
    """skl2onnx renames inputs that are no identifiers or clash with outputs, and keeps their order."""
    from tidegate.serving.service.model import open_session

    try:
        found = [entry.name for entry in open_session(file, "cpu").get_inputs()]
    except TidegateError as error:
        file.unlink()
        raise NotConverted(f"onnxruntime cannot open what skl2onnx wrote: {error.message}") from error
    if len(found) != len(inputs):
        file.unlink()
        raise NotConverted(f"the graph has {len(found)} inputs for {len(inputs)} columns")
    return tuple(Input(entry.name, tensor, entry.kind) for entry, tensor in zip(inputs, found, strict=True))


def _compare(model: Predictor, inputs: Sequence[Input], columns: Columns, file: Path) -> tuple[float, int]:
    from tidegate.serving.service.model import open_session, output_names, run_session
    from tidegate.serving.service.tensors import onnx_feeds

    session = open_session(file, "cpu")
    names = output_names(session)
    try:
        native = outputs(model, inputs, columns)
    except Exception as error:
        raise TidegateError(f"The model cannot predict its own holdout: {_first_line(error)}") from error
    worst, rows = 0.0, 0
    for asked, answers in ((columns, native), *_probed(model, inputs, columns)):
        try:
            found = run_session(session, names, onnx_feeds(inputs, asked))
        except Exception as error:
            raise NotConverted(
                f"the ONNX model fails on rows that the Python model predicts: {_first_line(error)}"
            ) from error
        # The largest of a number and NaN is whichever comes first: what is no number must not be lost.
        difference = _difference(answers, found)
        worst = max(worst, difference)
        rows += len(next(iter(asked.values())))
    if not worst <= TOLERANCE:
        text = f"its ONNX form differs from the Python model by {worst:.2g} on {rows} rows"
        raise NotConverted(f"{text} (at most {TOLERANCE:g} is accepted)")
    return worst, rows


def _probed(model: Predictor, inputs: Sequence[Input], columns: Columns) -> Iterator[tuple[Columns, Any]]:
    """The probes, many in one call, with the Python model's answers: a call costs 1000 times as much as a row."""
    probes = _probes(inputs, columns)
    many = max(1, _PROBED_CELLS // (_PROBED_ROWS * len(columns)))
    for start in range(0, len(probes), many):
        yield from _answered(model, inputs, probes[start : start + many])


def _answered(model: Predictor, inputs: Sequence[Input], probes: Sequence[Columns]) -> Iterator[tuple[Columns, Any]]:
    """Without the probes that the Python model refuses (an encoder without handle_unknown): found by halving."""
    import numpy as np

    joined = {name: np.concatenate([probe[name] for probe in probes]) for name in probes[0]}
    try:
        answers = outputs(model, inputs, joined)
    except Exception:  # noqa: BLE001 - whatever it dislikes, there is nothing to compare with
        if len(probes) > 1:
            middle = len(probes) // 2
            yield from _answered(model, inputs, probes[:middle])
            yield from _answered(model, inputs, probes[middle:])
        return
    yield joined, answers


def outputs(model: Predictor, inputs: Sequence[Input], columns: Columns) -> tuple[Any, Any]:
    """What the Python model answers: labels or values, or else probabilities, where it has them."""
    from tidegate.serving.service.tensors import native_frame

    frame = native_frame(inputs, columns)
    if hasattr(model, "predict_proba"):
        return None, model.predict_proba(frame)
    return model.predict(frame), None


def _difference(native: tuple[Any, Any], found: tuple[Any, Any]) -> float:
    """The largest difference: of probabilities, of values in standard deviations, 1 for another label."""
    import numpy as np

    if native[1] is not None:
        if found[1] is None or np.shape(native[1]) != np.shape(found[1]):
            return float("inf")
        return _largest(np.asarray(native[1], dtype=np.float64), np.asarray(found[1], dtype=np.float64))
    values, answered = np.asarray(native[0]).ravel(), np.asarray(found[0]).ravel()
    if values.shape != answered.shape:
        return float("inf")
    if values.dtype.kind != "f":
        return float(np.any(values.astype(str) != answered.astype(str)))
    values = values.astype(np.float64)
    known = values[np.isfinite(values)]
    spread = (float(np.std(known)) or max(1.0, float(np.abs(known).max()))) if known.size else 1.0
    return _largest(values, answered.astype(np.float64)) / spread


def _largest(native: Any, found: Any) -> float:
    """The largest distance; infinity where only one of them is a number, 0 where both are the same infinity or none."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        distance = np.where((native == found) | (np.isnan(native) & np.isnan(found)), 0.0, np.abs(native - found))
    return float("inf") if np.isnan(distance).any() else float(distance.max(initial=0.0))


def _probes(inputs: Sequence[Input], columns: Columns) -> list[Columns]:
    """Some rows again, for each column with its value missing, and for strings with one never seen."""
    import numpy as np

    few = {name: values[:_PROBED_ROWS] for name, values in columns.items()}
    rows = len(next(iter(few.values())))
    probes: list[Columns] = []
    for entry in inputs:
        if entry.kind == "number":
            probes.append({**few, entry.name: np.full(rows, np.nan)})
        else:
            probes += [{**few, entry.name: np.full(rows, text, dtype=object)} for text in (None, _UNSEEN)]
    return probes


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
