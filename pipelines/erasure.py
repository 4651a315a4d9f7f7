"""One user's records out of the store and out of the gateway's log, by the name that requests carry.

The ledger tells that somebody was erased, by whom, when, why and how much there was: never who.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from tidegate.core.errors import UsageError
from tidegate.pipelines.environment import Environment
from tidegate.registry.ledger import Draft
from tidegate.rollouts import erasing
from tidegate.serving import upkeep
from tidegate.serving.gateway.access_log import LOG_NAME, forget, rotated_path, rotated_sequences
from tidegate.serving.telemetry import salt_of, unit_hash


@dataclass(frozen=True, slots=True)
class Erasure:
    """How much of the user there was.

    Attributes:
        predictions: recorded.
        labels: of these.
        outcomes: recorded.
        requests: in the gateway's log.
        exposures: entries in what rollouts keep of their users.
    """

    predictions: int
    labels: int
    outcomes: int
    requests: int
    exposures: int = 0


def erase_user(environment: Environment, unit: str, reason: str) -> Erasure:
    """Erase a user everywhere but in the training data, and leave an event that does not name them.

    Args:
        environment: whose records.
        unit: the user, as requests name them.
        reason: kept in the ledger.

    Raises:
        UsageError: the reason names the user.
        Conflict: somebody else rewrites the records now.
    """
    _require_nameless(reason, unit)
    store, hashed = environment.store, unit_hash(salt_of(environment.store), unit)
    # Before the records go: a rollout must not meet a user whose answer is there no more.
    exposures = sum(
        erasing.erase_user(store, one.id, unit, hashed, over=not one.open) for one in environment.state().rollouts
    )
    erased = upkeep.erase(store, environment.stream, hashed)
    log = environment.gateway_dir / LOG_NAME
    paths = [log, *(rotated_path(log, one) for one in rotated_sequences(log))]
    requests = sum(forget(path, unit) for path in paths if path.exists())
    found = Erasure(erased.predictions, erased.labels, erased.outcomes, requests, exposures)
    environment.ledger.append(lambda _: Draft("erased", {**asdict(found), "reasons": [reason]}))
    return found


def _require_nameless(reason: str, unit: str) -> None:
    """Refuse a reason with the name as a word in it: nothing is ever erased from the ledger."""
    if re.search(rf"(?<!\w){re.escape(unit)}(?!\w)", reason, re.IGNORECASE):
        raise UsageError(
            "The reason names the user, and the ledger keeps it for ever. Nothing was erased.",
            "Name the request instead: --reason 'ticket 4711'.",
        )
