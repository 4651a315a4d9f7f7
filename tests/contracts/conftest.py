"""A bundle that a real process serves: the smallest model, packaged the real way."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A logistic regression on two numbers, as ONNX."""
    import pandas as pd
    import skops.io
    import yaml
    from sklearn.linear_model import LogisticRegression

    from tidegate.core.config import Serve
    from tidegate.serving.package import Source, package

    root = tmp_path_factory.mktemp("bundle")
    frame = pd.DataFrame({"price": [0.0, 1.0, 2.0, 3.0] * 10, "volume": [1.0, 0.0] * 20})
    estimator = LogisticRegression().fit(frame, [0, 0, 1, 1] * 10)
    folder = root / "model"
    folder.mkdir()
    skops.io.dump(estimator, folder / "model.skops")
    columns = [{"name": name, "kind": "number", "nullable": False} for name in frame.columns]
    said = {"format": 1, "columns": columns, "inputs": [{"name": one["name"], "kind": "number"} for one in columns]}
    metadata = {**said, "task": "classification", "classes": [0, 1], "hooks": None}
    flavor = {"pickled_model": "model.skops", "serialization_format": "skops", "skops_trusted_types": []}
    (folder / "MLmodel").write_text(
        yaml.safe_dump({"flavors": {"sklearn": flavor}, "metadata": {"tidegate": metadata}})
    )
    return package(Source(folder, "demand", 1), frame, None, serve=Serve(), bento_home=root / "bentoml").bundle
