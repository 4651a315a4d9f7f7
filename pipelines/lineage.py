"""From a prediction id in a response to the commit and data behind it: gateway log or record, release, run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidegate.core.errors import UsageError
from tidegate.core.units import format_duration
from tidegate.pipelines.environment import Environment
from tidegate.registry import lineage, releases
from tidegate.serving.gateway.access_log import LOG_NAME, AccessRecord, parse_record, rotated_path, rotated_sequences
from tidegate.serving.telemetry import INPUT, Predictions


def why(environment: Environment, question: str) -> dict[str, Any]:
    """Answer `tidegate why`.

    Raises:
        UsageError: no such prediction, release, version or data.
    """
    state, events = environment.state(), environment.ledger.events()
    if ":" in question:
        asked = lineage.find_releases(environment.store, question)
        counts = _records(environment).counts()
        found = [{**lineage.of_release(one, state, events), "predictions": counts.get(one.id, 0)} for one in asked]
        return {"kind": "lineage", **found[0]} if len(found) == 1 else {"kind": "lineage", "releases": found}
    told = _prediction(environment, question)
    if told is None:
        raise UsageError(
            f"No prediction {question} is in the gateway's log or among the recorded ones.",
            "The id is in the header x-tidegate-prediction-id of an answer. Records are kept for "
            f"{format_duration(environment.project.config.serve.capture.retention)} (serve.capture.retention).",
        )
    traced = lineage.of_release(releases.load(environment.store, told.pop("release")), state, events)
    return {"kind": "lineage", "prediction": question, **told, **traced}


def _records(environment: Environment) -> Predictions:
    return Predictions(environment.store, environment.stream)


def _prediction(environment: Environment, question: str) -> dict[str, Any] | None:
    """What the gateway's log and the record say of a prediction: the log has the user's name, the record the question.

    `release` is always there: of a request that reached none nothing is known.
    """
    logged = find_prediction(environment.gateway_dir / LOG_NAME, question)
    record = _records(environment).find(question)
    if logged is not None and logged.release is not None:
        told: dict[str, Any] = {
            "arm": logged.arm,
            "at": datetime.fromtimestamp(logged.at, UTC).isoformat(),
            "unit": logged.unit,
            "rollout": logged.rollout,
            "status": logged.status,
            "release": logged.release,
        }
    elif record is not None and record["release"]:
        at = record["at"].replace(tzinfo=UTC).isoformat()
        told = {"arm": record["arm"], "at": at, "status": record["status"], "release": record["release"]}
    else:
        return None
    return {**told, **({} if record is None else _asked(record))}


def _asked(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record knows and the gateway does not: the row and the model's answer."""
    answer = record["label"] if record["value"] is None else record["value"]
    inputs = {name.removeprefix(INPUT): value for name, value in record.items() if name.startswith(INPUT)}
    known = {"unit_hash": record["unit"], "caller": record["caller"], "answer": answer, "score": record["score"]}
    return {**{name: value for name, value in known.items() if value is not None}, "inputs": inputs}


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
