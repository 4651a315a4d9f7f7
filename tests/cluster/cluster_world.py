"""A namespace of a real cluster, a judge on this machine that its controllers ask, and traffic made of counts.

Nothing here needs pods to run: what a gateway would log is posted to the judge, at the weight that the route has.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tidegate.core import kube
from tidegate.core.artifacts import Release
from tidegate.core.kube import Cluster
from tidegate.core.project import open_project
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.manifests import from_config, render
from tidegate.registry import releases
from tidegate.registry.ledger import Draft
from tidegate.registry.state import RolloutState
from tidegate.rollouts.drivers.kube import KubeDriver
from tidegate.rollouts.plan import RolloutPlan
from tidegate.rollouts.planning import make_plan

Document = dict[str, Any]
T = TypeVar("T")

ENV = "test"
MODEL = "demand"
TOKEN = "a-token-of-one-test-run"
LABELS = {"pod-security.kubernetes.io/enforce": "restricted"}
# Seconds. Simulated kubelets are quick, real ones pull images, and both may be on a busy machine.
PATIENCE = float(os.environ.get("TIDEGATE_TEST_PATIENCE", "240"))
_POLL = 0.3
# New users of both arms in one block: enough for a verdict within a few blocks.
USERS = 4000
GOOD, BAD = 0.004, 0.05
CONFIG = """\
model: demand
data: {{path: data.csv, target: class}}
rollout:
  steps: [20, 50]
  step: {{min: 2s, max: 10m}}
  guardrails: [{{metric: error_rate, harm: {{ratio: 1.5, margin: 0.001}}, safe: {{ratio: 2, margin: 0.003}}}}]
  keep_previous: 30s
advanced: {{block: 1s}}
environments:
  test:
    kind: kubernetes
    namespace: {namespace}
    image_repository: {repository}
    store: {store}
    mlflow: http://127.0.0.1:9
    values:
      replicas: 2
      ladder: {{intervalSeconds: 2, progressDeadlineSeconds: 120, abortDelaySeconds: 5}}
"""


def until(what: str, look: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """Ask again until there is an answer; `what` is what never came."""
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {patience:.0f} s"
        time.sleep(_POLL)


@dataclass
class Judge:
    """The judge as a process of this machine; it may be killed and come back."""

    folder: Path
    host: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the cluster's controllers reach it."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Run it until it is ready."""
        command = [sys.executable, "-m", "tidegate.cli", "--env", ENV, "serve", "judge"]
        command += ["--host", self.host, "--port", str(self.port)]
        with (self.folder / "judge.log").open("ab") as log:
            environment = {**os.environ, "TIDEGATE_JUDGE_TOKEN": TOKEN}
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        until("the judge's readiness", self._ready, 60)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "judge.log").read_text()
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        return False

    def kill(self) -> None:
        """As a node that is lost takes it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def post(self, lines: list[Document]) -> None:
        """Send counts; while nobody answers, or nobody knows the rollout yet, they are sent with the next ones."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/x-ndjson"}
        body = "\n".join(json.dumps(line) for line in lines)
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.post(f"{self.url}/v1/blocks", content=body, headers=headers, timeout=10)
            assert answer.status_code < 500 or answer.status_code == 503, answer.text


@dataclass
class World:
    """One test's namespace with everything in it."""

    cluster: Cluster
    project: Path
    judge: Judge
    image: str
    applied: list[Document] = field(default_factory=list)

    @property
    def environment(self) -> Environment:
        """The project's environment on the cluster, opened anew."""
        return Environment(open_project(self.project, ENV))

    @property
    def driver(self) -> KubeDriver:
        """Who brings rollouts to the cluster."""
        environment = self.environment

        def objects(release: str, plan: RolloutPlan | None) -> list[Document]:
            known = releases.load(environment.store, release)
            image = environment.state().images[release]
            named = f"{image.reference.rpartition(':')[0]}@{image.pushed}"
            deployment = from_config.Deployment(named, release, known.version, plan.rollout if plan else "", plan)
            made = render.model_documents(environment.project, deployment, release=known)
            self.applied = made
            return made

        return KubeDriver(environment.ledger, environment.store, 30.0, self.cluster, MODEL, render=objects)

    def release(self, version: int) -> str:
        """A registered release with a pushed image, as `package --image --push` leaves it."""
        made = Release(
            model=MODEL,
            version=version,
            run_id=f"{version:032x}",
            bento=f"demand:v{version}",
            bundle=f"{version:064x}",
            git_commit=f"{version:040x}",
            git_dirty=False,
            data=(),
            files={},
            config={},
            contract={},
        )
        environment = self.environment
        releases.save(environment.store, made, {})
        repository, _, digest = self.image.partition("@")
        pushed = digest or f"sha256:{version:064x}"
        imaged = {"release": made.id, "digest": pushed, "reference": f"{repository}:{made.id}", "pushed": pushed}
        for kind, data in (
            ("registered", {"release": made.id, "version": version, "run_id": made.run_id}),
            ("imaged", {**imaged, "sbom": "", "provenance": "", "key": ""}),
        ):
            environment.ledger.append(lambda _, kind=kind, data=data: Draft(kind, data))
        return made.id

    def deploy_first(self, version: int = 1) -> str:
        """The first champion, served by everybody at once."""
        release = self.release(version)
        self.driver.serve(release)
        self.environment.ledger.append(lambda _: Draft("deployed", {"release": release}))
        assert self.driver.wait_healthy(PATIENCE), self.shown()
        return release

    def start(self, release: str, *, replace: bool = False) -> RolloutState:
        """Begin a rollout of a release against the champion."""
        config = self.environment.project.config
        number = random.randrange(16**8)
        plan = make_plan(
            config.rollout, rollout_id=f"o-{number:08x}", block_seconds=config.advanced.block,
            units_per_minute=USERS * 60, error_rate=GOOD,
        )  # fmt: skip
        return self.driver.start(release, plan, by_hand=True, replace=replace)

    def rollout(self) -> Document:
        """The Rollout as it is."""
        return self.cluster.get(kube.ROLLOUT, MODEL) or {}

    def weights(self) -> dict[str, int]:
        """What the route says of users that ask for nothing special."""
        found = self.cluster.get(kube.HTTP_ROUTE, MODEL)
        assert found is not None
        plain = next(rule for rule in found["spec"]["rules"] if len(rule["backendRefs"]) == 2)
        return {one["name"].removeprefix(f"{MODEL}-"): one["weight"] for one in plain["backendRefs"]}

    def settled(self, rollout: str) -> RolloutState:
        """The rollout once the ledger has its end."""

        def look() -> RolloutState | None:
            self.driver.settle()
            state = next(one for one in self.environment.state().rollouts if one.id == rollout)
            return None if state.open else state

        try:
            return until(f"the end of rollout {rollout}", look)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.shown()}") from None

    def at_weight(self, weight: int) -> None:
        """Wait until the route sends so many per cent to the canary."""
        try:
            until(f"{weight} % on the canary", lambda: self.weights().get("canary") == weight)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.shown()}") from None

    @contextlib.contextmanager
    def traffic(self, rollout: str, canary: float) -> Iterator[None]:
        """Users as a gateway counts them: a block a second at the route's weight, with these errors on the canary."""
        stop = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            minute = 0
            try:
                while not stop.wait(1.0):
                    weight = self.weights().get("canary", 0)
                    if 0 < weight < 100:
                        self.judge.post(block(rollout, minute, weight, canary))
                    minute += 1
            except BaseException as error:  # noqa: BLE001 - told by the test that waits
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(30)
        assert not failed, failed

    def shown(self) -> str:
        """What a person would look at when it does not go on."""
        told = self.rollout().get("status", {})
        kept = {key: told.get(key) for key in ("phase", "message", "currentStepIndex", "abort", "pauseConditions")}
        runs = [
            (one["metadata"]["name"], one["spec"]["metrics"][0]["name"], one.get("status", {}).get("phase"),
             one.get("status", {}).get("message"), _measured(one))
            for one in self.cluster.list(kube.ANALYSIS_RUN)
        ]  # fmt: skip
        log = (self.project / "judge.log").read_text()[-2000:] if (self.project / "judge.log").exists() else ""
        return json.dumps({"rollout": kept, "runs": runs}, indent=1) + "\n" + log


def block(rollout: str, minute: int, weight: int, bad: float) -> list[Document]:
    """Counts of one block: drawn by a seed of its own, so that sent twice they are the same."""
    draw = random.Random(f"{rollout}.{minute}.{weight}")
    lines = []
    canary = sum(draw.random() * 100 < weight for _ in range(USERS))
    for arm, n, rate in (("canary", canary, bad), ("stable", USERS - canary, GOOD)):
        x = sum(draw.random() < rate for _ in range(n))
        head = {"rollout": rollout, "minute": minute, "weight": weight, "arm": arm, "source": "test", "n": n, "x": x}
        lines += [{**head, "metric": metric} for metric in ("error_rate", "attempts")]
    return lines


def _measured(run: Mapping[str, Any]) -> list[Any]:
    results = run.get("status", {}).get("metricResults") or []
    return [
        (one.get("phase"), one.get("message"), (one.get("measurements") or [{}])[-1].get("value")) for one in results
    ]
