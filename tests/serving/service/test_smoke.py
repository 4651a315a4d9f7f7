"""The smoke request: a served model answers its own golden row, and what is wrong is said in one line."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidegate.serving.service import manifest, smoke


@dataclass(frozen=True)
class Served:
    """A serving process: its address, and the folder of what it serves."""

    url: str
    bundle: Path

    @property
    def described(self) -> manifest.Manifest:
        """What it must answer."""
        return manifest.read(self.bundle)


@pytest.fixture(scope="module")
def served(odd: Any) -> Iterator[Served]:
    """The odd model, served as in its image."""
    port = free_port()
    bundle = Path(odd.bento.bundle)
    command = [sys.executable, "-m", "tidegate.serving.service", "--bundle", str(bundle), "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "TIDEGATE_RELEASE": "r-1"})
    until = time.monotonic() + 30
    while time.monotonic() < until and not ready(port):
        time.sleep(0.05)
    yield Served(f"http://127.0.0.1:{port}", bundle)
    process.terminate()
    process.wait(30)


def free_port() -> int:
    """A free port below the ephemeral range."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def ready(port: int) -> bool:
    """Whether the process has repeated its golden answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_the_models_own_golden_row_is_answered(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the Job runs it: the bundle of the image, the address, the arm."""
    monkeypatch.setenv("TIDEGATE_BUNDLE", str(served.bundle))
    assert smoke.main(["--url", served.url, "--host", "", "--arm", "canary", "--release", "r-1"]) == 0
    assert "the golden row is answered" in capsys.readouterr().out


def test_another_version_is_not_the_canary(served: Served) -> None:
    """The header route did not arrive yet, or the Service points elsewhere."""
    other = msgspec.structs.replace(served.described, version=served.described.version + 1)
    assert "answered and not" in smoke.fault(other, served.url)


def test_another_answer_is_a_fault(served: Served) -> None:
    """A model that computes differently there must not meet a user."""
    golden = served.described.golden
    others = msgspec.structs.replace(golden, predictions=["elsewhere", *golden.predictions[1:]])
    wrong = msgspec.structs.replace(served.described, golden=others)
    assert "and not 'elsewhere'" in smoke.fault(wrong, served.url)
    hooked = msgspec.structs.replace(wrong, hooks="features.py")
    assert smoke.fault(hooked, served.url) == ""


def test_nobody_there_is_a_fault_in_the_end(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried again until the time is over; then the Job fails, and the rollout with it."""
    monkeypatch.setenv("TIDEGATE_BUNDLE", str(served.bundle))
    port = free_port()
    assert smoke.main(["--url", f"http://127.0.0.1:{port}", "--seconds", "0.1"]) == 1
    assert "no answer from" in capsys.readouterr().out
    assert "is no http address" in smoke.fault(served.described, "ftp://127.0.0.1")


class Gateway(BaseHTTPRequestHandler):
    """A gateway that asks for a key and says which arm answered."""

    arm = "stable"

    def do_POST(self) -> None:
        """Answer the golden row, whatever was asked."""
        allowed = self.headers.get("x-api-key") == "good" and self.headers.get("host") == "demand.acme.dev"
        body = b'{"predictions": ["a"]}' if allowed else b'{"error": "no key"}'
        self.send_response(200 if allowed else 401)
        self.send_header("x-tidegate-version", "3")
        self.send_header("x-tidegate-arm", self.headers.get("x-tidegate-arm") if self.arm == "asked" else self.arm)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def test_through_the_gateway_key_host_and_arm_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the key it is refused; an answer of the stable arm is no answer of the canary."""
    golden = manifest.Golden(rows=[{"x": 1}], predictions=["a"])
    described = manifest.Manifest(
        model="demand", version=3, task="classification", runtime="onnx", columns=[], inputs=[], golden=golden
    )
    server = HTTPServer(("127.0.0.1", free_port()), Gateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert "status 401" in smoke.fault(described, url, host="demand.acme.dev", arm="canary")
        monkeypatch.setenv("TIDEGATE_API_KEY", "good")
        assert smoke.fault(described, url, host="demand.acme.dev", arm="canary") == (
            "the stable arm answered and not the canary"
        )
        monkeypatch.setattr(Gateway, "arm", "asked")
        assert smoke.fault(described, url, host="demand.acme.dev", arm="canary") == ""
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
