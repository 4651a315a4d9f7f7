"""The one running `up` of a project, as other commands see it: its lock, its answers, its end."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tidegate.core.errors import Conflict, TidegateError
from tidegate.pipelines import console_process, control
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.processes import stop_all
from tidegate.serving.gateway.process import Gateway
from tidegate.serving.gateway.state import GatewaySettings


def gateway_of(environment: Environment) -> Gateway:
    """The gateway of an environment, as its config wants it.

    Raises:
        UsageError: the API keys that the config refers to are not there.
    """
    return Gateway(
        environment.gateway_dir, GatewaySettings.from_config(environment.project.config, environment.project.root)
    )


def _gateway_to_stop(environment: Environment) -> Gateway:
    """The same for who only ends it: another terminal need not know the API keys."""
    return Gateway(environment.gateway_dir, GatewaySettings(port=environment.project.config.advanced.gateway_port))


@contextmanager
def only_one(environment: Environment) -> Iterator[None]:
    """Hold the lock of this project's `up`; the kernel frees it when the process dies.

    Raises:
        Conflict: somebody holds it; names the process.
    """
    path = environment.run_dir / "up.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise Conflict(
                f"The stack runs already (process {file.read().strip() or '?'}).",
                "`tidegate ps` shows it, `tidegate down` stops it.",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def is_up(environment: Environment) -> bool:
    """Whether an `up` of this project runs."""
    try:
        status(environment)
    except control.NotRunning:
        return False
    return True


def status(environment: Environment) -> dict[str, Any]:
    """What `ps` prints.

    Raises:
        NotRunning: there is no `up`; says what a killed one left.
    """
    try:
        return control.ask(control.socket_path(environment.project.root, environment.project.env), "ps")
    except control.NotRunning as error:
        raise _orphaned(environment) or error from error


def _orphaned(environment: Environment) -> control.NotRunning | None:
    """What to say when `up` was killed and its processes go on answering users."""
    gateway, left = _gateway_to_stop(environment), environment.deployer.running()
    if gateway.pid is None and not left:
        return None
    names = (["the gateway"] if gateway.pid is not None else []) + [f"version {one.version}" for one in left]
    return control.NotRunning(
        f"`tidegate up` is not running, and what it started goes on: {', '.join(names)}. Nobody judges a rollout.",
        "`tidegate up -d` takes them over as they are; `tidegate down` ends them.",
    )


def down(environment: Environment, patience: float = 40.0) -> bool:
    """Stop the stack and everything a killed `up` left behind; False when nothing ran.

    Raises:
        TidegateError: it does not stop within `patience` seconds.
    """
    was_up = True
    try:
        control.ask(control.socket_path(environment.project.root, environment.project.env), "down")
    except control.NotRunning:
        was_up = False
    deadline = time.monotonic() + patience
    while True:
        try:
            with only_one(environment):
                gateway = _gateway_to_stop(environment)
                gateway.claim()
                had_gateway = gateway.pid is not None
                gateway.stop()
                had_console = console_process.stop(environment)
                return stop_all(environment) > 0 or had_gateway or had_console or was_up
        except Conflict as error:
            if time.monotonic() > deadline:
                raise TidegateError(error.message, "It does not stop: end that process by its number.") from error
            time.sleep(0.1)
