"""The slots of a service: measured while calls wait in the queue of the gateway."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from foundry_api.gateway.upstreams.slots import NamedSlots, count_queue_slots
from foundry_api.testing import FakeService, Stall
from gateway.serving import ServedGateway, call, make_body, serve
from gateway.several import serve_upstreams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

# More than have a slot or wait in the client's own queue.
CALLERS = 16
# A test that failed this long has failed.
LIMIT_S = 120


@asynccontextmanager
async def serve_one(
    directory: Path, *script: Stall, is_named: bool
) -> AsyncGenerator[ServedGateway]:
    """Serve a service of its own, or as an upstream with a name."""
    async with FakeService(*script) as service:
        gateway = (
            serve_upstreams(directory, {"name": "one", "url": service.base_url})
            if is_named
            else serve(directory, service.base_url)
        )
        async with gateway as served:
            yield served


@pytest.mark.parametrize("is_named", [False, True])
async def test_the_throughput_is_measured_while_calls_wait(
    tmp_path: Path, *, is_named: bool
) -> None:
    async with serve_one(tmp_path, is_named=is_named) as served:
        [service] = served.gateway.context.client.services
        limiter = service.limiter

        async def call_repeatedly() -> None:
            while limiter.statistics().tokens_per_second is None:
                assert await call(served.http, make_body("hello", "fake")) == (200, None)

        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(call_repeatedly())


@pytest.mark.parametrize("is_named", [False, True])
async def test_a_trial_of_fewer_slots_does_not_shorten_the_queue(
    tmp_path: Path, *, is_named: bool
) -> None:
    async with serve_one(tmp_path, is_named=is_named) as served:
        client = served.gateway.context.client
        [service] = client.services

        def count() -> int:
            if is_named:
                return NamedSlots(client).get_queue_slots()["one"]
            return count_queue_slots(client)

        before = count()
        service.limiter.limit = 1
        assert count() == before
        service.limiter.limit = before + 5
        assert count() == before + 5


@pytest.mark.parametrize("is_named", [False, True])
async def test_new_slots_are_used_before_a_call_ends(tmp_path: Path, *, is_named: bool) -> None:
    async with serve_one(tmp_path, Stall(), is_named=is_named) as served:
        [service] = served.gateway.context.client.services
        scheduler = served.gateway.context.admission.scheduler
        limiter = service.limiter
        limiter.limit = 2
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(call(served.http, make_body("hello", "fake")))
                for _ in range(CALLERS)
            ]
            # One more waits in the client's own queue.
            await served.wait_until(lambda: scheduler.waiting == CALLERS - 3)
            limiter.limit = 6
            assert limiter.on_raised is not None
            limiter.on_raised()
            assert scheduler.waiting == CALLERS - 7
            for one in calls:
                one.cancel()
