"""`ship` and `retrain` of an environment whose trainings run in its cluster: submit the Workflow, follow it, take up.

The pods end with a release in the store. Its image and its rollout are this process's, because building needs a
builder that no restricted pod may run, and the pods that run training code have no power over what users get.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tidegate.core import git
from tidegate.core.artifacts import GateResult, Release
from tidegate.core.errors import ContractFailed, TidegateError, UsageError
from tidegate.pipelines.dag import PASSED, REFUSED, RELEASE, RETRAIN, Flow, References
from tidegate.registry import releases

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.core.project import Project
    from tidegate.pipelines.environment import Environment
    from tidegate.pipelines.flows import Shipped
    from tidegate.pipelines.retrain import Retrained
    from tidegate.pipelines.runners import Runner, Running


def trains(project: Project) -> bool:
    """Whether this environment's models are trained in its cluster: it has one, and an image to train with."""
    return project.config.environment(project.env).kind == "kubernetes" and project.config.train.image is not None


def ship(environment: Environment, progress: Progress, *, wait: bool, timeout: float) -> Shipped:
    """The whole road: the Workflow from the commit to a release, its image, its rollout.

    Args:
        environment: on a cluster.
        progress: told what happens.
        wait: follow it all; else only submit.
        timeout: seconds for all of it.

    Raises:
        ContractFailed: the data breaks its contract.
        UsageError: the commit is not where pods find it.
        TidegateError: the Workflow failed.
    """
    from tidegate.pipelines import flows

    end = time.monotonic() + timeout
    running = _submit(environment, RELEASE, {}, progress)
    if not wait:
        return flows.Shipped("continue", reasons=(_going_on(running),), hint=_how_to_look(environment, running))
    running = _runner(environment).follow(running.name, progress, timeout)
    if not running.ended:
        return flows.Shipped("continue", reasons=(_going_on(running),), hint=_how_to_look(environment, running))
    gate, release = _outcome(environment, running)
    if release is None:
        return flows.Shipped("none", gate=gate, reasons=gate.reasons)
    _require_image(environment, release, progress)
    left = max(0.0, end - time.monotonic())
    return replace(flows.deploy(environment, release, progress, wait=True, timeout=left, by_hand=False), gate=gate)


def retrain(environment: Environment, reason: str, progress: Progress, *, wait: bool) -> Retrained | Running:
    """Submit the retrain Workflow; what became of it, or without `wait` the Workflow.

    Raises:
        UsageError: the environment has no trainer image.
        TidegateError: the Workflow failed.
    """
    from tidegate.pipelines.retrain import Ended, Retrained
    from tidegate.pipelines.runners import require_done

    running = _submit(environment, RETRAIN, {"reason": reason, "window": ""}, progress)
    if not wait:
        return running
    require_done(_runner(environment).follow(running.name, progress))
    state = environment.state()
    for one in reversed(state.retrains):
        if one.by.startswith(f"{running.name}@") and one.outcome is not None:
            ended = Ended(one.outcome, one.reasons, one.release, one.data)
            return Retrained(one.id, one.reason, ended, state.versions.get(one.release or ""))
    raise TidegateError(f"Workflow {running.name} wrote no end of a retrain.", "`tidegate events` shows what it wrote.")


def _runner(environment: Environment) -> Runner:
    from tidegate.pipelines.runners import kube

    return kube.runner(environment)


def _submit(environment: Environment, flow: Flow, given: References, progress: Progress) -> Running:
    """Start the Workflow of the commit that is checked out, with its data where pods find it."""
    project = environment.project
    if not trains(project):
        raise UsageError(
            f"The environment {project.env} has no trainer image, so nothing can be trained there.",
            "`tidegate package --trainer --push` builds one; its line goes under `train` of that environment.",
        )
    revision = _pushed_commit(project)
    with progress.task("share the data by DVC's remote"):
        _share(project)
    running = _runner(environment).start(flow, given, revision)
    progress.note(f"{_going_on(running)} {_how_to_look(environment, running)}")
    return running


def _pushed_commit(project: Project) -> str:
    """The commit that is checked out.

    Raises:
        UsageError: files differ from it, or no remote has it.
    """
    tree = project.work_tree()
    if not tree.commit:
        raise UsageError("There is no commit yet, and pods work on commits.", "`git commit`, then `git push`.")
    if tree.dirty:
        raise UsageError(
            f"The files differ from the commit {tree.commit[:10]}, and pods work on commits.",
            "`git status` shows what differs: commit and push it, or `git stash` it.",
        )
    if not git.git(project.root, "branch", "--remotes", "--contains", tree.commit).strip():
        raise UsageError(
            f"No remote branch has the commit {tree.commit[:10]}, so no pod could check it out.", "`git push`"
        )
    return tree.commit


def _share(project: Project) -> None:
    from tidegate.pipelines import dvc_repo

    address = dvc_repo.shared_remote(project.root)
    if address is None or "://" not in address:
        raise UsageError(
            f"DVC's remote is {address or 'not set'}, which no pod can reach.",
            "`dvc remote add --default NAME s3://bucket/dvc`, then commit .dvc/config and push.",
        )
    dvc_repo.push(project.root)


def _going_on(running: Running) -> str:
    return f"Workflow {running.name} runs in the cluster; Ctrl-C leaves it running."


def _how_to_look(environment: Environment, running: Running) -> str:
    word = f"--env {environment.project.env} {running.name}"
    return f"`tidegate workflow watch {word}` follows it, `tidegate workflow cancel {word}` ends it."


def _outcome(environment: Environment, running: Running) -> tuple[GateResult, Release | None]:
    """The gate and the release of a Workflow that ended.

    Raises:
        ContractFailed: it ended there.
        TidegateError: it failed.
    """
    from tidegate.pipelines.runners import require_done

    given = require_done(running)
    if given.get("contract") == REFUSED:
        raise ContractFailed(
            "The data breaks its contract.",
            f"`tidegate workflow logs --env {environment.project.env} {running.name} --step contract` says where; "
            "`tidegate data check` checks it here.",
        )
    state = environment.state()
    if given.get("gate") != PASSED:
        return GateResult(passed=False, reasons=_why_refused(environment, given.get("run_id", ""))), None
    release = releases.load(environment.store, given["release"])
    return GateResult(passed=True, reasons=state.gates[release.id].reasons), release


def _why_refused(environment: Environment, run_id: str) -> tuple[str, ...]:
    refusals = [one for one in environment.ledger.events() if one.kind == "gate_refused"]
    newest = next((one for one in reversed(refusals) if one.data["run_id"] == run_id), None)
    return tuple(newest.data["reasons"]) if newest else ()


def _require_image(environment: Environment, release: Release, progress: Progress) -> None:
    """Build and push the image that the cluster pulls, unless that was done.

    Raises:
        UsageError: nothing here can build one; says what to do where something can.
    """
    from tidegate.pipelines import bundles, images

    known = environment.state().images.get(release.id)
    if known is not None and known.pushed:
        return
    try:
        images.build(environment, release, bundles.bundle_of(environment.project, release), progress, push=True)
    except UsageError as error:
        env = environment.project.env
        raise UsageError(
            f"Release {release.id} is made, and has no image: {error.message}",
            f"{error.hint}\nOr elsewhere: `tidegate package {release.version} --image --push --env {env}`, "
            f"then `tidegate ship --release {release.id} --env {env}`.",
        ) from error
