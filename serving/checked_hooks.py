"""The project's hooks as training, gate and packaging call them: what they raise names the user's file and line.

The serving process loads them as they are (service/hooks.py): there what they raise is logged, and callers read none
of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tidegate.core.errors import TidegateError
from tidegate.core.user_errors import failed
from tidegate.serving.service import hooks
from tidegate.serving.service.hooks import Hooks


def load(file: Path) -> Hooks:
    """As `hooks.load`, of functions that raise UserCodeFailed for whatever they raise, importing included.

    `file` may be a copy inside a model or a bundle: errors name it by the name that it has in the project too.
    """
    try:
        found = hooks.load(file)
    except TidegateError as error:
        if error.__cause__ is None:
            raise
        raise failed(error.__cause__, file.parent, f"importing {file.name}", error.hint) from error.__cause__
    respond = None if found.respond is None else _iterable(found.respond)
    return Hooks(_checked(found.prepare, "prepare", file), _checked(respond, "respond", file))


def _iterable(respond: Callable[..., Any]) -> Callable[..., Any]:
    """The same, refusing what cannot be one value a prediction: a forgotten `return`, as a rule."""

    def call(*values: Any) -> Any:
        shown = respond(*values)
        if isinstance(shown, Iterable):
            return shown
        message = f"respond returned {type(shown).__name__}, not a list."
        raise TidegateError(message, "It must return one value a prediction, in the same order.")

    return call


def _checked(function: Callable[..., Any] | None, name: str, file: Path) -> Callable[..., Any] | None:
    if function is None:
        return None

    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except TidegateError:
            raise
        except Exception as error:
            then = f"Mend {name} and type the same command again."
            raise failed(error, file.parent, f"running {name} of {file.name}", then) from error

    return call
