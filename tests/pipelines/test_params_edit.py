"""`-p key=value` changes one value in tidegate.yaml and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import UsageError
from tidegate.pipelines.params_edit import override, parse

TEXT = """# a comment
train:   # odd   spacing
  params:
    depth: 3      # levels
    rate: 0.1
    name: "quoted, text"
    early: true
    layers: [64, 32]
    free: null
other: {depth: 3}
"""


def _file(tmp_path: Path, text: str = TEXT) -> Path:
    file = tmp_path / "tidegate.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("depth", "5", "    depth: 5      # levels"),
        ("rate", "1e-3", "    rate: 0.001"),
        ("name", "plain: text #1", '    name: "plain: text #1"'),
        ("early", "false", "    early: false"),
        ("layers", "[8, 8]", "    layers: [8, 8]"),
        ("free", "0.5", "    free: 0.5"),
    ],
)
def test_one_value_changes_and_every_other_byte_stays(tmp_path: Path, key: str, value: str, line: str) -> None:
    """Comments, spacing and the same key elsewhere are left alone."""
    file = _file(tmp_path)
    (said,) = override(file, {key: value})
    assert f"train.params.{key}" in said
    before, after = TEXT.splitlines(), file.read_text().splitlines()
    assert [new for old, new in zip(before, after, strict=True) if old != new] == [line]


def test_the_value_that_is_there_changes_nothing(tmp_path: Path) -> None:
    """The file is not even written."""
    file = _file(tmp_path)
    written = file.stat().st_mtime_ns
    assert override(file, {"depth": "3"}) == []
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("params", "said"),
    [({"dept": "4"}, "depth"), ({"depth": "deep"}, "is a number"), ({"early": "1"}, "is a boolean")],
)
def test_a_wrong_key_or_kind_is_refused_and_nothing_is_written(
    tmp_path: Path, params: dict[str, str], said: str
) -> None:
    """All or nothing: a good param next to a bad one is not written either."""
    file = _file(tmp_path)
    with pytest.raises(UsageError, match=said):
        override(file, {"rate": "0.2", **params})
    assert file.read_text() == TEXT


@pytest.mark.parametrize("argument", ["depth", "=3"])
def test_an_argument_without_key_or_value_is_a_usage_error(argument: str) -> None:
    """-p takes key=value."""
    with pytest.raises(UsageError, match="is not key=value"):
        parse([argument])


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).map(str.strip))
def test_any_text_is_read_back_as_it_was_typed(text: str) -> None:
    """What YAML would take for something else is quoted."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = _file(Path(folder))
        override(file, {"name": text})
        assert yaml.safe_load(file.read_text())["train"]["params"]["name"] == text
