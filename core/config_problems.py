"""From pydantic's errors to lines a reader can act on: file, line, key path, what is wrong, what would be right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import ValidationError

from tidegate.core.config_types import Section, did_you_mean, show
from tidegate.core.yaml_lines import Entry, Path, Problem

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

S = TypeVar("S", bound=Section)


def validate(model: type[S], entry: Entry) -> tuple[S | None, list[Problem]]:
    """Check one mapping; the section, or every problem there is."""
    value, errors = _try(model, entry.plain())
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    if unknown:
        # pydantic skips a section's own rules while it holds an unknown key: look again without those keys.
        again = _try(model, _without(entry, unknown).plain())[1]
        seen = {(error["loc"], error["type"]) for error in errors}
        errors += [error for error in again if (error["loc"], error["type"]) not in seen]
    return value, [_problem(model, entry, error) for error in errors]


def _try(model: type[S], plain: Any) -> tuple[S | None, list[ErrorDetails]]:
    try:
        return model.model_validate(plain, context={"file": True}), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _without(entry: Entry, paths: list[tuple[int | str, ...]]) -> Entry:
    """A copy that lacks the keys at `paths`."""
    here = {path[0] for path in paths if len(path) == 1}

    def keep(key: str | int, child: Entry) -> Entry:
        below = [path[1:] for path in paths if len(path) > 1 and path[0] == key]
        # The name of a union's branch stands in pydantic's path and not in the file.
        below += [path[2:] for path in paths if len(path) > 2 and path[0] == key and child.child(path[1]) is None]  # noqa: PLR2004
        return _without(child, below) if below else child

    if isinstance(entry.value, dict):
        kept = {key: keep(key, child) for key, child in entry.value.items() if key not in here}
        return Entry(entry.path, entry.line, kept)
    if isinstance(entry.value, list):
        return Entry(entry.path, entry.line, [keep(index, child) for index, child in enumerate(entry.value)])
    return entry


def _problem(model: type[Section], entry: Entry, error: ErrorDetails) -> Problem:
    context = error.get("ctx") or {}
    location = error["loc"]
    if context.get("key") is not None:
        location = (*location, context["key"])
    may_lack = error["type"] == "missing" or context.get("key") is not None
    path, line = _locate(entry, location, may_lack=may_lack)
    return Problem(line, path, _text(model, error, context))


def _locate(entry: Entry, location: tuple[int | str, ...], *, may_lack: bool) -> tuple[Path, int]:
    """Path and line as written in the file; parts that only pydantic knows (a union's branch) are left out."""
    for index, part in enumerate(location):
        child = entry.child(part)
        if child is not None:
            entry = child
        elif may_lack and index == len(location) - 1:
            return (*entry.path, part), entry.line
    return entry.path, entry.line


def _text(model: type[Section], error: ErrorDetails, context: dict[str, Any]) -> str:
    kind, value = error["type"], error["input"]
    if kind == "tidegate":
        return str(context["text"])
    if kind == "extra_forbidden":
        known = tuple(_model_at(model, error["loc"][:-1]).model_fields)
        return "unknown key" + did_you_mean(str(error["loc"][-1]), known)
    if kind == "literal_error":
        known = tuple(re.findall(r"'([^']*)'", context["expected"])) or (str(context["expected"]),)
        return f"{show(value)} is not one of {', '.join(known)}{_closest(value, known)}"
    if kind == "string_type" and isinstance(value, int | float):
        return f'should be text; put quotes around it: "{show(value)}"'
    plain = {
        "missing": "is required",
        "string_type": "should be text",
        "string_too_short": "should not be empty",
        "int_type": "should be a whole number",
        "int_from_float": "should be a whole number",
        "float_type": "should be a number",
        "bool_type": "should be true or false",
        "string_pattern_mismatch": f"should match {context.get('pattern')}",
        **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "should be a mapping"),
        **dict.fromkeys(("tuple_type", "list_type"), "should be a list"),
        "too_short": "should not be empty",
    }.get(kind)
    if kind == "missing":
        return "is required"
    text = plain or error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return text if isinstance(value, dict | list | tuple) else f"{text}, not {show(value)}"


def _closest(value: object, known: tuple[str, ...]) -> str:
    suggestion = did_you_mean(str(value), known)
    return suggestion if suggestion.startswith(",") else ""


def _model_at(model: type[Section], location: tuple[int | str, ...]) -> type[Section]:
    """The section class that pydantic's path leads to."""
    for part in location:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is not None:
            model = next(_sections(field.annotation), model)
    return model


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
