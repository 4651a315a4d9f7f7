"""The release flow: from the files as they are to a judged rollout.

Every act is decided on the ledger and can be repeated: killed anywhere, `ship` run again finds what
is done and goes on from there.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from tidegate.core.artifacts import GateResult, Release
from tidegate.core.config import LOCAL
from tidegate.core.errors import Inconclusive, Temporary, TidegateError, UsageError
from tidegate.pipelines import aliases, champion, late_history, stack
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.own_live import OwnFunctions
from tidegate.registry import releases
from tidegate.registry.ledger import Draft
from tidegate.registry.state import Decision as Decide
from tidegate.registry.state import RolloutState, State, deciding, start

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.pipelines.release import Made
    from tidegate.rollouts.plan import RolloutPlan
    from tidegate.rollouts.planning import Measured
    from tidegate.rollouts.stats.latency import LatencyLines

Decision = Literal["promote", "rollback", "inconclusive", "continue", "deployed", "none"]

_POLL_SECONDS = 0.3
_CLUSTER_POLL_SECONDS = 2.0
_DEPLOY_SECONDS = 90.0

_DECISIONS: Mapping[str, Decision] = {
    "running": "continue",
    "held": "inconclusive",
    "promoted": "promote",
    "rolled_back": "rollback",
    "aborted": "rollback",
    "inconclusive": "inconclusive",
    "replaced": "inconclusive",
}
_NEXT: Mapping[str, str] = {
    "running": "It goes on: `tidegate rollout watch` follows it.",
    "held": "`tidegate rollout promote` or `tidegate rollout abort` decides.",
    "rolled_back": (
        "`tidegate rollout report` writes a page that shows the evidence over time.\n"
        "`tidegate logs {canary}` shows what the canary printed."
    ),
}
"""What to type next, one line each, by the state in which a rollout is left; of the others nothing is left to do."""


class StoppedFollowing(KeyboardInterrupt):
    """Ctrl-C while somebody followed `rollout`, which goes on by itself."""

    def __init__(self, rollout: str) -> None:
        super().__init__(rollout)
        self.rollout = rollout


@dataclass(frozen=True)
class Shipped:
    """How far a release came.

    `reasons` explain the decision; `hint` is what to type next; `metrics` were measured on the holdout and `metric`
    names the one that decides in the gate.
    """

    decision: Decision
    release: str | None = None
    version: int | None = None
    gate: GateResult | None = None
    rollout: RolloutState | None = None
    reasons: tuple[str, ...] = ()
    hint: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    metric: str = ""

    def to_json(self) -> dict[str, Any]:
        """The document of `tidegate ship`."""
        rollout = self.rollout
        gate = {"passed": self.gate.passed, "reasons": list(self.gate.reasons)} if self.gate else None
        steps = [
            {"weight": one.weight, "verdict": one.verdict, "seconds": one.seconds, "units": dict(one.units)}
            for one in (rollout.results if rollout else ())
        ]
        return {
            "kind": "release",
            "release": self.release,
            "version": self.version,
            "gate": gate,
            "rollout": {
                "id": rollout.id if rollout else None,
                "decision": self.decision,
                "steps": steps,
                **({"shadow": dict(rollout.shadow)} if rollout and rollout.shadow else {}),
            },
            "metrics": dict(self.metrics),
            "metric": self.metric or None,
            "reasons": list(self.reasons),
            "hint": self.hint,
        }


def ship(
    environment: Environment, progress: Progress, *, wait: bool, timeout: float, allow_dirty: bool = False
) -> Shipped:
    """Take the project as it is down the whole road.

    Args:
        environment: where it ends.
        progress: told what happens.
        wait: follow the rollout to its verdict.
        timeout: seconds to follow it; it goes on afterwards.
        allow_dirty: outside of the local environment, ship what no commit holds.

    Raises:
        UsageError: files are not committed; or nothing is trained in that environment.
    """
    from tidegate.pipelines import in_cluster, moving
    from tidegate.pipelines.release import make_release
    from tidegate.rollouts import planning

    if environment.on_cluster and not allow_dirty:
        moving.require_clean(environment, None)
    if environment.on_cluster and not in_cluster.trains(environment.project):
        raise _nothing_trains(environment)

    planning.check(environment.project.config.rollout)
    if in_cluster.trains(environment.project):
        return in_cluster.ship(environment, progress, wait=wait, timeout=timeout)
    made = make_release(environment, progress)
    if made.release is None:
        return _refused(made)
    shipped = deploy(environment, made.release, progress, wait=wait, timeout=timeout, by_hand=False)
    return replace(shipped, gate=made.gate, metrics=made.metrics, metric=made.metric)


def ship_release(
    environment: Environment, typed: str, progress: Progress, *, wait: bool, timeout: float, allow_dirty: bool = False
) -> Shipped:
    """Bring an existing release to users of this environment: the same digest, from wherever it was made.

    Args:
        environment: where it ends.
        typed: the release's id or a beginning of it.
        progress: told what happens.
        wait: follow the rollout to its verdict.
        timeout: seconds to follow it; it goes on afterwards.
        allow_dirty: outside of the local environment, ship what no commit holds.

    Raises:
        UsageError: nobody knows it; it, or this project, is not committed; its image was not pushed.
        TidegateError: it is not what was gated.
    """
    from tidegate.pipelines import moving

    if environment.on_cluster:
        release = moving.move(environment, typed, progress)
        if not allow_dirty:
            moving.require_clean(environment, release)
    else:
        release = releases.load(environment.store, releases.resolve(environment.store, typed))
    return deploy(environment, release, progress, wait=wait, timeout=timeout, by_hand=True)


def _nothing_trains(environment: Environment) -> UsageError:
    env, local = environment.project.env, Environment(replace(environment.project, env=LOCAL))
    champion = local.state().champion or "RELEASE"
    return UsageError(
        f"Nothing is trained in {env}: it has no train.image.",
        f"`tidegate ship --release {champion} --env {env}` brings there what was shipped here.",
    )


def _refused(made: Made) -> Shipped:
    """What the gate refused, and what its author can do about it."""
    gate = made.gate
    advice = gate.advice if gate is not None else ()
    version = gate.champion if gate is not None else None
    if version is not None:
        look = f"`tidegate model compare` puts this training beside version {version}."
        advice = (look, *advice, "Or change params, code or data, and `tidegate ship` again.")
    reasons = gate.reasons if gate is not None else ()
    return Shipped("none", gate=gate, reasons=reasons, hint="\n".join(advice), metrics=made.metrics, metric=made.metric)


def deploy(
    environment: Environment, release: Release, progress: Progress, *, wait: bool, timeout: float, by_hand: bool
) -> Shipped:
    """Bring a registered release to users: at once if it is the first, else by a rollout."""
    if environment.on_cluster:
        from tidegate.pipelines import images

        images.check_before_deploy(environment, release, progress)
        environment.kube_driver.settle()
    state = environment.state()
    done = _already(state, release)
    if done is not None:
        aliases.sync(environment, progress)
        return done
    if state.champion is None:
        first = _deploy_first_on_cluster if environment.on_cluster else _deploy_first
        return first(environment, release, progress, timeout if wait else 0.0)
    running = state.open_rollout
    if running is None or running.canary != release.id:
        require_startable(state, release.id, by_hand=by_hand)
        try:
            plan = plan_to_start(environment, progress)
        except Inconclusive as error:
            aliases.sync(environment, progress)
            return Shipped("inconclusive", release.id, release.version, reasons=(error.message,), hint=error.hint)
        running = environment.driver.start(release.id, plan, by_hand=by_hand, replace=False)
    if not wait:
        hint = "`tidegate rollout watch` follows it, `tidegate rollout abort` ends it."
        return Shipped("continue", release.id, release.version, rollout=running, hint=hint)
    return follow(environment, running.id, progress, timeout)


def require_startable(state: State, release: str, *, by_hand: bool) -> None:
    """Refuse, before anything is measured, what the ledger would refuse.

    Raises:
        Conflict: a rollout runs, rollouts are frozen, or there is no such release.
    """
    start(release, {"rollout": "", "steps": ()}, 0.0, by_hand=by_hand)(state)


def _already(state: State, release: Release) -> Shipped | None:
    """The answer when there is nothing left to do for this release."""
    if state.champion == release.id:
        return Shipped("none", release.id, release.version, reasons=("nothing changed since the champion",))
    last = next((one for one in reversed(state.rollouts) if one.canary == release.id), None)
    if last is None or last.state not in {"rolled_back", "aborted"} or release.id in state.history:
        return None
    who = f"by {last.ended_by}" if last.state == "aborted" else "by the judge"
    why = (f"{last.state.replace('_', ' ')} {who} in rollout {last.id}; nothing changed since", *last.reasons)
    hint = f"Change something, or try it again as it is with `tidegate rollout start {release.id}`."
    # Not "none": a workflow that runs `ship` again after a rollback must not turn green by that.
    return Shipped("rollback", release.id, release.version, reasons=why, hint=hint)


def _crown_first(environment: Environment, release: Release) -> None:
    def first(state: State) -> Draft | None:
        return Draft("deployed", {"release": release.id}) if state.champion is None else None

    environment.ledger.append(deciding(first))


def _deploy_first_on_cluster(environment: Environment, release: Release, progress: Progress, timeout: float) -> Shipped:
    """The ledger says so once the cluster would take it: a dry run finds what it refuses."""
    from tidegate.pipelines.manifests import deploying

    documents = deploying.documents(environment, deploying.deployment(environment, release.id))
    with progress.task("ask the cluster whether it takes the objects"):
        for one in documents:
            environment.cluster.apply(one, dry_run=True, force=True)
    _crown_first(environment, release)
    aliases.sync(environment, progress)
    driver = environment.kube_driver
    with progress.task(f"start the first version in {environment.project.env}"):
        driver.put(documents)
        ready = driver.wait_healthy(timeout)
    where = f"-n {environment.cluster.namespace}"
    hint = "" if ready else f"`kubectl argo rollouts get rollout {driver.name} {where} --watch` shows its pods start."
    return Shipped("deployed", release.id, release.version, hint=hint)


def _deploy_first(environment: Environment, release: Release, progress: Progress, _timeout: float) -> Shipped:
    """The first version has nobody to be compared with."""
    _crown_first(environment, release)
    aliases.sync(environment, progress)
    if not stack.is_up(environment):
        hint = "`tidegate up -d` serves it."
        return Shipped("deployed", release.id, release.version, hint=hint)
    with progress.task("start the first version"):
        _require_served(environment, release.id)
    return Shipped("deployed", release.id, release.version)


def wait_until_served(environment: Environment, release: str, timeout: float = _DEPLOY_SECONDS) -> bool:
    """Wait until the gateway sends users to `release`; False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        processes = stack.status(environment)["processes"]
        if any(one["name"] == "stable" and one["release"] == release and one["ready"] for one in processes):
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _require_served(environment: Environment, release: str) -> None:
    if not wait_until_served(environment, release):
        raise TidegateError(
            f"Release {release} is the champion now, but its process is not ready after {_DEPLOY_SECONDS:.0f} s.",
            f"`tidegate logs {release}` says why; the stack goes on trying.",
        )


def plan_to_start(environment: Environment, progress: Progress) -> RolloutPlan:
    """`plan_rollout`, and its doubts said aloud; a guard is only ever started where the config asks for one.

    Raises:
        Inconclusive: as `plan_rollout`, or the traffic is too little for a test.
    """
    plan = plan_rollout(environment, progress, keep=True)
    if plan.mode != environment.project.config.rollout.mode:
        raise Inconclusive(
            " ".join(plan.warnings),
            "Send more traffic, loosen the safe lines, or accept a guard with `rollout: {mode: guard}`; then "
            "`tidegate rollout start`.",
        )
    for warning in plan.warnings:
        progress.note(warning)
    return plan


def plan_rollout(
    environment: Environment,
    progress: Progress,
    units_per_minute: float | None = None,
    *,
    wait: bool = True,
    keep: bool = False,
) -> RolloutPlan:
    """Measure the champion's traffic and make the plan of a rollout that could start now.

    Args:
        environment: where.
        progress: told while it measures.
        units_per_minute: new users a minute, instead of those measured.
        wait: until there are enough requests to know what is slow; else only what is known already counts.
        keep: a rollout is to begin by it, so the code of the user's own metrics is kept in the store.

    Raises:
        Inconclusive: nothing runs, or nobody came lately: a rollout would learn nothing.
        UsageError: the `rollout` section cannot be judged.
    """
    lately = champion.lately(environment)
    if lately.units == 0 and units_per_minute is None:
        raise Inconclusive(
            f"No user came in the last {champion.BLOCKS} blocks, so there is nobody to judge a rollout by.",
            "Send traffic to the gateway (`tidegate dev traffic` makes some), then `tidegate rollout start`.",
        )
    latency = None
    if _guards_latency(environment):
        latency = champion.speed(environment, progress) if wait else champion.known_speed(environment)
    units = lately.units_per_minute if units_per_minute is None else units_per_minute
    own = OwnFunctions(environment.project)
    late = late_history.measured(environment, str(environment.state().champion), own)
    plan = _plan(environment, units, latency, errors=lately.error_rate, invalid=lately.invalid_rate, late=late)
    if own.code is None:
        return plan
    if keep:
        own.code.keep(environment.store, plan.rollout)
    return replace(plan, code=own.code.digest)


def forecast_rollout(environment: Environment, progress: Progress, units_per_minute: float | None) -> RolloutPlan:
    """The plan for `rollout plan`: as measured, or for a given traffic before there is any.

    Raises:
        Inconclusive: nothing was measured, and no traffic was given.
        UsageError: the `rollout` section cannot be judged.
    """
    from tidegate.rollouts.stats.latency import LatencyLines

    try:
        return plan_rollout(environment, progress, units_per_minute, wait=False)
    except Inconclusive:
        if units_per_minute is None:
            raise
    progress.note("Nothing is measured yet: no errors and independent latencies are assumed.")
    # Thresholds do not matter for a forecast: whatever they are, 50, 10 and 1 % of stable requests are slower.
    nothing = (0.0, 0.0, 0.0)
    # What users do later cannot be assumed: without a baseline there is nothing to forecast.
    late = late_history.measured(environment, environment.state().champion or "")
    assumed = LatencyLines(nothing, nothing, (1.0, 1.0, 1.0), 0) if _guards_latency(environment) else None
    return _plan(environment, units_per_minute, assumed, late=late)


def _guards_latency(environment: Environment) -> bool:
    return any(one.metric == "latency" for one in environment.project.config.rollout.guardrails)


def _plan(
    environment: Environment,
    units_per_minute: float,
    latency: LatencyLines | None,
    *,
    errors: float = 0.0,
    invalid: float = 0.0,
    late: Mapping[str, Measured],
) -> RolloutPlan:
    from tidegate.rollouts.planning import Measured, make_plan

    config = environment.project.config
    return make_plan(
        config.rollout,
        rollout_id=f"o-{secrets.token_hex(4)}",
        block_seconds=config.advanced.block,
        units_per_minute=units_per_minute,
        error_rate=errors,
        latency=latency,
        others={"invalid_output": Measured(invalid), **late},
        settle=late_history.settle(config),
    )


def follow(environment: Environment, rollout_id: str, progress: Progress, timeout: float) -> Shipped:
    """Follow a rollout to its end, a hold, or the timeout (seconds); it goes on by itself anyway.

    Raises:
        StoppedFollowing: Ctrl-C.
    """
    deadline = time.monotonic() + timeout
    try:
        with progress.task(f"rollout {rollout_id}") as task:
            while True:
                _look(environment, progress)
                state = environment.state()
                rollout = _find(state, rollout_id)
                if rollout.state != "running" or time.monotonic() > deadline:
                    break
                task.advance(0, _position(environment, rollout))
                time.sleep(_CLUSTER_POLL_SECONDS if environment.on_cluster else _POLL_SECONDS)
    except KeyboardInterrupt as stop:
        raise StoppedFollowing(rollout_id) from stop
    aliases.sync(environment, progress)
    return Shipped(
        _DECISIONS[rollout.state],
        rollout.canary,
        state.versions.get(rollout.canary),
        None,
        rollout,
        rollout.reasons,
        _NEXT.get(rollout.state, "").format(canary=rollout.canary),
    )


def _look(environment: Environment, progress: Progress) -> None:
    """What Argo did meanwhile; a cluster that does not answer for a while is waited for."""
    if environment.on_cluster:
        try:
            environment.kube_driver.settle()
        except Temporary as error:
            progress.note(error.message)


def _find(state: State, rollout_id: str) -> RolloutState:
    for rollout in reversed(state.rollouts):
        if rollout.id == rollout_id:
            return rollout
    raise UsageError(f"There is no rollout {rollout_id}.", "`tidegate rollout history` lists them.")


def _position(environment: Environment, rollout: RolloutState) -> str:
    document = environment.driver.status(rollout.id)
    units = document["units"]
    left = document["forecast_seconds"]
    about = f", about {left / 60:.1f} min for this {'phase' if rollout.shadowing else 'step'}" if left else ""
    if rollout.shadowing:
        return f"shadow phase: {document['shadow'].get('requests', 0):,} copied requests{about}"
    return f"{rollout.weight} %: {units['canary']:,} canary and {units['stable']:,} stable users{about}"


def rollback(environment: Environment, release: str | None, reason: str, progress: Progress) -> State:
    """Go back to a release at once, unjudged; needs neither MLflow nor a running stack.

    While a rollout runs, going back means that everybody is served by the champion again.

    Args:
        environment: where.
        release: the release to serve; by default the champion while a rollout runs, else the champion before.
        reason: kept in the ledger.
        progress: told what happens.

    Raises:
        UsageError: there is nothing to go back to.
    """

    def decide(state: State) -> Draft:
        canary = state.open_rollout
        if release is None and canary is not None:
            return Draft("aborted", {"rollout": canary.id, "reasons": [reason]})
        target = release or state.previous
        if target is None:
            raise UsageError(
                "There is no earlier champion to go back to.",
                "`tidegate release list` shows releases; `tidegate rollback RELEASE` goes to one of them.",
            )
        if target == state.champion:
            raise UsageError(f"Release {target} is the champion already.", "`tidegate release list` shows the others.")
        if target not in state.versions:
            raise UsageError(f"Release {target} was never registered here.", "`tidegate release list` shows releases.")
        return Draft("rollback", {"release": target, "reasons": [reason], "from": state.champion})

    if release is not None:
        releases.load(environment.store, release)
    if environment.on_cluster:
        return _rollback_on_cluster(environment, release, reason, decide, progress)
    environment.ledger.append(deciding(decide))
    state = environment.state()
    if stack.is_up(environment):
        with progress.task(f"switch to {state.champion}"):
            _require_served(environment, str(state.champion))
    aliases.sync(environment, progress)
    return state


def _rollback_on_cluster(
    environment: Environment, release: str | None, reason: str, decide: Decide, progress: Progress
) -> State:
    """A canary is aborted; else Argo gives everybody the pods of before, past all steps."""
    driver = environment.kube_driver
    driver.settle()
    if release is None and environment.state().open_rollout is not None:
        driver.abort(reason)
        return environment.state()
    environment.ledger.append(deciding(decide))
    state = environment.state()
    champion = str(state.champion)
    with progress.task(f"switch to {champion}"):
        try:
            driver.serve(champion)
        except TidegateError as error:
            env = environment.project.env
            raise TidegateError(
                f"Release {champion} is the champion now, and the cluster was not told: {error.message}",
                f"`tidegate apply --env {env}` tells it again.",
            ) from error
    aliases.sync(environment, progress)
    return state
