"""A folder with a tidegate.yaml, and where its things are. Opening one reads the config and touches nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.config import FILE_NAME, LOCAL, Config, load
from tidegate.core.errors import UsageError
from tidegate.core.secret import files

if TYPE_CHECKING:
    from tidegate.core.git import WorkTree

_DVC_LOCK: Final = "dvc.lock"
_SQLITE: Final = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Project:
    """One project as one environment sees it."""

    root: Path
    config: Config
    env: str = LOCAL

    @property
    def state_dir(self) -> Path:
        """What belongs to this machine only; git-ignored: MLflow's database, the store, runtime files."""
        return self.root / ".tidegate"

    @property
    def out_dir(self) -> Path:
        """Outputs of the DVC stages."""
        return self.root / "out"

    @property
    def store_url(self) -> str:
        """The store as an absolute folder or an fsspec address."""
        store = self.config.store
        return store if "://" in store else str(self.path(Path(store).expanduser()))

    @property
    def mlflow_uri(self) -> str:
        """MLFLOW_TRACKING_URI if it is set, else the config's; a relative sqlite path starts at the project."""
        uri = os.environ.get("MLFLOW_TRACKING_URI") or self.config.mlflow
        if uri.startswith(_SQLITE):
            return _SQLITE + str(self.path(uri.removeprefix(_SQLITE)))
        return uri

    @property
    def secret_files(self) -> tuple[str, ...]:
        """Files inside the project that the config refers to as `file:PATH`, relative to its root."""
        found = []
        for name in files(_texts(self.config.model_dump(mode="json"))):
            # The reference starts at the caller's folder, which need not be the project's.
            for place in (self.path(name), Path(name).absolute()):
                whole = Path(os.path.normpath(place))
                if whole.is_relative_to(self.root) and whole != self.root:
                    found.append(whole.relative_to(self.root).as_posix())
        return tuple(dict.fromkeys(found))

    def work_tree(self) -> WorkTree:
        """Commit and patch of what people changed; both empty outside git.

        Secrets stay out, and dvc.lock: the road writes it on its way, so every version would be of a dirty tree.
        """
        from tidegate.core import git

        if not git.is_repository(self.root):
            return git.WorkTree("", b"")
        return git.work_tree(self.root, (*self.secret_files, _DVC_LOCK))

    def path(self, relative: str | Path) -> Path:
        """A path of the project, absolute; an absolute one stays as it is."""
        return self.root / relative


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def find(start: Path) -> Path:
    """The nearest folder from `start` upwards that holds a tidegate.yaml.

    Raises:
        UsageError: there is none, or `start` is no folder.
    """
    here = start.absolute()
    if not here.is_dir():
        raise UsageError(f"{start} is not a folder.", "Check the path after -C.")
    for folder in (here, *here.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    raise UsageError(
        f"There is no {FILE_NAME} in {here} or above it.",
        "Make a project with `tidegate init --from FILE --target COLUMN`, or name its folder with -C DIR.",
    )


def open_project(start: Path, env: str = LOCAL) -> Project:
    """Find the project around `start` and read its config.

    Raises:
        UsageError: there is no project, or no such environment.
        ConfigError: the config is wrong.
    """
    root = find(start)
    return Project(root=root, config=load(root, env), env=env)
