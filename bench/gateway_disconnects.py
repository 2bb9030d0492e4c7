"""Work of the real engine half a second after 100 clients left, for each route of the gateway.

python3 dev.py bench gateway_disconnects

Clients leave when all calls have a slot or wait for one, and the engine is at work. It has a thread
for each connection, so the threads that use the processor afterwards are the calls that it still
works on. Chats have a slot each when their clients leave. The engine ends a
request for embeddings or for a part of a recording once it has begun, so these get as many slots as
the limiter gives, as in any gateway.
"""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
import tempfile
import wave
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import psutil
from parts.results import save_figures

from foundry_api import FoundryAPIClient
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.resilience.limiter import LimiterSettings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.scripted_model import build
from support.scripted_model.audio import build_transcriber
from support.scripted_model.embeddings import build_embedder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

CLIENTS = 100
AFTER_S, MEASURE_S = 0.5, 1.0
# In which all calls have to reach the gateway.
WAIT_S = 120
# Of the engine before the clients leave, in processor seconds per second.
AT_WORK = 0.02
# Of one thread in MEASURE_S, which is a tick of its clock.
WORKING_S = 0.01
PROMPT = "say-forever"
BUILDERS: dict[str, Callable[[Path], None]] = {
    "scripted": build,
    "embedder": build_embedder,
    "transcriber": build_transcriber,
}
RECORDING_S, SAMPLE_RATE = 300, 16_000


class Route(NamedTuple):
    """Requests that would take long."""

    path: str
    body: dict[str, Any]


MESSAGES = [{"role": "user", "content": PROMPT}]
CHATS = (
    Route("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 8000}),
    Route("/v1/completions", {"prompt": PROMPT, "max_tokens": 8000}),
    Route("/v1/responses", {"input": PROMPT, "max_output_tokens": 8000}),
    Route("/v1/messages", {"messages": MESSAGES, "max_tokens": 8000}),
)
ROUTES = {
    **{route.path: Route(route.path, {"model": "scripted", **route.body}) for route in CHATS},
    **{
        f"{route.path}, stream": Route(
            route.path, {"model": "scripted", "stream": True, **route.body}
        )
        for route in CHATS
    },
    "/v1/embeddings": Route(
        "/v1/embeddings",
        {"model": "embedder", "input": [f"text {n}" for n in range(2048)]},
    ),
    "/v1/audio/transcriptions": Route(
        "/v1/audio/transcriptions", {"model": "transcriber", "language": "en"}
    ),
}


async def serve(home: str, slots: str) -> None:
    """Serve with a number of slots, 0 for the limiter's; print the address."""
    config = GatewayConfig(
        port=0,
        audit_log=False,
        max_connections_per_address=10_000,
        queue_per_slot=CLIENTS,
        queue_bytes=2**30,
    )
    limiter = LimiterSettings(concurrency=int(slots) or None)
    async with (
        FoundryAPIClient(service="embedded", home=home, limiter=limiter) as client,
        Gateway(config, client, Path(home) / "gateway") as gateway,
    ):
        for alias, build_model in BUILDERS.items():
            directory = Path(home) / alias
            build_model(directory)
            await client.models.register(directory, alias)
            await client.models.load(alias)
        print(gateway.url, flush=True)
        await asyncio.to_thread(sys.stdin.readline)


@contextmanager
def start(slots: int) -> Generator[tuple[str, psutil.Process]]:
    """Start a gateway; yield its address and the process of its engine."""
    with (
        tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as home,
        subprocess.Popen(
            [sys.executable, __file__, home, str(slots)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        ) as process,
    ):
        assert process.stdin is not None  # noqa: S101 - for type checkers
        assert process.stdout is not None  # noqa: S101 - for type checkers
        try:
            url = process.stdout.readline().strip()
            [engine] = psutil.Process(process.pid).children()
            yield url, engine
        finally:
            process.stdin.close()


def make_recording() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(b"\x80" * SAMPLE_RATE * RECORDING_S)
    return buffer.getvalue()


RECORDING = make_recording()


def make_request(route: Route) -> dict[str, Any]:
    """Return the arguments of a request."""
    if "audio" not in route.path:
        return {"json": route.body}
    form = aiohttp.FormData(route.body)
    form.add_field("file", RECORDING, filename="speech.wav", content_type="audio/wav")
    return {"data": form}


def read_thread_s(engine: psutil.Process) -> dict[int, float]:
    """Return the processor seconds of each thread."""
    return {thread.id: thread.user_time + thread.system_time for thread in engine.threads()}


async def measure_work(engine: psutil.Process) -> tuple[int, float]:
    """Return how many threads of the engine work, and the processor seconds per second of all."""
    before = read_thread_s(engine)
    await asyncio.sleep(MEASURE_S)
    used_s = [used - before.get(thread, 0.0) for thread, used in read_thread_s(engine).items()]
    return sum(one >= WORKING_S for one in used_s), sum(used_s) / MEASURE_S


class Figures(NamedTuple):
    """What was measured for one route.

    Attributes:
        in_flight: Calls with a slot when their clients leave.
        waiting: Calls in the gateway's queue then.
        at_work: Processor seconds of the engine per second then.
        working: Calls that the engine still works on `AFTER_S` later.
        afterwards: Processor seconds of the engine per second then.
    """

    in_flight: int
    waiting: int
    at_work: float
    working: int
    afterwards: float


async def count_calls(session: aiohttp.ClientSession) -> tuple[int, int]:
    """Return the calls that have a slot, and those that wait for one."""
    async with session.get("/metrics") as response:
        text = await response.text()
    in_flight, waiting = re.findall(
        r"^foundry_gateway_(?:in_flight|waiting)\{\} (\d+)", text, re.MULTILINE
    )
    return int(in_flight), int(waiting)


async def measure(url: str, engine: psutil.Process, route: Route) -> Figures:
    """Let clients leave while their calls run, and measure the engine before and after."""

    async def call(session: aiohttp.ClientSession) -> None:
        async with session.post(route.path, **make_request(route)) as response:
            assert response.status == 200, await response.text()  # noqa: S101, PLR2004
            async for _ in response.content.iter_any():
                pass

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        tasks = [asyncio.ensure_future(call(session)) for _ in range(CLIENTS)]
        at_work, in_flight, waiting = 0.0, 0, 0
        async with asyncio.timeout(WAIT_S):
            while at_work < AT_WORK or in_flight + waiting < CLIENTS:
                _, at_work = await measure_work(engine)
                in_flight, waiting = await count_calls(session)
                ended = [task for task in tasks if task.done()]
                await asyncio.gather(*ended)  # raises the error of one that failed
                assert not ended, route  # noqa: S101 - then the calls are too short
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(AFTER_S)
    return Figures(in_flight, waiting, at_work, *(await measure_work(engine)))


def main() -> None:
    figures: dict[str, float] = {}
    for slots in (CLIENTS, 0):
        with start(slots) as (url, engine):
            for name, route in ROUTES.items():
                if ("scripted" in route.body.values()) != bool(slots):
                    continue
                one = asyncio.run(measure(url, engine, route))
                figures[f"{name}: calls with a slot"] = one.in_flight
                figures[f"{name}: calls that wait"] = one.waiting
                figures[f"{name}: engine at work, processor s/s"] = one.at_work
                figures[f"{name}: {AFTER_S} s after {CLIENTS} clients left"] = one.afterwards
                figures[f"{name}: calls that it still works on"] = one.working
    save_figures("gateway_disconnects", figures)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(serve(*sys.argv[1:]))
    else:
        main()
