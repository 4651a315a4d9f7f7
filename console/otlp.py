"""OTLP logs over HTTP: a request body, in protobuf or JSON, gzipped or not, as one mapping of attributes a record."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"


def records(body: bytes, media_type: str, encoding: str, most: int) -> Iterator[dict[str, Any]]:
    """The attributes of every log record.

    Args:
        body: of the request.
        media_type: `PROTOBUF` or `JSON`.
        encoding: of the content; gzip or nothing.
        most: bytes that it may unpack to.

    Raises:
        UsageError: it is no such body.
    """
    from google.protobuf.json_format import Parse, ParseError
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    request = ExportLogsServiceRequest()
    plain = _unpacked(body, encoding, most)
    try:
        if media_type == JSON:
            Parse(plain, request, ignore_unknown_fields=True, max_recursion_depth=20)
        else:
            request.ParseFromString(plain)
    except (DecodeError, ParseError, ValueError, RecursionError):
        # Its message would show part of the body.
        raise UsageError("The body is no OTLP logs request.", f"Send {PROTOBUF} or {JSON} to /v1/logs.") from None
    for resource in request.resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                yield {one.key: _value(one.value) for one in record.attributes}


def _unpacked(body: bytes, encoding: str, most: int) -> bytes:
    if encoding in {"", "identity"}:
        return body
    if encoding != "gzip":
        raise UsageError("The content encoding is not known.", "Send gzip, or nothing.")
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, most)
    except zlib.error:
        raise UsageError("The body is not gzip.", "Leave the header content-encoding out.") from None
    if unzip.unconsumed_tail or not unzip.eof:
        raise UsageError(f"The body unpacks to more than {most:,} bytes, or ends early.", "Send it in parts.")
    return plain


def _value(value: AnyValue) -> str | int | float | bool | None:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind in {"string_value", "int_value", "double_value", "bool_value"} else None
