"""`python -m tidegate.serving.service.smoke --url ADDRESS`: ask a deployed model one of its own golden rows.

What the first step of a Rollout and `helm test` run, in the model's own image: the answer must come from this version,
over the arm that was asked for, and be the one that packaging recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tidegate.core.errors import TidegateError
from tidegate.serving.service import manifest

_TIMEOUT: Final = 5.0
_PAUSE: Final = 1.0
_CLOSE: Final = 1e-4
"""Relative: float32 on another processor differs in its last digits."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask until the answer is right or the time is over; 0 if it was right."""
    parser = argparse.ArgumentParser(prog="python -m tidegate.serving.service.smoke", description=__doc__)
    parser.add_argument("--url", required=True, help="http(s)://host[:port]")
    parser.add_argument("--host", default="", help="the Host header, where the address is not the route's name")
    parser.add_argument("--arm", default="", help="the arm that must answer; forced by header")
    parser.add_argument("--release", default="", help="said in the report")
    parser.add_argument("--seconds", type=float, default=60.0, help="a fresh route takes some seconds to arrive")
    chosen = parser.parse_args(arguments)
    golden = manifest.read(Path(os.environ["TIDEGATE_BUNDLE"]))
    until = time.monotonic() + chosen.seconds
    while True:
        wrong = fault(golden, chosen.url, host=chosen.host, arm=chosen.arm)
        if not wrong or time.monotonic() >= until:
            break
        time.sleep(_PAUSE)
    sys.stdout.write(f"{golden.model} {golden.version} {chosen.release}: {wrong or 'the golden row is answered'}\n")
    return 1 if wrong else 0


def fault(described: manifest.Manifest, url: str, *, host: str = "", arm: str = "") -> str:
    """What is wrong with the answer to one golden row; empty if nothing is.

    Args:
        described: the model that must answer.
        url: scheme, host and port.
        host: the Host header; default as in `url`.
        arm: the arm that must answer; the gateway says which one did.
    """
    headers = {"content-type": "application/json"}
    headers |= {"host": host} if host else {}
    headers |= {"x-tidegate-arm": arm} if arm else {}
    headers |= {"x-api-key": key} if (key := os.environ.get("TIDEGATE_API_KEY")) else {}
    try:
        status, said, body = _post(url, {"rows": described.golden.rows[:1]}, headers)
    except (OSError, HTTPException, ValueError) as error:
        return f"no answer from {url}: {error}"
    if status != 200:  # noqa: PLR2004 # HTTP
        return f"status {status}: {json.dumps(body)[:200]}"
    if said.get("x-tidegate-version") != str(described.version):
        return f"version {said.get('x-tidegate-version')} answered and not {described.version}"
    # Straight to a Service there is no gateway that would name the arm.
    if arm and said.get("x-tidegate-arm", arm) != arm:
        return f"the {said['x-tidegate-arm']} arm answered and not the {arm}"
    return _difference(described, body)


def _difference(described: manifest.Manifest, body: Any) -> str:
    predictions = body.get("predictions") if isinstance(body, dict) else None
    if not isinstance(predictions, list) or len(predictions) != 1:
        return f"the answer holds no prediction: {json.dumps(body)[:200]}"
    expected = described.golden.predictions[0]
    # What a `respond` hook makes of it is the hook's business.
    if described.hooks is None and not _equal(predictions[0], expected):
        return f"the prediction is {predictions[0]!r} and not {expected!r}"
    return ""


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, int | float):
        return abs(found - expected) <= _CLOSE * max(1.0, abs(expected))
    return bool(found == expected)


def _post(url: str, document: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, dict[str, str], Any]:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError(f"{url!r} is no http address")
    connection = (HTTPSConnection if parts.scheme == "https" else HTTPConnection)(parts.netloc, timeout=_TIMEOUT)
    try:
        connection.request("POST", "/predict", json.dumps(document), dict(headers))
        answer = connection.getresponse()
        said = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, said, json.loads(answer.read() or b"null")
    finally:
        connection.close()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TidegateError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
