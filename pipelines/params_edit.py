"""`train -p key=value`: changes one value of `train.params` in tidegate.yaml and leaves every other byte alone.

The override is written down, not remembered, so that the run can be made again from the files that git has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.config_types import did_you_mean
from tidegate.core.errors import UsageError

if TYPE_CHECKING:
    import yaml


def parse(arguments: list[str]) -> dict[str, str]:
    """`key=value` arguments as a dict.

    Raises:
        UsageError: one has no `=`, or no key.
    """
    pairs: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"-p {argument} is not key=value.", "For instance: `tidegate train -p max_iter=300`.")
        pairs[key.strip()] = value.strip()
    return pairs


def override(file: Path, params: Mapping[str, str]) -> list[str]:
    """Write the new values into `train.params` of `file`; gives one sentence for each that changed.

    Raises:
        UsageError: a key is not in `train.params`, or its value is of another kind than the one there.
    """
    text = file.read_text(encoding="utf-8")
    nodes = _params(text)
    said: list[str] = []
    edits: list[tuple[int, int, str]] = []
    for key, raw in params.items():
        if key not in nodes:
            raise UsageError(
                f"-p {key}: train.params in {file.name} has no {key!r}{did_you_mean(key, tuple(nodes))}",
                f"It has: {', '.join(nodes) or 'none'}. Add a new one to {file.name} first.",
            )
        start, end = nodes[key].start_mark.index, nodes[key].end_mark.index
        old = _value(text[start:end])
        # Where there is text, what was typed is meant: `a: b` is no mapping and `1` no number.
        new = raw if isinstance(old, str) else _value(raw)
        _check_kind(key, old, new)
        if old != new or type(old) is not type(new):
            edits.append((start, end, json.dumps(new, ensure_ascii=False)))
            said.append(f"{file.name}: train.params.{key} is now {json.dumps(new)} (was {json.dumps(old)})")
    for start, end, new_text in sorted(edits, reverse=True):
        text = text[:start] + new_text + text[end:]
    if edits:
        _replace(file, text)
    return said


def _params(text: str) -> dict[str, yaml.Node]:
    """The value nodes of `train.params`, by key; a node knows where in the text it stands."""
    import yaml

    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for name in ("train", "params"):
        children = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        node = children.get(name)
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _value(text: str) -> Any:
    import yaml

    try:
        value = yaml.safe_load(text)
        json.dumps(value)
    except (yaml.YAMLError, TypeError):
        return text
    # YAML 1.1 reads 1e-3 as text, and everybody means the number.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check_kind(key: str, old: object, new: object) -> None:
    """A number stays a number and a switch a switch; null goes with everything."""
    if old is None or new is None:
        return
    kinds = [_kind(old), _kind(new)]
    if kinds[0] != kinds[1]:
        raise UsageError(f"-p {key}={new}: {key} is a {kinds[0]} ({old!r}), not a {kinds[1]}.", "Check the value.")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "list" if isinstance(value, list) else "mapping" if isinstance(value, dict) else "text"


def _replace(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.chmod(file.stat().st_mode)
    os.replace(part, file)  # noqa: PTH105 - the atomic one by name
