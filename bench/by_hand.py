"""The first `tidegate ship`, written by hand: the same libraries, the same calls, one process, no tidegate.

    python bench/by_hand.py FOLDER

FOLDER is what `tidegate init` leaves behind: data in DVC, a contract, a train function, an empty MLflow database.
This is what a competent engineer would write for that one project: every file is read once, every prediction is made
once, nothing is checked twice. bench/ship.py compares the two.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

OPT_OUTS = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "GIT_PYTHON_REFRESH": "quiet",
}
SERVICE = """
from pathlib import Path
import bentoml
import numpy as np
import onnxruntime

@bentoml.service
class Model:
    def __init__(self) -> None:
        file = Path(__file__).parent / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    @bentoml.api
    def predict(self, rows: list[dict]) -> dict:
        names = [entry.name for entry in self.session.get_inputs()]
        feeds = {name: np.array([[row[name]] for row in rows], dtype=np.float32) for name in names}
        labels, scores = self.session.run(None, feeds)
        return {"predictions": labels.tolist(), "probabilities": scores.tolist()}
"""


def verify_data(path: str) -> str:
    """The md5 that DVC recorded, after hashing the file."""
    recorded: str = yaml.safe_load(Path(f"{path}.dvc").read_text())["outs"][0]["md5"]
    with Path(path).open("rb") as stream:
        assert hashlib.file_digest(stream, "md5").hexdigest() == recorded, f"{path} is not what DVC recorded"
    return recorded


def check_contract(frame: pd.DataFrame, file: Path) -> dict[str, Any]:
    """Validate with Great Expectations; gives its report."""
    import great_expectations as gx
    from great_expectations.expectations.registry import get_expectation_impl

    entries = yaml.safe_load(file.read_text())["expectations"]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("data").add_dataframe_asset("data")
    batch = asset.add_batch_definition_whole_dataframe("data").get_batch({"dataframe": frame})
    expectations = []
    for entry in entries:
        kwargs = {key: value for key, value in entry.items() if key not in {"type", "severity", "why"}}
        expectations.append(get_expectation_impl(entry["type"])(**kwargs))
    report = batch.validate(gx.ExpectationSuite(name="contract", expectations=expectations))
    assert report.success, report
    assert len(report.results) == len(entries), report
    return dict(report.to_json_dict())


def holdout_split(frame: pd.DataFrame, target: str, share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows and holdout, stratified."""
    from sklearn.model_selection import train_test_split

    train, holdout = train_test_split(frame, test_size=share, random_state=0, stratify=frame[target])
    return train, holdout


def log_model(run_id: str, model: Any, inputs: pd.DataFrame, out: Path) -> str:
    """Log with signature, example and pinned requirements, and copy the folder to `out`; gives the model's URI."""
    import mlflow
    import mlflow.sklearn
    import skops.io
    from mlflow.models import infer_signature

    example = inputs.head(5)
    info = mlflow.sklearn.log_model(
        model,
        name="model",
        signature=infer_signature(example, model.predict(example)),
        input_example=example,
        pip_requirements=Path("requirements.txt").read_text().split(),
        serialization_format="skops",
        skops_trusted_types=skops.io.get_untrusted_types(data=skops.io.dumps(model)),
    )
    out.mkdir()
    mlflow.artifacts.download_artifacts(artifact_uri=info.model_uri, dst_path=str(out / "model"))
    (out / "run.json").write_text(json.dumps({"run_id": run_id}))
    return str(info.model_uri)


def evaluate(truth: np.ndarray, scores: np.ndarray, folder: Path) -> dict[str, float]:
    """Metrics, predictions and two plots of the holdout."""
    import numpy as np
    import pandas as pd
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn import metrics
    from sklearn.calibration import calibration_curve

    labels, positive = scores.argmax(axis=1), scores[:, 1]
    measured = {
        "accuracy": metrics.accuracy_score(truth, labels),
        "average_precision": metrics.average_precision_score(truth, positive),
        "brier": metrics.brier_score_loss(truth, positive),
        "f1": metrics.f1_score(truth, labels),
        "log_loss": metrics.log_loss(truth, scores),
        "precision": metrics.precision_score(truth, labels),
        "recall": metrics.recall_score(truth, labels),
        "roc_auc": metrics.roc_auc_score(truth, positive),
    }
    measured = {name: float(value) for name, value in measured.items()}
    (folder / "plots").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(measured))
    pd.DataFrame({"y_true": truth, "prediction": labels, "score": positive}).to_parquet(folder / "predictions.parquet")
    figure = Figure(figsize=(4, 4), dpi=120, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts = metrics.confusion_matrix(truth, labels)
    axes.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, f"{count:,}", ha="center", va="center")
    axes.set(xlabel="predicted", ylabel="true", title="Confusion matrix, holdout")
    figure.savefig(folder / "plots" / "confusion_matrix.png")
    figure = Figure(figsize=(4, 4), dpi=120, layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    seen, said = calibration_curve(truth, positive, n_bins=10, strategy="quantile")
    axes.plot([0, 1], [0, 1], linestyle="--")
    axes.plot(said, seen, marker="o")
    axes.set(xlabel="predicted probability", ylabel="observed share", title="Calibration, holdout")
    figure.savefig(folder / "plots" / "calibration.png")
    return measured


def convert(model: Any, inputs: pd.DataFrame, native: np.ndarray, file: Path) -> float:
    """Write the model as ONNX and compare it with the Python model on the holdout."""
    import numpy as np
    import onnxruntime
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    types = [(name, FloatTensorType([None, 1])) for name in inputs.columns]
    graph = convert_sklearn(model, initial_types=types, options={id(model): {"zipmap": False}})
    file.write_bytes(graph.SerializeToString())
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feeds = {name: inputs[name].to_numpy(dtype=np.float32).reshape(-1, 1) for name in inputs.columns}
    difference = float(np.abs(session.run(None, feeds)[1] - native).max())
    assert difference < 1e-4, difference
    return difference


def build_bento(name: str, version: int, onnx: Path, home: Path) -> str:
    """Build a Bento around the ONNX file without locking packages."""
    os.environ["BENTOML_HOME"] = str(home)
    import bentoml

    (onnx.parent / "service.py").write_text(SERVICE)
    built = bentoml.bentos.build(
        "service:Model",
        name=name,
        version=str(version),
        build_ctx=str(onnx.parent),
        python={"packages": ["onnxruntime", "numpy"], "lock_packages": False},
    )
    return str(built.tag)


def commit_stages() -> None:
    """Record inputs and outputs of every stage in dvc.lock and DVC's cache, as `dvc repro` would have."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        repo.commit(force=True)


def register(name: str, uri: str, run_id: str, tags: dict[str, str]) -> int:
    """A version of the run's model, with its alias."""
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model(name)
    made = client.create_model_version(name, uri, run_id, tags=tags, await_creation_for=None)
    client.set_registered_model_alias(name, "champion", made.version)
    return int(made.version)


def git(*arguments: str) -> str:
    """What git says."""
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def ship(config: dict[str, Any]) -> dict[str, Any]:
    """The whole road; gives what there is to say about it."""
    import pandas as pd

    data, name = config["data"], config["model"]
    md5 = verify_data(data["path"])
    frame = pd.read_csv(data["path"])
    out = Path("out")
    report = check_contract(frame, Path(config["contract"]))

    import mlflow

    sys.path.insert(0, ".")
    from train import train as fit  # type: ignore[import-not-found]  # the project's own file

    train, holdout = holdout_split(frame, data["target"], data["split"]["holdout"])
    inputs, test = (part.drop(columns=data["target"]).astype("float64") for part in (train, holdout))
    mlflow.set_tracking_uri("sqlite:///.tidegate/mlflow.db")
    mlflow.set_experiment(name)
    tags = {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "data.md5": md5}
    with mlflow.start_run(tags=tags) as run:
        mlflow.log_params(config["train"]["params"])
        model = fit(inputs, train[data["target"]], config["train"]["params"])
        uri = log_model(run.info.run_id, model, inputs, out)
        dataset = mlflow.data.from_pandas(frame, source=data["path"], targets=data["target"], digest=md5[:8])
        mlflow.log_input(dataset, context="training", tags={"dvc.md5": md5})
        scores = model.predict_proba(test)
        measured = evaluate(holdout[data["target"]].to_numpy(), scores, out / "evaluation")
        mlflow.log_metrics(measured)
        mlflow.log_artifacts(str(out / "evaluation"), "evaluation")
    (out / "contract.json").write_text(json.dumps(report, default=str))
    commit_stages()
    with tempfile.TemporaryDirectory() as scratch:
        onnx = Path(scratch, "model.onnx")
        difference = convert(model, test, scores, onnx)
        version = register(name, uri, run.info.run_id, tags)
        bento = build_bento(name, version, onnx, Path(".tidegate/bentoml").resolve())
    return {"bento": bento, "version": version, "metrics": measured, "onnx_difference": difference}


def main() -> None:
    """Ship the project in the given folder."""
    os.environ.update(OPT_OUTS)
    os.chdir(sys.argv[1])
    config = yaml.safe_load(Path("tidegate.yaml").read_text())
    shutil.rmtree("out", ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print(json.dumps(ship(config)))


if __name__ == "__main__":
    main()
