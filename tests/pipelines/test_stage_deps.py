"""Whatever tidegate.yaml names is a dependency of the stage that reads it, whoever forgot to say so."""

from pathlib import Path

import pytest
import yaml

from tidegate.core.config import Config
from tidegate.core.errors import ConfigError, TidegateError
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


ROAD = """\
stages:
  contract:
    cmd: tidegate step contract
    deps: [contract.yaml, data.csv]
    params: [{tidegate.yaml: [data]}]
    outs: [out/contract.json]
  train:
    cmd: tidegate step train
    deps: [out/contract.json, data.csv, train.py]
    outs: [out/model]
  evaluate:
    cmd: tidegate step evaluate
    deps:
    - data.csv
    - out/model
    outs: [out/evaluation]
"""


def road(project: Project, **changes: object) -> tuple[Project, Path]:
    """The whole road in dvc.yaml as an older tidegate wrote it, under a config with these sections."""
    for name in ("contract.yaml", "strict.yaml", "other.csv", "mine.py", "lib/metrics.py", "scripts/fit.py"):
        (project.root / name).parent.mkdir(exist_ok=True)
        (project.root / name).touch()
    (project.root / "tidegate.yaml").write_text("contract: contract.yaml\n")
    file = project.root / "dvc.yaml"
    file.write_text(ROAD)
    plain = {"version": 1, "model": "m", "data": {"path": "data.csv", "target": "y"}}
    return Project(project.root, Config.model_validate(plain | changes)), file


def deps(file: Path, stage: str) -> list[str]:
    """The deps of a stage as they stand in the file."""
    found: list[str] = yaml.safe_load(file.read_text())["stages"][stage]["deps"]
    return found


def test_another_contract_takes_the_place_of_the_old_one(project: Project) -> None:
    """The stage that checks depends on what the config names, and DVC compares the name from then on."""
    changed, file = road(project, contract="strict.yaml")
    assert complete(changed) == [
        "dvc.yaml: the stage contract depends on strict.yaml from now on, not on contract.yaml.",
        "dvc.yaml: the stage contract has the param contract from now on.",
    ]
    assert deps(file, "contract") == ["strict.yaml", "data.csv"]
    assert yaml.safe_load(file.read_text())["stages"]["contract"]["params"] == [{"tidegate.yaml": ["data", "contract"]}]
    assert complete(changed) == []
    complete(Project(project.root, changed.config.model_copy(update={"contract": "contract.yaml"})))
    assert deps(file, "contract") == ["contract.yaml", "data.csv"]


def test_other_data_is_checked_trained_on_and_measured(project: Project) -> None:
    """All three stages follow data.path; what else a stage of the user's making reads stays."""
    changed, file = road(project, data={"path": "other.csv", "target": "y"})
    complete(changed)
    assert deps(file, "contract") == ["contract.yaml", "other.csv"]
    assert deps(file, "train") == ["out/contract.json", "other.csv", "train.py"]
    assert deps(file, "evaluate") == ["other.csv", "out/model"]
    file.write_text(ROAD.replace("data.csv, train.py]", "more.csv, data.csv, train.py]"))
    complete(changed)
    assert deps(file, "train") == ["out/contract.json", "more.csv", "other.csv", "train.py"]


def test_a_name_that_leads_nowhere_is_refused_before_it_is_written(project: Project) -> None:
    """A typo in tidegate.yaml must not be left behind in dvc.yaml."""
    for changes, said in (
        (("contract", "strct.yaml"), "no contract strct"),
        (("data", "othr.csv"), "othr.csv is missing"),
    ):
        key, value = changes
        section = {"contract": value} if key == "contract" else {"data": {"path": value, "target": "y"}}
        changed, file = road(project, **section)
        with pytest.raises(TidegateError, match=said) as caught:
            complete(changed)
        assert "tidegate data" in caught.value.hint
        assert file.read_text() == ROAD


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("python scripts/fit.py --fast", "scripts/fit.py"),
        ("OMP_NUM_THREADS=1 python -u 'scripts/fit.py' && echo done", "scripts/fit.py"),
        ("python -m lib.metrics", "lib/metrics.py"),
    ],
)
def test_the_script_of_a_command_causes_a_retrain(project: Project, command: str, script: str) -> None:
    """A command that was written into tidegate.yaml later than dvc.yaml."""
    changed, file = road(project, train={"command": command})
    complete(changed)
    assert deps(file, "train") == ["out/contract.json", "data.csv", "train.py", script]


def test_own_metrics_are_measured_again_when_their_code_changes(project: Project) -> None:
    """A file, a module of the project and one beside `train.code`; a library's own is none of ours."""
    names = ["mine.py:cost", "lib.metrics:cost", "metrics:cost", "json:dumps"]
    gate = {"metric": names[0], "checks": [{"metric": name, "tolerance": 0.1} for name in names[1:]]}
    changed, file = road(project, gate=gate, train={"entrypoint": "train.py:train", "code": ["lib/metrics.py"]})
    complete(changed)
    assert deps(file, "evaluate") == ["data.csv", "out/model", "mine.py", "lib/metrics.py"]


def test_a_param_that_the_config_does_not_hold_is_not_asked_of_dvc(project: Project) -> None:
    """DVC fails on one; the file's name as a dep is enough there."""
    changed, file = road(project)
    (project.root / "tidegate.yaml").write_text("model: m\n")
    assert complete(changed) == []
    assert file.read_text() == ROAD
