"""The monitor on the real engine: outages, restarts, a busy engine, canaries and models."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import psutil
import pytest

from foundry_api import FoundryAPIClient, HealthChanged, HealthMonitor, Hysteresis, LimiterSettings
from foundry_api.engine.process import get_demo_models
from service.helpers import list_hosts, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.engine.supervisor import EngineHost

WITHIN_S = 20.0


def get_states(changes: list[HealthChanged]) -> list[str]:
    return [change.new for change in changes]


async def test_a_killed_engine_is_down_and_recovers(home: Path) -> None:
    changes: list[HealthChanged] = []
    async with FoundryAPIClient(service="embedded", home=home, model="demo") as client:
        await client.complete("Hello", max_tokens=2)
        once = Hysteresis(down_after=1)  # it is started again within two checks
        async with HealthMonitor(
            client, interval=0.5, models=["demo"], hysteresis=once, alerts=[changes.append]
        ) as monitor:
            before = await monitor.wait_until_ready(timeout=WITHIN_S)
            for deaths in (1, 2):
                # A host that is killed during a check may be replaced before the next one.
                last_sample = monitor.status
                await wait_until_async(lambda last=last_sample: monitor.status is not last)  # type: ignore[misc]
                (host,) = list_hosts(home)
                host.kill()
                psutil.wait_procs([host], timeout=10)
                await wait_until_async(lambda n=deaths: get_states(changes).count("down") == n)  # type: ignore[misc]
                after = await monitor.wait_until_ready(timeout=WITHIN_S)
                assert after.restarts == deaths
                assert after.pid != before.pid
                assert after.loaded_models == before.loaded_models
            await wait_until_async(lambda: monitor.state == "healthy")
            summary = monitor.summary()
    assert all(change.reason for change in changes if change.new == "down")
    assert (summary.outages, summary.restarts) == (2, 2)
    assert summary.availability is not None
    assert 0 < summary.availability < 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot suspend a process")
async def test_a_suspended_engine_is_down_and_recovers(
    start: Callable[..., EngineHost],
) -> None:
    host = start(models=get_demo_models())
    endpoint = await host.wait_ready()
    process = psutil.Process(host.pid)
    async with (
        FoundryAPIClient(endpoint.base_url) as client,
        HealthMonitor(client, interval=0.2) as monitor,
    ):
        await monitor.wait_until_ready(timeout=WITHIN_S)
        process.send_signal(signal.SIGSTOP)
        try:
            await wait_until_async(lambda: monitor.state == "down")
            assert monitor.status is not None
            assert "did not answer within 0.2 s" in monitor.status.detail
        finally:
            process.send_signal(signal.SIGCONT)
        await wait_until_async(lambda: monitor.state == "healthy")
        assert monitor.status.restarts == 0


async def test_checks_do_not_wait_for_a_busy_engine(engine: Endpoint) -> None:
    """The only slot is in use, and a caller waits for it: checks do not wait."""
    async with FoundryAPIClient(
        engine.base_url, model="scripted", limiter=LimiterSettings(concurrency=1)
    ) as client:
        async with aclosing(
            client.stream_complete("say-at-a-crawl", max_tokens=500)
        ) as slow_stream:
            await anext(slow_stream)
            queued = asyncio.create_task(client.complete("say-hello"))
            await wait_until_async(lambda: client.limiter.statistics().queued == 1)
            checks = []
            monitor = HealthMonitor(client, interval=0.2, timeout=0.2, canary_every=1)
            async with aclosing(monitor.samples()) as samples:
                async for sample in samples:
                    checks.append(sample)
                    if len(checks) == 5:
                        break
        answer = await queued
    for check in checks:
        assert (check.status, check.detail) == ("healthy", "")
        assert "scripted:1" in check.loaded_models
        assert check.limiter is not None
        assert (check.limiter.in_flight, check.limiter.queued) == (1, 1)
        assert check.canary is not None
        assert (check.canary.outcome, check.canary.detail) == ("skipped", "callers use every slot")
    assert answer.content == "Hello, world!"


async def test_fast_checks_do_not_delay_callers(engine: Endpoint) -> None:
    async with (
        FoundryAPIClient(
            engine.base_url, model="scripted", limiter=LimiterSettings(concurrency=1)
        ) as client,
        HealthMonitor(client, interval=0.002, timeout=0.002, history=10_000) as monitor,
    ):
        answers = [await client.complete("say-hello") for _ in range(20)]
        await wait_until_async(lambda: len(monitor.history) > 20)
    assert {answer.timings.queued_s for answer in answers} == {0.0}
    assert client.limiter.statistics().refused == 0


async def test_the_samples_have_the_traffic_of_callers(client: FoundryAPIClient) -> None:
    async with HealthMonitor(client, interval=0.05) as monitor:
        await monitor.wait_until_ready(timeout=WITHIN_S)
        await client.complete("say-slowly", max_tokens=20)
        await wait_until_async(lambda: any(sample.traffic.answered for sample in monitor.history))
        summary = monitor.summary()
    (busy,) = [sample.traffic for sample in monitor.history if sample.traffic.answered]
    assert busy.answered == 1
    assert busy.tokens_per_second is not None
    assert busy.tokens_per_second > 1
    assert summary.time_to_first_token_s is not None
    assert 0 < summary.time_to_first_token_s.p50 < WITHIN_S


async def test_a_canary_is_not_in_the_metrics_of_callers(
    client: FoundryAPIClient,
) -> None:
    await client.models.load("scripted")
    monitor = HealthMonitor(client, interval=1, models=["scripted"], canary_every=1)
    async with monitor:
        sample = await monitor.wait_until_ready(timeout=WITHIN_S)
    assert sample.canary is not None
    assert (sample.canary.outcome, sample.canary.model) == ("answered", "scripted:1")
    assert sample.canary.time_to_first_token_s is not None
    assert client.metrics.snapshot().series == ()
    assert client.limiter.statistics().in_flight == 0
    assert sample.traffic.answered == 0


async def test_the_process_is_measured(client: FoundryAPIClient) -> None:
    monitor = HealthMonitor(client, interval=0.1)
    async with aclosing(monitor.samples()) as samples:
        first, second = await anext(samples), await anext(samples)
    assert first.cpu_percent is None
    assert second.cpu_percent is not None
    assert second.cpu_percent >= 0
    assert second.memory_usage is not None
    assert second.memory_usage > 10 * 2**20
    assert second.threads is not None
    assert second.threads > 1
    assert second.uptime is not None
    assert first.pid == second.pid


async def test_readiness_follows_the_required_model(home: Path) -> None:
    async with FoundryAPIClient(service="embedded", home=home) as client:
        monitor = HealthMonitor(client, interval=2, models=["demo"])
        sample = await monitor.check()
        assert (sample.status, sample.ready, sample.detail) == (
            "degraded",
            False,
            "Not in memory: demo.",
        )
        await client.models.load("demo")
        assert (await monitor.check()).ready
        await client.models.unload("demo")
        assert not (await monitor.check()).ready
        async with monitor:
            waiting = asyncio.create_task(monitor.wait_until_ready(timeout=WITHIN_S))
            await client.models.load("demo")
            assert (await waiting).loaded_models == ("demo:1",)


async def test_the_first_check_does_not_wait_for_the_catalog(
    start: Callable[..., EngineHost],
) -> None:
    """The first list of downloads of a new engine takes 4 s offline."""
    endpoint = await start(models=get_demo_models()).wait_ready()
    async with FoundryAPIClient(endpoint.base_url) as client:
        monitor = HealthMonitor(client, interval=2)
        async with asyncio.timeout(3), monitor:
            sample = await monitor.wait_until_ready(timeout=2.5)
    assert sample.loaded_models == ()
    assert sample.status == "healthy"
