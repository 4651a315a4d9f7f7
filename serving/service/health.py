"""`python -m tidegate.serving.service.health`: what a container's health check runs; 0 when the model is ready."""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException

SECONDS = 2.0


def ready(port: int) -> bool:
    """Whether the server of this container answers `/readyz` with 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200  # noqa: PLR2004 # HTTP
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if ready(int(os.environ.get("TIDEGATE_PORT", "3000"))) else 1)
