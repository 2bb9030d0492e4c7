"""Processor time of each client for a call and for a chunk, beside raw aiohttp by hand.

python3 dev.py bench overhead
"""

from __future__ import annotations

from parts import peers, server
from parts.results import keep


def main() -> None:
    """Ours and the floor in one process in turn, each peer in its own."""
    with server.started() as url:
        told = peers.work("cpu", "aiohttp,foundry-api", url)
        for peer in peers.PEERS:
            told |= peers.work("cpu", peer, url)
    floor = told["aiohttp"]
    figures: dict[str, float] = {}
    for what, seconds in floor.items():
        figures[f"µs per {what}, raw aiohttp"] = seconds * 1e6
        for peer in ("foundry-api", *peers.PEERS):
            figures[f"{what}, {peer} / raw aiohttp"] = told[peer][what] / seconds
    keep("overhead", figures)


if __name__ == "__main__":
    main()
