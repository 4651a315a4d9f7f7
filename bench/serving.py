"""How fast one prediction is, against the two servers people would otherwise use.

Three servers of the same ONNX file (gradient boosting, 100 trees, 10 numbers), each alone on processor 0, asked by one
client on processor 1, interleaved round by round, so that a slow minute of the machine slows all three.

    python bench/serving.py [--seconds 2] [--rounds 3]

Goals: at 32 connections at least twice FastAPI's requests a second and 15 times BentoML's. The ratios hold on other
machines, the absolute numbers do not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from pressed import COLUMNS, free_ports, make_bundle, press, wait_until_serving

TARGETS = {"c32_over_fastapi": 2.0, "c32_over_bentoml": 15.0}

FASTAPI = """
import sys
import numpy as np, onnxruntime, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

class Row(BaseModel):
    {fields}

class Request(BaseModel):
    rows: list[Row]

class Response(BaseModel):
    predictions: list[int]
    probabilities: list[list[float]]

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
app = FastAPI()
names = {names}

@app.post("/predict")
async def predict(request: Request) -> Response:
    feeds = {{n: np.array([[getattr(r, n)] for r in request.rows], dtype=np.float32) for n in names}}
    labels, scores = session.run(None, feeds)
    return Response(predictions=labels.tolist(), probabilities=scores.tolist())

uvicorn.run(app, port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
"""

BENTO = """
import numpy as np, onnxruntime, bentoml
from pydantic import BaseModel

class Row(BaseModel):
    {fields}

names = {names}

@bentoml.service
class Bench:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession({file!r}, options, providers=["CPUExecutionProvider"])

    @bentoml.api
    async def predict(self, rows: list[Row]) -> dict[str, list]:
        feeds = {{n: np.array([[getattr(r, n)] for r in rows], dtype=np.float32) for n in names}}
        labels, scores = self.session.run(None, feeds)
        return {{"predictions": labels.tolist(), "probabilities": scores.tolist()}}
"""


def commands(folder: Path, bundle: Path, file: Path, ports: dict[str, int]) -> dict[str, list[str]]:
    """How each server is started, on processor 0."""
    fields = "\n    ".join(f"{name}: float" for name in COLUMNS)
    (folder / "fastapi_app.py").write_text(FASTAPI.format(fields=fields, names=COLUMNS))
    (folder / "bento_app.py").write_text(BENTO.format(fields=fields, names=COLUMNS, file=str(file)))
    python = ["taskset", "-c", "0", sys.executable]
    service = ["-m", "tidegate.serving.service", "--bundle", str(bundle), "--port", str(ports["tidegate"])]
    bento = ["-m", "bentoml", "serve", "bento_app:Bench", "--working-dir", str(folder)]
    return {
        "tidegate": [*python, *service],
        "fastapi": [*python, str(folder / "fastapi_app.py"), str(file), str(ports["fastapi"])],
        "bentoml": [*python, *bento, "--port", str(ports["bentoml"]), "--host", "127.0.0.1"],
    }


def quantile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return round(1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))], 3)


def summary(measured: dict[tuple[str, int], list[tuple[list[float], int]]], seconds: float) -> dict[str, Any]:
    """Medians over the rounds, and our ratios to the others in the same round."""
    servers: dict[str, Any] = {}
    for (name, concurrency), rounds in measured.items():
        every = [value for took, _ in rounds for value in took]
        servers.setdefault(name, {})[f"c{concurrency}"] = {
            "rps": round(statistics.median(len(took) / seconds for took, _ in rounds)),
            "p50_ms": quantile(every, 0.5),
            "p99_ms": quantile(every, 0.99),
            "failed": sum(failed for _, failed in rounds),
        }
    ratios = {
        f"c{concurrency}_over_{other}": round(
            statistics.median(
                len(ours[0]) / max(1, len(theirs[0]))
                for ours, theirs in zip(measured["tidegate", concurrency], measured[other, concurrency], strict=True)
            ),
            2,
        )
        for other in ("fastapi", "bentoml")
        for concurrency in (1, 32)
    }
    ok = all(ratios[name] >= target for name, target in TARGETS.items())
    return {"kind": "bench", "name": "serving", "ratios": ratios, "targets": TARGETS, "ok": ok, "servers": servers}


def main() -> None:
    """Start, measure, stop, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of each server and concurrency")
    chosen = parser.parse_args()
    environment = os.environ | {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1"}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    measured: dict[tuple[str, int], list[tuple[list[float], int]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bundle, file = make_bundle(folder)
        ports = free_ports(["tidegate", "fastapi", "bentoml"])
        os.sched_setaffinity(0, {1})
        starts = {}
        try:
            for name, command in commands(folder, bundle, file, ports).items():
                quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                env = {**environment, "BENTOML_HOME": str(folder / "bentoml")}
                processes[name] = subprocess.Popen(command, env=env, start_new_session=True, **quiet)
                starts[name] = round(wait_until_serving(ports[name], processes[name]), 2)
            # A client on Python's own loop would be the slowest part.
            client = asyncio.Runner(loop_factory=uvloop.new_event_loop)
            for _ in range(chosen.rounds):
                for concurrency in (1, 32):
                    for name, port in ports.items():
                        result = client.run(press(port, concurrency, chosen.seconds))
                        measured.setdefault((name, concurrency), []).append(result)
        finally:
            for process in processes.values():
                os.killpg(process.pid, signal.SIGTERM)
            for process in processes.values():
                process.wait(20)
    document = summary(measured, chosen.seconds) | {"start_seconds": starts}
    print(json.dumps(document))
    sys.exit(not document["ok"])


if __name__ == "__main__":
    main()
