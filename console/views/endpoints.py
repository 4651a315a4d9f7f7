"""The API as its OpenAPI document tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One request of the API for people; `parameters` and `body` are (name, description)."""

    method: str
    path: str
    text: str
    parameters: tuple[tuple[str, str], ...]
    body: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]


def endpoints(schema: Mapping[str, Any]) -> list[Endpoint]:
    """Every request that an OpenAPI description holds."""
    return [
        Endpoint(
            method,
            path,
            str(one.get("description") or one.get("summary") or ""),
            tuple((str(p["name"]), str(p.get("description") or "")) for p in one.get("parameters", ())),
            _fields(schema, one.get("requestBody", {})),
            tuple(one["responses"]),
        )
        for path, methods in schema["paths"].items()
        for method, one in methods.items()
    ]


def _fields(schema: Mapping[str, Any], body: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    found = []
    for content in body.get("content", {}).values():
        name = str(content.get("schema", {}).get("$ref", "")).rpartition("/")[2]
        fields = schema["components"]["schemas"].get(name, {}).get("properties", {})
        found += [(key, str(field.get("description") or "")) for key, field in fields.items()]
    return tuple(dict(found).items())
