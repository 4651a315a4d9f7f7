"""Calls functions of the user's own files, and says where in them it went wrong.

A file is imported under its own name, because skops writes the names of a model's classes into the model, and only
for as long as it is needed: nothing of the user's stays in `sys.modules` to be met by the next version's code.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tidegate.core.errors import ConfigError, UsageError
from tidegate.core.user_errors import below, failed


class Params(dict[str, Any]):
    """The params a train function gets; remembers which were read, and which were asked for in vain."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()
        self.missed: set[str] = set()

    def _note(self, key: str) -> None:
        (self.read if key in self else self.missed).add(key)

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As dict.get."""
        self._note(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        """As dict.pop."""
        self._note(key)
        return super().pop(key, *default)

    def __iter__(self) -> Iterator[str]:
        self.read |= set(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        """As dict.keys; whoever asks for all keys has read them all."""
        self.read |= set(super().keys())
        return super().keys()

    def items(self) -> Any:
        """As dict.items."""
        self.read |= set(super().keys())
        return super().items()

    def values(self) -> Any:
        """As dict.values."""
        self.read |= set(super().keys())
        return super().values()

    def copy(self) -> dict[str, Any]:
        """As dict.copy."""
        return dict(self.items())


def typo(params: Params, given: Sequence[str]) -> tuple[str, str] | None:
    """A param that was given but never read and resembles one that was asked for in vain: (given, asked)."""
    for key in given:
        if key not in params.read:
            close = difflib.get_close_matches(key, sorted(params.missed), n=1)
            if close:
                return key, close[0]
    return None


@contextmanager
def importable(root: Path, code: Sequence[str]) -> Iterator[None]:
    """Put the project and the parents of `train.code` on `sys.path`, as MLflow does when the model is loaded.

    Modules that the block imports from below `root` are forgotten at its end.
    """
    folders = list(dict.fromkeys(str(path) for path in (root, *((root / part).parent for part in code))))
    before = set(sys.modules)
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if below(getattr(sys.modules[name], "__file__", None), root):
                del sys.modules[name]


def load_function(root: Path, reference: str, key: str) -> Callable[..., Any]:
    """The function that `file.py:name` or `module:name` names.

    Args:
        root: the project; files are relative to it.
        reference: as in tidegate.yaml.
        key: the key of tidegate.yaml that holds it, for the error.

    Raises:
        ConfigError: there is no such file, module or function.
        UserCodeFailed: importing it failed.
    """
    where, _, name = reference.rpartition(":")
    module = _load_file(root, where, key) if where.endswith(".py") else _load_module(root, where, key)
    function = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    defined = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
    close = difflib.get_close_matches(name, defined, n=1)
    raise ConfigError(
        f"{key} names the function {name!r}, which {where} does not define.",
        f"Did you mean {close[0]!r}?" if close else f"It defines: {', '.join(sorted(defined)) or 'no function'}.",
    )


def _load_file(root: Path, where: str, key: str) -> ModuleType:
    file = root / where
    if not file.is_file():
        raise ConfigError(
            f"{key} names the file {where}, which does not exist.", "Paths are relative to tidegate.yaml."
        )
    # Its own name, unless that would hide a module that is already there (a json.py of the user's).
    name = file.stem if file.stem.isidentifier() and file.stem not in sys.modules else f"tidegate_file_{file.stem}"
    specification = importlib.util.spec_from_file_location(name, file)
    assert specification is not None  # noqa: S101 - it ends in .py
    assert specification.loader is not None  # noqa: S101 - it ends in .py
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise failed(error, root, f"importing {where}") from error
    return module


def _load_module(root: Path, where: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise UsageError(
                f"{key} names the module {where}, which cannot be found.", "Is it in `train.code`?"
            ) from error
        raise failed(error, root, f"importing {where}") from error
    except Exception as error:
        raise failed(error, root, f"importing {where}") from error
