"""Ctrl-C, answered: what goes on without this command, what was kept, and what to type next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tidegate.core.errors import Interrupted

if TYPE_CHECKING:
    from tidegate.pipelines.environment import Environment
    from tidegate.registry.state import RolloutState, State

Explain = Callable[[KeyboardInterrupt], Interrupted]


@contextmanager
def explained(explain: Explain) -> Iterator[None]:
    """Turn a Ctrl-C inside the block into an error that `explain` words."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise explain(stop) from stop


def training(stop: KeyboardInterrupt, command: str) -> Interrupted:
    """What of a training is kept; `command` is what goes on with it."""
    hint = f"`{command}` goes on from there: what finished is not done again."
    step, kept = getattr(stop, "step", None), getattr(stop, "kept", ())
    if step is None:
        return Interrupted("Interrupted. Everything that had finished is kept.", hint)
    done = f" The result of {' and '.join(kept)} is kept." if kept else ""
    return Interrupted(f"Interrupted in the step {step}, which begins anew next time.{done}", hint)


def shipping(stop: KeyboardInterrupt, environment: Environment, before: State) -> Interrupted:
    """How far `ship` came: the ledger knows, whatever moment it was; `before` is the state when it began."""
    if (workflow := getattr(stop, "workflow", None)) is not None:
        return left_running(environment, workflow)
    followed = getattr(stop, "rollout", None)
    if followed is not None:
        return watching(environment, followed)
    state = environment.state()
    if state.challenger not in {None, before.challenger}:
        version = state.versions.get(state.challenger)
        return Interrupted(
            f"Interrupted. Version {version} is registered as release {state.challenger}; no rollout was started.",
            f"`tidegate rollout start {state.challenger}` tries it.",
        )
    return training(stop, "tidegate ship")


def left_running(environment: Environment, workflow: str) -> Interrupted:
    """A Workflow that somebody followed does not need them."""
    word = f"--env {environment.project.env} {workflow}"
    return Interrupted(
        f"You stopped watching; Workflow {workflow} goes on in the cluster.",
        f"`tidegate workflow watch {word}` follows it again, `tidegate workflow cancel {word}` ends it.",
    )


def watching(environment: Environment, rollout: str) -> Interrupted:
    """A rollout that somebody watched does not need them, unless it ended in this very moment."""
    state = environment.state()
    running = state.open_rollout
    if running is not None and running.id == rollout:
        return _goes_on(running, state)
    return Interrupted(f"You stopped watching; rollout {rollout} is over.", f"`tidegate rollout status {rollout}`.")


def _goes_on(rollout: RolloutState, state: State) -> Interrupted:
    version, champion = state.versions.get(rollout.canary), state.versions.get(rollout.stable)
    where = "with copied traffic only" if rollout.shadowing else f"at {rollout.weight} %"
    stands = "waits for a person" if rollout.state == "held" else "goes on"
    return Interrupted(
        f"You stopped watching; rollout {rollout.id} of version {version} {stands} {where} while `tidegate up` runs.",
        "`tidegate rollout watch` follows it again; `tidegate rollout abort` ends it and gives every user "
        f"version {champion}.",
    )
