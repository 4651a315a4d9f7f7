"""From a release to the folder its process serves, checked: what was gated is what runs."""

from __future__ import annotations

from pathlib import Path

from tidegate.core.artifacts import Release
from tidegate.core.errors import TidegateError
from tidegate.core.project import Project


def bento_home(project: Project) -> Path:
    """Where this project's Bentos are, apart from the user's own."""
    return project.state_dir / "bentoml"


def bundle_of(project: Project, release: Release) -> Path:
    """The bundle folder of a release, its content compared with the recorded sha256.

    Raises:
        TidegateError: it is missing, or was changed.
    """
    from tidegate.serving.service.manifest import digest

    name, _, version = release.bento.partition(":")
    bundle = bento_home(project) / "bentos" / name / version / "src" / "bundle"
    if not bundle.is_dir():
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
