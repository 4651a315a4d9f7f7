"""Many small requests, one run of the model, and never a blocked event loop.

A batch is what arrived until the next tick of the loop: no timer, so nothing waits when nothing else came. Copies of a
shadow phase and requests that somebody waits for never share one, so that hooks can be told which they see. A run that
is expected to take longer than `INLINE_SECONDS` goes to one worker thread; what arrives meanwhile is its next batch.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tidegate.serving.service.model import Answer
from tidegate.serving.service.schema import Row

# More rows a run gained nothing for trees and small networks, and one slow run delays everyone in it.
MAX_ROWS = 64
# Longer than this, and other connections would notice the pause.
INLINE_SECONDS = 0.002
# After a slow run the estimate falls by this factor a run, so one hiccup costs some fifteen trips to the thread.
_FORGET = 0.8


class TooLate(Exception):
    """The answer did not come within the timeout."""


@dataclass(slots=True, eq=False)
class _Waiting:
    rows: Sequence[Row]
    future: asyncio.Future[Answer]
    shadow: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Counts:
    """What `/metrics` tells about batching."""

    inline: int = 0
    worker: int = 0
    rows: int = 0
    queued: int = field(default=0)


class Batcher:
    """Collects requests and runs `predict` over them.

    Args:
        predict: rows, and whether they are copies of a shadow phase, to their answer; called from one thread at a time.
        timeout: seconds a request may wait for its answer once it has to wait for the worker.
    """

    def __init__(self, predict: Callable[[Sequence[Row], bool], Answer], timeout: float) -> None:
        self._predict = predict
        self._timeout = timeout
        self._pending: deque[_Waiting] = deque()
        self._scheduled = False
        self._busy = False
        self._row_seconds: float | None = None
        self._worker = ThreadPoolExecutor(1, "tidegate-model")
        self.counts = Counts()

    def learn(self, rows: int, seconds: float) -> None:
        """Learn what a row costs from one run of `rows`; warm-up calls it first."""
        cost = seconds / rows
        self._row_seconds = cost if self._row_seconds is None else max(cost, self._row_seconds * _FORGET)

    def submit(self, rows: Sequence[Row], shadow: bool = False) -> asyncio.Future[Answer]:
        """A future of the answer to `rows`, which are copies if `shadow`; cancel it and they are not computed.

        The future raises `TooLate` after the timeout, or what the model raised.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        entry = _Waiting(rows, future, shadow)
        self._pending.append(entry)
        self.counts.queued += len(rows)
        if self._busy:
            # Whoever waits behind the worker gets a deadline; who is answered at once never pays for one.
            entry.timer = loop.call_later(self._timeout, _expire, future)
        elif not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        return future

    def close(self) -> None:
        """Let the worker finish and end."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _flush(self) -> None:
        self._scheduled = False
        while self._pending and not self._busy:
            batch = self._take()
            if not batch:
                continue
            rows = sum(len(entry.rows) for entry in batch)
            if self._row_seconds is not None and self._row_seconds * rows <= INLINE_SECONDS:
                self._inline(batch, rows)
            else:
                self._offload(batch, rows)
        if self._busy:
            loop = asyncio.get_running_loop()
            for entry in self._pending:
                entry.timer = entry.timer or loop.call_later(self._timeout, _expire, entry.future)

    def _take(self) -> list[_Waiting]:
        # A slow model gets smaller batches: one that outlives everybody's timeout would answer nobody.
        most = MAX_ROWS if not self._row_seconds else min(MAX_ROWS, int(self._timeout / 2 / self._row_seconds))
        batch: list[_Waiting] = []
        rows = 0
        while self._pending:
            entry = self._pending[0]
            if batch and (rows + len(entry.rows) > most or entry.shadow != batch[0].shadow):
                break
            self._pending.popleft()
            self.counts.queued -= len(entry.rows)
            if not entry.future.done():
                batch.append(entry)
                rows += len(entry.rows)
        return batch

    def _inline(self, batch: list[_Waiting], rows: int) -> None:
        begun = time.perf_counter()
        outcomes = self._run(batch)
        self.learn(rows, time.perf_counter() - begun)
        self.counts.inline += 1
        self.counts.rows += rows
        _settle(batch, outcomes)

    def _offload(self, batch: list[_Waiting], rows: int) -> None:
        loop = asyncio.get_running_loop()
        self._busy = True
        for entry in batch:
            entry.timer = entry.timer or loop.call_later(self._timeout, _expire, entry.future)
        begun = time.perf_counter()

        def finished(running: asyncio.Future[list[Answer | Exception]]) -> None:
            self._busy = False
            self.learn(rows, time.perf_counter() - begun)
            self.counts.worker += 1
            self.counts.rows += rows
            if not running.cancelled():
                _settle(batch, running.result())
            self._flush()

        loop.run_in_executor(self._worker, self._run, batch).add_done_callback(finished)

    def _run(self, batch: list[_Waiting]) -> list[Answer | Exception]:
        """One answer an entry. If a batch fails, each entry is tried alone, so one bad request harms nobody else."""
        if len(batch) == 1:
            return [self._attempt(batch[0].rows, batch[0].shadow)]
        together = self._attempt([row for entry in batch for row in entry.rows], batch[0].shadow)
        if isinstance(together, Exception):
            return [self._attempt(entry.rows, entry.shadow) for entry in batch]
        outcomes: list[Answer | Exception] = []
        start = 0
        for entry in batch:
            outcomes.append(together.part(start, start + len(entry.rows)))
            start += len(entry.rows)
        return outcomes

    def _attempt(self, rows: Sequence[Row], shadow: bool) -> Answer | Exception:
        try:
            return self._predict(rows, shadow)
        except Exception as error:  # noqa: BLE001 # it is the request's answer, and logged there
            return error


def _settle(batch: list[_Waiting], outcomes: list[Answer | Exception]) -> None:
    for entry, outcome in zip(batch, outcomes, strict=True):
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.future.done():
            continue
        if isinstance(outcome, Exception):
            entry.future.set_exception(outcome)
        else:
            entry.future.set_result(outcome)


def _expire(future: asyncio.Future[Answer]) -> None:
    if not future.done():
        future.set_exception(TooLate())
