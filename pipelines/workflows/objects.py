"""Workflow objects from the flows of dag.py: the only file that imports hera.

A step is one template whose outputs are files, and one task that waits for the step before it to succeed. Its inputs
are short references; data travels by DVC, models by MLflow.
"""

from __future__ import annotations

from typing import Any, Final

from hera.workflows import (
    DAG,
    Container,
    CronWorkflow,
    EmptyDirVolume,
    Env,
    Parameter,
    Resources,
    RetryStrategy,
    SecretEnvFrom,
    Task,
    WorkflowTemplate,
)
from hera.workflows import models as argo

from tidegate.pipelines import dag, pod
from tidegate.pipelines.workflows import access, names
from tidegate.pipelines.workflows.settings import Settings

USER: Final = 10001
SECRET: Final = "tidegate-workflows"  # noqa: S105 - a Secret's name
PUSH_SECRET: Final = "tidegate-workflows-push"  # noqa: S105 - the same
PROJECT: Final = "/project"
OUT: Final = "/out"
PLACE: Final = ("repository", "revision", "folder")
"""Parameters of every Workflow beside those that its flow is given."""

# Seconds. A training may take days of GPU time; whatever else takes this long hangs.
_STEP_DEADLINE: Final = 2 * 3600
_TRAIN_DEADLINE: Final = 48 * 3600
_FLOW_DEADLINE: Final = 72 * 3600
# Finished Workflows, with the logs of their pods, stay a day, or a week if somebody has to find out why they failed.
_KEPT: Final = argo.TTLStrategy(seconds_after_success=86_400, seconds_after_failure=7 * 86_400)
_RETRIES: Final = 3
# The first pause; it doubles. No `maxDuration`: Argo counts it from the first start, which a training outlives.
_PAUSE: Final = "30s"
_GPU: Final = "nvidia.com/gpu"
_MEBIBYTE: Final = 2**20
_WATCH_MEMORY: Final = 2 * 2**30
_CLOSE_MEMORY: Final = 2**30


def documents(settings: Settings) -> list[dict[str, Any]]:
    """The two templates and the schedule, as plain objects."""
    return [
        _template(settings, dag.RELEASE).to_dict(),
        _template(settings, dag.RETRAIN).to_dict(),
        _schedule(settings).to_dict(),
    ]


def _template(settings: Settings, flow: dag.Flow) -> WorkflowTemplate:
    # No default for the commit: a Workflow that nobody told what to train must not start.
    place = [_repository(settings), Parameter(name="revision"), Parameter(name="folder", value=settings.folder)]
    given = [Parameter(name=name, value="") for name in flow.given]
    with WorkflowTemplate(
        **_frame(settings, flow),
        arguments=[*place, *given],
        # Two trainings of one model would decide against the same champion.
        synchronization=argo.Synchronization(mutexes=[argo.Mutex(name=f"tidegate-{names.label(settings.model)}")]),
    ) as made:
        _steps(settings, flow)
    return made


def _schedule(settings: Settings) -> CronWorkflow:
    """The monitor looks at the newest commit of the default branch, whose config is what people want now."""
    place = [
        _repository(settings),
        Parameter(name="revision", value="HEAD"),
        Parameter(name="folder", value=settings.folder),
    ]
    with CronWorkflow(
        **_frame(settings, dag.MONITOR),
        arguments=place,
        schedules=[settings.schedule],
        timezone="Etc/UTC",
        concurrency_policy="Forbid",
        starting_deadline_seconds=600,
        successful_jobs_history_limit=1,
        failed_jobs_history_limit=3,
    ) as made:
        _steps(settings, dag.MONITOR)
    return made


def _repository(settings: Settings) -> Parameter:
    return Parameter(name="repository", value=settings.repository)


def _frame(settings: Settings, flow: dag.Flow) -> dict[str, Any]:
    """What all Workflows of a model have."""
    labels = {**names.labels(settings.model, settings.environment), names.FLOW: flow.name}
    return {
        "name": names.of(flow.name, settings.model),
        "namespace": settings.namespace,
        "labels": labels,
        "entrypoint": "main",
        "on_exit": pod.CLOSE,
        "service_account_name": access.account(settings, access.PIPELINE),
        "automount_service_account_token": True,  # Argo's executor reports by it; what it may do is in access.py
        "active_deadline_seconds": _FLOW_DEADLINE,
        "ttl_strategy": _KEPT,
        "image_pull_secrets": [argo.LocalObjectReference(name=settings.pull_secret)] if settings.pull_secret else None,
        "security_context": argo.PodSecurityContext(
            run_as_non_root=True,
            run_as_user=USER,
            run_as_group=USER,
            fs_group=USER,
            seccomp_profile=argo.SeccompProfile(type="RuntimeDefault"),
        ),
        "pod_metadata": argo.Metadata(labels=labels),
        "workflow_metadata": argo.WorkflowMetadata(labels=labels),
    }


def _steps(settings: Settings, flow: dag.Flow) -> None:
    """The steps' templates, the exit hook's, and the DAG over them; hera adds them to the Workflow that is open."""
    templates = {step.name: _container(settings, flow, step) for step in flow.steps}
    _close(settings, flow)
    with DAG(name="main"):
        for step in flow.steps:
            before = flow.before(step.name)
            Task(
                name=step.name,
                template=templates[step.name],
                # `Succeeded`, since Argo would let a step begin after one that was left out.
                depends=f"{before}.Succeeded" if before else None,
                when=_condition(flow, step),
                arguments=[Parameter(name=name, value=_output(flow, name)) for name in step.takes],
            )


def _condition(flow: dag.Flow, step: dag.Step) -> str | None:
    if step.only_if is None:
        return None
    reference, value = step.only_if
    return f"'{_output(flow, reference)}' == '{value}'"


def _output(flow: dag.Flow, reference: str) -> str:
    return f"{{{{tasks.{flow.giver(reference)}.outputs.parameters.{reference}}}}}"


def _container(settings: Settings, flow: dag.Flow, step: dag.Step) -> Container:
    taken = {name: f"{{{{inputs.parameters.{name}}}}}" for name in step.takes}
    given = {name: f"{{{{workflow.parameters.{name}}}}}" for name in flow.given}
    watches = flow is dag.MONITOR
    which = access.MONITOR if watches else access.ROLLOUT if step.acts and settings.acts else None
    return Container(
        **_pod(settings, flow, step.name, {**given, **taken}),
        inputs=[Parameter(name=name) for name in step.takes],
        # A default for Argo, which wants one of steps that are left out; `step` itself never leaves out a file.
        outputs=[
            Parameter(name=name, value_from=argo.ValueFrom(path=f"{OUT}/{name}", default="")) for name in step.gives
        ],
        resources=_resources(settings, step, _WATCH_MEMORY if watches else settings.memory),
        active_deadline_seconds=_TRAIN_DEADLINE if step.trains else _STEP_DEADLINE,
        retry_strategy=_retries(),
        tolerations=_tolerations(settings) if step.trains else None,
        service_account_name=access.account(settings, which) if which else None,
        env_from=_secrets(push=step.name in pod.PUSHES and settings.pushes),
    )


def _close(settings: Settings, flow: dag.Flow) -> Container:
    """What Argo runs however the Workflow ended, a stop by a person included."""
    told = {"workflow": "name", "uid": "uid", "status": "status", "failures": "failures"}
    return Container(
        **_pod(settings, flow, pod.CLOSE, {name: f"{{{{workflow.{field}}}}}" for name, field in told.items()}),
        resources=_fixed(cpu=0.25, memory=_CLOSE_MEMORY),
        active_deadline_seconds=_STEP_DEADLINE,
        retry_strategy=_retries(),
        env_from=_secrets(push=False),
    )


def _pod(settings: Settings, flow: dag.Flow, step: str, references: dict[str, str]) -> dict[str, Any]:
    """Image, command line and confinement of one step's pod."""
    where = [part for name in PLACE for part in (f"--{name}", f"{{{{workflow.parameters.{name}}}}}")]
    told = [part for name, value in references.items() for part in ("--reference", f"{name}={value}")]
    return {
        "name": step,
        "image": settings.image,
        "command": ["tidegate"],
        "args": [
            *("step", step, "--env", settings.environment, "--flow", flow.name),
            *where,
            *("--into", PROJECT, "--out", OUT),
            *told,
        ],
        "working_dir": OUT,
        "env": [
            Env(name="TIDEGATE_ACTOR", value="{{workflow.name}}"),
            Env(name="HOME", value="/tmp"),  # noqa: S108 - inside the pod
            *(Env(name=f"GIT_{who}_NAME", value="tidegate") for who in ("AUTHOR", "COMMITTER")),
            *(Env(name=f"GIT_{who}_EMAIL", value="tidegate@localhost") for who in ("AUTHOR", "COMMITTER")),
        ],
        "volumes": [
            EmptyDirVolume(name=name, mount_path=path)
            for name, path in (("project", PROJECT), ("out", OUT), ("tmp", "/tmp"))  # noqa: S108 - inside the pod
        ],
        "security_context": argo.SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            run_as_non_root=True,
            capabilities=argo.Capabilities(drop=["ALL"]),
        ),
    }


def _secrets(*, push: bool) -> list[SecretEnvFrom]:
    """Keys of the stores and the deploy token; a token that may push is in the pod that pushes only."""
    wanted = [SECRET, PUSH_SECRET] if push else [SECRET]
    return [SecretEnvFrom(name=name, optional=True) for name in wanted]


def _retries() -> RetryStrategy:
    """Again unless the step said that it cannot help; `Always` counts pods that a lost node took along, too."""
    return RetryStrategy(
        limit=_RETRIES,
        retry_policy="Always",
        backoff=argo.Backoff(duration=_PAUSE, factor=argo.IntOrString(2)),
        expression="lastRetry.exitCode != '78'",
    )


def _resources(settings: Settings, step: dag.Step, memory: int) -> Resources:
    if step.trains:
        return _fixed(settings.cpu, memory, settings.gpu)
    return _fixed(min(settings.cpu, 1.0), memory)


def _fixed(cpu: float, memory: int, gpu: int = 0) -> Resources:
    """Memory is limited to what is asked for, since what is over it is killed anyway; cores may be borrowed."""
    size = f"{-(-memory // _MEBIBYTE)}Mi"
    return Resources(cpu_request=f"{round(cpu * 1000)}m", memory_request=size, memory_limit=size, gpus=gpu or None)


def _tolerations(settings: Settings) -> list[argo.Toleration] | None:
    return [argo.Toleration(key=_GPU, operator="Exists", effect="NoSchedule")] if settings.gpu else None
