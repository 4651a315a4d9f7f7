"""What the ledger says is true now: events folded into one frozen state.

`GRAMMAR` is the whole language: which kinds of event there are and what each does to the state.
The functions below it are the only ways to decide a new event; each refuses what the state forbids.
Pure: nothing here reads or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal

from tidegate.core.errors import Conflict, UsageError
from tidegate.registry.ledger import Draft, Event

RolloutWord = Literal["running", "held", "promoted", "rolled_back", "inconclusive", "aborted", "replaced"]
OPEN: frozenset[RolloutWord] = frozenset({"running", "held"})


@dataclass(frozen=True, slots=True)
class StepResult:
    """How one step of a rollout ended, or stands; `units` are the users who were new in it."""

    weight: int
    verdict: str
    seconds: float = 0.0
    units: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RolloutState:
    """One rollout: two releases, the plan as JSON, and how far it got.

    `weight` is in whole per cent; `keep` is how many seconds the loser stays warm after a promotion; `shadowing` says
    that the canary gets copies only (or did when it ended), `shadow` what these showed; `ended_by` is who ended it.
    """

    id: str
    stable: str
    canary: str
    plan: Mapping[str, Any]
    steps: tuple[int, ...]
    started_at: str
    keep: float = 0.0
    state: RolloutWord = "running"
    step: int = 0
    step_started_at: str = ""
    results: tuple[StepResult, ...] = ()
    reasons: tuple[str, ...] = ()
    ended_at: str = ""
    ended_by: str = ""
    verdict: Mapping[str, Any] = field(default_factory=dict)
    shadowing: bool = False
    shadow: Mapping[str, Any] | None = None

    @property
    def open(self) -> bool:
        """Whether traffic is still split."""
        return self.state in OPEN

    @property
    def weight(self) -> int:
        """The canary's share now, in per cent."""
        if self.open:
            return 0 if self.shadowing else self.steps[self.step]
        return 100 if self.state == "promoted" else 0


@dataclass(frozen=True, slots=True)
class Retired:
    """A release that served until `at` and stays warm until `keep` seconds later."""

    release: str
    at: str
    keep: float


@dataclass(frozen=True, slots=True)
class Gated:
    """How a release passed the gate: against which champion (a release), and under which `gate` section."""

    champion: str | None
    section: Mapping[str, Any]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Imaged:
    """The image of a release.

    `digest` is the sha256 of its config, `pushed` that of its manifest in a registry, `sbom` and `provenance` are those
    of the files in the store; `key` is the public key that signed, in hexadecimal. Empty: there is none.
    """

    digest: str
    reference: str
    pushed: str = ""
    sbom: str = ""
    provenance: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """One window of live data and what was made of it; times are ISO 8601 in UTC.

    `outcome` is drift, no_drift or cannot_tell; `lost` says that quality was lost, None that nobody can tell yet;
    `share` is the weight of the drifted columns, 0 to 1; `asked` whether it asked for a retrain, `reason` why or why
    not; `former` whether a former champion was better in it; `trains` whether anything else asked too.
    """

    since: str
    until: str
    outcome: str
    share: float | None
    lost: bool | None
    asked: bool
    reason: str
    report: str = ""
    former: bool = False
    trains: bool = True


RetrainOutcome = Literal["released", "registered", "kept", "refused", "failed", "former", "nothing_new"]


@dataclass(frozen=True, slots=True)
class RetrainState:
    """One retrain; `outcome` is None while it runs. `data` is the md5 that it trained on.

    `window` is the beginning of the window that asked for it, empty if a person did; `trained` whether it cost a
    training, which going back to a former champion at once does not. `trains` is False where it may only go back.

    `released`: a rollout began or ended well; `registered`: waits for a person; `kept`: the challenger was not better;
    `refused`: by the gate; `former`: a former champion is the better answer; `nothing_new`: the data was trained on
    before, or (without `data`) no former champion was better any more and nothing may be trained.
    """

    id: str
    reason: str
    started_at: str
    by: str = ""
    ended_at: str = ""
    outcome: RetrainOutcome | None = None
    release: str | None = None
    data: str | None = None
    reasons: tuple[str, ...] = ()
    window: str = ""
    trained: bool = True
    trains: bool = True


# What is kept of windows in the state; all of them are in the ledger.
_WINDOWS = 100


@dataclass(frozen=True, slots=True)
class State:
    """An environment of a model.

    Releases are ids; `history` holds former champions, newest last; `left` those that a rollback went back from.
    """

    champion: str | None = None
    challenger: str | None = None
    history: tuple[str, ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict)
    runs: Mapping[str, str] = field(default_factory=dict)
    gates: Mapping[str, Gated] = field(default_factory=dict)
    images: Mapping[str, Imaged] = field(default_factory=dict)
    rollouts: tuple[RolloutState, ...] = ()
    retired: Retired | None = None
    frozen: str | None = None
    left: frozenset[str] = frozenset()
    windows: tuple[Watched, ...] = ()
    retrains: tuple[RetrainState, ...] = ()
    length: int = 0

    @property
    def previous(self) -> str | None:
        """The champion before this one that nobody went back from: where a plain rollback goes."""
        sound = [one for one in self.history if one != self.champion and one not in self.left]
        return sound[-1] if sound else None

    @property
    def watched(self) -> Watched | None:
        """The newest window that was looked at."""
        return self.windows[-1] if self.windows else None

    @property
    def open_retrain(self) -> RetrainState | None:
        """The retrain that runs, or that was killed and not followed by another one."""
        newest = self.retrains[-1] if self.retrains else None
        return newest if newest is not None and newest.outcome is None else None

    @property
    def rollout(self) -> RolloutState | None:
        """The newest rollout, open or not."""
        return self.rollouts[-1] if self.rollouts else None

    @property
    def open_rollout(self) -> RolloutState | None:
        """The rollout that splits traffic now."""
        return self.rollout if self.rollout and self.rollout.open else None


def _registered(state: State, event: Event) -> State:
    release = event.data["release"]
    return replace(
        state,
        challenger=release,
        versions={**state.versions, release: event.data["version"]},
        runs={**state.runs, release: event.data["run_id"]},
        gates={**state.gates, release: _gated(event)},
    )


def _gated(event: Event) -> Gated:
    data = event.data
    return Gated(data.get("against"), data.get("section", {}), tuple(data.get("gate", ())))


def _crown(state: State, release: str, at: str, keep: float) -> State:
    """Make `release` the champion; the one before stays warm for `keep` seconds."""
    if release == state.champion:
        return state
    retired = Retired(state.champion, at, keep) if state.champion else state.retired
    history = (*state.history, state.champion) if state.champion else state.history
    challenger = None if state.challenger == release else state.challenger
    return replace(state, champion=release, challenger=challenger, history=history, retired=retired)


def _deployed(state: State, event: Event) -> State:
    return _crown(state, event.data["release"], event.at, event.data.get("keep", 0.0))


def _started(state: State, event: Event) -> State:
    data = event.data
    rollout = RolloutState(
        id=data["rollout"],
        stable=data["stable"],
        canary=data["canary"],
        plan=data["plan"],
        steps=tuple(data["steps"]),
        started_at=event.at,
        keep=data.get("keep", 0.0),
        step_started_at=event.at,
        shadowing=bool(data["plan"].get("shadow_min")),
    )
    return replace(state, rollouts=(*state.rollouts, rollout))


def _change(now: State, /, **fields: Any) -> State:
    return replace(now, rollouts=(*now.rollouts[:-1], replace(now.rollouts[-1], **fields)))


def _results(state: State, event: Event, verdict: str) -> tuple[StepResult, ...]:
    rollout = state.rollouts[-1]
    seconds = (event.moment - datetime.fromisoformat(rollout.step_started_at)).total_seconds()
    # The judge counts users since the rollout began.
    units = {
        arm: max(0, count - sum(result.units.get(arm, 0) for result in rollout.results))
        for arm, count in event.data.get("units", {}).items()
    }
    done = StepResult(rollout.weight, verdict, round(seconds, 3), units)
    return (*rollout.results, done)


def _stepped(state: State, event: Event) -> State:
    results = _results(state, event, "promote")
    step = event.data["step"]
    return _change(state, step=step, step_started_at=event.at, results=results, state="running", reasons=())


def _shadowed(state: State, event: Event) -> State:
    return _change(
        state,
        shadowing=False,
        shadow=event.data["shadow"],
        step_started_at=event.at,
        results=_results(state, event, "promote"),
        state="running",
        reasons=(),
    )


def _held(state: State, event: Event) -> State:
    return _change(state, state="held", reasons=tuple(event.data["reasons"]))


def _ended(word: RolloutWord, verdict: str) -> Callable[[State, Event], State]:
    def fold(state: State, event: Event) -> State:
        return _change(
            state,
            state=word,
            results=_results(state, event, verdict),
            reasons=tuple(event.data.get("reasons", ())),
            verdict=event.data.get("verdict", {}),
            shadow=event.data.get("shadow", state.rollouts[-1].shadow),
            ended_at=event.at,
            ended_by=event.actor,
        )

    return fold


def _promoted(state: State, event: Event) -> State:
    ended = _ended("promoted", "promote")(state, event)
    canary = ended.rollouts[-1].canary
    return _crown(replace(ended, left=ended.left - {canary}), canary, event.at, event.data["keep"])


def _rollback(state: State, event: Event) -> State:
    if state.open_rollout is not None:
        state = _ended("aborted", "rollback")(state, event)
    left = state.left | {state.champion} if state.champion else state.left
    state = replace(state, left=left - {event.data["release"]})
    return _crown(state, event.data["release"], event.at, event.data.get("keep", 0.0))


def _imaged(state: State, event: Event) -> State:
    data = event.data
    made = Imaged(**{name.name: data.get(name.name, "") for name in fields(Imaged)})
    return replace(state, images={**state.images, data["release"]: made})


def _watched(state: State, event: Event) -> State:
    data = event.data
    watched = Watched(
        data["window"],
        data["until"],
        data["outcome"],
        data.get("share"),
        data.get("lost"),
        bool(data["retrain"]["asked"]),
        data["retrain"]["reason"],
        data.get("report", ""),
        former=bool(data["retrain"].get("former")),
        trains=bool(data["retrain"].get("trains", True)),
    )
    return replace(state, windows=(*state.windows, watched)[-_WINDOWS:])


def _retrain_started(state: State, event: Event) -> State:
    data = event.data
    asked = {"window": data.get("window", ""), "trains": bool(data.get("trains", True))}
    begun = RetrainState(data["retrain"], data["reason"], event.at, event.actor, **asked)
    return replace(state, retrains=(*state.retrains, begun))


def _retrain_ended(state: State, event: Event) -> State:
    data = event.data
    ended = [
        replace(
            one,
            ended_at=event.at,
            outcome=data["outcome"],
            release=data.get("release"),
            data=data.get("data"),
            reasons=tuple(data.get("reasons", ())),
            trained=bool(data.get("trained", data["outcome"] not in {"former", "nothing_new"})),
        )
        if one.id == data["retrain"]
        else one
        for one in state.retrains
    ]
    return replace(state, retrains=tuple(ended))


GRAMMAR: Mapping[str, Callable[[State, Event], State]] = {
    "registered": _registered,  # release, version, run_id, gate (reasons), against, section; again when gated again
    "gate_refused": lambda state, _: state,  # run_id, reasons
    "deployed": _deployed,  # release: the first version, or by hand
    "rollout_started": _started,  # rollout, stable, canary, plan, steps
    "shadow": _shadowed,  # rollout, shadow (what the copies showed): the first step begins
    "step_passed": _stepped,  # rollout, step: the next one begins
    "held": _held,  # rollout, reasons: a person must decide
    "promoted": _promoted,  # rollout, keep
    "rolled_back": _ended("rolled_back", "rollback"),  # rollout, reasons: by the judge
    "inconclusive": _ended("inconclusive", "inconclusive"),  # rollout, reasons: ended without an answer
    "aborted": _ended("aborted", "rollback"),  # rollout, reasons: by a person
    "replaced": _ended("replaced", "inconclusive"),  # rollout: a newer one follows
    "rollback": _rollback,  # release, reasons: immediate and unjudged
    "imaged": _imaged,  # release, digest, reference, pushed, sbom, provenance, key: an image was built
    "trainer": lambda state, _: state,  # digest, reference, pushed: the image that a cluster trains with was built
    "watched": _watched,  # window, until, outcome, share, lost, retrain (asked, reason, former, trains), report
    "retrain_started": _retrain_started,  # retrain, reason, window (none if a person asked), trains (False: only back)
    "retrain_ended": _retrain_ended,  # retrain, outcome, release, data (its md5), reasons
    "flow_ended": lambda state, _: state,  # flow, workflow, uid, outcome (failed, cancelled), reasons: in a cluster
    "erased": lambda state, _: state,  # predictions, labels, outcomes, requests, exposures (how many), reasons
    "frozen": lambda state, event: replace(state, frozen=event.data["reason"]),  # reason: nothing automatic starts
    "unfrozen": lambda state, _: replace(state, frozen=None),  # reason
}


def fold(events: Sequence[Event], state: State | None = None) -> State:
    """The state after `events`, which follow on `state` (or on nothing).

    Raises:
        UsageError: a newer tidegate wrote an event that this one does not know.
    """
    state = state or State()
    for event in events[state.length :]:
        change = GRAMMAR.get(event.kind)
        if change is None:
            raise UsageError(
                f'The ledger holds an event "{event.kind}" (number {event.seq}) that this tidegate does not know.',
                "A newer tidegate wrote it: upgrade this one.",
            )
        state = replace(change(state, event), length=event.seq + 1)
    return state


Decision = Callable[[State], Draft | None]


def deciding(decision: Decision) -> Callable[[Sequence[Event]], Draft | None]:
    """Turn a decision on the state into one on the events, as `Ledger.append` wants it.

    Raises:
        Conflict: it gives users a release that was never registered.
    """

    def decide(events: Sequence[Event]) -> Draft | None:
        state = fold(events)
        draft = decision(state)
        if draft is not None and draft.kind in {"deployed", "rollback"}:
            _must_be_known(draft.data["release"], state)
        return draft

    return decide


def _must_be_known(release: str, state: State) -> None:
    """A kill between saving a release and registering it leaves one that has no version here."""
    if release not in state.versions:
        raise Conflict(
            f"Release {release} was never registered in this environment.",
            "`tidegate ship` without --release finishes what was interrupted.",
        )


def start(canary: str, plan: Mapping[str, Any], keep: float, *, by_hand: bool) -> Decision:
    """Begin a rollout of `canary` against the champion.

    Args:
        canary: the release to try.
        plan: JSON of the plan, with the rollout's id and steps.
        keep: seconds that the loser stays warm after a promotion.
        by_hand: a person asked for it, which passes a freeze.
    """

    def decide(state: State) -> Draft:
        if state.champion is None:
            raise Conflict(
                "There is no champion to compare with.", "`tidegate ship` deploys the first version at once."
            )
        if state.open_rollout is not None:
            raise _running(state.open_rollout, state)
        if state.frozen is not None and not by_hand:
            raise Conflict(
                f"Rollouts are frozen: {state.frozen}", "`tidegate unfreeze --reason TEXT` allows them again."
            )
        if canary == state.champion:
            raise Conflict(f"Release {canary} is the champion already.", "Train or change something first.")
        _must_be_known(canary, state)
        data = {"rollout": plan["rollout"], "stable": state.champion, "canary": canary}
        return Draft("rollout_started", {**data, "steps": list(plan["steps"]), "keep": keep, "plan": plan})

    return decide


def on_open(rollout: str | None, draft: Callable[[State, RolloutState], Draft | None]) -> Decision:
    """Decide about the open rollout; refuse, with what happened instead, when it is not open any more."""

    def decide(state: State) -> Draft | None:
        current = state.open_rollout
        if current is not None and rollout in {None, current.id}:
            return draft(state, current)
        past = next((one for one in reversed(state.rollouts) if rollout in {None, one.id}), None)
        if past is None:
            raise Conflict("No rollout is running.", "`tidegate ship` or `tidegate rollout start` begins one.")
        raise Conflict(
            f"Rollout {past.id} is over: it was {past.state.replace('_', ' ')} at {past.ended_at[:19]}Z.",
            "`tidegate events` shows who decided.",
        )

    return decide


def _running(rollout: RolloutState, state: State) -> Conflict:
    version = state.versions.get(rollout.canary, "?")
    return Conflict(
        f"Rollout {rollout.id} of version {version} is {rollout.state} "
        + ("in its shadow phase." if rollout.shadowing else f"at {rollout.weight} %."),
        "`tidegate rollout watch` follows it, `tidegate rollout start --replace` ends it first.",
    )
