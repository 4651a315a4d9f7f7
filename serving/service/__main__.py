"""`python -m tidegate.serving.service --bundle DIR --host 127.0.0.1 --port N`."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, serve, return the exit code. Every option can come from the environment, as images want it."""
    parser = argparse.ArgumentParser(prog="python -m tidegate.serving.service", description="Serve one model bundle.")
    env = os.environ.get
    bundle = env("TIDEGATE_BUNDLE")
    parser.add_argument("--bundle", type=Path, default=bundle, required=bundle is None, help="bundle folder")
    parser.add_argument("--host", default=env("TIDEGATE_HOST", "127.0.0.1"), help="address to listen on")
    parser.add_argument("--port", type=int, default=int(env("TIDEGATE_PORT", "3000")), help="port to listen on")
    parser.add_argument("--threads", type=int, default=int(env("TIDEGATE_THREADS", "1")), help="threads of a run")
    chosen = parser.parse_args(arguments)

    from tidegate.serving.service import server

    bundle_folder = Path(chosen.bundle).resolve()
    release = env("TIDEGATE_RELEASE", "")
    return server.run(server.Settings(bundle_folder, chosen.host, chosen.port, chosen.threads, release))


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Python would wait for the model's thread; one that hangs must not keep a drained process alive.
    os._exit(code)
