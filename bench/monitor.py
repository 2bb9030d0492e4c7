"""What the monitor sees: planted outages of 2 s, and false alarms under full load.

python3 dev.py bench monitor
python3 dev.py bench monitor --outages 100 --load-minutes 0
python3 dev.py bench monitor --outages 0 --load-minutes 30
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from parts.forwarder import Forwarder
from parts.results import keep, kept

from foundry_api import (
    FoundryAPIClient,
    FoundryError,
    HealthChanged,
    HealthMonitor,
    LimiterSettings,
)
from foundry_api.engine.process import HostOptions
from foundry_api.engine.supervisor import EngineHost
from foundry_api.storage.paths import Paths

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from parts.forwarder import Outage

OUTAGE_S = 2.0
INTERVAL_S = 0.5
PATIENCE_S = 30.0
LIGHT, FULL = 2, 64
PROMPT = "Tell me about the sea, the wind and the stars."
LOOKS = 200


class Engine:
    """An engine host behind a forwarder, so that it can be replaced behind one address."""

    def __init__(self, home: Path) -> None:
        self._options = HostOptions(paths=Paths.from_home(home))
        self.host = EngineHost(self._options)

    async def start(self) -> int:
        """Start a host; its port."""
        self.host = EngineHost(self._options)
        endpoint = await self.host.wait_ready()
        return int(endpoint.base_url.rpartition(":")[2])

    @property
    def process(self) -> psutil.Process:
        """The host's process."""
        return psutil.Process(self.host.pid)


async def stopped(engine: Engine, _: Forwarder) -> None:
    """The engine's process stands still."""
    engine.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(OUTAGE_S)
    finally:
        engine.process.send_signal(signal.SIGCONT)


async def killed(engine: Engine, forwarder: Forwarder) -> None:
    """The engine dies, and is started again."""
    began = time.monotonic()
    engine.process.kill()
    engine.host.close()
    port = await engine.start()
    await asyncio.sleep(began + OUTAGE_S - time.monotonic())
    forwarder.target = port


def cut(kind: Outage) -> Callable[[Engine, Forwarder], Awaitable[None]]:
    """The engine cannot be reached."""

    async def plant(_: Engine, forwarder: Forwarder) -> None:
        await forwarder.begin(kind)
        await asyncio.sleep(OUTAGE_S)
        await forwarder.end()

    return plant


KINDS: dict[str, Callable[[Engine, Forwarder], Awaitable[None]]] = {
    "refused": cut("refuse"),
    "dropped": cut("drop"),
    "stalled": cut("stall"),
    "killed": killed,
}
if hasattr(signal, "SIGSTOP"):  # not on Windows
    KINDS["stopped"] = stopped


@contextlib.asynccontextmanager
async def callers(client: FoundryAPIClient, count: int) -> AsyncGenerator[Counter[str]]:
    """So many callers, who ask one thing after the other; what they got."""
    ends: Counter[str] = Counter()

    async def caller() -> None:
        while True:
            try:
                await client.complete(PROMPT, max_tokens=64)
                ends["answered"] += 1
            except FoundryError as error:
                ends[type(error).__name__] += 1
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(caller()) for _ in range(count)]
    try:
        yield ends
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def call(base_url: str) -> None:
    """As many callers in this process, until it is killed."""
    limits = LimiterSettings(concurrency=FULL)
    async with (
        FoundryAPIClient(base_url, model="demo", limiter=limits, timeout=120) as client,
        callers(client, FULL),
    ):
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def elsewhere(base_url: str) -> AsyncGenerator[None]:
    """As many callers in a process of their own, so that no core is idle."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--call", base_url)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - of some there is no event
            await asyncio.sleep(0.005)


class Ledger:
    """Which of the planted outages were seen, and how soon."""

    def __init__(self) -> None:
        self.changes: list[HealthChanged] = []
        self.seen = 0
        self.detected_s: list[float] = []
        self.recovered_s: list[float] = []
        self.duration_s: list[float] = []

    @property
    def alarms(self) -> int:
        """How often the service was said to be down."""
        return sum(change.new == "down" for change in self.changes)

    def note(self, began: float, ended: float, alarms: int) -> bool:
        """Take note of an outage; whether it was seen, once."""
        self.duration_s.append(ended - began)
        after = [change for change in self.changes if change.at >= began]
        downs = [change.at for change in after if change.new == "down"]
        ups = [change.at for change in after if change.old == "down"]
        if len(downs) != 1 or self.alarms != alarms + 1:
            return False
        self.seen += 1
        self.detected_s.append(downs[0] - began)
        self.recovered_s.append(ups[0] - ended)
        return True


async def plant(count: int, home: Path) -> dict[str, float]:
    """Plant outages of every kind in turn, at any moment between two looks."""
    ledger, engine, draw = Ledger(), Engine(home), random.Random(4)  # noqa: S311 - a seeded plan
    async with (
        Forwarder(await engine.start()) as forwarder,
        FoundryAPIClient(
            f"http://127.0.0.1:{forwarder.port}", model="demo", max_retries=0, timeout=10
        ) as client,
        HealthMonitor(client, interval=INTERVAL_S, history=100_000) as monitor,
        callers(client, LIGHT) as ends,
    ):
        monitor.on_change(ledger.changes.append)
        plan = itertools.islice(itertools.cycle(KINDS.items()), count)
        for number, (kind, outage) in enumerate(plan, 1):
            await until(lambda: monitor.state == "healthy")
            await asyncio.sleep(draw.uniform(1.0, 1.0 + INTERVAL_S))
            alarms, began = ledger.alarms, time.time()
            await outage(engine, forwarder)
            ended = time.time()
            await until(lambda: monitor.state not in {"down", "unknown"})
            await asyncio.sleep(2 * INTERVAL_S)
            seen = ledger.note(began, ended, alarms)
            print(f"{number:4} {kind:8} {'seen' if seen else 'MISSED'}", flush=True)
        summary = monitor.summary()
    engine.host.close()
    print(f"callers: {dict(ends)}; {summary.outages} outages in the summary", flush=True)
    return {
        "outages planted": count,
        "outages seen, once each": ledger.seen,
        "alarms in all": ledger.alarms,
        "outages in the summary": summary.outages,
        "shortest outage, s": min(ledger.duration_s),
        "longest outage, s": max(ledger.duration_s),
        "s from an outage to its alarm, median": statistics.median(ledger.detected_s),
        "s from an outage to its alarm, longest": max(ledger.detected_s),
        "s from its end to the good news, median": statistics.median(ledger.recovered_s),
        "s from its end to the good news, longest": max(ledger.recovered_s),
    }


async def load(minutes: float, home: Path) -> dict[str, float]:
    """Full load with nothing wrong: every alarm is a false one."""
    changes: list[HealthChanged] = []
    limits = LimiterSettings(concurrency=FULL)
    async with (
        FoundryAPIClient(
            service="embedded", home=home, model="demo", limiter=limits, timeout=120
        ) as client,
        HealthMonitor(client, interval=INTERVAL_S, history=1_000_000, canary_every=20) as monitor,
    ):
        monitor.on_change(changes.append)
        await client.models.load("demo")
        await monitor.wait_until_ready(timeout=PATIENCE_S)
        engine = psutil.Process(monitor.history[-1].pid)
        before = sum(engine.cpu_times()[:2])
        began = time.monotonic()
        async with callers(client, FULL) as ends, elsewhere(monitor.history[-1].service or ""):
            while (left_s := began + 60 * minutes - time.monotonic()) > 0:
                await asyncio.sleep(min(60.0, left_s))
                told = f"{(time.monotonic() - began) / 60:5.1f} min, {dict(ends)}"
                print(f"{told}, {monitor.state}, {len(changes)} changes", flush=True)
        took_s = time.monotonic() - began
        used_s = sum(engine.cpu_times()[:2]) - before
        summary = monitor.summary()
    looks = monitor.history
    bad = [change for change in changes if change.new in {"degraded", "down"}]
    for change in bad:
        print(f"FALSE ALARM {change.old} -> {change.new}: {change.reason}", flush=True)
    latency = summary.latency_s
    assert latency is not None  # noqa: S101 - there were looks that were answered
    return {
        "minutes under load": took_s / 60,
        "callers at once, of two processes": 2 * FULL,
        "calls answered under load, of one process": ends["answered"],
        "calls failed under load": sum(ends.values()) - ends["answered"],
        "processor s/s of the engine under load": used_s / took_s,
        "looks under load": len(looks),
        "looks under load that failed": sum(look.status != "healthy" for look in looks),
        "false alarms": len(bad),
        "ms of the status route under load, median": latency.p50 * 1e3,
        "ms of the status route under load, p99": latency.p99 * 1e3,
        "ms of the status route under load, longest": latency.highest * 1e3,
    }


async def cost(home: Path) -> dict[str, float]:
    """What a look costs, on an engine at rest."""
    async with FoundryAPIClient(service="embedded", home=home, model="demo") as client:
        await client.complete("Hello", max_tokens=2)
        took_s: list[float] = []
        async with HealthMonitor(client, interval=3600) as monitor:
            used_s = -time.process_time()
            for _ in range(LOOKS):
                began = time.perf_counter()
                await monitor.check()
                took_s.append(time.perf_counter() - began)
            used_s += time.process_time()
    return {
        "ms that a look takes, median": statistics.median(took_s) * 1e3,
        "ms of processor time of a look": used_s / LOOKS * 1e3,
    }


async def main() -> None:
    """Both, and what a look costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outages", type=int, default=100)
    parser.add_argument("--load-minutes", type=float, default=30.0)
    parser.add_argument("--call", metavar="URL", help="only call a service, until killed")
    arguments = parser.parse_args()
    if arguments.call:
        await call(arguments.call)
    figures = kept("monitor")
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as home:
        figures |= await cost(Path(home))
        if arguments.outages:
            figures |= await plant(arguments.outages, Path(home))
            keep("monitor", figures)
        if arguments.load_minutes:
            figures |= await load(arguments.load_minutes, Path(home))
    keep("monitor", figures)


if __name__ == "__main__":
    asyncio.run(main())
