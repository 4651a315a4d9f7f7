"""Versions read from MLflow's file: the same as MLflow says, without its import."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.artifacts import DatasetRef, ModelVersion, RunRef
from tidegate.core.errors import UsageError
from tidegate.registry import RunSource, sqlite_probe, sqlite_versions
from tidegate.registry.mlflow_registry import MlflowRegistry, prepare
from tidegate.registry.tags import ADOPTED_TAG, HASH_TAG

CLEAN = RunSource(data=DatasetRef("data/train.csv", "0" * 32), params={"C": 1, "note": "ä"}, git_commit="abc")
DIRTY = RunSource(data=DatasetRef("data/train.csv", "1" * 32), git_commit="def", diff=b"patch")


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    """Versions of every kind: clean, dirty, adopted, deleted, of a deleted run, without metrics, with odd ones."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    prepare(uri, "demand")
    registry = MlflowRegistry(uri, "demand")
    runs = [_logged(registry, source, metrics) for source, metrics in (
        (CLEAN, {"roc_auc": 0.75, "brier": 0.1}), (DIRTY, {"roc_auc": 0.5}), (CLEAN, {}),
        (CLEAN, {"odd": math.inf, "worse": -1e300}), (DIRTY, {"roc_auc": 0.6}),
    )]  # fmt: skip
    for run_id in runs:
        registry.register(RunRef(run_id))
    adopted = {HASH_TAG: "20", ADOPTED_TAG: "true"}
    registry.client.create_model_version("demand", "s3://bucket/model", None, tags=adopted)
    registry.client.create_model_version("demand", "s3://bucket/model", runs[0], tags=adopted)
    registry.set_alias("champion", 2)
    registry.set_alias("best", 2)
    registry.set_alias("challenger", 5)
    registry.client.delete_model_version("demand", "3")
    registry.client.delete_run(runs[4])
    return registry


def _logged(registry: MlflowRegistry, source: RunSource, metrics: dict[str, float]) -> str:
    """A run with a model that has no files: nobody opens it here."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    with registry.running(source) as run_id:
        model = registry.client.create_logged_model(registry.experiment(), name="model", source_run_id=run_id)
        registry.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        registry.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        registry.client.set_tag(run_id, HASH_TAG, f"{len(metrics)}0")
    registry.log_results(run_id, metrics)
    return run_id


def _asked(registry: MlflowRegistry, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelVersion, ...]:
    """What MLflow itself says."""
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_versions, "_read", lambda *_: None)
        return registry.list()


def test_the_file_says_what_mlflow_says(filled: MlflowRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field of every kind of version; an MLflow that changes its tables fails here, or is asked itself."""
    read = sqlite_versions.versions(filled.uri, "demand")
    assert read == _asked(filled, monkeypatch)
    assert read is not None
    assert [one.version for one in read] == [7, 6, 5, 4, 2, 1]
    assert [one.git_dirty for one in read] == [False, False, True, False, True, False]
    assert [one.aliases for one in read] == [(), (), ("challenger",), (), ("best", "champion"), ()]
    assert [one.own for one in read] == [False, False, True, True, True, True]
    assert sqlite_versions.versions(filled.uri, "nobody") == ()


def test_params_are_those_of_mlflow(filled: MlflowRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a run that is not there has none."""
    run_id = filled.get(1).run_id
    assert filled.params(run_id) == {"C": "1", "note": "ä"}
    assert filled.params("0" * 32) == {}
    monkeypatch.setattr(sqlite_versions, "_read", lambda *_: None)
    assert filled.params(run_id) == {"C": "1", "note": "ä"}
    assert filled.params("0" * 32) == {}


def test_who_is_asked_for_does_not_change_with_how(filled: MlflowRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number and alias; a deleted version and an unknown alias are refused with the same words."""
    references: tuple[int | str, ...] = (1, "5", "champion", 3, "chmapion")
    read = [_answer(filled, one) for one in references]
    monkeypatch.setattr(sqlite_versions, "_read", lambda *_: None)
    assert [_answer(filled, one) for one in references] == read
    assert "It has: 1, 2, 4, 5, 6, 7, best, challenger, champion." in str(read[-1])


def _answer(registry: MlflowRegistry, reference: int | str) -> Any:
    try:
        return registry.get(reference)
    except UsageError as error:
        return str(error)


@pytest.mark.parametrize(
    "change", ["ALTER TABLE model_versions RENAME COLUMN workspace TO place", "DROP TABLE latest_metrics"]
)
def test_tables_that_are_not_known_are_left_to_mlflow(filled: MlflowRegistry, tmp_path: Path, change: str) -> None:
    """A newer MLflow may keep things elsewhere: nothing is guessed."""
    file = sqlite_probe.database(filled.uri)
    assert file is not None
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(file.read_bytes())
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute(change)
    assert sqlite_versions.versions(f"sqlite:///{copy}", "demand") is None


@pytest.mark.parametrize(
    "uri", ["https://mlflow.example.org", "postgresql://db/mlflow", "sqlite:////nowhere/mlflow.db"]
)
def test_other_addresses_are_left_to_mlflow(uri: str) -> None:
    """A server has no file, and a file that is not there yet is not made by reading."""
    assert sqlite_versions.versions(uri, "demand") is None
    assert sqlite_versions.params(uri, "0" * 32) is None


def test_listing_loads_no_mlflow(filled: MlflowRegistry, tmp_path: Path) -> None:
    """`model list`, `show` and `compare` are a few SELECTs: MLflow's import would take ten times as long."""
    (tmp_path / "tidegate.yaml").write_text("model: demand\ndata: {path: train.csv, target: class}\n")
    script = (
        "import sys\n"
        "from tidegate.cli.main import run\n"
        "assert [run(line.split()) for line in sys.argv[1:]] == [0, 0, 0]\n"
        "print('LOADED', *sys.modules)\n"
    )
    lines = ("model list", "model show champion", "model compare 1 2")
    done = subprocess.run(
        [sys.executable, "-c", script, *lines],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": filled.uri},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.rpartition("LOADED")[2].split()}
    assert loaded & {"mlflow", "pandas", "numpy", "sqlalchemy"} == set()
