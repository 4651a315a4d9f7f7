"""The project's own two functions around a model, loaded from its code folder.

`prepare(columns)` turns raw request columns into the model's inputs; training, evaluation and serving call the same
one, so there is no skew between them. `respond(predictions[, probabilities])` turns predictions into what callers see.
Either may have a parameter `shadow`, which is true for copies of requests that nobody waits for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tidegate.core import source_only
from tidegate.core.errors import TidegateError

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the file defines, None where it does not; called with everything, whatever the functions themselves take.

    `prepare(columns, shadow)` and `respond(predictions, probabilities, shadow)`; `shadow` may be left out for False.
    """

    prepare: Callable[..., Mapping[str, Any]] | None = None
    respond: Callable[..., Any] | None = None


def load(file: Path) -> Hooks:
    """Import `file` and take `prepare` and `respond` from it; its folder is put on `sys.path` for its own imports.

    Raises:
        TidegateError: the file is missing, cannot be imported, or defines neither function.
    """
    if not file.is_file():
        raise TidegateError(f"The hooks file {file.name} does not exist.", "Fix serve.code in tidegate.yaml.")
    name = f"tidegate_hooks_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    source_only.guard(file.parent)
    loader = source_only.SourceOnlyLoader(name, str(file))
    specification = importlib.util.spec_from_file_location(name, file, loader=loader)
    if specification is None or file.suffix != ".py":
        raise TidegateError(f"{file.name} is not a Python file.", "serve.code names a file such as features.py.")
    module = importlib.util.module_from_spec(specification)
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    try:
        loader.exec_module(module)
    except Exception as error:
        message = f"{file.name} cannot be imported: {type(error).__name__}: {error}"
        raise TidegateError(message, "serve.code must import in the serving process: numpy is there.") from error
    prepare, respond = getattr(module, "prepare", None), getattr(module, "respond", None)
    if prepare is None and respond is None:
        hint = "Define prepare(columns) or respond(predictions), or remove serve.code."
        raise TidegateError(f"{file.name} defines neither prepare nor respond.", hint)
    return Hooks(_taking(prepare, 1) if prepare else None, _taking(respond, 2) if respond else None)


def run_prepare(hooks: Hooks, columns: Columns, shadow: bool = False) -> Columns:
    """The model's inputs of these raw columns; without a hook they are the same. `shadow`: nobody waits for them.

    Raises:
        TidegateError: `prepare` returned something else than equally long columns.
    """
    if hooks.prepare is None:
        return columns
    rows = len(next(iter(columns.values())))
    made: object = hooks.prepare(dict(columns), shadow)
    if not isinstance(made, Mapping):
        message = f"prepare returned {type(made).__name__}, not a dict of columns."
        raise TidegateError(message, "Return {name: numpy array, ...}.")
    result = {str(name): np.asarray(values) for name, values in made.items()}
    wrong = [name for name, values in result.items() if values.shape != (rows,)]
    if wrong:
        message = f"prepare returned {wrong[0]} with shape {result[wrong[0]].shape} for {rows} rows."
        raise TidegateError(message, "Every column must have one value a row.")
    return result


def _taking(hook: Callable[..., Any], most: int) -> Callable[..., Any]:
    """The same function, called with `most` values and `shadow`, of which it gets those that it takes."""
    try:
        parameters = inspect.signature(hook).parameters
    except ValueError:
        # Of a function in C nothing is known; it takes what hooks have always got.
        return lambda *values: hook(*values[:most])
    told = _SHADOW in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    positional = [one for name, one in parameters.items() if one.kind in _POSITIONAL and name != _SHADOW]
    count = most if any(one.kind is one.VAR_POSITIONAL for one in positional) else min(most, max(1, len(positional)))

    def call(*values: Any) -> Any:
        shadow = len(values) > most and bool(values[most])
        return hook(*values[:count], shadow=shadow) if told else hook(*values[:count])

    return call


_SHADOW = "shadow"
_POSITIONAL = {
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
}
