"""Batches at the limits of their key, their files and their time, and when their key ends."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import openai
import psutil
import pytest

from foundry_api import FoundryAPIClient
from foundry_api.gateway.batches import engine as batch_engine
from foundry_api.gateway.batches import validation
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.keys.types import Limit, NewKey
from foundry_api.testing import FakeService
from gateway.helpers import post
from gateway.keys.helpers import FakeClock
from gateway.serving import call, make_body, serve
from gateway.test_batches import connect, encode, get_key_id, make_chat, read, start, wait

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint
    from gateway.serving import ServedGateway

DAY_S = 86_400
MANAGER = NewKey(name="manager", scopes=frozenset({"inference", "manage"}))


def count_done(served: ServedGateway, batch: Any) -> int:
    """Return how many lines of a running batch were answered."""
    return (served.gateway.context.batches.get_counts(batch.id) or (0, 0))[0]


async def test_a_key_without_tokens_left_waits_and_its_rate_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_engine, "MAX_BUDGET_WAIT_S", 0.05)
    # A line that asks for more than the day has runs on a full budget only: one each day.
    key = NewKey(name="a", rate=Limit(1, "h"), tokens=(Limit(100, "d"),))
    body = make_body("x", "fake", max_tokens=1000)
    clock = FakeClock()  # at 8 o'clock UTC
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, key, MANAGER, wall_clock=clock) as served,
        connect(served.gateway.url, served.tokens[0]) as client,
    ):
        lines = [make_chat(number, model="fake", max_tokens=1000) for number in range(4)]
        batch = await start(client, encode(lines))
        await served.wait_until(lambda: count_done(served, batch) == 1)
        assert await call(served.http, body) == (429, "insufficient_quota")
        assert count_done(served, batch) == 1
        clock.now += DAY_S - 8 * 3600
        await served.wait_until(lambda: count_done(served, batch) == 2)
        path = f"/api/keys/{get_key_id(served, 'a')}/update"
        await post(served.open_session(1), path, {"tokens": ["1000000/d"]})
        batch = await wait(client, batch)
        assert batch.request_counts.completed == 4
        accounts = served.gateway.context.admission.accounts
        account = next(iter(accounts))
        assert account.requests is not None
        assert account.requests.get_level(accounts.clock())[0] == 1


@pytest.mark.parametrize("end", ["revoke", "expire"])
async def test_a_key_that_ends_has_its_batches_cancelled(
    end: str, engine: Endpoint, tmp_path: Path
) -> None:
    clock = FakeClock(time.time())  # by which the key is created
    key = NewKey(name="a", lifetime_s=3600)
    async with (
        serve(tmp_path, engine.base_url, key, MANAGER, wall_clock=clock) as served,
        connect(served.gateway.url, served.tokens[0]) as client,
        connect(served.gateway.url, served.tokens[1]) as manager,
    ):
        # More than the engine answers in the second after which an expired key is noticed.
        lines = [make_chat(0), *(make_chat(number, "say-forever") for number in range(1, 400))]
        batch = await start(client, encode(lines))
        waiting = await start(client, encode(lines))
        await served.wait_until(lambda: count_done(served, batch) > 0)
        if end == "revoke":
            path = f"/api/keys/{get_key_id(served, 'a')}/revoke"
            await post(served.open_session(1), path, {})
        else:
            clock.now += 3600
        batch = await wait(manager, batch)
        waiting = await wait(manager, waiting)
        assert (batch.status, waiting.status) == ("cancelled", "cancelled")
        answers = await read(manager, batch.output_file_id)
        assert batch.request_counts.completed == len(answers) > 0
        errors = await read(manager, batch.error_file_id)
        assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
        assert len(answers) + len(errors) == len(lines)
        assert waiting.request_counts.completed == 0
        assert served.gateway.context.admission.scheduler.active == 0
        with pytest.raises(openai.AuthenticationError):
            await client.batches.retrieve(batch.id)


async def test_a_model_that_the_key_may_not_use_refuses_the_file(tmp_path: Path) -> None:
    key = NewKey(name="a", models=frozenset({"fake"}))
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, key) as served,
        connect(served.gateway.url, served.tokens[0]) as client,
    ):
        lines = [make_chat(0, model="fake"), make_chat(1, model="other")]
        batch = await wait(client, await start(client, encode(lines)))
        assert batch.status == "failed"
        [problem] = batch.errors.data
        assert (problem.line, problem.code, problem.param) == (2, "model_not_allowed", "body.model")
        assert upstream.requests == []


async def test_a_file_with_too_many_lines(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert validation.MAX_LINES == 50_000
    monkeypatch.setattr(validation, "MAX_LINES", 2)
    async with connect(gateway.url) as client:
        for count, status in ((2, "completed"), (3, "failed")):
            lines = [make_chat(number) for number in range(count)]
            batch = await wait(client, await start(client, encode(lines)))
            assert batch.status == status
        assert [one.code for one in batch.errors.data] == ["too_many_lines"]


async def test_the_results_end_with_their_own_time(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, wall_clock=clock) as served,
        connect(served.gateway.url) as client,
    ):
        content = encode([make_chat(0, model="fake")])
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        request: Any = {
            "input_file_id": file.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        for seconds in (3599, 30 * DAY_S + 1):
            with pytest.raises(openai.BadRequestError, match=r"output_expires_after\.seconds"):
                await client.batches.create(
                    **request, output_expires_after={"anchor": "created_at", "seconds": seconds}
                )
        batch = await client.batches.create(
            **request, output_expires_after={"anchor": "created_at", "seconds": 3600}
        )
        batch = await wait(client, batch)
        output = await client.files.retrieve(batch.output_file_id)
        assert output.expires_at == output.created_at + 3600
        clock.now += 3600
        with pytest.raises(openai.NotFoundError):
            await client.files.content(output.id)
        await served.gateway.context.files.delete_expired()
        assert not served.gateway.context.files.get_path(output.id).exists()
        assert (await client.batches.retrieve(batch.id)).status == "completed"


async def test_a_killed_engine_loses_and_repeats_no_line(own_home: Path, tmp_path: Path) -> None:
    lines = [make_chat(number, "Say hello", "demo", max_tokens=8) for number in range(60)]
    async with (
        FoundryAPIClient(service="embedded", home=own_home) as service,
        Gateway(GatewayConfig(port=0), service, tmp_path / "gateway") as gateway,
        connect(gateway.url) as client,
    ):
        batch = await start(client, encode(lines))
        get_counts = gateway.context.batches.get_counts
        async with asyncio.timeout(60):
            while (get_counts(batch.id) or (0, 0))[0] < 5:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        connection, _ = await service._backend.route("demo")
        psutil.Process(connection.endpoint.pid).kill()
        batch = await wait(client, batch)
        answers = await read(client, batch.output_file_id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert Counter(one["custom_id"] for one in answers) == Counter(
        line["custom_id"] for line in lines
    )
