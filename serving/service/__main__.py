"""`python -m tidegate.serving.service --bundle DIR --host 127.0.0.1 --port N`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tidegate.serving.service import limits, workers


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, serve, return the exit code. Every option can come from the environment, as images want it."""
    parser = argparse.ArgumentParser(prog="python -m tidegate.serving.service", description="Serve one model bundle.")
    env = os.environ.get
    bundle = env("TIDEGATE_BUNDLE")
    parser.add_argument("--bundle", type=Path, default=bundle, required=bundle is None, help="bundle folder")
    parser.add_argument("--host", default=env("TIDEGATE_HOST", "127.0.0.1"), help="address to listen on")
    parser.add_argument("--port", type=int, default=int(env("TIDEGATE_PORT", "3000")), help="port to listen on")
    parser.add_argument("--threads", type=_count, default=env("TIDEGATE_THREADS", "1"), help="of one run, or auto")
    parser.add_argument("--workers", type=_count, default=env("TIDEGATE_WORKERS", "1"), help="processes, or auto")
    parser.add_argument("--worker", type=workers.Place.parse, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    bundle_folder = Path(chosen.bundle).resolve()
    if chosen.workers > 1 and chosen.worker is None:
        command = [sys.executable, "-m", "tidegate.serving.service", "--bundle", str(bundle_folder)]
        command += ["--threads", str(chosen.threads)]
        return workers.supervise(command, chosen.host, chosen.port, chosen.workers)

    from tidegate.serving.service import server

    pairs = env("TIDEGATE_PAIRS")
    settings = server.Settings(
        bundle_folder,
        chosen.host,
        chosen.port,
        chosen.threads,
        release=env("TIDEGATE_RELEASE", ""),
        place=chosen.worker,
        pairs=Path(pairs) if pairs else None,
        slices=tuple(json.loads(env("TIDEGATE_SLICES", "[]"))),
        capture=env("TIDEGATE_CAPTURE", ""),
    )
    return server.run(settings)


def _count(text: str) -> int:
    """A number, or as many as the container has processors."""
    return limits.processors() if text == "auto" else int(text)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Python would wait for the model's thread; one that hangs must not keep a drained process alive.
    os._exit(code)
