"""From the rows of the data file to what a model is given, by the very functions that serving uses.

There is one path from raw columns to model inputs (serving/service/tensors.py and hooks.py). Training and evaluation
take it too, so a model never meets a value in production that looks different from the one it was fitted with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import TidegateError

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.serving.service.hooks import Hooks
    from tidegate.serving.service.manifest import Column, Input

FORMAT = 1


@dataclass(frozen=True)
class Interface:
    """What callers send (`columns`), what the model takes (`inputs`), and the hook in between."""

    columns: Sequence[Column]
    inputs: Sequence[Input]
    hooks: Hooks

    def frame(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The model's inputs for these raw rows, with the same row labels."""
        from tidegate.serving.service import hooks, tensors

        prepared = hooks.run_prepare(self.hooks, tensors.frame_columns(self.columns, rows))
        made = tensors.native_frame(self.inputs, prepared)
        made.index = rows.index
        return made

    def document(self) -> dict[str, Any]:
        """The JSON form that travels in a model's MLmodel file."""
        return {
            "format": FORMAT,
            "columns": [{"name": c.name, "kind": c.kind, "nullable": c.nullable} for c in self.columns],
            "inputs": [{"name": i.name, "kind": i.kind} for i in self.inputs],
        }


def from_features(features: pd.DataFrame, hooks_file: Path | None) -> Interface:
    """The interface that a model fitted on these raw columns has.

    Raises:
        TidegateError: a time would reach the model, which has no tensor for it.
        UserCodeFailed: `prepare` raised.
    """
    from tidegate.pipelines.dataset import kinds
    from tidegate.serving import checked_hooks
    from tidegate.serving.service import tensors
    from tidegate.serving.service.hooks import Hooks, run_prepare
    from tidegate.serving.service.manifest import Column

    found = kinds(features)
    columns = [Column(name, kind, nullable=bool(features[name].isna().any())) for name, kind in found.items()]
    hooks = checked_hooks.load(hooks_file) if hooks_file else Hooks()
    # The kinds of the prepared columns do not depend on the rows, so a few are enough to learn them.
    prepared = run_prepare(hooks, tensors.frame_columns(columns, features.head(100)))
    return Interface(columns, [_input(name, values) for name, values in prepared.items()], hooks)


def from_metadata(metadata: Mapping[str, Any], folder: Path) -> Interface | None:
    """The interface that a model folder describes; None if tidegate did not make it."""
    from tidegate.serving import checked_hooks
    from tidegate.serving.service.hooks import Hooks
    from tidegate.serving.service.manifest import Column, Input

    if metadata.get("format") != FORMAT:
        return None
    file = metadata.get("hooks")
    return Interface(
        [Column(entry["name"], entry["kind"], entry["nullable"]) for entry in metadata["columns"]],
        [Input(entry["name"], entry["name"], entry["kind"]) for entry in metadata["inputs"]],
        checked_hooks.load(folder / "code" / file) if file else Hooks(),
    )


def _input(name: str, values: Any) -> Input:
    from tidegate.serving.service.manifest import Input

    if values.dtype.kind == "M":
        raise TidegateError(
            f"The column {name!r} is a time, and a model takes only numbers and strings.",
            "Turn it into numbers in prepare() of the file that serve.code names (`tidegate init` writes one), "
            "or add it to data.drop.",
        )
    return Input(name, name, "string" if values.dtype.kind in "OUS" else "number")
