"""What the running services say of themselves at /metrics: their samples, and a summary of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

_TIMEOUT: Final = 1.0
_LARGEST: Final = 1_000_000
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a /metrics page."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Served:
    """What a service has answered since it began; `slow` is the latency (seconds) that 1 % of its answers exceed."""

    requests: int
    failed: int
    slow: float | None


def samples_of(stack: Mapping[str, Any] | None) -> dict[str, list[Sample]]:
    """The samples of every service by release; those that do not answer are left out."""
    services = [one for one in (stack or {}).get("processes", ()) if one.get("release") and one.get("port")]
    with ThreadPoolExecutor(max(len(services), 1)) as pool:
        found = list(pool.map(lambda one: list(parse(_fetch(one["port"]))), services))
    return {one["release"]: samples for one, samples in zip(services, found, strict=True) if samples}


def served(stack: Mapping[str, Any] | None) -> dict[str, Served]:
    """For each service that answers, what it has answered."""
    return {release: _served(samples) for release, samples in samples_of(stack).items()}


def parse(text: str) -> Iterator[Sample]:
    """Prometheus' text format, without comments."""
    for line in text.splitlines():
        match = None if line.startswith("#") else _SAMPLE.fullmatch(line)
        if match is not None:
            with suppress(ValueError):
                yield Sample(match[1], dict(_LABEL.findall(match[2] or "")), float(match[3]))


def _served(samples: list[Sample]) -> Served:
    requests = [one for one in samples if one.name == "tidegate_requests_total"]
    failed = sum(one.value for one in requests if one.labels.get("status", "").startswith("5"))
    buckets = [one for one in samples if one.name == "tidegate_request_seconds_bucket"]
    total = max((one.value for one in buckets), default=0.0)
    slow = next((float(one.labels["le"]) for one in buckets if total and one.value >= 0.99 * total), None)
    return Served(int(sum(one.value for one in requests)), int(failed), slow if slow != float("inf") else None)


def _fetch(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read(_LARGEST).decode(errors="replace")
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()
