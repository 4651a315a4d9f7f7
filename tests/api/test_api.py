"""The road from a notebook: the functions answer with what the command line prints."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from tidegate import api

FUNCTIONS = [getattr(api, name) for name in api.__all__ if inspect.isfunction(getattr(api, name))]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
def test_every_function_says_what_it_does_and_is_typed(function: Any) -> None:
    """An editor shows both; `project` and `env` mean the same everywhere."""
    signature = inspect.signature(function)
    assert (function.__doc__ or "").strip()
    assert signature.return_annotation != inspect.Parameter.empty
    assert all(one.annotation != inspect.Parameter.empty for one in signature.parameters.values())
    if function is not api.open_project:
        assert signature.parameters["project"].default == "."
        assert signature.parameters["env"].default == "local"


def test_nothing_heavy_comes_with_the_import() -> None:
    """A notebook cell that imports it answers at once."""
    code = "import sys, tidegate.api; print({'pandas', 'mlflow', 'dvc', 'sklearn', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_outside_of_a_project_it_says_what_the_command_line_says(tmp_path: Path) -> None:
    """Message and hint in one error."""
    with pytest.raises(api.TidegateError, match=r"no tidegate\.yaml") as refused:
        api.events(tmp_path)
    assert "tidegate init" in refused.value.hint
    assert typing.get_type_hints(api.open_project)["return"] is api.Project
