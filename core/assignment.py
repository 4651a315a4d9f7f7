"""Which arm a user gets: the gateway's rule, computable offline.

Envoy hashes "<rollout>:<unit>" with xxHash64 (seed 0) and walks the weighted clusters in order, so with the canary
first and a total of 100 the rule is `xxh64 % 100 < weight`. A larger weight only adds users to the canary, and another
rollout id deals the cards anew.
"""

from __future__ import annotations

from typing import Final, Literal

Arm = Literal["stable", "canary"]
TOTAL: Final = 100


def bucket(rollout: str, unit: str) -> int:
    """Return the whole per cent (0..99) at which `unit` sits in `rollout`; the canary has those below its weight."""
    import xxhash

    return xxhash.xxh64_intdigest(f"{rollout}:{unit}".encode()) % TOTAL


def assigned_arm(rollout: str, unit: str, weight: int) -> Arm:
    """Return the arm of `unit` when the canary of `rollout` has `weight` per cent (0..100)."""
    return "canary" if bucket(rollout, unit) < weight else "stable"
