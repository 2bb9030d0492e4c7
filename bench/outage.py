"""An outage of 30 s under 200 callers a second: what is sent in it, and how long until all is well.

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
from parts.results import keep, kept

EACH_SECOND = 200
BEFORE_S = 5
OUTAGE_S = 30
AFTER_S = 40
FULL = 0.95


def ask(url: str, what: str) -> dict[str, int]:
    """Tell the service to go down or up, or ask what it counted."""
    with urllib.request.urlopen(f"{url}/bench/{what}", timeout=5) as response:  # noqa: S310 - it is http
        told: dict[str, int] = json.load(response)
    return told


def through(peer: str) -> tuple[int, float]:
    """Requests sent in the outage, and seconds from its end to full speed."""
    with server.started() as url:
        command = [peers.python_of(peer), peers.WORKER, "callers", peer, url]
        seconds = BEFORE_S + OUTAGE_S + AFTER_S
        with subprocess.Popen(
            [*command, str(EACH_SECOND), str(seconds)],
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
            ask(url, "down")
            time.sleep(OUTAGE_S)
            counts = ask(url, "up")
            ended_s = time.perf_counter() - started
            out, _ = worker.communicate()
    answered: list[float] = json.loads(out.splitlines()[-1])
    return counts["down"], full_speed_s(answered, ended_s)


def full_speed_s(answered: list[float], ended_s: float) -> float:
    """Seconds after the outage from which on a second's callers are all answered."""
    later = sorted(moment for moment in answered if moment >= ended_s)
    wanted = int(EACH_SECOND * FULL)
    for first, last in zip(later, later[wanted:], strict=False):
        if last - first <= 1.0:
            return first - ended_s
    return float("inf")


def main() -> None:
    """One client after the other; those of the arguments only, if there are any."""
    figures: dict[str, Any] = kept("outage")
    for peer in sys.argv[1:] or ("foundry-api", *peers.PEERS):
        sent, full_s = through(peer)
        figures[f"requests sent in the outage, {peer}"] = sent
        figures[f"s to full speed, {peer}"] = full_s
        print(f"{peer}: {sent} requests in the outage, full speed {full_s:.2f} s after", flush=True)
    figures["callers in the outage"] = EACH_SECOND * OUTAGE_S
    keep("outage", figures)


if __name__ == "__main__":
    main()
