"""Releases: written whole, refused when tampered with, and restored from the store into a new folder."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.artifacts import DatasetRef, Release
from tidegate.core.errors import Conflict, TidegateError, UsageError
from tidegate.core.git import WorkTree, git, is_repository, work_tree
from tidegate.core.store import Store, open_store
from tidegate.registry import releases

FILES = {"tidegate.yaml": b"model: demand\n", "data/train.csv.dvc": b"outs: []\n"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def made(files: Mapping[str, bytes] = FILES, tree: WorkTree | None = None, **changes: Any) -> Release:
    tree = tree or WorkTree("", b"")
    fields = {
        "model": "demand",
        "version": 3,
        "run_id": "a1b2",
        "bento": "demand:3",
        "bundle": "00ff",
        "git_commit": tree.commit,
        "git_dirty": tree.dirty,
        "data": (DatasetRef("data/train.csv", "d41d8c", 10),),
        "files": releases.digests(files),
        "config": {"serve": {"threshold": None}},
        "contract": {"passed": True},
    }
    return Release(**{**fields, **changes})


def saved(store: Store, project: Path) -> Release:
    """A release of the project as it is, as the release flow makes one."""
    tree = work_tree(project) if is_repository(project) else WorkTree("", b"")
    files = {**FILES, releases.DIFF: tree.diff} if tree.dirty else FILES
    release = made(files, tree)
    releases.save(store, release, files)
    return release


def test_a_saved_release_is_loaded_equal(store: Store) -> None:
    """Everything comes back, also from another process's store object, and is listed once."""
    release = made()
    releases.save(store, release, FILES)
    releases.save(store, release, FILES)
    again = open_store(store.url)
    assert releases.load(again, release.id) == release
    assert releases.ids(again) == [release.id]
    assert releases.files_of(again, release) == FILES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=3), st.text(), st.integers(0))
@settings(max_examples=50, deadline=None)
def test_the_id_depends_on_the_content_alone(config: dict[str, Any], path: str, version: int) -> None:
    """A trip through the file in the store keeps the id; any other content has another."""
    release = made(config=config, version=version, data=(DatasetRef(path, "m"),))
    assert Release.from_json(json.loads(json.dumps(release.to_json()))).id == release.id
    assert made(config=config, version=version + 1, data=(DatasetRef(path, "m"),)).id != release.id


def test_an_unknown_release_is_a_usage_error(store: Store) -> None:
    """With the command that lists the known ones."""
    with pytest.raises(UsageError, match="There is no release r-nope") as caught:
        releases.load(store, "r-nope")
    assert "release list" in caught.value.hint


def test_a_release_without_its_description_does_not_exist(store: Store) -> None:
    """Killed before the last write, nothing is half there."""
    release = made()
    store.write(f"releases/{release.id}/files/tidegate.yaml", b"model: demand\n")
    assert releases.ids(store) == []
    with pytest.raises(UsageError):
        releases.load(store, release.id)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"version": 3', '"version": 4'),
        lambda text: text.replace('"00ff"', '"00fe"'),
        lambda text: text[: len(text) // 2],
        lambda _: "{}",
        lambda _: "[]",
        lambda _: "null",
        lambda _: "",
        lambda text: text.replace('"data": [', '"data": [3, '),
    ],
)
def test_a_changed_description_is_refused(store: Store, change: Any) -> None:
    """Other values, half a file, no release at all: never served, and the file is named."""
    release = made()
    releases.save(store, release, FILES)
    name = f"releases/{release.id}/release.json"
    store.write(name, change(store.read(name).decode()).encode())
    with pytest.raises(TidegateError, match=r"was changed") as caught:
        releases.load(store, release.id)
    assert name in caught.value.message


def test_a_changed_or_missing_file_is_refused(store: Store, git_repo: Path, tmp_path: Path) -> None:
    """A checkout of it writes nothing."""
    release = saved(store, git_repo)
    name = f"releases/{release.id}/files/tidegate.yaml"
    store.write(name, b"model: evil\n")
    with pytest.raises(TidegateError, match=r"tidegate\.yaml was changed"):
        releases.checkout(store, release, git_repo, tmp_path / "into")
    store.delete(name)
    with pytest.raises(TidegateError, match=r"tidegate\.yaml"):
        releases.files_of(store, release)
    assert not (tmp_path / "into").exists()


def begin(repo: Path, project: Path) -> None:
    """Commit a project, then change it in every way without committing."""
    project.mkdir(parents=True, exist_ok=True)
    (repo / ".gitignore").write_text(".tidegate/\n")
    (project / "train.py").write_text("first\nsecond\n")
    (project / "weights.bin").write_bytes(bytes(range(256)) * 9)
    (project / "gone.py").write_text("gone\n")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "-m", "begin")
    (project / "train.py").write_text("first\nchanged \n")
    (project / "weights.bin").write_bytes(bytes(range(255, -1, -1)) * 9)
    (project / "gone.py").unlink()
    (project / "new.py").write_text("untracked\r\n")
    (project / "tidegate.yaml").write_text("model: demand\n")


def code(project: Path) -> dict[str, bytes]:
    names = ("train.py", "weights.bin", "new.py", "gone.py", "tidegate.yaml")
    return {name: (project / name).read_bytes() for name in names if (project / name).exists()}


@pytest.mark.parametrize("where", [".", "models/demand"])
def test_a_checkout_restores_commit_patch_and_files(store: Store, git_repo: Path, tmp_path: Path, where: str) -> None:
    """Edited, deleted, untracked and binary files, in the root of a repository or below it; yours are not touched."""
    begin(git_repo, git_repo / where)
    release = saved(store, git_repo / where)
    before, status = code(git_repo / where), git(git_repo, "status", "--porcelain")
    (git_repo / where / "train.py").write_text("later work\n")
    (git_repo / where / "train.py").write_bytes(before["train.py"])
    into = tmp_path / "old" / "deep"
    releases.checkout(store, release, git_repo / where, into)
    assert code(into / where) == before
    assert (into / where / "data/train.csv.dvc").read_bytes() == FILES["data/train.csv.dvc"]
    assert git(into, "rev-parse", "HEAD").decode().strip() == release.git_commit
    assert (code(git_repo / where), git(git_repo, "status", "--porcelain")) == (before, status)


def test_a_checkout_of_an_old_commit_ignores_the_work_since(store: Store, git_repo: Path, tmp_path: Path) -> None:
    """The branch has moved on and the tree is dirty: the release is what it was."""
    begin(git_repo, git_repo)
    git(git_repo, "add", "--all")
    git(git_repo, "commit", "--quiet", "-m", "shipped")
    release, before = saved(store, git_repo), code(git_repo)
    assert not release.git_dirty
    (git_repo / "train.py").write_text("much later\n")
    git(git_repo, "commit", "--quiet", "-am", "later")
    releases.checkout(store, release, git_repo, tmp_path / "into")
    assert code(tmp_path / "into") == before


def test_before_the_first_commit_the_patch_is_everything(store: Store, git_repo: Path, tmp_path: Path) -> None:
    """A release of a repository without a commit is restored into a fresh one."""
    (git_repo / "train.py").write_text("first\n")
    (git_repo / "weights.bin").write_bytes(b"\0\1\2" * 99)
    release = saved(store, git_repo)
    assert (release.git_commit, release.git_dirty) == ("", True)
    releases.checkout(store, release, git_repo, tmp_path / "into")
    assert code(tmp_path / "into") == {**code(git_repo), "tidegate.yaml": FILES["tidegate.yaml"]}


def test_a_project_without_git_gives_back_what_the_release_holds(store: Store, tmp_path: Path) -> None:
    """There is no code to restore, but config, contract and data pointers are there."""
    project = tmp_path / "project"
    project.mkdir()
    release = saved(store, project)
    releases.checkout(store, release, project, tmp_path / "into")
    assert (tmp_path / "into" / "tidegate.yaml").read_bytes() == FILES["tidegate.yaml"]


def test_an_existing_folder_is_not_written_into(store: Store, git_repo: Path, tmp_path: Path) -> None:
    """Somebody's files may be there."""
    release = saved(store, git_repo)
    (tmp_path / "into").mkdir()
    with pytest.raises(Conflict, match="exists already"):
        releases.checkout(store, release, git_repo, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def test_a_commit_that_is_gone_is_said(store: Store, git_repo: Path, tmp_path: Path) -> None:
    """A shallow or rewritten repository cannot give back the code; nothing is left behind."""
    begin(git_repo, git_repo)
    release = made(tree=WorkTree("0" * 39 + "1", b""))
    releases.save(store, release, FILES)
    with pytest.raises(TidegateError, match="git worktree") as caught:
        releases.checkout(store, release, git_repo, tmp_path / "into")
    assert str(git_repo) in caught.value.hint
    assert not (tmp_path / "into").exists()


def test_a_checkout_twice_into_two_folders_works(store: Store, git_repo: Path, tmp_path: Path) -> None:
    """The same commit may be looked at in several places, also after one of them was deleted by hand."""
    begin(git_repo, git_repo)
    release = saved(store, git_repo)
    for name in ("one", "two"):
        releases.checkout(store, release, git_repo, tmp_path / name)
    subprocess.run(["rm", "-rf", str(tmp_path / "one")], check=True)
    releases.checkout(store, release, git_repo, tmp_path / "one")
    assert code(tmp_path / "one") == code(tmp_path / "two")


@pytest.mark.parametrize(
    "path",
    ["../../evil.txt", "/etc/evil", "a/../../b", "a//b", "", "./a", "a\\..\\b", "C:/evil", ".git/hooks/x", "a\0b"],
)
def test_a_file_outside_the_release_is_neither_stored_nor_restored(
    store: Store, git_repo: Path, tmp_path: Path, path: str
) -> None:
    """A release whose id is right but whose files lead elsewhere is refused, and nothing is written."""
    files = {**FILES, path: b"evil"}
    release = made(files)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TidegateError, match="is not what was recorded") as caught:
        releases.save(store, release, files)
    assert repr(path) in caught.value.message
    assert sorted(tmp_path.rglob("*")) == before
    releases.save(store, release, FILES)
    with pytest.raises(TidegateError, match="outside its folder"):
        releases.files_of(store, release)
    with pytest.raises(TidegateError, match="outside its folder"):
        releases.checkout(store, release, git_repo, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_link_in_the_commit_leads_no_file_out_of_the_checkout(store: Store, git_repo: Path, tmp_path: Path) -> None:
    """The folder of a file may be a link to anywhere in what git restored."""
    begin(git_repo, git_repo)
    (tmp_path / "elsewhere").mkdir()
    (git_repo / "link").symlink_to(tmp_path / "elsewhere")
    git(git_repo, "add", "--all")
    git(git_repo, "commit", "--quiet", "-m", "a link")
    files = {**FILES, "link/evil.txt": b"evil"}
    release = made(files, work_tree(git_repo))
    releases.save(store, release, files)
    with pytest.raises(TidegateError, match="outside its folder"):
        releases.checkout(store, release, git_repo, tmp_path / "into")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_bento_outside_its_folder_is_refused(store: Store) -> None:
    """`tidegate package` deletes and builds that folder again: a tag must not name another one."""
    release = made(bento="demand:../../../home")
    releases.save(store, release, FILES)
    with pytest.raises(TidegateError, match="outside its folder"):
        releases.load(store, release.id)
