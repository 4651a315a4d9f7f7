"""The few questions that are asked of a running Envoy's admin port."""

from __future__ import annotations

import http.client
import json
import re
import threading
from dataclasses import dataclass

from tidegate.core.errors import Temporary

_TIMEOUT = 5.0


@dataclass(frozen=True)
class Loaded:
    """What one discovery subscription has: the version in use, and how many documents it refused."""

    version: str
    rejected: int


class Admin:
    """A keep-alive connection to Envoy's admin port; threads take turns.

    Args:
        address: host:port, as Envoy wrote it.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._lock = threading.Lock()
        self._connection = http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ready(self) -> bool:
        """Return whether Envoy serves."""
        try:
            return self._ask("GET", "/ready").strip() == "LIVE"
        except Temporary:
            return False

    def loaded(self, prefix: str) -> Loaded:
        """Return the state of one subscription, `prefix` being its stats prefix."""
        text = self._ask("GET", f"/stats?filter=^{re.escape(prefix)}[.](version_text|update_rejected)$")
        version = re.search(r'version_text: "(.*)"', text)
        rejected = re.search(r"update_rejected: (\d+)", text)
        return Loaded(version[1] if version else "", int(rejected[1]) if rejected else 0)

    def refusal(self, resource: str) -> str:
        """Return why Envoy refused its last document of this kind, "" if it does not say."""
        dump = json.loads(self._ask("GET", f"/config_dump?resource={resource}"))
        reasons = (one.get("error_state", {}).get("details", "") for one in dump.get("configs", []))
        return next((reason for reason in reasons if reason), "")

    def warming(self) -> int:
        """Return how many clusters are known but not usable yet."""
        found = re.search(r": (\d+)", self._ask("GET", "/stats?filter=^cluster_manager[.]warming_clusters$"))
        return int(found[1]) if found else 0

    def reopen_logs(self) -> None:
        """Make Envoy open its access log anew."""
        self._ask("POST", "/reopen_logs")

    def _ask(self, method: str, path: str) -> str:
        try:
            with self._lock:
                self._connection.request(method, path.replace("^", "%5E").replace("\\", "%5C").replace("|", "%7C"))
                return self._connection.getresponse().read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Temporary(
                f"Envoy's admin port does not answer: {error}.", "Look at its log with `tidegate logs`."
            ) from error
