"""Counters of one process in Prometheus' text format.

Written by hand because the prediction path can afford two dictionary updates, not a client library with locks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

# Seconds: from a cache hit to far beyond any timeout; the gateway's log has the exact times.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Requests by status and arm, their seconds, and rows."""

    def __init__(self) -> None:
        self.requests: dict[tuple[int, str], int] = {}
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.in_flight = 0
        self.rows = 0

    def record(self, status: int, arm: str, seconds: float) -> None:
        """Count one finished request."""
        key = (status, arm)
        self.requests[key] = self.requests.get(key, 0) + 1
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def render(self, info: Mapping[str, str], gauges: Mapping[str, float], counters: Mapping[str, float]) -> bytes:
        """The page: `info` are labels of `tidegate_info`; the others are named as they are shown."""
        lines = [*_head("tidegate_info", "gauge", "What is served here."), f"tidegate_info{{{_labels(info)}}} 1"]
        lines += _head("tidegate_requests_total", "counter", "Finished prediction requests.")
        lines += [
            f"tidegate_requests_total{{{_labels({'status': str(status), 'arm': arm})}}} {count}"
            for (status, arm), count in sorted(self.requests.items())
        ]
        lines += self._histogram()
        lines += _head("tidegate_in_flight", "gauge", "Prediction requests being answered.")
        lines.append(f"tidegate_in_flight {self.in_flight}")
        for kind, values in (("gauge", gauges), ("counter", counters)):
            for name, value in values.items():
                lines += [*_head(name, kind, name.replace("_", " ").capitalize() + "."), f"{name} {value:g}"]
        return ("\n".join(lines) + "\n").encode()

    def _histogram(self) -> list[str]:
        name = "tidegate_request_seconds"
        lines = _head(name, "histogram", "Seconds from the request's head to its answer.")
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self.seconds:.6f}", f"{name}_count {total}"]


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
