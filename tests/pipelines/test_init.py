"""`tidegate init`: a project that ships without an edit, and nothing of the user's own touched."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tidegate.core.config import load
from tidegate.core.progress import Silent
from tidegate.core.project import Project
from tidegate.pipelines import dvc_repo, templates
from tidegate.pipelines.dataset import read_frame, training_table
from tidegate.pipelines.init import examples
from tidegate.pipelines.model_inputs import from_features
from tidegate.pipelines.steps.contract import check_contract

Cli = Callable[..., Any]
NO_SQLITE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # MLflow's tables take seconds; one test makes them


def mixed(count: int = 600, extra: int = 0) -> pd.DataFrame:
    """Text, dates, gaps, booleans, odd names, an id, an empty column, a target of words."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"x {i}": rng.normal(size=count) for i in range(extra)})
    frame["no"] = rng.choice(["yes", "no"], count)
    frame["1e3"] = rng.integers(0, 9, count)
    frame['city; "q"'] = rng.choice(["oslo", "ü", "", "o'x"], count)
    frame["street"] = rng.choice([f"s{i}" for i in range(90)], count)
    frame["when"] = pd.date_range("2023-01-01", periods=count, freq="7h").strftime("%Y-%m-%d %H:%M:%S")
    frame["born"] = pd.Series(pd.date_range("1960-01-01", periods=count).astype(str)).where(rng.random(count) > 0.1)
    frame["{{x}} ${y}"] = pd.Series(rng.normal(size=count)).where(rng.random(count) > 0.2)
    frame["order_id"] = range(count)
    frame["empty"] = None
    frame["out come"] = np.where(frame["1e3"] + rng.normal(size=count) > 4, "good", "bad")
    return frame


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A csv file outside the project."""
    path = tmp_path / "My data (1).csv"
    mixed().to_csv(path, index=False)
    return path


def start(cli: Cli, folder: Path, source: Path, *arguments: str, target: str = "out come") -> Any:
    """Run init without MLflow's tables."""
    return cli("init", folder, "--from", source, "--target", target, *arguments, "--json", env=NO_SQLITE)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but git's and DVC's own state."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not {".git", "tmp"} & set(file.relative_to(folder).parts)
    }


def test_a_folder_that_does_not_exist_becomes_a_whole_project(
    cli: Cli, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git, data in DVC, contract, code, MLflow's tables; nothing is committed."""
    root = tmp_path / "new" / "project"
    result = cli("init", root, "--from", source, "--target", "out come", "--time", "when", "--json")
    assert result.exit_code == 0, result.stderr
    document = result.json
    assert (document["kind"], document["model"], document["task"]) == ("init", "My-data-1", "classification")
    assert document["next"][1].startswith("git add -A && git commit")
    assert len((root / "tidegate.yaml").read_text().splitlines()) <= 30
    assert (root / "tidegate.yaml").read_text().startswith("# yaml-language-server: $schema=.tidegate/schema.json\n")
    assert json.loads((root / ".tidegate" / "schema.json").read_text())["title"] == "tidegate.yaml"
    config = load(root)
    assert config.data.drop == ("order_id", "empty")
    assert (config.data.split.by, config.data.split.column) == ("time", "when")
    assert (root / "data" / "My-data-1.csv").read_bytes() == source.read_bytes()
    project = Project(root, config)
    assert dvc_repo.verify_data(project).md5 == dvc_repo.file_md5(source)
    assert (root / ".tidegate" / "mlflow.db").stat().st_size > 0
    assert subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, check=False).returncode
    frame = read_frame(project.path(config.data.path))
    assert check_contract(frame, root / "contract.yaml").passed
    seen = subprocess.run(["git", "-C", str(root), "status", "--short", "-uall"], capture_output=True, check=True)
    assert b"mlflow.db" not in seen.stdout
    assert b"schema.json" in seen.stdout


def test_running_it_again_changes_nothing(cli: Cli, tmp_path: Path, source: Path) -> None:
    """Init is idempotent, and an edited file stays edited."""
    root = tmp_path / "project"
    start(cli, root, source)
    (root / "train.py").write_text("# mine\n" + (root / "train.py").read_text())
    before = tree(root)
    result = cli("init", root, "--json", env=NO_SQLITE)
    assert result.exit_code == 0, result.stderr
    assert result.json["written"] == []
    assert tree(root) == before


@pytest.mark.parametrize("lost", ["contract.yaml", "dvc.yaml", "data/My-data-1.csv.dvc", ".gitignore", ".dvc"])
def test_what_is_missing_is_made_again(cli: Cli, tmp_path: Path, source: Path, lost: str) -> None:
    """An interrupted or damaged project is completed."""
    import shutil

    root = tmp_path / "project"
    start(cli, root, source)
    before = tree(root)
    shutil.rmtree(root / lost) if (root / lost).is_dir() else (root / lost).unlink()
    assert cli("init", root, "--json", env=NO_SQLITE).exit_code == 0
    after = tree(root)
    assert set(after) == set(before)
    assert after["dvc.yaml"] == before["dvc.yaml"]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ([], (2, "--from FILE is missing")),
        (["--from", "{source}"], (2, "--target COLUMN is missing")),
        (["--from", "nothing.csv", "--target", "y"], (2, "nothing.csv is missing")),
        (["--from", "{empty}", "--target", "y"], (1, "is empty")),
        (["--from", "{source}", "--target", "outcome"], (2, "no column 'outcome'")),
        (["--from", "{source}", "--target", "empty"], (1, "has no value")),
        (["--from", "{source}", "--target", "when"], (2, "is a time")),
        (["--from", "{source}", "--target", "out come", "--time", "street"], (2, "'street' is a string column")),
        (["--example", "electricty"], (2, "no example 'electricty'")),
        (["--example", "electricity", "--from", "{source}"], (2, "exclude each other")),
    ],
)
def test_a_mistake_writes_nothing(
    cli: Cli, tmp_path: Path, source: Path, arguments: list[str], answer: tuple[int, str]
) -> None:
    """One error, its exit code, and no folder."""
    (tmp_path / "empty.csv").touch()
    words = [word.format(source=source, empty=tmp_path / "empty.csv") for word in arguments]
    result = cli("init", tmp_path / "project", *words, "--json", env=NO_SQLITE)
    assert result.exit_code == answer[0]
    assert answer[1] in result.json["message"]
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize("where", [".", "../project", "deep/../../project"])
def test_data_beside_the_folder_is_copied_into_it(
    cli: Cli, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """`..` in the path of the data or of the folder leads where it leads, and the project is whole."""
    root = tmp_path / "new" / "project"
    (root / "deep").mkdir(parents=True)
    monkeypatch.chdir(root)
    result = cli("init", where, "--from", "../../My data (1).csv", "--target", "out come", "--json", env=NO_SQLITE)
    assert result.exit_code == 0, result.stderr
    assert load(root).data.path == "data/My-data-1.csv"
    assert (root / "data" / "My-data-1.csv").read_bytes() == source.read_bytes()
    assert not result.json["next"][0].startswith("cd ")


def test_data_inside_the_folder_stays_where_it_is_however_it_is_named(
    cli: Cli, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a way that leaves the project and comes back, through a link."""
    root = tmp_path / "project"
    root.mkdir()
    source.rename(root / "rows.csv")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    result = start(cli, Path("project"), Path("link/../project/rows.csv"))
    assert result.exit_code == 0, result.stderr
    assert load(root).data.path == "rows.csv"


def test_a_name_that_no_config_can_hold_is_refused_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    """The text of tidegate.yaml is read back first."""
    inside = tmp_path / "project" / f"{'long' * 40}.csv"
    inside.parent.mkdir()
    mixed().to_csv(inside, index=False)
    before = tree(tmp_path)
    result = start(cli, inside.parent, inside)
    assert result.exit_code == 2
    assert "model" in result.json["problems"][0]
    assert tree(tmp_path) == before
    assert not (inside.parent / ".git").exists()


def test_commands_that_are_advised_can_be_typed(
    cli: Cli, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from where they are typed, and quoted."""
    monkeypatch.chdir(tmp_path)
    assert start(cli, Path("my project"), source).json["next"][0] == "cd 'my project'"
    result = start(cli, Path("my project"), Path("My data (1).csv"))
    assert "`tidegate data add '../My data (1).csv'` in it" in result.json["notes"][0]
    tracked = tmp_path / "other" / "my rows.csv"
    tracked.parent.mkdir()
    mixed().to_csv(tracked, index=False)
    subprocess.run(["git", "init", "-q", str(tracked.parent)], check=True)
    subprocess.run(["git", "-C", str(tracked.parent), "add", "-A"], check=True)
    assert "`git rm --cached 'my rows.csv'`" in start(cli, tracked.parent, tracked).json["hint"]


def test_a_mistyped_target_is_suggested(cli: Cli, tmp_path: Path, source: Path) -> None:
    """Did you mean."""
    assert start(cli, tmp_path / "p", source, target="Outcome").json["hint"] == "Did you mean 'out come'?"


def test_files_remotes_and_stages_that_are_there_are_kept(cli: Cli, git_repo: Path, source: Path) -> None:
    """A repository with its own DVC pipeline: our stages go beside it, and read what its train stage makes."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=git_repo, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "-d", "mine", "s3://b/x"], cwd=git_repo, check=True)
    outs = "[model.pkl, {m.json: {cache: false}}]"
    own = f"stages:\n  train:\n    cmd: {sys.executable} fit.py\n    deps: [fit.py]\n    outs: {outs}\n"
    (git_repo / "dvc.yaml").write_text(own)
    (git_repo / "fit.py").write_text("open('model.pkl', 'w').write('m'); open('m.json', 'w').write('{}')\n")
    (git_repo / ".gitignore").write_text("*.log")
    config_of_dvc = (git_repo / ".dvc" / "config").read_bytes()
    result = start(cli, git_repo, source)
    assert result.exit_code == 0, result.stderr
    assert (git_repo / "dvc.yaml").read_text() == own
    assert (git_repo / ".dvc" / "config").read_bytes() == config_of_dvc
    assert (git_repo / ".gitignore").read_text().startswith("*.log\n.tidegate/*\n")
    assert not (git_repo / "train.py").exists()
    assert load(git_repo).train.stage == "train"
    ours = (git_repo / "stages" / "dvc.yaml").read_text()
    assert "wdir: .." in ours
    assert "model.pkl, m.json" in ours
    made = dvc_repo.run_stages(git_repo, outputs(git_repo), Silent())
    assert [one.name for one in made] == ["train", "contract", "train", "evaluate"]
    again = subprocess.run([sys.executable, "-m", "dvc", "repro", "-P"], cwd=git_repo, capture_output=True, check=True)
    assert b"up to date" in again.stdout


def outputs(root: Path) -> dict[str, Callable[[], None]]:
    """Steps that make their outputs and nothing else."""

    def contract() -> None:
        (root / "out").mkdir(exist_ok=True)
        (root / "out" / "contract.json").write_text("{}")

    def train() -> None:
        assert (root / "model.pkl").exists()
        (root / "out" / "model").mkdir()
        (root / "out" / "model" / "MLmodel").write_text("m")
        (root / "out" / "run.json").write_text("{}")

    def evaluate() -> None:
        (root / "out" / "evaluation").mkdir()
        (root / "out" / "evaluation" / "metrics.json").write_text("{}")

    return {"contract": contract, "train": train, "evaluate": evaluate}


def test_an_own_training_script_becomes_the_command(cli: Cli, git_repo: Path, source: Path) -> None:
    """A train.py without our function is a script, and stays one."""
    (git_repo / "train.py").write_text("print('training')\n")
    assert start(cli, git_repo, source).exit_code == 0
    assert (git_repo / "train.py").read_text() == "print('training')\n"
    assert load(git_repo).train.command == "python train.py"
    assert "train.py" in (git_repo / "dvc.yaml").read_text()


def test_data_inside_the_repository_is_used_where_it_is(cli: Cli, git_repo: Path, source: Path) -> None:
    """No second copy; and a file that git owns is refused before anything is written."""
    (git_repo / "raw").mkdir()
    (git_repo / "raw" / "x.csv").write_bytes(source.read_bytes())
    subprocess.run(["git", "-C", str(git_repo), "add", "raw"], check=True)
    before = tree(git_repo)
    refused = start(cli, git_repo, git_repo / "raw" / "x.csv")
    assert refused.exit_code == 2
    assert "git rm --cached raw/x.csv" in refused.json["hint"]
    assert tree(git_repo) == before
    subprocess.run(["git", "-C", str(git_repo), "rm", "-q", "--cached", "raw/x.csv"], check=True)
    assert start(cli, git_repo, git_repo / "raw" / "x.csv").exit_code == 0
    assert load(git_repo).data.path == "raw/x.csv"
    assert not (git_repo / "data").exists()


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (np.arange(400) % 2, "classification"),
        (np.arange(400) % 3 + 1.0, "classification"),
        (np.where(np.arange(400) % 2, "yes", "no"), "classification"),
        (np.arange(400), "regression"),
        (np.linspace(0, 1, 400), "regression"),
    ],
)
def test_the_task_is_read_from_the_target(cli: Cli, tmp_path: Path, values: Any, task: str) -> None:
    """Words, booleans and few whole numbers are classes; the rest is a quantity."""
    path = tmp_path / "x.csv"
    pd.DataFrame({"a": np.random.default_rng(0).normal(size=400), "y": values}).to_csv(path, index=False)
    result = start(cli, tmp_path / "p", path, target="y")
    assert result.json["task"] == task
    kind = "Classifier" if task == "classification" else "Regressor"
    assert f"HistGradientBoosting{kind}" in (tmp_path / "p" / "train.py").read_text()


@pytest.mark.parametrize(("task", "extra"), [("classification", 0), ("regression", 0), ("classification", 300)])
def test_the_default_model_converts_to_onnx_exactly(cli: Cli, tmp_path: Path, task: str, extra: int) -> None:
    """The files as written, on mixed columns: float32 ONNX answers what scikit-learn answers, unseen words too."""
    import onnxruntime
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    path = tmp_path / "x.csv"
    frame = mixed(2000, extra).assign(amount=np.random.default_rng(1).normal(1000, 300, 2000))
    frame.to_csv(path, index=False)
    root = tmp_path / "p"
    target = "out come" if task == "classification" else "amount"
    assert start(cli, root, path, target=target).json["task"] == task
    config = load(root)
    table = training_table(read_frame(root / config.data.path), config.data, task)
    inputs = from_features(table.features, root / "features.py").frame(table.features)
    scope: dict[str, Any] = {}
    exec((root / "train.py").read_text(), scope)  # noqa: S102 - the file that init wrote
    model = scope["train"](inputs[:1500], table.target[:1500], {"max_iter": 50})
    asked = inputs[1500:].copy()
    asked.loc[asked.index[:9], "street"] = "never seen"
    text = {name for name in inputs if inputs[name].dtype == object}
    types = [(n, StringTensorType([None, 1]) if n in text else FloatTensorType([None, 1])) for n in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about skl2onnx's indices; as an error protobuf would swallow it
        options = {"zipmap": False} if task == "classification" else None
        graph = to_onnx(model, initial_types=types, options=options)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    names = [entry.name for entry in session.get_inputs()]
    feeds = {
        tensor: asked[[name]].to_numpy(dtype=object if name in text else np.float32)
        for tensor, name in zip(names, inputs, strict=True)
    }
    answer = session.run(None, feeds)[-1]
    wanted = model.predict_proba(asked) if task == "classification" else model.predict(asked).reshape(-1, 1)
    assert np.abs(answer - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_calendar_numbers_are_right_and_missing_times_are_missing(tmp_path: Path) -> None:
    """The hook that init writes for time columns, against pandas."""
    scope: dict[str, Any] = {}
    exec(templates.FEATURES, scope)  # noqa: S102 - the file that init writes
    times = pd.Series(pd.date_range("1960-02-28 23:00", periods=900, freq="1001h"))
    values = np.append(times.to_numpy().astype("datetime64[ms]"), np.datetime64("NaT"))
    made = scope["prepare"]({"t": values, "a": np.arange(901.0)})
    assert list(made) == ["t_year", "t_month", "t_weekday", "t_hour", "t_days", "a"]
    for part, wanted in {
        "year": times.dt.year,
        "month": times.dt.month,
        "weekday": times.dt.weekday,
        "hour": times.dt.hour,
        "days": (times.dt.normalize() - pd.Timestamp("2000-01-01")).dt.days,
    }.items():
        assert made[f"t_{part}"][:-1].tolist() == wanted.tolist()
        assert np.isnan(made[f"t_{part}"][-1])


def test_every_example_is_a_valid_project(cli: Cli, tmp_path: Path) -> None:
    """It can be copied, and its config loads."""
    assert "electricity" in examples()
    for name in examples():
        result = cli("init", tmp_path / name, "--example", name, "--json", env=NO_SQLITE)
        assert result.exit_code == 0, result.stderr
        assert "tidegate data add FILE" in result.json["next"]
        assert load(tmp_path / name).model


def test_the_electricity_example_takes_the_real_data(cli: Cli, tmp_path: Path, elec: Path) -> None:
    """`data add` puts it in place, and it keeps the example's contract."""
    root = tmp_path / "p"
    cli("init", root, "--example", "electricity", env=NO_SQLITE)
    assert cli("-C", root, "data", "add", elec, "--json").json["data"]["rows"] == 45_312
    checked = cli("-C", root, "data", "check", "--json")
    assert checked.exit_code == 0
    assert checked.json["passed"] is True
