"""From a prediction id in a response to the commit and data behind it: gateway log, release, run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidegate.core.errors import UsageError
from tidegate.pipelines.environment import Environment
from tidegate.registry import lineage, releases
from tidegate.serving.gateway.access_log import LOG_NAME, AccessRecord, parse_record, rotated_path, rotated_sequences


def why(environment: Environment, question: str) -> dict[str, Any]:
    """Answer `tidegate why`.

    Raises:
        UsageError: no such prediction, release, version or data.
    """
    state, events = environment.state(), environment.ledger.events()
    if ":" in question:
        found = [lineage.of_release(one, state, events) for one in lineage.find_releases(environment.store, question)]
        return {"kind": "lineage", **found[0]} if len(found) == 1 else {"kind": "lineage", "releases": found}
    record = find_prediction(environment.gateway_dir / LOG_NAME, question)
    if record is None or record.release is None:
        raise UsageError(
            f"No prediction {question} is in the gateway's log.",
            "The id is in the header x-tidegate-prediction-id of an answer; old logs are removed.",
        )
    traced = lineage.of_release(releases.load(environment.store, record.release), state, events)
    return {
        "kind": "lineage",
        "prediction": question,
        "arm": record.arm,
        "at": datetime.fromtimestamp(record.at, UTC).isoformat(),
        "unit": record.unit,
        "rollout": record.rollout,
        "status": record.status,
        **traced,
    }


def find_prediction(log: Path, prediction: str) -> AccessRecord | None:
    """The line of the request that made a prediction (`<id>` or, for a row, `<id>.<k>`), newest file first."""
    request, dot, row = prediction.rpartition(".")
    wanted = request if dot and row.isdigit() else prediction
    needle = wanted.encode()
    if not needle:
        return None
    for path in (log, *(rotated_path(log, one) for one in reversed(rotated_sequences(log)))):
        if not path.exists():
            continue
        with path.open("rb") as file:
            for line in file:
                if needle in line and (record := _record(line)) is not None and record.prediction == wanted:
                    return record
    return None


def _record(line: bytes) -> AccessRecord | None:
    """The record of a whole line; None for one that is still being written, or that a killed Envoy left torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        return parse_record(line)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
