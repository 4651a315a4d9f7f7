"""The second half of the demo's story: the world changes, and nobody types a command until a new version is promoted.

The images that come are a third as bright. The monitor of `up` finds it, the loop trains on what was recorded, and the
rollout's judge decides; here they are only waited for, and what they write into the ledger is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from tidegate.core.artifacts import GateResult
from tidegate.core.errors import TidegateError
from tidegate.pipelines import flows
from tidegate.pipelines.flows import Shipped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tidegate.core.progress import Progress
    from tidegate.pipelines.environment import Environment
    from tidegate.registry.state import RetrainState, State, Watched

Found = TypeVar("Found")

# The champion is right about every second image then, and a model trained on such images about 19 times of 20.
_BRIGHTNESS: Final = 0.35
# Each image with so much other noise: most rows that two models are compared on are then new to both.
_COPIES: Final = 4
_POLL_SECONDS: Final = 0.3
# On two processors that do nothing else it takes a minute until a window asks, half a minute to train, and a minute to
# decide; a busy machine gets several times that.
_PATIENCE: Final = 400.0


def dimmed(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Images as a worse camera takes them, `_COPIES` of each, in their order.

    Pixels that never have ink stay empty, so the contract of the data is kept.

    Args:
        images: brightness of each pixel, 0 to 16, shape (images, pixels).
    """
    import numpy as np

    many = np.repeat(images, _COPIES, axis=0)
    noise = np.random.default_rng(0).integers(-1, 2, many.shape) * (images.max(axis=0) > 2)  # noqa: PLR2004 - ink, not dust
    darker: NDArray[np.float64] = np.clip(np.rint(many * _BRIGHTNESS) + noise, 0, 16)
    return darker


def asked(environment: Environment, progress: Progress) -> RetrainState:
    """Wait until a window has asked for a retrain and it began; every window until then is told.

    Raises:
        TidegateError: it takes too long.
    """
    before = environment.state().watched
    told = before.until if before else ""

    def begun(state: State) -> RetrainState | None:
        nonlocal told
        for window in state.windows:
            if window.until > told:
                told = window.until
                progress.note(f"   {_seen(window)}")
        return state.retrains[-1] if state.retrains else None

    return _wait(environment, progress, "watch the windows", begun)


def ended(environment: Environment, progress: Progress) -> RetrainState:
    """Wait until the newest retrain has an outcome.

    Raises:
        TidegateError: it takes too long.
    """

    def over(state: State) -> RetrainState | None:
        return state.retrains[-1] if state.retrains[-1].outcome else None

    return _wait(environment, progress, "train on what was recorded, gate, compare", over)


def judged(environment: Environment, retrain: RetrainState, progress: Progress, timeout: float) -> Shipped:
    """What became of what the retrain released: the end of its rollout; "none" where there is no rollout.

    Args:
        environment: where.
        retrain: with its outcome.
        progress: told how the rollout goes.
        timeout: seconds to follow it.
    """
    state, release = environment.state(), retrain.release or ""
    rollout = state.rollout
    if rollout is None or rollout.canary != release:
        return Shipped("none", retrain.release, state.versions.get(release), reasons=retrain.reasons)
    shipped = flows.follow(environment, rollout.id, progress, timeout)
    return replace(shipped, gate=GateResult(passed=True, reasons=state.gates[release].reasons))


def _wait(environment: Environment, progress: Progress, title: str, find: Callable[[State], Found | None]) -> Found:
    deadline = time.monotonic() + _PATIENCE
    with progress.task(title):
        while time.monotonic() < deadline:
            found = find(environment.state())
            if found is not None:
                return found
            time.sleep(_POLL_SECONDS)
    newest = environment.state().watched
    raise TidegateError(
        f"Nothing came of it in {_PATIENCE:.0f} seconds ({title}).",
        f"The newest window says: {newest.reason}." if newest else "No window was looked at; is the machine very busy?",
    )


def _seen(window: Watched) -> str:
    since, until = (datetime.fromisoformat(one) for one in (window.since, window.until))
    drift = f"drift in {window.share:.0%} of what the model decides by" if window.share else "no drift"
    lost = "; its labels show that quality was lost" if window.lost else ""
    asks = "; asks for a retrain" if window.asked else ""
    return f"{since:%H:%M:%S} to {until:%H:%M:%S} UTC: {drift}{lost}{asks}"
