"""What the project's hooks raise outside the serving process, and inside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tidegate.core.errors import TidegateError
from tidegate.core.user_errors import UserCodeFailed
from tidegate.serving import checked_hooks
from tidegate.serving.service import hooks

CODE = """\
def prepare(columns):
    return {"x": columns["y"]}


def respond(predictions, probabilities):
    return [{"sure": max(shares)} for shares in probabilities]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Hooks that fail where a column or the probabilities are missing."""
    path = tmp_path / "bundle" / "code" / "features.py"
    path.parent.mkdir(parents=True)
    path.write_text(CODE)
    return path


def test_each_hook_is_named_with_the_line_that_raised(file: Path) -> None:
    """The name that the file has in the project, not the path of a copy of it."""
    found = checked_hooks.load(file)
    with pytest.raises(UserCodeFailed) as caught:
        hooks.run_prepare(found, {"x": np.zeros(2)})
    assert caught.value.message == "features.py:2: KeyError: 'y'"
    assert "running prepare of features.py" in caught.value.hint
    assert found.respond is not None
    with pytest.raises(UserCodeFailed) as caught:
        found.respond([1], None)
    assert caught.value.message == "features.py:6: TypeError: 'NoneType' object is not iterable"
    assert "Mend respond and type the same command again." in caught.value.hint


def test_hooks_that_work_answer_as_before_and_wrong_answers_keep_their_own_error(file: Path) -> None:
    """Nothing but what a hook raises is told differently."""
    found = checked_hooks.load(file)
    assert hooks.run_prepare(found, {"y": np.ones(2)})["x"].tolist() == [1, 1]
    assert found.respond is not None
    assert found.respond([1], [[0.2, 0.8]]) == [{"sure": 0.8}]
    with pytest.raises(TidegateError, match="for 2 rows"):
        hooks.run_prepare(found, {"y": np.ones((2, 2))})


def test_a_file_that_cannot_be_imported_is_told_by_its_line(file: Path) -> None:
    """What it lacks in the serving process it may have elsewhere, so the hint says where it runs."""
    file.write_text("import numpy\nimport a_module_that_is_not_there\n")
    with pytest.raises(UserCodeFailed) as caught:
        checked_hooks.load(file)
    assert caught.value.message.startswith("features.py:2: ModuleNotFoundError")
    assert "serve.code must import in the serving process" in caught.value.hint
    file.write_text("def respond(predictions):\n    return (\n")
    with pytest.raises(UserCodeFailed, match=r"features\.py:2: SyntaxError"):
        checked_hooks.load(file)


def test_a_respond_that_forgets_to_return_is_told_what_it_must(file: Path) -> None:
    """Once it was a TypeError that tidegate did not expect."""
    file.write_text("def respond(predictions):\n    [str(one) for one in predictions]\n")
    respond = checked_hooks.load(file).respond
    assert respond is not None
    with pytest.raises(TidegateError, match="respond returned NoneType, not a list") as caught:
        respond([1], None)
    assert "one value a prediction" in caught.value.hint


def test_the_serving_process_keeps_what_a_hook_raised(file: Path) -> None:
    """It is logged there with its traceback; a caller is told nothing of what is inside."""
    with pytest.raises(KeyError):
        hooks.run_prepare(hooks.load(file), {"x": np.zeros(2)})
