"""values.yaml and values.schema.json of the charts, written from the models: a comment and a check for every key.

And the gateway's Lua filter, which is the laptop's.

`python -m tidegate.pipelines.manifests.chart_files` (or `make charts`) writes them.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tidegate.pipelines.manifests.model_values import ModelValues
from tidegate.pipelines.manifests.platform_values import PlatformValues
from tidegate.pipelines.manifests.value_types import Values
from tidegate.serving.gateway.lua import unit_filter

MODELS: Final[Mapping[str, type[Values]]] = MappingProxyType(
    {"tidegate": PlatformValues, "tidegate-model": ModelValues}
)
"""Chart -> its values."""

UNIT_FILTER: Final = "tidegate-model/files/unit.lua"

_WIDTH: Final = 118
_HEADER: Final = (
    "# Written by `make charts` from pipelines/manifests; edit it there. values.schema.json checks every key.\n"
)


def schema(model: type[Values]) -> str:
    """values.schema.json: JSON Schema 2020-12, which refuses keys that nobody knows."""
    document = model.model_json_schema(by_alias=True)
    _without_titles(document)
    # Helm itself puts `global` into the values of every chart.
    document["properties"]["global"] = {"type": "object", "description": "Helm's own; not used."}
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def values_text(model: type[Values]) -> str:
    """values.yaml: every key with its default and, above it, what it means."""
    lines = [_HEADER, *(line for name, field in model.model_fields.items() for line in _key(name, field, 0))]
    return "\n".join(lines).rstrip() + "\n"


def _key(name: str, field: FieldInfo, depth: int) -> Iterator[str]:
    indent = "  " * depth
    key = field.alias or name
    required = field.is_required()
    words = f"-- {'(required) ' if required else ''}{field.description}"
    yield from textwrap.wrap(words, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    section = field.annotation
    if isinstance(section, type) and issubclass(section, BaseModel):
        yield f"{indent}{key}:"
        default = None if required else field.get_default()
        for child, child_field in section.model_fields.items():
            yield from _key(child, _with_default(child_field, default, child), depth + 1)
    elif required:
        yield f"{indent}# {key}:"
    else:
        yield from _default(key, field.get_default(), indent)


def _with_default(field: FieldInfo, parent: Any, name: str) -> FieldInfo:
    """A field as its section's own default has it: two sections of one kind may start differently."""
    if parent is None or field.is_required():
        return field
    changed: FieldInfo = FieldInfo.merge_field_infos(field, default=getattr(parent, name))
    return changed


def _default(key: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        yield f"{indent}{key}:"
        yield from (f"{indent}  - {_written(one.model_dump(by_alias=True))}" for one in value)
    else:
        yield f"{indent}{key}: {_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def unit_source() -> str:
    """The filter that gives every request a unit, with gaps for the names of header and cookie."""
    return unit_filter("{{header}}", "{{cookie}}").lstrip()


def _without_titles(node: Any) -> None:
    if isinstance(node, dict):
        # `title` may also be a key of ours: then it is no text.
        if isinstance(node.get("title"), str):
            del node["title"]
        for value in node.values():
            _without_titles(value)
    elif isinstance(node, list):
        for value in node:
            _without_titles(value)


def write(charts: Path) -> None:
    """Write the files of every chart in the folder `charts`."""
    for name, model in MODELS.items():
        (charts / name / "values.schema.json").write_text(schema(model), encoding="utf-8")
        (charts / name / "values.yaml").write_text(values_text(model), encoding="utf-8")
    (charts / "tidegate-model" / "files").mkdir(exist_ok=True)
    (charts / UNIT_FILTER).write_text(unit_source(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "charts"))
