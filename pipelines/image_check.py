"""`tidegate doctor image`: starts an image as a cluster would, and compares what it answers with the release.

No network but the machine's own, a root that cannot be written, no capabilities: what runs here runs under
Kubernetes' restricted profile.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tidegate.core.errors import TidegateError, UsageError
from tidegate.pipelines.bundles import bundle_of
from tidegate.pipelines.environment import Environment
from tidegate.pipelines.images import saved, verify
from tidegate.registry import releases
from tidegate.serving.image import builders

if TYPE_CHECKING:
    from tidegate.core.progress import Progress
    from tidegate.serving.image.archive import Layer

START_SECONDS: Final = 60.0
_STEP_SECONDS: Final = 0.05
# As a server's own check of its golden answers allows.
_TOLERANCE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Examined:
    """What was seen of an image; `start` is seconds from the start of the container until it is ready.

    `provider` is what ONNX Runtime computes with, "" for a Python model; `difference` the largest one of a probability.
    """

    reference: str
    digest: str
    release: str
    layers: tuple[Layer, ...]
    size: int
    user: str
    ports: tuple[str, ...]
    start: float
    stop: float
    rows: int
    difference: float
    provider: str
    problems: tuple[str, ...]


def examine(environment: Environment, target: str, progress: Progress) -> Examined:
    """Verify, start, ask and stop an image.

    Raises:
        UsageError: no tool here can run images, or the ledger knows no such image.
        TidegateError: it is not what was recorded, or does not start.
    """
    known = verify(environment, target, progress)
    release = releases.load(environment.store, known.release)
    builder = builders.runner()
    with saved(builder, known.image.reference) as image:
        layers, size, config = image.layers, image.size, dict(image.config["config"])
    golden = _golden(bundle_of(environment.project, release))
    port = _free_port()
    reference = known.image.reference
    with progress.task(f"start {reference}"), _running(builder, reference, port) as (name, start):
        answers = _post(port, {"rows": golden["rows"]})
        provider = str(_get(port, "/").get("provider", ""))
        begun = time.monotonic()
        builders.stop(builder, name)
        stop = time.monotonic() - begun
    difference = _difference(answers, golden)
    user, ports = str(config.get("User", "")), tuple(config.get("ExposedPorts") or ())
    problems = []
    if answers["predictions"] != golden["predictions"] or difference > _TOLERANCE:
        problems.append(f"it predicts other values than the release: up to {difference:.3g} apart")
    if not user.partition(":")[0].isdigit() or user.partition(":")[0] == "0":
        problems.append(f"it runs as {user or 'root'}, and a cluster wants the number of a user that is not root")
    if release.config["serve"]["device"] == "gpu" and provider != "CUDAExecutionProvider":
        problems.append(f"serve.device is gpu, and it computes with {provider or 'no GPU'}")
    return Examined(
        known.image.reference, known.image.digest, known.release, layers, size, user, ports, start, stop,
        len(golden["rows"]), difference, provider, tuple(problems),
    )  # fmt: skip


def _golden(bundle: Any) -> dict[str, Any]:
    """The rows and answers that packaging recorded; hooks that change answers are asked for them here."""
    from tidegate.serving import checked_hooks
    from tidegate.serving.service.model import Model

    model = Model(bundle, load_hooks=checked_hooks.load)
    rows = model.manifest.golden.rows
    answer = model.predict(model.schema.check(rows))
    return {"rows": rows, "predictions": answer.predictions, "probabilities": answer.probabilities}


def _difference(answers: dict[str, Any], golden: dict[str, Any]) -> float:
    """The largest absolute difference of two probabilities, or of two predicted numbers."""
    pairs: list[tuple[Any, Any]] = []
    if golden["probabilities"] is not None:
        for found, expected in zip(answers["probabilities"], golden["probabilities"], strict=True):
            pairs += zip(found, expected, strict=True)
    else:
        pairs = [
            pair
            for pair in zip(answers["predictions"], golden["predictions"], strict=True)
            if all(isinstance(one, int | float) for one in pair)
        ]
    return max((abs(found - expected) for found, expected in pairs), default=0.0)


@contextmanager
def _running(builder: builders.Builder, reference: str, port: int) -> Iterator[tuple[str, float]]:
    name = f"tidegate-doctor-{port}"
    begun = time.monotonic()
    builders.start(builder, reference, name, port)
    try:
        while _status(port) != 200:  # noqa: PLR2004 # HTTP
            if time.monotonic() - begun > START_SECONDS or not builders.lives(builder, name):
                raise TidegateError(
                    f"{reference} was not ready after {time.monotonic() - begun:.0f} s: {builders.logs(builder, name)}",
                    "Its log says why. `tidegate package --image` builds it again.",
                )
            time.sleep(_STEP_SECONDS)
        yield name, time.monotonic() - begun
    finally:
        builders.discard(builder, name)


def _status(port: int) -> int:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


def _get(port: int, path: str, body: bytes | None = None) -> dict[str, Any]:
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST" if body else "GET", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:  # noqa: PLR2004 # HTTP
            raise TidegateError(f"The image answers {response.status}: {content[:300]!r}", "Package it again.")
        found: dict[str, Any] = json.loads(content)
        return found
    finally:
        connection.close()


def _post(port: int, document: dict[str, Any]) -> dict[str, Any]:
    return _get(port, "/predict", json.dumps(document).encode())


def _free_port() -> int:
    """A port below 32768, where no outgoing connection takes it meanwhile."""
    for port in range(18400, 18500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise UsageError("Ports 18400 to 18499 are all taken.", "End what listens there.")
