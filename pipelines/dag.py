"""The flows as data: which steps there are, in which order, and which references pass between them.

Read by whoever executes a flow: `walk` here runs one in this process, pipelines/workflows makes Argo Workflows of it.
A reference is a short text that names something kept elsewhere (a run, a version, a release, an md5); files never pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tidegate.core.errors import Permanent, UsageError

References = Mapping[str, str]
Work = Callable[[References], References]

PASSED: Final = "passed"
REFUSED: Final = "refused"
YES: Final = "yes"
NO: Final = "no"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a flow.

    Attributes:
        name: what `tidegate step` calls it.
        takes: references of earlier steps that it reads.
        gives: references that it leaves.
        only_if: a reference and the value it must have, else this step and all after it are left out.
        trains: whether it runs the user's training, so that it gets `train.resources`.
        acts: whether it may start a rollout.
    """

    name: str
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    only_if: tuple[str, str] | None = None
    trains: bool = False
    acts: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """Steps that run one after the other; `given` are the references that whoever starts it must say."""

    name: str
    given: tuple[str, ...]
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        """The step of that name.

        Raises:
            UsageError: there is none.
        """
        for one in self.steps:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.steps)
        raise UsageError(f"The flow {self.name} has no step {name}.", f"Its steps: {known}.")

    def giver(self, reference: str) -> str | None:
        """The step that gives a reference; None for one that the flow is given."""
        return next((one.name for one in self.steps if reference in one.gives), None)

    def before(self, name: str) -> str | None:
        """The step right before this one."""
        names = [one.name for one in self.steps]
        index = names.index(name)
        return names[index - 1] if index else None


def walk(flow: Flow, work: Mapping[str, Work], given: References) -> dict[str, str]:
    """Run a flow in this process and return every reference it ended with.

    A step whose condition does not hold ends the flow early, as it does in a cluster.

    Args:
        flow: what to run.
        work: step name -> the work, called with the references that it takes.
        given: values of `flow.given`.

    Raises:
        Permanent: a step did not give what it promises.
    """
    known = dict(given)
    for step in flow.steps:
        if step.only_if is not None and known.get(step.only_if[0]) != step.only_if[1]:
            break
        taken = {name: known[name] for name in (*flow.given, *step.takes) if name in known}
        known |= kept(step, work[step.name](taken))
    return known


def kept(step: Step, made: References) -> References:
    """What a step made, if it is what the flow says.

    Raises:
        Permanent: something is missing, or was never promised.
    """
    if set(made) != set(step.gives):
        raise Permanent(
            f"The step {step.name} gave {', '.join(sorted(made)) or 'nothing'} instead of "
            f"{', '.join(step.gives) or 'nothing'}.",
            "Please report it: this is a mistake of tidegate.",
        )
    return made


_REPRODUCIBLE: Final = (
    Step("contract", gives=("contract",)),
    Step("train", gives=("run_id",), only_if=("contract", PASSED), trains=True),
    Step("evaluate", takes=("run_id",)),
)
_DECIDED: Final = (
    Step("gate", takes=("run_id",), gives=("gate",)),
    Step("register", takes=("run_id",), gives=("version",), only_if=("gate", PASSED)),
    Step("package", takes=("run_id", "version"), gives=("release",)),
)

RELEASE: Final = Flow("release", (), (*_REPRODUCIBLE, *_DECIDED))
"""From a commit to a release. Its rollout is started by whoever asked for the release, or by a person later."""


def _on_new_data(step: Step) -> Step:
    """The same step, on the data of a retrain in place of the commit's."""
    first = ("fresh", YES) if step.name == "contract" else step.only_if
    return Step(step.name, ("data", *step.takes), step.gives, first, step.trains, step.acts)


RETRAIN: Final = Flow(
    "retrain",
    ("reason", "window"),
    (
        Step("begin", gives=("goes_on",)),
        Step("data", gives=("data", "fresh"), only_if=("goes_on", YES)),
        *map(_on_new_data, (*_REPRODUCIBLE, *_DECIDED)),
        Step("compare", takes=("data", "release"), gives=("outcome",), acts=True),
    ),
)
"""Former champions first, then new data, the road, and a contest on matured labels."""

MONITOR: Final = Flow("monitor", (), (Step("watch"),))
"""One look at the live model, every window."""

FLOWS: Final[Mapping[str, Flow]] = MappingProxyType({one.name: one for one in (RELEASE, RETRAIN, MONITOR)})

REPRODUCIBLE: Final = tuple(one.name for one in _REPRODUCIBLE)
"""The steps that DVC records: the same inputs give the same outputs."""
