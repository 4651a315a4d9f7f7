"""values.yaml and values.schema.json: written from the models, checked by Helm, read by the templates."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from golden import CHARTS, filled, values
from pydantic import BaseModel

from tidegate.core.errors import TidegateError
from tidegate.pipelines.manifests.chart_files import MODELS, schema, values_text
from tidegate.pipelines.manifests.value_types import Values

CHART_OF = {"tidegate": "platform", "tidegate-model": "model"}


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key that is no section."""
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, here)
        else:
            yield here
            for one in get_args(inner):
                if isinstance(one, type) and issubclass(one, BaseModel):
                    yield from leaves(one, (*here, "[]"))


@pytest.mark.parametrize("chart", MODELS)
def test_the_committed_files_are_those_of_the_models(chart: str) -> None:
    """A changed model without `make charts` is found here."""
    model = MODELS[chart]
    assert (CHARTS / chart / "values.schema.json").read_text() == schema(model)
    assert (CHARTS / chart / "values.yaml").read_text() == values_text(model)


@pytest.mark.parametrize("chart", MODELS)
def test_the_defaults_of_the_chart_are_those_of_the_model(chart: str) -> None:
    """values.yaml and the required keys together are what the model makes of the required keys alone."""
    required = values("minimal")[CHART_OF[chart]]
    written = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
    whole = MODELS[chart].model_validate(written | required | {"image": written["image"] | required.get("image", {})})
    assert whole.model_dump(by_alias=True) == MODELS[chart].model_validate(required).model_dump(by_alias=True)


@pytest.mark.parametrize("chart", MODELS)
def test_every_key_is_described(chart: str) -> None:
    """In the schema, and so above each key of values.yaml."""
    document = json.loads(schema(MODELS[chart]))
    sections = [document, *document["$defs"].values()]
    missing = [
        key
        for one in sections
        for key, value in one.get("properties", {}).items()
        if not value.keys() & {"description", "$ref"}
    ]
    assert missing == []
    assert all(one["additionalProperties"] is False for one in sections if "properties" in one)


@pytest.mark.parametrize("chart", MODELS)
def test_every_key_is_read_by_a_template(chart: str) -> None:
    """A key that no template reads would silently do nothing."""
    text = "\n".join(path.read_text() for path in (CHARTS / chart / "templates").rglob("*") if path.is_file())
    unread = [path for path in leaves(MODELS[chart]) if not re.search(rf"\.{path[-1]}\b|\"{path[-1]}\"", text)]
    assert unread == []


def holes(model: type[Values], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A set of values with a typing error in each of its keys, one after the other."""
    given = values(name)["platform" if model is MODELS["tidegate"] else "model"]
    for path in leaves(model):
        wrong: Any = copy.deepcopy(given)
        around = wrong
        for part in path[:-1]:
            if part == "[]":
                around[:] = [{}]
                around = around[0]
                continue
            around = around.setdefault(part, [] if "[]" in path and part == path[path.index("[]") - 1] else {})
        around[f"{path[-1]}x"] = around.pop(path[-1], "anything")
        yield ".".join(path), wrong


@pytest.mark.parametrize("chart", MODELS)
def test_a_typing_error_in_any_key_is_refused_by_the_schema(chart: str) -> None:
    """Every key of every section, with another letter in its name."""
    validator = jsonschema.Draft202012Validator(json.loads((CHARTS / chart / "values.schema.json").read_text()))
    name = "secured"
    assert list(validator.iter_errors(values(name)[CHART_OF[chart]])) == []
    wrong = list(holes(MODELS[chart], name))
    assert len(wrong) > 50
    assert [path for path, given in wrong if not list(validator.iter_errors(given))] == []


@pytest.mark.parametrize(
    ("chart", "given", "said"),
    [
        ("tidegate-model", {"replica": 3}, "replica"),
        ("tidegate-model", {"image": {"repository": "ghcr.io/acme/demand", "digest": "latest"}}, "digest"),
        ("tidegate-model", {"ladder": {"steps": [{"weight": 100}]}}, "weight"),
        ("tidegate-model", {"traffic": {"router": "nginx"}}, "router"),
        ("tidegate", {"judge": {"existingSecrets": "mine"}}, "existingSecrets"),
        ("tidegate", {"store": {"address": "/var/store"}}, "address"),
    ],
)
def test_helm_refuses_what_the_schema_refuses(chart: str, given: dict[str, Any], said: str, helm: Path) -> None:
    """With the key's name, before anything is made."""
    with pytest.raises(TidegateError, match=said):
        filled(chart, {**values("minimal")[CHART_OF[chart]], **given})
