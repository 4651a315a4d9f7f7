"""`tidegate init`: a project around the user's data that ships without an edit.

Everything is checked before the first file is written, a file that exists is never touched, and running it again
completes what was interrupted. Nothing is committed: the git history is the user's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import TidegateError, UsageError
from tidegate.core.git import is_repository

if TYPE_CHECKING:
    import pandas as pd

    from tidegate.core.config import Config
    from tidegate.core.progress import Progress
    from tidegate.pipelines.inference import Inferred

SIDE_FOLDER: Final = "stages"  # where our stages go if the user's dvc.yaml has stages of its own
_PREPARE_MLFLOW: Final = "import sys; from tidegate.registry.mlflow_registry import prepare; prepare(*sys.argv[1:])"


@dataclass
class Report:
    """What init did, each as a path or a sentence."""

    root: Path
    model: str = ""
    task: str = ""
    target: str = ""
    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)
    missing_data: bool = False

    def document(self) -> dict[str, Any]:
        """JSON of the report."""
        return {
            "kind": "init",
            "root": str(self.root),
            "model": self.model,
            "task": self.task,
            "target": self.target,
            "written": self.written,
            "kept": self.kept,
            "notes": self.notes,
            "next": self.next,
        }


@dataclass(frozen=True)
class Source:
    """A data file with what was read from it; `path` is where it is or will be, relative to the project."""

    file: Path
    path: str
    frame: pd.DataFrame
    inferred: Inferred

    @property
    def has_times(self) -> bool:
        """Whether a time is among the columns that a model sees."""
        kinds, drop = self.inferred.kinds, self.inferred.drop
        return any(kind == "datetime" and name not in drop for name, kind in kinds.items())


def init(
    directory: Path,
    source: Path | None = None,
    target: str | None = None,
    *,
    time: str | None = None,
    example: str | None = None,
    progress: Progress,
) -> Report:
    """Make `directory` a project, or complete the one that is there.

    Args:
        directory: made, with a git repository in it, if it does not exist.
        source: csv or parquet file; copied into data/ unless it lies in the project.
        target: column to predict.
        time: column by which the newest rows are held out; without it rows are held out at random.
        example: name of an example to copy first.
        progress: told what is going on.

    Raises:
        UsageError: options that do not fit together, no such file, column or example; nothing was written.
        TidegateError: the data cannot be used; nothing was written.
    """
    root = directory.resolve()  # `..` in it or in the data's path would hide which lies in which
    report = Report(root)
    exists = (root / "tidegate.yaml").is_file()
    plan = None
    if example is not None:
        _check_example(example, source, exists=exists)
    elif not exists:
        with progress.task("read the data"):
            plan = _plan(root, _examine(root, source, target, time), str(target), time)
    else:
        report.kept.append("tidegate.yaml")
        if source is not None:
            file = shlex.quote(_seen_from(root, _absolute(source)))
            report.notes.append(f"the project is there: `tidegate data add {file}` in it takes the file as its data")
    _git(root, report)
    if example is not None:
        _copy_example(root, example, report)
    if plan is not None:
        _write_project(root, plan, report)
    with progress.task("set up DVC and MLflow"):
        _complete(root, report)
    _next_steps(root, report)
    return report


# --- before anything is written -------------------------------------------------------------------------------------


def _check_example(name: str, source: Path | None, *, exists: bool) -> None:
    if source is not None:
        raise UsageError("--example and --from exclude each other", "The example's README says how to add data.")
    if exists:
        raise UsageError(
            "There is a project already", f"Copy the example elsewhere: `tidegate init DIR --example {name}`."
        )
    names = examples()
    if name not in names:
        raise UsageError(f"There is no example {name!r}", f"There is {', '.join(names)}.")


def examples() -> list[str]:
    """Names of the examples that are installed with tidegate."""
    return sorted(one.parent.name for one in _examples_folder().glob("*/tidegate.yaml"))


def _examples_folder() -> Path:
    """Where they are: `tidegate.examples` is files without an `__init__.py`, so its path is asked for, not its spec."""
    import importlib

    places = map(Path, importlib.import_module("tidegate.examples").__path__)
    return next(place for place in places if place.is_dir())


def _examine(root: Path, source: Path | None, target: str | None, time: str | None) -> Source:
    from tidegate.pipelines.dataset import read_frame
    from tidegate.pipelines.inference import infer, safe_name

    if source is None or target is None:
        missing = "--from FILE" if source is None else "--target COLUMN"
        raise UsageError(f"{missing} is missing", "tidegate init [DIR] --from FILE --target COLUMN [--time COLUMN]")
    frame = read_frame(source)
    inferred = infer(frame, target, time)
    suffix = ".parquet" if source.suffix in {".parquet", ".pq"} else ".csv"
    file = _absolute(source)
    inside = file.is_relative_to(root) and file.suffix in {".csv", ".parquet"} and root.is_dir()
    path = file.relative_to(root).as_posix() if inside else f"data/{safe_name(source)}{suffix}"
    if inside and _is_git_tracked(root, path):
        raise UsageError(
            f"{path} is tracked by git",
            f"Data belongs to DVC: `git rm --cached {shlex.quote(path)}`, commit, then init again.",
        )
    if not inside and (root / path).is_file() and (root / path).read_bytes() != file.read_bytes():
        raise UsageError(
            f"{path} exists and is another file than {source}", f"Use it: --from {shlex.quote(str(root / path))}"
        )
    return Source(file, path, frame, inferred)


def _absolute(source: Path) -> Path:
    """Where a file lies; one that is a link itself stays the link."""
    return source.parent.resolve() / source.name


def _seen_from(folder: Path, file: Path) -> str:
    """The shorter of the two ways to write the path of a file in commands that are typed in `folder`."""
    return min(os.path.relpath(file, folder), str(file), key=len)


def _is_git_tracked(root: Path, path: str) -> bool:
    command = ["git", "-C", str(root), "ls-files", "--error-unmatch", path]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Plan:
    """What a new project will be: the text of its tidegate.yaml, and the train section in it."""

    source: Source
    target: str
    train: dict[str, Any]
    config: str


def _plan(root: Path, source: Source, target: str, time: str | None) -> Plan:
    """Decide everything.

    Raises:
        TidegateError: the user's dvc.yaml cannot be read, or a name in the data cannot stand in a tidegate.yaml.
    """
    from tidegate.core.config import FILE_NAME, load
    from tidegate.pipelines import templates
    from tidegate.pipelines.inference import HOLDOUT, safe_name

    inferred, train = source.inferred, _training(root)
    values = {
        "model": safe_name(source.file),
        "task": inferred.task,
        "path": source.path,
        "target": target,
        "drop": list(inferred.drop),
        "split": {"by": "time", "column": time, "holdout": HOLDOUT} if time else {"by": "random", "holdout": HOLDOUT},
        "train": {**train, "requirements": "requirements.txt"},
        "code": "features.py" if source.has_times else None,
        "tolerance": inferred.tolerance,
    }
    text = templates.config(values)
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, FILE_NAME).write_text(text, encoding="utf-8")
        load(Path(scratch))
    return Plan(source, target, train, text)


def _training(root: Path) -> dict[str, Any]:
    """The train section: the user's own stage or script if there is one, else our train.py."""
    if "train" in _stages(root):
        return {"stage": "train"}
    script = root / "train.py"
    if script.is_file() and "def train(" not in script.read_text(encoding="utf-8", errors="replace"):
        return {"command": "python train.py"}
    return {"entrypoint": "train.py:train", "params": {"max_iter": 200, "learning_rate": 0.1}}


# --- writing --------------------------------------------------------------------------------------------------------


def _git(root: Path, report: Report) -> None:
    """The folder, and a git repository around it if there is none."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file", "Name a folder.")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{root} cannot be made: {error.strerror}", "Name another folder.") from error
    if not is_repository(root):
        subprocess.run(["git", "init", "--quiet", str(root)], check=True)
        report.written.append("a git repository (.git/)")


def _write(root: Path, path: str, text: Callable[[], str], report: Report) -> None:
    """Write a file whole, unless it exists."""
    file = root / path
    if file.exists():
        report.kept.append(path)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(text(), encoding="utf-8")
    part.replace(file)
    report.written.append(path)


def _write_project(root: Path, plan: Plan, report: Report) -> None:
    """Data, contract, code, and tidegate.yaml last: from then on the project exists."""
    from tidegate.pipelines import templates
    from tidegate.pipelines.steps.contract_draft import draft

    source, inferred = plan.source, plan.source.inferred
    report.notes += inferred.notes
    _copy_data(root, source, report)
    present = {name: kind for name, kind in inferred.kinds.items() if not source.frame[name].isna().all()}
    _write(
        root,
        "contract.yaml",
        lambda: draft(source.frame, present, target=plan.target, task=inferred.task),
        report,
    )
    if source.has_times:
        _write(root, "features.py", lambda: templates.FEATURES, report)
    _write_training(root, plan, report)
    _write(root, "requirements.txt", templates.requirements, report)
    _write(root, "tidegate.yaml", lambda: plan.config, report)


def _write_training(root: Path, plan: Plan, report: Report) -> None:
    from tidegate.pipelines import templates

    if "entrypoint" in plan.train:
        _write(root, "train.py", lambda: templates.train(plan.source.inferred.task), report)
    elif "command" in plan.train:
        report.kept.append("train.py")
        report.notes.append("training runs your train.py (train.command); it has to log one MLflow model")
    else:
        report.notes.append("training is your stage train of dvc.yaml (train.stage); it has to log one MLflow model")


def _copy_data(root: Path, source: Source, report: Report) -> None:
    place = root / source.path
    if place.exists():
        report.kept.append(source.path)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    shutil.copyfile(source.file, part)
    part.replace(place)
    report.written.append(source.path)


def _copy_example(root: Path, name: str, report: Report) -> None:
    folder = _examples_folder() / name
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if file.is_file() and "__pycache__" not in path.parts:
            _write(root, path.as_posix(), partial(file.read_text, encoding="utf-8"), report)


# --- what every project needs ----------------------------------------------------------------------------------------


def _complete(root: Path, report: Report) -> None:
    """Everything that follows from tidegate.yaml and is missing."""
    import json

    from tidegate.core.config import load, schema
    from tidegate.core.project import Project
    from tidegate.pipelines import dvc_repo, templates

    config = load(root)
    project = Project(root, config)
    report.model, report.task, report.target = config.model, config.task, config.data.target
    _lines(root, ".gitignore", templates.GITIGNORE, report)
    _write(root, ".tidegate/schema.json", lambda: json.dumps(schema(), indent=1) + "\n", report)
    preparing = _start_mlflow(project.mlflow_uri, config.model)
    try:
        _contract(root, config, report)
        report.written += dvc_repo.init(root)
        _lines(root, ".dvcignore", templates.DVCIGNORE, report)
        _write_stages(root, config, report)
        _track(root, config, report)
    finally:
        _finish_mlflow(preparing, project.mlflow_uri, report)


def _contract(root: Path, config: Config, report: Report) -> None:
    from tidegate.pipelines.dataset import kinds, read_frame
    from tidegate.pipelines.steps.contract_draft import draft

    data = root / config.data.path
    if (root / config.contract).exists() or not data.is_file():
        return
    frame = read_frame(data)
    target, task = config.data.target, config.task
    _write(root, config.contract, lambda: draft(frame, kinds(frame), target=target, task=task), report)


def _track(root: Path, config: Config, report: Report) -> None:
    from tidegate.pipelines import dvc_repo

    path = config.data.path
    recorded = dvc_repo.recorded_md5(root, path)
    ours = recorded is None or (root / f"{path}.dvc").is_file()  # or the output of a stage
    if ours and (root / path).is_file() and (recorded is None or dvc_repo.hash_matches(root / path, recorded)):
        added = dvc_repo.add(root, Path(path))  # also fills a cache that was lost
        if recorded is None:
            report.notes.append(f"{path} is version {added.md5} in DVC")
            return
    if recorded is not None:
        report.kept.append(f"{path} as DVC has it")
    else:
        report.missing_data = True
        report.notes.append(f"{path} is not there yet")


def _lines(root: Path, path: str, wanted: Iterable[str], report: Report) -> None:
    """Append what an ignore file lacks."""
    file = root / path
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    lacking = [line for line in wanted if line not in text.splitlines()]
    if not lacking:
        return
    joint = "" if not text or text.endswith("\n") else "\n"
    file.write_text(text + joint + "\n".join(lacking) + "\n", encoding="utf-8")
    report.written.append(f"{path} ({', '.join(lacking)})" if text else path)


# --- stages ---------------------------------------------------------------------------------------------------------


def _stages(root: Path) -> dict[str, Any]:
    """The stages of the dvc.yaml that is there."""
    import yaml

    file = root / "dvc.yaml"
    if not file.is_file():
        return {}
    try:
        stages = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("stages") or {}
    except (yaml.YAMLError, AttributeError) as error:
        raise TidegateError("dvc.yaml cannot be read", "`dvc status` says where its mistake is.") from error
    return dict(stages)


def _write_stages(root: Path, config: Config, report: Report) -> None:
    from tidegate.pipelines import stage_deps, templates

    present = _stages(root)
    if any("tidegate step" in str(stage.get("cmd", "")) for stage in present.values() if isinstance(stage, dict)):
        report.kept.append("dvc.yaml")
        return
    own = [item for name in [config.train.stage] if name for item in _results(present.get(name))]
    place, wdir = ("dvc.yaml", "") if not (root / "dvc.yaml").exists() else (f"{SIDE_FOLDER}/dvc.yaml", "..")
    if wdir:
        report.kept.append("dvc.yaml")
    code = stage_deps.training_code(root, config), stage_deps.measuring_code(root, config)
    params = {step: stage_deps.given_params(root, step) for step in stage_deps.PARAMS}
    text = templates.stages(config.data.path, config.contract, code, params=params, train_outs=own, wdir=wdir)
    _write(root, place, lambda: text, report)


def _results(stage: Any) -> list[str]:
    """The outputs of a stage, or what it reads if it has none: when these change, its model has changed."""
    if not isinstance(stage, dict):
        return []
    entries = [*(stage.get("outs") or []), *(stage.get("metrics") or [])] or stage.get("deps") or []
    return [entry if isinstance(entry, str) else str(next(iter(entry))) for entry in entries]


# --- MLflow ---------------------------------------------------------------------------------------------------------


def _start_mlflow(uri: str, model: str) -> subprocess.Popen[str] | None:
    """Make MLflow's tables in a process of its own: seconds of work that DVC's share does not have to wait for."""
    if not uri.startswith("sqlite:///"):
        return None
    file = Path(uri.removeprefix("sqlite:///"))
    if file.exists():
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", _PREPARE_MLFLOW, uri, model]
    # In a session of its own: a Ctrl-C is init's to answer, and half a database nobody's to mend.
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=file.parent,
        start_new_session=True,
    )


def _finish_mlflow(process: subprocess.Popen[str] | None, uri: str, report: Report) -> None:
    if process is None:
        where = "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "MLflow"
        report.kept.append(f"{where} ({uri})" if "@" not in uri else where)
        return
    said = process.communicate()[1]
    if process.returncode:
        last = said.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise TidegateError(f"MLflow's database could not be made: {last[0]}", "Is the disk full? Run init again.")
    report.written.append("an MLflow database (.tidegate/mlflow.db)")


def _next_steps(root: Path, report: Report) -> None:
    if root != Path.cwd():
        report.next.append(f"cd {shlex.quote(_seen_from(Path.cwd(), root))}")
    if report.missing_data:
        report.next.append("tidegate data add FILE")
    report.next += [
        'git add -A && git commit -m "Start with tidegate"',
        "tidegate ship   # contract, train, gate, package, deploy",
        "tidegate up     # serve it on this machine",
    ]
