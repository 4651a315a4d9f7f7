"""A config of DVC that DVC cannot read: which file, which line, and what to type."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tidegate.core.errors import ConfigError

# How DVC names a setting: "extra keys not allowed @ data['core']['autstage']".
_PLACE: Final = re.compile(r"\s*(?:for dictionary value )?@ data((?:\['[^']*'\])+)")
_HEADER: Final = re.compile(r"""^\s*\[\s*(['"]?)(.*)\1\s*\]""")
_UNKNOWN: Final = "extra keys not allowed"
_PREFIX: Final = "config file error: "


def files_of(root: Path, others: Sequence[Path]) -> tuple[Path, ...]:
    """The files that DVC reads at `root`, the strongest first; `others` are those of the user and the machine."""
    folder = next((one / ".dvc" for one in (root, *root.parents) if (one / ".dvc").is_dir()), root / ".dvc")
    return tuple(one for one in (folder / "config.local", folder / "config", *others) if one.is_file())


def malformed(root: Path, files: Sequence[Path], said: str) -> ConfigError:
    """Our error for a config that DVC refuses.

    Args:
        root: of the project; files below it are named from there.
        files: as `files_of` gives them.
        said: DVC's own words.
    """
    found = next(_unreadable(files), None)
    if found is not None:
        file, line, why = found
    else:
        path, why = _place(said)
        file, line = next(_lines(files, path), (files[-1] if files else root / ".dvc" / "config", 0))
    name = os.path.relpath(file, root) if file.is_relative_to(root) else str(file)
    return ConfigError(f"{name}{f':{line}' if line else ''}: DVC cannot read its config: {why}", _hint(name, line))


def _hint(name: str, line: int) -> str:
    edit = f"Correct {f'line {line} of ' if line else ''}{name} in an editor"
    kept = f"`git diff -- {name}` shows what was changed, `git checkout -- {name}` takes it back"
    return f"{edit}; {kept}." if Path(name).name == "config" and not Path(name).is_absolute() else f"{edit}."


def _unreadable(files: Sequence[Path]) -> Iterator[tuple[Path, int, str]]:
    """The files that are no config at all, with the first bad line."""
    from configobj import ConfigObj, ConfigObjError  # type: ignore[import-untyped]  # it ships no types

    for file in files:
        content = file.read_bytes()
        try:
            lines = content.decode().splitlines()
        except UnicodeDecodeError as error:
            yield file, content.count(b"\n", 0, error.start) + 1, "that is no UTF-8."
            continue
        try:
            ConfigObj(lines)
        except ConfigObjError as error:
            first = (getattr(error, "errors", None) or [error])[0]
            line = int(getattr(first, "line_number", 0) or 0)
            shown = lines[line - 1].strip() if 0 < line <= len(lines) else ""
            yield file, line, f"{shown!r} is neither a [section] nor `key = value`, or is there twice."


def _place(said: str) -> tuple[list[str], str]:
    """The setting that DVC's words are about, and the words without it."""
    plain = said.removeprefix(_PREFIX).splitlines()[0] if said else "no reason is given"
    place = _PLACE.search(plain)
    if place is None:
        return [], plain
    path = re.findall(r"\['([^']*)'\]", place[1])
    name, why = ".".join(path), plain[: place.start()]
    return path, f"{name} is no setting of DVC." if why == _UNKNOWN else f"{name}: {why}."


def _lines(files: Sequence[Path], path: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Where the files set `path`: a section and a key, or a kind of section, its name and a key."""
    if not path:
        return
    *sections, key = path
    wanted = sections[0] if len(sections) == 1 else ' "'.join(sections) + '"' if sections else ""
    for file in files:
        section = ""
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if header := _HEADER.match(line):
                section = header[2].strip()
            elif section == wanted and line.partition("=")[0].strip().lower() == key:
                yield file, number
