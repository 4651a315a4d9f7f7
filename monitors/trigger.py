"""When a window of live data is reason enough to train again, and what holds that back. Pure: a state and a window in.

Retraining can make things worse, because regimes return (measured in docs/retrain.md), so no single sign decides.
Labels outweigh whatever stands in for them: where matured labels show that quality is kept, drift alone asks for
nothing. What remains must last for some windows in a row, and then every brake must be open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from tidegate.core.units import format_duration

if TYPE_CHECKING:
    from tidegate.core.config_live import Monitor, Retrain
    from tidegate.registry.state import RetrainState, State, Watched


LEAST_ROWS: Final = 1_000
"""Fewer rows are not trained on alone, however much has changed: a model of some hundred rows wins nothing."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What one closed window showed.

    Attributes:
        since: when the window began, ISO 8601 in UTC.
        outcome: of its data and scores: drift, no_drift or cannot_tell.
        lost: whether quality was lost on matured labels; None: nobody can tell yet.
        drift: the sentence that says what drifted.
        quality: the sentence that says how good the champion was.
        former: the sentence that says which former champion answers this window's rows better; empty if none does.
        short: the sentence that says how much better a former champion was in its time; empty if none was, beyond the
            tolerance. A model trained while the world changed keeps a promise that was low from the start.
    """

    since: str
    outcome: Literal["drift", "no_drift", "cannot_tell"]
    lost: bool | None
    drift: str = ""
    quality: str = ""
    former: str = ""
    short: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to train again, and why or why not, in a sentence.

    `former` says that a former champion was better in this window; `trains` is False where nothing else asked, so that
    nothing is trained if it is no better any more when somebody acts.
    """

    asked: bool
    reason: str
    former: bool = False
    trains: bool = True

    def to_json(self) -> dict[str, object]:
        """As the event `watched` and `monitor run --json` hold it."""
        document: dict[str, object] = {"asked": self.asked, "reason": self.reason}
        return document | ({"former": True, "trains": self.trains} if self.former else {})


def decide(state: State, seen: Signs, retrain: Retrain, monitor: Monitor, now: datetime) -> Decision:
    """Whether this window asks for a retrain.

    Args:
        state: of the ledger, without this window.
        seen: what it showed.
        retrain: the section `retrain`.
        monitor: the section `monitor`; `drift.windows` alarming windows in a row ask.
        now: with a zone.
    """
    if state.champion is None:
        return Decision(asked=False, reason="there is no champion")
    if seen.former:
        return _back(state, seen, retrain, monitor, now)
    why, alarming = _alarm(seen, retrain)
    run = 1 + (_run_before(state, retrain) if alarming else 0)
    if not alarming and seen.short and "quality" in retrain.on:
        why, run = seen.short, 1 + sum(1 for _ in _windows_of_champion(state))
        alarming = not settled(state)
        why += "" if alarming else ", and a retrain has found nothing better since"
    if not alarming:
        return Decision(asked=False, reason=why)
    if run < monitor.drift.windows:
        return Decision(asked=False, reason=f"{why}; window {run} of the {monitor.drift.windows} in a row that count")
    lasted = f"{why}; {run} windows in a row" if run > 1 else why
    held = brake(state, retrain, now)
    return Decision(not held, f"{lasted}, but {held}" if held else lasted)


def _back(state: State, seen: Signs, retrain: Retrain, monitor: Monitor, now: datetime) -> Decision:
    """Ask for a former champion, which costs neither cooldown nor budget since nothing is trained for it.

    One that was asked for and was no better by the time somebody acted must win twice as many windows in a row as
    before: at the edge of what can be told, windows would ask for ever.
    """
    alone = decide(state, replace(seen, former=""), retrain, monitor, now)
    failed, run = in_vain(state), 1 + _former_before(state)
    needed = 2 ** len(failed)
    if run < needed:
        why = (
            f"{seen.former}, which was no more so when retrain {failed[-1].id} looked; window {run} of the {needed} "
            f"in a row that count"
        )
        return replace(alone, reason=f"{alone.reason}; {why}" if alone.asked else why, former=True)
    held = brake(state, retrain, now, trains=False)
    return Decision(not held, f"{seen.former}, but {held}" if held else seen.former, former=True, trains=alone.asked)


def in_vain(state: State) -> tuple[RetrainState, ...]:
    """The retrains that looked for a former champion and found none better than the champion of now, oldest first."""
    crowned = state.retired.at if state.retired is not None else ""
    return tuple(one for one in state.retrains if _is_in_vain(one) and one.ended_at > crowned)


def _is_in_vain(one: RetrainState) -> bool:
    """A window asked for it, and it ended before it took any data."""
    return one.outcome == "nothing_new" and one.data is None and bool(one.window)


def brake(state: State, retrain: Retrain, now: datetime, *, trains: bool = True) -> str:
    """What holds an automatic retrain back, as a sentence without a capital; empty if nothing does.

    Args:
        state: of the ledger.
        retrain: the section `retrain`.
        now: with a zone.
        trains: False: it only goes back to a former champion, which costs no training.
    """
    if state.frozen is not None:
        return f"retrains are frozen: {state.frozen} (`tidegate unfreeze --reason TEXT` allows them again)"
    if state.open_retrain is not None:
        return f"retrain {state.open_retrain.id} is not over yet"
    if state.open_rollout is not None:
        return f"rollout {state.open_rollout.id} is not over yet"
    waiting = _waiting(state)
    if waiting or not trains:
        return waiting
    return _cooldown(state, retrain, now) or _budget(state, retrain, now)


def unanswered(state: State) -> Watched | None:
    """The newest window, if it asked for a retrain and none was started for it."""
    newest = state.watched
    if newest is None or not newest.asked or any(one.window == newest.since for one in state.retrains):
        return None
    return newest


def settled(state: State) -> bool:
    """Whether a retrain has tried to replace the champion of now and found nothing better."""
    crowned = state.retired.at if state.retired is not None else ""
    return any(one.outcome in {"kept", "refused"} and one.ended_at > crowned for one in state.retrains)


def changed_since(state: State, retrain: Retrain, monitor: Monitor) -> str | None:
    """From when on rows tell of the world as it is now, ISO 8601; None: all rows do.

    Where matured labels show that quality was lost, older rows tell of another world; a first retrain leaves them out.
    If that found nothing better, the next one takes them all: the old world may be most of the new one.
    """
    newest = state.watched
    if newest is None or newest.lost is None or "quality" not in retrain.on or settled(state):
        return None
    run = 1 + _run_before(replace(state, windows=state.windows[:-1]), retrain) if newest.lost else 1
    windows = list(_windows_of_champion(state))
    return windows[min(max(run, monitor.drift.windows), len(windows)) - 1].since if windows else None


def rows_to_keep(length: int, recent: int | None) -> int:
    """How many of the newest rows are trained on: as many as there always were, or those since the world changed.

    Args:
        length: rows of the data before anything was added to it.
        recent: rows since then; None: all rows count.
    """
    return length if recent is None else min(length, max(recent, LEAST_ROWS))


def _alarm(seen: Signs, retrain: Retrain) -> tuple[str, bool]:
    """What the window says, and whether that counts towards a retrain."""
    lost, drifted = seen.lost is True, seen.outcome == "drift"
    quality = seen.quality or ("quality was lost" if lost else "matured labels show that quality is kept")
    drift = seen.drift or "the data drifted"
    if lost and "quality" in retrain.on:
        return quality, True
    if drifted and "drift" in retrain.on:
        kept = seen.lost is False and "quality" in retrain.on
        return (f"{drift}, but {quality}", False) if kept else (drift, True)
    if lost or drifted:
        return f"{quality if lost else drift}, which retrain.on does not name", False
    if seen.outcome == "cannot_tell" and seen.lost is None:
        return seen.drift or "the window is too small to tell", False
    return "nothing drifted" + (f", and {quality}" if seen.lost is False else ""), False


def _run_before(state: State, retrain: Retrain) -> int:
    """How many windows right before this one were alarming; those that nobody can tell about are skipped."""
    count = 0
    for window in _windows_of_champion(state):
        signs = Signs(window.since, window.outcome, window.lost)  # type: ignore[arg-type]  # one of the three words
        if signs.outcome == "cannot_tell" and signs.lost is None:
            continue
        if not _alarm(signs, retrain)[1]:
            break
        count += 1
    return count


def _former_before(state: State) -> int:
    """In how many windows right before this one, since the newest look in vain, a former champion was better."""
    failed = in_vain(state)
    last = datetime.fromisoformat(failed[-1].ended_at) if failed else None
    count = 0
    for window in reversed(state.windows):
        if not window.former or (last is not None and datetime.fromisoformat(window.until) <= last):
            break
        count += 1
    return count


def _windows_of_champion(state: State) -> Iterator[Watched]:
    """The windows since the last answer, newest first: what came before says nothing about the champion of now."""
    # One that looked for a former champion in vain has answered nothing: what alarms goes on to count.
    answers = [one.ended_at for one in state.retrains if one.ended_at and not _is_in_vain(one)]
    answers += [state.retired.at] if state.retired is not None else []
    last = max(map(datetime.fromisoformat, answers), default=None)
    for window in reversed(state.windows):
        if last is not None and datetime.fromisoformat(window.since) < last:
            return
        yield window


def _waiting(state: State) -> str:
    """A release that a person was asked about and has not decided on."""
    newest = state.retrains[-1] if state.retrains else None
    if newest is None or newest.outcome not in {"registered", "former"} or newest.release == state.champion:
        return ""
    if newest.outcome == "registered" and newest.release != state.challenger:
        return ""
    if any(one.canary == newest.release and one.started_at >= newest.started_at for one in state.rollouts):
        return ""
    return f"release {newest.release} of retrain {newest.id} waits for you: `tidegate rollout start {newest.release}`"


def _trained(state: State) -> list[RetrainState]:
    """The retrains that cost a training; going back to a former champion does not."""
    return [one for one in state.retrains if one.trained]


def _cooldown(state: State, retrain: Retrain, now: datetime) -> str:
    trained = _trained(state)
    if not trained:
        return ""
    ended = datetime.fromisoformat(trained[-1].ended_at or trained[-1].started_at)
    until = ended + timedelta(seconds=retrain.cooldown)
    if now >= until:
        return ""
    return f"retrain {trained[-1].id} ended at {ended:%Y-%m-%dT%H:%MZ}, and retrain.cooldown is " + format_duration(
        retrain.cooldown
    )


def _budget(state: State, retrain: Retrain, now: datetime) -> str:
    budget = retrain.budget
    since = now - timedelta(seconds=budget.per)
    spent = sum(datetime.fromisoformat(one.started_at) > since for one in _trained(state))
    if spent < budget.runs:
        return ""
    return f"the budget of {budget.runs} retrains in {format_duration(budget.per)} is spent"
