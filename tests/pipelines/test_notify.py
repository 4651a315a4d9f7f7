"""Webhooks: what is said, once each, to a real https server; and where nothing is ever sent."""

from __future__ import annotations

import datetime as dt
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.config import Config, load
from tidegate.core.errors import Permanent, Temporary
from tidegate.core.progress import Silent
from tidegate.core.project import Project
from tidegate.pipelines import notify, webhook
from tidegate.pipelines.environment import Environment, environment_for
from tidegate.registry.ledger import Draft

CONFIG = """
version: 1
model: demand
task: classification
data: {path: data/train.csv, target: class}
train: {entrypoint: train.py:train}
notify:
- {on: [rolled_back, inconclusive, drift, retrain, promoted], webhook: env:HOOK}
"""
SECRET = "T0-secret-path"


@dataclass
class Hook:
    """A server with a certificate of its own: what it got, and the statuses that it answers first."""

    port: int = 0
    got: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/{SECRET}"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate for localhost that it signed itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return folder / "key.pem", folder / "cert.pem"


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    found = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = found.statuses.pop(0) if found.statuses else 200
            found.paths.append(self.path)
            if status < 300:
                found.got.append(body)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.send_header("location", "http://127.0.0.1:1/")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    key, cert = certificate(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is the test's intention
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv(webhook.ALLOW_PRIVATE, "1")
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    monkeypatch.setenv("HOOK", found.url)
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    root = tmp_path / "project"
    root.mkdir()
    (root / "tidegate.yaml").write_text(CONFIG)
    return environment_for(Project(root, load(root)))


def tell(environment: Environment, kind: str, **data: Any) -> None:
    environment.ledger.append(lambda _: Draft(kind, data))


def rollout(environment: Environment) -> None:
    for number in (1, 2):
        tell(environment, "registered", release=f"r-{number}", version=number, run_id="a", gate=[])
    tell(environment, "deployed", release="r-1")
    tell(environment, "rollout_started", rollout="o-1", stable="r-1", canary="r-2", plan={}, steps=[10])


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_rollback_is_told_with_its_reason_and_the_next_command(hook: Hook, environment: Environment) -> None:
    """What came before the webhook was configured is not repeated; what comes after is told once."""
    rollout(environment)
    assert notify.send(environment, Silent()) == 0
    tell(environment, "rolled_back", rollout="o-1", reasons=["error_rate is worse"])
    assert [notify.send(environment, Silent()) for _ in range(2)] == [1, 0]
    (got,) = hook.got
    assert got["text"] == (
        "demand.local: version 2 was rolled back\n- error_rate is worse\nNext: `tidegate rollout report`"
    )
    assert (got["event"], got["id"], got["next"]) == ("rolled_back", "demand.local/4", "tidegate rollout report")
    assert hook.paths == [f"/{SECRET}"]


def test_a_restart_goes_on_where_it_stopped(hook: Hook, environment: Environment) -> None:
    """How far each webhook was told is in the store."""
    rollout(environment)
    notify.send(environment, Silent())
    tell(environment, "promoted", rollout="o-1", keep=0.0)
    again = environment_for(environment.project)
    assert (notify.send(again, Silent()), notify.send(environment_for(environment.project), Silent())) == (1, 0)
    assert [one["what"] for one in hook.got] == ["version 2 was promoted"]


def test_a_server_that_is_busy_is_asked_again(hook: Hook) -> None:
    """Three more tries, ever later; a redirect is not followed."""
    hook.statuses = [503, 429, 500]
    waits: list[float] = []
    webhook.post("env:HOOK", hook.url, {"text": "hello"}, waits.append)
    assert (waits, len(hook.got)) == ([1.0, 4.0, 16.0], 1)
    hook.statuses = [302]
    with pytest.raises(Permanent, match="answered 302"):
        webhook.post("env:HOOK", hook.url, {"text": "hello"})


def test_what_is_never_taken_is_said_once_without_the_address(hook: Hook, environment: Environment) -> None:
    """The message is dropped after its tries, so that the next one gets through; the secret is in no word of it."""
    rollout(environment)
    notify.send(environment, Silent())
    tell(environment, "rolled_back", rollout="o-1", reasons=[])
    hook.statuses = [403]
    notes = Notes()
    assert notify.send(environment, notes) == 0
    assert notify.send(environment, notes) == 0
    (said,) = notes.notes
    assert "Nobody was told of event demand.local/4. The webhook env:HOOK answered 403." in said
    assert SECRET not in said
    assert "localhost" not in said


def test_a_certificate_that_nobody_knows_is_refused(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers for the name must prove it."""
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(Temporary, match=r"the connection failed \(SSLCertVerificationError\)") as caught:
        webhook.post("env:HOOK", hook.url, {}, lambda _: None)
    assert (SECRET in str(caught.value), hook.got) == (False, [])


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.169.254", "[::1]", "[fd00::1]", "[fe80::1]", "[::ffff:10.0.0.1]",
     "0.0.0.0",  # noqa: S104 - nobody binds to it
     "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]"],
)  # fmt: skip
def test_private_addresses_are_never_asked(address: str) -> None:
    """This machine, its network, and the cloud's metadata service, however they are written."""
    with pytest.raises(Permanent, match="leads to this machine or into a private network"):
        webhook.post("env:HOOK", f"https://{address}/x", {})


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of a name that wants to be believed twice."""
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(Permanent, match="private network"):
        webhook.post("env:HOOK", "https://example.org/x", {})


def test_the_connection_goes_to_the_address_that_was_checked(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is asked once; what it would answer the second time does not matter (DNS rebinding)."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def once(host: str, *rest: Any, **named: Any) -> Any:
        if not ip_like(host):
            asked.append(host)
            assert len(asked) == 1
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", hook.port))]
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    webhook.post("env:HOOK", hook.url, {"text": "hello"})
    assert (asked, len(hook.got)) == (["localhost"], 1)


def ip_like(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.org/x", "is not https"),
        ("ftp://x/y", "is no address"),
        ("nonsense", "is no address"),
        ("https://x:port/", "is no address"),
    ],
)
def test_only_https_addresses_are_taken(url: str, why: str) -> None:
    """Without repeating what was given."""
    with pytest.raises(Permanent, match=why) as caught:
        webhook.parse("env:HOOK", url)
    assert url not in str(caught.value)


def test_http_is_for_private_addresses_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that allows private addresses does not allow plain text over the internet."""
    monkeypatch.setenv(webhook.ALLOW_PRIVATE, "1")
    public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: public)
    with pytest.raises(Permanent, match="is not https"):
        webhook.post("env:HOOK", "http://example.org/x", {})


def told(environment: Environment) -> list[tuple[str, str]]:
    config: Config = environment.project.config
    return [(one.topic, one.what) for _, one in notify.messages(environment.ledger.events(), config)]


def watched(environment: Environment, number: int, outcome: str, *, lost: bool | None = None) -> None:
    times = {"window": f"2026-03-01T{number:02}:00:00+00:00", "until": f"2026-03-01T{number + 1:02}:00:00+00:00"}
    retrain = {"asked": False, "reason": "because"}
    tell(environment, "watched", **times, outcome=outcome, share=0.1, lost=lost, retrain=retrain)


def test_lasting_drift_is_told_once(environment: Environment) -> None:
    """Not every window of it: at the third in a row, and again only after it was gone."""
    outcomes = ["drift", "cannot_tell", "drift", "drift", "drift", "no_drift", "drift", "drift", "drift"]
    for number, outcome in enumerate(outcomes):
        watched(environment, number, outcome)
    assert told(environment) == [
        ("drift", "drift for 3 windows in a row until 2026-03-01T04:00Z"),
        ("drift", "drift for 3 windows in a row until 2026-03-01T09:00Z"),
    ]


def test_lost_quality_is_told_when_it_begins(environment: Environment) -> None:
    """One window is enough: it is claimed beyond doubt only."""
    for number, lost in enumerate([False, True, True, None, True]):
        watched(environment, number, "no_drift", lost=lost)
    assert [what for _, what in told(environment)] == [
        "quality was lost until 2026-03-01T02:00Z",
        "quality was lost until 2026-03-01T05:00Z",
    ]


def test_every_end_of_a_retrain_has_its_sentence_and_command(environment: Environment) -> None:
    """From what waits for a person to what failed."""
    tell(environment, "registered", release="r-1", version=1, run_id="a", gate=[])
    for outcome in notify._ENDED:
        tell(environment, "retrain_started", retrain=f"t-{outcome}", reason="x")
        tell(environment, "retrain_ended", retrain=f"t-{outcome}", outcome=outcome, release="r-1", reasons=["why"])
    found = [message for _, message in notify.messages(environment.ledger.events(), environment.project.config)]
    assert {one.topic for one in found} == {"retrain"}
    assert "a retrain made version 1, which waits for a person" in [one.what for one in found]
    assert "tidegate rollout start r-1" in [one.next for one in found]


def test_going_back_at_once_and_waiting_for_a_person_are_told(environment: Environment) -> None:
    """A hold is an answer that nobody hears unless it is sent."""
    rollout(environment)
    tell(environment, "held", rollout="o-1", reasons=["step.max"])
    tell(environment, "rollback", release="r-1", reasons=["it lies"])
    assert told(environment) == [
        ("inconclusive", "the rollout of version 2 cannot tell and waits for a person"),
        ("rolled_back", "went back to version 1"),
    ]
