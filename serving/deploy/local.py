"""Revisions as processes of this machine.

Each process outlives the supervisor that started it: a small file beside its log says who it is, so
after `kill -9` of `tidegate up` the next one finds it. A pid is trusted only with its start time,
since the system gives pids out again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tidegate.core.errors import Temporary
from tidegate.serving.deploy import Revision, Running

# Below 32768 the kernel hands out no port by itself, so nothing else can take one in between.
_PORTS = range(20000, 32000)
_DRAIN_SECONDS = 10.0
_READY_TIMEOUT = 0.5
# In the environment of every process, so that one is known whose supervisor died before it could note the pid.
_MARK = "TIDEGATE_REVISIONS"


@dataclass(frozen=True, slots=True)
class Process:
    """What identifies a process: the pid, and when it was started (seconds since the epoch)."""

    pid: int
    started: float

    @staticmethod
    def of(pid: int) -> Process:
        """Identify a process that lives now."""
        import psutil

        return Process(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        """Whether this very process still runs."""
        import psutil

        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        return False

    def end(self, patience: float) -> None:
        """Ask it to stop, wait `patience` seconds, then kill it; never touches another process."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.alive():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            deadline = time.monotonic() + patience
            while self.alive() and time.monotonic() < deadline:
                _reap(self.pid)
                time.sleep(0.02)


class LocalDeployer:
    """Bento processes on 127.0.0.1, one for each release.

    Args:
        folder: where `<release>.json` says which process is which.
        logs: where `<release>.log` collects what the process prints.
        hidden: names of environment variables that are no business of a model's code: API keys, addresses.
        pairs: where processes note, while the folder is there, what they answered in a shadow phase.
        capture: what they record of predictions, as `serving/service/capture.py` reads it; None: nothing.
        slices: columns by whose values a shadow phase tells where two versions disagree.
    """

    def __init__(
        self,
        folder: Path,
        logs: Path,
        hidden: Collection[str] = (),
        *,
        pairs: Path | None = None,
        capture: Mapping[str, Any] | None = None,
        slices: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._logs = logs
        self._pairs = pairs
        self._hidden = frozenset(hidden)
        self._capture = capture
        self._slices = tuple(slices)

    def start(self, revision: Revision) -> None:
        """Start the process unless it lives; readiness comes later, see `find`.

        Raises:
            OSError: the disk is full, say; then nothing runs.
        """
        if self._process(revision.release) is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        port = free_port()
        command = [sys.executable, "-m", "tidegate.serving.service"]
        command += ["--bundle", str(revision.bundle), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", str(revision.workers)]
        with (self._logs / f"{revision.release}.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environment(revision.release),
            )
        try:
            self._record(revision, child.pid, port)
        except BaseException:
            # Nobody would find it, and the next attempt would start another.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        # It is found by its file from now on; Popen would warn that it still runs.
        child.returncode = 0

    def _environment(self, release: str) -> dict[str, str]:
        shown = {name: value for name, value in os.environ.items() if name not in self._hidden}
        if self._pairs:
            shown |= {"TIDEGATE_PAIRS": str(self._pairs.resolve()), "TIDEGATE_SLICES": json.dumps(self._slices)}
        # Set even where it is empty, so that a process never records for whoever started `up`.
        shown["TIDEGATE_CAPTURE"] = json.dumps(self._capture) if self._capture else ""
        return {**shown, "TIDEGATE_RELEASE": release, _MARK: str(self._folder.resolve())}

    def _record(self, revision: Revision, pid: int, port: int) -> None:
        record = {**asdict(Process.of(pid)), "port": port, "release": revision.release, "version": revision.version}
        temporary = self._file(revision.release).with_suffix(".tmp")
        temporary.write_text(json.dumps(record))
        temporary.replace(self._file(revision.release))

    def find(self, release: str) -> Running | None:
        """The process of a release with its readiness, or None when there is none alive."""
        found = self._process(release)
        if found is None:
            return None
        process, record = found
        port = int(record["port"])
        return Running(release, int(record["version"]), process.pid, port, answers(port, "/readyz"))

    def running(self) -> tuple[Running, ...]:
        """Every living process."""
        return tuple(found for name in self._recorded() if (found := self.find(name)) is not None)

    def stop(self, release: str) -> None:
        """SIGTERM, requests in flight finish, the file goes last."""
        found = self._process(release)
        if found is not None:
            found[0].end(_DRAIN_SECONDS)
        self._file(release).unlink(missing_ok=True)

    def end_unrecorded(self) -> int:
        """End processes that a supervisor started and was killed before it noted them; returns how many."""
        import psutil

        recorded = {process.pid for process, _ in filter(None, map(self._process, self._recorded()))}
        marked: dict[int, int] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == str(self._folder.resolve()):
                    marked[process.pid] = process.ppid()
        # What a service starts itself belongs to it and ends with it.
        left = [pid for pid, parent in marked.items() if pid not in recorded and parent not in marked]
        for pid in left:
            with contextlib.suppress(psutil.Error):
                Process.of(pid).end(_DRAIN_SECONDS)
        return len(left)

    def _recorded(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def _file(self, release: str) -> Path:
        return self._folder / f"{release}.json"

    def _process(self, release: str) -> tuple[Process, dict[str, float]] | None:
        try:
            record = json.loads(self._file(release).read_text())
            process = Process(record["pid"], record["started"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        _reap(process.pid)
        return (process, record) if process.alive() else None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    Raises:
        Temporary: all of them are taken.
    """
    import random

    start = random.randrange(len(_PORTS))  # noqa: S311 - spreading load, not a secret
    for offset in range(len(_PORTS)):
        port = _PORTS[(start + offset) % len(_PORTS)]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Temporary(f"No port between {_PORTS.start} and {_PORTS.stop} is free.", "Stop something and try again.")


def _reap(pid: int) -> None:
    """Collect a dead child, so that it does not stay a zombie; not our child is fine."""
    with contextlib.suppress(ChildProcessError, OSError):
        os.waitpid(pid, os.WNOHANG)


def answers(port: int, path: str) -> bool:
    """Whether a process of this machine answers a path with 200, at once."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_READY_TIMEOUT)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200  # noqa: PLR2004 - HTTP OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
