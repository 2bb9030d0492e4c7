"""Mutated requests: each has a well-formed answer or a closed connection, and leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
from typing import TYPE_CHECKING

import aiohttp
import psutil
import pytest

from foundry_api.gateway import exchange, forms
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.exchange import Exchange
from gateway.mutations import cut, mutate
from gateway.raw import Response, check_error, connect
from gateway.serving import call, make_body
from gateway.waiting import wait_until_idle

if TYPE_CHECKING:
    from foundry_api.gateway.gateway import Gateway

CLIENTS = 200
# How long the gateway waits for the rest of a request.
IDLE_S = 2.0
# What Python's allocator and the caches of the gateway may take, whatever the number of requests.
MEMORY_BYTES = 64 * 2**20


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> GatewayConfig:
    """A gateway that soon gives up a request that is not complete, so that no test waits long."""
    monkeypatch.setattr(exchange, "BODY_GRACE_S", IDLE_S)
    monkeypatch.setattr(forms, "BODY_GRACE_S", IDLE_S)
    return GatewayConfig(port=0, idle_timeout_s=IDLE_S, max_connections_per_address=10 * CLIENTS)


# Of aiohttp's reader of forms, about itself.
@pytest.mark.filterwarnings(r"default:unread_data\(\) is deprecated:DeprecationWarning")
async def test_mutated_requests_are_answered_and_leave_nothing(
    gateway: Gateway, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    count: int = request.config.getoption("--fuzz-requests")
    seed: int = request.config.getoption("--fuzz-seed")
    randomness = random.Random(seed)  # noqa: S311 - repeatable
    requests = [
        (data, cut(randomness, data)) for data in (mutate(randomness) for _ in range(count))
    ]
    remaining = iter(requests)
    statuses: list[int] = []

    async def send_requests() -> None:
        for data, cuts in remaining:
            statuses.extend(await send(gateway, data, cuts))

    await check_service(gateway)
    tasks_before = len(asyncio.all_tasks())
    memory_before = psutil.Process().memory_info().rss
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(send_requests())
    memory = psutil.Process().memory_info().rss - memory_before
    # With the seed 7, at least six requests in one segment have each of these. Several segments may
    # not arrive in time on a busy machine.
    assert {200, 400, 403, 404, 408, 415} <= set(statuses)
    await check_service(gateway)
    async with asyncio.timeout(30):
        # aiohttp reports no end of its tasks.
        while gateway.context.running or len(asyncio.all_tasks()) > tasks_before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert count_connections(gateway) == 0
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Exchange)]
    # Windows keeps freed memory for the process: of 104 MB at the peak, 3 MB are in use here.
    assert memory < MEMORY_BYTES or sys.platform == "win32"
    assert not [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]


async def send(gateway: Gateway, data: bytes, cuts: list[int]) -> list[int]:
    """Send a mutated request, and check what the gateway answers until it closes the connection."""
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    responses: list[Response] = []
    async with connect(gateway) as connection:
        await connection.send(data, cuts)
        duration_s = loop.time() - started_at
        response = await connection.read_response()
        if response is not None:
            connection.end()
            responses = [response, *await connection.read_to_end()]
    if b"\r\n\r\n" in data.lstrip(b"\r\n") and not data.startswith(b"PRI * HTTP/2.0"):
        # A complete head, unless a busy machine sent it as slowly as an attacker.
        assert responses or connection.was_reset or duration_s > IDLE_S / 2, data
    for response in responses:
        assert response.status < 500, (data, response)
        if response.status >= 400:
            check_error(response)
    return [response.status for response in responses]


async def check_service(gateway: Gateway) -> None:
    """Make a normal call, and wait until the gateway is idle."""
    async with aiohttp.ClientSession(gateway.url) as http:
        assert await call(http, make_body("say-hello")) == (200, None)
    await wait_until_idle(gateway.context.client)


def count_connections(gateway: Gateway) -> int:
    """Return how many connections clients have to the gateway."""
    port = int(gateway.url.rpartition(":")[2])
    return sum(
        connection.laddr.port == port and connection.status != psutil.CONN_LISTEN
        for connection in psutil.Process().net_connections("tcp")
        if connection.laddr
    )
