"""One holder at a time, on one machine or several, and none for long after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fakes import MemoryStore

from tidegate.core.errors import Conflict
from tidegate.core.store import Store, lease, open_store
from tidegate.core.store.lease import leased


def busy(holder: str) -> Conflict:
    return Conflict(f"held on {holder}", "wait")


def hold(store: Store, wait: float = 0.0) -> bool:
    """Whether it can be had now."""
    try:
        with leased(store, "x", wait, busy):
            return True
    except Conflict:
        return False


def test_a_second_holder_is_refused_until_the_first_is_done() -> None:
    """With where the first one is; nothing is left behind."""
    store = MemoryStore()
    with leased(store, "x", 0.0, busy), pytest.raises(Conflict, match="held on "), leased(store, "x", 0.0, busy):
        raise AssertionError
    assert hold(store)
    assert store.list("leases") == []


def test_of_many_who_want_it_at_once_each_gets_it_alone(tmp_path: Path) -> None:
    """They wait for each other, and all get their turn."""
    inside, most, turns = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, turns
        with leased(open_store(str(tmp_path)), "x", 60.0, busy):
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with guard:
                inside -= 1
                turns += 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == (1, 6)


def test_a_holder_that_was_killed_keeps_nobody_out(tmp_path: Path) -> None:
    """On the same machine at once."""
    program = (
        "import os, sys\n"
        "from tidegate.core.store import open_store\n"
        "from tidegate.core.store.lease import leased\n"
        "with leased(open_store(sys.argv[1]), 'x', 0.0, RuntimeError):\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    store = open_store(str(tmp_path))
    assert (done.returncode, len(store.list("leases"))) == (9, 1)
    assert hold(store)
    assert store.list("leases") == []


def test_a_holder_on_another_machine_is_waited_for_until_its_time_is_over() -> None:
    """Nobody can ask whether it lives."""
    store = MemoryStore()
    record = {"host": "elsewhere", "pid": 1, "until": time.time() + 0.3, "token": "t"}
    store.write("leases/x/00000004", json.dumps(record).encode())
    assert not hold(store)
    assert hold(store, wait=5.0)


def test_who_was_away_for_too_long_may_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may be at work; who calls in time goes on."""
    store = MemoryStore()
    with leased(store, "x", 0.0, busy) as held:
        now = time.time()
        monkeypatch.setattr(lease.time, "time", lambda: now + 0.9 * lease.LASTS)
        held.keep()
        monkeypatch.setattr(lease.time, "time", lambda: now + 1.8 * lease.LASTS)
        held.keep()
        monkeypatch.setattr(lease.time, "time", lambda: now + 3 * lease.LASTS)
        with pytest.raises(Conflict, match="too long"):
            held.keep()
        assert hold(store)
