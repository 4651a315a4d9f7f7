"""The code of the user's own live metrics as it was when a rollout began: kept in the store, known by its content.

A rollout is judged by one definition of each metric from its first user to its last; what somebody edits meanwhile is
for the next one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tidegate.core.errors import TidegateError
from tidegate.core.store import Store
from tidegate.core.user_errors import below


@dataclass(frozen=True, slots=True)
class Code:
    """Python modules.

    Attributes:
        files: path below the project -> content.
        roots: folders below the project from which modules were imported; empty is the project itself.
    """

    files: Mapping[str, str]
    roots: tuple[str, ...]

    def __or__(self, other: Code) -> Code:
        """Both together."""
        return Code({**self.files, **other.files}, tuple(sorted({*self.roots, *other.roots})))

    @property
    def digest(self) -> str:
        """The sha256 of all of it."""
        return hashlib.sha256(self._content()).hexdigest()

    def _content(self) -> bytes:
        return json.dumps({"files": dict(self.files), "roots": list(self.roots)}, sort_keys=True).encode()

    def write(self, folder: Path) -> None:
        """Put the modules where they were, below another folder."""
        for name, content in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")

    def keep(self, store: Store, rollout: str) -> None:
        """Keep it for a rollout; before the ledger says that this began."""
        store.write(_name(rollout), self._content())


@dataclass(frozen=True, slots=True)
class Kept:
    """The code that a rollout began with."""

    store: Store
    rollout: str
    digest: str

    def load(self) -> Code:
        """Read it.

        Raises:
            TidegateError: it is gone, or is not what the plan says.
        """
        try:
            document = json.loads(self.store.read(_name(self.rollout)))
            code = Code(dict(document["files"]), tuple(document["roots"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise self._lost() from error
        if code.digest != self.digest:
            raise self._lost()
        return code

    def _lost(self) -> TidegateError:
        return TidegateError(
            f"The code that rollout {self.rollout} began with ({_name(self.rollout)} in the store) is missing or was "
            "changed, so nobody knows what its own metrics mean.",
            "`tidegate rollout abort`, then start it again: it begins with the code of today.",
        )


def imported(root: Path) -> Code:
    """What this process has imported from below `root`, libraries in it left out.

    Raises:
        TidegateError: a module is no Python source, or is not the user's to read.
    """
    files, roots = {}, {""}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or not below(file, root):
            continue
        path = Path(str(file)).relative_to(root)
        try:
            files[path.as_posix()] = (root / path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TidegateError(
                f"The metric uses {path}, which is no Python source, so a rollout cannot keep it.",
                "Install it as a library, or write it in Python.",
            ) from error
        roots.add(_root_of(path, name))
    return Code(files, tuple(sorted(roots)))


def _root_of(path: Path, name: str) -> str:
    """The folder that a module of this name was found in."""
    place, parts = path.with_suffix(""), name.split(".")
    place = place.parent if place.name == "__init__" else place
    named = list(place.parts[-len(parts) :]) == parts
    root = Path(*place.parts[: -len(parts)]) if named else path.parent
    return "" if root == Path() else root.as_posix()


def _name(rollout: str) -> str:
    return f"rollouts/{rollout}/metrics.json"
