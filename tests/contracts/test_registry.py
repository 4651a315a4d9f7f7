"""What every registry promises: MLflow on sqlite, read from its file or asked itself, and the fake of other tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from fakes import FakeRegistry
from sklearn.linear_model import LogisticRegression

from tidegate.core.artifacts import DatasetRef, RunRef
from tidegate.core.errors import Permanent, TidegateError, UsageError
from tidegate.registry import Registry, RunSource, TrainedModel, sqlite_versions
from tidegate.registry.mlflow_registry import MlflowRegistry, prepare

SOURCE = RunSource(data=DatasetRef("data/train.csv", "0" * 32), git_commit="c0ffee")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once."""
    folder = tmp_path_factory.mktemp("mlflow")
    prepare(f"sqlite:///{folder}/mlflow.db", "demand")
    return folder


@pytest.fixture(params=["mlflow", "mlflow without its file", "fake"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    if request.param == "fake":
        return FakeRegistry("demand", tmp_path / "fake")
    if request.param == "mlflow without its file":  # as on a server
        monkeypatch.setattr(sqlite_versions, "_read", lambda *_: None)
    shutil.copytree(request.getfixturevalue("prepared"), tmp_path / "mlflow")
    return MlflowRegistry(f"sqlite:///{tmp_path}/mlflow/mlflow.db", "demand")


def logged(registry: Registry, folder: Path, metric: float = 0.75) -> str:
    """A finished run with one model."""
    inputs = pd.DataFrame({"price": [0.0, 1.0, 2.0, 3.0]})
    estimator = LogisticRegression().fit(inputs, [0, 0, 1, 1])
    with registry.running(SOURCE) as run_id:
        registry.log_model(run_id, TrainedModel(estimator=estimator, inputs=inputs, requirements=("numpy",)), folder)
    registry.log_results(run_id, {"roc_auc": metric})
    return run_id


def test_a_run_becomes_one_version_however_often_it_is_registered(registry: Registry, tmp_path: Path) -> None:
    """With everything that is known of it; the folder of the model is where it was asked for."""
    run_id = logged(registry, tmp_path / "model")
    first = registry.register(RunRef(run_id))
    assert registry.register(RunRef(run_id)) == first
    assert (first.name, first.version, first.run_id) == ("demand", 1, run_id)
    assert (first.git_commit, first.data_md5, first.metrics) == ("c0ffee", "0" * 32, {"roc_auc": 0.75})
    assert registry.list() == (first,)
    assert (tmp_path / "model" / "MLmodel").exists()


def test_a_second_run_is_a_second_version_and_comes_first(registry: Registry, tmp_path: Path) -> None:
    """Numbers count up, the newest is listed first."""
    for number in (1, 2):
        registry.register(RunRef(logged(registry, tmp_path / f"model{number}")))
    assert [one.version for one in registry.list()] == [2, 1]
    assert registry.get(1).version == registry.get("1").version == 1


def test_aliases_move_stay_single_and_go(registry: Registry, tmp_path: Path) -> None:
    """One alias is on one version at a time; removing one that is not there is fine."""
    for number in (1, 2):
        registry.register(RunRef(logged(registry, tmp_path / f"model{number}")))
    registry.set_alias("champion", 1)
    registry.set_alias("champion", 2)
    registry.set_alias("challenger", 2)
    assert registry.get("champion").version == 2
    assert [one.aliases for one in registry.list()] == [("challenger", "champion"), ()]
    for _ in range(2):
        registry.delete_alias("champion")
    with pytest.raises(UsageError):
        registry.get("champion")


@pytest.mark.parametrize("reference", [7, "7", "champion"])
def test_what_is_not_there_is_a_usage_error(registry: Registry, reference: int | str) -> None:
    """By number or alias, and no alias can be put on it."""
    with pytest.raises(UsageError, match="demand has no version"):
        registry.get(reference)
    with pytest.raises(UsageError):
        registry.set_alias("champion", 7)
    assert registry.list() == ()


def test_a_failed_block_is_passed_on_and_makes_no_version(registry: Registry) -> None:
    """The training's own error reaches the caller; a run without a model cannot be registered."""
    with pytest.raises(ZeroDivisionError), registry.running(SOURCE):
        raise ZeroDivisionError
    assert registry.list() == ()
    with pytest.raises(TidegateError):
        registry.register(RunRef("0" * 32))


def test_a_run_is_found_if_it_exists(registry: Registry, tmp_path: Path) -> None:
    """DVC's run cache may give back the id of one that MLflow has lost."""
    run_id = logged(registry, tmp_path / "model")
    assert registry.find_run(run_id) == run_id
    assert registry.find_run("0" * 32) is None


def test_a_file_of_the_results_is_read_back_as_it_was(registry: Registry, tmp_path: Path) -> None:
    """And None stands for a file or a run that is not there."""
    run_id = logged(registry, tmp_path / "model")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "keys.bin").write_bytes(bytes(range(256)))
    assert registry.result(run_id, "keys.bin") is None
    registry.log_results(run_id, {}, tmp_path / "results")
    assert registry.result(run_id, "keys.bin") == bytes(range(256))
    assert registry.result(run_id, "other.bin") is None
    assert registry.result("0" * 32, "keys.bin") is registry.result("", "keys.bin") is None


def test_what_is_fetched_is_what_was_registered(registry: Registry, tmp_path: Path) -> None:
    """The same content, as often as one likes; a changed original is refused for good."""
    run_id = logged(registry, tmp_path / "model")
    version = registry.register(RunRef(run_id))
    for _ in range(2):
        folder = registry.fetch(version, tmp_path / "cache")
        assert (folder / "MLmodel").read_bytes() == (tmp_path / "model" / "MLmodel").read_bytes()
    for original in (tmp_path / "mlflow", tmp_path / "fake"):
        for file in original.rglob("MLmodel"):
            file.write_text(file.read_text() + "\nevil: true\n")
    with pytest.raises(Permanent, match="not the one that was registered"):
        registry.fetch(version, tmp_path / "other cache")
