"""A small real project (git, DVC, sqlite MLflow), trained once for the whole session and copied by each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.core.progress import Silent
from tidegate.core.project import Project, open_project

TRAIN = """
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def train(X, y, params):
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["city"]), (StandardScaler(), ["price", "volume"])
    )
    return make_pipeline(columns, LogisticRegression(C=params["C"])).fit(X, y)
"""

CONFIG = """
version: 1
model: demand
task: classification
data: {path: data/train.csv, target: class, split: {by: random}}
train:
  params: {C: 1.0, note: plain}  # inverse strength
gate: {metric: roc_auc}
"""

DVC = """
stages:
  contract:
    cmd: tidegate step contract
    deps: [data/train.csv, contract.yaml]
    outs: [out/contract.json]
  train:
    cmd: tidegate step train
    deps: [data/train.csv, out/contract.json, train.py]
    params:
    - tidegate.yaml: [task, data, train]
    outs: [out/model, out/run.json]
  evaluate:
    cmd: tidegate step evaluate
    deps: [data/train.csv, out/model, out/run.json]
    params:
    - tidegate.yaml: [gate]
    outs: [out/evaluation]
"""

CONTRACT = """
expectations:
- {type: expect_column_values_to_not_be_null, column: class}
"""


def _write_data(file: Path) -> None:
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    price, volume = rng.normal(size=900), rng.integers(0, 50, 900)
    city = rng.choice(["oslo", "rome", "lima"], 900)
    chance = 1 / (1 + np.exp(-(1.5 * price + 0.6 * (city == "rome"))))
    target = (rng.random(900) < chance) * 1
    file.parent.mkdir()
    pd.DataFrame({"price": price, "volume": volume, "city": city, "class": target}).to_csv(file, index=False)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files, git and DVC, MLflow's tables; nothing trained."""
    from tidegate.pipelines import dvc_repo
    from tidegate.registry import mlflow_registry

    root = tmp_path_factory.mktemp("template") / "written"
    root.mkdir()
    files = {"train.py": TRAIN, "tidegate.yaml": CONFIG, "dvc.yaml": DVC, "contract.yaml": CONTRACT}
    for name, text in {**files, ".gitignore": ".tidegate/\n/out\n"}.items():
        (root / name).write_text(textwrap.dedent(text).lstrip())
    _write_data(root / "data" / "train.csv")
    person = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "init", "-q", "-b", "main", str(root)], check=True)
    dvc_repo.init(root)
    dvc_repo.add(root, root / "data" / "train.csv")
    subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(root), *person, "commit", "-q", "-m", "Begin"], check=True)
    mlflow_registry.prepare(f"sqlite:///{root}/.tidegate/mlflow.db", "demand")
    return root


@pytest.fixture(scope="session")
def trained(written: Path) -> Path:
    """The same, trained and evaluated."""
    from tidegate.pipelines.runners import local

    root = written.parent / "trained"
    shutil.copytree(written, root, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "TIDEGATE_"))]:
            patch.delenv(name)
        local.train(open_project(root), {}, Silent())
    return root


@pytest.fixture
def fresh_project(written: Path, tmp_path: Path) -> Project:
    """A copy of the untrained project."""
    return open_project(_copied(written, tmp_path / "project"))


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Project:
    """A copy of the trained project."""
    return open_project(_copied(trained, tmp_path / "project"))


@pytest.fixture
def rewrite() -> Callable[..., Project]:
    """Replace text in a file of a project and open the project again."""

    def change(project: Project, name: str, old: str, new: str) -> Project:
        file = project.root / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        return open_project(project.root)

    return change


def _copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target
