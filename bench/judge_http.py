"""What an answer of the judge's service takes while 100 rollouts of ten metrics are followed.

    python bench/judge_http.py [--rollouts 100] [--blocks 10] [--speed 4]

The server is `tidegate serve judge` in a process of its own, on the same machine as the clients; every rollout sends a
block of its ten metrics each minute and asks for its verdict and its guard every half a minute, as Argo Rollouts does;
`--speed` makes minutes shorter. Limit: 200 ms at the 99th percentile of verdicts and guards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import httpx
import numpy as np
import pairs

TOKEN = "bench-" + "0" * 20
LIMIT = 0.2
AT_ONCE = ("error_rate", "invalid_output", "latency_p50", "latency_p90", "latency_p99")
LATE = ("accuracy", "brier", "log_loss", "conversion", "revenue")
SHARES = {"latency_p50": 0.5, "latency_p90": 0.1, "latency_p99": 0.01, "accuracy": 0.9, "conversion": 0.05}
MEANS = ("brier", "log_loss", "revenue")


def _guard(metric: str) -> dict[str, Any]:
    if metric == "latency":
        return {"metric": metric, "harm": {"ratio": 1.1}, "safe": {"ratio": 1.5}}
    if metric in (*MEANS, "conversion"):
        return {"metric": metric, "harm": {"margin": 0.01}, "safe": {"margin": 0.03}}
    return {"metric": metric, "harm": {"ratio": 1.1, "margin": 0.001}, "safe": {"ratio": 1.5, "margin": 0.002}}


PLAN = {
    "steps": [10, 50],
    "step": {"min": "2h", "max": "20h"},
    "guardrails": [_guard(name) for name in ("error_rate", "invalid_output", "latency", *LATE)],
    "measured": {name: {"value": 0.3, "variance": 0.1} for name in MEANS},
}


def lines(key: str, minute: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A block of ten metrics, half of them of the cohort before."""
    made = []
    for arm, n in (("canary", 120), ("stable", 1080)):
        head = {"rollout": key, "minute": minute, "arm": arm, "weight": 10, "n": n}
        made.append({**head, "metric": "attempts", "x": int(rng.binomial(n, 0.005))})
        made += [{**head, "metric": one, "x": int(rng.binomial(n, SHARES.get(one, 0.005)))} for one in AT_ONCE]
        for one in LATE if minute else ():
            late = {**head, "metric": one, "cohort": minute - 1}
            made.append(late | ({"sum": 0.3 * n, "sumsq": 0.2 * n} if one in MEANS else {"x": int(n * SHARES[one])}))
    return made


async def drive(address: str, rollouts: int, blocks: int, speed: float) -> dict[str, list[float]]:
    """Seconds of every answer, by endpoint; a minute of the cluster takes 60 / speed seconds here."""
    took: dict[str, list[float]] = {"/v1/blocks": [], "/v1/verdicts": [], "/v1/guard": []}
    rng, minute_seconds = np.random.default_rng(1), 60 / speed
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=60) as client:

        async def ask(path: str, document: Any) -> None:
            began = time.perf_counter()
            answer = await client.post(path, json=document)
            took[path].append(time.perf_counter() - began)
            answer.raise_for_status()

        async def one(number: int, minute: int, start: float) -> None:
            case = {"rollout": f"r{number}", "experiment": f"u{number}", "stable": "s", "canary": "c", "plan": PLAN}
            at = start + (minute + number / rollouts) * minute_seconds
            await asyncio.sleep(at - time.perf_counter())
            await ask("/v1/blocks", lines(f"u{number}.c", minute, rng))
            for half in range(2):
                await asyncio.sleep(at + half * minute_seconds / 2 - time.perf_counter())
                await asyncio.gather(ask("/v1/verdicts", {**case, "weight": 10}), ask("/v1/guard", case))

        for number in range(rollouts):
            case = {"rollout": f"r{number}", "experiment": f"u{number}", "stable": "s", "canary": "c", "plan": PLAN}
            await ask("/v1/guard", case)
        took["/v1/guard"].clear()
        start = time.perf_counter()
        await asyncio.gather(*(one(number, minute, start) for minute in range(blocks) for number in range(rollouts)))
    return took


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--speed", type=float, default=4.0)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as store:
        variables = {**os.environ, "TIDEGATE_JUDGE_TOKEN": TOKEN}
        command = [str(pairs.TIDEGATE), "serve", "judge", "--store", store, "--port", str(port)]
        server = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address)
            began = time.perf_counter()
            took = asyncio.run(drive(address, options.rollouts, options.blocks, options.speed))
            wall = time.perf_counter() - began
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(20)
    at = {path: [float(np.percentile(seconds, share)) for share in (50, 99)] for path, seconds in took.items()}
    document = {
        "kind": "bench",
        "name": "judge_http",
        "rollouts": options.rollouts,
        "speed": options.speed,
        "answers": sum(map(len, took.values())),
        "answers_per_second": round(sum(map(len, took.values())) / wall, 1),
        "median_and_p99_seconds": {path: [round(value, 4) for value in pair] for path, pair in at.items()},
        "ok": at["/v1/verdicts"][1] <= LIMIT and at["/v1/guard"][1] <= LIMIT,
    }
    print(json.dumps(document))
    sys.exit(not document["ok"])


def _wait(address: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{address}/readyz", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError("the judge did not get ready")


if __name__ == "__main__":
    main()
