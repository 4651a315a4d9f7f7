"""One user's records out of the store and out of the gateway's log, by the name that requests carry."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.pipelines.environment import Environment
from tidegate.serving import upkeep
from tidegate.serving.gateway.access_log import LOG_NAME, forget, rotated_path, rotated_sequences
from tidegate.serving.telemetry import salt_of, unit_hash


@dataclass(frozen=True, slots=True)
class Erasure:
    """How many records of the user there were: predictions, labels, outcomes, and requests in the gateway's log."""

    predictions: int
    labels: int
    outcomes: int
    requests: int


def erase_user(environment: Environment, unit: str) -> Erasure:
    """Erase a user everywhere but in the training data; the ledger has never known any.

    Raises:
        Conflict: somebody else rewrites the records now.
    """
    erased = upkeep.erase(environment.store, environment.stream, unit_hash(salt_of(environment.store), unit))
    log = environment.gateway_dir / LOG_NAME
    paths = [log, *(rotated_path(log, one) for one in rotated_sequences(log))]
    requests = sum(forget(path, unit) for path in paths if path.exists())
    return Erasure(erased.predictions, erased.labels, erased.outcomes, requests)
