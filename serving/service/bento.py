"""The same bundle as a BentoML service: its tag, its pages and its schema, in front of which our lane answers.

The service imports nothing of BentoML until somebody asks for one of its paths, which keeps its second of start-up
and its 100 MB out of every process that only predicts.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.serving.service.model import Model

if TYPE_CHECKING:
    from tidegate.serving.service.lane import App, Receive, Scope, Send

SERVICE_FILE = "service.py"
BUNDLE = "bundle"
SOURCE = '''"""What BentoML imports: the model in `bundle/`, served by tidegate."""

from pathlib import Path

from tidegate.serving.service.bento import service

model = service(Path(__file__).parent / "bundle")
'''


def service(folder: Path) -> Any:
    """The BentoML service of a bundle; the model is loaded when BentoML makes an instance, not before.

    Tracing, access log and metrics are off: nothing is sent anywhere, and the lane does the counting.
    """
    import bentoml

    from tidegate.serving.service import manifest as manifests

    described = manifests.read(folder)

    class Predictor:
        def __init__(self) -> None:
            self.model = Model(folder)

        @bentoml.api  # type: ignore[untyped-decorator] # bentoml is checked without its types
        def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
            """Predict these rows."""
            answer = self.model.predict(self.model.schema.check(rows))
            return {"predictions": answer.predictions, "probabilities": answer.probabilities}

    Predictor.__doc__ = f"{described.model} version {described.version}"
    made = bentoml.service(
        name=service_name(described.model),
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
        tracing={"excluded_urls": ".*"},
        traffic={"timeout": max(1.0, described.limits.timeout), "max_concurrency": described.limits.max_concurrency},
    )
    return made(Predictor)


def service_name(model: str) -> str:
    """A name that BentoML accepts: lower-case letters, digits, `_`, `-` and `.`, an alphanumeric at both ends."""
    kept = re.sub(r"[^a-z0-9_.-]", "_", model.lower())
    return kept.strip("_-.")[:60].strip("_-.") or "model"


class LazyInner:
    """BentoML's ASGI app, imported and started by the first request that wants it.

    Args:
        folder: the bundle; where it lies in a Bento, the Bento's own `service.py` is what is imported.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._app: App | None = None
        self._lock = asyncio.Lock()
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._lifespan: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if self._app is None:
            async with self._lock:
                if self._app is None:
                    self._app = await self._start()
        await self._app(scope, receive, send)

    async def close(self) -> None:
        """End the inner app's lifespan, if it ever began."""
        if self._lifespan is not None:
            self._events.put_nowait({"type": "lifespan.shutdown"})
            await asyncio.wait([self._lifespan], timeout=5)

    async def _start(self) -> App:
        app = await asyncio.to_thread(self._import)
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def tell(message: Any) -> None:
            if message["type"] == "lifespan.startup.complete" and not started.done():
                started.set_result(None)
            elif message["type"] == "lifespan.startup.failed" and not started.done():
                started.set_exception(RuntimeError(message.get("message", "BentoML's app did not start")))

        self._events.put_nowait({"type": "lifespan.startup"})
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._lifespan = asyncio.ensure_future(app(scope, self._events.get, tell))
        await started
        return app

    def _import(self) -> App:
        root = self._folder.parent
        if self._folder.name == BUNDLE and (root / SERVICE_FILE).is_file():
            sys.path.insert(0, str(root))
            found = importlib.import_module("service").model
        else:
            found = service(self._folder)
        app: App = found.to_asgi()
        return app
