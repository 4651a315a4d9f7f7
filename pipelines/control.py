"""How other terminals talk to `tidegate up`: HTTP with JSON over a unix socket only this user can open.

The socket lives in a short folder of the system's temporary directory, because a socket's path may
be at most 107 bytes long and projects live in deep folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from tidegate.core.errors import Temporary, TidegateError

Answer = Callable[[], Mapping[str, Any]]


class NotRunning(TidegateError):
    """No `tidegate up` answers for this project."""


def socket_path(root: Path, env: str) -> Path:
    """The socket of a project's environment, in a folder that only this user may enter.

    Raises:
        TidegateError: somebody else owns that folder.
    """
    folder = Path(tempfile.gettempdir(), f"tidegate-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise TidegateError(f"{folder} belongs to somebody else.", "Set TMPDIR to a folder of your own.")
    name = hashlib.sha256(f"{root.resolve()}\0{env}".encode()).hexdigest()[:16]
    return folder / f"{name}.sock"


@contextlib.contextmanager
def serve(path: Path, answers: Mapping[str, Answer]) -> Iterator[None]:
    """Answer `GET <name>` by calling `answers[name]`, in threads, while the block runs."""
    path.unlink(missing_ok=True)
    server = _Server(str(path), _handler(answers))
    path.chmod(0o600)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)


def ask(path: Path, name: str, timeout: float = 10.0) -> dict[str, Any]:
    """Ask the running `up`; seconds until it counts as hung.

    Raises:
        NotRunning: nobody listens.
        Temporary: it listens and does not answer.
    """
    connection = _Connection(path, timeout)
    try:
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        document: dict[str, Any] = json.loads(response.read())
    except TimeoutError as error:
        raise Temporary(
            f"The stack did not answer within {timeout:g} seconds.", "The machine may be overloaded: try again."
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        raise NotRunning("The stack is not running.", "`tidegate up -d` starts it.") from error
    finally:
        connection.close()
    if "error" in document:
        raise TidegateError(document["error"], document.get("hint", ""))
    return document


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    allow_reuse_address = True


def _handler(answers: Mapping[str, Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path.strip("/"))
            if answer is None:
                self._send(404, {"error": f"There is no {self.path}."})
                return
            try:
                self._send(200, answer())
            except TidegateError as error:
                self._send(500, {"error": error.message, "hint": error.hint})
            except OSError as error:
                self._send(500, {"error": str(error)})

        def _send(self, status: int, document: Mapping[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class _Connection(HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
