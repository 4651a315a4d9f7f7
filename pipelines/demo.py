"""The five-minute story, told with the real parts: a bad version goes back, a good one stays, drift trains the next.

It runs in a folder of its own with processes of its own, and leaves nothing behind.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core import git
from tidegate.core.errors import TidegateError
from tidegate.core.project import Project, open_project
from tidegate.pipelines import demo_drift, flows, lineage, stack
from tidegate.pipelines.environment import Environment, environment_for
from tidegate.pipelines.example_request import bodies
from tidegate.serving.deploy.local import free_port

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.pipelines.flows import Shipped

# So many new users a second decide both steps of a good version in about two minutes on two processors.
_USERS_PER_SECOND = 500
_REQUESTS_PER_SECOND = 550
_TIMEOUT = 240.0

# A share of slow requests up to 1.9 times the stable arm's passes: at the default 1.5 the same verdict takes twice the
# users, which is no time in production and a long time in a demo.
_ROLLOUT = """\
  steps: [20, 50]
  step: {min: 5s, max: 2m}
  guardrails:
    - {metric: error_rate, harm: {ratio: 1.1, margin: 0.001}, safe: {ratio: 1.5, margin: 0.002}}
    - {metric: latency, harm: {ratio: 1.1}, safe: {ratio: 1.9}}
"""

# Windows as long as ten looks of the judge, instead of an hour; labels come within two seconds here, so they are final
# after four. Two windows in a row, not three, since each is a quarter of a minute of waiting.
_MONITOR = """\
monitor:
  window: 15s
  drift: {windows: 2}
  labels: {maturity: 4s}
retrain: {data: telemetry, release: auto}
"""
_BAD_HOOK = '''\
"""A lookup behind the model. On the holdout it looks fine; in production it is slow, and it fails."""

import time

CALLS = {"count": 0}


def respond(predictions):
    CALLS["count"] += 1
    time.sleep(0.02)
    if CALLS["count"] > 500 and CALLS["count"] % 12 == 0:
        raise TimeoutError("the lookup did not answer")
    return predictions
'''

_GOOD_HOOK = '''\
"""The same lookup, from a table in memory."""

NAMES = {digit: digit for digit in range(10)}


def respond(predictions):
    return [NAMES[digit] for digit in predictions]
'''


@dataclass
class Demo:
    """The story's project and what came of each chapter."""

    root: Path
    progress: Progress
    chapters: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Tell the whole story and return the document of `tidegate demo`."""
        began = time.monotonic()
        self._say("1  A project around a data file: 1,797 handwritten digits that ship inside scikit-learn.")
        self._init()
        self._say("2  The first version goes through contract, training, gate and packaging, and is deployed.")
        self._chapter("first version", self._ship())
        self._say("3  The stack is up, and sticky users come: Envoy in front, one process for each version.")
        with _running(self.root, self._environment):
            with _traffic(self.root):
                self._two_challengers()
            with _traffic(self.root, "--rows", str(self._dimmed_digits()), "--labels"):
                self._drift()
                self._say("9  Where does one prediction come from?")
                traced = self._trace()
        return {
            "kind": "demo",
            "chapters": self.chapters,
            "lineage": traced,
            "seconds": round(time.monotonic() - began, 1),
        }

    def _two_challengers(self) -> None:
        self._say("4  A challenger that looks fine offline, but is slow and fails in production.")
        self._edit("max_iter: 40", "max_iter: 50")
        self._hook(_BAD_HOOK)
        self._chapter("slow and failing", self._ship())
        self._say("5  The lookup is mended and the model trained a little longer.")
        self._edit("max_iter: 50", "max_iter: 60")
        self._hook(_GOOD_HOOK)
        self._chapter("mended", self._ship())

    def _drift(self) -> None:
        """The world changes; from here on everything is done by `up`."""
        environment, progress = self._environment, self.progress
        self._say(
            "6  The world changes: images come a third as bright, their true digits some seconds later.\n"
            "   Nobody types a command from here on. The monitor looks at every 15 seconds of traffic."
        )
        retrain = demo_drift.asked(environment, progress)
        self._say(
            "7  Two windows in a row are reason enough, and no brake is on (cooldown, budget, freeze). The loop\n"
            "   trains on the recorded images with their digits; the result must beat the champion on rows new to both."
        )
        progress.note(f"   {retrain.reason}")
        retrain = demo_drift.ended(environment, progress)
        for reason in retrain.reasons:
            progress.note(f"   - {reason}")
        self._say(
            "8  Better offline is not enough: the new version has to prove itself on users, as the others had to."
        )
        self._chapter("trained by itself", demo_drift.judged(environment, retrain, progress, _TIMEOUT))

    def _say(self, text: str) -> None:
        self.progress.note(f"\n{text}")

    @property
    def _project(self) -> Project:
        return open_project(self.root)

    @property
    def _environment(self) -> Environment:
        return environment_for(self._project)

    def _init(self) -> None:
        from tidegate.pipelines.init import init

        source = self.root.parent / "digits.csv"
        _write_digits(source)
        init(self.root, source, "digit", progress=self.progress)
        config = self.root / "tidegate.yaml"
        text = config.read_text(encoding="utf-8").replace("max_iter: 200", "max_iter: 40")
        text = text.replace("  runtime: onnx\n", "  runtime: onnx\n  capture: {flush: 2s}\n")
        ports = f"advanced: {{block: 2s, gateway_port: {free_port()}, console_port: {free_port()}}}\n"
        config.write_text(text + _ROLLOUT + _MONITOR + ports, encoding="utf-8")
        self._commit("Start")

    def _dimmed_digits(self) -> Path:
        file = self.root.parent / "dimmed.csv"
        _write_digits(file, demo_drift.dimmed)
        return file

    def _edit(self, before: str, after: str) -> None:
        path = self.root / "tidegate.yaml"
        text = path.read_text(encoding="utf-8")
        if before not in text:
            raise TidegateError(f"The demo's config has no {before!r}.", "Please report this.")
        path.write_text(text.replace(before, after), encoding="utf-8")

    def _hook(self, source: str) -> None:
        if "  code: lookup.py\n" not in (self.root / "tidegate.yaml").read_text(encoding="utf-8"):
            self._edit("  runtime: onnx\n", "  runtime: onnx\n  code: lookup.py\n")
        (self.root / "lookup.py").write_text(source, encoding="utf-8")

    def _commit(self, subject: str) -> None:
        who = ["-c", "user.name=demo", "-c", "user.email=demo@localhost"]
        git.git(self.root, "add", "--all")
        git.git(self.root, *who, "-c", "commit.gpgsign=false", "commit", "--quiet", "--message", subject)

    def _ship(self) -> Shipped:
        if git.work_tree(self.root).dirty:
            self._commit("Change the model")
        return flows.ship(self._environment, self.progress, wait=True, timeout=_TIMEOUT)

    def _chapter(self, title: str, shipped: Shipped) -> None:
        document = shipped.to_json()
        self.chapters.append({"title": title, **document})
        self.progress.note(f"   {title}: version {shipped.version}, {shipped.decision}")
        for reason in shipped.reasons:
            self.progress.note(f"   - {reason}")

    def _trace(self) -> dict[str, Any]:
        """Ask for one prediction and follow it back to its commit and data."""
        environment = self._environment
        address = stack.status(environment)["gateway"]
        headers = {"content-type": "application/json", "x-user-id": "you"}
        request = urllib.request.Request(f"{address}/predict", bodies(environment, 1)[0], headers)  # noqa: S310 - http, ours
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            answer = json.load(response)
            prediction = str(response.headers["x-tidegate-prediction-id"])
        traced = _until_logged(environment, prediction)
        return {**traced, "answer": answer["predictions"][0]}


def _until_logged(environment: Environment, prediction: str) -> dict[str, Any]:
    """The gateway writes its log four times a second."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return lineage.why(environment, prediction)
        except TidegateError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _write_digits(path: Path, change: Callable[[Any], Any] = lambda images: images) -> None:
    """The images as rows, or what `change` makes of them: as many of each image, in their order."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = change(digits.data)
    truths = digits.target.repeat(len(images) // len(digits.target))
    names = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "digit"])
        for pixels, digit in zip(images, truths, strict=True):
            writer.writerow([*(int(pixel) for pixel in pixels), int(digit)])


def _tidegate(root: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tidegate.cli", "-C", str(root), *arguments]


@contextmanager
def _running(root: Path, environment: Environment) -> Iterator[None]:
    """The stack, as `tidegate up -d` starts it; stopped whatever happens."""
    try:
        _start(root)
        yield
    finally:
        stack.down(environment)


def _start(root: Path) -> None:
    starting = subprocess.Popen(
        _tidegate(root, "up", "--detach"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, said = starting.communicate()
    except BaseException:
        # It ends what it has begun before it ends itself.
        starting.terminate()
        starting.communicate()
        raise
    if starting.returncode:
        raise TidegateError("The stack did not start.", said.strip())


@contextmanager
def _traffic(root: Path, *options: str) -> Iterator[None]:
    """`tidegate dev traffic` in the background, ended by its pid."""
    rates = ["--rps", str(_REQUESTS_PER_SECOND), "--users", str(60 * _USERS_PER_SECOND), "--for", "20m", *options]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(_tidegate(root, "dev", "traffic", *rates), stdout=quiet, stderr=quiet, env=os.environ)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)
