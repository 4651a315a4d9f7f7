"""Keeps the deps of our stages complete: whatever tidegate.yaml names later must be checked, trained and measured too.

A hook that changed without a retrain would be served in its old form, data under a new path would never be looked at,
and a new contract would never be checked; nobody would notice.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import yaml

from tidegate.core.config import FILE_NAME
from tidegate.core.errors import ConfigError, UsageError
from tidegate.pipelines.yaml_text import flow

if TYPE_CHECKING:
    from tidegate.core.config import Config
    from tidegate.core.project import Project

COMMAND: Final = "tidegate step"
_FILES: Final = ("dvc.yaml", "stages/dvc.yaml")
PARAMS: Final = {
    "contract": ("contract", "data"),
    "train": ("model", "task", "data", "train"),
    "evaluate": ("task", "data", "gate", "serve"),
}
"""The sections of tidegate.yaml that decide what each step makes."""
_STEPS: Final = tuple(PARAMS)
_CONTRACTS: Final = (".yaml", ".yml")
_DATA: Final = (".csv", ".tsv", ".txt", ".parquet", ".pq")


# --- what decides --------------------------------------------------------------------------------------------------


def training_code(root: Path, config: Config) -> list[str]:
    """The files and folders that decide what the model becomes, as paths of the project, that exist."""
    train = config.train
    paths = [
        _code_file(root, config, train.entrypoint) if train.entrypoint else None,
        *_scripts(root, config),
        config.serve.code,
        *train.code,
        train.requirements,
    ]
    return _existing(root, paths)


def given_params(root: Path, step: str) -> list[str]:
    """The sections that decide a step and stand in tidegate.yaml: DVC fails on a param that is not in the file."""
    file = root / FILE_NAME
    config = yaml.compose(file.read_text(encoding="utf-8")) if file.exists() else None
    return [key for key in PARAMS[step] if _get(config, key) is not None]


def measuring_code(root: Path, config: Config) -> list[str]:
    """The files beside the model that decide how good it is found: hooks, and the user's own metrics."""
    return _existing(root, [config.serve.code, *metrics_code(root, config)])


def metrics_code(root: Path, config: Config) -> list[str]:
    """The files of the user's own metrics that the gate names."""
    names = [config.gate.metric, *(check.metric for check in config.gate.checks)]
    return _existing(root, [_code_file(root, config, name) for name in names if name and ":" in name])


def _scripts(root: Path, config: Config) -> Iterator[str | None]:
    """The Python files and modules that `train.command` runs."""
    command = config.train.command or ""
    try:
        words = shlex.split(command)
    except ValueError:  # quotes that only a shell understands
        words = command.split()
    for before, word in zip(["", *words], words, strict=False):
        if word.endswith(".py"):
            yield word
        elif before == "-m":
            yield _code_file(root, config, word)


def _code_file(root: Path, config: Config, reference: str) -> str | None:
    """The file of `file.py:name`, `module:name` or `module`; None for a module that is not the project's own."""
    where = reference.partition(":")[0]
    if where.endswith(".py"):
        return where
    # The folders that user_code.importable puts on the path.
    for folder in (Path(), *(Path(part).parent for part in config.train.code)):
        for candidate in (f"{where.replace('.', '/')}.py", f"{where.replace('.', '/')}/__init__.py"):
            if (root / folder / candidate).is_file():
                return (folder / candidate).as_posix()
    return None


def _existing(root: Path, paths: Sequence[str | None]) -> list[str]:
    return [path for path in dict.fromkeys(paths) if path and (root / path).exists()]


# --- completing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stage:
    """One of our stages as the text of a dvc.yaml has it; `deps` is None where they are no plain list."""

    name: str
    node: Any
    deps: yaml.SequenceNode | None
    folder: Path

    def find(self, file: Path) -> yaml.Node | None:
        """The dep that is this file."""
        return next((one for one in self._deps() if self._path(one) == file), None)

    def covers(self, file: Path) -> bool:
        """Whether the file, or a folder that holds it, is a dep."""
        return any(file == one or one in file.parents for one in self.files())

    def files(self) -> list[Path]:
        """Every dep."""
        return [self._path(one) for one in self._deps()]

    def _deps(self) -> list[Any]:
        return self.deps.value if self.deps else []

    def _path(self, dep: Any) -> Path:
        return (self.folder / str(dep.value)).resolve()


def complete(project: Project) -> list[str]:
    """Add what our stages should depend on and do not; returns one sentence for each change.

    Data or a contract that the config named before gives way to the one that it names now.

    Raises:
        ConfigError: a file cannot be completed by itself; says what to add. There is no such contract.
        UsageError: the data that the config names is nowhere.
    """
    said = []
    for name in _FILES:
        path = project.root / name
        if path.is_file() and COMMAND in (text := path.read_text(encoding="utf-8")):
            new, former = text, _former(text, path.parent, project)
            for step in _STEPS:
                wanted = _wanted(project, step, former)
                new, sentences = _completed(new, path, step, wanted, project)
                said += sentences
            if new != text:
                path.write_text(new, encoding="utf-8")
    return said


def _completed(
    text: str, path: Path, step: str, wanted: Sequence[tuple[str, str | None]], project: Project
) -> tuple[str, list[str]]:
    """The text of `path` with the stage of one step completed, and a sentence for each change."""
    said: list[str] = []
    name = path.relative_to(project.root).as_posix()
    for dependency, former in wanted:
        stage = _stage(text, path.parent, step)
        file = project.path(dependency).resolve()
        if stage is None or stage.covers(file):
            continue
        _require(project, dependency)
        if stage.deps is None or not stage.deps.value:
            raise ConfigError(f"{name}: the stage {stage.name} has no deps.", f"Add {dependency} to its deps.")
        old = stage.find(project.path(former).resolve()) if former else None
        if old is not None:
            text = f"{text[: old.start_mark.index]}{flow(dependency)}{text[old.end_mark.index :]}"
            said.append(f"{name}: the stage {stage.name} depends on {dependency} from now on, not on {former}.")
        else:
            text = _with(text, stage.deps, dependency)
            said.append(f"{name}: the stage {stage.name} depends on {dependency} from now on.")
    # The only section that our stages did not always compare; others are the user's to leave out.
    if step == "contract" and "contract" in given_params(project.root, step):
        text, sentences = _with_param(text, path, step, "contract", name)
        said += sentences
    return text, said


@dataclass(frozen=True, slots=True)
class _Former:
    """The contract and the data that the config named before, where it names others now."""

    contract: str | None = None
    data: str | None = None


def _former(text: str, folder: Path, project: Project) -> _Former:
    """Read off the stage that checks the contract: it has one contract and one data file, whatever they are called."""
    stage = _stage(text, folder, "contract")
    config = project.config
    named = {project.path(config.contract).resolve(), project.path(config.data.path).resolve()}
    others = [path for path in stage.files() if path not in named] if stage else []
    shown = [Path(os.path.relpath(path, project.root.resolve())).as_posix() for path in others]
    return _Former(
        next((one for one in shown if one.endswith(_CONTRACTS)), None),
        next((one for one in shown if one.endswith(_DATA)), None),
    )


def _wanted(project: Project, step: str, former: _Former) -> list[tuple[str, str | None]]:
    """What a step's stage should depend on, each with what the config named in its place before."""
    config = project.config
    data = (config.data.path, former.data)
    if step == "contract":
        return [(config.contract, former.contract), data]
    code = (training_code if step == "train" else measuring_code)(project.root, config)
    return [data, *((one, None) for one in code)]


def _require(project: Project, dependency: str) -> None:
    """Refuse a name in the config that leads nowhere, before it is written anywhere else.

    Raises:
        ConfigError: it is the contract.
        UsageError: it is the data.
    """
    from tidegate.pipelines.dvc_repo import recorded_md5

    if project.path(dependency).exists() or recorded_md5(project.root, dependency):
        return
    if dependency == project.config.contract:
        raise ConfigError(
            f"There is no contract {dependency}.", "`tidegate data draft --write` writes one from the data."
        )
    raise UsageError(
        f"The data file {dependency} is missing, and DVC does not know it.",
        f"Check data.path in {FILE_NAME}; `tidegate data add FILE` records a file under that name.",
    )


# --- the text of a dvc.yaml ----------------------------------------------------------------------------------------


def _step(command: object) -> str | None:
    """The step of `tidegate step NAME`."""
    head, _, step = command.strip().rpartition(" ") if isinstance(command, str) else ("", "", "")
    return step if head == COMMAND else None


@lru_cache(maxsize=4)
def _tree(text: str) -> Any:
    """The nodes of a YAML text, which know where they stand in it; parsed once for every question about it."""
    return yaml.compose(text)


def _stage(text: str, folder: Path, step: str) -> _Stage | None:
    """The stage that runs our step."""
    for name, node in _pairs(_get(_tree(text), "stages")):
        command = _get(node, "cmd")
        if isinstance(command, yaml.ScalarNode) and _step(command.value) == step:
            deps, wdir = _get(node, "deps"), _get(node, "wdir")
            plain = isinstance(deps, yaml.SequenceNode) and all(isinstance(one, yaml.ScalarNode) for one in deps.value)
            here = PurePosixPath(str(wdir.value) if isinstance(wdir, yaml.ScalarNode) else ".")
            return _Stage(name, node, deps if plain else None, folder / here)
    return None


def _with(text: str, items: yaml.SequenceNode, item: str) -> str:
    """The text with one more item at the end of the list, in the list's own style."""
    last = items.value[-1]
    if items.flow_style:
        return f"{text[: last.end_mark.index]}, {flow(item)}{text[last.end_mark.index :]}"
    # The dash of a block list stands where the list begins.
    indent = " " * items.start_mark.column
    return f"{text[: last.end_mark.index]}\n{indent}- {flow(item)}{text[last.end_mark.index :]}"


def _with_param(text: str, path: Path, step: str, key: str, name: str) -> tuple[str, list[str]]:
    """The text in which DVC compares a section of the config too."""
    stage = _stage(text, path.parent, step)
    ours = [
        keys
        for entry in getattr(_get(stage.node, "params") if stage else None, "value", [])
        if isinstance(keys := _get(entry, FILE_NAME), yaml.SequenceNode) and keys.value
    ]
    # A stage of one's own making without params stays as it is.
    if stage is None or not ours or any(one.value == key for keys in ours for one in keys.value):
        return text, []
    return _with(text, ours[0], key), [f"{name}: the stage {stage.name} has the param {key} from now on."]


def _pairs(node: Any) -> list[tuple[str, Any]]:
    return [(key.value, value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def _get(node: Any, key: str) -> Any:
    return dict(_pairs(node)).get(key)
