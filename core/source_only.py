"""Imports code that came with a model from its sources alone, never from Python's bytecode caches.

The hash of a model or a bundle covers its sources and leaves `__pycache__` out, because imports write it. Python would
run a cached file without looking at the source again (PEP 552, unchecked), so a planted one would be code that nobody
gated. Here nothing is read from the caches or written to them.
"""

from __future__ import annotations

import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType

_folders: set[Path] = set()


class SourceOnlyLoader(SourceFileLoader):
    """Compiles the source at each import."""

    def get_code(self, fullname: str) -> CodeType:
        """The module's code, from its source."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def guard(folder: Path) -> None:
    """From now on this process imports whatever lies below `folder` from its sources.

    Installed libraries are left alone, since a project's own folder often holds its virtual environment.
    """
    if not _folders:
        sys.path_hooks.insert(0, _finder)
    _folders.add(folder.resolve())
    for path in list(sys.path_importer_cache):
        if _guarded(path):
            del sys.path_importer_cache[path]


def _finder(path: str) -> FileFinder:
    """A path hook of `sys.path_hooks`; ImportError means that it is not ours."""
    if not _guarded(path):
        message = "not below a folder of a model's code"
        raise ImportError(message, path=path)
    # A .pyc that stands where a source would is part of the hash like any other file.
    return FileFinder(
        path,
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (SourceOnlyLoader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )


def _guarded(path: str) -> bool:
    whole = Path(path).resolve()
    inside = (whole.relative_to(folder) for folder in _folders if whole.is_relative_to(folder))
    return any("site-packages" not in part.parts for part in inside)
