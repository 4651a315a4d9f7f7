"""What is special to the folder on disk, and how an address chooses its store; the promises are in tests/contracts."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tidegate.core.errors import UsageError
from tidegate.core.store import StoreError, open_store
from tidegate.core.store.bucket import BucketStore
from tidegate.core.store.local import LocalStore


@pytest.mark.parametrize("address", ["{}", "file://{}", "local://{}"])
def test_a_path_is_a_folder(tmp_path: Path, address: str) -> None:
    """With or without `file://`; fsspec's own file system would let two writers win, so it is never used."""
    store = open_store(address.format(tmp_path / "s"))
    assert isinstance(store, LocalStore)
    store.write("a/b", b"x")
    assert (tmp_path / "s" / "a" / "b").read_bytes() == b"x"


def test_any_other_scheme_is_fsspecs(tmp_path: Path) -> None:
    """`memory://` is there; what needs another package, or exists nowhere, is a usage error that names it."""
    assert isinstance(open_store("memory://x"), BucketStore)
    with pytest.raises(UsageError, match="teapot://x cannot be opened"):
        open_store("teapot://x")


def test_files_being_written_are_not_listed(tmp_path: Path) -> None:
    """What a killed writer left behind has a hidden name."""
    store = open_store(str(tmp_path))
    store.write("a/b", b"x")
    (tmp_path / "a" / ".c.0123456789ab").write_bytes(b"half")
    assert store.list("a") == ["a/b"]


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


def test_a_writer_killed_before_the_last_step_leaves_no_file(tmp_path: Path) -> None:
    """The name appears only with the whole content."""
    program = (
        "import os, sys\n"
        "from tidegate.core.store import open_store\n"
        "os.link = lambda *_: os._exit(9)\n"
        "open_store(sys.argv[1]).put_if_absent('a/b', b'x' * 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    store = open_store(str(tmp_path))
    assert (done.returncode, store.exists("a/b"), store.list("a")) == (9, False, [])
    assert store.put_if_absent("a/b", b"y")


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
