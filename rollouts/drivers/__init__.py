"""Who moves the traffic of a rollout. `local.py` writes the ledger that `tidegate up` follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tidegate.registry.state import RolloutState
    from tidegate.rollouts.plan import RolloutPlan


class RolloutDriver(Protocol):
    """Starts, shows and ends rollouts. It has no `set_weight`: on a cluster somebody else owns the loop."""

    def start(self, release: str, plan: RolloutPlan, *, by_hand: bool, replace: bool) -> RolloutState:
        """Begin a rollout of `release` against the champion."""

    def status(self, rollout: str | None = None) -> dict[str, Any]:
        """The document of `rollout status`; the newest rollout by default."""

    def promote(self, *, full: bool, reason: str, actor: str = "", seen: RolloutState | None = None) -> RolloutState:
        """Pass the step, or go to 100 % at once, whatever the judge says.

        `actor` is by default who runs this, `seen` the rollout of now; one that has left that step is not touched.
        """

    def abort(self, reason: str, actor: str = "", seen: RolloutState | None = None) -> RolloutState:
        """Send every user back to the champion."""
