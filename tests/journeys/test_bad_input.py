"""Bad input by the command line: one clear error, its exit code, no traceback, and a project that still ships."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from journeys.shapes import SHAPES

from tidegate.core.project import open_project

if TYPE_CHECKING:
    import pandas as pd

Cli = Callable[..., Any]
Harm = Callable[[Path], object]

pytestmark = pytest.mark.slow

DATA = "data/labels.csv"
DATABASE = ".tidegate/mlflow.db"
NO_NUMBER = """\
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class Broken(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.repeat(self.classes_[:1], len(X))

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), np.{value})


def train(X, y, params):
    return Broken().fit(X, y)
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project whose first version is the champion."""
    from tidegate.core.progress import Silent
    from tidegate.pipelines import flows
    from tidegate.pipelines.environment import environment_for
    from tidegate.pipelines.init import init

    folder = tmp_path_factory.mktemp("bad-input")
    shape, root = SHAPES["labels"], folder / "project"
    init(root, shape.write(folder, "labels"), shape.target, progress=Silent())
    edit("tidegate.yaml", "max_iter: 200", "max_iter: 10")(root)
    flows.ship(environment_for(open_project(root, "local")), Silent(), wait=False, timeout=1)
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    copy = tmp_path / "project"
    shutil.copytree(template, copy, symlinks=True)
    return copy


def edit(name: str, old: str, new: str) -> Harm:
    """Replace text of a file."""

    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return change


def data(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Harm:
    """Write the data again, changed."""

    def write(root: Path) -> None:
        import pandas as pd

        change(pd.read_csv(root / DATA)).to_csv(root / DATA, index=False)

    return write


def function(body: str) -> Harm:
    """Another train.py."""
    return lambda root: (root / "train.py").write_text(f"def train(X, y, params):\n    {body}\n")


def cached(root: Path) -> Path:
    """DVC's own copy of the data."""
    import yaml

    md5 = yaml.safe_load((root / f"{DATA}.dvc").read_text())["outs"][0]["md5"]
    return root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def rot(root: Path) -> None:
    """One bit of DVC's copy flips; DVC believes files of mode 0444 and hands it out."""
    (root / DATA).unlink()
    content = bytearray(cached(root).read_bytes())
    content[100] ^= 1
    cached(root).chmod(0o644)
    cached(root).write_bytes(content)
    cached(root).chmod(0o444)


def then(*steps: Harm) -> Harm:
    """One after the other."""

    def all_of(root: Path) -> None:
        for step in steps:
            step(root)

    return all_of


def full(root: Path) -> None:
    """A database that takes no new run."""
    with sqlite3.connect(root / DATABASE) as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    connection.close()


RETRAINED = edit("tidegate.yaml", "max_iter: 10", "max_iter: 11")


def untouched(_: Path) -> None:
    """Only the command line is wrong."""


@dataclass(frozen=True)
class Bad:
    """What is done to a project, then typed, and how it is answered."""

    harm: Harm
    line: str
    code: int
    said: str


BAD = {
    "no data": Bad(lambda root: (root / DATA).unlink(), "ship", 2, "data/labels.csv is missing"),
    "empty data": Bad(lambda root: (root / DATA).write_bytes(b""), "ship", 1, "is empty"),
    "no rows": Bad(lambda root: (root / DATA).write_text("l,w,soil,species\n"), "ship", 1, "no rows"),
    "target typo": Bad(edit("tidegate.yaml", "target: species", "target: specis"), "ship", 2, "Did you mean 'species'"),
    "no target": Bad(data(lambda one: one.drop(columns="species")), "ship", 3, "species: the data has no such column"),
    "renamed": Bad(data(lambda one: one.rename(columns={"l": "len"})), "ship", 3, "l: the data has no such column"),
    "all missing": Bad(data(lambda one: one.assign(w=None)), "ship", 3, "w: 600 of 600 values are missing"),
    "contract typo": Bad(
        edit("contract.yaml", "to_be_in_set", "to_bee_in_set"),
        "ship",
        2,
        "did you mean 'expect_column_values_to_be_in_set'",
    ),
    "config typo": Bad(edit("tidegate.yaml", "contract:", "contrakt:"), "ship", 2, 'did you mean "contract"'),
    "rotten object": Bad(rot, "data pull", 1, "does not have the content that DVC recorded"),
    "garbage database": Bad(
        then(RETRAINED, lambda root: (root / DATABASE).write_bytes(b"garbage" * 999)), "ship", 1, "not a database"
    ),
    "torn database": Bad(
        then(RETRAINED, lambda root: os.truncate(root / DATABASE, 99_999)), "ship", 1, "cannot be read"
    ),
    "lost database": Bad(
        then(RETRAINED, lambda root: (root / DATABASE).unlink()), "ship", 1, "version 1, is not in MLflow"
    ),
    "full database": Bad(then(RETRAINED, full), "ship", 1, "disk is full"),
    "raises": Bad(function("raise ValueError('no luck')"), "ship", 1, "train.py:2: ValueError: no luck"),
    "nothing": Bad(function("pass"), "ship", 1, "train.py:train returned nothing"),
    "unfitted": Bad(
        function("from sklearn.svm import SVC; return SVC()"), "ship", 1, "returned a SVC that is not fitted"
    ),
    "no python": Bad(function("return ("), "ship", 1, "SyntaxError"),
    "nan": Bad(
        lambda root: (root / "train.py").write_text(NO_NUMBER.format(value="nan")),
        "ship",
        1,
        "predicts NaN or infinity",
    ),
    "infinity": Bad(
        lambda root: (root / "train.py").write_text(NO_NUMBER.format(value="inf")),
        "ship",
        1,
        "predicts NaN or infinity",
    ),
    "param typo": Bad(untouched, "train -p max_itr=3", 2, 'did you mean "max_iter"?'),
    "param kind": Bad(untouched, "train -p max_iter=lots", 2, "is a number (10), not a text"),
    "param of no model": Bad(edit("tidegate.yaml", "max_iter: 10", "max_itr: 10"), "ship", 1, "argument 'max_itr'"),
    "version shown": Bad(untouched, "model show 99", 2, "no version 99"),
    "version compared": Bad(untouched, "model compare 1 99", 2, "no version 99"),
    "version predicted": Bad(untouched, f"predict {DATA} out.csv --version 99", 2, "Version 99 was never released"),
    "version packaged": Bad(untouched, "package 99", 2, "Version 99 was never released"),
    "no rows to predict": Bad(untouched, "predict nothing.csv out.csv", 2, "There is no file nothing.csv"),
    "release shipped": Bad(untouched, "ship --release r-nope", 2, "There is no release r-nope"),
    "release restored": Bad(untouched, "rollback r-nope --reason x", 2, "There is no release r-nope"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_clear_error_and_the_project_ships_again_once_it_is_mended(
    cli: Cli, template: Path, root: Path, name: str
) -> None:
    """The error says what happened, JSON says the same, nothing is decided; what was spoilt is put back and ships."""
    bad = BAD[name]
    bad.harm(root)
    before = decided(root)
    done = cli(*bad.line.split(), cwd=root)
    assert (done.exit_code, done.stdout) == (bad.code, ""), done
    assert bad.said in done.stderr
    check_words(done.stderr)
    scripted = cli("--json", *bad.line.split(), cwd=root)
    document = json.loads(scripted.stdout)
    assert (document["kind"], document["exit_code"], scripted.exit_code) == ("error", bad.code, bad.code)
    assert bad.said in " ".join([document["message"], document["hint"], *document["problems"]])
    assert decided(root) == before
    mend(template, root)
    again = cli("ship", "--json", cwd=root)
    assert again.exit_code == 0, again
    assert (again.json["rollout"]["decision"], again.json["version"]) == ("none", 1)


def check_words(stderr: str) -> None:
    """An error and what to do about it, and not a line of anybody else."""
    assert sum(line.startswith("Error: ") for line in stderr.splitlines()) == 1
    for word in ("Traceback", "Warning", "site-packages", "did not expect", "sqlalche.me"):
        assert word not in stderr, stderr


def decided(root: Path) -> list[Any]:
    """The ledger's events."""
    from tidegate.pipelines.environment import environment_for

    file = root / "tidegate.yaml"
    text = file.read_text()
    file.write_text(text.replace("contrakt:", "contract:"))
    events = environment_for(open_project(root, "local")).ledger.events()
    file.write_text(text)
    return list(events)


def mend(template: Path, root: Path) -> None:
    """Undo by hand what was done by hand; what tidegate itself left behind stays."""
    for name in (DATA, "tidegate.yaml", "contract.yaml", "train.py", DATABASE):
        shutil.copyfile(template / name, root / name)
    copy = root / cached(template).relative_to(template)
    copy.unlink()
    shutil.copy2(cached(template), copy)
