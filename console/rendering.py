"""Templates and what they may call. Everything that a template writes is escaped, unless this module marked it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment as Jinja
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from tidegate.console.views.times import period
from tidegate.console.views.words import RETRAIN_WORDS, ROLLOUT_LOOKS, WINDOW_LOOKS, WINDOW_WORDS
from tidegate.core.units import span
from tidegate.rollouts.charts import Chart, figure
from tidegate.serving.service.records import utc

if TYPE_CHECKING:
    from starlette.requests import Request

    from tidegate.pipelines.environment import Environment

NAVIGATION: Final = (
    ("/", "Overview"),
    ("/rollouts", "Rollouts"),
    ("/drift", "Drift"),
    ("/quality", "Quality"),
    ("/lineage", "Lineage"),
    ("/ledger", "Ledger"),
)


class Templates:
    """The pages of one environment.

    Args:
        environment: whose model and name are on every page.
    """

    def __init__(self, environment: Environment) -> None:
        self._jinja = Jinja(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._jinja.filters |= {
            "when": when,
            "ago": ago,
            "span": span,
            "per_cent": per_cent,
            "odds": odds,
            "digits": digits,
            "pretty": pretty,
        }
        self._jinja.globals |= {
            "model": environment.project.config.model,
            "env": environment.project.env,
            "navigation": NAVIGATION,
            "rollout_looks": ROLLOUT_LOOKS,
            "window_looks": WINDOW_LOOKS,
            "window_words": WINDOW_WORDS,
            "retrain_words": RETRAIN_WORDS,
            "period": period,
            "figure": drawn,
        }

    def page(self, request: Request, name: str, more: Mapping[str, Any], status: int = 200) -> HTMLResponse:
        """Render a template for whoever asks."""
        visitor = request.scope.get("visitor")
        text = self._jinja.get_template(name).render(visitor=visitor, path=request.url.path, **more)
        return HTMLResponse(text, status)


def drawn(name: str, chart: Chart, how: str) -> Markup:
    """A chart, which escapes its own texts."""
    return Markup(figure(name, chart, how))  # noqa: S704 - `figure` escapes every text


def when(at: str | float | None) -> Markup | str:
    """A moment (ISO 8601, or seconds since the epoch) in UTC."""
    if not at:
        return "-"
    moment = _moment(at)
    iso = moment.isoformat(timespec="seconds")
    return Markup('<time datetime="{}">{}</time>').format(iso, f"{moment:%Y-%m-%d %H:%M:%S} UTC")


def ago(at: str | float | None) -> Markup | str:
    """How long ago a moment was; the page's script keeps it true."""
    if not at:
        return "-"
    moment = _moment(at)
    text = f"{span((datetime.now(UTC) - moment).total_seconds())} ago"
    title = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}" data-ago>{}</time>').format(
        moment.isoformat(timespec="seconds"), title, text
    )


def odds(log_e: float) -> str:
    """Evidence as a bet; the words of the judge bring numpy, which the first page of a process need not wait for."""
    from tidegate.rollouts import words

    return words.odds(log_e)


def per_cent(share: float) -> str:
    """A share with the digits that matter."""
    from tidegate.rollouts import words

    return words.per_cent(share)


def digits(value: float | None) -> str:
    """Three digits of a number, `-` where there is none."""
    return "-" if value is None else f"{value:.3g}"


def pretty(document: object) -> Markup:
    """JSON for reading."""
    return escape(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def _moment(at: str | float) -> datetime:
    if isinstance(at, int | float):
        return datetime.fromtimestamp(at, UTC)
    return utc(datetime.fromisoformat(at))
