"""What goes into an image, and at which version."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from tidegate.core.errors import TidegateError
from tidegate.serving.image import pins


def test_an_image_of_onnx_holds_what_serves_and_no_training() -> None:
    """Each at the version that is installed here; BentoML and what it needs are left out."""
    own, shared = pins.serving()
    names = {pin.partition("==")[0] for pin in own}
    assert f"onnxruntime=={version('onnxruntime')}" in own
    assert {"numpy", "msgspec", "uvicorn", "httptools", "pyarrow"} <= names
    assert not names & {"bentoml", "mlflow", "scikit-learn", "pandas", "dvc", "evidently", "pip", "typer", "pydantic"}
    assert shared == ()


def test_a_python_model_brings_what_its_requirements_name(tmp_path: Path) -> None:
    """With all that those need, but not MLflow, which serving does without."""
    file = tmp_path / "requirements.txt"
    file.write_text(f"mlflow==3.17.2\nscikit-learn=={version('scikit-learn')}  # pinned\n")
    names = {pin.partition("==")[0] for pin in pins.serving(file)[0]}
    assert {"scikit-learn", "scipy", "joblib", "threadpoolctl"} <= names
    assert "mlflow" not in names


def test_a_version_that_is_not_here_is_refused(tmp_path: Path) -> None:
    """The image would serve another model than the one that passed the gate."""
    file = tmp_path / "requirements.txt"
    file.write_text("numpy==1.0.0\n")
    with pytest.raises(TidegateError, match=r"The model needs numpy==1.0.0, but numpy .* is installed here"):
        pins.serving(file)


def test_a_package_that_is_missing_is_named() -> None:
    """ONNX Runtime for GPUs is not installed on a machine without one."""
    with pytest.raises(TidegateError, match="needs the package onnxruntime-gpu, which is not installed here"):
        pins.serving(gpu=True)
