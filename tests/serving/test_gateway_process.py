"""The Envoy process: killed, adopted, replaced, refused, and never somebody else's."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegate.core.errors import Temporary, TidegateError
from tidegate.serving.gateway import AccessLogReader, GatewaySettings, GatewayState
from tidegate.serving.gateway.binary import find_envoy
from tidegate.serving.gateway.process import validate

Make = Callable[..., Any]


def test_every_filter_passes_envoys_own_validation() -> None:
    """Envoy accepts the fullest settings."""
    validate(GatewaySettings(port=1, api_keys=("k",), rate_limit=0.5, max_body=1, timeout=30.0))


def test_a_killed_envoy_starts_again_and_the_log_goes_on(echo: Make, new_gateway: Make, ask: Make) -> None:
    """Kill -9 in the middle: the next start serves the same state; a torn line costs only itself."""
    state = GatewayState(echo("r-1").upstream)
    gateway = new_gateway()
    gateway.start(state)
    ask(gateway, [{"x-user-id": "before"}])
    reader, units = AccessLogReader(gateway.log), []
    wait(lambda: bool(units.extend(record.unit for record in reader.read()) or units))
    os.kill(gateway.pid, signal.SIGKILL)
    wait(lambda: not gateway.ready())
    assert gateway.pid is None
    with pytest.raises(Temporary):
        gateway.apply(state)
    with gateway.log.open("a") as file:
        file.write('{"at":"17953')
    assert gateway.start(state) is False
    ask(gateway, [{"x-user-id": "after"}])
    wait(lambda: bool(units.extend(record.unit for record in reader.read()) or units[1:]))
    assert units == ["before", "after"]
    assert reader.torn == 1


def test_a_new_supervisor_adopts_the_envoy_that_the_old_one_left(echo: Make, new_gateway: Make, ask: Make) -> None:
    """Kill -9 of `up` leaves Envoy serving; the next `up` takes it over, changes it live and stops it."""
    first, second = echo("r-1"), echo("r-2")
    gateway = new_gateway()
    folder, port = str(gateway.folder), gateway.settings.port
    script = (
        "import os, signal; from pathlib import Path; from tidegate.serving.gateway import *;"
        f"g = Gateway(Path({folder!r}), GatewaySettings(port={port}));"
        f"g.start(GatewayState(Upstream('r-1', {first.port}))); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    pid = gateway.pid
    assert ask(gateway, [{}])[0].header(b"x-tidegate-version") == "r-1"
    assert gateway.start(GatewayState(second.upstream)) is True
    assert gateway.pid == pid
    assert ask(gateway, [{}])[0].header(b"x-tidegate-version") == "r-2"
    gateway.stop()
    assert gateway.pid is None
    with pytest.raises(ConnectionRefusedError):
        ask(gateway, [{}])


def test_changed_settings_replace_the_running_envoy(echo: Make, new_gateway: Make, ask: Make) -> None:
    """A key added to the config protects at the next `up`, not some day."""
    state = GatewayState(echo("r-1").upstream)
    gateway = new_gateway()
    gateway.start(state)
    pid = gateway.pid
    keyed = new_gateway(port=gateway.settings.port, api_keys=("k",))
    assert keyed.start(state) is False
    assert keyed.pid != pid
    assert ask(keyed, [{}])[0].status == 401


def test_a_taken_port_names_its_holder(new_gateway: Make) -> None:
    """One clear error: who, and what to type; nothing is left running."""
    gateway = new_gateway()
    with socket.create_server(("127.0.0.1", gateway.settings.port)):
        with pytest.raises(TidegateError) as caught:
            gateway.start(GatewayState(None))
        assert str(gateway.settings.port) in caught.value.message
        assert str(os.getpid()) in caught.value.message
        assert "advanced.gateway_port" in caught.value.hint
    assert gateway.pid is None


def test_a_port_that_another_projects_gateway_holds_is_given_back_by_its_down(
    tmp_path: Path, new_gateway: Make
) -> None:
    """Killing its Envoy would not help: its `up` starts it again."""
    gateway = new_gateway("my shop/.tidegate/run/gateway")
    gateway.folder.parent.mkdir(parents=True)
    gateway.start(GatewayState(None))
    with pytest.raises(TidegateError) as caught:
        new_gateway("mine", port=gateway.settings.port).start(GatewayState(None))
    assert f"`tidegate -C '{tmp_path / 'my shop'}' down` stops it" in caught.value.hint


def test_a_pid_that_another_program_got_is_left_alone(new_gateway: Make) -> None:
    """After a reboot the number in the pid file may be anybody's."""
    gateway = new_gateway()
    gateway.folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        (gateway.folder / "envoy.pid").write_text(str(stranger.pid))
        assert gateway.pid is None
        gateway.stop()
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_a_malformed_update_keeps_the_last_good_state(echo: Make, new_gateway: Make, ask: Make) -> None:
    """Whatever lands in the file, requests go on; the next good update is taken."""
    first, second = echo("r-1"), echo("r-2")
    gateway = new_gateway()
    gateway.start(GatewayState(first.upstream))
    for text in ("{", json.dumps({"version_info": "x", "resources": [{"@type": "type.googleapis.com/nothing"}]})):
        beside = gateway.folder / "beside"
        beside.write_text(text)
        beside.rename(gateway.folder / "routes.json")
        time.sleep(0.2)
        assert ask(gateway, [{}])[0].header(b"x-tidegate-version") == "r-1"
    gateway.apply(GatewayState(second.upstream))
    assert ask(gateway, [{}])[0].header(b"x-tidegate-version") == "r-2"


def test_a_refused_update_is_an_error_with_envoys_reason(
    echo: Make, new_gateway: Make, ask: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If Envoy says no, the caller hears why, and the good file is back on disk for the next start."""
    server = echo("r-1")
    gateway = new_gateway()
    gateway.start(GatewayState(server.upstream))
    good = (gateway.folder / "routes.json").read_text()
    wrong = {
        "version_info": "w",
        "resources": [{"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"}],
    }
    monkeypatch.setattr("tidegate.serving.gateway.process.routes_document", lambda *_: wrong)
    with pytest.raises(TidegateError, match="Envoy refuses"):
        gateway.apply(GatewayState(server.upstream, rollout="x"))
    assert (gateway.folder / "routes.json").read_text() == good
    assert ask(gateway, [{}])[0].status == 200


def test_an_old_or_missing_envoy_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.36 from PyPI is a shim that starts Docker: the version is asked before it is used."""
    fake = tmp_path / "envoy"
    fake.write_text("#!/bin/sh\necho 'envoy  version: abc/1.36.3/Clean/RELEASE/BoringSSL'\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("TIDEGATE_ENVOY", str(fake))
    with pytest.raises(TidegateError, match=r"1\.36; 1\.40 or newer"):
        find_envoy()
    monkeypatch.setenv("TIDEGATE_ENVOY", str(tmp_path / "nowhere"))
    with pytest.raises(TidegateError, match="does not run"):
        find_envoy()


def wait(done: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll until `done`, fail after `seconds`."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)
