"""A batch on a Ray cluster of two nodes on this machine, beside the same batch on one engine.

Both share this machine's cores, so what differs is what the cluster costs: in its start, until the
first line is answered, and from there on in lines a second and in the processor time of all
processes. The latter tells more on a machine that has other work, too.

python3 dev.py bench batch_ray [LINES]
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import aclosing, contextmanager, suppress
from operator import truediv
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from parts.results import keep

from foundry_api import FoundryAPIClient
from foundry_api.batch.engine import LocalEngine
from foundry_api.batch.ray_engine import RayEngine
from foundry_api.batch.types import BatchRequest, Line, WorkItem
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from foundry_api.batch.engine import BatchEngine

LINES = int((sys.argv[1:] or ["1000"])[0])
ROUNDS = 5
ANSWER_TOKENS = 24
NODES = 2
STORE_BYTES = 80 * 2**20


async def works() -> AsyncIterator[WorkItem]:
    """The lines."""
    for index in range(LINES):
        message = {"role": "user", "content": f"Tell me fact {index}."}
        body = {"model": "demo", "messages": [message], "max_tokens": ANSWER_TOKENS}
        request = BatchRequest(custom_id=str(index), body=body)
        yield WorkItem(Line(index, index + 1, index, None), request)


def processor_s() -> dict[psutil.Process, float]:
    """Of this process and each beneath it, which are the engines and the cluster, too."""
    spent: dict[psutil.Process, float] = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent[process] = times.user + times.system
    return spent


def since(before: dict[psutil.Process, float]) -> float:
    """Processor seconds since then, of those that are there now: what ended takes nothing along."""
    return sum(spent - before.get(process, 0.0) for process, spent in processor_s().items())


async def measure(engine: BatchEngine) -> tuple[float, float, float]:
    """Seconds to the first answer; from there to the last, lines a second, processor ms a line."""
    began = time.perf_counter()
    first, before, spent, count = began, processor_s(), 0.0, 0
    async with aclosing(engine.run(works())) as answers:
        async for finished in answers:
            if finished.failed:
                sys.exit(finished.output.decode())
            count += 1
            if count == 1:
                first, before = time.perf_counter(), processor_s()
            if count == LINES:
                last, spent = time.perf_counter(), since(before)
    if count != LINES:
        sys.exit(f"{count} answers for {LINES} lines")
    return first - began, (LINES - 1) / (last - first), 1000 * spent / (LINES - 1)


async def on_one_engine(settings: Settings) -> tuple[float, float, float]:
    """A new engine of this process's own."""
    async with FoundryAPIClient(settings=settings) as client:
        return await measure(LocalEngine(client))


@contextmanager
def cluster(directory: str) -> Iterator[str]:
    """The address of a head without CPUs, which has two nodes beside it; its files lie there."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": directory}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - Ray reads the variable when imported

        options = {"object_store_memory": STORE_BYTES}
        head = {"num_cpus": 0, "include_dashboard": False, **options}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(NODES):
                cluster.add_node(num_cpus=1, **options)
            yield cluster.address
        finally:
            cluster.shutdown()


async def main() -> None:
    """Measure both in turn, so that they meet the same machine."""
    one: list[tuple[float, float, float]] = []
    many: list[tuple[float, float, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as home,
        cluster(home) as address,
    ):
        settings = Settings(home=Path(home), model="demo", service="embedded")
        for _ in range(ROUNDS):
            one.append(await on_one_engine(settings))
            many.append(await measure(RayEngine(address=address, settings=settings)))
            print(
                f"{one[-1][1]:.0f} lines/s on one engine, {many[-1][1]:.0f} on two nodes",
                flush=True,
            )
    figures: dict[str, float] = {}
    whats = ("s to the first answer", "lines/s", "processor ms/line")
    for what, ours, theirs in zip(
        whats, zip(*one, strict=True), zip(*many, strict=True), strict=True
    ):
        figures[f"{what}, one engine"] = statistics.median(ours)
        figures[f"{what}, Ray with {NODES} nodes"] = statistics.median(theirs)
        figures[f"{what}, Ray / one engine"] = statistics.median(map(truediv, theirs, ours))
    keep("batch_ray", figures)


if __name__ == "__main__":
    asyncio.run(main())
