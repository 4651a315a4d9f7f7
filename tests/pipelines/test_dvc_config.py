"""A config that DVC cannot read is named with its line, by every command that asks DVC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidegate.core.errors import ConfigError
from tidegate.pipelines import dvc_repo


@pytest.fixture
def root(git_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository, apart from this machine's own config."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site"))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "dvc-global"))
    dvc_repo.init(git_repo)
    return git_repo


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[core]\n    remote\n", r"\.dvc/config:2: .*'remote' is neither a \[section\] nor `key = value`"),
        (b"[core\n", r"\.dvc/config:1: .*'\[core'"),
        (b"[core]\na = 1\nx\ny\n", r"\.dvc/config:3: .*'x'"),
        (b"[core]\n# a comment\n  autstage = true\n", r"\.dvc/config:3: .*core\.autstage is no setting of DVC"),
        (b"[core]\nautostage = maybe\n", r"\.dvc/config:2: .*core\.autostage: expected true or false"),
        (b"['remote \"a\"']\nurl = /x\nurll = 3\n", r"\.dvc/config:3: .*remote\.a\.urll is no setting of DVC"),
        (b"remote = x\n", r"\.dvc/config:1: .*remote: expected a dictionary"),
        (b"[core]\n\xff\n", r"\.dvc/config:2: .*no UTF-8"),
    ],
)
def test_the_line_that_is_wrong_is_named(root: Path, content: bytes, told: str) -> None:
    """File and line as an editor takes them, and how git takes the change back."""
    (root / ".dvc" / "config").write_bytes(content)
    with pytest.raises(ConfigError, match=told) as failed:
        dvc_repo.status(root)
    assert "git checkout -- .dvc/config" in failed.value.hint


def test_the_file_that_only_this_machine_has_is_told_apart(root: Path) -> None:
    """Git does not know it, so git cannot take anything back."""
    (root / ".dvc" / "config.local").write_text("[cache]\n    tipe = copy\n")
    with pytest.raises(ConfigError, match=r"\.dvc/config\.local:2: .*cache\.tipe") as failed:
        dvc_repo.status(root)
    assert "git" not in failed.value.hint


def test_a_command_ends_with_the_line_and_the_code_of_a_config(root: Path, cli: Any) -> None:
    """It is a mistake in a config, and no error of tidegate's."""
    (root / "tidegate.yaml").write_text("model: demand\ndata: {path: train.csv, target: class}\n")
    (root / ".dvc" / "config").write_text("[core\n")
    done = cli("-C", root, "data", "push")
    assert (done.exit_code, ".dvc/config:1" in done.stderr, "did not expect" in done.stderr) == (2, True, False), done
