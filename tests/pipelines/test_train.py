"""`tidegate train`, told on a real repository: what a run holds, what runs again, and what a mistake says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.errors import Conflict, ContractFailed, Permanent, TidegateError
from tidegate.core.progress import Silent
from tidegate.core.project import Project, open_project
from tidegate.pipelines import dvc_repo
from tidegate.pipelines.runners import local
from tidegate.pipelines.steps import train as train_step
from tidegate.registry.mlflow_registry import open_registry

Rewrite = Callable[..., Project]


def _train(project: Project, **params: str) -> local.TrainResult:
    return local.train(project, params, Silent())


def test_a_run_holds_everything_that_made_the_model(project: Project) -> None:
    """Signature, pinned requirements, params, metrics, dataset with md5, commit and plots are in one MLflow run."""
    run_id = train_step.RunFile.read(project.out_dir).run_id
    client = open_registry(project).client
    run = client.get_run(run_id)
    model = (project.out_dir / "model" / "MLmodel").read_text()
    requirements = (project.out_dir / "model" / "requirements.txt").read_text()
    head = subprocess.run(["git", "-C", str(project.root), "rev-parse", "HEAD"], capture_output=True, check=True)

    assert "signature:" in model
    assert "scikit-learn==" in requirements
    assert "skops==" in requirements
    assert run.data.params == {"C": "1.0", "note": "plain"}
    assert run.data.metrics["roc_auc"] > 0.7
    assert run.data.tags["mlflow.source.git.commit"] == head.stdout.decode().strip()
    (dataset,) = run.inputs.dataset_inputs
    recorded = (project.root / "data" / "train.csv.dvc").read_text()
    assert {tag.key: tag.value for tag in dataset.tags}["dvc.md5"] in recorded
    plots = {file.path for file in client.list_artifacts(run_id, "evaluation/plots")}
    assert plots == {"evaluation/plots/confusion_matrix.png", "evaluation/plots/calibration.png"}


def test_the_data_is_read_once_until_it_or_what_divides_it_changes(project: Project, rewrite: Rewrite) -> None:
    """Steps share one reading; another split, or other bytes under the same name, are read again or refused."""
    first = train_step.prepare_data(project)
    assert train_step.prepare_data(open_project(project.root, "local")) is first
    smaller = rewrite(project, "tidegate.yaml", "{by: random}", "{by: random, holdout: 0.1}")
    second = train_step.prepare_data(smaller)
    assert len(second.split.holdout) < len(first.split.holdout)
    data = project.root / "data" / "train.csv"
    data.chmod(0o644)
    data.write_text(data.read_text().replace("oslo", "rome"))
    with pytest.raises(Permanent, match="does not have the content that DVC recorded"):
        train_step.prepare_data(smaller)


def test_an_uncommitted_change_is_kept_as_a_patch(project: Project, rewrite: Rewrite) -> None:
    """A dirty tree is tagged, and the difference to the commit is an artifact of the run; secrets are not in it."""
    changed = rewrite(project, "train.py", 'params["C"]', 'params["C"] * 2')
    changed = rewrite(
        changed, "tidegate.yaml", "gate:", f"serve: {{auth: {{api_keys: 'file:{project.root}/k'}}}}\ngate:"
    )
    for name in ("k", ".env"):
        (project.root / name).write_text("hunter2")
    result = _train(changed)
    client = open_registry(changed).client
    assert client.get_run(result.run_id).data.tags["tidegate.dirty"] == "true"
    patch = Path(client.download_artifacts(result.run_id, "git/dirty.patch"))
    assert 'params["C"] * 2' in patch.read_text()
    assert "hunter2" not in patch.read_text()


def test_a_version_of_committed_files_is_clean(fresh_project: Project) -> None:
    """The contract's stage has written dvc.lock before the run begins; nobody changed anything."""
    result = _train(fresh_project)
    assert (fresh_project.root / "dvc.lock").is_file()
    client = open_registry(fresh_project).client
    assert client.get_run(result.run_id).data.tags["tidegate.dirty"] == "false"


def test_nothing_changed_means_nothing_runs_and_nothing_heavy_is_imported(project: Project) -> None:
    """A second train leaves all stages alone and pays for no pandas, MLflow, scikit-learn or Great Expectations."""
    script = (
        "import sys, json\n"
        "from pathlib import Path\n"
        "from tidegate.core.project import open_project\n"
        "from tidegate.core.progress import Silent\n"
        "from tidegate.pipelines.runners import local\n"
        f"result = local.train(open_project(Path({str(project.root)!r})), {{}}, Silent())\n"
        "heavy = {'pandas', 'mlflow', 'sklearn', 'great_expectations', 'matplotlib'} & set(sys.modules)\n"
        "print(json.dumps([result.changed, [one.how for one in result.stages], sorted(heavy)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [False, ["unchanged"] * 3, []]


def test_a_param_is_written_to_the_file_and_going_back_gives_back_the_old_run(project: Project) -> None:
    """`-p C=2.0` edits tidegate.yaml and trains; undoing it restores outputs and run from the run-cache."""
    before = train_step.RunFile.read(project.out_dir).run_id
    changed = _train(project, C="2.0")
    assert [one.how for one in changed.stages] == ["unchanged", "ran", "ran"]
    assert "params: {C: 2.0, note: plain}  # inverse strength" in (project.root / "tidegate.yaml").read_text()
    back = _train(open_project(project.root), C="1.0")
    assert [one.how for one in back.stages] == ["unchanged", "restored", "restored"]
    assert back.run_id == before != changed.run_id


def test_another_contract_is_checked_at_the_next_train(project: Project, rewrite: Rewrite) -> None:
    """The data breaks it: nothing is trained, and going back to the old one finds everything as it was."""
    (project.root / "strict.yaml").write_text(
        "expectations:\n- {type: expect_column_values_to_be_between, column: price, min_value: 0, max_value: 1}\n"
    )
    strict = rewrite(project, "tidegate.yaml", "train:", "contract: strict.yaml\ntrain:")
    with pytest.raises(ContractFailed):
        _train(strict)
    with pytest.raises(ContractFailed):
        _train(strict)
    _train(rewrite(strict, "tidegate.yaml", "contract: strict.yaml\n", ""))


def test_data_edited_by_hand_is_no_version_until_it_keeps_the_contract(project: Project, cli: Any) -> None:
    """The pointer still names the good file, so `data pull --force` brings that back."""
    file, pointer = project.root / "data" / "train.csv", project.root / "data" / "train.csv.dvc"
    good, recorded = file.read_bytes(), pointer.read_bytes()
    lines = good.splitlines(keepends=True)
    file.unlink()
    file.write_bytes(b"".join([lines[0], lines[1].rpartition(b",")[0] + b",\n", *lines[2:]]))
    for _ in range(2):
        assert cli("train", "--json", cwd=project.root).exit_code == 3
        assert pointer.read_bytes() == recorded
    assert cli("data", "pull", "--force", cwd=project.root).exit_code == 0
    assert file.read_bytes() == good
    assert cli("train", "--json", cwd=project.root).json["changed"] is False


def test_a_contracts_warnings_are_said_by_every_train(project: Project, cli: Any) -> None:
    """When it is checked, and later too: the data breaks the same promise still."""
    with (project.root / "contract.yaml").open("a") as file:
        file.write("- {type: expect_column_values_to_be_between, column: price, max_value: 1, severity: warning}\n")
    for how in ("ran", "unchanged"):
        result = cli("train", "--json", cwd=project.root)
        assert {one["name"]: one["how"] for one in result.json["stages"]}["contract"] == how
        assert result.stderr.count("contract warning: price") == 1


def test_a_broken_contract_leaves_no_output_behind(project: Project, rewrite: Rewrite) -> None:
    """`out/contract.json` is there only for data that keeps the promises; the old data can be pulled at once."""
    broken = rewrite(project, "contract.yaml", "column: class", "column: klass")
    with pytest.raises(ContractFailed):
        _train(broken)
    assert not (project.out_dir / "contract.json").exists()
    assert dvc_repo.pull_data(project)[0].path == "data/train.csv"


def test_other_data_is_trained_on_and_followed_from_then_on(project: Project, rewrite: Rewrite) -> None:
    """After data.path changed, and again when the new file is replaced."""
    lines = (project.root / "data" / "train.csv").read_text().splitlines(keepends=True)
    new = project.root / "data" / "new.csv"
    for count in (800, 700):
        new.unlink(missing_ok=True)
        new.write_text("".join(lines[: count + 1]))
        dvc_repo.add(project.root, new)
        if "new.csv" not in (project.root / "tidegate.yaml").read_text():
            project = rewrite(project, "tidegate.yaml", "data/train.csv", "data/new.csv")
        result = _train(project)
        assert {one.how for one in result.stages} == {"ran"}
        assert (result.data.path, result.data.rows) == ("data/new.csv", count)


def test_an_unknown_param_is_refused_with_a_suggestion(project: Project, cli: Any) -> None:
    """A typo after -p is a usage error that names the near miss, and the file stays as it was."""
    before = (project.root / "tidegate.yaml").read_bytes()
    result = cli("train", "-p", "nte=other", cwd=project.root)
    assert result.exit_code == 2
    assert "note" in result.stderr
    assert (project.root / "tidegate.yaml").read_bytes() == before


def test_a_deleted_run_is_logged_again_and_the_outputs_stay_as_they_are(project: Project, cli: Any) -> None:
    """MLflow lost the run; train finds out, logs a copy with the same metrics, and the next train uses the copy."""
    registry = open_registry(project)
    lost = train_step.RunFile.read(project.out_dir).run_id
    text = (project.out_dir / "run.json").read_bytes()
    registry.client.delete_run(lost)
    result = _train(project)
    assert result.run_id != lost
    assert not result.changed
    assert (project.out_dir / "run.json").read_bytes() == text
    run = registry.client.get_run(result.run_id)
    assert run.data.metrics["roc_auc"] == result.metrics["roc_auc"]
    assert cli("train", "--json", cwd=project.root).json["run_id"] == result.run_id


def test_the_command_prints_one_document_with_what_it_did(project: Project, cli: Any) -> None:
    """--json has the agreed fields; without it a table of metrics is shown."""
    document = cli("train", "--json", cwd=project.root).json
    assert document["kind"] == "train"
    assert document["changed"] is False
    assert document["data"]["path"] == "data/train.csv"
    assert set(document) >= {"run_id", "metrics", "seconds"}
    assert "version" not in document
    assert "roc_auc *" in cli("train", cwd=project.root).stdout


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no such column')", "train.py:2: ValueError: no such column"),
        ("pass", "train.py:train returned nothing"),
        ("return 'a model'", "returned a str, which cannot predict"),
        ("from sklearn.dummy import DummyClassifier; return DummyClassifier", "returned the class DummyClassifier"),
        ("from sklearn.linear_model import LogisticRegression; return LogisticRegression()", "that is not fitted"),
        ("return params['CC']", "train.params has 'C', but train.py:train asks for 'CC'"),
        ("params.get('notes'); return 1", "train.params has 'note', but train.py:train asks for 'notes'"),
        ("import a_module_that_is_not_there", "train.py:2: ModuleNotFoundError"),
    ],
)
def test_a_train_function_that_gives_no_model_is_one_clear_error(fresh_project: Project, body: str, said: str) -> None:
    """What went wrong is named with the user's own file and line, and no run is left open."""
    (fresh_project.root / "train.py").write_text(f"def train(X, y, params):\n    {body}\n")
    with pytest.raises(TidegateError) as caught:
        train_step.run(fresh_project, Silent())
    assert said in caught.value.message
    registry = open_registry(fresh_project)
    (run,) = registry.client.search_runs([registry.experiment()])
    assert run.info.status == "FAILED"
    assert "train" not in sys.modules


def test_a_missing_function_is_refused_with_a_suggestion(fresh_project: Project) -> None:
    """An entrypoint that is not in the file names what is."""
    (fresh_project.root / "train.py").write_text("def trains(X, y, params):\n    pass\n")
    with pytest.raises(TidegateError, match="does not define") as caught:
        train_step.run(fresh_project, Silent())
    assert "trains" in caught.value.hint


def test_a_class_of_the_users_own_file_travels_with_the_model(fresh_project: Project) -> None:
    """A transformer defined in train.py is saved with skops and opened again from the folder's own code."""
    (fresh_project.root / "train.py").write_text(
        "from sklearn.base import BaseEstimator, TransformerMixin\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.pipeline import make_pipeline\n\n\n"
        "class Numbers(TransformerMixin, BaseEstimator):\n"
        "    def fit(self, X, y=None):\n        self.seen_ = len(X)\n        return self\n\n"
        "    def transform(self, X):\n        return X[['price', 'volume']]\n\n\n"
        "def train(X, y, params):\n"
        "    return make_pipeline(Numbers(), LogisticRegression(C=params['C'])).fit(X, y)\n"
    )
    result = _train(fresh_project)
    assert result.metrics["roc_auc"] > 0.7
    assert (fresh_project.out_dir / "model" / "code" / "train.py").is_file()
    assert "train" not in sys.modules


def test_what_only_pickle_can_save_is_refused_unless_it_is_allowed(fresh_project: Project, rewrite: Rewrite) -> None:
    """A lambda inside the model is no skops file; `serve.allow_pickle` is the way, and it is named."""
    (fresh_project.root / "train.py").write_text(
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.pipeline import make_pipeline\n"
        "from sklearn.preprocessing import FunctionTransformer\n\n\n"
        "def train(X, y, params):\n"
        "    pick = FunctionTransformer(lambda frame: frame[['price']])\n"
        "    return make_pipeline(pick, LogisticRegression()).fit(X, y)\n"
    )
    with pytest.raises(TidegateError, match="skops cannot save this Pipeline") as caught:
        train_step.run(fresh_project, Silent())
    assert "allow_pickle" in caught.value.hint
    allowed = rewrite(fresh_project, "tidegate.yaml", "gate:", "serve: {allow_pickle: true}\ngate:")
    assert _train(allowed).metrics["roc_auc"] > 0.7


def test_hooks_make_the_inputs_of_training_and_evaluation(fresh_project: Project, rewrite: Rewrite) -> None:
    """`prepare` of serve.code runs before fit and before prediction, and travels with the model."""
    (fresh_project.root / "features.py").write_text(
        "def prepare(columns):\n    return {'double': columns['price'] * 2, 'city': columns['city']}\n"
    )
    (fresh_project.root / "train.py").write_text(
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.pipeline import make_pipeline\n\n\n"
        "def train(X, y, params):\n"
        "    assert list(X) == ['double', 'city']\n"
        "    columns = make_column_transformer(('passthrough', ['double']))\n"
        "    return make_pipeline(columns, LogisticRegression()).fit(X, y)\n"
    )
    result = _train(rewrite(fresh_project, "tidegate.yaml", "gate:", "serve: {code: features.py}\ngate:"))
    assert result.metrics["roc_auc"] > 0.7
    assert (fresh_project.out_dir / "model" / "code" / "features.py").is_file()


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        ("def prepare(columns):\n    raise RuntimeError('boom')\n", "features.py:2: RuntimeError: boom"),
        (
            "import numpy as np\n\n\ndef prepare(columns):\n    return np.stack([])\n",
            "features.py:5: ValueError: need at least one array to stack",
        ),
        ("def prepare():\n    return {}\n", "running prepare of features.py failed: TypeError: prepare() takes 0"),
    ],
)
def test_what_prepare_raises_is_told_by_the_users_own_line(
    fresh_project: Project, rewrite: Rewrite, cli: Any, prepare: str, said: str
) -> None:
    """As for the train function: it is no error of tidegate's to report, and nobody reads a traceback to find it."""
    (fresh_project.root / "features.py").write_text(prepare)
    changed = rewrite(fresh_project, "tidegate.yaml", "gate:", "serve: {code: features.py}\ngate:")
    failed = cli("train", "--json", cwd=changed.root)
    assert failed.exit_code == 1
    assert failed.json["message"].startswith(said)
    assert failed.json["hint"].startswith("It was raised while running prepare of features.py")
    assert "Mend prepare and type the same command again." in failed.json["hint"]


SCRIPT = """
import json, os
import mlflow, numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression

frame = pd.read_csv(os.environ["TIDEGATE_DATA"])
model = LogisticRegression(C=json.loads(os.environ["TIDEGATE_PARAMS"])["C"])
model.fit(frame[["price", "volume"]].astype(float), frame["class"])
with mlflow.start_run():
    for name in MODELS:
        mlflow.sklearn.log_model(model, name=name, input_example=frame[["price", "volume"]].head(2).astype(float),
                                 pip_requirements=["scikit-learn"], serialization_format="skops")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("models", "said"), [(["model"], ""), ([], "logged no model"), (["a", "b"], "2 models")])
def test_a_script_of_ones_own_logs_exactly_one_model(
    fresh_project: Project, rewrite: Rewrite, models: list[str], said: str
) -> None:
    """`train.command` finds its run in the environment; none or several models are an error."""
    script = f"MODELS = {models!r}\n{SCRIPT}" if models else "print('nothing')"
    (fresh_project.root / "script.py").write_text(script)
    command = f"command: {sys.executable} script.py\n  params"
    project = rewrite(fresh_project, "tidegate.yaml", "params", command)
    project = rewrite(project, "tidegate.yaml", "target: class", "drop: [city], target: class")
    if said:
        with pytest.raises(TidegateError, match=said):
            train_step.run(project, Silent())
    else:
        result = _train(project)
        assert result.metrics["roc_auc"] > 0.7
        assert open_registry(project).client.get_run(result.run_id).data.params["C"] == "1.0"


@pytest.mark.slow
def test_a_dvc_stage_of_ones_own_trains_the_model(fresh_project: Project, rewrite: Rewrite) -> None:
    """`train.stage` runs an existing stage and takes over the one model that its script logged."""
    (fresh_project.root / "script.py").write_text(f"MODELS = ['model']\n{SCRIPT}open('done.txt', 'w').write('x')\n")
    dvc = fresh_project.root / "dvc.yaml"
    text = dvc.read_text().replace("  train:\n", "  collect:\n").replace("out/contract.json, train.py]", "done.txt]")
    mine = f"stages:\n  train:\n    cmd: {sys.executable} script.py\n    deps: [data/train.csv]\n    outs: [done.txt]\n"
    dvc.write_text(text.replace("stages:\n", mine))
    project = rewrite(fresh_project, "tidegate.yaml", "params", "stage: train\n  params")
    result = _train(rewrite(project, "tidegate.yaml", "target: class", "drop: [city], target: class"))
    assert result.metrics["roc_auc"] > 0.7
    assert {one.name for one in result.stages} == {"contract", "train", "collect", "evaluate"}


@pytest.mark.slow
def test_a_stage_is_given_no_model_but_its_own(fresh_project: Project, rewrite: Rewrite) -> None:
    """A colleague's newer run in the same experiment is left alone, also when the stage logs nothing at all."""
    (fresh_project.root / "script.py").write_text(f"MODELS = ['model']\n{SCRIPT}")
    dvc = fresh_project.root / "dvc.yaml"
    text = dvc.read_text().replace("  train:\n", "  collect:\n").replace("out/contract.json, train.py]", "script.py]")
    mine = f"stages:\n  train:\n    cmd: {sys.executable} script.py\n    deps: [data/train.csv, script.py]\n"
    dvc.write_text(text.replace("stages:\n", mine))
    project = rewrite(fresh_project, "tidegate.yaml", "params", "stage: train\n  params")
    project = rewrite(project, "tidegate.yaml", "target: class", "drop: [city], target: class")
    first = _train(project).run_id
    registry = open_registry(project)
    assert registry.client.get_run(first).data.tags["tidegate.stage"]

    place = {
        "MLFLOW_TRACKING_URI": project.mlflow_uri,
        "MLFLOW_EXPERIMENT_NAME": "demand",
        "TIDEGATE_PARAMS": '{"C": 9}',
    }
    theirs = {**os.environ, **place, "TIDEGATE_DATA": str(project.root / "data" / "train.csv")}
    subprocess.run([sys.executable, "script.py"], cwd=project.root, env=theirs, check=True)
    (project.root / "train.py").write_text("# a dep of nothing\n")
    changed = rewrite(project, "tidegate.yaml", "C: 1.0", "C: 2.0")
    assert _train(changed).run_id == first  # ours ran again, the stage did not

    (project.root / "script.py").write_text("print('nothing')\n")
    with pytest.raises(TidegateError, match=r"The stage train, as dvc\.lock records it, logged no model") as caught:
        _train(changed)
    assert "TIDEGATE_STAGE" in caught.value.hint


def test_a_corrupt_database_is_reported_at_once(project: Project, cli: Any) -> None:
    """A damaged MLflow database is found by sqlite within seconds, and the message names the file."""
    (project.state_dir / "mlflow.db").write_bytes(b"this is no database" * 100)
    started = time.monotonic()
    result = cli("train", "--json", cwd=project.root)
    assert time.monotonic() - started < 5
    assert result.exit_code == 1
    assert "mlflow.db cannot be read" in result.json["message"]


def test_data_that_is_not_what_dvc_recorded_is_refused(fresh_project: Project) -> None:
    """Bytes that differ from the recorded md5 stop training, although DVC trusts a read-only object."""
    file = fresh_project.root / "data" / "train.csv"
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content.replace(b"oslo", b"omsk"))
    with pytest.raises(Permanent, match="does not have the content that DVC recorded"):
        train_step.run(fresh_project, Silent())


@pytest.mark.slow
def test_training_that_was_killed_is_completed_by_running_it_again(fresh_project: Project, rewrite: Rewrite) -> None:
    """SIGKILL in the middle leaves an open run; the next train closes it and ends with one whole run."""
    (fresh_project.root / "train.py").write_text(
        (fresh_project.root / "train.py").read_text()
        + "\n\nimport os, pathlib, signal\n_flag = pathlib.Path(__file__).parent / 'die'\n"
        "if _flag.exists():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (fresh_project.root / "die").touch()
    command = [sys.executable, "-m", "tidegate.cli", "train", "--json"]
    killed = subprocess.run(command, cwd=fresh_project.root, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    (fresh_project.root / "die").unlink()
    result = _train(fresh_project)
    registry = open_registry(fresh_project)
    status = {run.info.run_id: run.info.status for run in registry.client.search_runs([registry.experiment()])}
    assert sorted(status.values()) == ["FINISHED", "KILLED"]
    assert status[result.run_id] == "FINISHED"


def test_a_step_alone_does_its_work_and_says_that_a_retry_is_useless(project: Project, cli: Any) -> None:
    """`tidegate step` runs one step; an error that a retry cannot mend ends with 78."""
    assert cli("step", "evaluate", "--json", cwd=project.root).json == {"kind": "step", "step": "evaluate"}
    assert cli("step", "evalute", cwd=project.root).exit_code == 78
    (project.root / "train.py").write_text("def train(X, y, params):\n    pass\n")
    failed = cli("step", "train", cwd=project.root)
    assert failed.exit_code == 78
    assert "returned nothing" in failed.stderr


def test_a_project_that_was_moved_keeps_its_runs_and_models(project: Project, tmp_path: Path) -> None:
    """Artifact paths follow the folder: nothing points to where the project was."""
    moved = tmp_path / "elsewhere"
    shutil.move(project.root, moved)
    project = open_project(moved)
    open_registry(project)
    with sqlite3.connect(project.state_dir / "mlflow.db") as connection:
        places = [row[0] for row in connection.execute("SELECT artifact_uri FROM runs")]
        places += [row[0] for row in connection.execute("SELECT artifact_location FROM logged_models")]
    assert places
    assert all(place.startswith(f"file://{moved}{os.sep}") for place in places)


SLOW = """
import time
from pathlib import Path

_train = train


def train(X, y, params):
    Path({marker!r}).touch()
    while Path({slow!r}).exists():
        time.sleep(0.1)
    return _train(X, y, params)
"""


def _training(root: Path, marker: Path, *options: str) -> subprocess.Popen[str]:
    """`tidegate train` in a process of its own, once its train function has begun."""
    line = [sys.executable, "-m", "tidegate.cli", "-C", str(root), "train", *options]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_a_second_train_is_refused_before_it_writes_its_params(
    fresh_project: Project, tmp_path: Path, cli: Any
) -> None:
    """The file says what the first one is training; what it records is that."""
    root, marker, slow = fresh_project.root, tmp_path / "marker", tmp_path / "slow"
    slow.touch()
    with (root / "train.py").open("a") as file:
        file.write(SLOW.format(marker=str(marker), slow=str(slow)))
    process = _training(root, marker, "-p", "C=0.5")
    before = (root / "tidegate.yaml").read_bytes()
    refused = cli("train", "-p", "C=2.0", cwd=root)
    assert refused.exit_code == 1
    assert "Another `tidegate train` or `ship` is training this project; nothing was changed." in refused.stderr
    assert (root / "tidegate.yaml").read_bytes() == before
    slow.unlink()
    assert process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert train_step.RunFile.read(fresh_project.out_dir).params["C"] == 0.5
    assert "C: 0.5" in (root / "dvc.lock").read_text()


@pytest.mark.slow
def test_code_edited_during_a_training_is_trained_by_the_next_one(fresh_project: Project, tmp_path: Path) -> None:
    """The result under way is of the old code, so it is not recorded as the new one's."""
    root, marker, slow = fresh_project.root, tmp_path / "marker", tmp_path / "slow"
    slow.touch()
    with (root / "train.py").open("a") as file:
        file.write(SLOW.format(marker=str(marker), slow=str(slow)))
    process = _training(root, marker)
    with (root / "train.py").open("a") as file:
        file.write("\n# another model\n")
    slow.unlink()
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "train.py changed while the stage train ran" in err
    assert {one.name: one.how for one in _train(fresh_project).stages}["train"] == "ran"


def test_a_config_edited_before_a_stage_begins_is_not_mixed_with_the_old_one(
    fresh_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC would hash the new params and the step train with those read at the start."""
    from tidegate.pipelines.steps import contract

    check, file = contract.check_contract, fresh_project.root / "tidegate.yaml"

    def edited(*given: Any) -> Any:
        file.write_text(file.read_text().replace("C: 1.0", "C: 4.0"))
        return check(*given)

    monkeypatch.setattr(contract, "check_contract", edited)
    with pytest.raises(Conflict, match=r"tidegate\.yaml changed while the stages before train ran"):
        _train(fresh_project)
    monkeypatch.undo()
    _train(open_project(fresh_project.root))
    assert train_step.RunFile.read(fresh_project.out_dir).params["C"] == 4.0


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "ship"])
def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(
    fresh_project: Project, tmp_path: Path, command: str
) -> None:
    """The contract's result stays recorded; the training begins anew."""
    root, marker, slow = fresh_project.root, tmp_path / "marker", tmp_path / "slow"
    slow.touch()
    with (root / "train.py").open("a") as file:
        file.write(SLOW.format(marker=str(marker), slow=str(slow)))
    line = [sys.executable, "-m", "tidegate.cli", "-C", str(root)]
    process = subprocess.Popen([*line, command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Interrupted in the step train, which begins anew next time. The result of contract is kept." in err
    assert f"`tidegate {command}` goes on from there" in err
    assert "Traceback" not in err
    slow.unlink()
    result = _train(fresh_project)
    assert [(one.name, one.how) for one in result.stages] == [
        ("contract", "unchanged"), ("train", "ran"), ("evaluate", "ran"),
    ]  # fmt: skip
