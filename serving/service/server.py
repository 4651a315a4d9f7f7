"""One process that serves one bundle: the lane on uvicorn, with the model loaded behind an open door.

The port answers `/healthz` at once, `/readyz` only when the model has repeated its golden answers. SIGTERM stops
accepting, answers what is in flight and ends with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import uvicorn

from tidegate.core.errors import TidegateError
from tidegate.core.optouts import opt_out
from tidegate.serving.service import capture
from tidegate.serving.service.batch import Batcher
from tidegate.serving.service.bento import LazyInner
from tidegate.serving.service.lane import Lane
from tidegate.serving.service.model import Model
from tidegate.serving.service.pair_log import PairLog
from tidegate.serving.service.workers import Place

logger = logging.getLogger("tidegate.serving")

# A model that computes in Python hands the interpreter over this often (seconds); the default 5 ms, met several
# times by one request, would already be seen in /healthz.
SWITCH_SECONDS = 0.0005
# Requests in flight at SIGTERM have this long beyond their own timeout.
DRAIN_SECONDS = 10.0
# What was answered last is written in this time; whoever stops the process waits some seconds longer.
FLUSH_SECONDS = 5.0
# How old the counters of another worker may be.
PUBLISH_SECONDS = 1.0
_WARM_RUNS = 5
_SLOW_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line and the environment say."""

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 3000
    threads: int = 1
    release: str = ""
    place: Place | None = None
    pairs: Path | None = None
    slices: tuple[str, ...] = ()
    capture: str = ""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code: 0, or 1 if the model could not be loaded."""
    opt_out()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    sys.setswitchinterval(SWITCH_SECONDS)
    # uvicorn raises the signal again after its shutdown; a drained process has ended well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings))


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop


class _Server(uvicorn.Server):
    """uvicorn that tells the lane about SIGTERM first, so `/readyz` says it while kept connections live."""

    def __init__(self, config: uvicorn.Config, lane: Lane) -> None:
        super().__init__(config)
        self._lane = lane

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain."""
        self._lane.drain()
        super().handle_exit(sig, frame)


async def _serve(settings: Settings) -> int:
    # The image leaves BentoML out: the lane answers all but the paths of its schema.
    inner = LazyInner(settings.bundle) if find_spec("bentoml") else None
    pairs = PairLog(settings.pairs, settings.release, slices=settings.slices)
    lane = Lane(inner, settings.release, settings.place, pairs)
    server = _Server(_config(settings, lane), lane)
    background = [asyncio.create_task(_load(settings, lane, server))]
    sockets = None
    if settings.place is not None:
        sockets = [socket.socket(fileno=settings.place.listener)]
        asyncio.get_running_loop().add_reader(settings.place.lifeline, _orphaned, settings.place, server)
        background.append(asyncio.create_task(_publish(settings.place, lane)))
    try:
        await server.serve(sockets)
    except SystemExit:
        # uvicorn has said why it cannot listen, and exits with a code of its own.
        lane.failure = lane.failure or "the address cannot be listened on"
    for task in background:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await asyncio.to_thread(lane.close, FLUSH_SECONDS)
    if inner is not None:
        await inner.close()
    return 1 if lane.failure or not server.started else 0


def _orphaned(place: Place, server: _Server) -> None:
    """The parent was killed: end as at SIGTERM, since nobody can say that any more."""
    asyncio.get_running_loop().remove_reader(place.lifeline)
    logger.error("the parent process is gone")
    place.leave()
    server.handle_exit(signal.SIGTERM, None)


async def _publish(place: Place, lane: Lane) -> None:
    """Keep this worker's counters where the others find them."""
    while True:
        with contextlib.suppress(OSError):  # the folder goes with the parent
            place.publish(lane.page())
        await asyncio.sleep(PUBLISH_SECONDS)


def _config(settings: Settings, lane: Lane) -> uvicorn.Config:
    return uvicorn.Config(
        lane,
        host=settings.host,
        port=settings.port,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        date_header=False,
        backlog=2048,
        # Longer than the gateway keeps an idle connection, so it is never us who closes under a request.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
    )


async def _load(settings: Settings, lane: Lane, server: uvicorn.Server) -> None:
    begun = time.perf_counter()
    try:
        model, batcher, captured = await asyncio.to_thread(_open, settings)
    except TidegateError as error:
        lane.failure = error.message
        logger.error("%s %s", error.message, error.hint)  # noqa: TRY400 # the message says it; a traceback would hide it
        server.should_exit = True
    except Exception as error:
        lane.failure = f"the model could not be loaded: {type(error).__name__}: {error}"
        logger.exception("The model could not be loaded.")
        server.should_exit = True
    else:
        # Measured: p99 at 32 connections falls from 166 to 13 ms when collections no longer walk the libraries.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        lane.serve(model, batcher, captured)
        if settings.place is not None:
            settings.place.mark_ready()
        described = model.manifest
        seconds = time.perf_counter() - begun
        logger.info("%s version %d is ready after %.1f s", described.model, described.version, seconds)


def _open(settings: Settings) -> tuple[Model, Batcher, capture.Capture | None]:
    told = capture.parse(settings.capture)
    model = Model(settings.bundle, settings.threads)
    batcher = Batcher(model.predict, model.manifest.limits.timeout)
    model.warm()
    rows = model.schema.check(model.manifest.golden.rows[:1])
    for _ in range(_WARM_RUNS):
        begun = time.perf_counter()
        model.predict(rows)
        seconds = time.perf_counter() - begun
        batcher.learn(len(rows), seconds)
        if seconds > _SLOW_SECONDS:
            # Warming cannot make this one fast, only the start slow.
            break
    return model, batcher, capture.Capture(told, model.manifest, settings.release) if told else None
