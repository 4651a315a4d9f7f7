"""Every example goes its README's road: made data, a release, an answer, and what the example is about; minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from tidegate.core.errors import ExitCode
from tidegate.pipelines.init import examples
from tidegate.serving.deploy.local import free_port

Cli = Callable[..., Any]
# The one that takes real data from elsewhere: tests/journeys/test_whole_road.py.
ELSEWHERE = {"electricity"}
HERE = ["diabetes", "fraud", "offers", "recommendations", "reviews"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@dataclass
class Example:
    """One example that serves."""

    root: Path
    cli: Cli
    gateway: str
    console: str
    curl: str

    def __call__(self, *arguments: str | Path) -> Any:
        """A command in its folder that must work."""
        # `python make_data.py` means the Python that has tidegate, as in an activated environment.
        path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = self.cli("-C", self.root, *arguments, env=path, timeout=300)
        assert done.exit_code == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def ask(self, row: dict[str, Any], **headers: str) -> httpx.Response:
        """One row through the gateway."""
        named = {name.replace("_", "-") if name.startswith("x_") else name: one for name, one in headers.items()}
        answer = httpx.post(f"{self.gateway}/predict", json={"rows": [row]}, headers=named, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer

    def tell(self, path: str, document: dict[str, Any]) -> None:
        """An outcome of just now, posted to the console as the README shows."""
        document = {**document, "at": datetime.now(UTC).isoformat()}
        patiently(lambda: httpx.get(f"{self.console}/healthz", timeout=5).status_code == 200)
        token = (self.root / ".tidegate/run/console.token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx.post(f"{self.console}{path}", json=document, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text

    def refused_plan(self) -> str:
        """Why no rollout can be planned yet: users of the last minutes are too young for the goal."""
        done = self.cli("-C", self.root, "rollout", "plan", "--units-per-minute", "600", "--json")
        assert done.exit_code == ExitCode.INCONCLUSIVE, done
        return str(done.json["message"])


def patiently(ready: Callable[[], bool]) -> None:
    """The console comes after the users are answered."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if ready():
                return
        time.sleep(0.2)
    raise AssertionError("the console did not come up")


@contextmanager
def served(cli: Cli, root: Path, name: str) -> Iterator[Example]:
    """The README's lines up to `up`; ports that are free, and a latency that a shared machine can keep."""
    ports = free_port(), free_port()
    assert cli("init", root, "--example", name).exit_code == 0
    config = root / "tidegate.yaml"
    text = config.read_text().replace("\ngate:\n", "\ngate:\n  latency_p99: 5s\n")
    config.write_text(f"{text}\nadvanced: {{gateway_port: {ports[0]}, console_port: {ports[1]}}}\n")
    example = Example(root, cli, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", "")
    example("data", "refresh")
    shipped = example("ship", "--json").json
    assert shipped["rollout"]["decision"] == "deployed"
    said = example("up", "-d").stdout
    try:
        example.curl = next(line for line in said.splitlines() if line.startswith("curl "))
        yield example
    finally:
        cli("-C", root, "down")


def test_no_example_is_left_out() -> None:
    """A new folder in examples/ needs a story here."""
    assert sorted(examples()) == sorted([*HERE, *ELSEWHERE])


def test_diabetes_answers_a_number(cli_process: Cli, tmp_path: Path) -> None:
    """Regression, from data inside scikit-learn to the printed curl."""
    with served(cli_process, tmp_path / "project", "diabetes") as example:
        done = subprocess.run(["bash", "-c", example.curl], capture_output=True, text=True, check=True)
        (found,) = json.loads(done.stdout)["predictions"]
        assert 0 < found < 500


def test_reviews_reads_words(cli_process: Cli, tmp_path: Path) -> None:
    """Text is served as it was trained, and both ways of saying it are told apart."""
    with served(cli_process, tmp_path / "project", "reviews") as example:
        said = [{"text": text, "channel": "web"} for text in ("great value, size M", "arrived broken, never again")]
        assert [example.ask(row).json()["predictions"] for row in said] == [[1], [0]]


def test_offers_learns_later_what_became_of_a_visit(cli_process: Cli, tmp_path: Path) -> None:
    """Outcomes by user and labels by the shop's own id join the prediction; the plan waits for conversions."""
    with served(cli_process, tmp_path / "project", "offers") as example:
        row = {"pages": 7, "minutes": 3.5, "returning": 1, "source": "ad", "basket": 41.9}
        assert example.ask(row, x_user_id="u-17", visit_id="v-1").json()["predictions"][0] in {"offer", "none"}
        example.tell("/outcomes", {"unit": "u-17", "name": "conversion", "value": 1})
        later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
        (tmp_path / "bought.csv").write_text(f"id,label,at\nv-1,1,{later}\n")
        example("labels", "ingest", tmp_path / "bought.csv")
        example("down")  # what was answered is in the store then
        status = example("labels", "status", "--json").json
        assert (status["predictions"], status["labelled"], status["unknown"]) == (1, 1, 0)
        assert "conversion of the champion is not known" in example.refused_plan()


@pytest.mark.skipif(find_spec("xgboost") is None, reason="XGBoost is not installed")
def test_fraud_is_xgboost_served_as_onnx_and_labelled_by_order(cli_process: Cli, tmp_path: Path) -> None:
    """A charge-back names the order, not the prediction."""
    with served(cli_process, tmp_path / "project", "fraud") as example:
        manifests = [*(example.root / ".tidegate").rglob("manifest.json")]
        assert {json.loads(one.read_text())["runtime"] for one in manifests} == {"onnx"}
        order = {"amount": 912.5, "items": 1, "hour": 3, "country": "NZ", "card_country": "US", "account_days": 1}
        example.ask(order, x_user_id="u-17", order_id="o-1001")
        later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
        (tmp_path / "charge_backs.csv").write_text(f"id,label,at\no-1001,1,{later}\n")
        example("labels", "ingest", tmp_path / "charge_backs.csv")
        example("down")
        status = example("labels", "status", "--json").json
        assert (status["predictions"], status["labelled"], status["unknown"]) == (1, 1, 0)


def test_recommendations_ranks_candidates_and_counts_in_margin(cli_process: Cli, tmp_path: Path) -> None:
    """All candidates of a reader in one request; the goal, a function of the example's own, is waited for."""
    with served(cli_process, tmp_path / "project", "recommendations") as example:
        rows = [
            {"reader_topic": "food", "article_topic": topic, "age_hours": 2.0, "position": 1}
            for topic in ("sports", "food", "travel")
        ]
        answer = httpx.post(f"{example.gateway}/predict", json={"rows": rows}, headers={"x-user-id": "reader-4"})
        likely = [one[1] for one in answer.json()["probabilities"]]
        assert max(range(3), key=likely.__getitem__) == 1
        example.tell("/outcomes", {"unit": "reader-4", "name": "revenue", "value": 12.5})
        assert "metrics.py:margin of the champion is not known" in example.refused_plan()
