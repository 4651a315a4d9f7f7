"""One real project with real processes, and the hands of the people who work with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from tidegate.core.progress import Silent
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment, environment_for
from tidegate.pipelines.example_request import bodies
from tidegate.registry.state import RolloutState, State
from tidegate.serving.gateway.access_log import AccessRecord, parse_record
from tidegate.serving.traffic import TrafficGenerator, TrafficPlan, TrafficReport

# A shared machine may be very slow; nothing waits this long when it is not.
PATIENCE = 90.0

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

# A release misbehaves in production only, when a test says so in a file of the release's name.
FEATURES = """
import os
import random
import time
from pathlib import Path

RELEASE = os.environ.get("TIDEGATE_RELEASE", "none")
FAULTS = Path({faults!r})


def _told(what):
    try:
        return float((FAULTS / (RELEASE + "." + what)).read_text())
    except (OSError, ValueError):
        return 0.0


def respond(predictions):
    ends = time.perf_counter() + _told("slow") * len(predictions)
    while time.perf_counter() < ends:
        sum(range(1000))
    if random.random() < _told("fail"):
        raise RuntimeError("broken on purpose")
    return [1 - one for one in predictions] if _told("flip") else predictions
"""

CONFIG = """
version: 1
model: demand
task: classification
data: {{path: data.csv, target: class, split: {{by: random}}}}
train: {{entrypoint: train.py:train, params: {{C: 1.0}}}}
gate: {{metric: roc_auc, tolerance: 0.5, latency_p99: 5s}}
serve: {{code: features.py, timeout: 2s, capture: {{flush: 1s}}}}
rollout:
  steps: {steps}
  step: {step}
  guardrails: [{{metric: error_rate, harm: {{ratio: 1.1, margin: 0.05}}, safe: {{ratio: 1.1, margin: {safe}}}}}{also}]
  goal: {goal}
  unit: {unit}
  keep_previous: {keep}
  shadow: {shadow}
monitor: {{labels: {{maturity: 3s}}}}
advanced: {{gateway_port: {port}, console_port: {console}, block: 1s}}
"""

DEFAULTS = {
    "steps": "[20, 50]",
    "step": "{min: 3s, max: 2m}",
    "safe": "0.2",
    "keep": "1h",
    "shadow": "false",
    "also": "",
    "goal": "null",
    "unit": "{}",
}


@dataclass(frozen=True)
class Done:
    """What a finished command said."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)


@dataclass
class Load:
    """Traffic on its way, from a thread of its own."""

    generator: TrafficGenerator
    thread: threading.Thread

    @property
    def report(self) -> TrafficReport:
        """What came back so far."""
        return self.generator.report

    def stop(self) -> TrafficReport:
        """End it and wait for the answers that are due."""
        self.generator.stop()
        self.thread.join(60)
        return self.report


@dataclass
class Journey:
    """A project in `root`; commands run in processes of their own."""

    root: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    # --- the project ---------------------------------------------------------------------------------------------

    @property
    def environment(self) -> Environment:
        """The environment as a new process sees it."""
        return environment_for(open_project(self.root, "local"))

    @property
    def state(self) -> State:
        """What the ledger says now."""
        return self.environment.state()

    @property
    def rollout(self) -> RolloutState:
        """The newest rollout."""
        found = self.state.rollout
        assert found is not None
        return found

    @property
    def champion(self) -> str:
        """The release that serves everybody."""
        found = self.state.champion
        assert found is not None
        return found

    def configure(self, **changes: str) -> None:
        """Write tidegate.yaml with other rollout settings."""
        self.settings = changes
        text = CONFIG.format(**{**DEFAULTS, "port": self.port, "console": self.port + 1, **changes})
        file = self.root / "tidegate.yaml"
        inverse = re.search(r"C: ([0-9.]+)", file.read_text()) if file.exists() else None
        file.write_text(text.lstrip().replace("C: 1.0", inverse[0]) if inverse else text.lstrip())

    def change_params(self) -> None:
        """What makes the next `ship` train a new version."""
        file = self.root / "tidegate.yaml"
        text = file.read_text()
        found = re.search(r"C: ([0-9.]+)", text)
        assert found is not None
        file.write_text(text.replace(found[0], f"C: {float(found[1]) + 0.25}"))

    def new_release(self) -> str:
        """Train, gate, register and package a new version in this process, which is quicker than a command."""
        from tidegate.pipelines.release import make_release

        self.change_params()
        made = make_release(self.environment, Silent())
        assert made.release is not None, made
        return made.release.id

    def other(self) -> str:
        """A release that is not the champion and was good when it was made."""
        state = self.state
        return next(release for release in state.versions if release != state.champion)

    def fault(self, release: str, *, fail: float = 0.0, slow: float = 0.0, flip: float = 0.0) -> None:
        """Make a release fail a share of its requests, take seconds for a row, or answer the other class."""
        for what, value in (("fail", fail), ("slow", slow), ("flip", flip)):
            (self.root / "faults" / f"{release}.{what}").write_text(str(value))

    def heal(self) -> None:
        """No release has a fault."""
        for file in (self.root / "faults").iterdir():
            file.unlink()

    # --- commands ------------------------------------------------------------------------------------------------

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on; ended with the test at the latest."""
        command = [sys.executable, "-m", "tidegate.cli", *arguments]
        child = subprocess.Popen(
            command,
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(child)
        return child

    def cli(self, *arguments: str, timeout: float = 240) -> Done:
        """A whole command."""
        child = self.start(*arguments)
        stdout, stderr = child.communicate(timeout=timeout)
        return Done(child.returncode, stdout, stderr)

    def must(self, *arguments: str) -> Done:
        """A command that has to work."""
        done = self.cli(*arguments)
        assert done.exit_code == 0, done
        return done

    def kill_when(self, line: str, *arguments: str) -> bool:
        """SIGKILL a command as soon as its stderr begins a line so; False if it ended before."""
        child = self.start(*arguments)
        assert child.stderr is not None
        for said in child.stderr:
            if said.startswith(line):
                child.kill()
                break
        child.communicate(timeout=PATIENCE)
        return child.returncode == -signal.SIGKILL

    # --- processes -----------------------------------------------------------------------------------------------

    def up(self) -> dict[str, Any]:
        """Start the stack in the background unless it runs."""
        done = self.cli("ps", "--json")
        if done.exit_code != 0:
            done = self.must("up", "-d", "--json")
        document: dict[str, Any] = done.json
        return document

    def ps(self) -> dict[str, dict[str, Any]]:
        """The running processes by name, asked without a process of its own."""
        from tidegate.pipelines import stack

        return {one["name"]: one for one in stack.status(self.environment)["processes"]}

    def console(self) -> dict[str, Any]:
        """The console's row of `ps`, once it answers; nobody who is served waits for it, so it comes last."""
        wait_until(lambda: self.ps().get("console", {}).get("ready"), lambda: f"no console: {self.ps()}")
        return self.ps()["console"]

    def kill(self, *names: str) -> dict[str, int]:
        """Kill -9 these, in this order, at once."""
        pids = {name: self.ps()[name]["pid"] for name in names}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        for pid in pids.values():
            wait_until(lambda pid=pid: not living(pid), "it does not die")
        return pids

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this project, however it was started."""
        return [
            one
            for one in psutil.process_iter(["cmdline"])
            if one.pid != os.getpid()
            and any(str(self.root) in part for part in one.info["cmdline"] or ())
            and living(one.pid)
        ]

    # --- users ---------------------------------------------------------------------------------------------------

    @cached_property
    def bodies(self) -> list[bytes]:
        """Requests with a row of the holdout each."""
        return list(bodies(self.environment))

    @property
    def address(self) -> str:
        """The gateway's."""
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def traffic(self, rps: float = 120, users_per_second: float = 60) -> Iterator[Load]:
        """Users who keep coming, and come back, while the block runs; the first answer is there when it begins."""
        plan = TrafficPlan(self.address, self.bodies, rps=rps, users_per_minute=users_per_second * 60)
        generator = TrafficGenerator(plan)
        thread = threading.Thread(target=lambda: asyncio.run(generator.run()), daemon=True)
        thread.start()
        load = Load(generator, thread)
        try:
            wait_until(lambda: load.report.answered > 0, "no answer comes")
            yield load
        finally:
            load.stop()

    @contextlib.contextmanager
    def rollout_running(self, release: str | None = None) -> Iterator[Load]:
        """Traffic, and a rollout that has counted users of its canary."""
        with self.traffic() as load:
            wait_until(lambda: load.report.users > 60, "no users come")
            self.must("rollout", "start", release or self.other())
            self.wait_for_canary()
            yield load

    def wait_for_canary_process(self) -> None:
        """Wait until the gateway sends users to the canary: a service with a fault from the start never would."""
        wait_until(lambda: self.ps().get("canary", {}).get("ready"), lambda: f"no canary: {self.ps()}")

    def wait_for_canary(self, users: int = 1) -> None:
        """Wait until the judge has counted users of the canary."""
        driver, rollout = self.environment.driver, self.rollout.id
        wait_until(
            lambda: driver.status(rollout)["units"]["canary"] >= users or not self.rollout.open, "no canary users"
        )
        assert self.rollout.open, self.rollout

    def ended(self, rollout: str | None = None) -> RolloutState:
        """The rollout once it is over."""
        wanted = rollout or self.rollout.id

        def find() -> RolloutState:
            return next(one for one in self.state.rollouts if one.id == wanted)

        wait_until(lambda: not find().open, lambda: f"rollout goes on: {self.environment.driver.status()}")
        return find()

    def settled(self) -> None:
        """Wait until the gateway sends everybody to a champion that answers, and nobody else is needed for it."""

        def done() -> bool:
            stable = self.ps().get("stable", {})
            return bool(stable.get("ready")) and stable["release"] == self.champion and "canary" not in self.ps()

        wait_until(done, lambda: f"does not settle: {self.ps()}")

    def switched_back(self, rollout: str) -> list[str]:
        """Users of a rollout who met the canary first and the stable arm later."""
        met: set[str] = set()
        back = []
        for one in sorted(self.log(), key=lambda record: record.at):
            if one.rollout == rollout and one.kind == "split" and one.weight and one.unit:
                if one.arm == "canary":
                    met.add(one.unit)
                elif one.unit in met:
                    back.append(one.unit)
        return back

    def log(self) -> list[AccessRecord]:
        """Every line of the gateway's log."""
        file = self.environment.run_dir / "gateway" / "access.jsonl"
        return [parse_record(line) for line in file.read_bytes().splitlines() if line.endswith(b"}")]


def create(root: Path) -> Journey:
    """A project whose first version is the champion and whose second is registered; nothing runs."""
    from tidegate.cli.main import run

    journey = Journey(root, free_port())
    root.mkdir(parents=True)
    (root / "faults").mkdir()
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    write_data(root / "data.csv")
    (root / "train.py").write_text(TRAIN.lstrip())
    (root / "features.py").write_text(textwrap.dedent(FEATURES.format(faults=str(root / "faults"))).lstrip())
    (root / ".gitignore").write_text("/faults\n/out\n__pycache__/\n")
    journey.configure()
    with contextlib.redirect_stdout(sys.stderr):
        assert run(["-C", str(root), "init", "."]) == 0
        assert run(["-C", str(root), "ship", "--json"]) == 0
    journey.new_release()
    return journey


def wait_until(done: Callable[[], object], why: str | Callable[[], str], timeout: float = PATIENCE) -> None:
    """Wait for a condition; a test says what it waits for, never how long it takes."""
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, why if isinstance(why, str) else why()
        time.sleep(0.05)


def living(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """Two neighbouring ports of 127.0.0.1 that nobody uses, below those that the kernel gives out."""
    for port in range(12000 + os.getpid() % 1000 * 4, 20000, 2):
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port
    raise AssertionError("no free port")


def aliases(journey: Journey) -> Mapping[str, int]:
    """MLflow's aliases."""
    versions = journey.environment.registry.list()
    return {alias: version.version for version in versions for alias in version.aliases}


def write_data(file: Path, rows: int = 1200) -> None:
    """Rows in which two columns decide the class, most of the time."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    price, volume = rng.normal(size=rows), rng.integers(0, 50, rows)
    city = rng.choice(["oslo", "rome", "lima"], rows)
    chance = 1 / (1 + np.exp(-(1.5 * price + 0.6 * (city == "rome"))))
    target = (rng.random(rows) < chance) * 1
    pd.DataFrame({"price": price, "volume": volume, "city": city, "class": target}).to_csv(file, index=False)
