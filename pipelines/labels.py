"""Labels and outcomes of a file into the store of an environment, and what that says about the predictions there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core.errors import TidegateError
from tidegate.serving.labels.files import open_lines
from tidegate.serving.labels.rows import Kind
from tidegate.serving.labels.status import Matched, Status, matched_file
from tidegate.serving.labels.status import status as status_of
from tidegate.serving.labels.stored import Ingested, ingest

if TYPE_CHECKING:
    from tidegate.pipelines.environment import Environment


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a file, and whom its new rows name."""

    kind: Kind
    source: str
    ingested: Ingested
    matched: Matched

    def document(self) -> dict[str, Any]:
        """As `labels ingest --json` prints it."""
        return {
            "kind": self.kind,
            "accepted": self.ingested.accepted,
            "duplicates": self.ingested.duplicates,
            "rejected": [{"line": one.line, "why": one.why} for one in self.ingested.rejected],
            "matched": self.matched.known,
            "unknown": self.matched.unknown,
            "strange": dict(self.matched.strange),
        }

    def require(self) -> None:
        """Refuse to call it done where lines were left out.

        Raises:
            TidegateError: some were.
        """
        if self.ingested.rejected:
            count = len(self.ingested.rejected)
            raise TidegateError(
                f"{count:,} line{'s' * (count > 1)} of {self.source} cannot be used.",
                "The others are kept. Mend these and give the whole file again: nothing counts twice.",
            )


def take(environment: Environment, path: Path, kind: Kind = "labels", source: str | None = None) -> Taken:
    """Keep the labels or outcomes of a file.

    A column may have the name that tidegate.yaml gives it: `serve.id` for the caller's id, `data.target` for the label.

    Args:
        environment: whose store.
        path: of a CSV, JSON Lines or Parquet file.
        kind: what it holds.
        source: what to call it; default: its name.

    Raises:
        UsageError: there is no such file.
        TidegateError: it is empty or no table, or its columns are others.
    """
    import duckdb

    now, store, stream = datetime.now(UTC), environment.store, environment.stream
    config = environment.project.config
    aliases = {config.data.target: "label"} if kind == "labels" else {}
    if config.serve.id:
        aliases[config.serve.id] = "id"
    source = source or path.name
    done = ingest(store, stream, kind, open_lines(path, kind, aliases, source), now)
    with duckdb.connect() as connection:
        return Taken(kind, source, done, matched_file(connection, store, stream, kind, done.file, now=now))


def status(environment: Environment, since: datetime | None = None) -> Status:
    """What labels there are for the predictions of an environment, of all times or since one."""
    import duckdb

    with duckdb.connect() as connection:
        return status_of(connection, environment.store, environment.stream, datetime.now(UTC), since)
