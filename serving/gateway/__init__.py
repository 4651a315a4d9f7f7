"""The local gateway: a real Envoy that splits, protects and records the traffic of one model.

`state` says who serves what, `render` turns it into Envoy's documents, `process` runs Envoy and changes it live,
`access_log` reads what it did. Nothing here decides anything about a rollout.
"""

from tidegate.serving.gateway.access_log import AccessLogReader, AccessRecord, LogPosition
from tidegate.serving.gateway.process import Gateway
from tidegate.serving.gateway.state import GatewaySettings, GatewayState, Upstream

__all__ = [
    "AccessLogReader",
    "AccessRecord",
    "Gateway",
    "GatewaySettings",
    "GatewayState",
    "LogPosition",
    "Upstream",
]
