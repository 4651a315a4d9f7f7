"""What differs from the commit, on real repositories with every kind of change, and without touching anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tidegate.core.errors import TidegateError
from tidegate.core.git import WorkTree, git, head, is_repository, work_tree

BINARY = bytes(range(256)) * 40


@pytest.fixture
def repo(git_repo: Path) -> Path:
    """A repository with one commit of three files."""
    (git_repo / ".gitignore").write_text("ignored/\n")
    (git_repo / "kept.txt").write_text("one\ntwo\n")
    (git_repo / "old name.py").write_text("".join(f"line {number}\n" for number in range(30)))
    (git_repo / "model.bin").write_bytes(BINARY)
    commit(git_repo)
    return git_repo


def commit(repo: Path) -> str:
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "-m", "change")
    return head(repo)


def change_everything(folder: Path) -> None:
    """Edit, rename, delete, add, go binary; and add a file that is ignored."""
    (folder / "kept.txt").write_text("one\ntwo and more\n")
    (folder / "old name.py").rename(folder / "nuovo-città.py")
    (folder / "model.bin").write_bytes(BINARY[::-1])
    (folder / "sub").mkdir()
    (folder / "sub" / "new.bin").write_bytes(b"\0\xff" * 300)
    (folder / "empty").write_bytes(b"")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "ignored").mkdir()
    (folder / "ignored" / "secret").write_text("never in a patch")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but git's own and ignored ones."""
    names = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    return {name: (folder / name).read_bytes() for name in names if name and (folder / name).is_file()}


def restored(repo: Path, tree: WorkTree, into: Path) -> dict[str, bytes]:
    """The files that commit and patch give in a fresh clone."""
    git(repo, "clone", "--quiet", str(repo), str(into))
    git(into, "checkout", "--quiet", tree.commit)
    git(into, "apply", "--binary", "--whitespace=nowarn", "-", content=tree.diff)
    return contents(into)


def test_a_clean_tree_is_its_commit(repo: Path) -> None:
    """No patch, not dirty; ignored files do not count."""
    (repo / "ignored").mkdir()
    (repo / "ignored" / "x").write_text("x")
    assert work_tree(repo) == WorkTree(head(repo), b"")
    assert not work_tree(repo).dirty


def test_commit_and_patch_restore_every_kind_of_change(repo: Path, tmp_path: Path) -> None:
    """Edited, renamed, untracked, binary, empty and executable files come back byte for byte; ignored ones do not."""
    change_everything(repo)
    tree = work_tree(repo)
    assert tree.dirty
    assert b"never in a patch" not in tree.diff
    assert restored(repo, tree, tmp_path / "clone") == contents(repo)
    assert (tmp_path / "clone" / "run.sh").stat().st_mode & 0o100
    assert not (tmp_path / "clone" / "old name.py").exists()


def test_a_deleted_file_is_deleted_again(repo: Path, tmp_path: Path) -> None:
    """A deletion that nobody staged is part of the patch."""
    (repo / "kept.txt").unlink()
    assert "kept.txt" not in restored(repo, work_tree(repo), tmp_path / "clone")


def test_the_users_index_and_files_are_left_alone(repo: Path) -> None:
    """What was staged stays staged, what was not stays unstaged, and the branch does not move."""
    change_everything(repo)
    (repo / "staged.txt").write_text("staged\n")
    git(repo, "add", "staged.txt")
    before = (git(repo, "status", "--porcelain"), git(repo, "diff", "--cached"), head(repo), contents(repo))
    index = (repo / ".git" / "index").read_bytes()
    work_tree(repo)
    assert (repo / ".git" / "index").read_bytes() == index
    assert (git(repo, "status", "--porcelain"), git(repo, "diff", "--cached"), head(repo), contents(repo)) == before


def test_before_the_first_commit_everything_is_the_patch(git_repo: Path, tmp_path: Path) -> None:
    """The commit is empty, and the patch makes the files out of nothing."""
    (git_repo / "a.txt").write_text("a\n")
    (git_repo / "b.bin").write_bytes(BINARY)
    tree = work_tree(git_repo)
    assert (tree.commit, tree.dirty, head(git_repo)) == ("", True, "")
    into = tmp_path / "fresh"
    subprocess.run(["git", "init", "--quiet", str(into)], check=True)
    git(into, "apply", "--binary", "-", content=tree.diff)
    assert contents(into) == contents(git_repo)


def test_an_empty_repository_has_nothing_to_say(git_repo: Path) -> None:
    """No commit and no file is not dirty."""
    assert work_tree(git_repo) == WorkTree("", b"")


def test_a_project_in_a_subfolder_sees_only_itself(repo: Path) -> None:
    """Paths are relative to the project; a change elsewhere in the repository is not its own."""
    project = repo / "models" / "demand"
    project.mkdir(parents=True)
    (project / "train.py").write_text("pass\n")
    commit(repo)
    (repo / "kept.txt").write_text("somebody else's work\n")
    assert not work_tree(project).dirty
    (project / "train.py").write_text("changed\n")
    diff = work_tree(project).diff
    assert b"a/train.py" in diff
    assert b"models/demand" not in diff
    assert b"kept.txt" not in diff


def test_secrets_stay_out_whether_git_follows_them_or_not(repo: Path) -> None:
    """Named ones, and files that usually are some, in any folder; everything else is in."""
    (repo / "sub").mkdir()
    named = ["keys.txt", "sub/odd [name]*.txt"]
    usual = [".env", "sub/.env", "server.pem", "sub/SERVER.KEY"]
    (repo / "server.pem").write_text("old")
    commit(repo)
    for name in (*named, *usual, "sub/keys.txt", ".env.example"):
        (repo / name).write_text(f"hunter2 of {name}\n")
    tree = work_tree(repo, named)
    said = [line for line in tree.diff.decode().splitlines() if line.startswith("+hunter2")]
    assert sorted(said) == ["+hunter2 of .env.example", "+hunter2 of sub/keys.txt"]
    assert b"server.pem" not in tree.diff


def test_a_changed_secret_alone_makes_nothing_dirty(git_repo: Path) -> None:
    """Also before the first commit."""
    (git_repo / ".env").write_text("PASSWORD=hunter2\n")
    assert work_tree(git_repo) == WorkTree("", b"")


TASTES = {
    "color.ui": "always",
    "diff.noprefix": "true",
    "diff.external": "false",
    "diff.renames": "copies",
    "diff.context": "0",
    "core.quotePath": "false",
}


def test_the_users_taste_in_diffs_does_not_break_the_patch(repo: Path, tmp_path: Path, own_machine: Path) -> None:
    """Colours, prefixes and external diff programs of ~/.gitconfig never reach the patch."""
    with (own_machine / ".gitconfig").open("a") as file:
        for key, value in TASTES.items():
            section, _, name = key.partition(".")
            file.write(f"[{section}]\n\t{name} = {value}\n")
    change_everything(repo)
    tree = work_tree(repo)
    assert restored(repo, tree, tmp_path / "clone") == contents(repo)


def test_a_text_conversion_does_not_replace_the_bytes(repo: Path, tmp_path: Path) -> None:
    """A textconv filter shows people something readable; the patch needs the bytes."""
    (repo / ".gitattributes").write_text("*.bin diff=shown\n")
    git(repo, "config", "diff.shown.textconv", "wc -c")
    commit(repo)
    (repo / "model.bin").write_bytes(BINARY[1:])
    assert restored(repo, work_tree(repo), tmp_path / "clone") == contents(repo)


def test_outside_a_repository_it_says_so(tmp_path: Path) -> None:
    """There is no repository, no commit, and a complaint that names the folder."""
    assert not is_repository(tmp_path)
    assert head(tmp_path) == ""
    with pytest.raises(TidegateError, match="not a git repository") as caught:
        git(tmp_path, "status")
    assert str(tmp_path) in caught.value.hint


def test_without_git_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without git gets a sentence, not a traceback."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TidegateError, match="git is not installed"):
        git(tmp_path, "status")
