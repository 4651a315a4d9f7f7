"""Who holds a port: so that `port taken` is an error one can act on."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

from tidegate.core.errors import TidegateError

# The project's folder in the command line of an Envoy that `tidegate up` started.
_GATEWAY_OF = re.compile(r" -c (.+?)/\.tidegate/")
# The same of a console.
_CONSOLE_OF = re.compile(r" -C (.+?) --env \S+ serve console")


def require_free(host: str, port: int, key: str) -> None:
    """Raise if something else listens on the port.

    Args:
        host: the address that will be listened on.
        port: the port wanted.
        key: the configuration key that changes it.

    Raises:
        TidegateError: with the process that holds it, where the system tells.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Envoy does: connections in TIME_WAIT of an earlier gateway do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            pid = holder(port)
            command = command_line(pid) if pid else ""
            who = f"process {pid} ({command[:80]})" if pid else "another process"
            raise TidegateError(
                f"Port {port} on {host} is taken by {who}: {error.strerror}.",
                f"{_how_to_stop(pid, command)}, or set {key} in tidegate.yaml.",
            ) from error


def _how_to_stop(pid: int | None, command: str) -> str:
    """A process of ours is not killed: its `up` would start it again."""
    for what, pattern in (("gateway", _GATEWAY_OF), ("console", _CONSOLE_OF)):
        project = pattern.search(command)
        if project:
            return f"It is the {what} of another project: `tidegate -C {shlex.quote(project[1])} down` stops it"
    return f"Stop it with `kill {pid}`" if pid else "Stop it"


def holder(port: int) -> int | None:
    """Return the pid that listens on a TCP port of this machine, None where the system does not tell."""
    inode = _listening_inode(port)
    if inode is not None:
        return _owner(f"socket:[{inode}]")
    if shutil.which("lsof") is None:
        return None
    arguments = ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-t"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=10, check=False)
    first = done.stdout.split()[:1]
    return int(first[0]) if first and first[0].isdigit() else None


def command_line(pid: int) -> str:
    """Return the command of a process, "" if there is none (any more)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        if Path("/proc/self").exists():
            return ""
    done = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _listening_inode(port: int) -> str | None:
    wanted = re.compile(rf"^\s*\d+: [0-9A-F]+:{port:04X} [0-9A-F]+:0000 0A (?:\S+\s+){{5}}(\d+)")
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines():
            found = wanted.match(line)
            if found:
                return found[1]
    return None


def _owner(link: str) -> int | None:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(one.readlink()) == link for one in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:  # not ours to look at, or gone meanwhile
            continue
    return None
