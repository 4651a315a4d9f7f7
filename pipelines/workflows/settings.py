"""What the pipelines of one model need to know of its config, checked for what a pod could not do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from tidegate.core import git
from tidegate.core.errors import ConfigError, TidegateError, UsageError

if TYPE_CHECKING:
    from tidegate.core.project import Project

_DIGEST: Final = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")
_SSH: Final = re.compile(r"(?:ssh://)?git@(?P<host>[^:/]+)(?::\d+/|[:/])(?P<path>.+)")
_MINUTES: Final = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)
_HOURS: Final = (1, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True, slots=True)
class Settings:
    """The pipelines of one model in one environment.

    Attributes:
        model: registered name.
        environment: name of the environment.
        namespace: of all objects.
        image: the trainer image, by digest.
        pull_secret: of the registry it is in.
        repository: what pods clone, without credentials.
        folder: of the project inside it.
        cpu: cores that training gets.
        memory: bytes of every step that holds the data.
        gpu: GPUs that training gets.
        schedule: of the monitor, as cron writes it, in UTC.
        pushes: whether a retrain pushes a branch.
        acts: whether a retrain may start a rollout.
    """

    model: str
    environment: str
    namespace: str
    image: str
    pull_secret: str | None
    repository: str
    folder: str
    cpu: float
    memory: int
    gpu: int
    schedule: str
    pushes: bool
    acts: bool

    @staticmethod
    def of(project: Project) -> Settings:
        """Read them.

        Raises:
            ConfigError: as `workflow_documents`.
            UsageError: the same.
        """
        config = project.config
        _require_shared(project)
        return Settings(
            model=config.model,
            environment=project.env,
            namespace=config.environment(project.env).namespace,
            image=_image(config.train.image),
            pull_secret=config.image.pull_secret,
            repository=repository(project),
            folder=folder(project),
            cpu=config.train.resources.cpu,
            memory=config.train.resources.memory,
            gpu=config.train.resources.gpu,
            schedule=schedule(config.monitor.window),
            pushes=config.retrain.git == "branch",
            acts=config.retrain.release == "auto",
        )


def repository(project: Project) -> str:
    """The address of `origin` as a pod clones it: https in place of ssh, and nobody's password in it.

    Raises:
        UsageError: there is no such remote.
    """
    try:
        address = git.git(project.root, "remote", "get-url", "origin").decode().strip()
    except TidegateError as error:
        raise UsageError(
            "The repository has no remote called origin, so no pod could clone it.",
            "`git remote add origin ADDRESS` and push; or unset train.image, then everything is trained here.",
        ) from error
    if ssh := _SSH.fullmatch(address):
        return f"https://{ssh['host']}/{ssh['path']}"
    parts = urlsplit(address)
    if parts.scheme in {"http", "https"}:
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return address


def folder(project: Project) -> str:
    """The project's folder inside its repository; `.` is the top."""
    return project.root.resolve().relative_to(git.toplevel(project.root).resolve()).as_posix()


def schedule(window: float) -> str:
    """The cron line that comes by in every window of so many seconds, a minute after its end.

    Windows are counted from 1970 in UTC. Cron cannot say every length; the longest that divides it comes by more often,
    and a look at a window that was looked at already changes nothing.
    """
    minutes = max(1, int(window // 60))
    if minutes % 1440 == 0:
        return "1 0 * * *"
    if hours := [one for one in _HOURS if minutes % (60 * one) == 0]:
        return f"1 */{hours[-1]} * * *" if hours[-1] > 1 else "1 * * * *"
    every = [one for one in _MINUTES if minutes % one == 0][-1]
    return f"1-59/{every} * * * *" if every > 1 else "* * * * *"


def _image(image: str | None) -> str:
    if image is None or not _DIGEST.fullmatch(image):
        raise ConfigError(
            f"train.image is {image}, which names no image by its digest.",
            "`tidegate package --trainer --push` builds one and prints the line for tidegate.yaml.",
        )
    return image


def _require_shared(project: Project) -> None:
    """Refuse addresses that only this machine can reach."""
    env, config = project.env, project.config
    local = [
        ("store", config.store, "s3://acme-ml/tidegate", "://" not in config.store),
        ("mlflow", config.mlflow, "https://mlflow.acme.dev", config.mlflow.startswith(("sqlite:", "file:"))),
    ]
    for key, value, example, wrong in local:
        if wrong:
            raise ConfigError(
                f"{key} is {value}, which no pod can reach.",
                f"Name one for the cluster: environments: {{{env}: {{{key}: {example!r}}}}}",
            )
