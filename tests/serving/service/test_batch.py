"""Requests are batched at the next tick, and a slow model never holds the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from tidegate.serving.service.batch import MAX_ROWS, Batcher, TooLate
from tidegate.serving.service.model import Answer
from tidegate.serving.service.schema import Row


class Recorder:
    """A model that doubles its first cell, and remembers its batches and threads."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.shadows: list[bool] = []
        self.batches: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, rows: Sequence[Row], shadow: bool) -> Answer:
        time.sleep(self.seconds)
        self.batches.append(len(rows))
        self.shadows.append(shadow)
        self.threads.add(threading.current_thread().name)
        if any(row[0] < 0 for row in rows):
            raise ValueError("negative")
        return Answer([row[0] * 2 for row in rows], [[float(row[0])] for row in rows])


def fast(recorder: Recorder, timeout: float = 5.0) -> Batcher:
    """A batcher that knows its model takes a microsecond."""
    batcher = Batcher(recorder, timeout)
    batcher.learn(1, 1e-6)
    return batcher


def test_requests_of_one_tick_share_a_run_and_get_their_own_rows() -> None:
    """At most 64 rows a run; the answers equal those of single requests."""
    recorder = Recorder()

    async def story() -> list[Answer]:
        batcher = fast(recorder)
        answers = await asyncio.gather(*(batcher.submit([(i,), (i + 0.5,)]) for i in range(50)))
        batcher.close()
        return answers

    answers = asyncio.run(story())
    assert answers == [Answer([2 * i, 2 * i + 1.0], [[float(i)], [i + 0.5]]) for i in range(50)]
    assert recorder.batches == [MAX_ROWS, 36]
    assert recorder.threads == {"MainThread"}


def test_one_bad_request_harms_nobody_else() -> None:
    """If a batch fails, its requests are tried alone."""

    async def story() -> list[Answer | BaseException]:
        batcher = fast(Recorder())
        found = await asyncio.gather(*(batcher.submit([(value,)]) for value in (1, -1, 3)), return_exceptions=True)
        batcher.close()
        return found

    first, bad, third = asyncio.run(story())
    assert (first, third) == (Answer([2], [[1.0]]), Answer([6], [[3.0]]))
    assert isinstance(bad, ValueError)


def test_a_slow_model_leaves_the_loop_free() -> None:
    """It runs in a thread, and the loop's longest pause stays far below a run."""
    recorder = Recorder(0.2)

    async def story() -> float:
        batcher = Batcher(recorder, 5.0)
        waiting = [batcher.submit([(i,)]) for i in range(3)]
        longest, last = 0.0, time.perf_counter()
        while not all(future.done() for future in waiting):
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        batcher.close()
        return longest

    assert asyncio.run(story()) < 0.1
    assert recorder.threads == {"tidegate-model_0"}


def test_a_model_that_turns_slow_moves_to_the_thread_and_back() -> None:
    """One slow run is enough to leave the loop; fast runs bring it home."""
    recorder = Recorder(0.02)

    async def story() -> tuple[int, int]:
        batcher = fast(recorder)
        await batcher.submit([(1,)])
        await batcher.submit([(1,)])
        moved = batcher.counts.worker
        recorder.seconds = 0.0
        for _ in range(60):
            await batcher.submit([(1,)])
        batcher.close()
        return moved, batcher.counts.inline

    moved, inline = asyncio.run(story())
    assert moved == 1
    assert inline > 10


def test_who_waits_too_long_is_told_and_not_computed() -> None:
    """A slow model gets small batches, and a request that has given up costs it nothing."""
    recorder = Recorder(0.15)

    async def story() -> list[Answer | BaseException]:
        batcher = Batcher(recorder, 0.2)
        batcher.learn(1, 0.15)
        waiting = [batcher.submit([(0,)])]
        await asyncio.sleep(0.005)
        waiting += [batcher.submit([(i,)]) for i in range(1, 4)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0.4)
        batcher.close()
        return found

    found = asyncio.run(story())
    assert found[0] == Answer([0], [[0.0]])
    assert all(isinstance(answer, TooLate) for answer in found[1:])
    # The second was in the model when its time was up; the other two were never computed.
    assert recorder.batches == [1, 1]


def test_cancelled_requests_are_dropped_before_they_run() -> None:
    """A client that went away leaves the queue."""
    recorder = Recorder(0.05)

    async def story() -> None:
        batcher = Batcher(recorder, 5.0)
        first, second = batcher.submit([(1,)]), batcher.submit([(2,)])
        await asyncio.sleep(0.01)
        third = batcher.submit([(3,)])
        third.cancel()
        await asyncio.gather(first, second)
        await asyncio.sleep(0.1)
        batcher.close()
        with pytest.raises(asyncio.CancelledError):
            await third

    asyncio.run(story())
    assert recorder.batches == [2]


def test_copies_and_requests_that_somebody_waits_for_never_share_a_run() -> None:
    """So that hooks can be told which they see; each kind is still batched, in the order of arrival."""
    recorder = Recorder()

    async def story() -> list[Answer]:
        batcher = fast(recorder)
        kinds = [False, False, True, True, True, False]
        return await asyncio.gather(*(batcher.submit([(i,)], kind) for i, kind in enumerate(kinds)))

    answers = asyncio.run(story())
    assert [answer.predictions for answer in answers] == [[2 * i] for i in range(6)]
    assert list(zip(recorder.batches, recorder.shadows, strict=True)) == [(2, False), (3, True), (1, False)]
