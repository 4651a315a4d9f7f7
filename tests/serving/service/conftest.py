"""Bundles made the real way: a fitted estimator, an MLflow model folder, `package`, a Bento on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
import yaml
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tidegate.core.config import Serve
from tidegate.serving.package import BentoRef, Source, package
from tidegate.serving.rows import request_rows
from tidegate.serving.service import hooks as hook_files
from tidegate.serving.service import tensors
from tidegate.serving.service.batch import Batcher
from tidegate.serving.service.lane import Lane
from tidegate.serving.service.manifest import Column, Input
from tidegate.serving.service.model import Model

# A keyword, a space and a dot, a letter beyond ASCII, a leading digit, and names that clash with ONNX outputs.
KINDS = {
    "class": "number",
    "a b.c": "integer",
    "città": "string",
    "2nd": "boolean",
    "label": "number",
    "probabilities": "number",
}


def odd_frame(rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """Columns with odd names, every kind but times, and missing values."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "class": rng.normal(size=rows),
            "a b.c": rng.integers(0, 9, rows),
            "città": rng.choice(np.array(["Roma", "Nice", "Köln", None], dtype=object), rows),
            "2nd": pd.array(rng.random(rows) < 0.5, dtype="boolean"),
            "label": rng.normal(size=rows) * 1e4,
            "probabilities": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
        }
    )
    frame["town"] = (frame["città"] == "Roma").to_numpy()
    return frame


@dataclass
class Maker:
    """Fits, saves and packages models in one temporary folder."""

    root: Path
    made: int = 0

    def columns(self, frame: pd.DataFrame, kinds: Mapping[str, str]) -> list[Column]:
        """Request columns of the frame."""
        return [Column(name, kind, bool(frame[name].isna().any())) for name, kind in kinds.items()]  # type: ignore[arg-type] # checked by the struct

    def folder(
        self,
        estimator: Any,
        columns: list[Column],
        *,
        task: str,
        hooks: str | None = None,
        inputs: list[str] | None = None,
    ) -> Path:
        """An MLflow model folder as `train` leaves it."""
        self.made += 1
        folder = self.root / f"model{self.made}"
        folder.mkdir()
        skops.io.dump(estimator, folder / "model.skops")
        kinds = {c.name: "string" if c.kind == "string" else "number" for c in columns}
        metadata: dict[str, Any] = {
            "format": 1,
            "columns": [{"name": c.name, "kind": c.kind, "nullable": c.nullable} for c in columns],
            "inputs": [{"name": name, "kind": kinds.get(name, "number")} for name in inputs or list(kinds)],
            "task": task,
            "classes": estimator.classes_.tolist() if task == "classification" else None,
            "hooks": "features.py" if hooks else None,
        }
        if hooks:
            (folder / "code").mkdir()
            (folder / "code" / "features.py").write_text(hooks)
        flavor = {
            "pickled_model": "model.skops",
            "serialization_format": "skops",
            "skops_trusted_types": skops.io.get_untrusted_types(file=folder / "model.skops"),
        }
        document = {"flavors": {"sklearn": flavor}, "metadata": {"tidegate": metadata}}
        (folder / "MLmodel").write_text(yaml.safe_dump(document))
        return folder

    def package(self, folder: Path, holdout: pd.DataFrame, truth: Any = None, **serve: Any) -> BentoRef:
        """The Bento of a model folder."""
        source = Source(folder, "demand", 3)
        return package(source, holdout, truth, serve=Serve(**serve), bento_home=self.root / "bentoml")

    def inputs(self, columns: list[Column], frame: pd.DataFrame) -> pd.DataFrame:
        """What the estimator is fitted with: the path that training takes."""
        prepared = hook_files.run_prepare(hook_files.Hooks(), tensors.frame_columns(columns, frame))
        return tensors.native_frame(_plain_inputs(columns), prepared)


def _plain_inputs(columns: list[Column]) -> Any:
    return [Input(c.name, c.name, "string" if c.kind == "string" else "number") for c in columns]


def pipeline(columns: list[Column], **settings: Any) -> Any:
    """Encoders before HistGradientBoosting, as the default train.py does."""
    text = [c.name for c in columns if c.kind == "string"]
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), text), remainder="passthrough"
    )
    return make_pipeline(encoder, HistGradientBoostingClassifier(**{"max_iter": 20, "random_state": 0, **settings}))


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Makes bundles."""
    return Maker(tmp_path_factory.mktemp("bundles"))


@dataclass(frozen=True)
class OddModel:
    """A packaged model of the odd frame."""

    bento: BentoRef
    columns: list[Column]
    estimator: Any
    frame: pd.DataFrame


@pytest.fixture(scope="session")
def odd(maker: Maker) -> OddModel:
    """A binary classifier on columns with odd names, as ONNX."""
    frame = odd_frame()
    columns = maker.columns(frame, KINDS)
    estimator = pipeline(columns).fit(maker.inputs(columns, frame), frame["town"])
    folder = maker.folder(estimator, columns, task="classification")
    return OddModel(maker.package(folder, frame[300:], frame["town"][300:]), columns, estimator, frame)


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


async def call(
    lane: Lane, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Reply:
    """One request straight into the ASGI app."""
    given = {"content-type": "application/json", **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return waiting.pop() if waiting else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await lane(scope, receive, send)
    return Reply(
        sent[0]["status"],
        {name.decode(): value.decode() for name, value in sent[0]["headers"]},
        b"".join(part.get("body", b"") for part in sent[1:]),
    )


class Served:
    """A lane with a warm model and a loop of its own."""

    def __init__(self, model: OddModel) -> None:
        self.model = Model(model.bento.bundle)
        self.model.warm()
        self.lane = Lane(release="r-1234567890")
        self.lane.serve(self.model, Batcher(self.model.predict, 5.0))
        self.rows = request_rows(model.columns, model.frame)
        self.runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    def __call__(self, method: str, path: str, body: Any = b"", **headers: str) -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.run(call(self.lane, method, path, raw, named))

    def close(self) -> None:
        self.runner.close()

    def predict(self, *rows: Any, **headers: str) -> Reply:
        """POST /predict."""
        return self("POST", "/predict", {"rows": rows}, **headers)

    def infer(self, rows: list[dict[str, Any]]) -> Reply:
        inputs = [
            {"name": name, "shape": [len(rows)], "datatype": "BYTES", "data": [row[name] for row in rows]}
            for name in rows[0]
        ]
        return self("POST", "/v2/models/demand/infer", {"id": "seven", "inputs": inputs})


@pytest.fixture(scope="session")
def served(odd: OddModel) -> Iterator[Served]:
    """The odd model behind a lane."""
    made = Served(odd)
    yield made
    made.close()


@pytest.fixture(scope="session")
def ask() -> Any:
    """Sends one request straight into a lane."""
    return call
