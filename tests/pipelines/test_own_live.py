"""The user's own live metrics: called in a process of their own, and told by their own file and line when they fail."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd
import pytest

from tidegate.core.errors import TidegateError
from tidegate.core.project import open_project
from tidegate.core.store import open_store
from tidegate.pipelines.own_code import Code, Kept
from tidegate.pipelines.own_live import OwnFunctions

CODE = """
import os
import time

from helper import twice


def spent(frame):
    print("whatever is printed is no answer")
    return twice(frame["outcome.revenue"])


spent.higher_is_better = True


def wrong(frame):
    return frame["truth"] != frame["prediction"]


def broken(frame):
    return frame["nothing"]


def hangs(frame):
    time.sleep(60)


def dies(frame):
    os._exit(7)
"""
FRAME = pd.DataFrame({"truth": ["1", "0"], "prediction": ["1", "1"], "outcome.revenue": [2.0, 0.5]})


@pytest.fixture
def functions(tmp_path: Path) -> OwnFunctions:
    (tmp_path / "tidegate.yaml").write_text(
        "version: 1\nmodel: demand\ndata: {path: data.csv, target: class}\ntrain: {code: [lib/]}\n"
    )
    (tmp_path / "mine.py").write_text(textwrap.dedent(CODE))
    (tmp_path / "lib").mkdir()
    (tmp_path / "helper.py").write_text("def twice(values):\n    return 2 * values\n")
    return OwnFunctions(open_project(tmp_path, "local"), seconds=20)


def test_a_function_answers_for_each_row_and_says_which_way_is_better(functions: OwnFunctions) -> None:
    """What it prints is no answer; yes and no are 1 and 0; more is worse unless it says otherwise."""
    assert functions.ask("mine:spent", FRAME) == ([4.0, 1.0], True)
    assert functions.ask("mine:wrong", FRAME) == ([0.0, 1.0], False)
    assert functions("mine.py:spent", FRAME).tolist() == [4.0, 1.0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", r"mine\.py:\d+: KeyError: 'nothing'"),
        ("dies", "The process of mine:dies died \\(7\\)"),
        ("absent", "'absent', which mine does not define"),
    ],
)
def test_one_that_fails_is_an_error_with_its_line(functions: OwnFunctions, name: str, said: str) -> None:
    """Raised, ended the process, or is not there."""
    with pytest.raises(TidegateError, match=said):
        functions.ask(f"mine:{name}", FRAME)


def test_a_rollout_calls_the_functions_as_they_were_when_it_began(functions: OwnFunctions, tmp_path: Path) -> None:
    """Edited, with its helper, or removed: until the rollout ends nothing of it counts."""
    functions.ask("mine:spent", FRAME)
    assert functions.code is not None
    assert sorted(functions.code.files) == ["helper.py", "mine.py"]
    store = open_store(str(tmp_path / "store"))
    functions.code.keep(store, "o-1")
    (tmp_path / "helper.py").write_text("def twice(values):\n    return 9 * values\n")
    (tmp_path / "mine.py").unlink()
    project = open_project(tmp_path, "local")
    kept = OwnFunctions(project, kept=Kept(store, "o-1", functions.code.digest))
    assert kept.ask("mine:spent", FRAME) == ([4.0, 1.0], True)
    assert OwnFunctions(project).code is None
    with pytest.raises(TidegateError, match="mine"):
        OwnFunctions(project).ask("mine:spent", FRAME)


@pytest.mark.parametrize("harm", ["lost", "changed", "torn"])
def test_a_copy_that_is_not_what_the_plan_says_is_refused(functions: OwnFunctions, tmp_path: Path, harm: str) -> None:
    """Nobody falls back to the code of today."""
    functions.ask("mine:spent", FRAME)
    assert functions.code is not None
    store = open_store(str(tmp_path / "store"))
    code = Code({**functions.code.files, "helper.py": "def twice(values):\n    return values\n"}, ("",))
    if harm != "lost":
        code.keep(store, "o-1")
    if harm == "torn":
        store.write("rollouts/o-1/metrics.json", b'{"files": ')
    kept = OwnFunctions(open_project(tmp_path, "local"), kept=Kept(store, "o-1", functions.code.digest))
    with pytest.raises(TidegateError, match=r"The code that rollout o-1 began with .* is missing or was changed"):
        kept.ask("mine:spent", FRAME)


def test_one_that_hangs_is_given_up(functions: OwnFunctions) -> None:
    """The stack waits for nobody."""
    functions._seconds = 2.0
    with pytest.raises(TidegateError, match="mine:hangs did not answer within 2 s for 2 rows"):
        functions.ask("mine:hangs", FRAME)
