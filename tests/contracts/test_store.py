"""What every store promises: a folder, anything behind fsspec, a bucket of S3, and the fake that other tests use."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from fakes import MemoryStore
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.store import Store, open_store
from tidegate.core.store.local import LocalStore


@pytest.fixture(params=["folder", "bucket", "s3", "fake"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3"))
    if request.param == "bucket":
        return open_store(f"memory://{uuid.uuid4().hex}/prefix")
    return MemoryStore()


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
    assert not store.put_if_absent("state.json", b"newer")


def test_a_missing_file_is_said_to_be_missing(store: Store) -> None:
    """Reading nothing raises, listing nothing is empty, deleting nothing is fine."""
    with pytest.raises(FileNotFoundError):
        store.read("nothing")
    assert store.list("nowhere") == []
    store.delete("nothing")
    assert not store.exists("nothing")


def test_a_folder_is_no_file(store: Store) -> None:
    """Only files exist; the names of folders mean nothing by themselves."""
    store.write("a/b/c", b"x")
    assert not store.exists("a/b")
    with pytest.raises(OSError, match=r".*"):
        store.read("a/b")


def test_a_deleted_file_is_gone_and_its_name_free(store: Store) -> None:
    """Somebody else may create it again."""
    store.write("a/b", b"x")
    store.delete("a/b")
    assert (store.exists("a/b"), store.list("a")) == (False, [])
    assert store.put_if_absent("a/b", b"y")


def test_a_listing_is_sorted_whole_and_of_that_folder_alone(store: Store) -> None:
    """Neighbours that begin with the same letters are not below it; deeper folders are."""
    for path in ("a/2", "a/10", "a/b/c/1", "ab/1", "a.json", "z"):
        store.write(path, b"")
    assert store.list("a") == ["a/10", "a/2", "a/b/c/1"]
    assert store.list("a/b") == ["a/b/c/1"]


def test_what_another_writer_put_is_seen_at_once(store: Store) -> None:
    """Nothing is cached: a listing before does not hide what came after."""
    other = store if isinstance(store, MemoryStore) else type(store)(*_arguments(store))
    assert store.list("a") == []
    other.write("a/1", b"x")
    assert store.list("a") == ["a/1"]
    assert store.read("a/1") == b"x"
    other.write("a/1", b"longer")
    assert store.read("a/1") == b"longer"


def _arguments(store: Store) -> tuple[str | Path]:
    return (store.root,) if isinstance(store, LocalStore) else (store.url,)


@given(st.dictionaries(st.from_regex(r"[a-z0-9]{1,3}(/[a-z0-9._-]{1,3}x){0,2}/f", fullmatch=True), st.binary()))
def test_any_bytes_come_back_under_any_name(files: dict[str, bytes]) -> None:
    """Empty files and every byte, in a store behind fsspec and in the fake."""
    for store in (open_store(f"memory://{uuid.uuid4().hex}"), MemoryStore()):
        for path, content in files.items():
            store.write(path, content)
        assert {path: store.read(path) for path in files} == files
        folders = {path.split("/")[0] for path in files}
        assert sorted(path for folder in folders for path in store.list(folder)) == sorted(files)
