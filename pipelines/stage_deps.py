"""Keeps the deps of our train stage complete: code that is named in tidegate.yaml later must cause a retrain too.

A hook that changed without a retrain would be served in its old form, which nobody would notice.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from tidegate.core.errors import ConfigError
from tidegate.pipelines.yaml_text import flow

if TYPE_CHECKING:
    from tidegate.core.project import Project

COMMAND = "tidegate step train"
_FILES = ("dvc.yaml", "stages/dvc.yaml")


def complete(project: Project) -> list[str]:
    """Add what the train stage should depend on and does not; returns one sentence for each addition.

    Raises:
        ConfigError: the file cannot be completed by itself; says what to add.
    """
    for name in _FILES:
        path = project.root / name
        if path.is_file() and COMMAND in (text := path.read_text(encoding="utf-8")):
            return _complete(path, name, text, project)
    return []


def _complete(path: Path, name: str, text: str, project: Project) -> list[str]:
    said = []
    for dependency in _wanted(project):
        stage_name, deps, wdir = _train_stage(text, name)
        here = PurePosixPath(wdir)
        known = [(path.parent / here / value.value).resolve() for value in deps.value] if deps else []
        file = project.path(dependency).resolve()
        if any(file == one or one in file.parents for one in known):
            continue
        if deps is None or not deps.value:
            raise ConfigError(f"{name}: the stage {stage_name} has no deps.", f"Add {dependency} to its deps.")
        text = _with(text, deps, dependency)
        said.append(f"{name}: the stage {stage_name} depends on {dependency} from now on.")
    if said:
        path.write_text(text, encoding="utf-8")
    return said


def _wanted(project: Project) -> list[str]:
    """What decides what the model becomes, as paths of the project, that exist."""
    config = project.config
    files = [config.serve.code, *config.train.code, config.train.requirements]
    if config.train.entrypoint:
        files.append(config.train.entrypoint.partition(":")[0])
    return [file for file in dict.fromkeys(files) if file and project.path(file).exists()]


def _train_stage(text: str, name: str) -> tuple[str, yaml.SequenceNode | None, str]:
    """Name, deps and working folder of the stage that runs our train step."""
    for stage_name, stage in _pairs(_get(yaml.compose(text), "stages")):
        command = _get(stage, "cmd")
        if isinstance(command, yaml.ScalarNode) and command.value.strip() == COMMAND:
            deps, wdir = _get(stage, "deps"), _get(stage, "wdir")
            plain = isinstance(deps, yaml.SequenceNode) and all(isinstance(one, yaml.ScalarNode) for one in deps.value)
            folder = str(wdir.value) if isinstance(wdir, yaml.ScalarNode) else "."
            return stage_name, deps if plain and isinstance(deps, yaml.SequenceNode) else None, folder
    raise ConfigError(f"{name} has no stage with the command `{COMMAND}`.", "`tidegate init` writes one.")


def _with(text: str, deps: yaml.SequenceNode, dependency: str) -> str:
    """The text with one more item at the end of the list, in the list's own style."""
    last = deps.value[-1]
    if deps.flow_style:
        return f"{text[: last.end_mark.index]}, {flow(dependency)}{text[last.end_mark.index :]}"
    # The dash of a block list stands where the list begins.
    indent = " " * deps.start_mark.column
    return f"{text[: last.end_mark.index]}\n{indent}- {flow(dependency)}{text[last.end_mark.index :]}"


def _pairs(node: Any) -> list[tuple[str, Any]]:
    return [(key.value, value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def _get(node: Any, key: str) -> Any:
    return dict(_pairs(node)).get(key)
