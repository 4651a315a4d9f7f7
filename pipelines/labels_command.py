"""`monitor.labels.command`: the project's own program that fetches the truth, run now and then.

It writes CSV, JSON Lines or Parquet to the file that TIDEGATE_LABELS names, or prints CSV or JSON Lines. It may give
all it knows every time: what the store has already changes nothing, so a run that was killed is simply run again.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidegate.core.errors import ConfigError, Conflict, TidegateError
from tidegate.core.held import held
from tidegate.pipelines.labels import Taken, take
from tidegate.serving.labels.status import Matched
from tidegate.serving.labels.stored import Ingested

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.pipelines.environment import Environment

VARIABLE: Final = "TIDEGATE_LABELS"
_TOLD: Final = 3


def refresh(environment: Environment, progress: Progress) -> Taken:
    """Run the command and keep its labels. Nothing printed and nothing written is no label, and no error.

    Raises:
        ConfigError: there is no command, or it is no program.
        TidegateError: it failed or took longer than `monitor.labels.every`; nothing was kept.
        Conflict: another one is running.
    """
    settings = environment.project.config.monitor.labels
    if settings.command is None:
        raise ConfigError(
            "tidegate.yaml has no monitor.labels.command to fetch labels with.",
            "Write `labels: {command: python labels.py}` under monitor, or give a file: `tidegate labels ingest FILE`.",
        )
    source = f"what `{settings.command}` gave"
    with _alone(environment), _scratch(environment) as folder, progress.task(settings.command):
        written, printed = folder / "written", folder / "printed"
        _run(environment, settings.command, written, printed, settings.every)
        given = written if written.is_file() and written.stat().st_size else printed
        if not given.read_bytes().strip():
            return Taken("labels", source, Ingested(0, 0, ()), Matched(0, 0))
        taken = take(environment, given, "labels", source)
    for one in taken.ingested.rejected[:_TOLD]:
        progress.note(f"{source}, line {one.line}: {one.why}")
    return taken


def _run(environment: Environment, command: str, written: Path, printed: Path, limit: float) -> None:
    """The command, without a shell; what it says of itself goes to stderr."""
    try:
        with printed.open("wb") as output:
            done = subprocess.run(
                shlex.split(command),
                cwd=environment.project.root,
                env={**os.environ, VARIABLE: str(written)},
                stdout=output,
                timeout=limit,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise TidegateError(
            f"`{command}` was stopped: it took longer than monitor.labels.every ({limit:g} s).", "Nothing was kept."
        ) from error
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(
            f"monitor.labels.command cannot be started: {error}",
            "It is run without a shell: one program and its arguments.",
        ) from error
    if done.returncode:
        raise TidegateError(
            f"`{command}` ended with exit code {done.returncode}; nothing was kept.", "Its own output is above."
        )


@contextmanager
def _scratch(environment: Environment) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    parent = environment.project.state_dir / "labels"
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def _alone(environment: Environment) -> AbstractContextManager[None]:
    """One run at a time; the lock ends with the process."""
    otherwise = Conflict("Labels are being fetched by another process.", "Wait until it ends.")
    return held(environment.project.state_dir / "labels" / "lock", 0.0, otherwise)
