"""Who may see and act: refused by default, whatever the path, and no guess, foreign page or old link gets through."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from happened import OPERATOR, VIEWER, access, client, get, served

from tidegate.console.auth import MAX_BODY, Access, parse_tokens
from tidegate.core.errors import UsageError
from tidegate.pipelines import console_access
from tidegate.pipelines.environment import Environment

PAGES = ("/", "/rollouts", "/rollouts/o-1a2b", "/drift", "/quality", "/lineage", "/ledger", "/api/docs")
PROGRAMS = ("/api/status", "/api/openapi.json", "/api/events", "/metrics", "/live")


@pytest.fixture
def address(busy: Environment) -> Iterator[str]:
    with served(busy) as found:
        yield found


@contextmanager
def logged_in(address: str, token: str) -> Iterator[httpx.Client]:
    """A browser's session."""
    with client(address) as browser:
        answer = browser.post("/login", data={"token": token})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        yield browser


def form_token(browser: httpx.Client) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', browser.get("/").text)
    assert found is not None
    return found[1]


def test_without_a_token_nothing_is_shown(address: str) -> None:
    """Pages lead to the login, programs get 401, and only the login, its files and the probe are open."""
    with client(address) as stranger:
        for path in PAGES[:-1]:
            answer = stranger.get(path)
            assert (answer.status_code, answer.headers.get("location")) == (303, "/login"), path
        for path in (*PROGRAMS, "/api/nothing"):
            answer = stranger.get(path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        assert stranger.post("/nothing").status_code == 401
        for path in ("/healthz", "/login", "/static/console.css", "/static/console.js", "/static/icon.svg"):
            assert stranger.get(path).status_code == 200, path
        assert stranger.get("/static/..%2fauth.py").status_code == 404


def test_a_wrong_token_is_refused_and_a_right_one_begins_a_session(address: str) -> None:
    """The cookie is out of reach of scripts and of other sites."""
    with client(address) as stranger:
        wrong = stranger.post("/login", data={"token": "wrong" * 8})
        assert (wrong.status_code, "This token is wrong" in wrong.text, wrong.cookies) == (403, True, httpx.Cookies())
        assert get(f"{address}/api/status", "wrong" * 8) == 401
        right = stranger.post("/login", data={"token": f" {OPERATOR}\n"})
        assert right.status_code == 303
        cookie = right.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/", "max-age=43200"))
        assert "secure" not in cookie
        assert [stranger.get(path).status_code for path in PAGES] == [200] * len(PAGES)
        assert stranger.post("/logout", data={"form_token": form_token(stranger)}).status_code == 303
        assert stranger.get("/").status_code == 303


def test_a_viewer_may_look_and_not_act(address: str, busy: Environment) -> None:
    """Neither by the page nor by the API; nothing of it reaches the ledger."""
    before = len(busy.ledger.events())
    with logged_in(address, VIEWER) as browser, client(address, VIEWER) as program:
        assert 'name="action"' not in browser.get("/rollouts/o-1a2b").text
        form = {"form_token": form_token(browser), "action": "abort", "reason": "because"}
        assert browser.post("/rollouts/o-1a2b", data=form).status_code == 403
        for action in ("promote", "abort"):
            answer = program.post(f"/api/rollouts/o-1a2b/{action}", json={"reason": "because"})
            assert (answer.status_code, answer.json()["kind"]) == (403, "error")
        assert program.get("/api/status").status_code == 200
        assert browser.post("/logout", data={"form_token": form["form_token"]}).status_code == 303
    assert len(busy.ledger.events()) == before


def test_a_form_of_another_session_is_refused(address: str, busy: Environment) -> None:
    """Without the form token, or with that of somebody else, nobody acts for a person who is logged in."""
    before = len(busy.ledger.events())
    with logged_in(address, OPERATOR) as browser, logged_in(address, OPERATOR) as other:
        for given in ("", "0" * 64, form_token(other)):
            form = {"form_token": given, "action": "abort", "reason": "because"}
            answer = browser.post("/rollouts/o-1a2b", data=form)
            assert (answer.status_code, "another session" in answer.text) == (403, True)
        assert browser.post("/api/rollouts/o-1a2b/abort", json={"reason": "because"}).status_code == 403
        headers = {"x-form-token": form_token(browser)}
        refused = browser.post("/api/rollouts/o-1a2b/abort", json={"reason": ""}, headers=headers)
        assert refused.status_code == 422
    assert len(busy.ledger.events()) == before


def test_another_site_cannot_make_a_browser_act(address: str) -> None:
    """Also not at the login, nor at the intake of labels, which asks for no token."""
    with logged_in(address, OPERATOR) as browser:
        form = {"form_token": form_token(browser), "action": "abort", "reason": "because"}
        for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            _refused_everywhere(browser, form, headers)


def _refused_everywhere(browser: httpx.Client, form: dict[str, str], headers: dict[str, str]) -> None:
    assert browser.post("/rollouts/o-1a2b", data=form, headers=headers).status_code == 403
    assert browser.post("/login", data={"token": OPERATOR}, headers=headers).status_code == 403
    assert browser.post("/labels", json={"label": "1", "prediction_id": "x"}, headers=headers).status_code == 403


def test_a_name_that_leads_here_is_not_enough(busy: Environment) -> None:
    """DNS may say that a foreign name is this machine; browsers then send its pages' requests here."""
    hosts = Access([("operator", OPERATOR)], b"k" * 32, 8401, ["console.acme.dev"])
    with served(busy, hosts) as address, client(address) as stranger:
        port = address.rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "", "127.0.0.1.evil.example", "[", "console.acme.dev.x"):
            assert stranger.get("/login", headers={"host": host}).status_code in {400, 421}, host
        for host in ("localhost:99", "[::1]:80", "127.0.0.1", "Console.Acme.dev:443"):
            assert stranger.get("/login", headers={"host": host}).status_code == 200, host
        assert stranger.get("/healthz", headers={"host": "10.1.2.3:8401"}).status_code == 200
        bearer = {"host": "10.1.2.3:8401", "authorization": f"Bearer {OPERATOR}"}
        assert stranger.get("/metrics", headers=bearer).status_code == 200


def test_who_guesses_is_made_to_wait(address: str) -> None:
    """Ten wrong tokens in a minute, by form or by header; sessions that run are not touched."""
    with logged_in(address, OPERATOR) as browser, client(address) as stranger:
        for number in range(5):
            assert stranger.post("/login", data={"token": f"wrong-token-{number:05}"}).status_code == 403
            assert get(f"{address}/api/status", f"wrong-token-{number:06}") == 401
        assert stranger.post("/login", data={"token": OPERATOR}).status_code == 429
        assert get(f"{address}/api/status", OPERATOR) == 429
        assert browser.get("/").status_code == 200


def test_sessions_cannot_be_made_up_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With time, with another key, and when a token is taken away."""
    ours = access()
    cookie = ours.begin("viewer")
    visitor = ours.visitor(cookie)
    assert visitor is not None
    assert (visitor.may_act, visitor.actor) == (False, "viewer@console")
    assert ours.visitor(cookie.replace("viewer", "operator")) is None
    assert [ours.visitor(one) for one in ("", "x", "a.b.c.d", cookie[:-1], cookie + "0", "é" * 9)] == [None] * 6
    assert Access([("operator", OPERATOR)], b"k" * 32, 8401).visitor(cookie) is None
    assert Access([("viewer", VIEWER), ("operator", OPERATOR)], b"j" * 32, 8401).visitor(cookie) is None
    monkeypatch.setattr("tidegate.console.auth.time.time", lambda: 4_000_000_000.0)
    assert ours.visitor(cookie) is None


def test_a_login_link_works_once_and_for_an_hour(busy: Environment) -> None:
    """Whoever can read the terminal of `up` is the operator; the link in a scrollback is worth nothing."""
    with served(busy) as address, client(address) as browser:
        link = console_access.login_link(busy, address)
        first = browser.get(link)
        assert (first.status_code, first.headers["location"]) == (303, "/")
        assert "operator" in browser.get("/").text
        assert get(link) == 403
        assert get(f"{address}/login/nothing") == 403
        old = console_access.login_link(busy, address)
        for file in (busy.run_dir / "console.links").iterdir():
            os.utime(file, (1, 1))
        assert get(old) == 403


def test_the_token_of_this_machine_is_its_owners(environment: Environment) -> None:
    """Made once; so are the key of the sessions and the codes of links."""
    token = console_access.token(environment)
    assert (len(token), console_access.token(environment)) == (64, token)
    console_access.session_key(environment)
    console_access.login_link(environment, "http://127.0.0.1:1")
    files = [one for one in environment.run_dir.rglob("console*") if one.is_file()]
    files += list((environment.run_dir / "console.links").iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
    assert Access.of(environment, {}).role_of(token, "") == "operator"


def test_given_tokens_replace_the_machines_own(environment: Environment) -> None:
    """A server has those it was given and no other."""
    named = {
        "TIDEGATE_CONSOLE_TOKENS": f"viewer:{VIEWER}, operator:{OPERATOR}",
        "TIDEGATE_CONSOLE_HOSTS": "a.dev, b.dev",
    }
    found = Access.of(environment, named)
    assert (found.role_of(VIEWER, ""), found.role_of(OPERATOR, "")) == ("viewer", "operator")
    assert found.role_of(console_access.token(environment), "") is None
    assert {"a.dev", "b.dev", "127.0.0.1"} <= found.hosts


@pytest.mark.parametrize("text", ["admin:" + "t" * 20, "t" * 40, "viewer:short", f"viewer:{VIEWER},operator:"])
def test_tokens_that_cannot_be_meant_are_refused_without_being_shown(text: str) -> None:
    """A console with no token, or a guessable one, does not start."""
    with pytest.raises(UsageError) as caught:
        parse_tokens(text)
    assert "openssl rand -hex 32" in str(caught.value)
    assert not {part.partition(":")[2] or part for part in text.split(",")} & set(str(caught.value).split())


def test_every_answer_has_the_headers_that_browsers_need(address: str) -> None:
    """Refusals too: no script but ours, no frame, no guessing of types, no copy in a cache."""
    with logged_in(address, OPERATOR) as browser:
        for path in ("/", "/login", "/nothing", "/api/status", "/api/nothing", "/healthz", "/rollouts/nothing"):
            headers = browser.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"


def test_a_long_body_is_refused_before_it_is_read_whole(address: str) -> None:
    """An action is a sentence."""
    with client(address, OPERATOR) as program:
        answer = program.post("/api/rollouts/o-1a2b/abort", json={"reason": "x" * MAX_BODY})
        assert (answer.status_code, answer.json()["message"]) == (413, "That is too long.")
        assert program.post("/login", data={"token": "x" * MAX_BODY}).status_code == 413
