"""The example of docs/hooks.md does what the page says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidegate.serving.service import hooks, tensors
from tidegate.serving.service.manifest import Column

PAGE = Path(__file__).parents[3] / "docs" / "hooks.md"


@pytest.fixture
def example(tmp_path: Path) -> hooks.Hooks:
    """Whoever copies the page's Python has this."""
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    file = tmp_path / "features.py"
    file.write_text(code, encoding="utf-8")
    return hooks.load(file)


def test_the_documented_prepare_gets_and_gives_the_documented_arrays(example: hooks.Hooks) -> None:
    """Of many rows or one, with what is missing as NaN and None."""
    columns = [Column("amount", "number", nullable=True), Column("country", "string", nullable=True)]
    for rows in ([(np.expm1(1.0), "NZ"), (None, None)], [(None, "NZ")]):
        made = hooks.run_prepare(example, tensors.raw_columns(columns, rows))
        assert {name: values.shape for name, values in made.items()} == {
            "log_amount": (len(rows),),
            "country": (len(rows),),
        }
        assert list(made["country"]) == [country or "unknown" for _, country in rows]
        assert made["log_amount"] == pytest.approx([0.0 if amount is None else 1.0 for amount, _ in rows])


def test_the_documented_respond_turns_probabilities_into_words(example: hooks.Hooks) -> None:
    """One value a row, in the same order."""
    assert example.respond is not None
    assert example.respond([1, 0], [[0.1, 0.9], [0.7, 0.3]]) == ["call", "wait"]


def test_the_kinds_of_columns_are_those_of_the_page() -> None:
    """Numbers and booleans are float64, text is object, dates are datetime64[ms]."""
    kinds = ["number", "boolean", "string", "datetime"]
    columns = [Column(kind, kind, nullable=True) for kind in kinds]
    made = tensors.raw_columns(columns, [(None, None, None, None)])
    assert [str(made[kind].dtype) for kind in kinds] == ["float64", "float64", "object", "datetime64[ms]"]
    assert np.isnan(made["number"][0])
    assert made["string"][0] is None
    assert np.isnat(made["datetime"][0])


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("def respond(predictions): return predictions", ["x"]),
        ("def respond(predictions, probabilities): return probabilities", [[0.5]]),
        ("def respond(predictions, shadow): return [shadow]", [True]),
        ("def respond(predictions, probabilities, shadow): return [shadow]", [True]),
        ("def respond(predictions, *, shadow=False): return [shadow]", [True]),
        ("def respond(predictions, **more): return [more['shadow']]", [True]),
        ("def respond(*values): return [len(values)]", [2]),
        ("from builtins import sorted as respond", ["x"]),
    ],
)
def test_a_hook_is_told_of_copies_if_it_takes_the_parameter(tmp_path: Path, code: str, shown: list[Any]) -> None:
    """Whatever else it takes; without the parameter nothing changes, and unasked it is False."""
    file = tmp_path / "features.py"
    file.write_text(code)
    respond = hooks.load(file).respond
    assert respond is not None
    copies = True
    assert respond(["x"], [[0.5]], copies) == shown
    assert respond(["x"], [[0.5]]) == ([False] if shown == [True] else shown)


def test_a_model_tells_both_hooks_that_nobody_waits_for_the_answer(tmp_path: Path) -> None:
    """`prepare` as well as `respond`."""
    file = tmp_path / "features.py"
    file.write_text(
        "seen = []\n"
        "def prepare(columns, shadow):\n"
        "    seen.append(shadow)\n"
        "    return columns\n"
        "def respond(predictions, shadow=False):\n"
        "    return [*seen, shadow]\n"
    )
    loaded = hooks.load(file)
    hooks.run_prepare(loaded, {"x": np.zeros(1)})
    hooks.run_prepare(loaded, {"x": np.zeros(1)}, shadow=True)
    assert loaded.respond is not None
    copies = True
    assert loaded.respond([0], None, copies) == [False, True, True]
