"""An outage of 30 s at 200 calls per second: requests sent during it, and the time to recover.

python3 dev.py bench outage
python3 dev.py bench outage foundry-api
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from typing import Any

from parts import peers, server
from parts.results import load_figures, save_figures

CALLS_PER_S = 200
BEFORE_S = 5
OUTAGE_S = 30
AFTER_S = 40
FULL_SPEED = 0.95


def control(url: str, command: str) -> dict[str, int]:
    """Send `down` or `up` to the service; return its counts."""
    with urllib.request.urlopen(f"{url}/bench/{command}", timeout=5) as response:  # noqa: S310 - always http
        counts: dict[str, int] = json.load(response)
    return counts


def measure(peer: str) -> tuple[int, float]:
    """Return the requests sent during the outage, and the seconds from its end to full speed."""
    with server.start() as url:
        command = [peers.find_python(peer), peers.WORKER, "callers", peer, url]
        seconds = BEFORE_S + OUTAGE_S + AFTER_S
        with subprocess.Popen(
            [*command, str(CALLS_PER_S), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=peers.environment(),
        ) as worker:
            assert worker.stderr is not None  # noqa: S101 - it is a pipe
            while worker.stderr.readline() != "started\n":
                pass
            started = time.perf_counter()
            time.sleep(BEFORE_S)
            control(url, "down")
            time.sleep(OUTAGE_S)
            counts = control(url, "up")
            ended_s = time.perf_counter() - started
            out, _ = worker.communicate()
    answered: list[float] = json.loads(out.splitlines()[-1])
    return counts["down"], compute_recovery_s(answered, ended_s)


def compute_recovery_s(answered: list[float], ended_s: float) -> float:
    """Return the seconds from the end of the outage until answers come at full speed."""
    later = sorted(at for at in answered if at >= ended_s)
    full_count = int(CALLS_PER_S * FULL_SPEED)
    for first, last in zip(later, later[full_count:], strict=False):
        if last - first <= 1.0:
            return first - ended_s
    return float("inf")


def main() -> None:
    figures: dict[str, Any] = load_figures("outage")
    for peer in sys.argv[1:] or ("foundry-api", *peers.PEERS):
        sent, recovery_s = measure(peer)
        figures[f"requests sent in the outage, {peer}"] = sent
        figures[f"s to full speed, {peer}"] = recovery_s
        print(
            f"{peer}: {sent} requests in the outage, full speed {recovery_s:.2f} s after it",
            flush=True,
        )
    figures["callers in the outage"] = CALLS_PER_S * OUTAGE_S
    save_figures("outage", figures)


if __name__ == "__main__":
    main()
