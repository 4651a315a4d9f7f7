"""The folder that an image is built from: pins, our code that serves, and the bundle as it was gated."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.serving.image import containerfile, pins
from tidegate.serving.service import manifest

if TYPE_CHECKING:
    from tidegate.core.artifacts import Release
    from tidegate.core.config import Image

FILE = "Containerfile"
_ALL = ("api", "cli", "console", "core", "monitors", "pipelines", "registry", "rollouts", "serving")
_SCRIPT = """#!/usr/bin/env python3
from tidegate.cli.main import main

main()
"""


def write(release: Release, bundle: Path, image: Image, folder: Path) -> containerfile.Recipe:
    """Fill the empty `folder`; gives the recipe that `Containerfile` in it was written from.

    Args:
        release: whose image it is.
        bundle: its bundle, checked.
        image: the `image` section.
        folder: where to write.

    Raises:
        TidegateError: a package of the image is not installed here.
    """
    described = manifest.read(bundle)
    native = bundle / "model" / "requirements.txt" if described.runtime == "native" else None
    own, shared = pins.serving(native, gpu=described.device == "gpu")
    (folder / "requirements.txt").write_text("".join(f"{pin}\n" for pin in own), encoding="utf-8")
    if shared:
        (folder / "requirements-gpu.txt").write_text("".join(f"{pin}\n" for pin in shared), encoding="utf-8")
    _copy_code(folder / "app", native=native is not None)
    shutil.copytree(bundle, folder / "bundle", ignore=shutil.ignore_patterns("__pycache__"))
    recipe = containerfile.Recipe(
        base=image.base,
        python="{}.{}".format(*sys.version_info[:2]),
        release=release.id,
        labels=labels(release),
        system_packages=tuple(image.system_packages),
        shared=bool(shared),
    )
    (folder / FILE).write_text(containerfile.text(recipe), encoding="utf-8")
    _same_modes(folder)
    return recipe


def write_trainer(model: str, pins: Iterable[str], image: Image, folder: Path, *, gpu: bool) -> containerfile.Recipe:
    """Fill the empty `folder` for a trainer image; gives its recipe.

    Args:
        model: it trains.
        pins: every package, `name==version`.
        image: the `image` section.
        folder: where to write.
        gpu: whether it is to see GPUs.
    """
    (folder / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
    for name in _ALL:
        package = importlib.import_module(f"tidegate.{name}")
        source = Path(package.__file__ or "").parent
        shutil.copytree(source, folder / "app" / "tidegate" / name, ignore=shutil.ignore_patterns("__pycache__"))
    described = folder / "app" / f"tidegate-{metadata.version('tidegate')}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(str(metadata.distribution("tidegate").read_text("METADATA")), encoding="utf-8")
    (folder / "tidegate").write_text(_SCRIPT, encoding="utf-8")
    recipe = containerfile.Recipe(
        base=image.base,
        python="{}.{}".format(*sys.version_info[:2]),
        release="",
        labels={containerfile.TITLE_LABEL: f"trainer of {model}"},
        system_packages=tuple(image.system_packages),
        shared=gpu,
    )
    (folder / FILE).write_text(containerfile.trainer_text(recipe), encoding="utf-8")
    _same_modes(folder)
    return recipe


def digest_of(folder: Path) -> str:
    """The sha256 of every file of a context and its name: equal contexts make equal images."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(path.relative_to(folder).as_posix().encode() + b"\0")
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def labels(release: Release) -> dict[str, str]:
    """What the image says about itself: to be compared with the release that it is deployed for."""
    dirty = "-dirty" if release.git_dirty else ""
    return {
        containerfile.TITLE_LABEL: release.model,
        containerfile.VERSION_LABEL: str(release.version),
        containerfile.COMMIT_LABEL: f"{release.git_commit}{dirty}",
        containerfile.RELEASE_LABEL: release.id,
        containerfile.DATA_LABEL: ",".join(one.md5 for one in release.data),
        containerfile.BUNDLE_LABEL: release.bundle,
    }


def _copy_code(app: Path, *, native: bool) -> None:
    """What runs in the image: core and the service, and for a Python model what opens it."""
    import tidegate.core
    import tidegate.registry
    import tidegate.serving

    core, serving = Path(tidegate.core.__file__).parent, Path(tidegate.serving.__file__).parent
    copied = [(core, "core"), (serving / "service", "serving/service"), (serving / "__init__.py", "serving")]
    if native:
        registry = Path(tidegate.registry.__file__).parent
        copied += [(registry / name, "registry") for name in ("__init__.py", "model_folder.py", "tags.py")]
    for source, target in copied:
        into = app / "tidegate" / target
        files = [source] if source.is_file() else sorted(source.rglob("*.py"))
        for file in files:
            name = file.name if source.is_file() else file.relative_to(source)
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, into / name)
    version = metadata.version("tidegate")
    described = app / f"tidegate-{version}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: tidegate\nVersion: {version}\n", encoding="utf-8"
    )


def _same_modes(folder: Path) -> None:
    """The modes of files are part of a layer's digest, and every machine has another umask."""
    for path in sorted(folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
