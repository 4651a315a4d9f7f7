"""XGBoost and LightGBM in scikit-learn models: skl2onnx converts them with onnxmltools, once it knows how."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

_CLASSES: Final = (
    ("xgboost", "XGBClassifier", "XGBoostXGBClassifier", "classifier"),
    ("xgboost", "XGBRegressor", "XGBoostXGBRegressor", "regressor"),
    ("lightgbm", "LGBMClassifier", "LightGbmLGBMClassifier", "classifier"),
    ("lightgbm", "LGBMRegressor", "LightGbmLGBMRegressor", "regressor"),
)
TREES: Final = 3
"""The version of ONNX's machine-learning operators that these converters write."""


def used(model: Any) -> tuple[str, ...]:
    """Which of the two libraries a fitted estimator, or one inside it, comes from."""
    parts = [model, *(model.get_params(deep=True).values() if hasattr(model, "get_params") else ())]
    found = {type(one).__module__.partition(".")[0] for one in parts}
    return tuple(sorted(found & {library for library, *_ in _CLASSES}))


def teach(libraries: tuple[str, ...]) -> None:
    """Make the converters of these libraries, which are loaded, known to skl2onnx.

    Raises:
        ImportError: onnxmltools is not installed.
    """
    import onnxmltools  # noqa: F401 - whether it is there, before skl2onnx learns a part
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator

    for library, name, alias, kind in _CLASSES:
        if library in libraries:
            shape = getattr(shape_calculator, f"calculate_linear_{kind}_output_shapes")
            options = {"zipmap": [True, False, "columns"], "nocl": [True, False]} if kind == "classifier" else {}
            model = getattr(sys.modules[library], name)
            update_registered_converter(model, alias, shape, _converter(library), options=options)


def _converter(library: str) -> Callable[..., Any]:
    if library == "xgboost":
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as converter
    else:
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm as converter
    return converter  # type: ignore[no-any-return]  # it has no types
