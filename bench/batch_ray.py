"""A batch on a Ray cluster of two nodes on this machine, compared with one engine.

Both share the cores of this machine, so the difference is the cost of the cluster: time to the
first answer, then lines per second and processor time of all processes. Processor time is the
better figure on a machine with other load.

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
from parts.results import save_figures

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


async def iter_items() -> AsyncIterator[WorkItem]:
    for index in range(LINES):
        message = {"role": "user", "content": f"Tell me fact {index}."}
        body = {"model": "demo", "messages": [message], "max_tokens": ANSWER_TOKENS}
        request = BatchRequest(custom_id=str(index), body=body)
        yield WorkItem(Line(index, index + 1, index, None), request)


def read_cpu_s() -> dict[psutil.Process, float]:
    """Read the processor time of this process and its descendants: engines and cluster."""
    cpu_s: dict[psutil.Process, float] = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            cpu_s[process] = times.user + times.system
    return cpu_s


def compute_used_s(before: dict[psutil.Process, float]) -> float:
    """Return the processor seconds since `before` of all processes that still run."""
    return sum(cpu_s - before.get(process, 0.0) for process, cpu_s in read_cpu_s().items())


async def measure(engine: BatchEngine) -> tuple[float, float, float]:
    """Return seconds to the first answer, then lines per second and processor ms per line."""
    started_at = time.perf_counter()
    first_at, before, used_s, count = started_at, read_cpu_s(), 0.0, 0
    async with aclosing(engine.run(iter_items())) as answers:
        async for finished in answers:
            if finished.failed:
                sys.exit(finished.output.decode())
            count += 1
            if count == 1:
                first_at, before = time.perf_counter(), read_cpu_s()
            if count == LINES:
                last_at, used_s = time.perf_counter(), compute_used_s(before)
    if count != LINES:
        sys.exit(f"{count} answers for {LINES} lines")
    return (
        first_at - started_at,
        (LINES - 1) / (last_at - first_at),
        1000 * used_s / (LINES - 1),
    )


async def measure_one_engine(settings: Settings) -> tuple[float, float, float]:
    async with FoundryAPIClient(settings=settings) as client:
        return await measure(LocalEngine(client))


@contextmanager
def start_cluster(directory: str) -> Iterator[str]:
    """Start a head without CPUs and two nodes; yield the address."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": directory}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - Ray reads the variables on import

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
    one: list[tuple[float, float, float]] = []
    many: list[tuple[float, float, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as home,
        start_cluster(home) as address,
    ):
        settings = Settings(home=Path(home), model="demo", service="embedded")
        # Both take turns, so that they see the same machine.
        for _ in range(ROUNDS):
            one.append(await measure_one_engine(settings))
            many.append(await measure(RayEngine(address=address, settings=settings)))
            print(
                f"{one[-1][1]:.0f} lines/s on one engine, {many[-1][1]:.0f} on two nodes",
                flush=True,
            )
    figures: dict[str, float] = {}
    units = ("s to the first answer", "lines/s", "processor ms/line")
    for unit, ours, theirs in zip(
        units, zip(*one, strict=True), zip(*many, strict=True), strict=True
    ):
        figures[f"{unit}, one engine"] = statistics.median(ours)
        figures[f"{unit}, Ray with {NODES} nodes"] = statistics.median(theirs)
        figures[f"{unit}, Ray / one engine"] = statistics.median(map(truediv, theirs, ours))
    save_figures("batch_ray", figures)


if __name__ == "__main__":
    asyncio.run(main())
