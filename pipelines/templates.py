"""The files that `tidegate init` writes into a project. They belong to the user from then on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tidegate.pipelines.yaml_text import flow

GITIGNORE: Final = (".tidegate/*", "!.tidegate/schema.json", "/out/", "__pycache__/", ".venv/", ".env")
DVCIGNORE: Final = (".tidegate", ".venv", "__pycache__")
PACKAGES: Final = ("numpy", "pandas", "scikit-learn", "scipy", "skops")

CONFIG: Final = """\
# yaml-language-server: $schema=.tidegate/schema.json
# Every key and its meaning: `tidegate schema`. What is in force, defaults included: `tidegate config`.
version: 1
model: {model}
task: {task}
data:
  path: {path}
  target: {target}
{drop}  split: {split}
contract: contract.yaml
train:
{train}
gate:
  tolerance: {tolerance}   # may be this much worse than the champion
serve:
  runtime: onnx
{code}rollout:
  unit: {{header: x-user-id, cookie: tg_uid}}   # who stays on one arm
"""

TRAIN: Final = '''\
"""Trains the model. tidegate calls train() with the rows that are not held out."""

from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoosting{kind}
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

FEW = 20  # a column of text with at most so many different values gets one input for each of them


def train(X, y, params):
    """Fit on X (one column per input: numbers with NaN, or text) and y; params are train.params of tidegate.yaml."""
    text = [name for name in X.columns if X[name].dtype == object]
    numbers = [name for name in X.columns if name not in text]
    few = [name for name in text if X[name].nunique() <= FEW]
    many = [name for name in text if name not in few]
    encoders = [
        ("few", OneHotEncoder(handle_unknown="ignore", sparse_output=False), few),
        ("many", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), many),
        ("numbers", "passthrough", numbers),  # the trees take missing values as they are
    ]
    model = make_pipeline(
        ColumnTransformer([encoder for encoder in encoders if encoder[2]]),
        HistGradientBoosting{kind}(**{{"random_state": 0, **params}}),
    )
    return model.fit(X, y)
'''

FEATURES: Final = '''\
"""Turns raw columns into the model's inputs; runs before training, in evaluation and in serving alike."""

import numpy as np

EPOCH = np.datetime64("2000-01-01", "D")  # any fixed day; changing it needs a new training


def prepare(columns):
    """Times become calendar numbers; every other column stays as it is."""
    inputs = {}
    for name, values in columns.items():
        if values.dtype.kind == "M":
            inputs.update(calendar(name, values))
        else:
            inputs[name] = values
    return inputs


def calendar(name, times):
    """Year, month, day of the week (0 is Monday), hour, and days since a fixed date; NaN where there is no time."""
    days, months, years = (times.astype(f"datetime64[{unit}]") for unit in "DMY")
    parts = {
        "year": years.astype(np.int64) + 1970,
        "month": (months - years).astype(np.int64) + 1,
        "weekday": (days.astype(np.int64) + 3) % 7,  # 1970-01-01 was a Thursday
        "hour": (times.astype("datetime64[h]") - days).astype(np.int64),
        "days": (days - EPOCH).astype(np.int64),
    }
    missing = np.isnat(times)
    return {f"{name}_{part}": np.where(missing, np.nan, values.astype(np.float64)) for part, values in parts.items()}
'''

STAGES: Final = """\
# The reproducible half of the road. `tidegate train` runs it in one process; `dvc repro` gives the same result.
stages:
  contract:
    cmd: tidegate step contract
{wdir}    deps: {contract_deps}
    params: [{{tidegate.yaml: {contract_params}}}]
    outs: [out/contract.json]
  train:
    cmd: tidegate step train
{wdir}    deps: {train_deps}
    params: [{{tidegate.yaml: {train_params}}}]
    outs: [out/model, out/run.json]
  evaluate:
    cmd: tidegate step evaluate
{wdir}    deps: {evaluate_deps}
    params: [{{tidegate.yaml: {evaluate_params}}}]
    outs: [out/evaluation]
"""


def config(values: Mapping[str, Any]) -> str:
    """The text of tidegate.yaml for `model, task, path, target, drop, split, train, code, tolerance`."""
    drop = f"  drop: {flow(values['drop'])}\n" if values["drop"] else ""
    train = "\n".join(f"  {key}: {flow(value)}" for key, value in values["train"].items())
    code = f"  code: {flow(values['code'])}   # calendar numbers from times\n" if values["code"] else ""
    plain = {key: flow(values[key]) for key in ("model", "task", "path", "target", "split", "tolerance")}
    return CONFIG.format(**plain, drop=drop, train=train, code=code)


def train(task: str) -> str:
    """The text of train.py."""
    return TRAIN.format(kind="Classifier" if task == "classification" else "Regressor")


def stages(
    data: str,
    contract: str,
    code: tuple[Sequence[str], Sequence[str]],
    *,
    params: Mapping[str, Sequence[str]],
    train_outs: Sequence[str] = (),
    wdir: str = "",
) -> str:
    """The text of a dvc.yaml.

    Args:
        data: path of the data file.
        contract: path of the contract.
        code: files that training reads and files that measuring reads, hooks included in both.
        params: sections of tidegate.yaml that decide each of contract, train and evaluate.
        train_outs: outputs of the user's own training stage, which comes first.
        wdir: the project seen from the folder of this dvc.yaml, if it is not the same.
    """
    training, measuring = code
    return STAGES.format(
        wdir=f"    wdir: {wdir}\n" if wdir else "",
        contract_deps=flow([contract, data]),
        train_deps=flow(["out/contract.json", data, *training, *train_outs]),
        evaluate_deps=flow([data, "out/model", "out/run.json", *measuring]),
        **{f"{step}_params": flow(list(keys)) for step, keys in params.items()},
    )


def requirements() -> str:
    """The text of requirements.txt: what the model is made with, at the versions in use."""
    from importlib.metadata import version

    return "".join(f"{name}=={version(name)}\n" for name in PACKAGES)
