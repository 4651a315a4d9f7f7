"""Code that is named in tidegate.yaml is a dependency of the train stage, whoever forgot to say so."""

from pathlib import Path

import pytest
import yaml

from tidegate.core.config import Config
from tidegate.core.errors import ConfigError
from tidegate.core.project import Project
from tidegate.pipelines.stage_deps import complete

FLOW = """\
# comment stays
stages:
  train:
    cmd: tidegate step train
    deps: [data.csv, train.py]   # and this one
    outs: [out/model]
"""
BLOCK = """\
stages:
  other:
    cmd: echo
  train:
    cmd: tidegate step train
    deps:
      - data.csv
      - train.py
    outs:
      - out/model
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("data.csv", "train.py", "hooks.py", "features/a.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    config = Config.model_validate(
        {
            "version": 1,
            "model": "m",
            "data": {"path": "data.csv", "target": "y"},
            "serve": {"code": "hooks.py"},
            "train": {"entrypoint": "train.py:train", "code": ("features/",)},
        }
    )
    return Project(tmp_path, config)


@pytest.mark.parametrize("text", [FLOW, BLOCK])
def test_missing_code_is_added_in_the_style_of_the_list(project: Project, text: str) -> None:
    """The hook and the folder are added once, and nothing else changes."""
    file = project.root / "dvc.yaml"
    file.write_text(text)
    said = complete(project)
    assert [line.split("depends on ")[1] for line in said] == ["hooks.py from now on.", "features/ from now on."]
    after = yaml.safe_load(file.read_text())
    before = yaml.safe_load(text)
    assert after["stages"]["train"].pop("deps") == [*before["stages"]["train"].pop("deps"), "hooks.py", "features/"]
    assert after == before
    assert ("comment stays" in text) == ("comment stays" in file.read_text())
    assert complete(project) == []


def test_a_folder_covers_what_is_in_it(project: Project) -> None:
    """A dependency on the parent folder is enough."""
    text = FLOW.replace("train.py]", "train.py, hooks.py, features]")
    (project.root / "dvc.yaml").write_text(text)
    assert complete(project) == []


def test_stages_in_a_folder_of_their_own_see_the_project_by_wdir(project: Project) -> None:
    """`wdir: ..` counts when paths are compared."""
    folder = project.root / "stages"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(FLOW.replace("    deps", "    wdir: ..\n    deps"))
    assert len(complete(project)) == 2
    assert complete(project) == []


def test_a_stage_without_deps_is_an_error_that_says_what_to_add(project: Project) -> None:
    """Nothing is guessed about a stage that has none."""
    (project.root / "dvc.yaml").write_text("stages:\n  train:\n    cmd: tidegate step train\n")
    with pytest.raises(ConfigError, match="has no deps"):
        complete(project)
