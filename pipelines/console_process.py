"""The console as a process of `tidegate up`: started once users are answered, again when it dies, found again later.

Nobody who is served needs it: whatever goes wrong with it is said, and the stack goes on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tidegate.pipelines.environment import Environment
from tidegate.serving.deploy.local import Process, answers
from tidegate.serving.gateway.ports import require_free

HOST: Final = "127.0.0.1"
_NEEDED: Final = ("fastapi", "jinja2", "uvicorn")
# Of whose stack it is, so that one is known whose supervisor died before it could note the pid.
_MARK: Final = "TIDEGATE_CONSOLE_OF"
_MAX_BACKOFF, _SETTLED_SECONDS = 60.0, 60.0
_DRAIN_SECONDS = 5.0


def address(environment: Environment) -> str:
    """Where it is opened, as http://host:port."""
    return f"http://{HOST}:{environment.project.config.advanced.console_port}"


def installed() -> bool:
    """Whether the libraries of the extra `monitor` are here that the console needs."""
    return all(importlib.util.find_spec(name) is not None for name in _NEEDED)


class ConsoleProcess:
    """The console of one environment.

    Args:
        environment: whose it is.
        note: told in one line what happens.
    """

    def __init__(self, environment: Environment, note: Callable[[str], None]) -> None:
        self._environment, self._note = environment, note
        self._port = environment.project.config.advanced.console_port
        self._process: Process | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._starts, self._started, self._next = 0, 0.0, 0.0

    @property
    def address(self) -> str | None:
        """Where it is or will be; None: it cannot run here."""
        return address(self._environment) if installed() else None

    def adopt(self) -> None:
        """Find the one that a killed `up` left; one on another port than the config's is ended."""
        self._process, port = find(self._environment), _recorded_port(self._environment)
        if self._process is not None and port not in {None, self._port}:
            stop(self._environment)
            self._process = None
        if self._process is not None:
            self._record(self._process)

    def keep(self) -> None:
        """Start it unless it lives; called again and again.

        Raises:
            TidegateError: its port is taken; names the holder.
        """
        if self._alive() or time.monotonic() < self._next:
            return
        if not installed():
            self._next = float("inf")
            self._note("There is no console: pip install 'tidegate[monitor]' brings its libraries.")
            return
        if time.monotonic() - self._started > _SETTLED_SECONDS:
            self._starts = 0
        self._starts += 1
        self._next = time.monotonic() + min(2.0**self._starts, _MAX_BACKOFF)
        if self._child is not None:
            self._note(f"The console stopped: {self._last_words()} Starting it again.")
        require_free(HOST, self._port, "advanced.console_port")
        self._start()

    def stop(self) -> None:
        """End it."""
        stop(self._environment)
        if self._child is not None:
            self._child.poll()

    def shown(self) -> dict[str, Any] | None:
        """Its row of `ps`; None while there is none."""
        if self._process is None or not self._alive():
            return None
        pid, ready = self._process.pid, answers(self._port, "/healthz")
        return {"name": "console", "pid": pid, "port": self._port, "ready": ready, "version": None}

    def _alive(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            return False
        return self._process is not None and self._process.alive()

    def _start(self) -> None:
        environment = self._environment
        environment.log_dir.mkdir(parents=True, exist_ok=True)
        root, env = environment.project.root, environment.project.env
        command = [sys.executable, "-m", "tidegate.cli", "-C", str(root), "--env", env, "serve", "console"]
        with (environment.log_dir / "console.log").open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, _MARK: str(environment.run_dir.resolve())},
            )
        self._process, self._started = Process.of(self._child.pid), time.monotonic()
        self._record(self._process)

    def _record(self, process: Process) -> None:
        file = _file(self._environment)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps({**asdict(process), "port": self._port}))
        temporary.replace(file)

    def _last_words(self) -> str:
        try:
            lines = (self._environment.log_dir / "console.log").read_text(errors="replace").split("\n")
        except OSError:
            lines = []
        said = next((line for line in reversed(lines) if line.strip()), "it said nothing.")
        return f"{said.strip()[:200]} (`tidegate logs console`)."


def find(environment: Environment) -> Process | None:
    """The living console of an environment, noted or not."""
    import psutil

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(_file(environment).read_text())
        process = Process(record["pid"], record["started"])
        if process.alive():
            return process
    wanted = str(environment.run_dir.resolve())
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if one.environ().get(_MARK) == wanted:
                return Process.of(one.pid)
    return None


def stop(environment: Environment) -> bool:
    """End the console of an environment; False when there is none."""
    process = find(environment)
    if process is not None:
        process.end(_DRAIN_SECONDS)
    _file(environment).unlink(missing_ok=True)
    return process is not None


def _file(environment: Environment) -> Path:
    return environment.run_dir / "console.json"


def _recorded_port(environment: Environment) -> int | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads(_file(environment).read_text())["port"])
    return None
