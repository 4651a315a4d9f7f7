"""Which packages a model needs, each at the version that was in use when it was fitted."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.core.errors import ConfigError

if TYPE_CHECKING:
    from tidegate.core.project import Project

# What a skops file of scikit-learn objects cannot be opened without, and pandas for the frame it is given.
_ALWAYS = ("numpy", "pandas", "scikit-learn", "scipy", "skops")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def pinned(project: Project) -> tuple[str, ...]:
    """`train.requirements` with a version on every line, or else the packages that the training code imports.

    Raises:
        ConfigError: the requirements file is missing, or names a package that is not installed here.
    """
    given = project.config.train.requirements
    if given is not None:
        return _from_file(project.path(given), given)
    names = {*_ALWAYS, *_imported(project)}
    return tuple(f"{name}=={metadata.version(name)}" for name in sorted(names))


def _from_file(file: Path, shown: str) -> tuple[str, ...]:
    if not file.is_file():
        raise ConfigError(f"train.requirements names {shown}, which does not exist.", "Write it, or remove the key.")
    lines = []
    for number, raw in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.partition(" #")[0].strip().removesuffix("\\").strip()
        if not line or line.startswith(("#", "--hash")):
            continue
        if line.startswith("-"):
            raise ConfigError(f"{shown}:{number}: {line.split()[0]} is not understood here.", "List packages only.")
        lines.append(line if "==" in line or "@" in line else _pin(line, f"{shown}:{number}"))
    return tuple(lines)


def _pin(line: str, where: str) -> str:
    match = _NAME.match(line)
    name = match[0] if match else line
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"{where}: {name} is not installed here.", "Install it, or write its version.") from error


def _imported(project: Project) -> set[str]:
    """Distributions of the top-level modules that the training code and the hooks import."""
    config = project.config
    parts = [(config.train.entrypoint or "").rpartition(":")[0], config.serve.code or "", *config.train.code]
    files = [file for part in parts if part for file in _files(project.path(part))]
    modules = {name for file in files for name in _top_levels(file)} - set(sys.stdlib_module_names)
    if not modules - {"numpy", "pandas", "sklearn", "scipy", "skops"}:
        return set()
    known = metadata.packages_distributions()
    return {known[name][0] for name in modules if name in known}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob("*.py"))
    return [path] if path.is_file() and path.suffix == ".py" else []


def _top_levels(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return  # importing it says so, with the line
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
