"""One Envoy process: started, changed live, adopted after its supervisor died, stopped by its own pid.

The folder holds all there is to know: bootstrap.json (0600, it may hold API keys), clusters.json and routes.json (what
Envoy watches), envoy.pid, admin.address, envoy.log, access.jsonl.

Envoy reads clusters and routes from two files in no promised order, so a change is three steps: add the new clusters
and wait until they are warm, switch the routes and wait until they are in use, drop the old clusters later, when no
request can be on them any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.core.errors import Temporary, TidegateError
from tidegate.serving.gateway.access_log import LOG_NAME, end_torn_line, rotated_path, rotated_sequences
from tidegate.serving.gateway.admin import Admin
from tidegate.serving.gateway.binary import find_envoy
from tidegate.serving.gateway.files import replace, write_versioned
from tidegate.serving.gateway.ports import command_line, require_free
from tidegate.serving.gateway.render import (
    ROUTES,
    STATS,
    Document,
    bootstrap_document,
    clusters_document,
    routes_document,
)
from tidegate.serving.gateway.state import GatewaySettings, GatewayState, Upstream, parse_upstream

# Ready in 0.3 s on an idle machine; the rest is for a busy one.
_START_TIMEOUT: Final = 30.0
# Applied in 23-43 ms when idle.
_APPLY_TIMEOUT: Final = 10.0
_STOP_TIMEOUT: Final = 5.0
_POLL: Final = 0.004
# Flushed this often, so the judge's blocks lag by no more; a kill -9 of Envoy loses at most this much log.
_FLUSH_MS: Final = 250


@dataclass(frozen=True)
class _Subscription:
    """One watched document: its file, the prefix of its stats, its section of Envoy's config dump."""

    file: str
    stats: str
    resource: str


_CLUSTERS: Final = _Subscription("clusters.json", "cluster_manager.cds", "dynamic_active_clusters")
_ROUTES: Final = _Subscription("routes.json", f"http.{STATS}.rds.{ROUTES}", "dynamic_route_configs")


class Gateway:
    """The gateway of one project.

    Args:
        folder: where its files lie; made if missing.
        settings: what is fixed for the life of the process.
    """

    def __init__(self, folder: Path, settings: GatewaySettings) -> None:
        self.folder = folder.resolve()
        self.settings = settings
        self.log = self.folder / LOG_NAME
        self._child: subprocess.Popen[bytes] | None = None
        self._admin: Admin | None = None
        self._retired: dict[str, float] = {}
        self._applying = threading.Lock()

    @property
    def address(self) -> str:
        """Where clients call, as http://host:port."""
        return f"http://{self.settings.host}:{self.settings.port}"

    @property
    def pid(self) -> int | None:
        """The pid of our Envoy if it runs; a pid that another program has got meanwhile is not ours."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        try:
            pid = int((self.folder / "envoy.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if str(self._bootstrap) in command_line(pid) else None

    def claim(self) -> None:
        """Note the pid of an Envoy of ours whose supervisor was killed before it could."""
        import psutil

        if self.pid is not None:
            return
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                arguments = process.cmdline()
                if "--disable-hot-restart" in arguments and str(self._bootstrap) in arguments:
                    replace(self.folder / "envoy.pid", str(process.pid))

    def ready(self) -> bool:
        """Return whether Envoy runs and serves."""
        return self.pid is not None and self._is_live()

    def start(self, state: GatewayState) -> bool:
        """Serve `state`: adopt the Envoy that an earlier supervisor left, or start one.

        An adopted one whose settings differ is replaced.

        Returns:
            Whether a running Envoy was adopted.

        Raises:
            TidegateError: no usable Envoy, the port is taken, or Envoy refuses the documents.
        """
        self.claim()
        same = self._bootstrap.exists() and self._bootstrap.read_text() == self._bootstrap_text()
        if same and self.ready():
            self.apply(state)
            return True
        self.stop()
        envoy = find_envoy()
        require_free(self.settings.host, self.settings.port, "advanced.gateway_port")
        self.write(state)
        end_torn_line(self.log)
        self._spawn(envoy)
        return False

    def write(self, state: GatewayState) -> None:
        """Write every document that a fresh Envoy needs to serve `state`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(self._bootstrap, self._bootstrap_text(), mode=0o600)
        write_versioned(self.folder / _CLUSTERS.file, lambda version: clusters_document(state.upstreams(), version))
        write_versioned(self.folder / _ROUTES.file, lambda version: routes_document(state, self.settings, version))

    def apply(self, state: GatewayState) -> None:
        """Serve `state` from now on; returns once every new request is routed by it. No request is dropped.

        Raises:
            TidegateError: Envoy refuses it; the last good state stays in use.
            Temporary: Envoy does not answer.
        """
        with self._applying:
            self._apply(state)

    def _apply(self, state: GatewayState) -> None:
        admin = self._connected()
        wanted = state.upstreams()
        now = time.monotonic()
        current = self._current_clusters()
        self._retired = {name: self._retired.get(name, now) for name in current if name not in wanted}
        # A request that was routed to an old cluster has ended by then.
        grace = self.settings.timeout + 5.0
        kept = {name: one for name, one in current.items() if now - self._retired.get(name, now) < grace}
        upstreams = {**kept, **wanted}
        self._load(_CLUSTERS, lambda version: clusters_document(upstreams, version))
        _until(lambda: admin.warming() == 0, _APPLY_TIMEOUT, "A new cluster does not get warm")
        self._load(_ROUTES, lambda version: routes_document(state, self.settings, version))

    def stop(self) -> None:
        """Stop our Envoy, if it runs; requests in flight get `_STOP_TIMEOUT` seconds."""
        pid = self.pid
        self._forget_admin()
        if pid is not None:
            self._signal(pid, signal.SIGTERM)
            with contextlib.suppress(Temporary):
                _until(lambda: self.pid is None, _STOP_TIMEOUT, "Envoy does not stop")
            if self.pid == pid:
                self._signal(pid, signal.SIGKILL)
                _until(lambda: self.pid is None, _STOP_TIMEOUT, "Envoy does not die")
        if self._child is not None:
            self._child.wait(_STOP_TIMEOUT)
            self._child = None
        for name in ("envoy.pid", "admin.address"):
            (self.folder / name).unlink(missing_ok=True)

    def rotate(self, *, unread_from: int, max_bytes: int = 64_000_000, keep: int = 16) -> None:
        """Rotate the access log when it is larger than `max_bytes`.

        Args:
            unread_from: sequence number of the oldest file that a reader still needs; none from there is deleted.
            max_bytes: size from which on the live file is rotated.
            keep: how many rotated files stay, at least one: the newest carries the numbering on.
        """
        sequences = rotated_sequences(self.log)
        if self.log.exists() and self.log.stat().st_size > max_bytes:
            newest = max(sequences, default=0)
            self.log.rename(rotated_path(self.log, newest + 1))
            sequences.append(newest + 1)
            if self.ready():
                self._connected().reopen_logs()
        for sequence in sequences[: max(0, len(sequences) - max(1, keep))]:
            if sequence < unread_from:
                rotated_path(self.log, sequence).unlink(missing_ok=True)

    @property
    def _bootstrap(self) -> Path:
        return self.folder / "bootstrap.json"

    def _bootstrap_text(self) -> str:
        return json.dumps(bootstrap_document(self.settings, self.folder), indent=1)

    def _spawn(self, envoy: Path) -> None:
        flags = ["--concurrency", "1", "--disable-hot-restart", "--file-flush-interval-msec", str(_FLUSH_MS)]
        address = self.folder / "admin.address"
        address.unlink(missing_ok=True)
        arguments = [str(envoy), "-c", str(self._bootstrap), *flags, "--admin-address-path", str(address)]
        with (self.folder / "envoy.log").open("ab") as output:
            # Own session: Ctrl-C in the terminal reaches the supervisor only, which stops the gateway last.
            # Own environment: the API keys of ours are in the file already and belong nowhere else.
            self._child = subprocess.Popen(
                [*arguments, "-l", "warn"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                start_new_session=True,
            )
        replace(self.folder / "envoy.pid", str(self._child.pid))
        try:
            _until(lambda: self._child_died() or self._is_live(), _START_TIMEOUT, "Envoy does not get ready")
        except Temporary:
            self.stop()
            raise
        if self._child_died():
            self.stop()
            raise TidegateError("Envoy stopped while starting.", f"{self._last_words()}\nSee {self.folder}/envoy.log.")

    def _child_died(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        return self._child is None

    def _last_words(self) -> str:
        lines = (self.folder / "envoy.log").read_text(errors="replace").splitlines()
        return lines[-1][-500:] if lines else "It said nothing."

    def _is_live(self) -> bool:
        try:
            return self._connected().ready()
        except Temporary:
            return False

    def _connected(self) -> Admin:
        if self._admin is None:
            try:
                address = (self.folder / "admin.address").read_text().strip()
            except FileNotFoundError:
                address = ""
            if not address:
                raise Temporary("The gateway does not run.", "Start it with `tidegate up`.")
            self._admin = Admin(address)
        return self._admin

    def _forget_admin(self) -> None:
        if self._admin is not None:
            self._admin.close()
        self._admin = None

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _current_clusters(self) -> dict[str, Upstream]:
        try:
            document = json.loads((self.folder / _CLUSTERS.file).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {one["name"]: parse_upstream(one["name"]) for one in document["resources"]}

    def _load(self, subscription: _Subscription, make: Callable[[str], Document]) -> None:
        """Write a document and wait until Envoy uses it; put the last good one back if it is refused."""
        admin = self._connected()
        path = self.folder / subscription.file
        before = path.read_text()
        refused = admin.loaded(subscription.stats).rejected
        version = write_versioned(path, make)

        def settled() -> bool:
            loaded = admin.loaded(subscription.stats)
            if loaded.rejected > refused:
                replace(path, before)
                reason = admin.refusal(subscription.resource) or "It does not say why."
                raise TidegateError(f"Envoy refuses the new {subscription.file}.", reason)
            return loaded.version == version

        _until(settled, _APPLY_TIMEOUT, f"Envoy does not load the new {subscription.file}")


def validate(settings: GatewaySettings) -> None:
    """Let Envoy check the settings without serving (its `--mode validate`).

    Raises:
        TidegateError: with Envoy's own words.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-") as name:
        folder = Path(name).resolve()
        gateway = Gateway(folder, settings)
        gateway.write(GatewayState(None))
        arguments = [
            str(find_envoy()),
            "--mode",
            "validate",
            "-l",
            "error",
            "-c",
            str(gateway.folder / "bootstrap.json"),
        ]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=_START_TIMEOUT, check=False)
    if done.returncode:
        raise TidegateError("Envoy refuses the gateway's configuration.", (done.stderr or done.stdout).strip()[-1000:])


def _until(done: Callable[[], bool], timeout: float, otherwise: str) -> None:
    end = time.monotonic() + timeout
    while not done():
        if time.monotonic() > end:
            raise Temporary(f"{otherwise} within {timeout:g} s.", "The machine may be overloaded: try again.")
        time.sleep(_POLL)
