"""What a rule that decides rollouts looks like to the simulation: it sees blocks and moves the weight of each run."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from tidegate.rollouts.simulation.traffic import Shown, View

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ROLLED_BACK, PROMOTED = 0, 100
"""Weights at which a rollout is over."""


class Policy(Protocol):
    """One rule, deciding many runs side by side.

    Attributes:
        name: as the table says it.
        view: how it counts.
        weight: whole per cents on the canary, shape (runs,); 0: rolled back, 100: promoted.
        waits: which runs wait for a person, shape (runs,).
    """

    name: str
    view: View
    weight: Ints
    waits: Mask

    def see(self, shown: Shown) -> None:
        """Take in a block that was drawn at `weight`, and move `weight` for the next one."""


def running(weight: Ints) -> Mask:
    """Which runs are not over."""
    return (weight > ROLLED_BACK) & (weight < PROMOTED)
