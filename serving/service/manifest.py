"""What a bundle folder says about itself: the one file that packaging writes and the server reads.

A bundle is `manifest.json`, the model (`model.onnx`, or the folder `model/` of MLflow) and `code/` with the hooks.
Everything the server needs is in it, so a running model depends on no config file, registry or network.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from tidegate.core.errors import TidegateError

FORMAT = 1
FILE = "manifest.json"

ColumnKind = Literal["number", "integer", "boolean", "string", "datetime"]
InputKind = Literal["number", "string"]
Runtime = Literal["onnx", "native"]
Label = str | int | float | bool


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One field of a request row."""

    name: str
    kind: ColumnKind
    nullable: bool = False


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input of the model.

    Attributes:
        name: the column that `prepare` returns, or the request's own column where there is no hook.
        tensor: the ONNX graph's name for it (skl2onnx renames what is no identifier).
        kind: `number` travels as float32 in ONNX and float64 natively, `string` as text with "" for missing.
    """

    name: str
    tensor: str
    kind: InputKind


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one process accepts: seconds, requests in flight, bytes of a body, rows of a request."""

    timeout: float = 0.5
    max_concurrency: int = 64
    max_body: int = 1_000_000
    max_rows: int = 10_000


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of the holdout and the answers of the packaged model: a server is ready when it repeats them."""

    rows: list[dict[str, Any]]
    predictions: list[Label]
    probabilities: list[list[float]] | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bundle's description; `classes` is in the order of the probabilities.

    `threshold` is for two classes: the second one is predicted from this probability on. None takes the likelier one.
    """

    model: str
    version: int
    task: Literal["classification", "regression", "custom"]
    runtime: Runtime
    columns: list[Column]
    inputs: list[Input]
    golden: Golden
    format: int = FORMAT
    release: str = ""
    reason: str = ""
    device: Literal["cpu", "gpu"] = "cpu"
    classes: list[Label] | None = None
    threshold: float | None = None
    hooks: str | None = None
    allow_pickle: bool = False
    limits: Limits = Limits()


def write(manifest: Manifest, folder: Path) -> Path:
    """Write `manifest.json` into the bundle `folder`."""
    path = folder / FILE
    path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return path


def read(folder: Path) -> Manifest:
    """Read the manifest of the bundle `folder`.

    Raises:
        TidegateError: there is none, it is damaged, or a newer tidegate wrote it.
    """
    path = folder / FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        message = f"{folder} is not a model bundle: it has no {FILE}."
        raise TidegateError(message, "Package the model again: tidegate package") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{path} is damaged or of another format: {error}"
        raise TidegateError(message, "Package the model again: tidegate package") from error
    if manifest.format != FORMAT:
        message = f"{path} has format {manifest.format}; this tidegate reads format {FORMAT}."
        raise TidegateError(message, "Install the tidegate that packaged it, or package the model again.")
    return manifest


def digest(folder: Path) -> str:
    """Sha256 of every file of the bundle and its path: equal content, equal digest.

    Python's own caches are left out, because imports write them; see core/source_only.py for why nothing runs them.
    """
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and "__pycache__" not in name.parts:
            whole.update(name.as_posix().encode() + b"\0")
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()
