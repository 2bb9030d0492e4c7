"""Simulate production: many users, all reliability features, and an engine that may crash.

python examples/production.py
python examples/production.py --seconds 600 --kill-every 20
python examples/production.py --seconds 60 --callers 50 --log calls.jsonl

With --kill-every the program repeatedly kills its own engine, and continues. At the end it prints
the outcomes of all calls: each must end with an answer or an error.
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
    """Counts the outcomes of all calls."""

    def __init__(self) -> None:
        self.started = 0
        self.outcomes: Counter[str] = Counter()

    @property
    def lost(self) -> int:
        """The number of calls that ended neither with an answer nor with an error."""
        return self.started - self.outcomes.total()

    def __str__(self) -> str:
        counts = [f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items())]
        return f"{self.started} calls: {', '.join(counts) or 'none has ended'}"


async def complete(client: FoundryAPIClient, prompt: str) -> None:
    """Get a whole answer."""
    await client.complete(prompt, max_tokens=64)


async def stream(client: FoundryAPIClient, prompt: str) -> None:
    """Stream an answer."""
    async for _ in client.stream_complete(prompt, max_tokens=64):
        pass


async def make_call(client: FoundryAPIClient, number: int, ledger: Ledger) -> None:
    """Make one call, whole or streamed, within 20 seconds."""
    send = stream if number % 2 else complete
    ledger.started += 1
    try:
        with deadline(20):
            await send(client, PROMPTS[number % len(PROMPTS)])
    except StreamInterrupted as error:
        # `error.partial` is what the user has read so far.
        ledger.outcomes["interrupted after some text" if error.partial else "failed"] += 1
    except FoundryError as error:
        ledger.outcomes[f"failed with {type(error).__name__}"] += 1
    except asyncio.CancelledError:
        ledger.outcomes["cancelled"] += 1
        raise
    else:
        ledger.outcomes["answered"] += 1


async def simulate_user(
    client: FoundryAPIClient, numbers: "itertools.count[int]", ledger: Ledger
) -> None:
    """Make one call after the other."""
    while True:
        await make_call(client, next(numbers), ledger)


async def kill_engine(every_s: float) -> None:
    """Kill the engine as the kernel does when memory runs out."""
    for number in itertools.count(1):
        await asyncio.sleep(every_s)
        for engine in psutil.Process().children(recursive=True):
            engine.kill()
        print(f"        engine killed ({number})")


async def report(client: FoundryAPIClient, ledger: Ledger, every_s: float) -> None:
    """Print the state of the service periodically."""
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


def format_summary(client: FoundryAPIClient, ledger: Ledger, retries: int) -> str:
    """Return the outcomes and the client's metrics."""
    lines = [f"\n{ledger}; {ledger.lost} lost", f"{retries} retries; by model and service:"]
    for series in client.metrics.snapshot().series:
        first, rate = series.time_to_first_token_s, series.tokens_per_second
        line = f"{series.model} at {series.service}: {series.answered} of {series.calls} answered"
        if first.count:
            median_s, p99_s = first.quantile(0.5), first.quantile(0.99)
            line += (
                f", first token {median_s:.3f} s (median) {p99_s:.3f} s (p99), "
                f"{rate.quantile(0.5):.0f} tokens/s, {series.completion_tokens} tokens"
            )
        lines.append(line)
    return "\n".join(lines)


async def main(arguments: argparse.Namespace) -> int:
    """Run for `--seconds`; return 1 if a call was lost."""
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
        jobs = [simulate_user(client, numbers, ledger) for _ in range(arguments.callers)]
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
            task.result()  # raises an error of this program itself, if there is one
    print(format_summary(client, ledger, retries["retries"]))
    return 1 if ledger.lost else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("FOUNDRY_MODEL", "demo"))
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="duration of the run in seconds"
    )
    parser.add_argument("--callers", type=int, default=16, help="number of concurrent users")
    parser.add_argument(
        "--kill-every",
        type=float,
        default=0.0,
        help="kill the engine every so many seconds; default: never",
    )
    parser.add_argument("--report-every", type=float, default=5.0, help="seconds between reports")
    parser.add_argument("--log", help="write one line of JSON per call to this file")
    arguments = parser.parse_args()
    print(f"model: {arguments.model}\n")
    try:
        sys.exit(asyncio.run(main(arguments)))
    except FoundryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
