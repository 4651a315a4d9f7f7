"""New users with tables of their own: from the file to answers, with nothing edited in between."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from journeys.shapes import SHAPES, Shape

from tidegate.core.project import open_project
from tidegate.pipelines.bundles import bundle_of
from tidegate.pipelines.environment import environment_for
from tidegate.registry import releases
from tidegate.serving.deploy.local import free_port

Cli = Callable[..., Any]

pytestmark = pytest.mark.long

# The demo's: margins wide enough that some hundred users decide.
ROLLOUT = """\
  steps: [50]
  step: {{min: 3s, max: 90s}}
  guardrails: [{{metric: error_rate, harm: {{ratio: 1.1, margin: 0.05}}, safe: {{ratio: 1.1, margin: 0.2}}}}]
advanced: {{block: 1s, gateway_port: {port}}}
"""


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One MLflow for all tables: making its database takes seconds."""
    from tidegate.registry import mlflow_registry

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    mlflow_registry.prepare(uri, "anything")
    return {"MLFLOW_TRACKING_URI": uri}


def manifest(root: Path) -> Any:
    """What the champion's server knows."""
    from tidegate.serving.service.manifest import read

    environment = environment_for(open_project(root, "local"))
    champion = environment.state().champion
    assert champion is not None
    return read(bundle_of(environment.project, releases.load(environment.store, champion)))


def quiet(stderr: str) -> bool:
    """Whether only tidegate spoke."""
    return "Warning" not in stderr and "site-packages" not in stderr


@pytest.mark.parametrize("name", SHAPES)
def test_a_table_ships_as_it_is_and_answers_in_its_own_labels(
    cli: Cli, tmp_path: Path, tracking: dict[str, str], name: str
) -> None:
    """Init, ship, predict: ONNX always, no line of a library on the terminal, an answer for every row."""
    shape = SHAPES[name]
    source, root, out = shape.write(tmp_path, name), tmp_path / "project", tmp_path / "out.jsonl"
    made = cli("init", root, "--from", source, "--target", shape.target, *shape.arguments, env=tracking)
    assert made.exit_code == 0, made.stderr
    shipped = cli("-C", root, "ship", "--json", env=tracking)
    assert shipped.exit_code == 0, shipped.stderr
    assert quiet(made.stderr + shipped.stderr), shipped.stderr
    assert shipped.json["rollout"]["decision"] == "deployed"
    described = manifest(root)
    assert described.runtime == "onnx", described.reason
    assert described.classes == (None if shape.labels is None else list(shape.labels))
    done = cli("-C", root, "predict", source, out, "--json", env=tracking)
    assert done.exit_code == 0, done.stderr
    check_answers(shape, [json.loads(line)["prediction"] for line in out.read_text().splitlines()])


def check_answers(shape: Shape, answers: list[Any]) -> None:
    """One for each row, none empty, each a label of the table or a number, and not all the same."""
    import numpy as np

    assert len(answers) == len(shape.make(np.random.default_rng(0)))
    if shape.labels is None:
        assert all(isinstance(answer, float) for answer in answers)
    else:
        assert set(answers) <= set(shape.labels)
    assert len(set(answers)) > 1


@pytest.mark.parametrize("by", ["random", "time"])
def test_the_electricity_data_is_served_as_onnx_however_it_is_split(
    cli: Cli, tmp_path: Path, tracking: dict[str, str], elec: Path, by: str
) -> None:
    """Real columns with five decimals: a cast to float32 in train.py made other trees than ONNX walks."""
    root = tmp_path / "project"
    assert cli("init", root, "--from", elec, "--target", "class", env=tracking).exit_code == 0
    file = root / "tidegate.yaml"
    file.write_text(file.read_text().replace("by: random", f"by: {by}").replace("max_iter: 200", "max_iter: 30"))
    shipped = cli("-C", root, "ship", "--json", env=tracking)
    assert shipped.exit_code == 0, shipped.stderr
    described = manifest(root)
    assert described.runtime == "onnx", described.reason
    assert float(re.findall(r"at most ([0-9.e-]+) ", described.reason)[0]) < 1e-5


@contextlib.contextmanager
def running(cli: Cli, root: Path) -> Iterator[str]:
    """The stack in the background; gives what `up -d` printed."""
    up = cli("-C", root, "up", "-d")
    try:
        assert up.exit_code == 0, up.stderr
        yield up.stdout
    finally:
        assert cli("-C", root, "down").exit_code == 0


@contextlib.contextmanager
def traffic(root: Path, rps: int = 60, users: int = 3000) -> Iterator[None]:
    """Users who come and come back."""
    command = [
        sys.executable,
        "-m",
        "tidegate.cli",
        "-C",
        str(root),
        "dev",
        "traffic",
        "--rps",
        str(rps),
        "--users",
        str(users),
    ]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        child.send_signal(signal.SIGINT)
        assert "Traceback" not in child.communicate(timeout=60)[1]


def post(address: str, document: object) -> tuple[int, Any]:
    """Status and JSON of a prediction."""
    body = json.dumps(document).encode()
    request = urllib.request.Request(f"{address}/predict", body, {"content-type": "application/json"})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - our own gateway
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.skipif(shutil.which("curl") is None, reason="`up` prints a curl, and curl is not on this machine")
def test_odd_columns_go_from_the_file_to_a_second_version_that_users_have_judged(
    cli: Cli, cli_process: Cli, tmp_path: Path
) -> None:
    """The printed curl works as it stands, bad rows are told apart by their path, a changed param is rolled out."""
    shape, root, port = SHAPES["odd"], tmp_path / "project", free_port()
    assert cli("init", root, "--from", shape.write(tmp_path, "odd"), "--target", shape.target).exit_code == 0
    with (root / "tidegate.yaml").open("a") as file:
        file.write(ROLLOUT.format(port=port))
    assert cli("-C", root, "ship").exit_code == 0
    with running(cli_process, root) as said:
        line = next(line for line in said.splitlines() if line.startswith("curl "))
        answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert json.loads(answer.stdout)["predictions"][0] in (True, False)
        check_bad_rows(f"http://127.0.0.1:{port}", manifest(root).golden.rows[0])
        with traffic(root):
            assert cli("-C", root, "train", "-p", "max_iter=150").exit_code == 0
            shipped = cli("-C", root, "ship", "--json", "--timeout", "2m")
        assert shipped.exit_code == 0, shipped
        assert (shipped.json["version"], shipped.json["rollout"]["decision"]) == (2, "promote")


def check_bad_rows(address: str, good: dict[str, Any]) -> None:
    """Each is a 422 that names the field as JSON has it."""
    assert post(address, {"rows": [good, good]})[0] == 200
    for change, path in (
        ({"a b": "many"}, 'rows[1]["a b"]'),
        ({"a b": 1.5}, 'rows[1]["a b"]'),
        ({"Größe (cm)": [1]}, 'rows[1]["Größe (cm)"]'),
        ({"class": None}, "rows[1].class"),
        ({"select": "maybe"}, "rows[1].select"),
        ({"signed up": "yesterday"}, 'rows[1]["signed up"]'),
        ({"bought?": "yes"}, 'rows[1]["bought?"]'),
    ):
        status, document = post(address, {"rows": [good, {**good, **change}]})
        assert status == 422, (change, document)
        assert [error["path"] for error in document["errors"]] == [path], document


def test_the_electricity_example_ships_once_it_has_its_data(
    cli: Cli, tmp_path: Path, tracking: dict[str, str], elec: Path
) -> None:
    """`init --example`, `data add`, `ship`: the three lines of its README."""
    root = tmp_path / "electricity"
    assert cli("init", root, "--example", "electricity", env=tracking).exit_code == 0
    assert cli("-C", root, "data", "add", elec, env=tracking).exit_code == 0
    shipped = cli("-C", root, "ship", "--json", env=tracking)
    assert shipped.exit_code == 0, shipped.stderr
    assert shipped.json["rollout"]["decision"] == "deployed"
    assert manifest(root).runtime == "onnx"
