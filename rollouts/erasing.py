"""A user out of what a rollout keeps of its users: no name is there, only hashes, and these go too.

No verdict changes by it. What was judged is sums of blocks, in which nobody can be told apart. A rollout that runs goes
on: the user stays in the sums that were counted, is in no cohort that is measured later, and counts as somebody new if
they come again after a restart of the stack.
"""

from __future__ import annotations

import json
from typing import Any

from tidegate.core.store import Store
from tidegate.rollouts.checkpoint import checkpoint_path, read_checkpoint
from tidegate.rollouts.exposures import erase_exposures
from tidegate.rollouts.seen import user_hash, without


def erase_user(store: Store, rollout: str, name: str, unit: int, *, over: bool) -> int:
    """Erase a user from one rollout; returns how many entries there were.

    Args:
        store: where rollouts are.
        rollout: its id.
        name: of the user, as requests carry it.
        unit: the user's keyed hash (serving/telemetry.py).
        over: whether it has ended. The checkpoint of one that runs is rewritten by whoever follows it, and holds the
            users of the open block only.
    """
    gone = erase_exposures(store, rollout, unit)
    user = user_hash(rollout, name)
    for path in store.list(f"rollouts/{rollout}/seen"):
        before = store.read(path)
        if (left := without(before, user)) != before:
            store.write(path, left)
            gone += 1
    return gone + (_from_checkpoint(store, rollout, name, unit) if over else 0)


def _from_checkpoint(store: Store, rollout: str, name: str, unit: int) -> int:
    """The users of the block that was open at the end, and those whose failures were the last."""
    document = read_checkpoint(store, rollout) or {}
    failing: dict[str, Any] = document.get("failing") or {"users": []}
    kept = [one for one in failing["users"] if one not in {name, str(unit)}]
    gone, failing["users"] = len(failing["users"]) - len(kept), kept
    for _, _, state in (document.get("builder") or {}).get("sums", []):
        left = [one for one in state["exposed"] if one[1] != unit]
        gone += len(state["exposed"]) - len(left)
        state["exposed"] = left
    if gone:
        store.write(checkpoint_path(rollout), json.dumps(document).encode())
    return gone
