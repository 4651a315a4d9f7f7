"""What the benches of the serving process share: a bundle, and a client that presses its port."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, cast

COLUMNS = [f"x{i}" for i in range(10)]


def make_bundle(folder: Path) -> tuple[Path, Path]:
    """A fitted model as a bundle, and its ONNX file with the columns' own names."""
    import numpy as np
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline

    from tidegate.serving import convert, rows
    from tidegate.serving.service import manifest, model, tensors

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(4000, len(COLUMNS))), columns=COLUMNS)
    target = (frame.sum(axis=1) + rng.normal(size=4000) > 0).astype(int)
    estimator = make_pipeline(
        make_column_transformer(("passthrough", COLUMNS)), HistGradientBoostingClassifier(max_iter=100)
    ).fit(frame, target)
    columns = [manifest.Column(name, "number") for name in COLUMNS]
    inputs = [manifest.Input(name, name, "number") for name in COLUMNS]
    bundle = folder / "bundle"
    bundle.mkdir()
    prepared = tensors.frame_columns(columns, frame)
    made = convert.convert(estimator, inputs, prepared, bundle / "model.onnx")
    golden_rows = rows.request_rows(columns, frame.head(5))
    empty = manifest.Golden([], [])
    described: dict[str, Any] = {"model": "bench", "version": 1, "task": "classification", "runtime": "onnx"}
    described |= {"columns": columns, "inputs": list(made.inputs), "classes": [0, 1]}
    manifest.write(manifest.Manifest(**described, golden=empty), bundle)
    loaded = model.Model(bundle)
    answer = loaded.plain(loaded.schema.check(golden_rows))
    golden = manifest.Golden(golden_rows, answer.predictions, answer.probabilities)
    manifest.write(manifest.Manifest(**described, golden=golden), bundle)
    return bundle, bundle / "model.onnx"


def request_bytes(port: int) -> bytes:
    """One POST /predict of one row."""
    body = json.dumps({"rows": [{name: 0.1 * i for i, name in enumerate(COLUMNS)}]}).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """Sends the same request again as soon as the answer is whole, and keeps the seconds of each."""

    def __init__(self, request: bytes, seconds: list[float], failed: list[bytes]) -> None:
        self.request, self.seconds, self.failed = request, seconds, failed
        self.transport: asyncio.Transport | None = None
        self.buffer = b""
        self.begun = 0.0
        self.going = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are none of asyncio's classes.
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        """The next request."""
        assert self.transport is not None
        self.begun = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        start = lower.index(b"content-length:") + 15
        if len(body) < int(lower[start:].split(b"\r\n", 1)[0]):
            return
        if head.startswith(b"HTTP/1.1 200"):
            self.seconds.append(time.perf_counter() - self.begun)
        else:
            self.failed.append(self.buffer[:200])
        self.buffer = b""
        if self.going:
            self.send()


async def press(port: int, concurrency: int, seconds: float) -> tuple[list[float], int]:
    """Seconds of every answered request, and how many were refused."""
    took: list[float] = []
    failed: list[bytes] = []
    loop = asyncio.get_running_loop()
    request = request_bytes(port)
    made = [
        await loop.create_connection(lambda: Connection(request, took, failed), "127.0.0.1", port)
        for _ in range(concurrency)
    ]
    await asyncio.sleep(seconds)
    for transport, protocol in made:
        protocol.going = False
        transport.close()
    return took, len(failed)


def free_ports(names: list[str]) -> dict[str, int]:
    """Ports below the ephemeral range."""
    found: dict[str, int] = {}
    candidate = 21_000 + os.getpid() % 9_000
    for name in names:
        while True:
            candidate += 1
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", candidate)) != 0:
                    found[name] = candidate
                    break
    return found


def wait_until_serving(port: int, process: subprocess.Popen[bytes]) -> float:
    """Seconds until the first prediction is answered."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < 60:
        assert process.poll() is None, "a server ended"
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as client:
                client.settimeout(5)
                client.sendall(request_bytes(port))
                if client.recv(100).startswith(b"HTTP/1.1 200"):
                    return time.perf_counter() - begun
        except OSError:
            pass
        time.sleep(0.02)
    raise TimeoutError(port)
