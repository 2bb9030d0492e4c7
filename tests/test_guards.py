"""Breakers, retries, the queue and timeouts, with a real client and a service on a socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from faults.hostile import ScriptedServer, get_unused_url
from faults.test_routes import Healthy
from foundry_api import (
    BreakerChanged,
    BreakerSettings,
    CallEnded,
    FoundryAPIClient,
    LimiterSettings,
    deadline,
)
from foundry_api.testing import Disconnect, ErrorReply, FakeService, Reply, Stall, skip_sleeps
from foundry_api.types import errors

if TYPE_CHECKING:
    from faults.hostile import Peer
    from foundry_api import Event

OPEN_S = 0.05
FAST_BREAKER = BreakerSettings(minimum_calls=2, window_calls=4, open_s=OPEN_S, open_cap_s=OPEN_S)


async def get_outcome(client: FoundryAPIClient, prompt: str = "Hi") -> str:
    try:
        return (await client.complete(prompt)).content
    except errors.FoundryError as error:
        return type(error).__name__


async def test_open_breaker_rejects_calls_until_one_probe_succeeds() -> None:
    script = [ErrorReply(), ErrorReply(), "Hello"]
    changes: list[Event] = []
    async with (
        FakeService(*script) as service,
        FoundryAPIClient(
            service.base_url, model="fake", max_retries=0, breaker=FAST_BREAKER
        ) as client,
    ):
        client.events.subscribe(changes.append, BreakerChanged)
        assert [await get_outcome(client) for _ in range(2)] == ["ServerError"] * 2
        with pytest.raises(errors.CircuitOpen, match="2 of the last 2 calls failed") as caught:
            await client.complete("Hi")
        assert 0 < caught.value.retry_after_s <= OPEN_S
        assert len(service.requests) == 2
        await asyncio.sleep(2 * OPEN_S)
        outcomes = await asyncio.gather(*(get_outcome(client) for _ in range(50)))
        assert sorted(outcomes) == ["CircuitOpen"] * 49 + ["Hello"]
        assert len(service.requests) == 3
        assert await get_outcome(client) == "Hello"
    states = [change.new for change in changes if isinstance(change, BreakerChanged)]
    assert states == ["open", "half-open", "closed"]


async def test_half_open_breaker_probes_the_status_before_a_call() -> None:
    """While the service does not report its status, no call is sent."""

    healthy = Healthy()

    async def dies(peer: Peer) -> None:
        request = await peer.request()
        while "chat" not in request.path:
            await peer.send(healthy(request.path))
            request = await peer.request()

    async with (
        ScriptedServer(dies) as server,
        FoundryAPIClient(
            server.base_url, model="tiny", max_retries=0, breaker=FAST_BREAKER
        ) as client,
    ):
        assert [await get_outcome(client) for _ in range(2)] == ["ServiceCrashed"] * 2
        sent = len(server.requests)
        await server.stop()
        await asyncio.sleep(2 * OPEN_S)
        assert await get_outcome(client) == "ServiceNotRunning"
        assert client.breaker.state == "open"
        assert len(server.requests) == sent


async def test_outage_costs_one_request_per_call_once_the_budget_is_spent() -> None:
    never_open = BreakerSettings(minimum_calls=1000, window_calls=1000)
    async with (
        FakeService(ErrorReply()) as service,
        FoundryAPIClient(service.base_url, model="fake", breaker=never_open) as client,
    ):
        with skip_sleeps():
            for _ in range(100):
                await get_outcome(client)
            with pytest.raises(errors.ServerError, match="retry budget is spent"):
                await client.complete("Hi")
    assert len(service.requests) == 101 + 100  # the callers, and the budget


async def test_final_error_has_the_cause_of_every_attempt() -> None:
    script = (ErrorReply(503, retry_after_s=0), Disconnect(), ErrorReply(message="boom"))
    async with (
        FakeService(*script) as service,
        FoundryAPIClient(service.base_url, model="fake", max_retries=2) as client,
    ):
        with skip_sleeps(), pytest.raises(errors.ServerError, match="after 3 attempts") as caught:
            await client.complete("Hi")
    causes = [type(cause) for cause in caught.value.causes]
    assert causes == [errors.ServiceOverloaded, errors.StreamInterrupted, errors.ServerError]


async def test_next_model_is_used_if_the_first_is_missing() -> None:
    async with FakeService("Hello") as service, FoundryAPIClient(service.base_url) as client:
        answer = await client.complete("Hi", model=["fake-but-better", "fake"])
    assert (answer.content, answer.model) == ("Hello", "fake:1")


async def test_failover_to_the_next_service_is_immediate() -> None:
    unused_url = await get_unused_url()
    async with FakeService(ErrorReply()) as failing, FakeService("Hello") as working:
        urls = [unused_url, failing.base_url, working.base_url]
        async with FoundryAPIClient(base_urls=urls, model="fake", max_retries=0) as client:
            with skip_sleeps() as waits:
                answers = [await client.complete("Hi") for _ in range(3)]
    assert [answer.service for answer in answers] == [working.base_url] * 3
    assert waits == []


async def test_calls_go_to_the_service_with_the_fewest_calls_in_flight() -> None:
    async with FakeService(Stall(after="a")) as first, FakeService(Stall(after="b")) as second:
        urls = [first.base_url, second.base_url]
        async with FoundryAPIClient(base_urls=urls, model="fake") as client:
            streams = [client.stream_complete("Hi") for _ in range(4)]
            texts = [(await anext(stream)).content for stream in streams]
            for stream in streams:
                await stream.aclose()
    assert sorted(texts) == ["a", "a", "b", "b"]


async def test_call_reports_its_time_in_the_queue() -> None:
    async with FakeService("Hello") as service:
        limits = LimiterSettings(concurrency=1)
        async with FoundryAPIClient(service.base_url, model="fake", limiter=limits) as client:
            answers = await asyncio.gather(*(client.complete("Hi") for _ in range(3)))
    waits = [answer.timings.queued_s for answer in answers]
    assert waits[0] == 0
    assert 0 < waits[1] < waits[2]
    assert all(answer.timings.total_s >= answer.timings.queued_s for answer in answers)


async def test_call_beyond_the_queue_is_rejected_at_once() -> None:
    limits = LimiterSettings(concurrency=1, queue=0)
    async with (
        FakeService(Stall(after="a")) as service,
        FoundryAPIClient(service.base_url, model="fake", limiter=limits) as client,
    ):
        stream = client.stream_complete("Hi")
        await anext(stream)
        with pytest.raises(errors.QueueFull) as caught:
            await client.complete("Hi")
        await stream.aclose()
    assert caught.value.service == service.base_url
    assert len(service.requests) == 1


async def test_deadline_limits_the_time_in_the_queue() -> None:
    limits = LimiterSettings(concurrency=1)
    async with (
        FakeService(Stall(after="a")) as service,
        FoundryAPIClient(service.base_url, model="fake", limiter=limits) as client,
    ):
        stream = client.stream_complete("Hi")
        await anext(stream)
        with deadline(0.05), pytest.raises(errors.DeadlineExceeded) as caught:
            await client.complete("Hi")
        await stream.aclose()
    assert (caught.value.stage, caught.value.limit_s) == ("waiting for its turn", 0.05)
    assert len(service.requests) == 1


async def test_auto_timeout_uses_the_default_until_latencies_are_known() -> None:
    script = ["Hello"] * 10
    async with (
        FakeService(*script, Reply("Bye")) as service,
        FoundryAPIClient(service.base_url, model="fake", timeout="auto") as client,
    ):
        answers = [await client.complete("Hi") for _ in range(11)]
        first_s, gap_s = client._backend.call_context.latencies.for_model("fake:1").bounds_s
    assert answers[-1].content == "Bye"
    assert (first_s, gap_s) == (2.0, 2.0)


async def test_closing_the_client_ends_a_stream_with_the_reason() -> None:
    async with FakeService(Stall(after="Some text")) as service:
        client = FoundryAPIClient(service.base_url, model="fake")
        stream = client.stream_complete("Hi")
        text = [(await anext(stream)).content, (await anext(stream)).content]
        await client.close()
        with pytest.raises(errors.ClientClosed) as caught:
            await anext(stream)
    assert caught.value.partial == "".join(text) == "Some text"


async def test_every_call_is_counted_whatever_its_outcome() -> None:
    ended_events: list[Event] = []
    script = (
        "Hello",
        ErrorReply(400, "Invalid request: x"),
        Disconnect(after="Half"),
        Stall(after="A"),
    )
    async with (
        FakeService(*script) as service,
        FoundryAPIClient(service.base_url, model="fake", max_retries=0) as client,
    ):
        client.events.subscribe(ended_events.append, CallEnded)
        outcomes = [await get_outcome(client) for _ in range(3)]
        stream = client.stream_complete("Hi")
        await anext(stream)
        await stream.aclose()
        (series,) = client.metrics.snapshot().series
    assert outcomes == ["Hello", "InvalidRequest", "StreamInterrupted"]
    assert (series.answered, series.failed, series.cancelled) == (1, 2, 1)
    assert series.errors == {"InvalidRequest": 1, "StreamInterrupted": 1}
    assert len(ended_events) == series.calls == 4
