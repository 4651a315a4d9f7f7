"""The console: one ASGI app with its pages, its JSON API, the intake of labels, and metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException

from tidegate.console import api, intake, pages
from tidegate.console.auth import Access, Guard
from tidegate.console.known import Known
from tidegate.console.metrics import render
from tidegate.console.rendering import Templates
from tidegate.core.errors import Conflict, TidegateError, UsageError
from tidegate.rollouts.report_style import STYLE

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from tidegate.pipelines.environment import Environment

_STATIC: Final = {"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"}
_LOG: Final = logging.getLogger(__name__)


def create_app(environment: Environment, access: Access | None = None) -> ASGIApp:
    """The console of an environment, with the guard around it.

    Args:
        environment: what it shows.
        access: who may open it; by default as the variables and files of this machine say.

    Raises:
        UsageError: TIDEGATE_CONSOLE_TOKENS cannot be read.
    """
    app = FastAPI(
        title=f"tidegate console of {environment.project.config.model}",
        version=version("tidegate"),
        description="What `tidegate` prints with --json, over HTTP. Send `Authorization: Bearer TOKEN`.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    access = access or Access.of(environment)
    known, templates = Known(environment), Templates(environment)
    app.state.known, app.state.access, app.state.templates = known, access, templates
    app.include_router(api.router)
    app.include_router(intake.router(environment))
    app.include_router(pages.router)
    _add_small_ones(app, known)
    _add_errors(app, templates)
    return Guard(
        app, access, lambda request, status, message, hint: _refused(templates, request, status, message, hint)
    )


def _add_small_ones(app: FastAPI, known: Known) -> None:
    folder = Path(__file__).parent / "static"
    # The charts are those of `rollout report`, and so is their style.
    files = {name: (folder / name).read_text(encoding="utf-8") for name in _STATIC}
    files["console.css"] = f"{STYLE}\n{files['console.css']}"

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(render(known), media_type="text/plain; version=0.0.4")

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=_STATIC[name], headers={"cache-control": "max-age=300"})


def _add_errors(app: FastAPI, templates: Templates) -> None:
    @app.exception_handler(TidegateError)
    def known_error(request: Request, error: TidegateError) -> Response:
        return _refused(templates, request, status_of(error), error.message, error.hint)

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> Response:
        what = "There is no such page." if error.status_code == 404 else str(error.detail)  # noqa: PLR2004 - not found
        answer = _refused(templates, request, error.status_code, what, "")
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return _refused(templates, request, 422, f"{told}.", "/api/docs describes every request.")

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        _LOG.error("%s %s", request.method, request.url.path, exc_info=error)
        what = f"An error that tidegate did not expect: {type(error).__name__}."
        return _refused(templates, request, 500, what, "`tidegate logs console` shows where it came from.")


def status_of(error: TidegateError) -> int:
    """The HTTP status of an error of ours; a damaged store is nobody's mistake who asks."""
    if isinstance(error, UsageError):
        return 404
    if isinstance(error, Conflict):
        return 409
    return 503


def _refused(templates: Templates, request: Request, status: int, message: str, hint: str) -> Response:
    """An error as JSON for programs and as a page for people."""
    path = request.url.path
    if (path.startswith("/api/") and path != "/api/docs") or path in {"/metrics", "/labels", "/outcomes"}:
        return _json({"kind": "error", "message": message, "hint": hint}, status)
    return templates.page(request, "error.html", {"message": message, "hint": hint, "status": status}, status)


def _json(document: Mapping[str, Any], status: int) -> Response:
    return Response(json.dumps(document, ensure_ascii=False), status, media_type="application/json")
