"""A model's folder on disk: its hash, what it says about itself, and loading it.

A model file is hostile until its content hash is the one recorded when it was made: `load` opens only
skops and ONNX files, and pickles only where `serve.allow_pickle` says so. What the folder says about itself counts
only where a run of this project made it: another's MLmodel file could name anything as trusted. Loading needs no MLflow
except for flavours that only MLflow can open.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from tidegate.core import source_only
from tidegate.core.errors import Permanent, TidegateError

if TYPE_CHECKING:
    import pandas as pd

MODEL_FILE = "MLmodel"
_CHUNK = 1 << 20
# Loaders whose file formats hold data only. Everything else may run code of the file's choosing.
_SAFE_LOADERS = frozenset({"mlflow.onnx", "mlflow.xgboost", "mlflow.catboost"})
# Classes of these packages compute; their functions and test helpers may do more (numpy.testing runs text as code).
_SAFE_PACKAGES = frozenset({"sklearn", "numpy", "scipy"})
_UNSAFE_PARTS = frozenset({"testing", "_testing", "tests", "f2py", "distutils", "externals"})
_SAFE_BUILTINS = frozenset({"builtins.complex", "builtins.frozenset", "builtins.range", "builtins.slice"})


class Predictor(Protocol):
    """What every loaded model can do; `predict_proba` where the model has one."""

    def predict(self, inputs: pd.DataFrame) -> Any:
        """One prediction for each row."""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What an MLmodel file says: flavours, signature and the `tidegate` part of its metadata."""

    flavors: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, Any]
    signature: Mapping[str, Any]
    model_id: str | None


def tree_sha256(folder: Path) -> str:
    """The sha256 over names and contents of all files below `folder`, in sorted order.

    Python's own caches are left out, because imports write them; see core/source_only.py for why nothing runs them.
    """
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder)
        if "__pycache__" in name.parts:
            continue
        total.update(f"{name.as_posix()}\0".encode())
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
        total.update(digest.digest())
    return total.hexdigest()


def size(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def facts(folder: Path) -> FolderFacts:
    """Read the folder's MLmodel file.

    Raises:
        TidegateError: there is none, or it is not YAML.
    """
    import yaml

    file = folder / MODEL_FILE
    try:
        # libyaml where it is built in: the file is read several times a run, and Python's parser is ten times slower.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        document = yaml.load(file.read_text(encoding="utf-8"), loader)  # noqa: S506 - either loader is safe
    except FileNotFoundError as error:
        raise TidegateError(
            f"{folder} holds no {MODEL_FILE} file.", "Run `tidegate train` to make it again."
        ) from error
    except yaml.YAMLError as error:
        raise TidegateError(f"{file} is damaged: {error}", "Run `tidegate train` to make it again.") from error
    if not isinstance(document, dict):
        raise TidegateError(f"{file} is empty or damaged.", "Run `tidegate train` to make it again.")
    return FolderFacts(
        flavors=document.get("flavors") or {},
        metadata=(document.get("metadata") or {}).get("tidegate") or {},
        signature=document.get("signature") or {},
        model_id=document.get("model_id"),
    )


def needs_pickle(folder: Path) -> bool:
    """Whether opening the model would run a pickle or code of the folder's choosing."""
    flavors = facts(folder).flavors
    if "sklearn" in flavors:
        return flavors["sklearn"].get("serialization_format") != "skops"
    return flavors.get("python_function", {}).get("loader_module") not in _SAFE_LOADERS


def load(folder: Path, *, allow_pickle: bool, own: bool = False) -> Predictor:
    """Open the model of `folder` as something that predicts from a frame of its inputs.

    Args:
        folder: an MLflow model.
        allow_pickle: whether it may run code of its choosing.
        own: whether a training run of this project made the folder and its hash is still the recorded one. Only then
            its own code is imported, and types count as trusted because it says so.

    Raises:
        Permanent: it needs a pickle, or somebody else's code or types, and `serve.allow_pickle` is false.
        TidegateError: the file cannot be opened.
    """
    known = facts(folder)
    if not allow_pickle and needs_pickle(folder):
        raise Permanent(
            f"The model in {folder.name}/ can only be opened with pickle, which may run any code.",
            "Save it with skops or ONNX, or set `serve: {allow_pickle: true}` if you trust who made it.",
        )
    if not (allow_pickle or own) and (brought := _brings(folder, known)):
        raise Permanent(
            f"The model in {folder.name}/ is not of this project and brings {brought}, which may run any code.",
            "Save it with scikit-learn's types only, or as ONNX, or set `serve: {allow_pickle: true}` if you trust who "
            "made it.",
        )
    with folder_code(folder):
        try:
            if "sklearn" in known.flavors and not needs_pickle(folder):
                return _load_skops(folder, known.flavors["sklearn"])
            return _load_with_mlflow(folder, sklearn="sklearn" in known.flavors)
        except TidegateError:
            raise
        except Exception as error:
            raise TidegateError(
                f"The model in {folder} cannot be opened: {type(error).__name__}: {error}",
                "It may need a package or file that is not here; `train.code` names code that travels with a model.",
            ) from error


def _brings(folder: Path, known: FolderFacts) -> str:
    """What of a folder could run code that is neither ours nor of a library we know; empty if nothing."""
    if (folder / "code").exists() or any(flavor.get("code") for flavor in known.flavors.values()):
        return "Python files of its own"
    if "sklearn" in known.flavors:
        flavor = known.flavors["sklearn"]
        if Path(flavor.get("pickled_model") or "").name != flavor.get("pickled_model"):
            return "a model file outside its folder"
        strange = [name for name in flavor.get("skops_trusted_types") or () if not _harmless(str(name))]
        return f"the types {', '.join(map(str, strange))}" if strange else ""
    wanted = str(known.flavors.get("xgboost", {}).get("model_class", "xgboost."))
    return "" if wanted.startswith("xgboost.") else f"the class {wanted}"


def _harmless(name: str) -> bool:
    """Whether this is a class of a numeric library, which a file may have filled but not written."""
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    if parts[0] not in _SAFE_PACKAGES or not _UNSAFE_PARTS.isdisjoint(parts):
        return name in _SAFE_BUILTINS
    try:
        return isinstance(getattr(importlib.import_module(module), kind, None), type)
    except ImportError:
        return False


@contextmanager
def folder_code(folder: Path) -> Iterator[None]:
    """Make the modules that travel in `folder`/code importable for the block only.

    Two versions may bring different modules of the same name: each is loaded with its own, and what was
    imported before is put back afterwards. Objects keep the classes they were made of.
    """
    code = folder / "code"
    if not code.is_dir():
        yield
        return
    names = {path.stem for path in code.iterdir() if path.is_dir() or path.suffix == ".py"}

    def brought() -> dict[str, ModuleType]:
        return {key: module for key, module in sys.modules.items() if key.partition(".")[0] in names}

    before = brought()
    for key in before:
        del sys.modules[key]
    source_only.guard(code)
    sys.path.insert(0, str(code))
    try:
        yield
    finally:
        sys.path.remove(str(code))
        for key in brought():
            del sys.modules[key]
        sys.modules.update(before)


def _load_skops(folder: Path, flavor: Mapping[str, Any]) -> Predictor:
    import skops.io

    model: Predictor = skops.io.load(folder / flavor["pickled_model"], trusted=flavor.get("skops_trusted_types"))
    return model


def _load_with_mlflow(folder: Path, *, sklearn: bool) -> Predictor:
    from tidegate.registry import mlflow_registry

    return mlflow_registry.load_sklearn(folder) if sklearn else mlflow_registry.load_pyfunc(folder)
