"""What a Ray cluster behind the gateway costs: the proxy of a node, and a number of nodes.

python3 dev.py bench gateway_cluster

No Ray runs here: no token passes through it. The nodes are many names of one engine, since what
grows with their number is the gateway's own work.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
from parts.results import save_figures

from foundry_api import FoundryAPIClient
from foundry_api.batch.cluster.engine_proxy import EngineProxy
from foundry_api.engine.process import HostOptions
from foundry_api.engine.supervisor import EngineHost
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.upstreams.config import UpstreamConfig
from foundry_api.storage.paths import Paths
from foundry_api.types.services import ServiceOptions
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

CALLS = 300
NODES = (1, 10, 100, 1000)
BODY = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is 2 plus 3?"}],
    "max_tokens": 8,
    "temperature": 0,
}


async def serve_proxy(url: str) -> None:
    """Serve an engine as an actor does, until the standard input ends."""
    async with FoundryAPIClient(url) as client:
        proxy = EngineProxy(client.services[0])
        print(await proxy.listen("127.0.0.1", 0), proxy.token, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await proxy.aclose()


@contextmanager
def start_proxy(url: str) -> Generator[tuple[ServiceOptions, psutil.Process]]:
    with subprocess.Popen(
        [sys.executable, __file__, "proxy", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        assert process.stdout is not None  # noqa: S101 - the same
        address, token = process.stdout.readline().split()
        options = ServiceOptions(name="node", base_url=address, get_api_key=lambda: token)
        yield options, psutil.Process(process.pid)
        process.stdin.close()


@asynccontextmanager
async def serve_gateway(
    directory: Path, services: tuple[ServiceOptions, ...]
) -> AsyncGenerator[tuple[Gateway, aiohttp.ClientSession]]:
    client = FoundryAPIClient(settings=Settings(services=services))
    upstreams = tuple(UpstreamConfig(name=one.name, url=one.base_url) for one in services[:1])
    config = GatewayConfig(port=0, upstream=upstreams, upstream_check_s=3600)
    async with (
        client,
        Gateway(config, client, directory) as gateway,
        aiohttp.ClientSession(gateway.url) as http,
    ):
        for service in client.services:
            await service.check(max_age_s=3600)
        yield gateway, http


def get_cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def call(http: aiohttp.ClientSession, count: int, **options: Any) -> int:
    """Make calls one after the other, and return their output tokens."""
    tokens = 0
    for _ in range(count):
        async with http.post("/v1/chat/completions", json={**BODY, **options}) as response:
            response.raise_for_status()
            tokens += (await response.json())["usage"]["completion_tokens"]
    return tokens


async def measure_tokens(directory: Path, url: str) -> dict[str, float]:
    """Return the CPU time of this process for a call of about 100 tokens."""
    messages = [{"role": "user", "content": "Tell me a long story."}]
    async with serve_gateway(directory, (ServiceOptions(name="node", base_url=url),)) as (_, http):
        await call(http, 5)
        started_at = time.process_time()
        tokens = await call(http, 30, messages=messages, max_tokens=100, temperature=1, seed=1)
        cpu_s = time.process_time() - started_at
    return {
        "long call, tokens": tokens / 30,
        "long call, ms of CPU": 1000 * cpu_s / 30,
    }


async def measure_node(directory: Path, engine: EngineHost, url: str) -> dict[str, float]:
    """Return the CPU time of an engine and of its proxy for a call of 8 tokens."""
    host = psutil.Process(engine.pid)
    with start_proxy(url) as (options, proxy):
        async with serve_gateway(directory, (options,)) as (_, http):
            await call(http, 20)
            before = get_cpu_s(host), get_cpu_s(proxy)
            await call(http, CALLS)
            after = get_cpu_s(host), get_cpu_s(proxy)
    memory_mb = host.memory_info().rss / 2**20
    return {
        "engine, ms of CPU per call": 1000 * (after[0] - before[0]) / CALLS,
        "proxy, ms of CPU per call": 1000 * (after[1] - before[1]) / CALLS,
        "engine, MB with the demo model": memory_mb,
    }


async def measure_gateway(directory: Path, url: str) -> dict[str, float]:
    """Return the CPU time of this process, a gateway with its caller, by the number of nodes."""
    figures: dict[str, float] = {}
    one = ServiceOptions(name="node", base_url=url)
    for count in NODES:
        services = tuple(replace(one, name=f"node{number}") for number in range(count))
        async with serve_gateway(directory / str(count), services) as (gateway, http):
            await call(http, 20 + count)  # each node has been called: it is connected
            started_at = time.process_time()
            await call(http, CALLS)
            figures[f"{count} nodes, ms of CPU per call"] = (
                1000 * (time.process_time() - started_at) / CALLS
            )
            checked = gateway.context.client.services[:100]
            started_at = time.process_time()
            for service in checked:
                await service.check()
            figures[f"{count} nodes, ms of CPU per check"] = (
                1000 * (time.process_time() - started_at) / len(checked)
            )
            started_at = time.process_time()
            for _ in range(20):
                gateway.context.model_names.update(gateway.context.upstreams.models)
            figures[f"{count} nodes, ms of CPU to merge the lists of models"] = (
                1000 * (time.process_time() - started_at) / 20
            )
    return figures


async def main() -> None:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = EngineHost(HostOptions(paths=Paths.from_home(directory / "home")))
        stack.push_async_callback(engine.aclose)
        url = (await engine.wait_ready()).base_url
        figures = {
            **await measure_node(directory / "node", engine, url),
            **await measure_tokens(directory / "tokens", url),
            **await measure_gateway(directory, url),
        }
    save_figures("gateway_cluster", figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["proxy"]:
        asyncio.run(serve_proxy(sys.argv[2]))
    else:
        asyncio.run(main())
