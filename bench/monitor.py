"""The monitor: detection of injected outages of 2 s, false alarms under full load, and its cost.

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
from parts.results import load_figures, save_figures

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
CHECKS = 200


class Engine:
    """An engine host behind a forwarder, which can be replaced without changing the address."""

    def __init__(self, home: Path) -> None:
        self._options = HostOptions(paths=Paths.from_home(home))
        self.host = EngineHost(self._options)

    async def start(self) -> int:
        """Start a host and return its port."""
        self.host = EngineHost(self._options)
        endpoint = await self.host.wait_ready()
        return int(endpoint.base_url.rpartition(":")[2])

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.host.pid)


async def suspend(engine: Engine, _: Forwarder) -> None:
    """Suspend the process of the engine."""
    engine.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(OUTAGE_S)
    finally:
        engine.process.send_signal(signal.SIGCONT)


async def kill(engine: Engine, forwarder: Forwarder) -> None:
    """Kill the engine and start it again."""
    started_at = time.monotonic()
    engine.process.kill()
    engine.host.close()
    port = await engine.start()
    await asyncio.sleep(started_at + OUTAGE_S - time.monotonic())
    forwarder.target = port


def make_network_outage(kind: Outage) -> Callable[[Engine, Forwarder], Awaitable[None]]:
    async def inject(_: Engine, forwarder: Forwarder) -> None:
        await forwarder.begin(kind)
        await asyncio.sleep(OUTAGE_S)
        await forwarder.end()

    return inject


KINDS: dict[str, Callable[[Engine, Forwarder], Awaitable[None]]] = {
    "refused": make_network_outage("refuse"),
    "dropped": make_network_outage("drop"),
    "stalled": make_network_outage("stall"),
    "killed": kill,
}
if hasattr(signal, "SIGSTOP"):  # not on Windows
    KINDS["stopped"] = suspend


@contextlib.asynccontextmanager
async def run_callers(client: FoundryAPIClient, count: int) -> AsyncGenerator[Counter[str]]:
    """Run callers that call in a loop; yield the count of each outcome."""
    outcomes: Counter[str] = Counter()

    async def caller() -> None:
        while True:
            try:
                await client.complete(PROMPT, max_tokens=64)
                outcomes["answered"] += 1
            except FoundryError as error:
                outcomes[type(error).__name__] += 1
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(caller()) for _ in range(count)]
    try:
        yield outcomes
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def call_until_killed(base_url: str) -> None:
    limits = LimiterSettings(concurrency=FULL)
    async with (
        FoundryAPIClient(base_url, model="demo", limiter=limits, timeout=120) as client,
        run_callers(client, FULL),
    ):
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def run_callers_in_process(base_url: str) -> AsyncGenerator[None]:
    """Run callers in another process, so that no core is idle."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--call", base_url)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def wait_for(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - some conditions have no event
            await asyncio.sleep(0.005)


class DetectionRecord:
    """Records which injected outages were detected, and how fast."""

    def __init__(self) -> None:
        self.changes: list[HealthChanged] = []
        self.detected = 0
        self.detected_s: list[float] = []
        self.recovered_s: list[float] = []
        self.duration_s: list[float] = []

    @property
    def alarms(self) -> int:
        """The number of changes to `down`."""
        return sum(change.new == "down" for change in self.changes)

    def add(self, started_at: float, ended_at: float, alarms: int) -> bool:
        """Add an outage; return whether it was detected exactly once."""
        self.duration_s.append(ended_at - started_at)
        after = [change for change in self.changes if change.at >= started_at]
        downs = [change.at for change in after if change.new == "down"]
        ups = [change.at for change in after if change.old == "down"]
        if len(downs) != 1 or self.alarms != alarms + 1:
            return False
        self.detected += 1
        self.detected_s.append(downs[0] - started_at)
        self.recovered_s.append(ups[0] - ended_at)
        return True


async def measure_detection(count: int, home: Path) -> dict[str, float]:
    """Inject outages of every kind in turn, at random moments between two checks."""
    record, engine = DetectionRecord(), Engine(home)
    rng = random.Random(4)  # noqa: S311 - the same in each run
    async with (
        Forwarder(await engine.start()) as forwarder,
        FoundryAPIClient(
            f"http://127.0.0.1:{forwarder.port}", model="demo", max_retries=0, timeout=10
        ) as client,
        HealthMonitor(client, interval=INTERVAL_S, history=100_000) as monitor,
        run_callers(client, LIGHT) as outcomes,
    ):
        monitor.on_change(record.changes.append)
        plan = itertools.islice(itertools.cycle(KINDS.items()), count)
        for number, (kind, outage) in enumerate(plan, 1):
            await wait_for(lambda: monitor.state == "healthy")
            await asyncio.sleep(rng.uniform(1.0, 1.0 + INTERVAL_S))
            alarms, started_at = record.alarms, time.time()
            await outage(engine, forwarder)
            ended_at = time.time()
            await wait_for(lambda: monitor.state not in {"down", "unknown"})
            await asyncio.sleep(2 * INTERVAL_S)
            detected = record.add(started_at, ended_at, alarms)
            print(f"{number:4} {kind:8} {'detected' if detected else 'MISSED'}", flush=True)
        summary = monitor.summary()
    engine.host.close()
    print(f"callers: {dict(outcomes)}; {summary.outages} outages in the summary", flush=True)
    return {
        "outages injected": count,
        "outages detected, once each": record.detected,
        "alarms": record.alarms,
        "outages in the summary": summary.outages,
        "shortest outage, s": min(record.duration_s),
        "longest outage, s": max(record.duration_s),
        "s from an outage to its alarm, median": statistics.median(record.detected_s),
        "s from an outage to its alarm, longest": max(record.detected_s),
        "s from its end to recovery, median": statistics.median(record.recovered_s),
        "s from its end to recovery, longest": max(record.recovered_s),
    }


async def measure_under_load(minutes: float, home: Path) -> dict[str, float]:
    """Run full load on a healthy engine: every alarm is a false one."""
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
        started_at = time.monotonic()
        base_url = monitor.history[-1].service or ""
        async with (
            run_callers(client, FULL) as outcomes,
            run_callers_in_process(base_url),
        ):
            while (remaining_s := started_at + 60 * minutes - time.monotonic()) > 0:
                await asyncio.sleep(min(60.0, remaining_s))
                minutes_run = (time.monotonic() - started_at) / 60
                print(
                    f"{minutes_run:5.1f} min, {dict(outcomes)}, {monitor.state}, "
                    f"{len(changes)} changes",
                    flush=True,
                )
        took_s = time.monotonic() - started_at
        used_s = sum(engine.cpu_times()[:2]) - before
        summary = monitor.summary()
    checks = monitor.history
    bad = [change for change in changes if change.new in {"degraded", "down"}]
    for change in bad:
        print(f"FALSE ALARM {change.old} -> {change.new}: {change.reason}", flush=True)
    latency = summary.latency_s
    assert latency is not None  # noqa: S101 - some checks were answered
    return {
        "minutes under load": took_s / 60,
        "concurrent callers, of two processes": 2 * FULL,
        "calls answered under load, of one process": outcomes["answered"],
        "calls failed under load": sum(outcomes.values()) - outcomes["answered"],
        "processor s/s of the engine under load": used_s / took_s,
        "checks under load": len(checks),
        "checks under load that failed": sum(check.status != "healthy" for check in checks),
        "false alarms": len(bad),
        "ms of the status route under load, median": latency.p50 * 1e3,
        "ms of the status route under load, p99": latency.p99 * 1e3,
        "ms of the status route under load, longest": latency.highest * 1e3,
    }


async def measure_cost(home: Path) -> dict[str, float]:
    """Measure a check of an idle engine."""
    async with FoundryAPIClient(service="embedded", home=home, model="demo") as client:
        await client.complete("Hello", max_tokens=2)
        durations_s: list[float] = []
        async with HealthMonitor(client, interval=3600) as monitor:
            used_s = -time.process_time()
            for _ in range(CHECKS):
                started_at = time.perf_counter()
                await monitor.check()
                durations_s.append(time.perf_counter() - started_at)
            used_s += time.process_time()
    return {
        "ms per check, median": statistics.median(durations_s) * 1e3,
        "CPU ms per check": used_s / CHECKS * 1e3,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outages", type=int, default=100)
    parser.add_argument("--load-minutes", type=float, default=30.0)
    parser.add_argument("--call", metavar="URL", help="only call this service, until killed")
    arguments = parser.parse_args()
    if arguments.call:
        await call_until_killed(arguments.call)
    figures = load_figures("monitor")
    with tempfile.TemporaryDirectory(prefix="foundry-api-bench-") as home:
        figures |= await measure_cost(Path(home))
        if arguments.outages:
            figures |= await measure_detection(arguments.outages, Path(home))
            save_figures("monitor", figures)
        if arguments.load_minutes:
            figures |= await measure_under_load(arguments.load_minutes, Path(home))
    save_figures("monitor", figures)


if __name__ == "__main__":
    asyncio.run(main())
