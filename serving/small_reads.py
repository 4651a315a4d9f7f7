"""A DuckDB for small reads of the records, beside the processes that answer users: one thread and little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tidegate.core.errors import Temporary

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@contextmanager
def small_connection(what: str) -> Iterator[DuckDBPyConnection]:
    """Open one.

    Args:
        what: is read, as a sentence's subject.

    Raises:
        Temporary: a file that was listed has just been compacted or has expired, or the store does not answer.
    """
    import duckdb

    try:
        with duckdb.connect(config={"threads": 1, "memory_limit": "512MB"}) as connection:
            yield connection
    except duckdb.IOException as error:
        raise Temporary(f"{what} cannot be read now: {error}.", "Run the same command again.") from error
