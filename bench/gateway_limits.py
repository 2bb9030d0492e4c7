"""Fairness between keys, refusals, delays, health, and the memory of waiting and running calls.

python3 dev.py bench gateway_limits
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import psutil
from parts import server, stamped_streams
from parts.results import save_figures

from foundry_api import FoundryAPIClient
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.keyring import Keyring
from foundry_api.gateway.keys.types import Limit, NewKey, Scope
from foundry_api.gateway.limits.accounts import Accounts
from foundry_api.resilience.limiter import LimiterSettings

CONNECTIONS = 1_000
# Calls that wait while the gateway is asked for its health, and how often it is asked.
WAITING, HEALTH_CHECKS = 10_000, 200
FAIR_CALLS, MANY, SLOTS = 60, 64, 2
STREAMS = 500
# Streams that start at the same time have all their tokens at the same time, too.
SPREADS_S = {"paced": 5.0, "whose tokens come at once": 0.0}
REFUSED = 1_000
LOOKUPS = 20_000


async def serve(upstream: str, slots: int, queue: int) -> None:
    """Serve two keys; print the address and their tokens."""
    with tempfile.TemporaryDirectory() as directory:
        database = KeyDatabase(Path(directory))
        scopes: frozenset[Scope] = frozenset({"inference", "metrics"})
        tokens = [database.create(NewKey(name=name, scopes=scopes))[1] for name in ("one", "many")]
        config = GatewayConfig(
            port=0,
            queue_per_slot=queue,
            max_connections=WAITING * 2,
            max_connections_per_address=WAITING * 2,
        )
        limiter = LimiterSettings(concurrency=slots)
        async with (
            FoundryAPIClient(upstream, limiter=limiter) as client,
            Gateway(config, client, Path(directory)) as gateway,
        ):
            print(gateway.url, *tokens, flush=True)
            await asyncio.to_thread(sys.stdin.readline)


def make_body(prompt: str) -> dict[str, object]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": server.MODEL, "messages": messages, "stream": True}


def open_session(url: str, token: str) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {token}"}
    return aiohttp.ClientSession(url, headers=headers, connector=aiohttp.TCPConnector(limit=0))


async def call(session: aiohttp.ClientSession, prompt: str) -> float:
    """Make a call; return its duration in seconds."""
    started_at = time.perf_counter()
    async with session.post("/v1/chat/completions", json=make_body(prompt)) as response:
        text = await response.text()
        assert response.status == 200, text  # noqa: S101, PLR2004
    return time.perf_counter() - started_at


async def measure_memory(url: str, token: str, pid: int) -> float:
    """Return the memory of one of many calls that do not end, in KiB."""
    process = psutil.Process(pid)
    async with open_session(url, token) as session:
        await call(session, "short")
        before = process.memory_info().rss
        tasks = [asyncio.ensure_future(call(session, "slow")) for _ in range(CONNECTIONS)]
        await asyncio.sleep(8)
        after = process.memory_info().rss
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return (after - before) / CONNECTIONS / 1024


async def measure_health(url: str, token: str) -> dict[str, float]:
    """Ask for the gateway's health while calls wait for its only slot."""
    async with open_session(url, token) as session, open_session(url, token) as health:
        tasks = [asyncio.ensure_future(call(session, "slow")) for _ in range(WAITING)]
        waiting = 0
        while waiting < WAITING - 2:  # one runs, and one waits in the client of the gateway
            await asyncio.sleep(1)
            async with health.get("/metrics") as response:
                text = await response.text()
            waiting = int(text.partition("\nfoundry_gateway_waiting{} ")[2].partition("\n")[0])
        figures: dict[str, float] = {}
        for path in ("/healthz", "/readyz"):
            durations_s: list[float] = []
            for _ in range(HEALTH_CHECKS):
                started_at = time.perf_counter()
                async with health.get(path) as response:
                    await response.read()
                durations_s.append(time.perf_counter() - started_at)
            rank = round(HEALTH_CHECKS * 0.99) - 1
            figures[f"ms of {path} while {WAITING} calls wait, p99"] = (
                sorted(durations_s)[rank] * 1000
            )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return figures


async def measure_refusals(url: str, token: str) -> float:
    """Return the p99 of refusals while the queue is full, in seconds."""
    durations: list[float] = []
    async with open_session(url, token) as session:
        waiting = [asyncio.ensure_future(call(session, "slow")) for _ in range(SLOTS * 2 + 1)]
        await asyncio.sleep(1)
        while len(durations) < REFUSED:
            started_at = time.perf_counter()
            async with session.post("/v1/chat/completions", json=make_body("short")) as response:
                await response.read()
                assert response.status == 503, response.status  # noqa: S101, PLR2004
            durations.append(time.perf_counter() - started_at)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return sorted(durations)[round(REFUSED * 0.99) - 1]


async def measure_lookups() -> float:
    """Return the processor seconds to find a key, and to start and end a call within its limits."""
    with tempfile.TemporaryDirectory() as directory:
        database = KeyDatabase(Path(directory))
        limits = {"rate": Limit(10**9, "m"), "tokens": (Limit(10**12, "d"),), "parallel": 10_000}
        token = [database.create(NewKey(name=f"key-{n}", **limits))[1] for n in range(100)][50]
        keyring = Keyring(database, on_revoked=print)
        await keyring.open()
        accounts = Accounts(time.time)
        started_at = time.process_time()
        for _ in range(LOOKUPS):
            key = keyring.find(token)
            assert key is not None  # noqa: S101
            if "inference" in key.scopes and key.allows_model(server.MODEL, server.MODEL):
                account = accounts.get(key)
                account.check_parallel()
                account.end(account.start(100), 100)
        used_s = time.process_time() - started_at
        await keyring.close()
    return used_s / LOOKUPS


async def measure_fairness(url: str, one: str, many: str) -> dict[str, float]:
    """Compare one client alone and beside many clients of another key.

    The service sends tokens at a fixed pace: one that uses the processor as fast as it can would
    measure how these programs share the processor.
    """
    async with open_session(url, one) as session, open_session(url, many) as other:
        alone = sorted([await call(session, "paced") for _ in range(FAIR_CALLS)])
        counts = [0, 0]

        async def flood(client: aiohttp.ClientSession, index: int) -> None:
            while True:
                await call(client, "paced")
                counts[index] += 1

        tasks = [asyncio.ensure_future(flood(other, 1)) for _ in range(MANY)]
        await asyncio.sleep(2)
        beside = sorted([await call(session, "paced") for _ in range(FAIR_CALLS)])
        # Both keys always have waiting calls.
        tasks += [asyncio.ensure_future(flood(session, 0)) for _ in range(8)]
        await asyncio.sleep(2)
        counts[:] = 0, 0
        await asyncio.sleep(8)
        shares = list(counts)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    rank = round(FAIR_CALLS * 0.95) - 1
    return {
        "p95 of one client beside 64 of another key / alone": beside[rank] / alone[rank],
        "Jain index of tokens": sum(shares) ** 2 / (2 * sum(share**2 for share in shares)),
    }


def main() -> None:
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(server.start())

        def start(slots: int, queue: int = WAITING * 2) -> tuple[list[str], int]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, upstream, str(slots), str(queue)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    encoding="utf-8",
                )
            )
            # It ends when its standard input is closed, and removes its directory.
            assert process.stdout is not None  # noqa: S101 - for type checkers
            return process.stdout.readline().split(), process.pid

        figures["µs to find a key, start and end a call"] = asyncio.run(measure_lookups()) * 1e6
        (url, one, many), _ = start(SLOTS)
        figures |= asyncio.run(measure_fairness(url, one, many))
        (url, one, _), _ = start(SLOTS, queue=1)
        figures["p99 of a refusal when full, ms"] = asyncio.run(measure_refusals(url, one)) * 1e3
        (url, one, _), _ = start(STREAMS)
        for kind, spread_s in SPREADS_S.items():
            for name, address in (("direct", upstream), ("through the gateway", url)):
                delays = asyncio.run(
                    stamped_streams.measure_delays(address, one, STREAMS, spread_s)
                )
                rank = round(len(delays) * 0.99) - 1
                title = f"p99 of a chunk of {STREAMS} streams {kind}, {name}, ms"
                figures[title] = delays[rank] * 1e3
        for name, slots in (("waiting call", 1), ("running stream", CONNECTIONS)):
            (url, one, _), pid = start(slots)
            figures[f"KiB of a {name}"] = asyncio.run(measure_memory(url, one, pid))
        (url, one, _), _ = start(1)
        figures |= asyncio.run(measure_health(url, one))
    save_figures("gateway_limits", figures)


if __name__ == "__main__":
    if len(sys.argv) > 2:  # noqa: PLR2004
        asyncio.run(serve(sys.argv[1], *map(int, sys.argv[2:])))
    else:
        main()
