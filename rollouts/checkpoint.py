"""Where a rollout's loop leaves what it knows, for itself after a kill and for whoever asks how the rollout stands.

Apart from the loop, because who only asks needs none of its statistics.
"""

from __future__ import annotations

import json
from typing import Any

from tidegate.core.store import Store


def read_checkpoint(store: Store, rollout: str) -> dict[str, Any] | None:
    """The newest checkpoint of a rollout; its `verdict` is what `rollout status` shows. None before there is one."""
    try:
        document: dict[str, Any] = json.loads(store.read(checkpoint_path(rollout)))
    except FileNotFoundError:
        return None
    return document


def checkpoint_path(rollout: str) -> str:
    """The path of a rollout's checkpoint in the store."""
    return f"rollouts/{rollout}/checkpoint.json"
