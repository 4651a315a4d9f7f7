"""The contract of every store, run over a folder and over an fsspec file system."""

import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from tidegate.core.store import Store, StoreError, open_store


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    return open_store(f"memory://{uuid.uuid4().hex}/prefix")


def test_what_was_put_is_read_back(store: Store) -> None:
    """A file that was created has its content and is listed."""
    assert store.put_if_absent("ledger/a/0.json", b"one")
    assert store.read("ledger/a/0.json") == b"one"
    assert store.exists("ledger/a/0.json")
    assert store.list("ledger") == ["ledger/a/0.json"]


def test_the_second_put_loses_and_changes_nothing(store: Store) -> None:
    """`put_if_absent` has one winner."""
    assert store.put_if_absent("x/0", b"first")
    assert not store.put_if_absent("x/0", b"second")
    assert store.read("x/0") == b"first"


def test_a_write_replaces_the_whole_file(store: Store) -> None:
    """`write` leaves only the newest content."""
    store.write("state.json", b"long old content")
    store.write("state.json", b"new")
    assert store.read("state.json") == b"new"


def test_a_missing_file_is_said_to_be_missing(store: Store) -> None:
    """Reading nothing raises, listing nothing is empty, deleting nothing is fine."""
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
    assert store.list("nowhere") == []
    store.delete("nothing")
    assert not store.exists("nothing")


def test_of_many_threads_exactly_one_wins(tmp_path: Path) -> None:
    """Racing writers of one name have a single winner, whose content stays."""
    store = open_store(str(tmp_path))
    barrier, wins = threading.Barrier(8), []

    def race(name: int) -> None:
        barrier.wait()
        if store.put_if_absent("seq", str(name).encode()):
            wins.append(name)

    threads = [threading.Thread(target=race, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.read("seq") == str(wins[0]).encode()


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A write that does not fit fails with the reason and no partial file (the limit is the kernel's own)."""
    program = (
        "import resource, signal, sys\n"
        "from tidegate.core.store import StoreError, open_store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n"
        "    open_store(sys.argv[1]).put_if_absent('a/b', b'x' * 1000)\n"
        "except StoreError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "Cannot write" in done.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_space_left_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC from the file system becomes an error that says what to do."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        open_store(str(tmp_path)).write("a", b"b")
    assert "make room" in caught.value.hint
