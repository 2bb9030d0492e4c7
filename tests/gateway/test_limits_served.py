"""Limits, overload and fairness of a served gateway, with keys."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import KeyChanges, Limit, NewKey
from foundry_api.gateway.limits.scheduler import MIN_MEASURED_CALLS
from foundry_api.resilience.breaker import BreakerSettings
from foundry_api.resilience.limiter import LimiterSettings
from foundry_api.testing import Disconnect, ErrorReply, FakeService, Reply, Stall, ToolCalls
from foundry_api.types.events import FirstToken
from foundry_api.types.messages import Usage
from gateway.keys.helpers import FakeClock
from gateway.serving import CHAT, call, make_body, serve
from gateway.shapes import parse_events
from gateway.waiting import wait_until_idle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import aiohttp

    from foundry_api.engine.endpoint import Endpoint
    from gateway.serving import ServedGateway

PARALLEL = LimiterSettings(concurrency=64)
# A client that never gives up on a failing service, so that every call reaches it.
STUBBORN = {
    "limiter": PARALLEL,
    "max_retries": 0,
    "breaker": BreakerSettings(window_calls=10**6, minimum_calls=10**6),
}

HELLO = make_body("say-hello", "fake")


async def call_many(http: aiohttp.ClientSession, count: int, **options: Any) -> list[Any]:
    return await asyncio.gather(*(call(http, {**HELLO, **options}) for _ in range(count)))


def count_used(served: ServedGateway) -> int:
    """Return the tokens that count against the first limit of the first key."""
    accounts = served.gateway.context.admission.accounts
    [key] = served.gateway.context.keyring.keys
    return next(row.state.used for row in accounts.export() if row.key_id == key.id)


def count_metric(served: ServedGateway, direction: str) -> int:
    """Return the tokens in the metrics; there is one key and one model."""
    context = served.gateway.context
    text = context.metrics.format(
        context.admission.scheduler, draining=False, breaker_state="closed"
    ).decode()
    lines = [line for line in text.splitlines() if f'direction="{direction}"' in line]
    return sum(int(line.rpartition(" ")[2]) for line in lines)


def pick_endings(count: int) -> Iterator[str]:
    randomness = random.Random(5)  # noqa: S311 - repeatable
    kinds = ("answer", "stream", "bad", "unknown", "leave", "leave-stream", "deadline", "queued")
    for _ in range(count):
        yield randomness.choice(kinds)


async def end(http: aiohttp.ClientSession, kind: str) -> int | None:
    """Make a call that ends in some way; return its status, None if the client left."""
    body, headers = dict(HELLO), {}
    match kind:
        case "stream":
            body["stream"] = True
        case "bad":
            body["temperature"] = "hot"
        case "unknown":
            body["model"] = "no-such-model"
        case "deadline":
            headers["X-Request-Timeout"] = "0.05"
        case "leave" | "leave-stream":
            body["stream"] = kind == "leave-stream"
            try:
                async with asyncio.timeout(0.02):
                    return (await call(http, body))[0]
            except TimeoutError:
                return None
    return (await call(http, body, headers))[0]


async def test_p5_three_thousand_endings_leave_nothing_behind(tmp_path: Path) -> None:
    randomness = random.Random(7)  # noqa: S311 - repeatable
    replies = [
        Reply("Hello there."),
        ErrorReply(500),
        Disconnect(),
        Disconnect("Hel"),
        ErrorReply(400),
    ]
    # Streams that stall end only by their client or their deadline.
    script = [randomness.choice(replies) for _ in range(2_700)]
    keys = [NewKey(name=f"key{n}", parallel=12, tokens=(Limit(10**9, "d"),)) for n in range(3)]
    async with (
        FakeService(*script, Reply("The end.")) as upstream,
        serve(tmp_path, upstream.base_url, *keys, client=STUBBORN) as served,
    ):
        context = served.gateway.context
        kinds = pick_endings(3_000)
        statuses: set[int | None] = set()

        async def client(http: aiohttp.ClientSession) -> None:
            for kind in kinds:
                statuses.add(await end(http, kind))

        sessions = [served.open_session(index % 3) for index in range(48)]
        await asyncio.gather(*(client(http) for http in sessions))
        await served.wait_until(lambda: not context.running)
        assert statuses >= {200, 400, 404, 429, 503}
        scheduler = context.admission.scheduler
        assert scheduler.active == scheduler.waiting == 0
        assert [account.running for account in context.admission.accounts] == [0, 0, 0]
        await wait_until_idle(context.client)


async def test_p7_no_call_above_the_parallel_limit_reaches_the_service(tmp_path: Path) -> None:
    async with (
        FakeService(Stall()) as upstream,
        serve(tmp_path, upstream.base_url, NewKey(name="a", parallel=4), client=STUBBORN) as served,
    ):
        tasks = [asyncio.ensure_future(call(served.http, HELLO)) for _ in range(200)]
        await served.wait_until(lambda: sum(task.done() for task in tasks) == 196)
        assert len(upstream.requests) <= 4
        await served.wait_until(lambda: len(upstream.requests) == 4)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        refusals = [end for end in ends if not isinstance(end, BaseException)]
        assert refusals == [(429, "rate_limit_exceeded")] * 196
        await served.wait_until(lambda: not served.gateway.context.running)
        assert len(upstream.requests) == 4


async def test_p8_refused_calls_use_up_neither_rate_nor_tokens(tmp_path: Path) -> None:
    key = NewKey(name="a", parallel=1, rate=Limit(10, "d"), tokens=(Limit(10_000, "d"),))
    async with (
        FakeService(Stall()) as upstream,
        serve(tmp_path, upstream.base_url, key, client=STUBBORN) as served,
    ):
        first = asyncio.ensure_future(call(served.http, HELLO))
        await served.wait_until(lambda: len(upstream.requests) == 1)
        remaining: set[tuple[str, str]] = set()
        for _ in range(30):
            async with served.http.post(CHAT, json=HELLO) as response:
                assert response.status == 429
                remaining.add(
                    (
                        response.headers["x-ratelimit-remaining-requests"],
                        response.headers["x-ratelimit-remaining-tokens"],
                    )
                )
        assert len(remaining) == 1
        assert remaining.pop()[0] == "9"
        first.cancel()


async def test_p9_parallel_calls_stay_within_a_token_limit(tmp_path: Path) -> None:
    # Each reserves 6 tokens of its prompt and 14 of its answer.
    key = NewKey(name="a", tokens=(Limit(60, "d"),))
    async with (
        FakeService(Stall()) as upstream,
        serve(tmp_path, upstream.base_url, key, client=STUBBORN) as served,
    ):
        body = {**HELLO, "max_tokens": 14}
        tasks = [asyncio.ensure_future(call(served.http, body)) for _ in range(50)]
        await served.wait_until(lambda: sum(task.done() for task in tasks) == 47)
        assert {task.result() for task in tasks if task.done()} == {(429, "insufficient_quota")}
        for task in tasks:
            task.cancel()


async def test_p11_a_stream_that_its_client_leaves_costs_what_it_made(
    tmp_path: Path, engine: Endpoint
) -> None:
    key = NewKey(name="a", tokens=(Limit(100_000, "d"),))
    async with serve(tmp_path, engine.base_url, key) as served:
        body = make_body("say-slowly", stream=True, max_tokens=2000)
        async with served.http.post(CHAT, json=body) as response:
            for _ in range(40):  # an event and an empty line each
                await response.content.readline()
        await served.wait_until(lambda: not served.gateway.context.running)
        assert 20 + 6 <= count_used(served) < 2000


async def test_p11_an_answer_that_breaks_off_costs_what_was_made(tmp_path: Path) -> None:
    key = NewKey(name="a", tokens=(Limit(100_000, "d"),))
    async with (
        FakeService(Disconnect("word " * 30)) as upstream,
        serve(tmp_path, upstream.base_url, key, client=STUBBORN) as served,
    ):
        assert (await call(served.http, HELLO))[0] == 503
        assert count_used(served) >= 30 + 6


async def test_p11_an_answer_that_its_client_leaves_costs_what_was_made(tmp_path: Path) -> None:
    key = NewKey(name="a", tokens=(Limit(100_000, "d"),))
    async with (
        FakeService(Stall("word " * 30)) as upstream,
        serve(tmp_path, upstream.base_url, key, client=STUBBORN) as served,
    ):
        first_tokens: list[object] = []
        served.gateway.context.client.events.subscribe(first_tokens.append, FirstToken)
        request = asyncio.ensure_future(call(served.http, HELLO))
        await served.wait_until(lambda: bool(first_tokens))
        request.cancel()
        await served.wait_until(lambda: not served.gateway.context.running)
        assert 1 + 6 <= count_used(served) <= 40


async def test_p38_a_stream_that_its_client_does_not_read_ends(tmp_path: Path) -> None:
    words = " ".join(["x" * 10**6] * 24)  # more than the system buffers
    async with (
        FakeService(words) as upstream,
        serve(
            tmp_path,
            upstream.base_url,
            config={"write_timeout_s": 1, "keep_alive_s": 1},
            client=STUBBORN,
        ) as served,
    ):
        running = served.gateway.context.running
        body = msgspec.json.encode({**HELLO, "stream": True})
        address, _, port = served.gateway.url.partition("://")[2].rpartition(":")
        _, writer = await asyncio.open_connection(address, int(port))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
        )
        await served.wait_until(lambda: bool(running))
        await served.wait_until(lambda: not running)
        writer.transport.abort()


async def test_p11_a_response_in_the_background_that_breaks_off_costs_what_was_made(
    tmp_path: Path,
) -> None:
    key = NewKey(name="a", tokens=(Limit(100_000, "d"),))
    async with (
        FakeService(Disconnect("word " * 30)) as upstream,
        serve(tmp_path, upstream.base_url, key, client=STUBBORN) as served,
    ):
        body = {"model": "fake", "input": "Hello", "background": True}
        async with served.http.post("/v1/responses", json=body) as response:
            identifier = (await response.json())["id"]
        await served.wait_until(lambda: not served.gateway.context.running)
        async with served.http.get(f"/v1/responses/{identifier}") as response:
            assert (await response.json())["status"] == "failed"
        assert count_used(served) >= 30 + 5
        assert count_metric(served, "completion") >= 30


async def test_p41_a_response_in_the_background_is_counted(tmp_path: Path) -> None:
    async with (
        FakeService(Reply("Hello", usage=Usage(9, 7, 16))) as upstream,
        serve(tmp_path, upstream.base_url, NewKey(name="a")) as served,
    ):
        body = {"model": "fake", "input": "Hello", "background": True}
        async with served.http.post("/v1/responses", json=body):
            await served.wait_until(lambda: not served.gateway.context.running)
        assert (count_metric(served, "prompt"), count_metric(served, "completion")) == (9, 7)


STRICT_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "strict": True,
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
WRONG_CALL = ToolCalls([("add", {"a": "x" * 40})], usage=Usage(100, 20, 120))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("succeeds", [False, True])
async def test_p11_tries_with_wrong_tool_calls_cost_what_they_made(
    tmp_path: Path, *, streamed: bool, succeeds: bool
) -> None:
    key = NewKey(name="a", tokens=(Limit(100_000, "d"),))
    right = ToolCalls([("add", {"a": 1})], usage=Usage(100, 20, 120))
    async with (
        FakeService(WRONG_CALL, WRONG_CALL, right if succeeds else WRONG_CALL) as upstream,
        serve(tmp_path, upstream.base_url, key, client=STUBBORN) as served,
    ):
        body = {**HELLO, "tools": [STRICT_TOOL], "stream": streamed}
        assert (await call(served.http, body))[0] == (200 if succeeds else 422)
        assert len(upstream.requests) == 3
        # A stream that has sent nothing does not say what the service counted: it is estimated.
        output = 10 if streamed else 20
        prompt = 6
        least = 2 * (prompt + output) + (120 if succeeds else prompt + output)
        assert least <= count_used(served) <= 3 * 120
        assert count_metric(served, "completion") >= 3 * output


@pytest.mark.parametrize("streamed", [False, True])
async def test_p11_an_answer_that_misses_its_schema_costs_what_it_made(
    tmp_path: Path, *, streamed: bool
) -> None:
    key = NewKey(name="a", tokens=(Limit(100_000, "d"),))
    async with (
        FakeService(Reply("no JSON at all", usage=Usage(50, 30, 80))) as upstream,
        serve(tmp_path, upstream.base_url, key, client=STUBBORN) as served,
    ):
        schema = {"name": "answer", "schema": {"type": "object"}}
        form = {"type": "json_schema", "json_schema": schema}
        status, code = await call(
            served.http, {**HELLO, "response_format": form, "stream": streamed}
        )
        assert (status, code) == (200 if streamed else 422, "invalid_model_output")
        assert count_used(served) == 80 * len(upstream.requests)


async def test_p12_the_header_names_the_moment_to_the_millisecond(tmp_path: Path) -> None:
    clock = FakeClock()
    key = NewKey(name="a", rate=Limit(7, "m"))
    async with (
        FakeService() as upstream,
        serve(tmp_path, upstream.base_url, key, monotonic=clock, wall_clock=clock) as served,
    ):
        assert [status for status, _ in await call_many(served.http, 8)].count(200) == 7
        async with served.http.post(CHAT, json=HELLO) as response:
            assert response.status == 429
            wait_s = int(response.headers["retry-after-ms"]) / 1000
            assert int(response.headers["Retry-After"]) - 1 < wait_s
        clock.now += wait_s - 0.05
        assert (await call(served.http, HELLO))[0] == 429
        clock.now += 0.05
        assert (await call(served.http, HELLO))[0] == 200
        assert (await call(served.http, HELLO))[0] == 429


async def test_p26_a_full_queue_refuses_and_serves_on(tmp_path: Path) -> None:
    async with (
        FakeService(Stall()) as upstream,
        serve(
            tmp_path,
            upstream.base_url,
            NewKey(name="a"),
            config={"queue_per_slot": 4},
            client={"limiter": LimiterSettings(concurrency=1), "max_retries": 0},
        ) as served,
    ):
        tasks = [asyncio.ensure_future(call(served.http, HELLO)) for _ in range(50)]
        # One runs, one waits in the client, four wait in the queue.
        await served.wait_until(lambda: sum(task.done() for task in tasks) == 44)
        assert {task.result() for task in tasks if task.done()} == {(503, "queue_full")}
        async with served.http.post(CHAT, json=HELLO) as response:
            assert int(response.headers["Retry-After"]) > 0
        async with served.http.get("/healthz") as response:
            assert response.status == 200
        [queue] = served.gateway.context.admission.describe_queue()
        assert (queue.running, queue.waiting) == (2, 4)
        for task in tasks:
            task.cancel()


async def test_p44_status_says_how_many_calls_wait_and_for_how_long(tmp_path: Path) -> None:
    keys = [NewKey(name="one", scopes=frozenset({"inference", "manage"})), NewKey(name="two")]
    answers = ["Hello"] * MIN_MEASURED_CALLS  # then there is an estimate
    async with (
        FakeService(*answers, Stall()) as upstream,
        serve(
            tmp_path,
            upstream.base_url,
            *keys,
            config={"queue_per_slot": 5},
            client={"limiter": LimiterSettings(concurrency=1), "max_retries": 0},
        ) as served,
    ):

        async def read_status() -> tuple[Any, dict[str, Any]]:
            async with served.http.get("/api/status") as response:
                status = await response.json()
            return status, {one.pop("key"): one for one in status["keys"]}

        for _ in answers:
            assert (await call(served.http, HELLO))[0] == 200
        assert (await read_status())[1] == {}
        two = served.open_session(1)
        scheduler = served.gateway.context.admission.scheduler
        # Two calls have slots, of which one waits in the client.
        tasks = [asyncio.ensure_future(call(served.http, HELLO)) for _ in range(4)]
        await served.wait_until(lambda: scheduler.waiting == 2)
        tasks += [asyncio.ensure_future(call(two, HELLO)) for _ in range(3)]
        await served.wait_until(lambda: scheduler.waiting == 5)
        status, queues = await read_status()
        assert (status["in_flight"], status["waiting"]) == (2, 5)
        assert (queues["one"]["running"], queues["one"]["waiting"]) == (2, 2)
        assert (queues["two"]["running"], queues["two"]["waiting"]) == (0, 3)
        estimates = {name: queue["estimated_wait_s"] for name, queue in queues.items()}
        assert all(estimate > 0 for estimate in estimates.values())
        async with served.http.get("/api/live") as response:  # what the page shows
            event = json.loads((await response.content.readuntil(b"\n\n")).removeprefix(b"data: "))
        assert event["waiting"] == 5
        assert {one["key"]: one["waiting"] for one in event["keys"]} == {"one": 2, "two": 3}
        async with two.post(CHAT, json=HELLO) as response:
            assert response.status == 503
            assert "5 calls wait" in (await response.json())["error"]["message"]
            # The service ends no call, so the estimate has grown since.
            assert int(response.headers["retry-after-ms"]) / 1000 >= estimates["two"]
        for task in tasks:
            task.cancel()


# What each of them needs of the memory is measured by `bench/gateway_limits.py`.
async def test_p27_two_thousand_calls_wait_and_all_leave(tmp_path: Path) -> None:
    async with (
        FakeService(Stall()) as upstream,
        serve(
            tmp_path,
            upstream.base_url,
            NewKey(name="a"),
            config={"queue_per_slot": 1_997, "max_connections_per_address": 4_000},
            client={"limiter": LimiterSettings(concurrency=1), "max_retries": 0},
        ) as served,
    ):
        scheduler = served.gateway.context.admission.scheduler
        tasks = [asyncio.ensure_future(call(served.http, HELLO)) for _ in range(2_000)]
        await served.wait_until(lambda: scheduler.waiting == 1_997)
        async with served.http.post(CHAT, json=HELLO) as response:
            assert response.status == 503
            assert "Retry-After" in response.headers
        for task in tasks:
            task.cancel()
        await served.wait_until(lambda: not served.gateway.context.running)
        assert scheduler.waiting == scheduler.active == 0


async def test_p28_a_key_with_one_client_is_served_beside_one_with_many(tmp_path: Path) -> None:
    keys = [NewKey(name="one"), NewKey(name="many")]
    async with (
        FakeService("A short answer of six words.") as upstream,
        serve(
            tmp_path,
            upstream.base_url,
            *keys,
            client={"limiter": LimiterSettings(concurrency=1)},
            config={"queue_per_slot": 64},
        ) as served,
    ):
        many = served.open_session(1)
        counts = {"one": 0, "many": 0}
        ahead: list[int] = []

        async def flood() -> None:
            while True:
                await call(many, HELLO)
                counts["many"] += 1

        tasks = [asyncio.ensure_future(flood()) for _ in range(48)]
        await served.wait_until(lambda: counts["many"] > 100)
        for _ in range(40):
            before = counts["many"]
            assert (await call(served.http, HELLO))[0] == 200
            ahead.append(counts["many"] - before)
        for task in tasks:
            task.cancel()
        # Those that had a slot or waited in the client already, not the 46 that wait.
        assert sorted(ahead)[len(ahead) // 2] <= 4


@pytest.mark.parametrize("reply", [ErrorReply(500), ErrorReply(503, retry_after_s=0), Disconnect()])
async def test_p29_retries_do_not_amplify(tmp_path: Path, reply: Any) -> None:
    async with (
        FakeService(reply) as upstream,
        serve(tmp_path, upstream.base_url, NewKey(name="a")) as served,
    ):
        admission = served.gateway.context.admission

        async def send(count: int) -> int:
            headers = {"x-stainless-retry-count": str(count)}
            return (await call(served.http, HELLO, headers))[0]

        # As an SDK does: it sends a call again twice.
        statuses = await asyncio.gather(*(send(number % 3) for number in range(240)))
        assert set(statuses) == {503}
        assert len(upstream.requests) <= 1.1 * len(statuses)
        assert admission.client_retries == 160


@pytest.mark.parametrize(
    ("limit", "reply", "expected"),
    [
        ("first_token_timeout_s", Stall(), (504, "first_token_timeout")),
        ("gap_timeout_s", Stall("A first word"), (504, "gap_timeout")),
        ("call_timeout_s", Stall("A first word"), (504, "call_timeout")),
        ("queue_timeout_s", Stall(), (503, "queue_timeout")),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_p37_every_time_limit_is_named_in_its_error(
    tmp_path: Path, limit: str, reply: Any, expected: tuple[int, str], *, streamed: bool
) -> None:
    client = {"max_retries": 0, "limiter": LimiterSettings(concurrency=1)}
    async with (
        FakeService(reply) as upstream,
        serve(
            tmp_path, upstream.base_url, NewKey(name="a"), config={limit: 1.0}, client=client
        ) as served,
    ):
        others: list[asyncio.Task[Any]] = []
        if limit == "queue_timeout_s":
            others = [asyncio.ensure_future(call(served.http, HELLO)) for _ in range(2)]
            await served.wait_until(lambda: served.gateway.context.admission.scheduler.active == 2)
        async with served.http.post(CHAT, json={**HELLO, "stream": streamed}) as response:
            text = await response.text()
        status, code = expected
        has_begun = streamed and isinstance(reply, Stall) and reply.after
        assert response.status == (200 if has_begun else status)
        assert f'"code":"{code}"' in text
        assert limit in text
        assert "[DONE]" not in text
        for task in others:
            task.cancel()
        await served.wait_until(lambda: not served.gateway.context.running)


async def test_the_read_timeout_of_an_sdk_does_not_cut_a_stream(
    tmp_path: Path, engine: Endpoint
) -> None:
    async with serve(tmp_path, engine.base_url, NewKey(name="a")) as served:
        body = make_body("say-slowly", max_tokens=100)
        headers = {"x-stainless-read-timeout": "1"}
        async with served.http.post(
            CHAT, json={**body, "stream": True}, headers=headers
        ) as response:
            assert parse_events(await response.text())[-1] == "[DONE]"
        assert await call(served.http, body, headers) == (504, "deadline_exceeded")


async def test_a_deadline_that_has_passed_is_not_negative(tmp_path: Path, engine: Endpoint) -> None:
    async with (
        serve(tmp_path, engine.base_url, NewKey(name="a")) as served,
        served.http.post(CHAT, json=HELLO, headers={"X-Request-Timeout": "1e-300"}) as response,
    ):
        message = (await response.json())["error"]["message"]
    assert response.status == 504
    assert "deadline of 0 s" in message


async def test_a_call_that_cannot_start_in_time_is_refused_at_once(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        FakeService(*["Hello"] * 10, Stall()) as upstream,
        serve(
            tmp_path,
            upstream.base_url,
            NewKey(name="a"),
            client={"limiter": LimiterSettings(concurrency=1)},
            monotonic=clock,
            wall_clock=clock,
        ) as served,
    ):
        await call_many(served.http, 10)
        tasks = [asyncio.ensure_future(call(served.http, HELLO)) for _ in range(4)]
        await served.wait_until(lambda: served.gateway.context.admission.scheduler.waiting == 2)
        clock.now += 30.0  # and no call has ended
        headers = {"x-stainless-read-timeout": "60"}
        async with served.http.post(CHAT, json=HELLO, headers=headers) as response:
            answer = await response.json()
        assert (response.status, answer["error"]["code"]) == (504, "deadline_exceeded")
        assert "90.0 s" in answer["error"]["message"]
        assert response.headers["x-should-retry"] == "false"
        for task in tasks:
            task.cancel()


async def test_a_changed_limit_acts_at_once_and_keeps_what_was_used(tmp_path: Path) -> None:
    key = NewKey(name="a", rate=Limit(2, "h"), tokens=(Limit(5000, "d"),))
    async with (
        FakeService("Hello") as upstream,
        serve(tmp_path / "gateway", upstream.base_url, key) as served,
    ):
        body = {**HELLO, "max_tokens": 10}
        assert [(await call(served.http, body))[0] for _ in range(3)] == [200, 200, 429]
        database = KeyDatabase(tmp_path / "gateway")
        await asyncio.to_thread(database.update, "a", KeyChanges(rate=Limit(3, "h")))
        await served.gateway.context.keyring.reload()
        assert [(await call(served.http, body))[0] for _ in range(2)] == [200, 429]
        unlimited = KeyChanges(rate=None, models=frozenset({"other"}))
        await asyncio.to_thread(database.update, "a", unlimited)
        await served.gateway.context.keyring.reload()
        assert await call(served.http, body) == (403, "model_not_allowed")


async def test_a_refusal_for_tokens_says_how_many_are_left(tmp_path: Path) -> None:
    key = NewKey(name="a", tokens=(Limit(3000, "d"),))
    async with (
        FakeService(Reply("Hello", usage=Usage(100, 900, 1000)), "Hello") as upstream,
        serve(tmp_path / "gateway", upstream.base_url, key) as served,
    ):
        assert (await call(served.http, HELLO))[0] == 200
        async with served.http.post(CHAT, json=HELLO) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (429, "insufficient_quota")
        assert "2000 are left of the quota of 3000/d tokens" in error["message"]
        assert "max_tokens" in error["message"]
        assert "at midnight (UTC)" in error["message"]
        assert (await call(served.http, {**HELLO, "max_tokens": 100}))[0] == 200


@pytest.mark.parametrize("left", [2900, 100])
async def test_the_headers_of_an_answer_say_what_is_left_after_it(
    tmp_path: Path, left: int
) -> None:
    key = NewKey(name="a", tokens=(Limit(3000, "d"),))
    reply = Reply("Hello", usage=Usage(10, 2990 - left, 3000 - left))
    async with (
        FakeService(reply) as upstream,
        serve(tmp_path / "gateway", upstream.base_url, key) as served,
        served.http.post(CHAT, json=HELLO) as response,  # may use 2048 tokens and its prompt
    ):
        assert response.status == 200
        assert response.headers["x-ratelimit-remaining-tokens"] == str(left)


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/models/load"])
async def test_a_name_that_no_model_has_is_not_repeated_everywhere(
    tmp_path: Path, path: str
) -> None:
    key = NewKey(name="a", scopes=frozenset({"inference", "manage"}))
    body = {**make_body("say-hello", "m" * 257), "input": "Hello"}
    async with (
        FakeService() as upstream,
        serve(tmp_path / "gateway", upstream.base_url, key) as served,
        served.http.post(path, json=body) as response,
    ):
        error = (await response.json())["error"]
        assert (response.status, error["param"]) == (400, "model")
        assert "256 characters" in error["message"]
