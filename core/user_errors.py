"""What the user's own code raised, told by its own file and line instead of as a mistake of ours."""

from __future__ import annotations

import traceback
from pathlib import Path

from tidegate.core.errors import TidegateError


class UserCodeFailed(TidegateError):
    """The user's own code raised; the message names file, line and what was raised."""


def failed(error: BaseException, root: Path, doing: str, then: str = "") -> UserCodeFailed:
    """Our error for what the user's code raised: its own file and line, its own words.

    Args:
        error: as caught, with its traceback.
        root: the folder of the user's code; files are named relative to it.
        doing: what was being done, for a sentence: "running train.py:train".
        then: what to do next, a sentence.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if below(frame.filename, root)]
    kind = type(error).__name__
    said = str(error).strip()
    if isinstance(error, SyntaxError) and error.filename:
        place, said = f"{_short(error.filename, root)}:{error.lineno}", error.msg
    else:
        place = f"{_short(frames[-1].filename, root)}:{frames[-1].lineno}" if frames else ""
    text = f"{kind}: {said}" if said else kind
    line = frames[-1].line if frames and not isinstance(error, SyntaxError) else ""
    raised = f"It was raised while {doing}" + (f", by `{line}`." if line else ".")
    return UserCodeFailed(
        f"{place}: {text}" if place else f"{doing} failed: {text}",
        " ".join(part for part in (raised, then, "--traceback shows the whole of it.") if part),
    )


def below(file: str | None, root: Path) -> bool:
    """Whether a module's file is the user's: in this folder, and not of a library installed there."""
    if not file:
        return False
    path = Path(file)
    return path.is_relative_to(root) and not {"site-packages", ".venv"} & set(path.relative_to(root).parts)


def _short(file: str, root: Path) -> str:
    path = Path(file)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
