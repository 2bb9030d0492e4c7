"""A small service in production: many callers, every guard on, and an engine that may die.

python examples/production.py
python examples/production.py --seconds 600 --kill-every 20
python examples/production.py --seconds 60 --callers 50 --log calls.jsonl

With --kill-every the program kills its own engine again and again. It goes on, and shows at the end
what became of every call: none may be lost in silence.
"""

import argparse
import asyncio
import itertools
import logging
import os
import sys
from collections import Counter
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api_client import (
    BreakerChanged,
    BreakerSettings,
    CallLog,
    FoundryAPIClient,
    FoundryError,
    RetryScheduled,
    StreamInterrupted,
    deadline,
)
from health_monitor import HealthMonitor

PROMPTS = ("Explain quantum computing.", "Tell me about the sea.", "What is a compiler?")


class Ledger:
    """What became of every call."""

    def __init__(self) -> None:
        self.begun = 0
        self.ends: Counter[str] = Counter()

    @property
    def lost(self) -> int:
        """Calls that never came back, with an answer or with an error."""
        return self.begun - self.ends.total()

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        return f"{self.begun} calls: {ends}"


async def whole(client: FoundryAPIClient, prompt: str) -> None:
    """One answer in one piece."""
    await client.complete(prompt, max_tokens=64)


async def streamed(client: FoundryAPIClient, prompt: str) -> None:
    """One answer as it is written."""
    async for _ in client.stream_complete(prompt, max_tokens=64):
        pass


async def call(client: FoundryAPIClient, number: int, ledger: Ledger) -> None:
    """One request of one of this program's users, who has 20 seconds."""
    way = streamed if number % 2 else whole
    ledger.begun += 1
    try:
        with deadline(20):
            await way(client, PROMPTS[number % len(PROMPTS)])
    except StreamInterrupted as error:
        # The user keeps the beginning, and is told that it is no more than that.
        ledger.ends["interrupted, with its text kept" if error.partial else "failed"] += 1
    except FoundryError as error:
        ledger.ends[f"failed with {type(error).__name__}"] += 1
    except asyncio.CancelledError:
        ledger.ends["cancelled"] += 1
        raise
    else:
        ledger.ends["answered"] += 1


async def caller(client: FoundryAPIClient, numbers: "itertools.count[int]", ledger: Ledger) -> None:
    """A user who asks one thing after the other."""
    while True:
        await call(client, next(numbers), ledger)


async def kill_engine(every_s: float) -> None:
    """Do to the engine what the kernel does when memory runs out."""
    for number in itertools.count(1):
        await asyncio.sleep(every_s)
        for engine in psutil.Process().children(recursive=True):
            engine.kill()
        print(f"        engine killed, for the {number}. time")


async def report(client: FoundryAPIClient, ledger: Ledger, every_s: float) -> None:
    """How the service is, one line at a time."""
    seconds = 0.0
    async for health in HealthMonitor(client, interval=every_s).samples():
        memory_mb = (health.memory_usage or 0) / 2**20
        breaker, limiter = client.breaker.statistics(), client.limiter.statistics()
        print(
            f"{seconds:5.0f} s {health.status}, {memory_mb:.0f} MB; {ledger}; "
            f"breaker {breaker.state}, {limiter.in_flight} of {limiter.limit} in flight, "
            f"{limiter.queued} queued"
        )
        seconds += every_s


def summary(client: FoundryAPIClient, ledger: Ledger, retries: int) -> str:
    """What a dashboard would show, from the client's own metrics."""
    lines = [f"\n{ledger}; {ledger.lost} lost in silence", f"{retries} retries; per engine:"]
    for series in client.metrics.snapshot().series:
        first, rate = series.time_to_first_token_s, series.tokens_per_second
        lines.append(
            f"{series.model} at {series.service}: {series.answered} of {series.calls} answered, "
            f"first token {first.quantile(0.5):.3f} s (median) {first.quantile(0.99):.3f} s (p99), "
            f"{rate.quantile(0.5):.0f} tokens/s, {series.completion_tokens} tokens"
        )
    return "\n".join(lines)


async def main(arguments: argparse.Namespace) -> int:
    """Run for a while; 1 if a call was lost."""
    ledger, retries = Ledger(), Counter[str]()
    client = FoundryAPIClient(
        service="embedded",
        model=arguments.model,
        timeout="auto",
        max_retries=5,
        breaker=BreakerSettings(failure_rate=0.5, minimum_calls=20),
    )
    client.events.subscribe(lambda _: retries.update(["retries"]), RetryScheduled)
    client.events.subscribe(lambda event: print(f"        {event}"), BreakerChanged)
    if arguments.log:
        calls = logging.getLogger("calls")
        calls.setLevel(logging.INFO)
        calls.propagate = False
        calls.addHandler(logging.FileHandler(arguments.log, encoding="utf-8"))
        client.events.subscribe(CallLog(calls, json=True))
    async with client:
        numbers = itertools.count()
        jobs = [caller(client, numbers, ledger) for _ in range(arguments.callers)]
        jobs.append(report(client, ledger, arguments.report_every))
        if arguments.kill_every:
            jobs.append(kill_engine(arguments.kill_every))
        tasks = [asyncio.create_task(job) for job in jobs]
        done, running = await asyncio.wait(
            tasks, timeout=arguments.seconds, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for task in done:
            task.result()  # an error of this program itself
    print(summary(client, ledger, retries["retries"]))
    return 1 if ledger.lost else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to run")
    parser.add_argument("--callers", type=int, default=16, help="users at the same time")
    parser.add_argument("--kill-every", type=float, default=0.0, help="seconds; default never")
    parser.add_argument("--report-every", type=float, default=5.0, help="seconds")
    parser.add_argument("--log", help="write one line of JSON for each call to this file")
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        sys.exit(asyncio.run(main(arguments)))
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
