"""What one invocation knows and how it speaks: one JSON document, or text for a person.

stdout carries the result, stderr everything else. Without a terminal there is no ANSI and no box drawing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from tidegate.core.errors import TidegateError
    from tidegate.core.progress import Progress
    from tidegate.core.project import Project

Render = Callable[["Console"], None]
# Without a terminal nobody's screen is too narrow; tables are as wide as their content.
_WIDTH_ELSEWHERE = 200


@dataclasses.dataclass
class Terminal:
    """One invocation of the command line; the first four fields are the global options."""

    directory: Path = Path()
    env: str = dataclasses.field(default_factory=lambda: os.environ.get("TIDEGATE_ENV") or "local")
    json: bool = False
    traceback: bool = False
    spoke: bool = dataclasses.field(default=False, init=False)
    streams: bool = dataclasses.field(default=False, init=False)

    @cached_property
    def project(self) -> Project:
        """The project around the directory, opened at first use.

        Raises:
            UsageError: there is none, or no environment of that name.
            ConfigError: its config is wrong.
        """
        from tidegate.core.project import open_project

        return open_project(self.directory, self.env)

    @cached_property
    def progress(self) -> Progress:
        """Where long work reports to."""
        from tidegate.cli.progress import progress

        return progress()

    @cached_property
    def console(self) -> Console:
        """A rich console on stdout that prints plain text where there is no terminal."""
        from tidegate.cli.plain import console

        return console(sys.stdout, _WIDTH_ELSEWHERE)

    @property
    def draws(self) -> bool:
        """Whether a picture can be drawn anew in its place: on a terminal that can, and nobody asked for JSON."""
        return not self.json and self.console.is_terminal and not self.console.is_dumb_terminal

    def show(self, document: Mapping[str, Any], render: Render | None = None) -> None:
        """The result: the one JSON document with --json, else what `render` draws, else a plain listing.

        Args:
            document: begins with `kind`, which names its schema.
            render: draws the same for a person.
        """
        self.spoke = True
        if self.json:
            _write(to_json(document, indent=2))
        elif render is not None:
            render(self.console)
        else:
            from tidegate.cli.plain import listing

            listing(self.console, document)

    def line(self, document: Mapping[str, Any], text: str) -> None:
        """One line of a result that follows or streams: JSON Lines with --json, else `text`."""
        self.spoke = self.streams = True
        _write(to_json(document) if self.json else text)

    def warn(self, text: str) -> None:
        """Say something on stderr."""
        self.progress.note(text)

    def fail(self, error: TidegateError) -> int:
        """Report an error, in JSON unless the one document is out already; returns the exit code."""
        from tidegate.core.errors import Interrupted

        code = int(error.exit_code)
        problems = tuple(getattr(error, "problems", ()))
        if self.json and (self.streams or not self.spoke):
            document = {"kind": "error", "message": error.message, "hint": error.hint, "problems": problems}
            _write(to_json(document | {"exit_code": code}, indent=None if self.streams else 2))
        else:
            complain(error.message, error.hint, problems, wrong=not isinstance(error, Interrupted))
        if self.traceback:
            traceback.print_exception(error)
        return code


_CURRENT: ContextVar[Terminal] = ContextVar("terminal")


def current() -> Terminal:
    """The invocation that is running."""
    return _CURRENT.get()


terminal = current


def begin() -> Terminal:
    """Start a new invocation."""
    fresh = Terminal()
    _CURRENT.set(fresh)
    return fresh


def complain(message: str, hint: str = "", problems: tuple[str, ...] = (), *, wrong: bool = True) -> None:
    """An error for a person, on stderr; `wrong` False: what they did themselves is none."""
    red, dim, end = ("\033[1;31m", "\033[2m", "\033[0m") if _colours(sys.stderr) else ("", "", "")
    lines = [f"{red}Error:{end} {message}" if wrong else message, *(f"  {problem}" for problem in problems)]
    if hint:
        lines.append(f"{dim}{hint}{end}")
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - this is where errors are printed


def duration(text: str, option: str) -> float:
    """Seconds of what was typed after `option`.

    Raises:
        UsageError: it is no duration.
    """
    from tidegate.core.errors import UsageError
    from tidegate.core.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}.", f"Half an hour is `{option} 30m`.") from error


def to_json(document: object, indent: int | None = None) -> str:
    """Strict JSON of anything a command shows: NaN and infinity are null, paths are text."""
    return json.dumps(_plain(document), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    # numpy's scalars and arrays know their plain form; numpy itself is not imported for that.
    plain = getattr(value, "tolist", None)
    return _plain(plain()) if callable(plain) else str(value)


def _colours(stream: Any) -> bool:
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
