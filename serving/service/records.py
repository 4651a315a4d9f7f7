"""What one recorded prediction holds, and where it lies: the layout of telemetry, version 1.

The serving process writes it and the rest of tidegate reads it, so both stand on this file. pyarrow loads when used.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from tidegate.core.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

VERSION: Final = 1
_SALT: Final = "telemetry/salt"

INPUT: Final = "input."
"""What the names of the model's own columns begin with, so that one called `id` is not taken for ours."""

PLACES: Final[Mapping[str, str]] = {
    "id": "VARCHAR",  # prediction id; row k of a request with several rows is <id>.<k>
    "at": "TIMESTAMP",  # when the request came, UTC
    "unit": "BIGINT",  # keyed hash of the user, null without one
    "caller": "VARCHAR",  # the request's name in the caller's words (serve.id)
    "arm": "VARCHAR",  # stable, canary or shadow; empty past the gateway
    "release": "VARCHAR",
    "version": "INTEGER",
    "status": "SMALLINT",  # of the answer: 200, 500 or 504
    "seconds": "FLOAT",  # from the request's head to its answer
    "label": "VARCHAR",  # predicted class, as label_text writes it
    "value": "DOUBLE",  # predicted quantity
    "probabilities": "FLOAT[]",  # in the order of the file's tidegate.classes
    "score": "FLOAT",  # of two classes the second one's probability, else the highest
    "response": "VARCHAR",  # what a respond hook made of it, as JSON
}
"""The fixed columns with their SQL types; `input.<column>` follow."""


KINDS: Final[Mapping[str, str]] = {
    "number": "DOUBLE",
    "integer": "BIGINT",
    "boolean": "BOOLEAN",
    "string": "VARCHAR",
    "datetime": "TIMESTAMP",
}
"""The SQL type of `input.<column>` by the column's kind."""


CAPTURE: Final = "tidegate.capture"
"""Where a file's metadata says what `Hidden` holds; files of older versions do not."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """The columns of which a record does not hold what came: left out, or a keyed hash only (`serve.capture`)."""

    exclude: frozenset[str] = frozenset()
    hash: frozenset[str] = frozenset()

    @staticmethod
    def of(exclude: Iterable[str], hashed: Iterable[str]) -> Hidden:
        """Of the config's two lists; what is left out is not hashed."""
        left_out = frozenset(exclude)
        return Hidden(left_out, frozenset(hashed) - left_out)

    def kept(self, column: str) -> Literal["as it came", "as a hash", "not at all"]:
        """How a column is recorded."""
        return "not at all" if column in self.exclude else "as a hash" if column in self.hash else "as it came"

    def to_json(self) -> dict[str, list[str]]:
        """As files and references hold it."""
        return {"exclude": sorted(self.exclude), "hash": sorted(self.hash)}

    @staticmethod
    def from_json(document: Mapping[str, Sequence[str]]) -> Hidden:
        """Read what `to_json` wrote."""
        return Hidden(frozenset(document["exclude"]), frozenset(document["hash"]))


def folder(stream: str) -> str:
    """Where the records of a model in an environment are."""
    return f"telemetry/model={stream}"


def hour_folder(stream: str, at: datetime) -> str:
    """Where records of the hour of `at` are; a time without a zone is in UTC."""
    at = utc(at)
    return f"{folder(stream)}/date={at:%Y-%m-%d}/hour={at:%H}"


def utc(moment: datetime) -> datetime:
    """The same moment in UTC; one without a zone is in UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def salt_of(store: Store) -> bytes:
    """The store's own secret, 32 random bytes: without it nobody finds a user in the records by trying names."""
    try:
        return store.read(_SALT)
    except FileNotFoundError:
        store.put_if_absent(_SALT, secrets.token_bytes(32))
        return store.read(_SALT)


def unit_hash(salt: bytes, unit: str) -> int:
    """A user as 64 bits that only the store's secret connects with the name (BLAKE2b with a key, RFC 7693)."""
    return name_hash(salt, unit.encode("utf-8", "surrogateescape"))


def name_hash(salt: bytes, name: bytes) -> int:
    """The same of a name as a header has it."""
    return int.from_bytes(hashlib.blake2b(name, key=salt, digest_size=8).digest(), "little", signed=True)


def text_hash(salt: bytes, value: Any) -> str:
    """A cell of a hashed column as 32 hexadecimal digits: equal cells stay equal, and nobody can read them."""
    text = value if isinstance(value, str) else label_text(value)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), key=salt, digest_size=16).hexdigest()


def label_text(value: Any) -> str:
    """A class as text, the same whether it comes from a model, a CSV file or JSON: true, 1 and 1.0 as `true`, `1`, `1`.

    Args:
        value: a string, a number or a boolean, numpy's too.
    """
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value).strip()
    if text.lower() in {"true", "false"}:
        return text.lower()
    try:
        number = float(text)
    except ValueError:
        return text
    # A code such as 007 or 1e3 in text is a name, not a number.
    whole = number.is_integer() and text.removesuffix(".0").lstrip("+-").isdecimal()
    return str(int(number)) if whole and not _padded(text) else text


def _padded(text: str) -> bool:
    digits = text.lstrip("+-")
    return len(digits.removesuffix(".0")) > 1 and digits.startswith("0")


def metadata_of(classes: Sequence[Any] | None, task: str, hidden: Hidden | None = None) -> dict[str, str]:
    """What a file says about all of its rows; `hidden` None: nobody knows."""
    said = {} if hidden is None else {CAPTURE: json.dumps(hidden.to_json())}
    return said | {
        "tidegate.schema": str(VERSION),
        "tidegate.classes": json.dumps([label_text(one) for one in classes or ()]),
        "tidegate.task": task,
    }


def arrow_type(sql: str) -> pa.DataType:
    """The Arrow type of one of the SQL types above."""
    import pyarrow as pa

    return {
        "VARCHAR": pa.string(),
        "TIMESTAMP": pa.timestamp("us"),
        "BIGINT": pa.int64(),
        "INTEGER": pa.int32(),
        "SMALLINT": pa.int16(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "FLOAT[]": pa.list_(pa.float32()),
        "BOOLEAN": pa.bool_(),
    }[sql]


def fixed_fields() -> list[pa.Field]:
    """The columns that every file has."""
    import pyarrow as pa

    return [pa.field(name, arrow_type(kind)) for name, kind in PLACES.items()]


def schema_of(
    rows: Sequence[Mapping[str, Any]], classes: Sequence[Any] | None, task: str, hidden: Hidden | None = None
) -> pa.Schema:
    """The schema of rows whose inputs have the types that pyarrow sees in them."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row if name.startswith(INPUT))
    inputs = [pa.field(name, pa.array([row.get(name) for row in rows]).type) for name in names]
    return pa.schema([*fixed_fields(), *inputs], metadata=metadata_of(classes, task, hidden))


def to_parquet(table: pa.Table) -> bytes:
    """The bytes of a file."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, **written_as(table.schema))
    return buffer.getvalue()


def written_as(schema: pa.Schema) -> dict[str, Any]:
    """How a file is written: a dictionary of columns with few values only, as it makes the others slower and larger."""
    texts = [field.name for field in schema if field.name.startswith(INPUT) and str(field.type) == "string"]
    # Lowest and highest value only where somebody skips what they rule out: of all columns they cost a quarter more.
    return {"compression": "zstd", "use_dictionary": [*_FEW, *texts], "write_statistics": [*_FEW, "at", "unit"]}


_FEW: Final = ("arm", "release", "version", "status", "label")
