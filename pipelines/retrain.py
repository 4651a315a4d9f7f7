"""The retrain flow: former champions first, then new data, the road, and a contest on matured labels.

Every retrain is in the ledger from its beginning to its outcome. One that was killed is taken up again by whoever comes
next, with the same id: each step finds what it has done already. One at a time, by a lock that ends with its process.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.core import git
from tidegate.core.errors import Conflict, ContractFailed, Inconclusive, Permanent, TidegateError
from tidegate.core.held import held
from tidegate.monitors.candidates import Choice, formers
from tidegate.monitors.trigger import brake, changed_since, unanswered
from tidegate.pipelines import aliases, captured, collector, contest, flows, retrain_branch
from tidegate.pipelines.dag import NO, RETRAIN, YES, References, Work, walk
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases
from tidegate.registry.ledger import Draft, Event
from tidegate.registry.state import Decision, RetrainOutcome, RetrainState, State, deciding, fold

if TYPE_CHECKING:
    from tidegate.core.artifacts import GateResult
    from tidegate.core.progress import Progress
    from tidegate.core.project import Project

# Whoever was killed so often while it worked at one retrain is killed by it: out of memory, say.
_ATTEMPTS: Final = 3
# Outcomes after which the same data would give the same answer.
_ANSWERED: Final = frozenset({"released", "registered", "kept", "refused"})


@dataclass(frozen=True, slots=True)
class Ended:
    """How a retrain ended: `reasons` in sentences, `hint` is what to type next.

    `trained` is said where the outcome does not tell: of a training that a former champion won.
    """

    outcome: RetrainOutcome
    reasons: tuple[str, ...]
    release: str | None = None
    data: str | None = None
    hint: str = ""
    trained: bool | None = None


@dataclass(frozen=True, slots=True)
class Retrained:
    """A retrain and its end."""

    id: str
    reason: str
    ended: Ended
    version: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of `tidegate retrain`."""
        ended = self.ended
        return {
            "kind": "retrain",
            "retrain": self.id,
            "reason": self.reason,
            "outcome": ended.outcome,
            "release": ended.release,
            "version": self.version,
            "data": ended.data,
            "reasons": list(ended.reasons),
            "hint": ended.hint,
        }


def by_hand(environment: Environment, reason: str, progress: Progress) -> Retrained:
    """Train again because a person asks: cooldown, budget and freeze do not hold it back.

    Args:
        environment: where.
        reason: kept in the ledger.
        progress: told what happens.

    Raises:
        Conflict: there is no champion, a rollout runs, or another process is at it.
    """
    with _alone(environment):
        return _finish(environment, _begin(environment, _asked_by_hand(reason)), progress)


def by_itself(environment: Environment, progress: Progress) -> Retrained | None:
    """Answer the newest window if it asked for a retrain, or take up one that was killed; None: nothing to do.

    Raises:
        Conflict: another process is at it.
    """
    with _alone(environment):
        state = environment.state()
        if is_frozen(state) or (state.open_retrain is None and not due(environment, datetime.now(UTC))):
            return None
        return _finish(environment, _begin(environment, _asked_by_window(environment)), progress)


def due(environment: Environment, now: datetime) -> bool:
    """Whether a window waits for its retrain and every brake is open."""
    state = environment.state()
    window = unanswered(state)
    return window is not None and not brake(state, environment.project.config.retrain, now, trains=False)


def is_frozen(state: State) -> bool:
    """Whether a retrain that was killed, and that no person asked for, has to wait for `unfreeze`."""
    return state.frozen is not None and state.open_retrain is not None and bool(state.open_retrain.window)


def is_running(environment: Environment) -> bool:
    """Whether a process is at a retrain now."""
    try:
        with _alone(environment):
            return False
    except Conflict:
        return True


def _alone(environment: Environment) -> AbstractContextManager[None]:
    otherwise = Conflict("A retrain of this project runs in another process.", "`tidegate events` shows when it ends.")
    return held(environment.run_dir / "retrain.lock", 0.0, otherwise)


# --- begin and end -------------------------------------------------------------------------------------------------


def _asked_by_hand(reason: str) -> Decision:
    def decide(state: State) -> Draft | None:
        if state.open_retrain is not None:
            return None
        if state.champion is None:
            raise Conflict("There is no champion to compare a new version with.", "`tidegate ship` makes the first.")
        if state.open_rollout is not None:
            raise Conflict(
                f"Rollout {state.open_rollout.id} is not over yet, and a retrain may start the next one.",
                "`tidegate rollout watch` follows it, `tidegate rollout abort` ends it.",
            )
        return Draft("retrain_started", {"retrain": _new_id(), "reason": reason})

    return decide


def _asked_by_window(environment: Environment) -> Decision:
    def decide(state: State) -> Draft | None:
        window = unanswered(state)
        stopped = brake(state, environment.project.config.retrain, datetime.now(UTC), trains=False)
        if state.open_retrain is not None or window is None or stopped:
            return None
        data = {"retrain": _new_id(), "reason": window.reason, "window": window.since}
        return Draft("retrain_started", data if window.trains else {**data, "trains": False}, actor="monitor")

    return decide


def _new_id() -> str:
    return f"t-{secrets.token_hex(4)}"


def begin(environment: Environment, reason: str, *, by_window: bool) -> RetrainState:
    """Open a retrain, or find the one that is open; a cluster lets one Workflow of a model run at a time.

    Raises:
        Conflict: there is nothing to do, or no champion, or a rollout runs.
    """
    return _begin(environment, _asked_by_window(environment) if by_window else _asked_by_hand(reason))


def end(environment: Environment, begun: RetrainState, ended: Ended, progress: Progress) -> None:
    """Write how a retrain ended, unless that is written, and let the registry's aliases follow."""
    _end(environment, begun, ended)
    aliases.sync(environment, progress)


def _begin(environment: Environment, decide: Decision) -> RetrainState:
    environment.ledger.append(deciding(decide))
    begun = environment.state().open_retrain
    if begun is None:
        raise Conflict("There is no retrain to do any more.", "`tidegate events` shows what was decided meanwhile.")
    return begun


def _finish(environment: Environment, begun: RetrainState, progress: Progress) -> Retrained:
    """Work on it, and write its outcome whatever happens; only a kill leaves it open, for the next to take up."""
    try:
        ended = _counted(environment, begun, progress)
    except ContractFailed as error:
        ended = Ended("refused", (str(error.message),), hint=error.hint)
    except TidegateError as error:
        _end(environment, begun, Ended("failed", (error.message,)))
        raise
    except BaseException as error:
        _end(environment, begun, Ended("failed", (f"{type(error).__name__}: {error}".rstrip(": "),)))
        raise
    end(environment, begun, ended, progress)
    version = environment.state().versions.get(ended.release or "")
    return Retrained(begun.id, begun.reason, ended, version)


def _end(environment: Environment, begun: RetrainState, ended: Ended) -> None:
    def once(state: State) -> Draft | None:
        if state.open_retrain is None or state.open_retrain.id != begun.id:
            return None
        data = {"retrain": begun.id, "outcome": ended.outcome, "release": ended.release, "data": ended.data}
        told = {} if ended.trained is None else {"trained": ended.trained}
        return Draft("retrain_ended", {**data, **told, "reasons": list(ended.reasons)})

    environment.ledger.append(deciding(once))
    _attempts_file(environment).unlink(missing_ok=True)


def _counted(environment: Environment, begun: RetrainState, progress: Progress) -> Ended:
    """Work on it, unless whoever did so before was killed again and again."""
    file = _attempts_file(environment)
    before = _attempts(file, begun.id)
    if before >= _ATTEMPTS:
        return Ended("failed", (f"whoever worked at it was killed {before} times; is there enough memory?",))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"retrain": begun.id, "attempts": before + 1}), encoding="utf-8")
    return Retraining(environment, begun, progress).run()


def _attempts_file(environment: Environment) -> Path:
    return environment.run_dir / "retrain.json"


def _attempts(file: Path, retrain: str) -> int:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return int(document["attempts"]) if document["retrain"] == retrain else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


# --- the work ------------------------------------------------------------------------------------------------------


@dataclass
class Retraining:
    """One retrain under way: its own steps, and `ended` as soon as one of them knows how it ends.

    Attributes:
        environment: where.
        begun: the retrain, as the ledger has it.
        progress: told what happens.
        ended: the end, once it is known.
    """

    environment: Environment
    begun: RetrainState
    progress: Progress
    ended: Ended | None = None

    def run(self) -> Ended:
        """From the first look to the outcome, in this process."""
        from tidegate.pipelines.release import Road

        with collector.seldom(), Road(self.environment, self.progress) as road:
            known = walk(RETRAIN, {**road.work, **self.work}, {})
            if self.ended is None:
                self.ended = refused(road.gate, known["data"])
        return self.ended

    @property
    def work(self) -> Mapping[str, Work]:
        """Step name -> the work, of the steps that no release has."""
        return {
            "begin": lambda _: self._look_back(),
            "data": lambda _: self._look_for_data(),
            "compare": lambda taken: self._compare(taken["release"], taken["data"]),
        }

    def _look_back(self) -> References:
        """What was done already, and whether a former champion is the answer, before anything is trained."""
        self.ended = self._acted_already()
        if self.ended is None:
            require_safe(self.environment.project)
            former = self._former()
            self.ended = self._won_by(former) or self._held_back(former)
        return {"goes_on": YES if self.ended is None else NO}

    def _look_for_data(self) -> References:
        md5 = self._new_data()
        if md5 in self._known_data():
            reason = f"a retrain or release has trained on this data already (md5 {md5[:10]})"
            hint = _MORE_DATA[self.environment.project.config.retrain.data]
            self.ended = Ended("nothing_new", (reason,), data=md5, hint=hint)
        return {"data": md5, "fresh": YES if self.ended is None else NO}

    def _compare(self, release: str, md5: str) -> References:
        """Who answers the newest matured labels best, and what follows from it."""
        environment = self.environment
        with self.progress.task("compare on matured labels"):
            rows = contest.newest(environment, environment.project.config.monitor.drift.windows, datetime.now(UTC))
            choice = contest.contest(environment, rows, (*formers(self._before()), release), self.progress)
        self.ended = self._judged(choice, release, md5)
        return {"outcome": self.ended.outcome}

    def _acted_already(self) -> Ended | None:
        """A kill after the rollout began left everything done but the outcome."""
        before, state = self._before(), self.environment.state()
        rollout = state.rollouts[-1] if len(state.rollouts) > len(before.rollouts) else None
        if rollout is None:
            return None
        outcome: RetrainOutcome = "former" if rollout.canary in before.versions else "released"
        return Ended(outcome, (f"rollout {rollout.id} began",), rollout.canary, self._data_of(rollout.canary))

    def _former(self) -> Choice | None:
        """Whether a former champion answers the newest labels better: going back costs no training."""
        state, environment = self.environment.state(), self.environment
        with self.progress.task("look at former champions"):
            rows = contest.newest(environment, 1, datetime.now(UTC))
            return contest.contest(environment, rows, formers(state), self.progress)

    def _won_by(self, former: Choice | None) -> Ended | None:
        if former is None or former.winner is None:
            return None
        return self._offer("former", former, former.release, self._data_of(former.release))

    def _held_back(self, former: Choice | None) -> Ended | None:
        """Going back passes cooldown and budget, and needs no alarm; a training in its place does not, and does."""
        policy = self.environment.project.config.retrain
        stopped = brake(self._before(), policy, datetime.now(UTC)) if self.begun.window else ""
        if not self.begun.trains:
            stopped = "nothing else asked for a training"
        if not stopped:
            return None
        seen = [one.sentence for one in former.contests] if former is not None else ["no matured label to compare by"]
        return Ended("nothing_new", (f"no former champion is better any more, and {stopped}", *seen))

    def _judged(self, choice: Choice | None, release: str, md5: str) -> Ended:
        """What follows from the contest; a person is asked where there was none."""
        if choice is None or not choice.decided:
            why = [one.sentence for one in choice.contests] if choice else ["no matured label to compare by"]
            reasons = (*why, "so nobody knows whether it is better")
            return self._named_branch(Ended("registered", reasons, release, md5, _start(release)))
        if choice.winner is None:
            reasons = tuple(one.sentence for one in choice.contests)
            hint = f"To try it on users all the same: `tidegate rollout start {release}`."
            return Ended("kept", reasons, release, md5, hint)
        if choice.release != release:
            return replace(self._offer("former", choice, choice.release, self._data_of(choice.release)), trained=True)
        return self._named_branch(self._offer("released", choice, release, md5))

    def _offer(self, outcome: RetrainOutcome, choice: Choice, release: str, data: str | None) -> Ended:
        """Begin the rollout of whoever won, or ask for it; the rollout's judge has the last word."""
        won = choice.winner
        reasons = (won.sentence,) if won else ()
        waits: RetrainOutcome = "former" if outcome == "former" else "registered"
        if self.environment.project.config.retrain.release == "ask":
            return Ended(waits, (*reasons, "retrain.release is ask"), release, data, _start(release))
        found = releases.load(self.environment.store, release)
        try:
            # Not by hand, whoever asked for the retrain: a freeze holds every rollout that nobody started.
            shipped = flows.deploy(self.environment, found, self.progress, wait=False, timeout=0.0, by_hand=False)
        except TidegateError as error:
            # A pod may lack what a rollout needs (an image that was pushed, helm, the right): then a person starts it.
            if not isinstance(error, Conflict | Inconclusive) and not self.environment.on_cluster:
                raise
            return Ended(waits, (*reasons, error.message), release, data, _start(release))
        if shipped.rollout is None:
            return Ended(waits, (*reasons, *shipped.reasons), release, data, shipped.hint or _start(release))
        return Ended(outcome, (*reasons, f"rollout {shipped.rollout.id} began"), release, data, shipped.hint)

    def _named_branch(self, ended: Ended) -> Ended:
        """Push what the release was made of, where the config asks for a branch; a failure is a reason more."""
        if self.environment.project.config.retrain.git == "none":
            return ended
        said = retrain_branch.push(self.environment.project, self.begun.id, self.begun.reason)
        return Ended(ended.outcome, (*ended.reasons, said), ended.release, ended.data, ended.hint)

    def _new_data(self) -> str:
        """The md5 of the data to train on, as DVC records it now."""
        from tidegate.pipelines import refresh

        config, state = self.environment.project.config, self.environment.state()
        since = changed_since(state, config.retrain, config.monitor) if self.begun.window else None
        if config.retrain.data == "telemetry":
            return captured.extend(self.environment, since, datetime.now(UTC), self.progress).md5
        return refresh.refresh(self.environment.project, self.progress, changed_since=since).data.md5

    def _known_data(self) -> set[str]:
        """What was trained on before this retrain began."""
        before = self._before()
        known = {one.data for one in before.retrains if one.outcome in _ANSWERED and one.data}
        return known | {md5 for release in before.versions if (md5 := self._data_of(release))}

    def _data_of(self, release: str) -> str | None:
        try:
            return releases.load(self.environment.store, release).data[0].md5
        except TidegateError:
            return None  # one that is damaged is no reason not to train

    def _before(self) -> State:
        """The state right before this retrain began."""
        events: Sequence[Event] = self.environment.ledger.events()
        begun = next(one.seq for one in events if _begins(one.kind, one.data, self.begun.id))
        return fold(events[:begun])


def _begins(kind: str, data: Mapping[str, Any], retrain: str) -> bool:
    return kind == "retrain_started" and data["retrain"] == retrain


def refused(gate: GateResult | None, data: str) -> Ended:
    """The end of a retrain whose model the gate did not let pass."""
    reasons = gate.reasons if gate is not None else ()
    return Ended("refused", reasons, data=data, hint="`tidegate model compare` shows more.")


def _start(release: str) -> str:
    return f"`tidegate rollout start {release}` starts its rollout."


_MORE_DATA: Final = {
    "refresh": "data.command gave what it gave before; `tidegate ship` trains changed code or params.",
    "telemetry": "More labels make new data: `tidegate labels status` shows how many came.",
}


def require_safe(project: Project) -> None:
    """Refuse to work where somebody is in the middle of something.

    Raises:
        Conflict: the data was changed and not recorded, or git has conflicts to be solved.
    """
    from tidegate.pipelines import dvc_repo, refresh

    refresh.recover(project.root)
    try:
        dvc_repo.verify_data(project)
    except Permanent as error:
        path = project.config.data.path
        raise Conflict(
            f"{path} was changed and is not recorded, so a retrain would overwrite it.",
            f"`tidegate data add {path}` records it; `tidegate data pull --force` puts back what was recorded.",
        ) from error
    if git.is_repository(project.root):
        unsolved = git.git(project.root, "diff", "--name-only", "--diff-filter=U").decode().split()
        if unsolved:
            raise Conflict(
                f"git has conflicts to be solved in {', '.join(unsolved[:3])}, so nothing was trained.",
                "Solve them and commit; the next window asks again, or type `tidegate retrain`.",
            )
