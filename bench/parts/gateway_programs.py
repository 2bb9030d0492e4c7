"""Programs that `bench/gateway.py` compares, each in its own process.

    gateway_programs.py pass-through UPSTREAM     a hand-written proxy on aiohttp
    gateway_programs.py gateway UPSTREAM          this package's gateway

The program prints its URL and a key, then its processor time in seconds for each line on standard
input. The key of the gateway has limits of every kind, which no benchmark reaches.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from aiohttp import web

from foundry_api import FoundryAPIClient
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.resilience.limiter import LimiterSettings

LIMITS = {
    "rate": Limit(10**9, "m"),
    "tokens": (Limit(10**12, "m"), Limit(10**12, "d")),
    "parallel": 10_000,
}
# Calls that the gateway sends to the service at the same time. By itself it would look for the
# number with the highest throughput, on a noisy machine a different one in each run: with 4, a call
# takes a fifth more of the processor's time than with 16, because the loop wakes up more often.
SLOTS = 16


async def run_pass_through(upstream: str) -> None:
    """Forward chat completions: what a developer would write, without any of the guards."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            async with session.post(upstream + request.path, data=body) as answer:
                response = web.StreamResponse(
                    status=answer.status, headers={"Content-Type": answer.content_type}
                )
                await response.prepare(request)
                async for block in answer.content.iter_any():
                    await response.write(block)
                return response

        app = web.Application()
        app.router.add_post("/v1/chat/completions", forward)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await report(f"http://127.0.0.1:{runner.addresses[0][1]} none")


async def run_gateway(upstream: str) -> None:
    config = GatewayConfig(port=0)
    with tempfile.TemporaryDirectory() as directory:
        _, token = KeyDatabase(Path(directory)).create(NewKey(name="bench", **LIMITS))
        async with (
            FoundryAPIClient(upstream, limiter=LimiterSettings(concurrency=SLOTS)) as client,
            Gateway(config, client, Path(directory)) as gateway,
        ):
            await report(f"{gateway.url} {token}")


async def report(line: str) -> None:
    print(line, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(time.process_time(), flush=True)


if __name__ == "__main__":
    name, address = sys.argv[1:]
    asyncio.run({"pass-through": run_pass_through, "gateway": run_gateway}[name](address))
