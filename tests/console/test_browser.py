"""The console in a real browser: what people see, what is live, what they can do, and what data cannot do to them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from happened import HOSTILE, OPERATOR, PREDICTION, VIEWER, fill, recorder, served
from recorded import GOOD

from tidegate.pipelines import console_access
from tidegate.pipelines.environment import Environment

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
PATHS = ("/", "/rollouts", "/rollouts/o-1a2b", "/drift", "/quality", f"/lineage?q={PREDICTION}", "/ledger", "/api/docs")
PATIENCE = 30_000  # milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a screen."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("there is no chromium on this machine (Debian: apt-get install chromium)")
    # Chromium's own sandbox refuses to run as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=arguments)
        yield opened
        opened.close()


@contextmanager
def visiting(browser: Browser, address: str, token: str, width: int = 1280) -> Iterator[tuple[Page, list[str]]]:
    """A page of somebody who logged in, and everything that went wrong in it."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(PATIENCE)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: _note_strangers(request.url, address, wrong))
    page.goto(f"{address}/login")
    page.fill("#token", token)
    page.click("text=Log in >> nth=-1")
    page.wait_for_url(f"{address}/")
    yield page, wrong
    context.close()


def _note_strangers(url: str, address: str, wrong: list[str]) -> None:
    if not url.startswith(address):
        wrong.append(f"it asked for {url}")


def test_every_page_renders_on_a_screen_and_on_a_phone(browser: Browser, busy: Environment) -> None:
    """Without an error of a script or of the policy, without asking anybody else, and without scrolling sideways."""
    with served(busy) as address:
        for width in (1280, 390):
            with visiting(browser, address, OPERATOR, width) as (page, wrong):
                for path in PATHS:
                    page.goto(address + path)
                    assert page.locator("h1").first.is_visible(), path
                    assert page.evaluate("document.documentElement.scrollWidth") <= width, path
                page.goto(f"{address}/rollouts/o-1a2b")
                assert page.locator(".report figure > svg").first.is_visible()
                assert wrong == []


def test_a_wrong_token_is_refused_and_a_link_logs_in_once(browser: Browser, busy: Environment) -> None:
    """As somebody would who copies from a terminal."""
    with served(busy) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/ledger")
        assert page.url == f"{address}/login"
        page.fill("#token", "a-token-that-is-wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=This token is wrong.")
        link = console_access.login_link(busy, address)
        page.goto(link)
        assert page.url == f"{address}/"
        assert page.locator("nav a[aria-current]").inner_text() == "Overview"
        page.click("text=Log out")
        page.goto(link)
        page.wait_for_selector("text=This link was used")
        context.close()


def test_an_open_page_shows_what_happens_and_a_person_decides(browser: Browser, busy: Environment) -> None:
    """New blocks, a decision of somebody else and one by button appear without a reload; typing is not lost."""
    busy.driver.abort("make room")
    running = recorder(busy, "o-2c3d", steps=[5, 20, 50])
    with served(busy) as address, visiting(browser, address, OPERATOR) as (page, wrong):
        page.goto(f"{address}/rollouts/o-2c3d")
        assert page.locator("text=No users have been judged yet").is_visible()
        page.evaluate("window.opened = true")
        page.fill("#reason", "half a sentence")
        running.run(GOOD, most=4)
        page.wait_for_selector(".report figure > svg")
        assert page.locator(".cards .facts dd").first.inner_text() != "0"
        assert page.input_value("#reason") == "half a sentence"
        page.fill("#reason", "the numbers are good")
        page.click("text=Pass this step: go to 20 %")
        page.wait_for_selector("text=The step was passed by hand.")
        assert busy.state().rollouts[-1].weight == 20
        page.evaluate("window.opened = true")
        busy.driver.promote(full=False, reason="from a terminal", actor="bob@desk")
        page.wait_for_selector("text=Running: version 2 answers 50 % of users")
        page.wait_for_selector("td:text('bob@desk')")
        assert page.evaluate("window.opened")
        page.fill("#reason", "enough seen")
        page.click("text=Abort: everybody back to stable")
        page.wait_for_selector("text=The rollout was aborted.")
        assert page.locator("button[name=action]").count() == 0
        assert wrong == []
    assert [(one.kind, one.actor) for one in busy.ledger.events()[-3:]] == [
        ("step_passed", "operator@console"),
        ("step_passed", "bob@desk"),
        ("aborted", "operator@console"),
    ]


def test_a_viewer_sees_everything_and_can_do_nothing(browser: Browser, busy: Environment) -> None:
    """No button, and a request of their own making is refused."""
    with served(busy) as address, visiting(browser, address, VIEWER) as (page, _):
        page.goto(f"{address}/rollouts/o-1a2b")
        assert page.locator("text=You are logged in as a viewer").is_visible()
        assert page.locator("button[name=action]").count() == 0
        status = page.evaluate(
            """async () => {
                const token = document.querySelector("[name=form_token]").value;
                const body = new URLSearchParams({form_token: token, action: "abort", reason: "mine"});
                return (await fetch(location.pathname, {method: "POST", body})).status;
            }"""
        )
        assert status == 403
    assert busy.state().open_rollout is not None


def test_text_from_data_never_runs(browser: Browser, environment: Environment) -> None:
    """Hostile names, reasons and users are seen as they are written; Evidently's own page cannot reach ours."""
    fill(environment, HOSTILE)
    window = f"/drift/{environment.state().windows[-1].report.rpartition('/')[2]}"
    with served(environment) as address, visiting(browser, address, OPERATOR) as (page, wrong):
        for path in (*PATHS, window):
            page.goto(address + path)
            assert page.title() not in {"1", "2"}
            assert page.locator("img").count() == 0
        page.goto(address + "/drift")
        assert page.locator(f"text={HOSTILE[:20]}").first.is_visible()
        assert wrong == []
        page.goto(f"{address}{window}/evidently.html")
        origin: Any = page.evaluate("self.origin")
        assert origin == "null"
        with pytest.raises(Exception, match="sandboxed"):
            page.evaluate("document.cookie")
