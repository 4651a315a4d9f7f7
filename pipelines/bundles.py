"""From a release to the folder its process serves, checked: what was gated is what runs."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from tidegate.core.artifacts import Release
from tidegate.core.errors import TidegateError
from tidegate.core.project import Project
from tidegate.core.store import Store, open_store


def bento_home(project: Project) -> Path:
    """Where this project's Bentos are, apart from the user's own."""
    return project.state_dir / "bentoml"


def bundle_of(project: Project, release: Release) -> Path:
    """The bundle folder of a release, its content compared with the recorded sha256.

    One that a pod made is fetched from the store.

    Raises:
        TidegateError: it is missing, or was changed.
    """
    from tidegate.serving.service.manifest import digest

    name, _, version = release.bento.partition(":")
    bundle = bento_home(project) / "bentos" / name / version / "src" / "bundle"
    if not bundle.is_dir():
        bundle = project.state_dir / "bundles" / release.bundle
        if not bundle.is_dir() and not _fetch(open_store(project.store_url), release.bundle, bundle):
            raise TidegateError(
                f"The Bento {release.bento} of release {release.id} is not on this machine.",
                f"`tidegate package {release.version}` builds it again.",
            )
    if digest(bundle) != release.bundle:
        raise TidegateError(
            f"The bundle of release {release.id} is not what was gated: {bundle} was changed.",
            f"It will not be served. `tidegate package {release.version}` builds it again; `tidegate rollback` goes to "
            "another release.",
        )
    return bundle


def keep(store: Store, release: Release, bundle: Path) -> None:
    """Put a bundle into the store, for machines that did not build it; its list of files comes last, so it is whole."""
    files = sorted(file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file())
    for name in files:
        store.write(_file(release.bundle, name), (bundle / name).read_bytes())
    store.write(_list(release.bundle), json.dumps(files).encode())


def _fetch(store: Store, digest: str, into: Path) -> bool:
    """Copy a bundle out of the store; False when it is not there. Its content is compared by the caller."""
    try:
        files = json.loads(store.read(_list(digest)))
    except FileNotFoundError:
        return False
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        part = Path(scratch) / "bundle"
        for name in files:
            target = part / name
            if not target.resolve().is_relative_to(part.resolve()):
                raise TidegateError(f"The bundle {digest} names a file outside itself.", "It will not be served.")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.read(_file(digest, name)))
        shutil.rmtree(into, ignore_errors=True)
        part.rename(into)
    return True


def _list(digest: str) -> str:
    return f"bundles/{digest}/files.json"


def _file(digest: str, name: str) -> str:
    return f"bundles/{digest}/files/{name}"
