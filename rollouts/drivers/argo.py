"""What an Argo Rollout says of itself: where it stands, how it ended, and why. Pure: it sees only objects.

Argo's fields and words are those of v1.9 (pkg/apis/rollouts/v1alpha1, utils/conditions). Its status is believed only
once its controller has seen the newest spec: until then it tells of the rollout before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from tidegate.core.artifacts import canonical
from tidegate.registry.state import RolloutState

RELEASE: Final = "tidegate.dev/release"
ROLLOUT: Final = "tidegate.dev/rollout"
DECISION: Final = "tidegate.dev/decision"
"""Annotations of ours: the release of a pod template, the ledger's rollout, and what a person asked for."""
HASH: Final = "rollouts-pod-template-hash"
ACTOR: Final = "argo-rollouts"
"""Who acted where Argo did so by itself, or for somebody whom it does not name."""
_CONTROLLERS: Final = ("rollouts-controller", "argo-rollouts", "controller")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for through tidegate, noted on the Rollout before it was done."""

    rollout: str
    kind: str
    step: int
    actor: str
    reason: str

    def encode(self) -> str:
        """The annotation."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, separators=(",", ":"))

    @classmethod
    def of(cls, thing: Mapping[str, Any]) -> Asked | None:
        """Read the annotation; None without one that can be read."""
        with suppress(ValueError, TypeError):
            return cls(**json.loads(notes(thing).get(DECISION, "")))
        return None


@dataclass(frozen=True, slots=True)
class Run:
    """An AnalysisRun of a rollout: how it ended, what was answered last, and Argo's words."""

    phase: str
    kind: str
    step: int
    answer: Mapping[str, Any]
    message: str

    @property
    def decision(self) -> str:
        """The judge's word, empty where it was not the judge or nothing was answered."""
        return str(self.answer.get("decision", ""))


@dataclass(frozen=True, slots=True)
class Change:
    """What must be written into the ledger: the event's kind, its reasons and who did it."""

    kind: str
    reasons: tuple[str, ...]
    actor: str = ACTOR
    step: int = -1
    judged: bool = False


def notes(thing: Mapping[str, Any]) -> Mapping[str, str]:
    """The annotations of an object."""
    return thing["metadata"].get("annotations") or {}


def template_digest(thing: Mapping[str, Any]) -> str:
    """Which revision a Rollout asks for, whoever changed it: the sha256 of its pod template.

    Argo's controller writes the template anew in its own words, with `resources: {}` say: what is empty does not count.
    """
    return hashlib.sha256(canonical(filled(thing["spec"].get("template", {})))).hexdigest()


def filled(value: Any) -> Any:
    """A document without what is empty in it."""
    if isinstance(value, Mapping):
        kept = {key: filled(child) for key, child in value.items()}
        return {key: child for key, child in kept.items() if child not in ({}, [], "", None)}
    return [filled(child) for child in value] if isinstance(value, list) else value


def observed(thing: Mapping[str, Any]) -> bool:
    """Whether the controller has seen the spec that is there."""
    seen = str(status(thing).get("observedGeneration", ""))
    return seen.isdecimal() and int(seen) >= int(thing["metadata"]["generation"])


def status(thing: Mapping[str, Any]) -> Mapping[str, Any]:
    """The status, empty before there is one."""
    found: Mapping[str, Any] = thing.get("status") or {}
    return found


def pod_hash(thing: Mapping[str, Any]) -> str:
    """The hash of the pods that are asked for, which their ReplicaSet and AnalysisRuns are labelled with."""
    return str(status(thing).get("currentPodHash", ""))


def steps(thing: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Argo's steps."""
    found: Sequence[Mapping[str, Any]] = thing["spec"]["strategy"]["canary"].get("steps") or ()
    return found


def rungs(thing: Mapping[str, Any]) -> tuple[int, ...]:
    """Where in Argo's steps each step of the plan begins: at its weight."""
    return tuple(index for index, step in enumerate(steps(thing)) if "setWeight" in step)


def rung(thing: Mapping[str, Any]) -> int:
    """The step of the plan that Argo is at; -1 before the first weight, their number after the last."""
    at = int(status(thing).get("currentStepIndex") or 0)
    if at >= len(steps(thing)):
        return len(rungs(thing))
    return sum(begin <= at for begin in rungs(thing)) - 1


def steady(thing: Mapping[str, Any]) -> bool:
    """Whether Argo waits: for the analysis of its step, or for somebody.

    In between it writes the step's number itself, and would write over one that somebody gives it.
    """
    told, at = status(thing), int(status(thing).get("currentStepIndex") or 0)
    if told.get("pauseConditions") or at >= len(steps(thing)):
        return True
    run = (told.get("canary") or {}).get("currentStepAnalysisRunStatus") or {}
    # A second run of one name has `.1` behind it.
    name = str(run.get("name", "")).partition(".")[0]
    return "analysis" in steps(thing)[at] and name.endswith(f"-{at}")


def complete(thing: Mapping[str, Any]) -> bool:
    """Whether the revision that is asked for is the stable one."""
    told = status(thing)
    return bool(told.get("stableRS")) and told.get("stableRS") == told.get("currentPodHash")


def condition(thing: Mapping[str, Any], kind: str) -> Mapping[str, str]:
    """A condition, empty where there is none."""
    return next((one for one in status(thing).get("conditions") or () if one["type"] == kind), {})


def runs(rollout: str, objects: Iterable[Mapping[str, Any]]) -> tuple[Run, ...]:
    """The AnalysisRuns of a rollout of the ledger, oldest first: the same pods may have been tried before."""
    ours = [one for one in objects if any(_is(arg, rollout) for arg in one["spec"].get("args") or ())]
    ours.sort(key=lambda one: (str(one["metadata"]["creationTimestamp"]), int(_label(one, "step-index") or 0)))
    return tuple(_run(one) for one in ours)


def change(rollout: RolloutState, thing: Mapping[str, Any] | None, applied: str, found: Sequence[Run]) -> Change | None:
    """What happened to a rollout that the ledger believes open; None: nothing, or nothing that can be told yet.

    Args:
        rollout: as the ledger has it.
        thing: the Rollout in the cluster; None: it is gone.
        applied: digest of the template that was applied for it.
        found: its AnalysisRuns.
    """
    if thing is None:
        return Change("aborted", ("The Rollout is gone from the cluster: somebody deleted it.",))
    if template_digest(thing) != applied:
        return _replaced(rollout, thing)
    return _went(rollout, thing, found) if observed(thing) else None


def _went(rollout: RolloutState, thing: Mapping[str, Any], found: Sequence[Run]) -> Change | None:
    asked = Asked.of(thing)
    if asked is not None and asked.rollout != rollout.id:
        asked = None
    if status(thing).get("abort"):
        return _aborted(thing, asked, found)
    if complete(thing):
        return _promoted(rollout, thing, asked, found)
    at = rung(thing)
    if at >= len(rollout.steps) or status(thing).get("promoteFull"):
        # The last pods come; then it is an end.
        return None
    return _passed(rollout, thing, asked, found) if at > rollout.step else _stuck(rollout, thing, found)


def _replaced(rollout: RolloutState, thing: Mapping[str, Any]) -> Change:
    who = _owner(thing, ("spec", "template"))
    by = f" by {who}" if who else ""
    if observed(thing) and complete(thing) and notes(thing["spec"]["template"]).get(RELEASE) == rollout.stable:
        return Change(
            "aborted", (f"The champion's pods were asked for again{by}, not through tidegate.",), who or ACTOR
        )
    return Change(
        "replaced",
        (
            f"Another revision was put in its place{by}, not through tidegate: {_images(thing)}.",
            "What was counted until then says nothing of that one.",
        ),
        who or ACTOR,
    )


def _aborted(thing: Mapping[str, Any], asked: Asked | None, found: Sequence[Run]) -> Change | None:
    if asked is not None and asked.kind == "abort":
        return Change("aborted", (asked.reason,), asked.actor)
    word = condition(thing, "Progressing")
    because = word.get("message", "").partition(": ")[2] if word.get("reason") == "RolloutAborted" else ""
    ended = [one for one in found if one.phase in {"Failed", "Error"}]
    if ended:
        return _failed(ended[-1], because)
    if because:
        return Change("aborted", (f"Argo Rollouts ended it: {because}",))
    # Without this the controller has not said yet whether it was somebody's wish.
    return _by_hand(thing) if status(thing).get("abortedAt") else None


def _failed(run: Run, because: str) -> Change:
    """Only the judge's own word is a verdict; a judge that is not reached and a smoke request that fails are none."""
    if run.phase == "Failed" and run.decision == "rollback":
        return Change("rolled_back", (str(run.answer.get("reason") or because),), "judge", judged=True)
    why = "the judge could not be asked" if run.phase == "Error" else "a check failed"
    return Change("aborted", (f"Argo Rollouts ended it, since {why}: {run.message or because}",))


def _by_hand(thing: Mapping[str, Any]) -> Change:
    who = _owner(thing, ("status", "abort"))
    named = who and not who.startswith(_CONTROLLERS)
    return Change("aborted", ("Aborted through Argo Rollouts, not by the judge.",), who if named else ACTOR)


def _promoted(rollout: RolloutState, thing: Mapping[str, Any], asked: Asked | None, found: Sequence[Run]) -> Change:
    last = [one for one in found if one.kind == "Step" and one.step == len(steps(thing)) - 1]
    if last and last[-1].phase == "Successful" and last[-1].decision == "promote":
        return Change("promoted", (str(last[-1].answer.get("reason") or ""),), "judge", judged=True)
    if asked is not None and asked.kind in {"full", "step"}:
        return Change("promoted", (asked.reason,), asked.actor)
    at = f"{rollout.weight} %"
    return Change("promoted", (f"Promoted through Argo Rollouts at {at}, before the judge had decided.",))


def _passed(rollout: RolloutState, thing: Mapping[str, Any], asked: Asked | None, found: Sequence[Run]) -> Change:
    at, begins = rung(thing), rungs(thing)
    own = range(begins[at - 1], begins[at])
    ended = [one for one in found if one.kind == "Step" and one.step in own and one.phase == "Successful"]
    if ended and ended[-1].decision == "promote":
        return Change("step_passed", (str(ended[-1].answer.get("reason") or ""),), "judge", step=at)
    if asked is not None and asked.kind == "step" and asked.step == rollout.step and at == rollout.step + 1:
        return Change("step_passed", (asked.reason,), asked.actor, step=at)
    return Change("step_passed", ("Passed through Argo Rollouts, before the judge had decided.",), step=at)


def _stuck(rollout: RolloutState, thing: Mapping[str, Any], found: Sequence[Run]) -> Change | None:
    if rollout.state == "held":
        return None
    paused = {one.get("reason") for one in status(thing).get("pauseConditions") or ()}
    if "InconclusiveAnalysisRun" in paused:
        ended = [one for one in found if one.phase == "Inconclusive"]
        why = str(ended[-1].answer.get("reason") or ended[-1].message) if ended else "The analysis came to no verdict."
        return Change("held", (why,), "judge")
    for kind, reason in (("Progressing", "ProgressDeadlineExceeded"), ("InvalidSpec", "InvalidSpec")):
        word = condition(thing, kind)
        if word.get("reason") == reason and word.get("status") != ("True" if kind == "Progressing" else "False"):
            return Change("held", (f"Argo Rollouts does not go on: {word.get('message', reason)}",))
    return None


def _run(thing: Mapping[str, Any]) -> Run:
    told = status(thing)
    measured = [one for result in told.get("metricResults") or () for one in result.get("measurements") or ()]
    answer: object = None
    with suppress(ValueError):
        answer = json.loads(measured[-1].get("value") or "null") if measured else None
    message = str(told.get("message") or (measured[-1].get("message") if measured else "") or "")
    step = int(_label(thing, "step-index") or -1)
    phase, kind = str(told.get("phase", "")), _label(thing, "rollout-type")
    return Run(phase, kind, step, answer if isinstance(answer, dict) else {}, message)


def _is(argument: Mapping[str, Any], rollout: str) -> bool:
    return argument.get("name") == "id" and argument.get("value") == rollout


def _label(thing: Mapping[str, Any], name: str) -> str:
    return str((thing["metadata"].get("labels") or {}).get(name, ""))


def _images(thing: Mapping[str, Any]) -> str:
    return ", ".join(one["image"] for one in thing["spec"]["template"]["spec"]["containers"])


def _owner(thing: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """Who wrote a field last, as the server remembers it; tidegate and nobody are the empty word."""
    owners = []
    for one in thing["metadata"].get("managedFields") or ():
        node = one.get("fieldsV1", {})
        for part in path:
            node = node.get(f"f:{part}") if isinstance(node, dict) else None
        if node is not None and one.get("manager") != "tidegate":
            owners.append((str(one.get("time", "")), str(one["manager"])))
    return max(owners)[1] if owners else ""
