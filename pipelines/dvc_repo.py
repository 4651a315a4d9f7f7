"""Everything tidegate asks of DVC, in one file, because DVC is asked in-process.

A `dvc repro` process costs two seconds of imports for every question; a `Repo` in our own process answers "did
anything change" in a tenth of one. `run_stages` does for a stage what `dvc repro` does (same lock, same order, same
run-cache, same `dvc.lock`) except that the work is a Python function of ours in this process, so the stages of one
road pay for pandas, scikit-learn and MLflow once. `dvc repro` by hand afterwards finds nothing to do.

DVC believes objects of mode 0444 without hashing them, so a corrupted object is handed out by pull and checkout and
`dvc status` stays clean. `verify` hashes the bytes that are about to be used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from tidegate.core.artifacts import DatasetRef
from tidegate.core.errors import ConfigError, Conflict, Permanent, TidegateError, UsageError
from tidegate.core.optouts import opt_out
from tidegate.pipelines.dvc_config import files_of, malformed
from tidegate.pipelines.dvc_records import (
    file_md5,
    git_root,
    git_show,
    hash_matches,
    in_git,
    md5_in_lock,
    md5_in_pointer,
    relative,
)

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.core.project import Project

__all__ = [
    "DataChange", "FileState", "StageOutcome", "add", "diff", "file_md5", "hash_matches", "init", "is_repository",
    "md5_at", "pull", "pull_data", "push", "read_at", "recorded_md5", "run_stages", "status", "verify", "verify_data",
]  # fmt: skip

BYTECODE = "__pycache__"
REMOTE = Path(".tidegate") / "dvc-remote"
STEP = re.compile(r"(?:^|[/\s])tidegate(?:\s.*)?\sstep\s+(\S+)\s*$")
How = Literal["unchanged", "restored", "ran"]


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """What became of one stage: left alone, given back by the run-cache, or run."""

    name: str
    changed: bool
    how: How
    seconds: float


@dataclass(frozen=True, slots=True)
class Own:
    """The user's own training stage, whose real result is outside DVC: a run in MLflow.

    `name` as in dvc.yaml. An execution is named by what goes into it: command, deps and params. `environ` gives what a
    command finds in its environment, by the execution's name; `known` says whether the run of one can still be found.
    """

    name: str
    environ: Callable[[str], Mapping[str, str]]
    known: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class FileState:
    """A DVC-tracked path and what `dvc status` says about it (empty: as recorded)."""

    path: str
    state: str


# --- opening -------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(root: Path) -> Iterator[Any]:
    """A `Repo` of this thread, closed at the end; DVC's errors leave as ours.

    DVC reads some paths relative to the working folder (the run-cache's `dvc.yaml`, a remote's url), so that is `root`.
    """
    _quiet()
    from dvc.config import ConfigError as DvcConfigError
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from voluptuous import Invalid

    try:
        repo = Repo(str(root))
    except NotDvcRepoError as error:
        raise UsageError(f"{root} is not a DVC repository", "Run `tidegate init` there once.") from error
    except (DvcConfigError, Invalid) as error:
        raise malformed(root, files_of(root, _shared_configs()), str(error)) from error
    try:
        with chdir(root):
            yield repo
    except DvcException as error:
        raise translated(error) from error
    finally:
        repo.close()


def _shared_configs() -> list[Path]:
    """The user's own config of DVC and the machine's."""
    from dvc.config import Config

    return [Path(Config.get_dir(level)) / Config.CONFIG for level in ("global", "system")]


def _quiet() -> None:
    """Import DVC without its log lines on stdout, which belongs to `--json`, and without its wrapper around stdout."""
    if "dvc" not in sys.modules:
        opt_out()
        import colorama  # type: ignore[import-untyped]  # it ships no types; one call of it is used
        import dvc  # noqa: F401 - importing it sets log levels and calls colorama.init()

        colorama.deinit()
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Its progress bars show on a terminal up to ERROR, one of them for every look at the lock.
    logging.getLogger("dvc.progress").setLevel(logging.CRITICAL)


def translated(error: Exception) -> TidegateError:
    """Our error for DVC's: a busy lock is a conflict, anything else carries the deepest cause's words."""
    from dvc.lock import LockError

    deepest: BaseException = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(deepest))
    text = re.sub(r"\s*<?https?://\S+", "", plain).strip() or type(deepest).__name__
    chain = _chain(error)
    if any(isinstance(one, LockError) for one in chain):
        return Conflict(
            "Another process is working on this project's data or stages",
            f"Wait until it ends and run the command again. DVC says: {text.splitlines()[0]}",
        )
    if "is tracked by SCM" in text or "already tracked by SCM" in text:
        return UsageError(
            text.splitlines()[0],
            "Data belongs to DVC, not to git: `git rm --cached PATH`, commit, then run the command again.",
        )
    if "are missing from" in text:
        return ConfigError(
            f"DVC compares params of a stage that are not there: {text}",
            "Write them in that file (`tidegate config` prints what is in force), or take them out of the stage's "
            "params in dvc.yaml.",
        )
    return TidegateError(f"DVC: {text}", "`dvc status` shows what DVC sees; --traceback shows the whole error.")


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


# --- a repository --------------------------------------------------------------------------------------------------


def is_repository(root: Path) -> bool:
    """Whether `root` or a folder above it, inside the same git repository, is already DVC's."""
    for folder in (root, *root.parents):
        if (folder / ".dvc").is_dir():
            return True
        if (folder / ".git").exists():
            return False
    return False


def init(root: Path) -> list[str]:
    """Make `root` a DVC repository with a local remote; what is already there is kept.

    Returns:
        One sentence for each thing that was made.

    Raises:
        UsageError: `root` is not inside a git repository.
    """
    _quiet()
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    made: list[str] = []
    if not is_repository(root):
        try:
            Repo.init(str(root), subdir=not (root / ".git").exists()).close()
        except DvcException as error:
            raise translated(error) from error
        with _opened(root) as repo, repo.config.edit("repo") as settings:
            settings["core"].update({"analytics": False, "check_update": False, "autostage": True})
        made.append("a DVC repository (.dvc/)")
    with _opened(root) as repo:
        if not repo.config["remote"]:
            with repo.config.edit("repo", validate=False) as settings:
                settings["remote"]["local"] = {"url": str(REMOTE)}
                settings["core"]["remote"] = "local"
            made.append(f"a DVC remote on this disk ({REMOTE})")
    return made


def add(root: Path, path: Path) -> DatasetRef:
    """Record the content of `path` as a new version in DVC.

    Raises:
        UsageError: the file is missing, outside the project, or tracked by git.
    """
    target = path if path.is_absolute() else root / path
    if not target.is_file():
        raise UsageError(f"There is no file {path}", "Give the path of a csv or parquet file.")
    if not target.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"{path} is outside the project {root}", "Copy it into data/ first.")
    with _opened(root) as repo:
        stages = repo.add([str(target)])
        md5 = str(stages[0].outs[0].hash_info.value)
    return DatasetRef(path=relative(root, target), md5=md5)


def status(root: Path) -> list[FileState]:
    """Every DVC-tracked path that differs from what is recorded, stages and data alike."""
    with _opened(root) as repo:
        found: dict[str, str] = {}
        for entries in repo.status().values():
            for entry in entries if isinstance(entries, list) else []:
                if isinstance(entry, dict):
                    for changes in entry.values():
                        found.update(changes)
    return [FileState(path, state) for path, state in sorted(found.items())]


def push(root: Path) -> int:
    """Copy data, outputs and the run-cache to the remote; returns how many objects were new there."""
    from dvc.stage.cache import RunCacheNotSupported

    with _opened(root) as repo:
        with suppress(RunCacheNotSupported):  # an http remote holds objects only
            # By itself: DVC writes its records anew each time, and would count them as objects.
            repo.stage_cache.push(None)
        return int(repo.push())


def shared_remote(root: Path) -> str | None:
    """The address of the default remote as git carries it to other machines; None if there is none.

    What only this machine's config says (`dvc remote add --local`, `--global`) is not known elsewhere.
    """
    with _opened(root) as repo:
        config = repo.config.read("repo")
        name = config.get("core", {}).get("remote")
        address = config.get("remote", {}).get(name, {}).get("url") if name else None
        return str(address) if address else None


# How DVC begins the list of files that it would have to overwrite; it has no error class of its own for them.
_UNSAVED = "unsaved files"


def pull(root: Path, *, force: bool = False) -> int:
    """Fetch what this checkout records and put it in place; returns how many objects were new here.

    What our own steps made is replaced in any case: it can be made again.

    Raises:
        TidegateError: a file that DVC tracks was changed and its content is kept nowhere; `force` replaces it.
    """
    with _opened(root) as repo:
        count = int(repo.fetch(run_cache=True))
        _check_out(repo, root, force=force)
    return count


def _check_out(repo: Any, root: Path, *, force: bool) -> None:
    from dvc.exceptions import DvcException

    # Outputs of stages that never ran are nowhere; what must be there is the data, which `verify` looks for.
    put = partial(repo.checkout, allow_missing=True)
    try:
        put(force=force)
    except DvcException as error:
        head, *changed = str(error).splitlines()
        if _UNSAVED not in head or not changed:
            raise
        ours = [Path(out.fs_path) for stage in repo.index.stages if stage.cmd and _step(stage) for out in stage.outs]
        if lost := [path for path in map(Path, changed) if not any(path.is_relative_to(one) for one in ours)]:
            raise TidegateError(
                f"Changed here, and kept nowhere else: {', '.join(os.path.relpath(path, root) for path in lost)}. "
                "Nothing was replaced.",
                "`tidegate data pull --force` puts what was recorded in its place; `tidegate data add FILE` keeps it.",
            ) from error
        put(force=True)


def pull_data(project: Project, *, force: bool = False) -> tuple[DatasetRef, int]:
    """`pull`, and then the training data has to be there, whole; also returns how many objects were new here.

    Raises:
        TidegateError: neither the cache nor the remote has it.
        Permanent: what came is not what was recorded; it was removed again.
    """
    count = pull(project.root, force=force)
    path = project.config.data.path
    file = project.path(path)
    if not file.is_file() and (md5 := recorded_md5(project.root, path)):
        raise TidegateError(
            f"Neither the DVC cache nor the remote has {path} (md5 {md5})",
            "Whoever recorded it has to run `tidegate data push`; or take a file: `tidegate data add FILE`.",
        )
    try:
        return verify_data(project), count
    except Permanent:
        file.unlink()  # or the next command would take it for what DVC says it is
        raise


# --- content -------------------------------------------------------------------------------------------------------


def recorded_md5(root: Path, path: str) -> str | None:
    """The md5 that `PATH.dvc`, or the `dvc.lock` of the stage that makes it, records; None if neither does."""
    pointer = root / f"{path}.dvc"
    if pointer.is_file():
        return md5_in_pointer(pointer.read_text(encoding="utf-8"), path)
    lock = root / "dvc.lock"
    if lock.is_file() and (found := md5_in_lock(lock.read_text(encoding="utf-8"), path)):
        return found
    return _md5_in_directory(root, path)


def md5_at(root: Path, path: str, revision: str) -> str | None:
    """The md5 of `path` at a git revision, from the text DVC committed there; None if not tracked then."""
    pointer = git_show(root, revision, f"{path}.dvc")
    if pointer is not None:
        return md5_in_pointer(pointer, path)
    lock = git_show(root, revision, "dvc.lock")
    return md5_in_lock(lock, path) if lock is not None else None


def read_at(root: Path, path: str, revision: str) -> bytes:
    """The bytes of `path` at a git revision, from the cache or the remote, checked against their md5.

    Raises:
        UsageError: it was not tracked then.
        Permanent: the object is corrupted.
    """
    md5 = md5_at(root, path, revision)
    if md5 is None:
        raise UsageError(f"{path} is not tracked by DVC at {revision}", "`git log -- '*.dvc'` shows where it is.")
    from dvc.api import read

    try:
        content = read(in_git(root, path), repo=str(git_root(root)), rev=revision, mode="rb")
    except Exception as error:
        raise TidegateError(
            f"The data of {path} at {revision} is neither in the DVC cache nor in the remote", "`tidegate data pull`."
        ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise _corrupted(root, path, md5)
    return bytes(content)


@dataclass(frozen=True, slots=True)
class DataChange:
    """One data file at two revisions; None where it was not tracked."""

    path: str
    before: str | None
    after: str | None

    @property
    def changed(self) -> bool:
        """Whether the content differs."""
        return self.before != self.after


def diff(root: Path, path: str, before: str, after: str | None = None) -> DataChange:
    """`path` at two git revisions; `after` None is the working tree as recorded now."""
    now = recorded_md5(root, path) if after is None else md5_at(root, path, after)
    return DataChange(path, md5_at(root, path, before), now)


def verify(root: Path, path: str) -> DatasetRef:
    """Hash `path` and compare with what DVC recorded.

    Raises:
        UsageError: the file is missing, or DVC does not track it.
        Permanent: the bytes are not the recorded ones although DVC believes so.
    """
    file = root / path
    if not file.is_file():
        raise UsageError(f"The data file {path} is missing", "`tidegate data pull` fetches it from the DVC remote.")
    md5 = recorded_md5(root, path)
    if md5 is None:
        raise UsageError(f"{path} is not tracked by DVC", f"`tidegate data add {path}` records it.")
    if not hash_matches(file, md5):
        raise _corrupted(root, path, md5)
    return DatasetRef(path=path, md5=md5)


def verify_data(project: Project) -> DatasetRef:
    """`verify` for the project's training data."""
    return verify(project.root, project.config.data.path)


def _corrupted(root: Path, path: str, md5: str) -> Permanent:
    home = Path(os.path.relpath(_cache_dir(root), root))
    stored = home / "files" / "md5" / md5[:2] / md5[2:]
    return Permanent(
        f"{path} does not have the content that DVC recorded (md5 {md5})",
        f"A corrupted DVC object is the likely reason. Delete {stored} and {path}, then `tidegate data pull` "
        f"(if the remote's copy is damaged too, restore {path} from its source). "
        f"If you changed the file on purpose: `tidegate data add {path}`.",
    )


def _cache_dir(root: Path) -> Path:
    for folder in (root, *root.parents):
        if (folder / ".dvc").is_dir():
            return folder / ".dvc" / "cache"
    return root / ".dvc" / "cache"


def _md5_in_directory(root: Path, path: str) -> str | None:
    """The md5 of a file inside a directory that DVC tracks as a whole."""
    if not any((root / f"{parent}.dvc").is_file() for parent in Path(path).parents if str(parent) != "."):
        return None
    with _opened(root) as repo:
        inside = Path(os.path.relpath(root / path, repo.root_dir)).as_posix()
        try:
            info = repo.dvcfs.info(f"/{inside}", dvc_only=True)
        except FileNotFoundError:
            return None
    return str((info.get("dvc_info") or {}).get("md5") or "") or None


# --- stages --------------------------------------------------------------------------------------------------------


def bring_in(root: Path, source: Path) -> None:
    """Give a second working copy at `root` the data that `source` has, through one shared cache.

    Raises:
        TidegateError: the cache lacks something; the copy's files are there all the same.
    """
    with _opened(source) as repo:
        cache = repo.cache.local_cache_dir
    with _opened(root) as repo, repo.config.edit("local") as local:
        local["cache"] = {"dir": str(Path(cache).resolve())}
    with _opened(root) as repo:
        repo.checkout(force=True)


def run_stages(
    root: Path,
    functions: Mapping[str, Callable[[], None]],
    progress: Progress,
    own: Own | None = None,
    accept: Callable[[str], None] | None = None,
    *,
    fetch: bool = False,
) -> list[StageOutcome]:
    """Bring the named stages, and all they depend on, up to date, in this process.

    A stage belongs to a function when its command is `tidegate step NAME`, or else when it is called NAME. Other
    stages on the way (a user's own) run their command as `dvc repro` would, with their output on stderr.

    Args:
        root: the project; stages of other projects in the same DVC repository are left alone.
        functions: step name -> the work. It writes the stage's outputs; whatever it raises leaves unchanged.
        progress: told which stage runs.
        own: the stage of the user's that trains, brought up to date first.
        accept: asked about a data file that was changed in place (its path) before that is recorded as a new version;
            what it raises leaves the old one recorded.
        fetch: outputs that another machine made, too: those that DVC's remote has for a record of the run-cache.

    Raises:
        ConfigError: dvc.yaml is wrong, or has no stage for a name.
        Conflict: another process holds the repository's lock.
    """
    from tidegate.pipelines.refresh import recover

    if (restored := recover(root)) is not None:
        progress.note(f"a refresh of {restored} was interrupted; the data from before it is back")
    _drop_torn_lock(root, progress)
    outcomes: list[StageOutcome] = []
    with _opened(root) as repo:
        from dvc.repo import lock_repo

        with lock_repo(repo), repo.scm_context():
            bound = _bind(repo, root, functions)
            if _ignore_bytecode(repo, list(bound), progress):
                bound = _bind(repo, root, functions)
            road = _Road(bound, progress, own, _own_stage(repo, root, own.name) if own else None, accept, fetch)
            for stage in road.order(repo):
                outcome = road.bring_up_to_date(stage)
                if outcome is not None:
                    outcomes.append(outcome)
    return outcomes


def execution(root: Path, name: str) -> str:
    """The name of the execution that the user's own stage `name` records: what went into it, hashed.

    Raises:
        ConfigError: there is no such stage.
    """
    with _opened(root) as repo:
        return _execution(_own_stage(repo, root, name))


def _execution(stage: Any, *, now: bool = False) -> str:
    """The execution that the stage records, or (`now`) the one that would run on the files as they are."""
    inputs = sorted(
        (str(dep.def_path), str(dep.hash_name), (dep.get_hash() if now else dep.hash_info).value) for dep in stage.deps
    )
    text = json.dumps([stage.cmd, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _own_stage(repo: Any, root: Path, name: str) -> Any:
    for stage in _stages_below(repo, root):
        if getattr(stage, "name", None) == name and _step(stage) is None:
            return stage
    raise ConfigError(f"dvc.yaml has no stage {name}, which train.stage names.", "`dvc stage list` shows them.")


def _stages_below(repo: Any, root: Path) -> list[Any]:
    here = root.resolve()
    return [stage for stage in repo.index.stages if stage.cmd and Path(stage.wdir).resolve().is_relative_to(here)]


def _ignore_bytecode(repo: Any, stages: Sequence[Any], progress: Progress) -> bool:
    """Have DVC overlook what Python writes beside code: a folder would seem to change while a stage imports from it."""
    file = Path(repo.root_dir, ".dvcignore")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    deps = (dep for stage in _in_order(repo, stages) if stage.cmd for dep in stage.deps)
    if BYTECODE in text.splitlines() or not any(Path(dep.fs_path).is_dir() for dep in deps):
        return False
    joint = "" if not text or text.endswith("\n") else "\n"
    file.write_text(f"{text}{joint}{BYTECODE}\n", encoding="utf-8")
    progress.note(f".dvcignore: {BYTECODE} is no input of a stage from now on.")
    repo._reset()  # noqa: SLF001 - it has read the file already
    return True


def _drop_torn_lock(root: Path, progress: Progress) -> None:
    """Remove a dvc.lock that a killed process left half-written (DVC writes it in place).

    Nothing is lost: the run-cache has what it said, so the stages are restored, not run.
    """
    lock = root / "dvc.lock"
    if not lock.is_file():
        return
    try:
        whole = isinstance(yaml.safe_load(lock.read_text(encoding="utf-8")), dict)
    except (yaml.YAMLError, UnicodeDecodeError):
        whole = False
    if not whole:
        lock.unlink()
        progress.note("dvc.lock was half-written and is made again")


def _bind(repo: Any, root: Path, functions: Mapping[str, Callable[[], None]]) -> dict[Any, Callable[[], None]]:
    """Which function is which stage's."""
    mine = _stages_below(repo, root)
    by_command = {step: stage for stage in mine if (step := _step(stage))}
    by_name = {stage.name: stage for stage in mine if getattr(stage, "name", None)}
    bound = {}
    for name, function in functions.items():
        stage = by_command.get(name) or by_name.get(name)
        if stage is None:
            raise ConfigError(
                f"dvc.yaml has no stage whose command is `tidegate step {name}`",
                "`tidegate init` writes the missing ones; it keeps the stages that are there.",
            )
        bound[stage] = function
    return bound


def _one_command(stage: Any) -> str:
    return stage.cmd if isinstance(stage.cmd, str) else str(stage.cmd[-1])


def _in_order(repo: Any, stages: Sequence[Any]) -> list[Any]:
    from dvc.repo.reproduce import get_active_graph, plan_repro

    return list(plan_repro(get_active_graph(repo.index.graph), list(stages)))


@dataclass(frozen=True)
class _Road:
    """One pass over the stages; `theirs` is the one that `own` names."""

    bound: Mapping[Any, Callable[[], None]]
    progress: Progress
    own: Own | None
    theirs: Any
    accept: Callable[[str], None] | None
    fetch: bool

    def order(self, repo: Any) -> list[Any]:
        """Every stage on the way; the user's own training is first, even where ours does not read what it writes."""
        first = _in_order(repo, [self.theirs]) if self.theirs else []
        return [*first, *(stage for stage in _in_order(repo, list(self.bound)) if stage not in first)]

    def bring_up_to_date(self, stage: Any) -> StageOutcome | None:
        """One stage as `dvc repro` treats it; None for a data file that is as recorded."""
        started = time.monotonic()
        name = getattr(stage, "name", None) or _shown(stage.outs[0])
        if not stage.changed() and not self._wanted_and_lost(stage):
            return None if not stage.cmd else StageOutcome(name, changed=False, how="unchanged", seconds=0.0)
        how: How = "ran"
        if not stage.cmd:
            _record_source(stage, self.progress, self.accept)
        elif stage.frozen:
            stage.run()
            how = "unchanged"
        else:
            _require_deps(stage)
            work = self.bound.get(stage) or partial(self._run_command, stage)
            how = _produce(stage, work, self.progress, restore=self._known(stage), fetch=self.fetch)
            _record(stage)
        stage.dump(update_pipeline=False)
        return StageOutcome(name, changed=how != "unchanged", how=how, seconds=time.monotonic() - started)

    def _known(self, stage: Any) -> bool:
        """Whether the run-cache can give back all that the stage makes on the files as they are."""
        return stage != self.theirs or self.own is None or self.own.known(_execution(stage, now=True))

    def _wanted_and_lost(self, stage: Any) -> bool:
        """Whether the stage is up to date, but our train step needs its MLflow run and there is none."""
        if stage != self.theirs or not any(_step(one) == "train" and one.changed() for one in self.bound):
            return False
        if self._known(stage):
            return False
        self.progress.note(f"The MLflow run of the stage {stage.name} is not known, so the stage runs again.")
        return True

    def _run_command(self, stage: Any) -> None:
        _run_command(stage, self.own.environ(_execution(stage)) if self.own else {})


def _step(stage: Any) -> str | None:
    """Which step of ours the stage's command runs."""
    match = STEP.search(_one_command(stage))
    return match[1] if match else None


def _record(stage: Any) -> None:
    """Keep the outputs under the inputs they were made of: those hashed before the work began.

    `Stage.save` would hash the inputs once more, and an edit made meanwhile would pass for what was run.
    """
    if changed := [_shown(one) for one in stage.deps if one.workspace_status()]:
        raise Conflict(
            f"{' and '.join(changed)} changed while the stage {stage.name} ran, so its result was not recorded.",
            "Run it again: it takes the files as they are then.",
        )
    stage.save_outs()
    stage.md5 = stage.compute_md5()
    stage.repo.stage_cache.save(stage)
    stage.commit()


def _require_deps(stage: Any) -> None:
    """Refuse a stage whose code or data is gone, before its old outputs are removed."""
    if missing := [_shown(one) for one in stage.deps if not one.exists]:
        raise UsageError(
            f"The stage {stage.name} of dvc.yaml depends on {missing[0]}, which does not exist.",
            "Bring the file back, or take it out of the stage's deps.",
        )


def _record_source(stage: Any, progress: Progress, accept: Callable[[str], None] | None) -> None:
    """A data file was changed in place: it becomes a new version, as under `dvc repro`, but not silently."""
    if missing := [_shown(out) for out in stage.outs if not out.exists]:
        raise UsageError(
            f"The data file {missing[0]} is missing", "`tidegate data pull` fetches it from the DVC remote."
        )
    for out in stage.outs:
        if accept is not None and out.changed_checksum():
            accept(_shown(out))
    before = [out.hash_info.value for out in stage.outs]
    stage.run()
    for out, old in zip(stage.outs, before, strict=True):
        if out.hash_info.value != old:
            progress.note(f"{_shown(out)} changed since it was recorded: md5 {old} -> {out.hash_info.value}")


def _shown(out: Any) -> str:
    return Path(os.path.relpath(out.fs_path)).as_posix()


def _produce(stage: Any, work: Callable[[], None], progress: Progress, *, restore: bool, fetch: bool) -> How:
    """Make the outputs: from the run-cache if these inputs were seen before (and `restore`), else by working.

    Outputs are removed first, so that what a killed process left half-written is never taken for a result. The
    repository's lock is open during the work (the script may use DVC itself); the stage's own files stay locked.
    """
    from dvc.stage.decorators import rwlocked, unlocked_repo

    @rwlocked(read=["deps"], write=["outs"])  # type: ignore[untyped-decorator]  # DVC ships no types
    def produce(locked: Any) -> How:
        locked.remove_outs(ignore_remove=False, force=False)
        if restore and _restored(locked, fetch=fetch):
            return "restored"
        locked.save_deps()
        with progress.task(f"stage {locked.name}"):
            unlocked_repo(lambda _: work())(locked)
        return "ran"

    made: How = produce(stage)
    return made


def _restored(stage: Any, *, fetch: bool) -> bool:
    from dvc.stage.cache import RunCacheNotFoundError

    try:
        stage.repo.stage_cache.restore(stage, pull=fetch)
    except RunCacheNotFoundError:
        return False
    return True


def _run_command(stage: Any, environ: Mapping[str, str]) -> None:
    """A user's own stage, in the shell and environment that DVC would give it; its output goes to stderr."""
    from dvc.stage.run import get_executable, prepare_kwargs

    settings = prepare_kwargs(stage, run_env=dict(environ))
    for command in stage.cmd if isinstance(stage.cmd, list) else stage.cmd.splitlines():
        code = subprocess.run(
            [get_executable(), "-c", command], cwd=settings["cwd"], env=settings["env"], stdout=2, check=False
        ).returncode
        if code:
            raise TidegateError(
                f"Stage {stage.name}: `{command}` ended with exit code {code}",
                "Its own output is above; nothing after it was run.",
            )
