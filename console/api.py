"""The JSON API: the documents that commands print with --json, described at /api/openapi.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from tidegate.console import views
from tidegate.console.known import Known
from tidegate.console.reports import Window
from tidegate.pipelines import documents

_MOST_EVENTS: Final = 1000


class Problem(BaseModel):
    """What went wrong, and what to do about it."""

    kind: str
    message: str
    hint: str


class Document(BaseModel):
    """A document of tidegate's; `kind` names what it is."""

    model_config = ConfigDict(extra="allow")

    kind: str


class Promotion(BaseModel):
    """Pass the step, or the whole rollout."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500, description="Why; it is kept in the ledger.")
    full: bool = Field(default=False, description="Go to 100 % at once, not only to the next step.")
    step: int | None = Field(
        default=None, ge=0, le=1000, description="Refuse if the rollout is in another step than this by now."
    )


class Abortion(BaseModel):
    """Send every user back to the champion."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500, description="Why; it is kept in the ledger.")


# The guard has checked who asks; this is here so that the description says so.
_BEARER: Final = HTTPBearer(auto_error=False, description="A token of TIDEGATE_CONSOLE_TOKENS, or console.token.")

_READS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": Problem, "description": "No token, or a wrong one."},
    404: {"model": Problem, "description": "There is no such thing."},
    409: {"model": Problem, "description": "Nothing of the kind has happened yet, or it is over."},
    422: {"model": Problem, "description": "The request cannot be understood."},
    429: {"model": Problem, "description": "Too many wrong tokens."},
    503: {"model": Problem, "description": "The store cannot be read."},
}
_ACTS: Final = _READS | {
    400: {"model": Problem, "description": "The body is no text."},
    403: {"model": Problem, "description": "A viewer may look, not act."},
    413: {"model": Problem, "description": "The body is too long."},
}

router = APIRouter(prefix="/api", tags=["tidegate"], dependencies=[Depends(_BEARER)])
RolloutId = Annotated[str, Path(description="A rollout's id, or a beginning of it.", max_length=100)]
ReleaseId = Annotated[str, Path(description="A release's id, or a beginning of it.", max_length=100)]


def known_of(request: Request) -> Known:
    """What the console knows."""
    found: Known = request.app.state.known
    return found


Ask = Annotated[Known, Depends(known_of)]


@router.get("/status", responses=_READS, response_model=Document)
def status(known: Ask) -> Response:
    """Where everything stands: champion, open rollout, newest window, open retrain, freeze, processes."""
    return strict(status_document(known))


@router.get("/rollouts", responses=_READS, response_model=Document)
def rollouts(known: Ask) -> Response:
    """Every rollout, oldest first: `tidegate rollout history`."""
    return strict(documents.rollouts(known.state))


@router.get("/rollouts/{rollout}", responses=_READS, response_model=Document)
def rollout(known: Ask, rollout: RolloutId) -> Response:
    """Where a rollout stands: `tidegate rollout status`."""
    return strict(documents.rollout(known.environment, known.rollout(rollout).id))


@router.get("/rollouts/{rollout}/report", responses=_READS, response_model=Document)
def report(known: Ask, rollout: RolloutId) -> Response:
    """A rollout with every decision and every block: `tidegate rollout report`."""
    return strict(known.report(known.rollout(rollout).id).to_dict())


@router.post("/rollouts/{rollout}/promote", responses=_ACTS, response_model=Document)
def promote(known: Ask, request: Request, rollout: RolloutId, asked: Promotion) -> Response:
    """Pass this step or shadow phase, or the whole rollout, whatever the judge says; needs an operator."""
    action = "full" if asked.full else "promote"
    return strict(known.act(action, rollout, asked.reason, request.scope["visitor"].actor, step=asked.step))


@router.post("/rollouts/{rollout}/abort", responses=_ACTS, response_model=Document)
def abort(known: Ask, request: Request, rollout: RolloutId, asked: Abortion) -> Response:
    """Send every user back to the champion and end the rollout; needs an operator."""
    return strict(known.act("abort", rollout, asked.reason, request.scope["visitor"].actor))


@router.get("/windows", responses=_READS, response_model=Document)
def windows(known: Ask, most: Annotated[int, Query(ge=1, le=100, description="The newest so many.")] = 24) -> Response:
    """The newest windows of live data, oldest first, each with its `monitor run` document."""
    found = [{**_watched(one), "report": dict(one.document) or None} for one in known.windows(most)]
    return strict({"kind": "windows", "windows": found})


@router.get("/releases", responses=_READS, response_model=Document)
def releases(known: Ask) -> Response:
    """Every release and what became of it: `tidegate release list`."""
    return strict(documents.release_list(known.environment)[0])


@router.get("/releases/{release}", responses=_READS, response_model=Document)
def release(known: Ask, release: ReleaseId) -> Response:
    """Everything a release is made of: `tidegate release show`."""
    return strict(documents.release(known.environment, release))


@router.get("/lineage/{question}", responses=_READS, response_model=Document)
def lineage(
    known: Ask,
    question: Annotated[str, Path(description="PREDICTION_ID, release:ID, version:N or data:MD5.", max_length=200)],
) -> Response:
    """Where a prediction came from, or what came of a release, version or data: `tidegate why`."""
    from tidegate.pipelines.lineage import why

    return strict(why(known.environment, question))


@router.get("/events", responses=_READS, response_model=Document)
def events(
    known: Ask,
    since: Annotated[int, Query(ge=0, le=10**9, description="The first event's number.")] = 0,
    most: Annotated[int, Query(ge=1, le=_MOST_EVENTS, description="At most so many.")] = 100,
    kind: Annotated[str | None, Query(max_length=50, description="Only this kind.")] = None,
) -> Response:
    """The ledger, oldest first: `tidegate events`; `next` is where to go on."""
    past = known.events
    wanted = [one for one in past[since:] if kind in {None, one.kind}][:most]
    after = wanted[-1].seq + 1 if len(wanted) == most else len(past)
    return strict({"kind": "events", "events": [documents.event(one) for one in wanted], "next": after})


@router.get("/labels", responses=_READS, response_model=Document)
def labels(known: Ask) -> Response:
    """How many predictions have their label, and how soon labels come: `tidegate labels status` of 30 days."""
    return strict(known.labels())


def status_document(known: Known) -> dict[str, Any]:
    """The document of /api/status."""
    state, environment, stack = known.state, known.environment, known.stack()
    newest, retrain = known.windows(1), state.open_retrain
    return {
        "kind": "status",
        "model": environment.project.config.model,
        "env": environment.project.env,
        "champion": _release(state.champion, state.versions),
        "challenger": _release(state.challenger, state.versions),
        "champion_since": views.overview.champion_since(state, known.events) or None,
        "rollout": environment.driver.status(state.open_rollout.id) if state.open_rollout else None,
        "window": _watched(newest[0]) if newest else None,
        "retrain": {"id": retrain.id, "reason": retrain.reason, "started_at": retrain.started_at} if retrain else None,
        "frozen": state.frozen,
        "up": stack is not None,
        "processes": stack["processes"] if stack else [],
        "events": state.length,
    }


def strict(document: Mapping[str, Any]) -> Response:
    """JSON that every parser reads: what is no number is null."""
    return Response(json.dumps(_plain(document), ensure_ascii=False, allow_nan=False), media_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    # numpy's numbers know their plain form; numpy itself is not imported for that.
    if hasattr(value, "item"):
        return _plain(value.item())
    return value.isoformat() if isinstance(value, datetime) else value


def _release(release: str | None, versions: Mapping[str, int]) -> dict[str, Any] | None:
    return {"release": release, "version": versions.get(release)} if release else None


def _watched(window: Window) -> dict[str, Any]:
    watched = window.watched
    return {
        "id": window.id,
        "from": watched.since,
        "to": watched.until,
        "outcome": watched.outcome,
        "share": watched.share,
        "lost": watched.lost,
        "retrain": {"asked": watched.asked, "reason": watched.reason},
    }
