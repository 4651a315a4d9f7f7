"""A cluster gateway's access log: which fields Envoy Gateway is told to send, and one line of them read.

The names are those of the laptop's log (`render.py`), so that one reader understands both. What differs is who names
things: a route is `httproute/NAMESPACE/NAME/rule/...`, a cluster ends in the number of its backend, the canary's first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tidegate.serving.gateway.access_log import AccessRecord, parse_record
from tidegate.serving.gateway.state import ARM_HEADER, INVALID_HEADER, PREDICTION_HEADER, VERSION_HEADER

_ROUTE: Final = re.compile(r"httproute/([^/]+)/([^/]+)/")
_BACKEND: Final = re.compile(r"/backend/(\d+)$")
_PREDICTION: Final = re.compile(r"/predict|/v2/models/[^/]+(/versions/[^/]+)?/infer")
# What Envoy writes where there is nothing.
_NOTHING: Final = ("", "-", None)


def access_log_fields(unit_header: str) -> dict[str, str]:
    """The attributes of an OTLP access log, as Envoy's format strings: the `json` of Envoy Gateway's log settings."""
    return {
        "at": "%START_TIME(%s%6f)%",
        "unit": f"%REQ({unit_header})%",
        "route": "%ROUTE_NAME%",
        "cluster": "%UPSTREAM_CLUSTER_RAW%",
        "arm": f"%RESP({ARM_HEADER})%",
        "forced": f"%REQ({ARM_HEADER})%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "upstream": "%UPSTREAM_HOST%",
        "total_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
        "stream_ms": "%DURATION%",
        "upstream_us": "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%",
        "prediction": f"%RESP({PREDICTION_HEADER})%",
        "version": f"%RESP({VERSION_HEADER})%",
        "invalid": f"%RESP({INVALID_HEADER})%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
    }


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """One finished request, and of which HTTPRoute."""

    name: str
    record: AccessRecord

    @property
    def predicts(self) -> bool:
        """Whether it asked for a prediction, as opposed to documentation and checks."""
        return _PREDICTION.fullmatch(self.record.path) is not None


def parse_attributes(attributes: Mapping[str, Any]) -> ClusterRecord | None:
    """Read one line; None: it is not of a route that splits traffic, or not in our form."""
    told = {name: None if value in _NOTHING else value for name, value in attributes.items()}
    route = _ROUTE.match(str(told.get("route") or ""))
    if route is None:
        return None
    fields = dict.fromkeys(access_log_fields("")) | {"request": None} | told
    try:
        record = parse_record(json.dumps(fields).encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    arm = _arm(told)
    return ClusterRecord(route[2], replace(record, arm=arm, kind="forced" if told.get("forced") else "split"))


def _arm(told: Mapping[str, Any]) -> Any:
    """Which arm the route chose: its own word, or the place of the backend."""
    said = told.get("arm")
    if said in {"canary", "stable"}:
        return said
    backend = _BACKEND.search(str(told.get("cluster") or ""))
    return {"0": "canary", "1": "stable"}.get(backend[1]) if backend else None
