"""New data: the project's own command, or a file somebody gives, becomes a new DVC version or leaves no trace.

The command writes data.path itself, so the old file is copied aside first and put back if the command fails, writes
something that cannot be read, or is killed: `recover` runs before anything reads the data.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidegate.core.artifacts import DatasetRef
from tidegate.core.errors import ConfigError, Conflict, TidegateError, UsageError
from tidegate.core.held import held

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.core.project import Project

FOLDER: Final = Path(".tidegate") / "refresh"
_ABSENT: Final = "absent"  # marks that there was no data file before


@dataclass(frozen=True, slots=True)
class NewData:
    """The data as it is recorded now, and the md5 it had before (None if it is new)."""

    data: DatasetRef
    before: str | None

    @property
    def changed(self) -> bool:
        """Whether the content is another one."""
        return self.data.md5 != self.before


def refresh(project: Project, progress: Progress, *, changed_since: str | None = None) -> NewData:
    """Run data.command and record what it wrote.

    Args:
        project: whose data.
        progress: told what runs.
        changed_since: from when on rows tell of the world as it is (ISO 8601), if a retrain knows it; the command finds
            it as TIDEGATE_CHANGED_SINCE and may leave older rows out.

    Raises:
        ConfigError: there is no data.command, it is not a program, or it wrote rows without a column that is needed.
        TidegateError: it failed, or wrote nothing readable; the old data is back in place.
        Conflict: another refresh is running.
    """
    command = project.config.data.command
    if command is None:
        raise ConfigError(
            "tidegate.yaml has no data.command to refresh the data with",
            "Write `command: python extract.py` under data, or take a file: `tidegate data add FILE`.",
        )
    with _guarded(project), progress.task(command):
        _run(project, command, {"TIDEGATE_CHANGED_SINCE": changed_since} if changed_since else {})
        rows = _checked(project, project.path(project.config.data.path), f"what `{command}` wrote")
        return _record(project, rows)


def take(project: Project, file: Path) -> NewData:
    """Make the content of `file` the project's data.

    Raises:
        UsageError: no such file, or not the kind of file that data.path is.
        ConfigError: it lacks the target or another column that the data section names.
        TidegateError: it cannot be read; the old data is in place.
        Conflict: a refresh is running.
    """
    target = project.path(project.config.data.path)
    if not file.is_file():
        raise UsageError(f"There is no file {file}", "Give the path of a csv or parquet file.")
    parquet = {".parquet", ".pq"}
    if (file.suffix in parquet) != (target.suffix in parquet):
        raise UsageError(
            f"{file.name} is not the kind of file that data.path is ({project.config.data.path})",
            "Change data.path in tidegate.yaml and dvc.yaml, or convert the file.",
        )
    # Before anything is copied: what is wrong with it is said under the name that was given.
    rows = _checked(project, file, str(file))
    if target.exists() and file.samefile(target):
        return _record(project, rows)
    with _guarded(project):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(file, part)
        part.replace(target)
        return _record(project, rows)


def recover(root: Path) -> str | None:
    """Put back what a killed refresh left aside; the path that was restored, if any."""
    folder = root / FOLDER
    try:
        name, copy = (folder / "path").read_text(encoding="utf-8"), folder / "copy"
    except FileNotFoundError:
        return None
    with _locked(root):
        _restore(root / name, copy)
        _forget(folder)
    return name


def _run(project: Project, command: str, told: Mapping[str, str]) -> None:
    """The command, without a shell; its output goes to stderr."""
    try:
        words = shlex.split(command)
        done = subprocess.run(
            words,
            cwd=project.root,
            env={**os.environ, **told, "TIDEGATE_DATA": str(project.path(project.config.data.path))},
            stdout=2,
            check=False,
        )
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(
            f"data.command cannot be started: {error}", "It is run without a shell: one program and its arguments."
        ) from error
    if done.returncode:
        raise TidegateError(
            f"`{command}` ended with exit code {done.returncode}; the data is as it was", "Its own output is above."
        )


def _checked(project: Project, file: Path, source: str) -> int:
    """How many rows the file has, if it can be read and has the columns that the config names."""
    from tidegate.pipelines.dataset import read_frame, require_columns

    frame = read_frame(file)
    require_columns(frame, project.config.data, source)
    return len(frame)


def _record(project: Project, rows: int) -> NewData:
    """Record the file at data.path."""
    from tidegate.pipelines import dvc_repo

    path = project.config.data.path
    before = dvc_repo.recorded_md5(project.root, path)
    added = dvc_repo.add(project.root, Path(path))
    return NewData(DatasetRef(added.path, added.md5, rows), before)


@contextmanager
def _guarded(project: Project) -> Iterator[None]:
    """Keep a copy of the data while the block runs; put it back if the block fails."""
    recover(project.root)
    path = project.config.data.path
    folder = project.root / FOLDER
    with _locked(project.root):
        file, copy = project.root / path, folder / "copy"
        if file.exists():
            shutil.copy2(file, copy)
        else:
            copy.with_name(_ABSENT).touch()
        # The name is written last: a copy without it is not complete, and not needed.
        part = folder / "path.part"
        part.write_text(path, encoding="utf-8")
        part.replace(folder / "path")
        try:
            yield
        except BaseException:
            _restore(file, copy)
            raise
        finally:
            _forget(folder)


def _restore(file: Path, copy: Path) -> None:
    if copy.exists():
        part = file.with_name(f".{file.name}.part")
        shutil.copy2(copy, part)
        part.replace(file)
    elif copy.with_name(_ABSENT).exists():
        file.unlink(missing_ok=True)


def _forget(folder: Path) -> None:
    for name in ("path", "copy", _ABSENT):
        (folder / name).unlink(missing_ok=True)


def _locked(root: Path) -> AbstractContextManager[None]:
    """One refresh at a time; the lock ends with the process."""
    otherwise = Conflict("The data is being refreshed by another process", "Wait until it ends.")
    return held(root / FOLDER / "lock", 0.0, otherwise)
