"""Boosted trees of XGBoost and LightGBM are served as ONNX, like every model that converts exactly."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tidegate.serving import boosted
from tidegate.serving.convert import TOLERANCE, NotConverted, convert
from tidegate.serving.service.manifest import Input

INPUTS = [Input("price", "price", "number"), Input("volume", "volume", "number"), Input("city", "city", "string")]
ROWS = 600


def estimator(name: str) -> Any:
    """A small one of the library; where it cannot be loaded the reason is told."""
    library, _, kind = name.partition(".")
    try:
        module = importlib.import_module(library)
    except (ImportError, OSError) as error:
        pytest.skip(f"{library} cannot be loaded here: {error}")
    quiet = {"verbose": -1} if library == "lightgbm" else {}
    return getattr(module, kind)(n_estimators=20, n_jobs=1, **quiet)


def table() -> pd.DataFrame:
    """Numbers and a category."""
    rng = np.random.default_rng(1)
    price, volume = rng.normal(size=ROWS), rng.integers(0, 9, ROWS).astype(float)
    return pd.DataFrame({"price": price, "volume": volume, "city": rng.choice(["oslo", "rome"], ROWS)})


def truths(frame: pd.DataFrame, kind: str, classes: int) -> Any:
    """A number, or a class that follows it."""
    value = frame["price"] + (frame["city"] == "oslo") + frame["volume"] / 9
    return value if kind.endswith("Regressor") else pd.qcut(value, classes, labels=False)


def fitted(last: Any, y: Any) -> Any:
    """A pipeline as users write it, with the boosted trees at its end."""
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough")
    return make_pipeline(columns, last).fit(table(), y)


def columns() -> dict[str, Any]:
    """The table as the service has it."""
    frame = table()
    return {name: frame[name].to_numpy(object if name == "city" else float) for name in frame}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "name", ["xgboost.XGBClassifier", "xgboost.XGBRegressor", "lightgbm.LGBMClassifier", "lightgbm.LGBMRegressor"]
)
def test_it_answers_as_its_own_library_does(tmp_path: Path, name: str, classes: int) -> None:
    """Compared on the rows and on missing values and categories that nobody has seen, like every conversion."""
    model = fitted(estimator(name), truths(table(), name, classes))
    converted = convert(model, INPUTS, columns(), tmp_path / "model.onnx")
    assert converted.difference <= TOLERANCE
    assert converted.rows > ROWS


def test_without_onnxmltools_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model stays Python, and `model show` says what to install."""
    model = fitted(estimator("xgboost.XGBClassifier"), truths(table(), "Classifier", 2))
    monkeypatch.setitem(sys.modules, "onnxmltools", None)
    with pytest.raises(NotConverted, match="onnxmltools, which is not installed"):
        convert(model, INPUTS, columns(), tmp_path / "model.onnx")


def test_other_models_keep_the_newest_operators(tmp_path: Path) -> None:
    """That a boosted library is loaded changes no other model's file."""
    model = fitted(LogisticRegression(), truths(table(), "Classifier", 2))
    assert boosted.used(model) == ()
    convert(model, INPUTS, columns(), tmp_path / "model.onnx")
    versions = {one.domain: one.version for one in onnx.load(tmp_path / "model.onnx").opset_import}
    assert versions["ai.onnx.ml"] != boosted.TREES
