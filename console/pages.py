"""The pages, rendered here; the script only replaces parts of an open page by newer ones of the same address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from markupsafe import Markup

from tidegate.console import traffic, views
from tidegate.console.api import Ask
from tidegate.console.auth import SESSION_SECONDS, Access, TooMany, Visitor, address_of, form_of
from tidegate.console.known import Known
from tidegate.console.rendering import Templates
from tidegate.core.errors import Conflict, TidegateError, UsageError
from tidegate.core.metrics import DIRECTIONS
from tidegate.pipelines import console_access, documents
from tidegate.registry.ledger import Event
from tidegate.registry.state import GRAMMAR, RolloutState

router = APIRouter(include_in_schema=False)

_WINDOWS: Final = 36
"""On the pages about windows: a day and a half of hours."""
_PAGE: Final = 50
_DONE: Final = {
    "promote": "The step was passed by hand.",
    "full": "The rollout was promoted by hand.",
    "abort": "The rollout was aborted.",
}


@router.get("/")
def overview(request: Request, known: Ask) -> Response:
    """Where everything stands, and what waits for a person."""
    state, events, stack = known.state, known.events, known.stack()
    windows, rollout = known.windows(24), state.open_rollout
    return _page(
        request,
        "overview.html",
        state=state,
        champion=views.words.version(state.champion, state) if state.champion else None,
        since=views.overview.champion_since(state, events),
        previous=views.words.version(state.previous, state) if state.previous else None,
        challenger=views.words.version(state.challenger, state) if state.challenger else None,
        needs=views.overview.needs(state, windows, is_up=stack is not None),
        shares=views.overview.traffic(state),
        rollout=known.environment.driver.status(rollout.id) if rollout else None,
        windows=windows,
        qualities=views.quality.quality_rows(windows[-1:]),
        retrain=state.retrains[-1] if state.retrains else None,
        stack=stack,
        served=traffic.served(stack),
        told=[views.ledger.told(one, state) for one in views.ledger.decisions(events)],
    )


@router.get("/rollouts")
def rollouts(request: Request, known: Ask) -> Response:
    """Every rollout, newest first."""
    state = known.state
    rows = [
        (one, views.words.version(one.canary, state), views.words.version(one.stable, state)) for one in state.rollouts
    ]
    return _page(request, "rollouts.html", rows=rows[::-1])


@router.get("/rollouts/{rollout}")
def rollout(request: Request, known: Ask, rollout: str, done: str = "") -> Response:
    """One rollout: where it stands, what can be done, and its evidence over time."""
    return _rollout(request, known, known.rollout(rollout), done=_DONE.get(done, ""))


@router.post("/rollouts/{rollout}")
def act(request: Request, known: Ask, rollout: str) -> Response:
    """Promote or abort, as the person saw it."""
    form, visitor = form_of(request), request.scope["visitor"]
    found, action = known.rollout(rollout), form.get("action", "")
    if action not in _DONE:
        raise UsageError("There is no such action.", "Open the page again.")
    step = int(form["step"]) if form.get("step", "").isdecimal() and len(form["step"]) < 4 else None  # noqa: PLR2004 - of a step's index
    shadowing = form["shadowing"] == "yes" if "shadowing" in form else None
    try:
        known.act(action, found.id, form.get("reason", ""), visitor.actor, step=step, shadowing=shadowing)
    except (Conflict, UsageError) as error:
        return _rollout(request, known, known.rollout(found.id), error=error, typed=form.get("reason", ""))
    return RedirectResponse(f"/rollouts/{found.id}?done={action}", HTTPStatus.SEE_OTHER)


def _rollout(
    request: Request,
    known: Known,
    rollout: RolloutState,
    *,
    done: str = "",
    error: TidegateError | None = None,
    typed: str = "",
) -> Response:
    from tidegate.rollouts import report_page

    top = evidence = Markup()
    problem = error
    try:
        report = known.report(rollout.id)
        top, evidence = (Markup(part(report)) for part in (report_page.top, report_page.evidence))  # noqa: S704 - both escape every text
    except TidegateError as found:
        problem = problem or found
    document = documents.rollout(known.environment, rollout.id)
    return _page(
        request,
        "rollout.html",
        HTTPStatus.CONFLICT if error else HTTPStatus.OK,
        rollout=rollout,
        document=document,
        top=top,
        evidence=evidence,
        done=done,
        problem=problem,
        typed=typed,
    )


@router.get("/drift")
def drift(request: Request, known: Ask) -> Response:
    """Windows over time: which columns drifted, and by how much."""
    windows = known.windows(_WINDOWS)
    limit = known.environment.project.config.monitor.drift.drifted_share
    newest = windows[-1] if windows else None
    return _page(
        request,
        "drift.html",
        windows=windows,
        gaps=views.drift.gaps(windows),
        chart=views.drift.share_chart(windows, limit),
        heat=views.drift.heat_map(windows),
        newest=newest,
        bars=views.drift.bars(newest) if newest else [],
        has_html=known.reports.has_html(newest) if newest else False,
        monitor=known.environment.project.config.monitor,
    )


@router.get("/drift/{window}")
def window(request: Request, known: Ask, window: str) -> Response:
    """One window."""
    found = known.window(window)
    return _page(
        request,
        "window.html",
        window=found,
        bars=views.drift.bars(found),
        qualities=views.quality.quality_rows([found]),
        has_html=known.reports.has_html(found),
    )


@router.get("/drift/{window}/evidently.html")
def evidently(known: Ask, window: str) -> Response:
    """Evidently's own page of a window: made from data, so it runs as a stranger that can reach nothing of ours."""
    content = known.reports.html(known.window(window))
    if content is None:
        raise UsageError("There is no Evidently report of this window.", "`tidegate monitor run` writes one.")
    policy = (
        "sandbox allow-scripts allow-popups; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:; frame-ancestors 'none'"
    )
    return Response(content, media_type="text/html; charset=utf-8", headers={"content-security-policy": policy})


@router.get("/quality")
def quality(request: Request, known: Ask) -> Response:
    """Labels, and quality of each version over time."""
    windows, monitor = known.windows(_WINDOWS), known.environment.project.config.monitor
    rows = views.quality.quality_rows(windows)
    # A metric of the user's own says it with its answers.
    said = next((one.better for one in rows if one.better), DIRECTIONS.get(monitor.quality.metric, "higher"))
    return _page(
        request,
        "quality.html",
        labels=views.labels.labels(known.labels()),
        rows=rows,
        charts=views.quality.quality_charts(rows, monitor.quality.tolerance, higher_is_better=said == "higher"),
        monitor=monitor,
    )


@router.get("/lineage")
def lineage(request: Request, known: Ask, q: Annotated[str, Query(max_length=200)] = "") -> Response:
    """A search box, every release, and where what was asked for came from."""
    from tidegate.pipelines.lineage import why

    found: Mapping[str, Any] | None = None
    problem: TidegateError | None = None
    asked = q.strip()
    try:
        found = why(known.environment, asked) if asked else None
    except TidegateError as error:
        problem = error
    releases, damaged = documents.release_list(known.environment)
    state = known.state
    chains = list(found.get("releases") or [found]) if found else []
    named = [
        [views.ledger.told(event, state) for event in known.events if event.seq in _numbers(one)] for one in chains
    ]
    return _page(
        request,
        "lineage.html",
        HTTPStatus.NOT_FOUND if problem else HTTPStatus.OK,
        q=q,
        chains=list(zip(chains, named, strict=True)),
        problem=problem,
        releases=releases["releases"][::-1],
        damaged=damaged,
    )


def _numbers(chain: Mapping[str, Any]) -> set[int]:
    return {event["seq"] for event in chain.get("events", ())}


@router.get("/ledger")
def ledger(
    request: Request,
    known: Ask,
    kind: Annotated[str, Query(max_length=50)] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    before: Annotated[int | None, Query(ge=0, le=10**9)] = None,
) -> Response:
    """Every decision and who took it, newest first, a page at a time."""
    state, events = known.state, known.events
    past: Sequence[Event] = events if before is None else events[:before]
    rows: list[tuple[views.ledger.Told, Event]] = []
    older = None
    for event in reversed(past):
        if kind and event.kind != kind:
            continue
        told = views.ledger.told(event, state)
        if q and q.lower() not in f"{told.what} {told.because} {told.actor} {event.data}".lower():
            continue
        if len(rows) == _PAGE:
            older = rows[-1][0].seq
            break
        rows.append((told, event))
    kinds = [one for one in GRAMMAR if any(event.kind == one for event in events)]
    return _page(
        request, "ledger.html", rows=rows, older=older, kinds=kinds, kind=kind, q=q, total=len(events), before=before
    )


@router.get("/live")
def live(known: Ask) -> Response:
    """What open pages ask every other second: whether there may be something new."""
    return JSONResponse({"version": known.version()})


@router.get("/api/docs")
def api_docs(request: Request) -> Response:
    """The API for people, without a library from elsewhere."""
    return _page(request, "docs.html", endpoints=views.endpoints.endpoints(request.app.openapi()))


# --- who asks --------------------------------------------------------------------------------------------------------


@router.get("/login")
def login_form(request: Request) -> Response:
    """Ask for a token."""
    if request.scope.get("visitor") is not None:
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)
    return _login(request, known_of_login(request))


@router.post("/login")
def login(request: Request) -> Response:
    """Begin a session with a token."""
    access: Access = request.app.state.access
    try:
        role = access.role_of(form_of(request).get("token", "").strip(), address_of(request))
    except TooMany:
        return _login(request, known_of_login(request), "Too many wrong tokens: try again in a minute.", 429)
    if role is None:
        return _login(request, known_of_login(request), "This token is wrong.", HTTPStatus.FORBIDDEN)
    return _begin(request, access.begin(role))


@router.get("/login/{code}")
def login_by_link(request: Request, known: Ask, code: str) -> Response:
    """Begin a session with a link that `tidegate up` printed; it works once."""
    access: Access = request.app.state.access
    if not console_access.redeem(known.environment, code):
        said = "This link was used, or is older than an hour."
        return _login(request, known_of_login(request), said, HTTPStatus.FORBIDDEN)
    return _begin(request, access.begin("operator"))


@router.post("/logout")
def logout(request: Request) -> Response:
    """End the session."""
    answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    answer.delete_cookie(request.app.state.access.cookie, path="/", httponly=True, samesite="strict")
    return answer


def known_of_login(request: Request) -> str:
    """Where this machine's token is; servers have theirs from elsewhere."""
    known: Known = request.app.state.known
    file = console_access.token_file(known.environment)
    return str(file.relative_to(known.environment.project.root)) if file.exists() else ""


def _login(request: Request, token_file: str, problem: str = "", status: int = 200) -> Response:
    return _page(request, "login.html", status, token_file=token_file, problem=problem)


def _begin(request: Request, cookie: str) -> Response:
    answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        request.app.state.access.cookie,
        cookie,
        max_age=SESSION_SECONDS,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


def _page(request: Request, name: str, status: int = 200, /, **more: Any) -> Response:
    templates: Templates = request.app.state.templates
    visitor: Visitor | None = request.scope.get("visitor")
    live = visitor is not None and request.method == "GET"
    version = request.app.state.known.version() if live else ""
    return templates.page(request, name, {"live": version, **more}, status)
