"""Rollouts on a cluster: the ledger decides that one begins, Argo Rollouts moves it, the ledger learns how it ended.

Argo owns the loop: it asks the judge, sets weights, aborts and promotes. A person's answer is first noted on the
Rollout (who, why), then given to Argo as `kubectl argo rollouts` gives it. Whatever became of it is read back by
`settle`, which anybody may call at any time: it is decided by compare-and-append, so that it is written once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import Conflict, Temporary, TidegateError
from tidegate.core.kube import ANALYSIS_RUN, REPLICA_SET, ROLLOUT, Cluster
from tidegate.registry.ledger import Draft, Event, Ledger, actor
from tidegate.registry.state import RolloutState, State, fold, on_open
from tidegate.rollouts.checkpoint import read_checkpoint
from tidegate.rollouts.drivers import argo
from tidegate.rollouts.drivers.local import LocalDriver
from tidegate.serving.deploy.kube import put

if TYPE_CHECKING:
    from tidegate.core.store import Store
    from tidegate.rollouts.plan import RolloutPlan

Document = dict[str, Any]
Render = Callable[[str, "RolloutPlan | None"], Sequence[Mapping[str, Any]]]
"""The model's objects for a release; with a plan they bring the rollout of that plan."""

# Seconds: of a start that was killed before it reached the cluster; until Argo has seen a spec; of a person's answer.
_LOST: Final = 120.0
_SEEN: Final = 60.0
_ANSWERED: Final = 20.0
_POLL: Final = 0.5
_ATTEMPTS: Final = 8


class KubeDriver:
    """Follows the Rollout of one model.

    Args:
        ledger: of the environment.
        store: where the judge leaves its checkpoints.
        keep_previous: seconds that the loser stays warm after a promotion.
        cluster: with the namespace.
        name: of the Rollout.
        render: makes the objects; None where nothing is started, as in the judge's pod.
        patience: seconds for which a person's answer is followed until Argo has done it.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        keep_previous: float,
        cluster: Cluster,
        name: str,
        *,
        render: Render | None = None,
        patience: float = _ANSWERED,
    ) -> None:
        self._ledger, self._store, self._keep = ledger, store, keep_previous
        self._cluster, self.name, self._render = cluster, name, render
        self._patience = patience
        self._local = LocalDriver(ledger, store, keep_previous)

    def start(self, release: str, plan: RolloutPlan, *, by_hand: bool, replace: bool) -> RolloutState:
        """Write that the rollout begins, then give the cluster what it needs; what did not get there is ended at once.

        Raises:
            Conflict: as on the laptop; or the cluster is busy with a revision that is not the ledger's.
            TidegateError: the cluster refused.
        """
        return self._start(release, plan, self._bring, by_hand=by_hand, replace=replace)

    def start_in_git(
        self,
        release: str,
        plan: RolloutPlan,
        commit: Callable[[Sequence[Mapping[str, Any]]], str],
        *,
        by_hand: bool,
        replace: bool,
    ) -> RolloutState:
        """The same, by a commit: the rollout waits until somebody has applied it.

        Args:
            release: to try.
            plan: of the rollout.
            commit: takes the objects and gives the commit.
            by_hand: a person asked for it.
            replace: end a running one first.

        Raises: as `start`.
        """

        def bring(started: RolloutState, of: RolloutPlan) -> None:
            made = commit(self._rendered(started.canary, of))
            self._store.write(_in_git(started.id), json.dumps({"commit": made}).encode())

        return self._start(release, plan, bring, by_hand=by_hand, replace=replace)

    def _start(
        self,
        release: str,
        plan: RolloutPlan,
        bring: Callable[[RolloutState, RolloutPlan], None],
        *,
        by_hand: bool,
        replace: bool,
    ) -> RolloutState:
        self.settle()
        self._require_rest(replace=replace)
        started = self._local.start(release, plan, by_hand=by_hand, replace=replace)
        try:
            bring(started, plan)
        except TidegateError as error:
            self._write(started, argo.Change("aborted", (f"It never reached the cluster: {error.message}",), actor()))
            raise
        return started

    def status(self, rollout: str | None = None) -> dict[str, Any]:
        """The ledger's document, and in `cluster` what Argo says; `phase` is None while nobody answers there.

        Raises:
            Conflict: there is no such rollout.
        """
        cluster: Document = {
            "rollout": self.name,
            "namespace": self._cluster.namespace,
            "context": self._cluster.context,
        }
        try:
            thing = self._settled()[1]
            told = argo.status(thing) if thing else {}
            cluster |= {"phase": told.get("phase", "Missing"), "message": told.get("message", "")}
        except TidegateError as error:
            cluster |= {"phase": None, "message": error.message}
        return {**self._local.status(rollout), "cluster": cluster}

    def promote(self, *, full: bool, reason: str, actor: str = "", seen: RolloutState | None = None) -> RolloutState:
        """Pass the running step, or the whole rollout with `full`; before the first weight, what comes before it.

        The last step and `full` end when the canary has all its pods, which takes Argo a while.

        Raises:
            Conflict: no rollout runs (any more), or it has left the step; says what happened to it.
        """
        current = self._current(seen, same_step=not full)
        kind = "full" if full else "step"

        def answer(thing: Document) -> Document | None:
            return _full(thing) if full else _next(thing, current)

        self._tell(current, kind, reason, actor, answer)
        return self._follow(current, until_end=full or current.step + 1 == len(current.steps))

    def abort(self, reason: str, actor: str = "", seen: RolloutState | None = None) -> RolloutState:
        """End the rollout; the champion keeps everybody.

        Raises:
            Conflict: no rollout runs (any more); says what happened to it.
        """
        current = self._current(seen)
        self._tell(current, "abort", reason, actor, lambda _: {"abort": True})
        return self._follow(current, until_end=True)

    def settle(self) -> RolloutState | None:
        """Write into the ledger what Argo has done since; the newest rollout, if there ever was one."""
        return self._settled()[0]

    def serve(self, release: str) -> None:
        """Give everybody `release` at once, without a judge, whoever else set what of the objects: it is urgent.

        Raises:
            TidegateError: the cluster refused, or Argo does not answer.
        """
        self.put(self._rendered(release, None), force=True)

    def put(self, documents: Sequence[Mapping[str, Any]], *, force: bool = False) -> list[Document]:
        """Apply objects; where they change the pods of who serves, everybody gets the new ones without a judge.

        Raises:
            TidegateError: the cluster refused, or Argo does not answer.
        """
        made = put(self._cluster, documents, force=force)
        if any(one["kind"] == ROLLOUT.kind and one["metadata"]["name"] == self.name for one in made):
            self._skip_steps()
        return made

    def wait_healthy(self, seconds: float) -> bool:
        """Wait until the Rollout runs what it should, everywhere; False after `seconds`.

        Raises:
            TidegateError: Argo says that it cannot.
        """
        end = time.monotonic() + seconds
        while True:
            thing = self._thing()
            if thing is not None and argo.observed(thing):
                told = argo.status(thing)
                if told.get("phase") == "Healthy" and argo.complete(thing):
                    return True
                if told.get("phase") == "Degraded":
                    raise TidegateError(
                        f"The Rollout {self.name} is degraded: {told.get('message', '')}",
                        f"`kubectl argo rollouts get rollout {self.name} -n {self._cluster.namespace}` shows its pods.",
                    )
            if time.monotonic() > end:
                return False
            time.sleep(_POLL)

    # Towards the cluster.

    def _require_rest(self, *, replace: bool) -> None:
        """A rollout begins from the champion's pods, not from the middle of something else."""
        thing = self._thing()
        champion = self._state().champion
        if thing is None or champion is None:
            return
        told = argo.status(thing)
        busy = not argo.complete(thing) and not told.get("abort")
        if busy and self._state().open_rollout is None and not replace:
            raise Conflict(
                f"The Rollout {self.name} is in the middle of a revision that tidegate did not start.",
                f"`kubectl argo rollouts get rollout {self.name} -n {self._cluster.namespace}` shows it; end it there,"
                " or `tidegate apply` puts the champion back.",
            )
        stable = self._stable_release(thing)
        if stable and stable != champion:
            raise Conflict(
                f"The stable pods are of release {stable}, and the ledger's champion is {champion}.",
                f"Somebody changed them, not through tidegate. `tidegate rollback {stable} --reason TEXT` follows them,"
                " `tidegate apply` puts the champion back.",
            )

    def _stable_release(self, thing: Mapping[str, Any]) -> str:
        """Which release the stable pods are of; empty where that cannot be told."""
        wanted = str(argo.status(thing).get("stableRS", ""))
        labels = thing["spec"]["selector"]["matchLabels"]
        for one in self._cluster.list(REPLICA_SET, {**labels, argo.HASH: wanted}) if wanted else ():
            return argo.notes(one["spec"]["template"]).get(argo.RELEASE, "")
        return ""

    def _bring(self, started: RolloutState, plan: RolloutPlan) -> None:
        made = put(self._cluster, self._rendered(started.canary, plan))
        thing = next(one for one in made if one["kind"] == ROLLOUT.kind)
        self._note(started.id, thing)

    def _rendered(self, release: str, plan: RolloutPlan | None) -> Sequence[Mapping[str, Any]]:
        if self._render is None:
            raise Conflict("Nothing is started from here.", "`tidegate rollout start` does, from a project.")
        return self._render(release, plan)

    def _skip_steps(self) -> None:
        """Once Argo has begun with new pods, let it go through: what is served is decided already."""
        end = time.monotonic() + _SEEN
        while time.monotonic() < end:
            thing = self._thing()
            if thing is not None and argo.observed(thing):
                first = not argo.status(thing).get("stableRS")
                if first or argo.complete(thing) or argo.status(thing).get("promoteFull"):
                    return
                try:
                    self._patch_status(thing, {"promoteFull": True})
                except Conflict:
                    continue
            time.sleep(_POLL)
        raise Temporary(
            f"Argo Rollouts has not looked at the Rollout {self.name} for {_SEEN:.0f} s.",
            "Is its controller running? What was applied stays; run the same command again.",
        )

    def _tell(
        self,
        current: RolloutState,
        kind: str,
        reason: str,
        who: str,
        answer: Callable[[Document], Document | None],
    ) -> None:
        """Note who wants what, then give it to Argo; both only on the Rollout as it was seen."""
        asked = argo.Asked(current.id, kind, current.step, who or actor(), reason)
        for attempt in range(_ATTEMPTS):
            settled, thing = self._settled()
            if thing is not None and argo.Asked.of(thing) == asked and _went_on(settled, current):
                # The answer arrived though the server's was lost.
                return
            seen = self._ours(current, settled, thing)
            try:
                wanted = answer(seen)
                if wanted is None:
                    return
                note = {"metadata": {"annotations": {argo.DECISION: asked.encode()}}}
                version = seen["metadata"]["resourceVersion"]
                noted = self._cluster.patch(ROLLOUT, self.name, note, resource_version=version)
                self._patch_status(noted, wanted)
            except Conflict:
                # Argo's controller writes at the same time; what was seen may be over.
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(_POLL)
            else:
                return

    def _patch_status(self, thing: Mapping[str, Any], wanted: Document) -> None:
        """As `kubectl argo rollouts` does: the status, then whether somebody paused it."""
        version = thing["metadata"]["resourceVersion"]
        done = self._cluster.patch(
            ROLLOUT, self.name, {"status": wanted}, subresource="status", resource_version=version
        )
        if done["spec"].get("paused") and "abort" not in wanted:
            self._cluster.patch(ROLLOUT, self.name, {"spec": {"paused": False}})

    # From the cluster.

    def _current(self, seen: RolloutState | None, *, same_step: bool = False) -> RolloutState:
        """The rollout that a person answers to, as it stands after a look at the cluster."""
        self.settle()
        found: list[RolloutState] = []

        def look(_: State, current: RolloutState) -> None:
            found.append(current)

        on_open(seen.id if seen is not None else None, look)(self._state())
        current = found[0]
        if same_step and seen is not None and seen.step != current.step:
            raise Conflict(
                f"Rollout {current.id} went on to {current.weight} % meanwhile.",
                "`tidegate events` shows who decided; promote again to pass this step too.",
            )
        return current

    def _ours(self, current: RolloutState, settled: RolloutState | None, thing: Document | None) -> Document:
        """The Rollout, if it is still about this rollout.

        Raises:
            Conflict: it is not, or Argo has not begun with it.
        """
        if settled is None or settled.id != current.id or not settled.open or thing is None:
            on_open(current.id, lambda _, __: None)(self._state())
            raise Conflict(f"Rollout {current.id} is not the one that runs.", "`tidegate rollout status` shows it.")
        if not argo.observed(thing):
            raise Conflict("Argo Rollouts has not begun with this rollout yet.", "Try again in a moment.")
        return thing

    def _follow(self, current: RolloutState, *, until_end: bool) -> RolloutState:
        """Look until the answer is in the ledger, or for as long as a person waits."""
        end = time.monotonic() + self._patience
        while True:
            state = self.settle() or current
            moved = not state.open or (not until_end and state.step > current.step)
            before_first = not until_end and state.open and state.step == current.step
            if moved or before_first or time.monotonic() > end:
                return state
            time.sleep(_POLL)

    def _settled(self) -> tuple[RolloutState | None, Document | None]:
        """The newest rollout after what happened was written, and the Rollout as it was seen."""
        newest = self._state().rollout
        thing = self._thing()
        if newest is None or not newest.open:
            return newest, thing
        found = self._change(newest, thing)
        if found is not None:
            self._write(newest, found)
        return self._state().rollout, thing

    def _change(self, rollout: RolloutState, thing: Document | None) -> argo.Change | None:
        applied = self._applied(rollout, thing)
        if applied is None:
            if self._store.exists(_in_git(rollout.id)):
                return None
            age = (datetime.now(UTC) - datetime.fromisoformat(rollout.started_at)).total_seconds()
            lost = "It never reached the cluster: whoever started it was stopped."
            return argo.Change("aborted", (lost,)) if age > _LOST else None
        return argo.change(rollout, thing, applied, self._runs(rollout, thing))

    def _runs(self, rollout: RolloutState, thing: Document | None) -> tuple[argo.Run, ...]:
        if thing is None or not argo.observed(thing):
            return ()
        return argo.runs(rollout.id, self._cluster.list(ANALYSIS_RUN, {argo.HASH: argo.pod_hash(thing)}))

    def _applied(self, rollout: RolloutState, thing: Document | None) -> str | None:
        """The digest of the pod template that was applied for a rollout; None: it is not known to have been."""
        try:
            found: str = json.loads(self._store.read(_place(rollout.id)))["template"]
        except FileNotFoundError:
            pass
        else:
            return found
        # Killed between applying and noting it: the Rollout itself says whose it is.
        if thing is None or argo.notes(thing).get(argo.ROLLOUT) != rollout.id:
            return None
        if argo.notes(thing["spec"]["template"]).get(argo.RELEASE) != rollout.canary:
            return None
        return self._note(rollout.id, thing)

    def _note(self, rollout: str, thing: Mapping[str, Any]) -> str:
        digest = argo.template_digest(thing)
        document = {"uid": thing["metadata"]["uid"], "template": digest}
        self._store.put_if_absent(_place(rollout), json.dumps(document).encode())
        return digest

    def _write(self, rollout: RolloutState, change: argo.Change) -> None:
        """Append the event unless somebody wrote it already, or the rollout went on."""
        data: Document = {"rollout": rollout.id, "reasons": [one for one in change.reasons if one]}
        checkpoint = read_checkpoint(self._store, rollout.id) or {}
        verdict = checkpoint.get("verdict", {})
        data["units"] = verdict.get("units", {})
        if change.judged and verdict.get("decision") == {"promoted": "promote"}.get(change.kind, "rollback"):
            data |= {"verdict": verdict, "reasons": verdict.get("reasons") or data["reasons"]}
        if change.kind == "promoted":
            data["keep"] = rollout.keep
        if change.kind == "step_passed":
            data["step"] = change.step

        def decide(events: Sequence[Event]) -> Draft | None:
            current = fold(events).open_rollout
            if (
                current is None
                or current.id != rollout.id
                or (current.step, current.state) != (rollout.step, rollout.state)
            ):
                return None
            return Draft(change.kind, data, change.actor)

        self._ledger.append(decide)

    def _thing(self) -> Document | None:
        return self._cluster.get(ROLLOUT, self.name)

    def _state(self) -> State:
        return fold(self._ledger.events())


def _went_on(now: RolloutState | None, before: RolloutState) -> bool:
    return now is not None and now.id == before.id and (now.step, now.open) != (before.step, before.open)


def _place(rollout: str) -> str:
    return f"rollouts/{rollout}/applied.json"


def _in_git(rollout: str) -> str:
    return f"rollouts/{rollout}/git.json"


def _full(thing: Mapping[str, Any]) -> Document | None:
    return None if argo.complete(thing) else {"promoteFull": True}


def _next(thing: Mapping[str, Any], current: RolloutState) -> Document | None:
    """Go to the next weight of the plan, past what is left of this one's analysis; also out of an inconclusive one.

    Raises:
        Conflict: Argo is elsewhere than the ledger.
    """
    at, begins = argo.rung(thing), argo.rungs(thing)
    if at >= len(begins):
        return None
    if at not in {current.step, -1} or not argo.steady(thing):
        raise Conflict(
            f"Argo Rollouts is just going to {current.weight} %.", "Try again in a moment: `tidegate rollout status`."
        )
    following = begins[at + 1] if at + 1 < len(begins) else len(argo.steps(thing))
    told = argo.status(thing)
    wanted: Document = {"currentStepIndex": following}
    if told.get("pauseConditions"):
        wanted["pauseConditions"] = None
    if told.get("controllerPause"):
        wanted["controllerPause"] = False
    return wanted
