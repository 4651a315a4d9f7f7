"""`tidegate package`: a lost or damaged Bento is built again, and it is the very one that passed the gate."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from journeys.shapes import SHAPES

from tidegate.core.project import open_project
from tidegate.serving.service.manifest import digest

Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipped project with hooks; each test copies it, which also proves that it may be moved."""
    from tidegate.core.progress import Silent
    from tidegate.pipelines import flows
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.init import init

    folder = tmp_path_factory.mktemp("package")
    shape, root = SHAPES["odd"], folder / "project"
    init(root, shape.write(folder, "odd"), shape.target, progress=Silent())
    file = root / "tidegate.yaml"
    file.write_text(file.read_text().replace("max_iter: 200", "max_iter: 20"))
    flows.ship(environment_for(open_project(root, "local")), Silent(), wait=False, timeout=1)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    root = tmp_path / "project"
    shutil.copytree(template, root, symlinks=True)
    return root


def commit(root: Path) -> None:
    """What init advises."""
    for command in (["add", "-A"], ["commit", "-q", "-m", "Start"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)


def test_a_bento_that_is_there_is_only_named(cli: Cli, project: Path) -> None:
    """Nothing is built."""
    done = cli("-C", project, "package", "--json")
    assert done.exit_code == 0, done.stderr
    assert (done.json["kind"], done.json["version"], done.json["built"]) == ("package", 1, False)
    assert Path(done.json["path"]).is_dir()


@pytest.mark.parametrize("harm", ["lost", "changed"])
def test_a_lost_or_changed_bento_is_built_again_byte_for_byte(cli: Cli, project: Path, harm: str) -> None:
    """From the release's own config, code and data, although all three were edited since."""
    bundle = Path(cli("-C", project, "package", "--json").json["path"])
    before = digest(bundle)
    if harm == "lost":
        shutil.rmtree(project / ".tidegate" / "bentoml")
    else:
        (bundle / "model.onnx").write_bytes(b"something else")
        assert "`tidegate package 1` builds it again" in cli("-C", project, "predict", "a.csv", "b.csv").stderr
    file = project / "tidegate.yaml"
    file.write_text(file.read_text().replace("holdout: 0.2", "holdout: 0.3"))
    (project / "features.py").write_text("raise SystemExit\n")
    done = cli("-C", project, "package", "1", "--json")
    assert done.exit_code == 0, done.stdout
    assert done.json["built"] is True
    assert digest(bundle) == before


def test_a_release_with_a_commit_leaves_no_worktree_behind(cli: Cli, project: Path) -> None:
    """Git lists the user's own working tree and nothing else."""
    commit(project)
    shutil.rmtree(project / ".tidegate" / "bentoml")
    assert cli("-C", project, "package").exit_code == 0
    trees = subprocess.run(["git", "-C", str(project), "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(trees.stdout.splitlines()) == 1


def test_a_version_that_was_never_released_is_a_usage_error(cli: Cli, project: Path) -> None:
    """With those there are."""
    done = cli("-C", project, "package", "99")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Version 99 was never released; released are: 1" in done.stderr
