"""Open Inference Protocol v2, the JSON form: columns in, columns out.

https://github.com/kserve/open-inference-protocol: an input is one column here, shape [rows] or [rows, 1].
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tidegate.serving.service.manifest import Column, Manifest
from tidegate.serving.service.model import Answer
from tidegate.serving.service.schema import BadRequest, Problem, Row, Schema

_DATATYPES = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "string": "BYTES", "datetime": "BYTES"}


# fmt: off
_Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES",
]
# fmt: on


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: _Datatype
    data: list[Any]


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None


_decoder = msgspec.json.Decoder(_Request)


def decode(body: bytes, schema: Schema) -> tuple[str | None, list[Row]]:
    """The request's id and its rows.

    Raises:
        BadRequest: 400, 413 or 422, as for `/predict`.
    """
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at ")
        raise BadRequest(422, [Problem(place.strip("`").removeprefix("$").removeprefix("."), text)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(400, [Problem("", f"the body is not JSON: {error}")]) from error
    if not request.inputs:
        raise BadRequest(422, [Problem("inputs", "expected at least one input")])
    count = _rows(request.inputs)
    if count > schema.max_rows:
        raise BadRequest(413, [Problem("inputs", f"{count} rows; one request may hold {schema.max_rows}")])
    columns = {entry.name: _flat(entry) for entry in request.inputs}
    if len(columns) < len(request.inputs):
        raise BadRequest(422, [Problem("inputs", "an input is named twice")])
    names = list(columns)
    return request.id, schema.check(
        [dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    )


def _rows(inputs: list[_Input]) -> int:
    problems: list[Problem] = []
    count = inputs[0].shape[0] if inputs[0].shape else 0
    for i, entry in enumerate(inputs):
        if entry.shape not in ([count], [count, 1]) or count < 1:
            problems.append(
                Problem(f"inputs[{i}].shape", f"expected [{max(count, 1)}] or [{max(count, 1)}, 1] as in the first")
            )
        elif len(_flat(entry)) != count:
            problems.append(Problem(f"inputs[{i}].data", f"expected {count} values"))
    if problems:
        raise BadRequest(422, problems[:100])
    return count


def _flat(entry: _Input) -> list[Any]:
    if entry.data and all(isinstance(value, list) and len(value) == 1 for value in entry.data):
        return [value[0] for value in entry.data]
    return entry.data


def encode(manifest: Manifest, request_id: str | None, answer: Answer) -> bytes:
    """The response body."""
    document: dict[str, Any] = {"model_name": manifest.model, "model_version": str(manifest.version)}
    if request_id is not None:
        document["id"] = request_id
    outputs = [_output("predictions", answer.predictions)]
    if answer.probabilities is not None:
        width = len(answer.probabilities[0])
        flat = [value for row in answer.probabilities for value in row]
        outputs.append(
            {"name": "probabilities", "datatype": "FP64", "shape": [len(answer.probabilities), width], "data": flat}
        )
    return msgspec.json.encode({**document, "outputs": outputs})


def _output(name: str, values: list[Any]) -> dict[str, Any]:
    kinds = {type(value) for value in values}
    datatype = "BYTES"
    if kinds == {bool}:
        datatype = "BOOL"
    elif kinds == {int}:
        datatype = "INT64"
    elif kinds <= {int, float}:
        datatype = "FP64"
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": values}


def metadata(manifest: Manifest) -> bytes:
    """What `GET /v2/models/{name}` answers: inputs and outputs with their types."""

    def entry(column: Column) -> dict[str, Any]:
        return {"name": column.name, "datatype": _DATATYPES[column.kind], "shape": [-1]}

    outputs: list[dict[str, Any]] = [_output("predictions", manifest.golden.predictions[:1])]
    outputs[0] = {key: value for key, value in outputs[0].items() if key != "data"} | {"shape": [-1]}
    if manifest.classes is not None:
        outputs.append({"name": "probabilities", "datatype": "FP64", "shape": [-1, len(manifest.classes)]})
    return msgspec.json.encode(
        {
            "name": manifest.model,
            "versions": [str(manifest.version)],
            "platform": f"tidegate_{manifest.runtime}",
            "inputs": [entry(column) for column in manifest.columns],
            "outputs": outputs,
        }
    )
