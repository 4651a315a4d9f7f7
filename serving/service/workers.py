"""Several processes behind one port: the parent listens, starts them, starts a dead one again, and answers nothing.

All workers accept from the parent's socket, so a dead one takes only its own connections with it. What they must know
of each other (who is ready, everybody's counters) lies in a folder of small files, because whoever asks `/readyz` or
`/metrics` meets any one of them. A pipe that only the parent holds open tells them when it was killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger("tidegate.serving")

_POLL_SECONDS = 0.1
# The first pause before a dead worker is started again; it doubles up to the second, and is forgotten after the third.
_PAUSE, _LONGEST_PAUSE, _SETTLED = 0.5, 30.0, 60.0
# A worker drains for 10 s beyond a request's own timeout.
_PATIENCE = 15.0


@dataclass(frozen=True, slots=True)
class Place:
    """What one worker is handed: its number, the listening socket, the parent's pipe and the common folder."""

    number: int
    listener: int
    lifeline: int
    folder: Path

    def argument(self) -> str:
        """As it travels on the command line."""
        return f"{self.number},{self.listener},{self.lifeline},{self.folder}"

    @staticmethod
    def parse(text: str) -> Place:
        """The inverse of `argument`."""
        number, listener, lifeline, folder = text.split(",", 3)
        return Place(int(number), int(listener), int(lifeline), Path(folder))

    def mark_ready(self) -> None:
        """Tell the parent that this worker answers."""
        _ready_file(self.folder, self.number).touch()

    def all_ready(self) -> bool:
        """Whether every worker has been ready; from then on one that dies is replaced while the others answer."""
        return _all_file(self.folder).exists()

    def publish(self, page: bytes) -> None:
        """Leave this worker's counters where the others find them."""
        part = self.folder / f"{self.number}.part"
        part.write_bytes(page)
        part.replace(self.folder / f"{self.number}.metrics")

    def merged(self, page: bytes) -> bytes:
        """This worker's counters, of now, with those the others published last, each labelled with its worker."""
        self.publish(page)
        return merge({int(file.stem): file.read_bytes() for file in sorted(self.folder.glob("*.metrics"))})

    def leave(self) -> None:
        """Remove the folder: for a worker whose parent cannot do it any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def merge(pages: dict[int, bytes]) -> bytes:
    """One page of Prometheus' text format from several, every sample labelled `worker`; families stay together."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for number, page in sorted(pages.items()):
        family = ""
        for line in page.decode().splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                heads = families.setdefault(family, ([], []))[0]
                if line not in heads:
                    heads.append(line)
            else:
                families[family][1].append(_labelled(line, number))
    lines = [line for heads, samples in families.values() for line in (*heads, *samples)]
    return ("\n".join(lines) + "\n").encode()


def _labelled(sample: str, number: int) -> str:
    name, _, value = sample.rpartition(" ")
    if name.endswith("}"):
        return f'{name[:-1]},worker="{number}"}} {value}'
    return f'{name}{{worker="{number}"}} {value}'


def _ready_file(folder: Path, number: int) -> Path:
    return folder / f"{number}.ready"


def _all_file(folder: Path) -> Path:
    return folder / "all.ready"


def supervise(command: Sequence[str], host: str, port: int, count: int) -> int:
    """Serve with `count` workers until SIGTERM or SIGINT.

    Args:
        command: starts one worker; `--worker` with its place is added.
        host: address to listen on.
        port: port to listen on.
        count: how many workers.

    Returns:
        0 when it was asked to stop; 1 if a worker failed before all were ready, or all are dead.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        logger.error("[Errno %s] cannot listen on %s port %d: %s", error.errno, host, port, error.strerror)  # noqa: TRY400 # the message says it
        return 1
    with listener, tempfile.TemporaryDirectory(prefix="tidegate-workers-") as folder, _lifeline() as lifeline:
        places = [Place(number, listener.fileno(), lifeline, Path(folder)) for number in range(count)]
        return _Parent([_Worker(list(command), place) for place in places], Path(folder)).run()


@contextlib.contextmanager
def _lifeline() -> Iterator[int]:
    """The reading end of a pipe whose writing end closes with this process, however it ends."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


@dataclass
class _Worker:
    """One place and the process that fills it."""

    command: list[str]
    place: Place
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = _PAUSE
    code: int | None = None

    def start(self) -> None:
        """Begin; readiness comes later."""
        _ready_file(self.place.folder, self.place.number).unlink(missing_ok=True)
        handed = (self.place.listener, self.place.lifeline)
        self.process = subprocess.Popen([*self.command, "--worker", self.place.argument()], pass_fds=handed)
        self.started, self.code = time.monotonic(), None

    def look(self) -> None:
        """Note that it ended, and start it again when its pause is over."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self.process, self.code = None, code
            lived = time.monotonic() - self.started
            self.pause = _PAUSE if lived > _SETTLED else min(2 * self.pause, _LONGEST_PAUSE)
            logger.error("worker %d ended with %d and is started again", self.place.number, code)
        elif self.process is None and time.monotonic() > self.started + self.pause:
            self.start()

    def ready(self) -> bool:
        """Whether it said so."""
        return self.process is not None and _ready_file(self.place.folder, self.place.number).exists()


@dataclass
class _Parent:
    """Watches over the workers."""

    workers: list[_Worker]
    folder: Path
    stopping: bool = field(default=False, init=False)

    def run(self) -> int:
        """Until asked to stop, or until there is nothing to watch over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            for worker in self.workers:
                worker.start()
            failed = not self._started() or not self._watch()
        finally:
            codes = self._end()
        return 1 if failed or any(codes) else 0

    def _stop(self, _number: int, _frame: object) -> None:
        self.stopping = True

    def _started(self) -> bool:
        """Wait until all are ready; False when one ended before: its successor would fail as it did."""
        while not self.stopping:
            if any(worker.process is not None and worker.process.poll() is not None for worker in self.workers):
                return False
            if all(worker.ready() for worker in self.workers):
                _all_file(self.folder).touch()
                logger.info("all %d workers are ready", len(self.workers))
                return True
            time.sleep(_POLL_SECONDS)
        return True

    def _watch(self) -> bool:
        """Replace dead workers; False when all are dead, which is for whoever started this process to judge."""
        while not self.stopping:
            for worker in self.workers:
                worker.look()
            if all(worker.process is None for worker in self.workers):
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _end(self) -> list[int]:
        """SIGTERM to all, SIGKILL to who does not end; their exit codes."""
        living = [worker.process for worker in self.workers if worker.process is not None]
        for process in living:
            process.terminate()
        deadline = time.monotonic() + _PATIENCE
        codes = []
        for process in living:
            try:
                codes.append(process.wait(max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        return codes
