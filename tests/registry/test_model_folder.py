"""Opening a model that somebody else made: nothing in it decides what may be trusted."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import yaml
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from tidegate.core.errors import Permanent
from tidegate.registry import model_folder

FRAME = pd.DataFrame({"price": [0.0, 1.0, 2.0, 3.0], "city": ["a", "b", "a", "b"]})
LABELS = [0, 0, 1, 1]


def own_model() -> Any:
    """A model of a class that only the project's train.py has."""
    module = ModuleType("some_train_file")
    code = "from sklearn.linear_model import LogisticRegression\nclass Mine(LogisticRegression):\n    pass\n"
    exec(code, module.__dict__)  # noqa: S102 - stands for a file of the user's
    sys.modules["some_train_file"] = module
    return module.Mine()


def saved(folder: Path, model: Any, trusted: list[str] | None = None, **flavor: Any) -> Path:
    """The folder as MLflow writes it; `trusted` is what its maker claims."""
    folder.mkdir()
    skops.io.dump(model, folder / "model.skops")
    if trusted is None:
        trusted = skops.io.get_untrusted_types(file=folder / "model.skops")
    says = {"pickled_model": "model.skops", "serialization_format": "skops", "skops_trusted_types": trusted}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"sklearn": {**says, **flavor}}}))
    return folder


@pytest.fixture
def numbers() -> pd.DataFrame:
    return FRAME[["price"]]


def test_models_of_scikit_learn_open_whoever_made_them(tmp_path: Path) -> None:
    """Pipelines, encoders, trees and numpy's functions are what they say."""
    encoder = make_column_transformer((OneHotEncoder(sparse_output=False), ["city"]), remainder=StandardScaler())
    models = {
        "linear": make_pipeline(encoder, LogisticRegression()),
        "trees": make_pipeline(encoder, HistGradientBoostingClassifier(max_iter=3)),
        "ufunc": make_pipeline(encoder, FunctionTransformer(np.exp), LogisticRegression()),
    }
    for name, model in models.items():
        folder = saved(tmp_path / name, model.fit(FRAME, LABELS))
        assert len(model_folder.load(folder, allow_pickle=False).predict(FRAME)) == len(FRAME)


def test_a_foreign_model_cannot_name_its_own_types_as_trusted(tmp_path: Path, numbers: pd.DataFrame) -> None:
    """The same folder opens if a run of this project made it, or if the config allows any code."""
    folder = saved(tmp_path / "model", own_model().fit(numbers, LABELS))
    with pytest.raises(Permanent, match=r"some_train_file\.Mine") as caught:
        model_folder.load(folder, allow_pickle=False)
    assert "allow_pickle: true" in caught.value.hint
    for trust in ({"allow_pickle": False, "own": True}, {"allow_pickle": True}):
        assert list(model_folder.load(folder, **trust).predict(numbers)) == LABELS


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "numpy.testing._private.utils.runstring", "sklearn.datasets.load_files",
     "scipy.nowhere.Thing", "functools.partial", "numpy_evil.Thing"],
)  # fmt: skip
def test_types_that_could_run_code_are_refused_by_name(tmp_path: Path, numbers: pd.DataFrame, name: str) -> None:
    """Functions, test helpers and look-alike packages are not on the list."""
    folder = saved(tmp_path / "model", LogisticRegression().fit(numbers, LABELS), [name])
    with pytest.raises(Permanent, match="which may run any code") as caught:
        model_folder.load(folder, allow_pickle=False)
    assert name in caught.value.message


def test_a_foreign_models_code_is_not_imported(tmp_path: Path, numbers: pd.DataFrame) -> None:
    """A file called sklearn.py in it would take the library's place."""
    folder = saved(tmp_path / "model", LogisticRegression().fit(numbers, LABELS))
    (folder / "code").mkdir()
    (folder / "code" / "sklearn.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(Permanent, match="Python files of its own"):
        model_folder.load(folder, allow_pickle=False)
    assert not (tmp_path / "ran").exists()
    elsewhere = saved(tmp_path / "other", LogisticRegression().fit(numbers, LABELS), code="lib")
    with pytest.raises(Permanent, match="Python files of its own"):
        model_folder.load(elsewhere, allow_pickle=False)


def test_a_foreign_model_file_lies_in_its_folder(tmp_path: Path, numbers: pd.DataFrame) -> None:
    """What is outside was not hashed."""
    saved(tmp_path / "other", LogisticRegression().fit(numbers, LABELS))
    folder = saved(tmp_path / "model", LogisticRegression().fit(numbers, LABELS), pickled_model="../other/model.skops")
    with pytest.raises(Permanent, match="outside its folder"):
        model_folder.load(folder, allow_pickle=False)


def test_an_xgboost_flavour_names_a_class_of_xgboost(tmp_path: Path) -> None:
    """MLflow imports the class that the file names."""
    tmp_path.joinpath("MLmodel").write_text(
        yaml.safe_dump(
            {
                "flavors": {
                    "python_function": {"loader_module": "mlflow.xgboost"},
                    "xgboost": {"model_class": "subprocess.Popen"},
                }
            }
        )
    )
    with pytest.raises(Permanent, match=r"subprocess\.Popen"):
        model_folder.load(tmp_path, allow_pickle=False)
