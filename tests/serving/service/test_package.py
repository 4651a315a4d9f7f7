"""A model folder becomes a bundle that answers like the model, as ONNX or with the reason why not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, PolynomialFeatures, StandardScaler

from tidegate.core.config import Threshold
from tidegate.core.errors import TidegateError
from tidegate.serving import threshold
from tidegate.serving.rows import request_rows
from tidegate.serving.service import manifest as manifests
from tidegate.serving.service.manifest import Column, Golden, Input, Manifest
from tidegate.serving.service.model import Model

ELECTRICITY = Path(__file__).parents[3].parent / "shared" / "data" / "elec.csv"


def numbers(frame: pd.DataFrame) -> dict[str, str]:
    return dict.fromkeys(frame.columns, "number")


def served(bundle: Path, frame: pd.DataFrame) -> Any:
    """The bundle's answer to every row of the frame, by the path of a request."""
    model = Model(bundle)
    return model.predict(model.schema.check(request_rows(model.manifest.columns, frame)))


def test_a_bento_of_electricity_answers_like_the_python_model(maker: Any) -> None:
    """36,000 rows of training, 9,312 of holdout, on both paths."""
    if not ELECTRICITY.exists():
        pytest.skip("../shared/data/elec.csv is not here")
    frame = pd.read_csv(ELECTRICITY)
    features, target = frame.drop(columns="class"), frame["class"]
    columns = maker.columns(features, numbers(features))
    model = HistGradientBoostingClassifier(max_iter=50).fit(maker.inputs(columns, features[:36_000]), target[:36_000])
    built = maker.package(maker.folder(model, columns, task="classification"), features[36_000:], target[36_000:])
    assert built.runtime == "onnx", built.reason
    holdout = features[36_000:].head(3_000)
    answer = served(built.bundle, holdout)
    assert np.abs(np.array(answer.probabilities) - model.predict_proba(holdout)).max() < 1e-5
    assert answer.predictions == model.predict(holdout).tolist()
    assert (built.path / "bento.yaml").is_file()


def test_regression_and_three_classes_keep_their_values(maker: Any) -> None:
    """Numbers for numbers, and labels that are strings."""
    features, target = load_diabetes(as_frame=True, return_X_y=True)
    columns = maker.columns(features, numbers(features))
    model = HistGradientBoostingRegressor(max_iter=30).fit(maker.inputs(columns, features), target)
    built = maker.package(maker.folder(model, columns, task="regression"), features[300:])
    assert built.runtime == "onnx"
    answer = served(built.bundle, features)
    assert answer.probabilities is None
    assert np.allclose(answer.predictions, model.predict(features), rtol=1e-5)

    features, classes = load_wine(as_frame=True, return_X_y=True)
    names = classes.map({0: "barolo", 1: "grignolino", 2: "barbera"})
    columns = maker.columns(features, numbers(features))
    wine = make_pipeline(StandardScaler(), LogisticRegression()).fit(maker.inputs(columns, features), names)
    built = maker.package(maker.folder(wine, columns, task="classification"), features)
    answer = served(built.bundle, features)
    assert built.runtime == "onnx"
    assert answer.predictions == wine.predict(features).tolist()
    assert np.allclose(answer.probabilities, wine.predict_proba(features), atol=1e-5)


def test_a_conversion_that_is_silently_wrong_is_refused(maker: Any, odd: Any) -> None:
    """Native categories of HistGradientBoosting convert without an error to other probabilities."""
    encoder = make_column_transformer((OrdinalEncoder(), ["città"]), remainder="passthrough")
    frame = odd.frame.assign(città=odd.frame["città"].fillna("nowhere"))
    columns = maker.columns(frame, {c.name: c.kind for c in odd.columns})
    model = make_pipeline(encoder, HistGradientBoostingClassifier(categorical_features=[0], max_iter=20))
    rng = np.random.default_rng(1)
    target = (frame["città"].isin(["Roma", "nowhere"]).to_numpy() ^ (rng.random(len(frame)) < 0.1)).astype(int)
    model.fit(maker.inputs(columns, frame), target)
    built = maker.package(maker.folder(model, columns, task="classification"), frame[300:])
    assert built.runtime == "native"
    assert "differs from the Python model" in built.reason
    answer = served(built.bundle, frame[:100])
    assert np.allclose(answer.probabilities, model.predict_proba(maker.inputs(columns, frame[:100])))


def test_an_onnx_form_without_an_answer_is_refused(maker: Any) -> None:
    """Squares of 1e20 do not fit a 32-bit float: what is no number there is the largest difference, not none."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.uniform(1, 2, 400) * 1e20, "b": rng.uniform(1, 2, 400) * 1e20})
    target = (frame.a * frame.b - frame.a**2) / 1e40 + rng.normal(0, 0.01, 400)
    squares = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler())
    model = make_pipeline(make_column_transformer((squares, ["a", "b"])), Ridge(1e-6))
    columns = maker.columns(frame, numbers(frame))
    model.fit(maker.inputs(columns, frame), target)
    built = maker.package(maker.folder(model, columns, task="regression"), frame[300:])
    assert (built.runtime, "differs from the Python model by inf" in built.reason) == ("native", True)
    assert np.allclose(served(built.bundle, frame[:50]).predictions, model.predict(frame[:50]))


def test_a_model_without_exact_converter_stays_python(maker: Any) -> None:
    """With the reason, and it serves; `runtime: native` asks for that."""
    features, target = load_breast_cancer(as_frame=True, return_X_y=True)
    columns = maker.columns(features, numbers(features))
    model = HistGradientBoostingClassifier(max_iter=10).fit(maker.inputs(columns, features), target)
    folder = maker.folder(model, columns, task="classification")
    built = maker.package(folder, features, runtime="native")
    assert (built.runtime, built.reason) == ("native", "serve.runtime is native")
    assert np.allclose(served(built.bundle, features).probabilities, model.predict_proba(features))
    with pytest.raises(TidegateError, match="gpu"):
        maker.package(folder, features, runtime="native", device="gpu")


def test_hooks_prepare_inputs_and_respond(maker: Any) -> None:
    """A time becomes numbers on the way in, a label becomes words on the way out."""
    hooks = (
        "import numpy as np\n"
        "def prepare(columns):\n"
        "    at = columns.pop('at')\n"
        "    hour = (at.astype('datetime64[h]').astype(int) % 24).astype(float)\n"
        "    return {**columns, 'hour': np.where(np.isnat(at), np.nan, hour)}\n"
        "def respond(predictions):\n"
        "    return ['late' if one else 'early' for one in predictions]\n"
    )
    at = pd.Series(pd.date_range("2026-01-01", periods=400, freq="h"))
    at[7] = pd.NaT
    frame = pd.DataFrame({"at": at, "x": np.random.default_rng(0).normal(size=400)})
    columns = [Column("at", "datetime", nullable=True), Column("x", "number")]
    inputs = pd.DataFrame({"x": frame["x"], "hour": at.dt.hour.astype(float)})
    model = HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5).fit(inputs, at.dt.hour >= 12)
    folder = maker.folder(model, columns, task="classification", hooks=hooks, inputs=["x", "hour"])
    built = maker.package(folder, frame)
    assert built.runtime == "onnx"
    assert served(built.bundle, frame[:24]).predictions == [
        "late" if hour >= 12 else "early" for hour in at[:24].dt.hour
    ]


BUILD = """
import sys, time
from pathlib import Path
import bentoml
from tidegate.serving import package
from tidegate.serving.service import manifest
bundle, home, others = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
bundle.with_suffix(".ready").touch()
while len(list(others.glob("*/*.ready"))) < 2:
    time.sleep(0.01)
print(package.build(package.Draft(bundle, manifest.read(bundle), 0), 3, home).tag)
"""


@pytest.mark.slow
def test_two_builds_of_the_same_content_at_once_are_one(odd: Any, tmp_path: Path) -> None:
    """Two `ship`s: nobody is told that it exists already."""
    builders = []
    for name in ("first", "second"):
        bundle = tmp_path / "drafts" / name / "bundle"
        shutil.copytree(odd.bento.bundle, bundle)
        line = [sys.executable, "-c", BUILD, str(bundle), str(tmp_path / "home"), str(tmp_path / "drafts")]
        builders.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    said = [builder.communicate(timeout=120) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], said
    assert [out.strip() for out, _ in said] == [odd.bento.tag] * 2


def test_what_a_killed_build_left_and_what_was_changed_is_built_again(maker: Any) -> None:
    """A Bento counts only if it is whole and holds what was gated."""
    features, target = load_diabetes(as_frame=True, return_X_y=True)
    columns = maker.columns(features, numbers(features))
    model = HistGradientBoostingRegressor(max_iter=5).fit(maker.inputs(columns, features), target)
    folder = maker.folder(model, columns, task="regression")
    built = maker.package(folder, features)
    content = manifests.digest(built.bundle)
    (built.path / "bento.yaml").unlink()
    assert maker.package(folder, features).tag == built.tag
    assert (built.path / "bento.yaml").is_file()
    (built.bundle / "model.onnx").write_bytes(b"another model")
    again = maker.package(folder, features)
    assert (again.tag, manifests.digest(again.bundle)) == (built.tag, content)


def test_the_same_content_is_the_same_bento(maker: Any, odd: Any) -> None:
    """Nothing is built twice, and other content has another tag."""
    again = maker.package(maker.folder(odd.estimator, odd.columns, task="classification"), odd.frame[300:])
    assert again.tag == odd.bento.tag
    other = maker.package(
        maker.folder(odd.estimator, odd.columns, task="classification"), odd.frame[300:], threshold=0.3
    )
    assert other.tag != odd.bento.tag
    assert other.threshold == 0.3


def test_a_bundle_that_was_changed_is_not_ready(odd: Any, tmp_path: Path) -> None:
    """The golden rows catch a swapped model, a missing file, a damaged manifest and a newer format."""
    bundle = tmp_path / "bundle"
    shutil.copytree(odd.bento.bundle, bundle)
    Model(bundle).warm()
    described = manifests.read(bundle)
    golden = described.golden
    flipped = Golden(golden.rows, [not one for one in golden.predictions], golden.probabilities)
    import msgspec

    manifests.write(msgspec.structs.replace(described, golden=flipped), bundle)
    with pytest.raises(TidegateError, match="where packaging recorded"):
        Model(bundle).warm()
    manifests.write(msgspec.structs.replace(described, format=2), bundle)
    with pytest.raises(TidegateError, match="format 2"):
        Model(bundle)
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(TidegateError, match="damaged"):
        Model(bundle)
    manifests.write(described, bundle)
    (bundle / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(TidegateError, match="cannot be opened"):
        Model(bundle)


@given(st.floats(0.05, 0.95), st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=60))
def test_a_threshold_reaches_its_precision_with_the_highest_recall(wanted: float, rows: list[tuple[int, bool]]) -> None:
    """Against the definition, tried on every candidate."""
    scores = np.array([score / 20 for score, _ in rows])
    positive = np.array([truth for _, truth in rows])

    def precision_and_found(cut: float) -> tuple[float, int]:
        taken = positive[scores >= cut]
        return float(taken.mean()), int(taken.sum())

    tried = [precision_and_found(cut) for cut in np.unique(scores)]
    reached = [found for precision, found in tried if precision >= wanted]
    if not positive.any() or not reached:
        with pytest.raises(TidegateError):
            threshold.fix(Threshold(precision=wanted), scores, positive)
    else:
        precision, found = precision_and_found(threshold.fix(Threshold(precision=wanted), scores, positive))
        assert precision >= wanted
        assert found == max(reached)


_columns = st.lists(
    st.builds(Column, st.text(max_size=9), st.sampled_from(["number", "string", "datetime"]), st.booleans()), max_size=4
)


@given(
    st.builds(
        Manifest,
        model=st.text(max_size=9),
        version=st.integers(1, 99),
        task=st.sampled_from(["classification", "regression", "custom"]),
        runtime=st.sampled_from(["onnx", "native"]),
        columns=_columns,
        inputs=st.lists(st.builds(Input, st.text(max_size=5), st.text(max_size=5), st.just("number")), max_size=3),
        golden=st.builds(Golden, st.just([{"a": 1.5, "b": None}]), st.lists(st.integers() | st.text(), max_size=3)),
        classes=st.none() | st.lists(st.booleans() | st.integers(-5, 5) | st.text(max_size=4), max_size=3),
        threshold=st.none() | st.floats(0, 1),
    )
)
def test_a_manifest_that_was_written_reads_back(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> None:
    """Every field, label types included."""
    folder = tmp_path_factory.mktemp("manifest")
    manifests.write(manifest, folder)
    assert manifests.read(folder) == manifest
