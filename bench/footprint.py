"""Import time, time from process start to a completion, and memory for 1,000 open streams.

python3 dev.py bench footprint
"""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import TYPE_CHECKING

from parts import peers, server
from parts.results import save_figures

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 5
STREAMS = 1000
IMPORTS = {
    "aiohttp": "import aiohttp, msgspec",
    "foundry-api": "from foundry_api import FoundryAPIClient",
    "openai": "from openai import AsyncOpenAI",
    "ollama": "from ollama import AsyncClient",
    "litellm": "from litellm import acompletion",
}


def measure_wall_s(command: list[str | Path]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=peers.environment())
    return time.perf_counter() - started


def main() -> None:
    pythons = {peer: peers.find_python(peer) for peer in IMPORTS}
    empty: dict[str, list[float]] = {peer: [] for peer in IMPORTS}
    imports: dict[str, list[float]] = {peer: [] for peer in IMPORTS}
    firsts: dict[str, list[float]] = {peer: [] for peer in IMPORTS}
    figures: dict[str, float] = {}
    with server.start() as url:
        # Clients take turns, so that all see the same machine.
        for _ in range(ROUNDS):
            for peer, python in pythons.items():
                empty[peer].append(measure_wall_s([python, "-c", "pass"]))
                imports[peer].append(measure_wall_s([python, "-c", IMPORTS[peer]]))
                firsts[peer].append(measure_wall_s([python, peers.WORKER, "once", peer, url]))
        for peer in IMPORTS:
            bare = statistics.median(empty[peer])
            figures[f"import, s, {peer}"] = statistics.median(imports[peer]) - bare
            figures[f"start to completion, s, {peer}"] = statistics.median(firsts[peer])
            figures[f"KiB per open stream, {peer}"] = (
                peers.run_job("memory", peer, url, str(STREAMS)) / 1024
            )
    save_figures("footprint", figures)


if __name__ == "__main__":
    main()
