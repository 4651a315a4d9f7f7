"""The registry on a real sqlite MLflow: runs, versions and aliases that survive being interrupted and repeated."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from tidegate.core.artifacts import DatasetRef, RunRef
from tidegate.core.errors import Permanent, TidegateError, UsageError
from tidegate.registry import RunSource, TrainedModel, model_folder, sqlite_probe
from tidegate.registry.mlflow_registry import MlflowRegistry, prepare
from tidegate.registry.tags import STAGE_TAG

SOURCE = RunSource(data=DatasetRef("data/train.csv", "0" * 32), params={"C": 1}, git_commit="abc", diff=b"patch")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and one experiment, made once."""
    folder = tmp_path_factory.mktemp("mlflow")
    prepare(f"sqlite:///{folder}/mlflow.db", "demand")
    return folder


@pytest.fixture
def registry(prepared: Path, tmp_path: Path) -> MlflowRegistry:
    """A registry of its own."""
    shutil.copytree(prepared, tmp_path / "mlflow")
    return MlflowRegistry(f"sqlite:///{tmp_path}/mlflow/mlflow.db", "demand")


def _model() -> TrainedModel:
    inputs = pd.DataFrame({"price": [0.0, 1.0, 2.0, 3.0]})
    fitted = LogisticRegression().fit(inputs, [0, 0, 1, 1])
    return TrainedModel(estimator=fitted, inputs=inputs, requirements=("scikit-learn==1",), metadata={"task": "x"})


def _logged(registry: MlflowRegistry, folder: Path) -> str:
    with registry.running(SOURCE) as run_id:
        registry.log_model(run_id, _model(), folder / "model")
    registry.log_results(run_id, {"roc_auc": 0.75})
    return run_id


def test_registering_twice_makes_one_version(registry: MlflowRegistry, tmp_path: Path) -> None:
    """A rerun after a crash finds what the first attempt made, with everything on it."""
    run_id = _logged(registry, tmp_path)
    first = registry.register(RunRef(run_id))
    assert registry.register(RunRef(run_id)) == first
    (only,) = registry.list()
    assert (only.version, only.run_id, only.git_commit, only.data_md5) == (1, run_id, "abc", "0" * 32)
    assert only.own
    assert only.metrics == {"roc_auc": 0.75}
    assert only.status == "ready"


def test_the_run_of_a_stage_is_that_of_its_newest_execution(registry: MlflowRegistry, tmp_path: Path) -> None:
    """Other people's runs, other inputs and older executions do not count; two models of one execution are refused."""
    assert registry.run_of_stage("aa") is None
    tags = ("aa/1", "aa/2", "bb/1", None)
    runs = [_logged(registry, tmp_path / str(number)) for number in range(len(tags))]
    for run_id, tag in zip(runs, tags, strict=True):
        if tag is not None:
            registry.client.set_tag(run_id, STAGE_TAG, tag)
    assert registry.run_of_stage("aa") == runs[1]
    assert registry.run_of_stage("bb") == runs[2]
    assert registry.run_of_stage("a") is None
    registry.client.set_tag(runs[0], STAGE_TAG, "aa/2")
    with pytest.raises(TidegateError, match="logged models in 2 MLflow runs"):
        registry.run_of_stage("aa")


def test_of_two_registrations_at_once_the_first_stays(registry: MlflowRegistry, tmp_path: Path) -> None:
    """A duplicate made by a racing process is taken back, and both get the same version."""
    run_id = _logged(registry, tmp_path)
    first = registry.register(RunRef(run_id))
    late = registry.client.create_model_version("demand", first.source, run_id)
    assert registry._first_of_run(run_id, int(late.version)) == first
    assert [one.version for one in registry.list()] == [1]


KILL = """
import os, signal, sys
from tidegate.core.artifacts import RunRef
from tidegate.registry.mlflow_registry import MlflowRegistry
registry = MlflowRegistry(sys.argv[1], "demand")
real = registry.client.create_model_version
def create(*arguments, **named):
    if sys.argv[3] == "after":
        real(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
registry.client.create_model_version = create
registry.register(RunRef(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_registration_that_was_killed_is_completed(registry: MlflowRegistry, tmp_path: Path, moment: str) -> None:
    """SIGKILL around the one write leaves no version or a whole one; again, and there is exactly one."""
    run_id = _logged(registry, tmp_path)
    done = subprocess.run([sys.executable, "-c", KILL, registry.uri, run_id, moment], check=False)
    assert done.returncode == -9
    made = registry.register(RunRef(run_id))
    assert registry.list() == (made,)
    assert registry.fetch(made, tmp_path / "cache").is_dir()


def test_an_unknown_version_or_alias_names_those_there_are(registry: MlflowRegistry, tmp_path: Path) -> None:
    """A usage error, and what one could have meant."""
    registry.set_alias("champion", registry.register(RunRef(_logged(registry, tmp_path))).version)
    for reference in (7, "chmapion"):
        with pytest.raises(UsageError, match="has no version") as caught:
            registry.get(reference)
        assert caught.value.hint == "It has: 1, champion."
    with pytest.raises(UsageError):
        registry.set_alias("champion", 7)


def test_aliases_move_and_go(registry: MlflowRegistry, tmp_path: Path) -> None:
    """An alias is on one version; removing a missing one is no error."""
    made = registry.register(RunRef(_logged(registry, tmp_path)))
    registry.set_alias("champion", made.version)
    assert registry.get("champion").aliases == ("champion",)
    registry.delete_alias("champion")
    registry.delete_alias("champion")
    assert registry.get(1).aliases == ()


def test_fetch_gives_the_registered_content_and_repairs_its_own_copy(registry: MlflowRegistry, tmp_path: Path) -> None:
    """A damaged cache is fetched again; the folder opens without MLflow and predicts."""
    made = registry.register(RunRef(_logged(registry, tmp_path)))
    folder = registry.fetch(made, tmp_path / "cache")
    (folder / "model.skops").write_bytes(b"damaged")
    folder = registry.fetch(made, tmp_path / "cache")
    model = model_folder.load(folder, allow_pickle=False, own=made.own)
    assert list(model.predict(pd.DataFrame({"price": [0.0, 3.0]}))) == [0, 1]


def test_a_version_that_tidegate_did_not_make_is_used_only_once_adopted(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    """No recorded hash, no use; `adopt` records it, and adopting again changes nothing."""
    run_id = _logged(registry, tmp_path)
    (model_id,) = registry.logged_models(run_id)
    registry.client.create_registered_model("other")
    registry.client.create_model_version("other", f"models:/{model_id}", run_id)
    made = registry.adopt("other/1", tmp_path / "cache")
    assert registry.adopt("other/1", tmp_path / "cache") == made
    assert (made.name, made.version, made.own) == ("demand", 1, False)
    assert registry.fetch(made, tmp_path / "cache").is_dir()
    registry.client.delete_model_version_tag("demand", "1", "tidegate.model.sha256")
    with pytest.raises(Permanent, match="no recorded content hash"):
        registry.fetch(made, tmp_path / "cache")


def test_a_hash_that_an_adopted_version_brings_is_not_believed(registry: MlflowRegistry, tmp_path: Path) -> None:
    """Its content is hashed anew, and it does not pass for one of ours."""
    (model_id,) = registry.logged_models(run_id := _logged(registry, tmp_path))
    registry.client.create_registered_model("other")
    tags = {"tidegate.model.sha256": "f" * 64, "tidegate.run": run_id, "team": "search"}
    registry.client.create_model_version("other", f"models:/{model_id}", run_id, tags=tags)
    made = registry.adopt("other/1", tmp_path / "cache")
    assert registry.fetch(made, tmp_path / "cache").is_dir()
    assert not registry.get(made.version).own
    assert registry.client.get_model_version("demand", "1").tags["team"] == "search"


def test_a_run_without_a_model_cannot_be_registered(registry: MlflowRegistry) -> None:
    """Neither can a run that does not exist."""
    with registry.running(SOURCE) as run_id:
        pass
    with pytest.raises(TidegateError, match="logged 0 models"):
        registry.register(RunRef(run_id))
    with pytest.raises(TidegateError, match="has no run"):
        registry.register(RunRef("f" * 32))


def test_a_failed_block_marks_the_run_and_the_patch_is_kept(registry: MlflowRegistry) -> None:
    """The exception goes on; the run says FAILED and holds the patch of the dirty tree."""
    with pytest.raises(ZeroDivisionError), registry.running(SOURCE) as run_id:
        raise ZeroDivisionError
    assert registry.client.get_run(run_id).info.status == "FAILED"
    assert [file.path for file in registry.client.list_artifacts(run_id, "git")] == ["git/dirty.patch"]


def test_two_registries_in_one_process_keep_to_their_own(prepared: Path, tmp_path: Path) -> None:
    """No address leaks through MLflow's globals or the environment."""
    both = []
    for name in ("one", "two"):
        shutil.copytree(prepared, tmp_path / name)
        both.append(MlflowRegistry(f"sqlite:///{tmp_path}/{name}/mlflow.db", "demand"))
    one = _logged(both[0], tmp_path / "one")
    _logged(both[1], tmp_path / "two")
    assert both[0].find_run(one) == one
    assert both[1].find_run(one) is None
    assert sqlite_probe.find_run(both[0].uri, one) == one


# --- looking without MLflow ----------------------------------------------------------------------------------------


def test_a_database_that_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    """`prepare` will make it; every question about it is answered with no."""
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    assert not sqlite_probe.probe(uri)
    assert sqlite_probe.find_run(uri, "x") is None
    assert not sqlite_probe.has_experiment(uri, "demand")
    assert not (tmp_path / "new").exists()


def _truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _zeroed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096 * 3 : 4096 * 40] = bytes(4096 * 37)
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncated, _zeroed, lambda file: file.write_text("no database, just text" * 50)])
def test_a_damaged_database_is_named_at_once(prepared: Path, tmp_path: Path, damage: Any) -> None:
    """Cut off, overwritten or no database at all: an error with the file's name, in well under a second of work."""
    file = tmp_path / "mlflow.db"
    shutil.copy(prepared / "mlflow.db", file)
    damage(file)
    started = time.monotonic()
    with pytest.raises(TidegateError, match=r"mlflow\.db cannot be read"):
        MlflowRegistry(f"sqlite:///{file}", "demand")
    assert time.monotonic() - started < 3


def test_relocation_touches_only_what_lies_in_the_old_folder(registry: MlflowRegistry, tmp_path: Path) -> None:
    """Runs whose artifacts lie elsewhere, in a bucket for instance, keep their address."""
    run_id = _logged(registry, tmp_path)
    file = tmp_path / "mlflow" / "mlflow.db"
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE logged_models SET artifact_location = 's3://bucket/x'")
    shutil.copytree(tmp_path / "mlflow", tmp_path / "copy")
    sqlite_probe.relocate(f"sqlite:///{tmp_path}/copy/mlflow.db", "demand")
    with sqlite3.connect(tmp_path / "copy" / "mlflow.db") as connection:
        (place,) = connection.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
        (bucket,) = connection.execute("SELECT artifact_location FROM logged_models").fetchone()
    assert place.startswith(f"file://{tmp_path}/copy/mlruns/")
    assert bucket == "s3://bucket/x"
