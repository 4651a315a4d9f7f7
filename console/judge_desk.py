"""Every rollout that the judge follows: who asks about which one, what came for it, and what is known after a restart.

A rollout of tidegate is named by its ledger's id, and belongs to the canary that was seen first under it. Without a
ledger it is named by the uid of the Rollout and the hash of the canary's pods, and its plan comes with each request. A
third revision in the middle of a rollout is thus another rollout, or none.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import TidegateError, UsageError
from tidegate.registry.ledger import Ledger
from tidegate.registry.state import RolloutState, State, fold
from tidegate.rollouts.checkpoint import read_checkpoint
from tidegate.rollouts.following import Answer, Asked, Following
from tidegate.rollouts.inline_plan import inline_plan
from tidegate.rollouts.late_reading import LateReading
from tidegate.rollouts.loop import exposure
from tidegate.rollouts.plan import RolloutPlan
from tidegate.serving.gateway.cluster_log import ClusterRecord, parse_attributes

if TYPE_CHECKING:
    from tidegate.core.store import Store
    from tidegate.rollouts.blocks import Exposure

MOST_ROLLOUTS: Final = 1000
"""Rollouts that are followed at once; the one that nobody asked about for longest is put aside for another."""

_OPEN: Final = "judge/open.json"
# Seconds for which the ledger is not asked again.
_FRESH: Final = 1.0
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Case:
    """Who asks: the Argo Rollout's name and uid, the hashes of its pods, and what tidegate calls the rollout.

    `plan` is the `rollout:` section of who has no ledger.
    """

    rollout: str
    experiment: str
    stable: str
    canary: str
    model: str = ""
    environment: str = ""
    id: str = ""
    plan: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        """What the store knows the rollout by."""
        return self.id or f"{self.experiment}.{self.canary}"

    @property
    def stream(self) -> str:
        """The ledger's; empty without one."""
        return f"{self.model}.{self.environment}" if self.id else ""


@dataclass(frozen=True, slots=True)
class _Route:
    """Whose traffic the gateway's log lines of one HTTPRoute are: a rollout, and how its arms' versions are called.

    `ours`: a model that tidegate serves, whose other paths are no evidence.
    """

    key: str
    stable: str = ""
    canary: str = ""
    ours: bool = False


class Desk:
    """What the endpoints ask.

    Args:
        store: of the environment.
        clock: seconds since the epoch.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._followed: dict[str, Following] = {}
        self._states: dict[str, tuple[float, Ledger, State]] = {}
        self._routes = {name: _Route(**told) for name, told in self._read_routes().items()}
        self.counted: Counter[str] = Counter()

    def verdict(self, case: Case, asked: Asked) -> Answer:
        """What follows from the evidence for this canary at this weight.

        Raises:
            UsageError: the case cannot be judged: no plan, or one that cannot be.
            TidegateError: the store cannot be read.
        """
        answer = self._ended(case)
        if answer is None:
            following = self._follow(case)
            known = following.pair(case.canary)
            answer = following.ask(asked) if known else following.stranger(case.canary)
        self.counted[f"verdict {answer.decision}"] += 1
        return answer

    def guard(self, case: Case) -> Answer:
        """Whether this canary must go at once.

        Raises: as `verdict`.
        """
        answer = self._ended(case)
        if answer is None:
            following = self._follow(case)
            unknown = Answer("continue", "Nothing is known of this canary.")
            answer = following.guard() if following.pair(case.canary) else unknown
        self.counted[f"guard {answer.decision}"] += 1
        return answer

    def blocks(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Take counts, of one or several rollouts; how many lines of each were new.

        Raises:
            UsageError: a line cannot be, or its rollout is not known.
            Conflict: a line contradicts an earlier one, or comes too late. What came for other rollouts is kept.
        """
        sorted_by: dict[str, list[Mapping[str, Any]]] = {}
        for number, line in enumerate(lines, 1):
            key = line.get("rollout")
            if not isinstance(key, str) or not key:
                raise UsageError(f"Line {number} names no rollout.", 'Every line says {"rollout": "ID", ...}.')
            sorted_by.setdefault(key, []).append(line)
        known = {key: self._known(key) for key in sorted_by}
        fresh = {key: known[key].post(some) for key, some in sorted_by.items()}
        self.counted["lines"] += sum(fresh.values())
        return fresh

    def log(self, attributes: Iterable[Mapping[str, Any]]) -> int:
        """Take the gateway's log; how many lines were of rollouts that are followed."""
        found: dict[str, list[Exposure]] = {}
        for told in attributes:
            record = parse_attributes(told)
            route = self._routes.get(record.name) if record is not None else None
            if record is None or route is None or record.record.arm is None:
                self.counted["log ignored"] += 1
            elif record.record.attempted and (record.predicts or not route.ours):
                found.setdefault(route.key, []).append(_exposure(record, route))
        for key, exposures in found.items():
            self._known(key).see(exposures)
        taken = sum(map(len, found.values()))
        self.counted["log"] += taken
        return taken

    def beat(self) -> None:
        """Let time pass for every rollout; one that fails does not stop the others."""
        for following in list(self._followed.values()):
            try:
                following.beat()
            except (TidegateError, OSError):
                _LOG.warning("Rollout %s cannot be followed now; it is tried again.", following.key, exc_info=True)

    def check(self) -> None:
        """Whether the store can be read.

        Raises:
            TidegateError, OSError: it cannot.
        """
        self._store.exists(_OPEN)

    def measure(self) -> str:
        """Counts for Prometheus, without any name of a rollout."""
        lines = ["# TYPE tidegate_judge_rollouts gauge", f"tidegate_judge_rollouts {len(self._followed)}"]
        lines.append("# TYPE tidegate_judge_events_total counter")
        lines += [
            f'tidegate_judge_events_total{{what="{what}"}} {count}' for what, count in sorted(self.counted.items())
        ]
        return "\n".join(lines) + "\n"

    def _follow(self, case: Case) -> Following:
        """The rollout of a case, from the store if it was followed before."""
        with self._lock:
            found = self._followed.get(case.key)
            if found is None:
                found = self._open(case.key) or self._begin(case)
                self._add(found)
            route = self._route(case)
            if self._routes.get(case.rollout) != route:
                self._routes[case.rollout] = route
                self._write_routes()
            # The one that was asked about last stays longest.
            self._followed[case.key] = self._followed.pop(case.key)
            return found

    def _known(self, key: str) -> Following:
        with self._lock:
            found = self._followed.get(key) or self._open(key)
            if found is None:
                raise UsageError(
                    f"No analysis has asked about the rollout {key[:80]!r} yet, so nothing is known of its plan.",
                    "Send these lines again: what was taken once is not counted twice.",
                )
            return self._add(found)

    def _add(self, following: Following) -> Following:
        self._followed[following.key] = following
        while len(self._followed) > MOST_ROLLOUTS:
            self._followed.pop(next(iter(self._followed)))
        return following

    def _open(self, key: str) -> Following | None:
        """One that was followed before a restart."""
        document = read_checkpoint(self._store, key) if _SAFE.issuperset(key) and key[0] != "." else None
        if document is None or "plan" not in document:
            return None
        return self._following(key, RolloutPlan.from_dict(document["plan"]), document["stream"])

    def _begin(self, case: Case) -> Following:
        if not case.id:
            if case.plan is None:
                raise UsageError(
                    "The request names neither an id of tidegate's ledger nor a plan.",
                    "Send `id`, `model` and `environment`, or `plan` with the keys of `rollout:`.",
                )
            return self._following(case.key, inline_plan(case.plan, case.key), "")
        rollout = self._rollout(case)
        if rollout is None:
            raise UsageError(
                f"The ledger of {case.stream} has no rollout {case.id}.",
                "`tidegate rollout history` shows those that it has.",
            )
        return self._following(case.key, RolloutPlan.from_dict(rollout.plan), case.stream)

    def _following(self, key: str, plan: RolloutPlan, stream: str) -> Following:
        ledger = self._state(stream)[0] if stream else None
        reading = LateReading(self._store, stream, _no_functions) if stream else None
        return Following(key, plan, self._store, stream=stream, ledger=ledger, reading=reading, clock=self._clock)

    def _ended(self, case: Case) -> Answer | None:
        """The answer for a rollout that the ledger has closed, whatever the telemetry says; None: it is open."""
        rollout = self._rollout(case) if case.id else None
        if rollout is None or rollout.open or rollout.state == "promoted":
            return None
        because = "; ".join(rollout.reasons)
        return Answer("rollback", f"The ledger says that it was {rollout.state.replace('_', ' ')}: {because}")

    def _rollout(self, case: Case) -> RolloutState | None:
        return next((one for one in self._state(case.stream)[1].rollouts if one.id == case.id), None)

    def _state(self, stream: str) -> tuple[Ledger, State]:
        now = time.monotonic()
        read, ledger, state = self._states.get(stream, (-_FRESH, Ledger(self._store, stream), State()))
        if now - read >= _FRESH:
            state = fold(ledger.events(), state)
            self._states[stream] = now, ledger, state
        return ledger, state

    def _route(self, case: Case) -> _Route:
        if not case.id:
            return _Route(case.key)
        rollout, versions = self._rollout(case), self._state(case.stream)[1].versions
        if rollout is None:
            return _Route(case.key, ours=True)
        stable, canary = (str(versions.get(release, "")) for release in (rollout.stable, rollout.canary))
        return _Route(case.key, stable, canary, ours=True)

    def _read_routes(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._store.read(_OPEN))
        except FileNotFoundError:
            return {}
        return found

    def _write_routes(self) -> None:
        routes = {name: asdict(route) for name, route in self._routes.items()}
        self._store.write(_OPEN, json.dumps(routes).encode())


_SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def _exposure(told: ClusterRecord, route: _Route) -> Exposure:
    """The judge's view of a line; the version that answered says which arm it really was."""
    seen, version = exposure(told.record), told.record.version
    if not (seen.served_by and version and route.stable != route.canary and route.canary):
        return seen
    return replace(seen, served_by={route.canary: "canary", route.stable: "stable"}.get(version, seen.served_by))


def _no_functions(metric: str, _: Any) -> Any:
    raise TidegateError(
        f"{metric} is a function of the project, which the judge's service does not have.",
        "Guard a metric that tidegate counts by itself, or decide this rollout by hand.",
    )
