"""Run one measurement of a client in its own process, and print its result as a line of JSON.

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

from peers.clients import open_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from peers.clients import Client

ROUNDS = 9
# Short and long answers of one measurement, by concurrency.
CALLS = {1: (200, 10), 64: (512, 64)}
# A long answer has this many more tokens than a short one.
CHUNKS = 498


async def measure_cpu_s(
    call: Callable[[], Awaitable[object]], calls: int, concurrency: int
) -> float:
    """Measure the processor seconds of this process per call."""

    async def caller() -> None:
        for _ in range(calls // concurrency):
            await call()

    started = time.process_time()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return (time.process_time() - started) / (calls // concurrency * concurrency)


async def drain(client: Client, prompt: str) -> None:
    async for _ in client.stream(prompt):
        pass


async def cpu(peers: str, base_url: str) -> dict[str, dict[str, float]]:
    """Measure processor time per short call and per chunk, of several clients in turn."""
    clients = {peer: open_client(peer, base_url, 64) for peer in peers.split(",")}
    samples: dict[tuple[str, str], list[float]] = {}
    for client in clients.values():
        await drain(client, "short")
    for concurrency, (shorts, longs) in CALLS.items():
        for _ in range(ROUNDS):
            for peer, client in clients.items():
                call = await measure_cpu_s(
                    lambda c=client: c.complete("short"), shorts, concurrency
                )  # type: ignore[misc]
                long = await measure_cpu_s(lambda c=client: drain(c, "long"), longs, concurrency)  # type: ignore[misc]
                samples.setdefault((peer, f"call at {concurrency}"), []).append(call)
                samples.setdefault((peer, f"chunk at {concurrency}"), []).append(
                    (long - call) / CHUNKS
                )
    for client in clients.values():
        await client.close()
    medians: dict[str, dict[str, float]] = {}
    for (peer, figure), values in samples.items():
        medians.setdefault(peer, {})[figure] = statistics.median(values)
    return medians


async def once(peer: str, base_url: str) -> str:
    client = open_client(peer, base_url, 1)
    text = await client.complete("short")
    await client.close()
    return text


async def memory(peer: str, base_url: str, streams: str) -> NoReturn:
    """Measure resident bytes per open stream."""
    import psutil

    raise_file_limit()
    process = psutil.Process(os.getpid())
    client = open_client(peer, base_url, int(streams))
    await client.complete("short")
    before = process.memory_info().rss
    open_streams = [client.stream("slow") for _ in range(int(streams))]
    for start in range(0, int(streams), 100):
        await asyncio.gather(*(anext(stream) for stream in open_streams[start : start + 100]))
    print(json.dumps((process.memory_info().rss - before) / int(streams)), flush=True)
    os._exit(0)  # openai and litellm close open streams with a thousand tracebacks


def raise_file_limit() -> None:
    if sys.platform != "win32":
        import resource

        _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))


async def callers(peer: str, base_url: str, per_second: str, duration_s: str) -> list[float]:
    """Start calls at a fixed rate; return the times of the answers, in seconds from the start."""
    client = open_client(peer, base_url, 1000)
    await client.complete("short")
    answered: list[float] = []
    started = time.perf_counter()
    print("started", file=sys.stderr, flush=True)

    async def caller() -> None:
        try:
            await client.complete("short")
        except Exception:  # noqa: BLE001 - each library has its own errors, and any is a failed call
            return
        answered.append(time.perf_counter() - started)

    tasks: set[asyncio.Task[None]] = set()
    for number in range(int(per_second) * int(duration_s)):
        await asyncio.sleep(started + number / int(per_second) - time.perf_counter())
        task = asyncio.create_task(caller())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    return answered


async def gather(_: str, base_url: str, requests: str) -> float:
    """Measure the tokens per second of `openai` when all calls start at once."""
    import openai

    async with openai.AsyncOpenAI(
        base_url=f"{base_url}/catalogs/local/v1", api_key="none"
    ) as client:

        async def complete(prompt: str, limit: int) -> int:
            completion: Any = await client.chat.completions.create(
                model="demo:1",
                messages=[{"role": "user", "content": prompt}],
                max_tokens=limit,
            )
            return int(completion.usage.completion_tokens)

        await complete("Hello", 2)
        started = time.perf_counter()
        tokens = await asyncio.gather(*(complete(*request) for request in json.loads(requests)))
        return sum(tokens) / (time.perf_counter() - started)


async def parse(_: str, base_url: str, path: str) -> list[dict[str, str]]:
    """Call `openai`'s parse with each schema of a file; return the outcome and text of each."""
    import openai

    request = json.loads(Path(path).read_text(encoding="utf-8"))  # noqa: ASYNC240 - no other task runs
    outcomes: list[dict[str, str]] = []
    async with openai.AsyncOpenAI(
        base_url=f"{base_url}/catalogs/local/v1", api_key="none"
    ) as client:
        for schema in request["schemas"]:
            json_schema = {"name": "answer", "schema": schema, "strict": True}
            response_format: Any = {"type": "json_schema", "json_schema": json_schema}
            try:
                answer = await client.chat.completions.parse(
                    model="demo:1",
                    messages=[{"role": "user", "content": request["prompt"]}],
                    response_format=response_format,
                    max_tokens=request["max_tokens"],
                    temperature=0,
                )
            except openai.LengthFinishReasonError:
                outcomes.append({"end": "cut", "text": ""})
            except openai.APIStatusError as error:
                outcomes.append({"end": "refused", "text": str(error)})
            else:
                (choice,) = answer.choices
                outcomes.append({"end": "returned", "text": choice.message.content or ""})
    return outcomes


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
