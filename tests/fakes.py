"""Stand-ins that keep the promises of a port (tests/contracts holds them to it), and lines as Envoy writes them.

They are for tests of what uses a port; the parts themselves are tested for real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tidegate.core.artifacts import ModelVersion, RunRef
from tidegate.core.errors import Conflict, Permanent, TidegateError, UsageError
from tidegate.pipelines.dag import Flow, References, Work, walk
from tidegate.pipelines.runners import Running as FlowRun
from tidegate.pipelines.runners import StepState
from tidegate.registry import RunSource, TrainedModel
from tidegate.registry.state import RolloutState, RolloutWord
from tidegate.rollouts.plan import RolloutPlan
from tidegate.serving.deploy import Revision, Running


def log_line(**changes: Any) -> bytes:
    """One line of the gateway's access log as Envoy writes it; `at` in seconds since the epoch."""
    fields = {
        "at": 1_795_346_898.870512,
        "request": "id",
        "unit": "ada",
        "cluster": "stable/r-1/127.0.0.1:8500",
        "route": "split/none/0",
        "status": 200,
        "flags": "-",
        "details": "via_upstream",
        "upstream": "127.0.0.1:8500",
        "total_us": 1500,
        "stream_ms": 2,
        "upstream_us": 1200,
        "prediction": "p",
        "version": "7",
        "invalid": None,
        "method": "POST",
        "path": "/predict",
    } | changes
    return json.dumps(fields | {"at": str(round(fields["at"] * 1e6))}).encode() + b"\n"


class MemoryStore:
    """A store in a dictionary; `on_write` is told before and after each change, and may raise as a killed process."""

    def __init__(self, url: str = "fake://store") -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.on_write: Any = lambda _when: None

    @property
    def filesystem(self) -> None:
        """None: nothing else can read it."""
        return

    def location(self, path: str) -> str:
        """No real place."""
        return f"{self.url}/{path}"

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Create the file unless it is there."""
        if path in self.files:
            return False
        self.write(path, content)
        return True

    def write(self, path: str, content: bytes) -> None:
        """Replace the file."""
        self.on_write("before")
        self.files[path] = bytes(content)
        self.on_write("after")

    def read(self, path: str) -> bytes:
        """Return the content."""
        try:
            return self.files[path]
        except KeyError as error:
            raise FileNotFoundError(path) from error

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        return path in self.files

    def list(self, prefix: str) -> list[str]:
        """Every file below the folder."""
        return sorted(path for path in self.files if path.startswith(prefix.rstrip("/") + "/"))

    def delete(self, path: str) -> None:
        """Remove the file if it is there."""
        self.files.pop(path, None)


@dataclass
class FakeDeployer:
    """Revisions that run nowhere; ready at once unless `loading` names them."""

    loading: set[str] = field(default_factory=set)
    alive: dict[str, Running] = field(default_factory=dict)
    started: int = 0

    def start(self, revision: Revision) -> None:
        """Begin to run it unless it runs."""
        if revision.release in self.alive:
            return
        self.started += 1
        pid, port = 1_000_000 + self.started, 20_000 + self.started
        self.alive[revision.release] = Running(revision.release, revision.version, pid, port, ready=True)

    def find(self, release: str) -> Running | None:
        """The running revision."""
        found = self.alive.get(release)
        return found and replace(found, ready=release not in self.loading)

    def running(self) -> tuple[Running, ...]:
        """Every revision that lives."""
        return tuple(found for release in sorted(self.alive) if (found := self.find(release)) is not None)

    def stop(self, release: str) -> None:
        """End it."""
        self.alive.pop(release, None)

    def end_unrecorded(self) -> int:
        """There are none."""
        return 0

    def kill(self, release: str) -> None:
        """What kill -9 does."""
        del self.alive[release]


class FakeDriver:
    """Rollouts in a list, moved on by nobody but a person."""

    def __init__(self, champion: str | None, versions: Mapping[str, int]) -> None:
        self.champion, self.versions, self.frozen = champion, dict(versions), ""
        self.rollouts: list[RolloutState] = []

    def start(self, release: str, plan: RolloutPlan, *, by_hand: bool, replace: bool) -> RolloutState:
        """Begin a rollout."""
        if self.champion is None or release == self.champion:
            raise Conflict(f"There is no champion that {release} could be compared with.")
        if release not in self.versions:
            raise Conflict(f"Release {release} was never registered.")
        if self.frozen and not by_hand:
            raise Conflict(f"Rollouts are frozen: {self.frozen}")
        if replace and self.rollouts and self.rollouts[-1].open:
            self._end("replaced", "replaced by a newer one")
        if self.rollouts and self.rollouts[-1].open:
            raise Conflict(f"Rollout {self.rollouts[-1].id} is running.", "`--replace` ends it first.")
        at = "2026-01-01T00:00:00+00:00"
        self.rollouts.append(
            RolloutState(
                plan.rollout,
                self.champion,
                release,
                plan.to_dict(),
                plan.steps,
                at,
                step_started_at=at,
                shadowing=plan.shadow_min > 0,
            )
        )
        return self.rollouts[-1]

    def status(self, rollout: str | None = None) -> dict[str, Any]:
        """Where it stands."""
        found = next((one for one in reversed(self.rollouts) if rollout in {None, one.id}), None)
        if found is None:
            raise Conflict("There is no such rollout.", "`tidegate ship` begins one.")
        arms = {
            arm: {"version": self.versions.get(release), "release": release}
            for arm, release in (("stable", found.stable), ("canary", found.canary))
        }
        return {
            "kind": "rollout",
            "id": found.id,
            "state": found.state,
            "weight": found.weight,
            "arms": arms,
            "metrics": [],
            "srm": {"log_e": 0.0, "ok": True},
            "forecast_seconds": None,
            "units": {"stable": 0, "canary": 0},
            "decision": "continue",
            "steps": [],
            "shadow": {"running": found.open and found.shadowing} if found.plan["shadow_min"] else None,
            "reasons": list(found.reasons),
        }

    def promote(self, *, full: bool, reason: str, actor: str = "", seen: RolloutState | None = None) -> RolloutState:
        """Pass the step, or go to 100 %."""
        del actor
        running = self._open(seen)
        if not full and seen is not None and (seen.step, seen.shadowing) != (running.step, running.shadowing):
            raise Conflict(f"Rollout {running.id} went on meanwhile.")
        if not full and running.shadowing:
            self.rollouts[-1] = replace(running, shadowing=False, state="running")
            return self.rollouts[-1]
        if not full and running.step + 1 < len(running.steps):
            self.rollouts[-1] = replace(running, step=running.step + 1, state="running")
            return self.rollouts[-1]
        self.champion = running.canary
        return self._end("promoted", reason)

    def abort(self, reason: str, actor: str = "", seen: RolloutState | None = None) -> RolloutState:
        """Send every user back."""
        del actor
        self._open(seen)
        return self._end("aborted", reason)

    def _open(self, seen: RolloutState | None) -> RolloutState:
        if not self.rollouts or not self.rollouts[-1].open:
            raise Conflict(f"It is over: {self.rollouts[-1].state}." if self.rollouts else "No rollout is running.")
        running = self.rollouts[-1]
        if seen is not None and seen.id != running.id:
            raise Conflict(f"Rollout {seen.id} is over.")
        return running

    def _end(self, word: RolloutWord, reason: str) -> RolloutState:
        self.rollouts[-1] = replace(self.rollouts[-1], state=word, reasons=(reason,))
        return self.rollouts[-1]


class FakeRegistry:
    """Runs, versions and aliases in dictionaries; models are folders with one file."""

    def __init__(self, model: str, folder: Path) -> None:
        self.model, self._folder = model, folder
        self.runs: dict[str, dict[str, Any]] = {}
        self.versions: list[ModelVersion] = []
        self.aliases: dict[str, int] = {}
        self.images: dict[int, str] = {}

    @contextmanager
    def running(self, source: RunSource) -> Iterator[str]:
        """Open one run."""
        run_id = f"run{len(self.runs) + 1}"
        self.runs[run_id] = {"source": source, "status": "running", "metrics": {}}
        try:
            yield run_id
        except BaseException:
            self.runs[run_id]["status"] = "failed"
            raise
        self.runs[run_id]["status"] = "finished"

    def log_model(self, run_id: str, model: TrainedModel, folder: Path) -> str:
        """Keep the model, write its folder."""
        kept = self._folder / run_id
        kept.mkdir(parents=True)
        (kept / "MLmodel").write_text(f"{type(model.estimator).__name__} {dict(model.metadata)}")
        shutil.copytree(kept, folder)
        self.runs[run_id]["digest"] = _digest(kept)
        return _digest(kept)

    def log_results(self, run_id: str, metrics: Mapping[str, float], files: Path | None = None) -> None:
        """Add metrics and files to a run."""
        self.runs[run_id]["metrics"].update(metrics)
        if files is not None:
            self.runs[run_id]["files"] = {file.name: file.read_bytes() for file in files.iterdir() if file.is_file()}

    def result(self, run_id: str, name: str) -> bytes | None:
        """One of a run's files."""
        content: bytes | None = self.runs.get(run_id, {}).get("files", {}).get(name)
        return content

    def page(self, run_id: str) -> str | None:  # noqa: ARG002 - the port gives it
        """Nothing here has pages."""
        return None

    def find_run(self, run_id: str) -> str | None:
        """The run's id, if it is known."""
        return run_id if run_id in self.runs else None

    def register(self, run: RunRef) -> ModelVersion:
        """The version of this run."""
        for version in self.versions:
            if version.run_id == run.run_id:
                return self.get(version.version)
        if run.run_id not in self.runs:
            raise UsageError(f"There is no run {run.run_id}.", "Train first.")
        source = self.runs[run.run_id]["source"]
        made = ModelVersion(
            self.model,
            len(self.versions) + 1,
            run.run_id,
            git_commit=source.git_commit,
            data_md5=source.data.md5,
            status="ready",
            source=str(self._folder / run.run_id),
            own=True,
        )
        self.versions.append(made)
        return self.get(made.version)

    def get(self, reference: int | str) -> ModelVersion:
        """The version with this number or alias."""
        number = self.aliases.get(str(reference), reference)
        for version in self.versions:
            if str(version.version) == str(number):
                held = sorted(alias for alias, at in self.aliases.items() if at == version.version)
                return replace(version, aliases=tuple(held), metrics=dict(self.runs[version.run_id]["metrics"]))
        raise UsageError(f"Model {self.model} has no version {reference}.", "It has others.")

    def list(self) -> tuple[ModelVersion, ...]:
        """Every version, newest first."""
        return tuple(self.get(version.version) for version in reversed(self.versions))

    def set_alias(self, alias: str, version: int) -> None:
        """Point `alias` at `version`."""
        self.aliases[alias] = self.get(version).version

    def tag_image(self, version: int, digest: str) -> None:
        """Remember the image of a version."""
        self.images[version] = digest

    def delete_alias(self, alias: str) -> None:
        """Remove `alias`."""
        self.aliases.pop(alias, None)

    def fetch(self, version: ModelVersion, cache: Path) -> Path:
        """A checked copy of the version's folder."""
        source = Path(version.source)
        if _digest(source) != self.runs[version.run_id]["digest"]:
            raise Permanent(f"The model file of version {version.version} is not the one that was registered.")
        copy = cache / version.run_id
        if not copy.exists():
            shutil.copytree(source, copy)
        return copy


def _digest(folder: Path) -> str:
    import hashlib

    return hashlib.sha256((folder / "MLmodel").read_bytes()).hexdigest()


@dataclass
class FakeRunner:
    """Runs a flow at once, by the work it is given; what it did is kept under the name that its inputs make."""

    work: Mapping[str, Work]
    runs: dict[str, FlowRun] = field(default_factory=dict)
    cancelled: dict[str, str] = field(default_factory=dict)

    def start(self, flow: Flow, given: References, revision: str) -> FlowRun:
        """Begin a flow, or find it."""
        name = f"{flow.name}-{abs(hash((revision, *sorted(given.items()))))}"
        if name not in self.runs or self.runs[name].phase == "Failed":
            self.runs[name] = self._run(name, flow, given)
        return self.runs[name]

    def _run(self, name: str, flow: Flow, given: References) -> FlowRun:
        steps: list[StepState] = []

        def noted(step: str) -> Work:
            def work(taken: References) -> References:
                steps.append(StepState(step, "Failed", {}))
                made = self.work[step](taken)
                steps[-1] = StepState(step, "Succeeded", made)
                return made

            return work

        phase = "Succeeded"
        try:
            walk(flow, {one.name: noted(one.name) for one in flow.steps}, given)
        except TidegateError as error:
            phase = "Failed"
            steps[-1] = replace(steps[-1], message=error.message)
        return FlowRun(name, name, flow.name, phase, tuple(steps))

    def find(self, name: str) -> FlowRun:
        """A run."""
        if name not in self.runs:
            raise UsageError(f"There is no run {name}.")
        return self.runs[name]

    def all(self) -> list[FlowRun]:
        """Every run."""
        return list(self.runs.values())

    def follow(self, name: str, _progress: Any, _timeout: float = 0.0) -> FlowRun:
        """It has ended already."""
        return self.find(name)

    def cancel(self, name: str, reason: str) -> FlowRun:
        """Nothing to stop."""
        if self.find(name).ended:
            raise Conflict(f"{name} has ended already.")
        self.cancelled[name] = reason
        return self.runs[name]
