"""Who may open the console of this machine: a token that only this user can read, and links that log in once.

Whoever can read these files could write the ledger itself, so they give the operator's rights.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from pathlib import Path
from typing import Final

from tidegate.pipelines.environment import Environment

LINK_SECONDS: Final = 3600.0
"""A link is for whoever has just started the stack; later there is the token."""


def token_file(environment: Environment) -> Path:
    """Where the operator's token of this machine is."""
    return environment.run_dir / "console.token"


def token(environment: Environment) -> str:
    """The operator's token of this machine; made at first use, readable by its owner only."""
    return _secret(token_file(environment))


def session_key(environment: Environment) -> bytes:
    """What signs sessions; it outlives the process, so nobody is logged out when the console starts again."""
    return bytes.fromhex(_secret(environment.run_dir / "console.key"))


def login_link(environment: Environment, address: str) -> str:
    """An address that logs its first visitor in as the operator, within an hour.

    The console knows the code by a file named after its hash: removing a file has one winner, also after a restart.
    """
    folder = _links(environment)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.iterdir():
        if _is_old(old):
            old.unlink(missing_ok=True)
    code = secrets.token_urlsafe(24)
    (folder / _name(code)).touch(mode=0o600)
    return f"{address}/login/{code}"


def redeem(environment: Environment, code: str) -> bool:
    """Use up the code of a link; False for one that was used, is too old or never was."""
    file = _links(environment) / _name(code)
    try:
        old = _is_old(file)
        file.unlink()
    except FileNotFoundError:
        return False
    return not old


def _links(environment: Environment) -> Path:
    return environment.run_dir / "console.links"


def _name(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def _is_old(file: Path) -> bool:
    return time.time() - file.stat().st_mtime > LINK_SECONDS


def _secret(file: Path) -> str:
    """The text of a file that is made with 32 random bytes in hexadecimal, by whoever needs it first."""
    while True:
        try:
            return file.read_text(encoding="ascii")
        except FileNotFoundError:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write(secrets.token_hex(32))
            try:
                os.link(temporary, file)
            except FileExistsError:
                continue
            finally:
                temporary.unlink()
