"""How things are called and coloured on every page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from tidegate.registry.state import RetrainState, State

Look = Literal["good", "bad", "open", "plain"]
ROLLOUT_LOOKS: Final[Mapping[str, Look]] = {
    "running": "open",
    "held": "open",
    "promoted": "good",
    "rolled_back": "bad",
    "aborted": "bad",
    "inconclusive": "plain",
    "replaced": "plain",
}
WINDOW_LOOKS: Final[Mapping[str, Look]] = {"drift": "bad", "no_drift": "good", "cannot_tell": "plain"}
WINDOW_WORDS: Final[Mapping[str, str]] = {"drift": "drift", "no_drift": "no drift", "cannot_tell": "cannot tell"}
RETRAIN_WORDS: Final[Mapping[str | None, str]] = {
    None: "runs",
    "released": "released",
    "registered": "waits for a person",
    "kept": "champion kept",
    "refused": "refused by the gate",
    "failed": "failed",
    "former": "a former champion is better",
    "nothing_new": "nothing new to learn from",
}


def version(release: str | None, state: State) -> str:
    """A release by the number that people know it by."""
    return f"version {state.versions[release]}" if release and release in state.versions else str(release or "nothing")


def retrain_text(retrain: RetrainState) -> str:
    """How a retrain stands."""
    return RETRAIN_WORDS.get(retrain.outcome, str(retrain.outcome))
