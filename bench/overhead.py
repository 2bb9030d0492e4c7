"""Processor time of each client for a call and for a chunk, beside raw aiohttp by hand.

python3 dev.py bench overhead
python3 dev.py bench overhead foundry-api
"""

from __future__ import annotations

import sys

from parts import peers, server
from parts.results import keep, kept


def main() -> None:
    """Ours and the floor in one process in turn, each peer in its own, each beside a floor."""
    figures = kept("overhead")
    with server.started() as url:
        for peer in sys.argv[1:] or ("foundry-api", *peers.PEERS):
            told = peers.work("cpu", "aiohttp,foundry-api", url)
            mine = told if peer == "foundry-api" else peers.work("cpu", peer, url)
            for what, seconds in told["aiohttp"].items():
                figures[f"µs per {what}, raw aiohttp"] = seconds * 1e6
                figures[f"{what}, {peer} / raw aiohttp"] = mine[peer][what] / seconds
    keep("overhead", figures)


if __name__ == "__main__":
    main()
