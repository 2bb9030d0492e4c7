"""One job for one client, in a process of its own. Prints a line of JSON.

python bench/peers/worker.py JOB PEER[,PEER] BASE_URL [MORE ...]
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.clients import opened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from peers.clients import Client

ROUNDS = 9
CALLS = {1: (200, 10), 64: (512, 64)}
"""Short and long answers of one measurement, at each concurrency."""

CHUNKS = 498
"""Tokens that a long answer has more than a short one."""


async def seconds(call: Callable[[], Awaitable[object]], calls: int, at_once: int) -> float:
    """Processor seconds of this process for one call."""

    async def caller() -> None:
        for _ in range(calls // at_once):
            await call()

    started = time.process_time()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return (time.process_time() - started) / (calls // at_once * at_once)


async def drain(client: Client, prompt: str) -> None:
    """Read an answer piece by piece."""
    async for _ in client.stream(prompt):
        pass


async def cpu(peers: str, base_url: str) -> dict[str, dict[str, float]]:
    """Processor time for a short call and for a chunk, of several clients in turn."""
    clients = {peer: opened(peer, base_url, 64) for peer in peers.split(",")}
    seen: dict[tuple[str, str], list[float]] = {}
    for client in clients.values():
        await drain(client, "short")
    for at_once, (shorts, longs) in CALLS.items():
        for _ in range(ROUNDS):
            for peer, client in clients.items():
                call = await seconds(lambda c=client: c.complete("short"), shorts, at_once)  # type: ignore[misc]
                long = await seconds(lambda c=client: drain(c, "long"), longs, at_once)  # type: ignore[misc]
                seen.setdefault((peer, f"call at {at_once}"), []).append(call)
                seen.setdefault((peer, f"chunk at {at_once}"), []).append((long - call) / CHUNKS)
    for client in clients.values():
        await client.close()
    told: dict[str, dict[str, float]] = {}
    for (peer, what), values in seen.items():
        told.setdefault(peer, {})[what] = statistics.median(values)
    return told


async def once(peer: str, base_url: str) -> str:
    """One completion."""
    client = opened(peer, base_url, 1)
    text = await client.complete("short")
    await client.close()
    return text


async def memory(peer: str, base_url: str, streams: str) -> NoReturn:
    """Resident bytes for each stream that is open, of so many at once."""
    import psutil

    allow_files()
    process = psutil.Process(os.getpid())
    client = opened(peer, base_url, int(streams))
    await client.complete("short")
    before = process.memory_info().rss
    opened_streams = [client.stream("slow") for _ in range(int(streams))]
    for start in range(0, int(streams), 100):
        await asyncio.gather(*(anext(one) for one in opened_streams[start : start + 100]))
    print(json.dumps((process.memory_info().rss - before) / int(streams)), flush=True)
    os._exit(0)  # openai and litellm close streams that are open with a thousand tracebacks


def allow_files() -> None:
    """Allow as many sockets as the system lets us have."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def callers(peer: str, base_url: str, each_second: str, for_s: str) -> list[float]:
    """Moments at which calls were answered, when so many callers come each second."""
    client = opened(peer, base_url, 1000)
    await client.complete("short")
    answered: list[float] = []
    started = time.perf_counter()
    print("started", file=sys.stderr, flush=True)

    async def caller() -> None:
        try:
            await client.complete("short")
        except Exception:  # noqa: BLE001 - each library has its own, and all mean the same here
            return
        answered.append(time.perf_counter() - started)

    tasks: set[asyncio.Task[None]] = set()
    for number in range(int(each_second) * int(for_s)):
        await asyncio.sleep(started + number / int(each_second) - time.perf_counter())
        task = asyncio.create_task(caller())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    return answered


async def gather(_: str, base_url: str, asked: str) -> float:
    """Tokens a second of `openai`, with all calls begun at once."""
    import openai

    async with openai.AsyncOpenAI(base_url=f"{base_url}/catalogs/local/v1", api_key="none") as it:

        async def one(prompt: str, limit: int) -> int:
            told: Any = await it.chat.completions.create(
                model="demo:1",
                messages=[{"role": "user", "content": prompt}],
                max_tokens=limit,
            )
            return int(told.usage.completion_tokens)

        await one("Hello", 2)
        started = time.perf_counter()
        tokens = await asyncio.gather(*(one(*each) for each in json.loads(asked)))
        return sum(tokens) / (time.perf_counter() - started)


async def parse(_: str, base_url: str, path: str) -> list[dict[str, str]]:
    """How `openai`'s parse fares with each schema of a file: how the answer ended, and its text."""
    import openai

    asked = json.loads(Path(path).read_text(encoding="utf-8"))  # noqa: ASYNC240 - nothing else runs
    told: list[dict[str, str]] = []
    async with openai.AsyncOpenAI(base_url=f"{base_url}/catalogs/local/v1", api_key="none") as it:
        for schema in asked["schemas"]:
            wanted = {"name": "answer", "schema": schema, "strict": True}
            form: Any = {"type": "json_schema", "json_schema": wanted}
            try:
                answer = await it.chat.completions.parse(
                    model="demo:1",
                    messages=[{"role": "user", "content": asked["prompt"]}],
                    response_format=form,
                    max_tokens=asked["max_tokens"],
                    temperature=0,
                )
            except openai.LengthFinishReasonError:
                told.append({"end": "cut", "text": ""})
            except openai.APIStatusError as error:
                told.append({"end": "refused", "text": str(error)})
            else:
                (choice,) = answer.choices
                told.append({"end": "returned", "text": choice.message.content or ""})
    return told


JOBS: dict[str, Callable[..., Any]] = {
    "cpu": cpu,
    "once": once,
    "memory": memory,
    "callers": callers,
    "gather": gather,
    "parse": parse,
}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(JOBS[sys.argv[1]](*sys.argv[2:]))))
