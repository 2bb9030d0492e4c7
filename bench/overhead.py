"""Processor time of each client per call and per chunk, relative to raw aiohttp.

python3 dev.py bench overhead
python3 dev.py bench overhead foundry-api
"""

from __future__ import annotations

import sys

from parts import peers, server
from parts.results import load_figures, save_figures


def main() -> None:
    figures = load_figures("overhead")
    with server.start() as url:
        for peer in sys.argv[1:] or ("foundry-api", peers.FLOOR, *peers.PEERS):
            # The baseline runs again next to each peer, so that both see the same machine.
            baseline = peers.run_job("cpu", "aiohttp,foundry-api", url)
            own = baseline if peer == "foundry-api" else peers.run_job("cpu", peer, url)
            for unit, seconds in baseline["aiohttp"].items():
                figures[f"µs per {unit}, raw aiohttp"] = seconds * 1e6
                figures[f"{unit}, {peer} / raw aiohttp"] = own[peer][unit] / seconds
    save_figures("overhead", figures)


if __name__ == "__main__":
    main()
