"""References to secrets: followed in one place, and never printed when they lead nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.core.errors import ExitCode, UsageError
from tidegate.core.secret import resolve, variables


def test_an_environment_variable_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`env:NAME` is the variable's value."""
    monkeypatch.setenv("SOME_KEY", "s3cret:with:colons")
    assert resolve("env:SOME_KEY", Path()) == "s3cret:with:colons"


def test_a_file_is_followed_and_loses_its_last_newline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`file:PATH` is the file's content, also below the home folder."""
    (tmp_path / "key").write_text("s3cret\n")
    assert resolve(f"file:{tmp_path / 'key'}", Path()) == "s3cret"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("file:~/key", Path()) == "s3cret"
    assert resolve("file:key", tmp_path) == "s3cret"


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_missing_or_empty_is_named(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty key would let everybody in, so it counts as missing."""
    if value is not None:
        monkeypatch.setenv("NO_KEY", value)
    with pytest.raises(UsageError, match="NO_KEY is not set") as caught:
        resolve("env:NO_KEY", Path())
    assert caught.value.exit_code == ExitCode.USAGE
    assert "env:NO_KEY" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n"])
def test_an_empty_file_is_no_secret(tmp_path: Path, content: bytes) -> None:
    """The same holds for a file with nothing in it."""
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match="is empty"):
        resolve(f"file:{tmp_path / 'key'}", Path())


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """Missing, or a folder: the path and the reason."""
    with pytest.raises(UsageError, match="cannot be read: ") as caught:
        resolve(f"file:{tmp_path / name}", Path())
    assert str(tmp_path) in caught.value.message


def test_a_file_that_is_no_text_is_refused_without_showing_it(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 become a sentence, and the bytes are not in it."""
    (tmp_path / "key").write_bytes(b"hunter2\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read") as caught:
        resolve(f"file:{tmp_path / 'key'}", Path())
    assert "hunter2" not in str(caught.value)


def test_a_clusters_secret_is_refused_on_a_laptop() -> None:
    """`secret:NAME/KEY` has no meaning without a cluster."""
    with pytest.raises(UsageError, match="only be read on a cluster") as caught:
        resolve("secret:keys/api", Path())
    assert "env:NAME" in caught.value.hint


def test_the_variables_that_hold_secrets_are_known() -> None:
    """Files and a cluster's secrets are in none."""
    assert variables(["env:KEYS", "file:~/env:key", "secret:some/KEY", "env:HOOK"]) == {"KEYS", "HOOK"}
