"""From a release to what a cluster is given: its image by digest, and the objects that run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tidegate.pipelines.manifests.from_config import Deployment
from tidegate.pipelines.manifests.render import deployment_of, model_documents
from tidegate.registry import releases

if TYPE_CHECKING:
    from tidegate.pipelines.environment import Environment
    from tidegate.rollouts.plan import RolloutPlan


def renderer(environment: Environment) -> Callable[[str, RolloutPlan | None], Sequence[Mapping[str, Any]]]:
    """What the driver asks for the objects of a release; with a plan, those that bring its rollout."""

    def rendered(release: str, plan: RolloutPlan | None) -> Sequence[Mapping[str, Any]]:
        return documents(environment, deployment(environment, release, plan))

    return rendered


def deployment(environment: Environment, release: str | None = None, plan: RolloutPlan | None = None) -> Deployment:
    """A release's pushed image, and the rollout that brings it, or once brought it: so that nothing differs at rest.

    Args:
        environment: on a cluster.
        release: as typed; None takes what the ledger says is deployed.
        plan: of a rollout that begins.

    Raises:
        UsageError: there is no release, or its image was not pushed; says what to type.
    """
    from tidegate.rollouts.plan import RolloutPlan

    found = deployment_of(environment, release)
    if plan is None:
        past = (one for one in reversed(environment.state().rollouts) if one.canary == found.release)
        last = next((one for one in past if one.state == "promoted"), None)
        plan = RolloutPlan.from_dict(last.plan) if last is not None else None
    rollout = plan.rollout if plan is not None else ""
    return Deployment(found.image, found.release, found.version, rollout=rollout, plan=plan)


def documents(environment: Environment, wanted: Deployment) -> list[dict[str, Any]]:
    """The objects of a deployment, in the order in which they are applied."""
    release = releases.load(environment.store, wanted.release) if wanted.release else None
    return model_documents(environment.project, wanted, release=release)
