"""What a process keeps of the requests that another one answers too: enough to compare, never much, never late."""

from __future__ import annotations

import json
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidegate.serving.service.batch import Batcher
from tidegate.serving.service.lane import Lane
from tidegate.serving.service.model import Answer
from tidegate.serving.service.pair_log import FILE_BYTES, FILES, MOST_A_SECOND, MOST_WAITING, Half, PairLog, decode
from tidegate.serving.service.records import unit_hash

ANSWER = Answer(["yes"], [[0.25, 0.75]])


def lines(folder: Path) -> list[Half]:
    return [decode(line) for file in sorted(folder.iterdir()) for line in file.read_bytes().splitlines()]


def name(number: int = 0) -> bytes:
    return f"o-1 {uuid.UUID(int=number)} user {number}".encode()


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., PairLog]]:
    """Logs whose thread never writes by itself."""
    monkeypatch.setattr(PairLog, "_run", lambda _self: None)
    return lambda folder, **given: PairLog(folder, **{"release": "r-1", "classes": ["no", "yes"], **given})


def test_a_marked_request_leaves_a_line_and_another_does_not(served: Any, ask: Any, tmp_path: Path) -> None:
    """With what was predicted, what became of it and how long it took, by whichever protocol it came."""
    log = PairLog(tmp_path, "r-1")
    lane = Lane(release="r-1", pairs=log)
    lane.serve(served.model, Batcher(served.model.predict, 5.0))
    body = json.dumps({"rows": served.rows[:2]}).encode()
    columns = [
        {"name": key, "shape": [1], "datatype": "BYTES", "data": [value]} for key, value in served.rows[0].items()
    ]
    began = time.time()

    async def story() -> list[Any]:
        marked = {"x-tidegate-pair": "o-1 id-1 ada", "x-tidegate-arm": "shadow"}
        return [
            await ask(lane, "POST", "/predict", body, marked),
            await ask(lane, "POST", "/predict", b"{}", {"x-tidegate-pair": "o-1 id-2 ada lovelace"}),
            await ask(
                lane,
                "POST",
                "/v2/models/demand/infer",
                json.dumps({"inputs": columns}).encode(),
                {"x-tidegate-pair": "o-1 id-3 ada"},
            ),
            await ask(lane, "POST", "/predict", body),
            await ask(lane, "POST", "/predict", body, {"x-tidegate-pair": "nonsense"}),
        ]

    whole, bad, infer, *_ = served.run(story())
    log.flush()
    first, second, third = lines(tmp_path)
    assert (whole.status, bad.status, infer.status) == (200, 422, 200)
    assert (first.rollout, first.id, first.arm, first.status) == ("o-1", "id-1", "shadow", 200)
    assert first.predictions == whole.json["predictions"]
    assert first.scores is not None
    assert [list(row.values()) for row in first.scores] == [
        pytest.approx(row, abs=1e-6) for row in whole.json["probabilities"]
    ]
    assert list(first.scores[0]) == [str(one) for one in served.model.manifest.classes]
    assert 0 < first.seconds < 5
    assert began - 1 < first.at < time.time()
    assert (second.id, second.arm, second.status, second.predictions) == ("id-2", "stable", 422, None)
    assert first.unit == third.unit != second.unit
    assert third.predictions == first.predictions[:1]


def test_lines_are_written_by_a_thread_soon(tmp_path: Path) -> None:
    """Nobody has to ask for it, and a folder that is made later is found."""
    folder = tmp_path / "pairs"
    log = PairLog(folder, "r-1", ["no", "yes"])
    log.add(name(1), "stable", 200, 0.1, ANSWER)
    log.flush()
    assert not folder.exists()
    folder.mkdir()
    log.add(name(2), "stable", 200, 0.1, ANSWER)
    end = time.monotonic() + 10
    while not list(folder.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    assert [half.id for half in lines(folder)] == [str(uuid.UUID(int=2))]


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    """Neither in memory nor by a thread."""
    threads = threading.active_count()
    log = PairLog(None)
    log.add(name(), "stable", 200, 0.1, ANSWER)
    assert (len(log._queue), threading.active_count()) == (0, threads)


def test_two_processes_under_load_keep_the_same_requests(paced: Any, tmp_path: Path) -> None:
    """Far more come than fit: what is left is bounded, and most of what one keeps the other keeps too."""
    one, other = paced(tmp_path, release="r-1"), paced(tmp_path, release="r-2")
    for number in range(20 * MOST_A_SECOND):
        one.add(name(number), "stable", 200, 0.1, ANSWER)
        if number % 3:
            other.add(name(number), "shadow", 200, 0.1, ANSWER)
    kept = [{waiting.name[1] for waiting in log._queue} for log in (one, other)]
    assert all(MOST_A_SECOND < len(names) <= MOST_WAITING for names in kept)
    assert len(kept[0] & kept[1]) > min(map(len, kept)) / 2


def test_a_rare_request_is_always_kept(paced: Any, tmp_path: Path) -> None:
    """Below the limit nothing is left out, also when more came before."""
    log = paced(tmp_path)
    for number in range(5000):
        log.add(name(number), "stable", 200, 0.1, ANSWER)
    log._queue.clear()
    assert log._level > 0
    for second in range(30):
        log._second -= 1
        log.add(name(second), "stable", 200, 0.1, ANSWER)
    assert log._level == 0
    log._queue.clear()
    for number in range(MOST_A_SECOND - 1):
        log.add(name(number), "stable", 200, 0.1, ANSWER)
    assert len(log._queue) == MOST_A_SECOND - 1


def test_a_full_queue_drops_and_never_waits(paced: Any, tmp_path: Path) -> None:
    """A disk that hangs costs pairs, not memory."""
    log = paced(tmp_path)
    for number in range(40 * MOST_WAITING):
        log._kept = 0
        log.add(name(number), "stable", 200, 0.1, ANSWER)
    assert len(log._queue) == MOST_WAITING


def test_the_files_of_a_process_stay_small(paced: Any, tmp_path: Path) -> None:
    """The oldest goes when there are too many."""
    log = paced(tmp_path, classes=None)
    wide = Answer([1.0 / 3] * 256)
    for number in range(60):
        for repeat in range(200):
            log._kept = 0
            log.add(name(number * 200 + repeat), "stable", 200, 0.1, wide)
        log.flush()
    files = sorted(tmp_path.iterdir())
    assert len(files) == FILES
    assert all(file.stat().st_size <= FILE_BYTES for file in files)
    assert "000000" not in files[0].name


def test_a_large_answer_is_kept_by_its_first_rows(paced: Any, tmp_path: Path) -> None:
    """Ten thousand rows, or thousands of classes: a line stays short."""
    log = paced(tmp_path)
    log.add(name(1), "stable", 200, 0.1, Answer(["yes"] * 10_000, [[0.25, 0.75]] * 10_000))
    many = paced(tmp_path, release="r-2", classes=list(range(5000)))
    many.add(name(2), "stable", 200, 0.1, Answer([7], [[0.0002] * 5000]))
    log.flush()
    many.flush()
    first, second = lines(tmp_path)
    assert first.predictions is not None
    assert len(first.predictions) == len(first.scores or ()) == 85
    assert (second.predictions, second.scores) == ([7], None)


def test_what_hooks_answer_is_kept_as_something_that_can_be_compared(paced: Any, tmp_path: Path) -> None:
    """Long texts and documents become digests, equal ones the same; what is no JSON ends nothing."""
    log = paced(tmp_path, classes=None)
    for answer in ({"b": 1, "a": 2}, {"a": 2, "b": 1}, {"a": 2}, "x" * 1000, np.float64(1.5), object(), True, None, 2):
        log.add(name(), "stable", 200, 0.1, Answer([answer]))
    log.add(name(), "stable", 200, 0.1, Answer([1, 2.5]))
    log.flush()
    same, again, other, long, *rest = [half.predictions[0] for half in lines(tmp_path) if half.predictions]
    assert same == again != other
    assert all(isinstance(one, str) and len(one) < 30 for one in (same, other, long, *rest[:2]))
    assert rest[2:] == [True, None, 2, 1]
    assert [half.numeric for half in lines(tmp_path)] == [False] * 8 + [True, True]


def test_a_user_is_written_down_by_the_stores_secret_and_not_by_a_name_that_can_be_tried(
    paced: Any, tmp_path: Path
) -> None:
    """As in recorded predictions; without a store by a secret of the process, and with one that is away not at all."""
    own, theirs, away = (paced(tmp_path / one) for one in ("own", "theirs", "away"))
    theirs.salt = lambda: b"the store's"
    away.salt = (tmp_path / "nowhere").read_bytes
    for log, folder in ((own, "own"), (theirs, "theirs"), (away, "away")):
        (tmp_path / folder).mkdir()
        for pair in (b"o-1 id-1 ada", b"o-1 id-2 ada", b"o-1 id-3 bob"):
            log.add(pair, "stable", 200, 0.1, ANSWER)
        log.flush()
    first, again, other = (half.unit for half in lines(tmp_path / "own"))
    assert first == again != other
    assert first not in {zlib.crc32(b"ada"), unit_hash(b"", "ada")}
    assert next(half.unit for half in lines(tmp_path / "theirs")) == unit_hash(b"the store's", "ada")
    assert lines(tmp_path / "away") == []


def test_the_stable_half_keeps_the_values_of_the_slices(paced: Callable[..., PairLog], tmp_path: Path) -> None:
    """Disagreement is told by them; one half is enough, and a column that no request has is not told."""
    log = paced(tmp_path, slices=["country", "unheard"])
    log.knows(["age", "country"])
    for arm in ("stable", "shadow"):
        log.add(name(), arm, 200, 0.01, Answer(["yes", "no"]), rows=[(41, "NL"), (7, None)])
    log.flush()
    stable, shadow = lines(tmp_path)
    assert stable.slices == {"country": ["NL", "(missing)"]}
    assert shadow.slices is None
