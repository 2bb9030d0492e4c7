"""The response cache, with the real engine."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from conftest import HOME
from foundry_api import (
    AttemptStarted,
    CacheHit,
    CacheMiss,
    CacheStored,
    CacheTrouble,
    CallEnded,
    CallStarted,
    Chunk,
    ClientClosed,
    DeadlineExceeded,
    FoundryAPIClient,
    InvalidRequest,
    MemoryCache,
    ResponseCache,
    ServiceNotRunning,
    SqliteCache,
)
from foundry_api.types.errors import FoundryError
from service.helpers import start_program, wait_until_async
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.types.events import Event

HELLO = script("say-hello").text


class Clients:
    """Clients of the shared test engine, and the events of their calls."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.open: list[FoundryAPIClient] = []

    def create(self, cache: ResponseCache | None, **options: Any) -> FoundryAPIClient:
        home = Path(os.environ[HOME])
        client = FoundryAPIClient(
            home=home,
            model="scripted",
            max_retries=0,
            cache=cache,
            listeners=[self.events.append],
            **options,
        )
        self.open.append(client)
        return client

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    @property
    def generations(self) -> int:
        """Number of requests sent to the engine."""
        return self.count(AttemptStarted)


@pytest.fixture
async def clients(engine: Endpoint) -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    for client in clients.open:
        await client.close()


@pytest.fixture(params=["memory", "sqlite"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> ResponseCache:
    return MemoryCache() if request.param == "memory" else SqliteCache(tmp_path / "answers.db")


async def stream_chunks(
    client: FoundryAPIClient, prompt: str = "say-hello", **options: Any
) -> list[Chunk]:
    async with aclosing(client.stream_complete(prompt, temperature=0, **options)) as stream:
        return [chunk async for chunk in stream]


def without_timings(chunks: list[Chunk]) -> list[Chunk]:
    """Clear the members that differ between a generated and a cached answer."""
    return [
        msgspec.structs.replace(chunk, timings=None, attempts=(), cached=False) for chunk in chunks
    ]


async def test_a_repeated_call_is_answered_from_the_cache(
    clients: Clients, cache: ResponseCache
) -> None:
    client = clients.create(cache)
    first = await client.complete("say-hello", temperature=0)
    second = await client.complete("say-hello", temperature=0)
    assert (first.content, first.cached, second.content, second.cached) == (
        HELLO,
        False,
        HELLO,
        True,
    )
    assert clients.generations == 1
    varying = {"timings", "attempts", "headers", "cached"}
    for name in {*first.__struct_fields__} - varying:
        assert getattr(second, name) == getattr(first, name)
    assert second.attempts == ()
    assert second.timings.total_s < first.timings.total_s
    stats = await client.cache.stats()
    assert (stats.hits, stats.misses, stats.stores, stats.entries) == (1, 1, 1, 1)


@pytest.mark.parametrize("prompt", ["say-hello", "say-multibyte", "say-think", "say-nothing"])
async def test_a_cached_stream_has_the_same_chunks(
    clients: Clients, cache: ResponseCache, prompt: str
) -> None:
    client = clients.create(cache)
    first, second = await stream_chunks(client, prompt), await stream_chunks(client, prompt)
    assert without_timings(second) == without_timings(first)
    assert clients.generations == 1
    assert all(chunk.cached for chunk in second)
    assert not any(chunk.cached for chunk in first)


async def test_completions_and_streams_share_entries(
    clients: Clients, cache: ResponseCache
) -> None:
    client = clients.create(cache)
    streamed = await stream_chunks(client)
    completion = await client.complete("say-hello", temperature=0)
    assert (completion.content, completion.cached) == (
        "".join(chunk.content for chunk in streamed),
        True,
    )
    other = await client.complete("say-lines", temperature=0)
    replayed = await stream_chunks(client, "say-lines")
    assert "".join(chunk.content for chunk in replayed) == other.content
    assert replayed[-1].usage == other.usage
    assert clients.generations == 2


async def test_max_tokens_is_part_of_the_key(clients: Clients, cache: ResponseCache) -> None:
    client = clients.create(cache)
    for _ in range(2):
        answer = await client.complete("say-forever", temperature=0, max_tokens=5)
        assert (answer.content, answer.finish_reason) == ("tick ", "length")
    await client.complete("say-forever", temperature=0, max_tokens=6)
    assert clients.generations == 2


async def test_only_deterministic_calls_are_cached_by_default(
    clients: Clients,
) -> None:
    client = clients.create(MemoryCache())
    for options, is_cached in (
        ({}, False),
        ({"temperature": 0.5}, False),
        ({"seed": 1}, True),
        ({"temperature": 0}, True),
        ({"temperature": 0, "cache": "never"}, False),
        ({"temperature": 0.7, "cache": "always"}, True),
    ):
        before = clients.generations
        for _ in range(2):
            await client.complete("say-hello", **options)  # type: ignore[arg-type] # from the cases above
        assert clients.generations - before == (1 if is_cached else 2), options


async def test_a_cache_can_store_answers_of_any_call(clients: Clients) -> None:
    client = clients.create(MemoryCache(only_deterministic=False))
    for _ in range(2):
        await client.complete("say-hello")
    assert clients.generations == 1


async def test_a_hit_does_not_need_the_model_in_memory(tmp_path: Path) -> None:
    """The second engine has no model in memory before and after the hit."""
    for cached in (False, True):
        cache = SqliteCache(tmp_path / "answers.db")
        async with FoundryAPIClient(service="embedded", model="demo", cache=cache) as client:
            answer = await client.complete("Hello", temperature=0, max_tokens=5)
            assert answer.cached == cached
            assert bool(await client.models.loaded()) == (not cached)


async def test_another_client_reads_the_entries_of_a_closed_one(
    clients: Clients, tmp_path: Path
) -> None:
    path = tmp_path / "answers.db"
    await clients.create(SqliteCache(path)).complete("say-hello", temperature=0)
    await clients.open[0].close()
    other = clients.create(SqliteCache(path))
    assert (await other.complete("say-hello", temperature=0)).cached
    assert clients.generations == 1


async def test_all_names_of_a_model_share_its_entries(clients: Clients) -> None:
    client = clients.create(MemoryCache())
    first = await client.complete("say-hello", temperature=0)
    second = await client.complete("say-hello", temperature=0, model=first.model.upper())
    other = await client.complete("say-hello", temperature=0, model="demo", max_tokens=3)
    assert (second.cached, other.cached) == (True, False)


@pytest.mark.parametrize("call_count", [2, 20])
async def test_concurrent_identical_calls_share_one_request(
    clients: Clients, cache: ResponseCache, call_count: int
) -> None:
    client = clients.create(cache)
    await client.models.load("scripted")
    answers = await asyncio.gather(
        *(client.complete("say-after-a-while", temperature=0) for _ in range(call_count))
    )
    assert {answer.content for answer in answers} == {script("say-after-a-while").text}
    assert sorted(answer.cached for answer in answers) == [False] + [True] * (call_count - 1)
    assert clients.generations == 1
    assert clients.count(CallEnded) == clients.count(CallStarted) == call_count
    assert clients.count(CacheMiss) == clients.count(CacheStored) == 1
    (series,) = client.metrics.snapshot().series
    assert (series.answered, series.shared, series.cached) == (call_count, call_count - 1, 0)
    assert series.completion_tokens == answers[0].usage.completion_tokens


async def test_a_stream_that_joins_late_gets_all_chunks(clients: Clients) -> None:
    client = clients.create(MemoryCache())
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
    async with aclosing(client.stream_complete("say-slowly", **options)) as first:
        chunks = [await anext(first) for _ in range(10)]
        joined = asyncio.create_task(stream_chunks(client, "say-slowly", max_tokens=40))
        chunks += [chunk async for chunk in first]
    assert without_timings(await joined) == without_timings(chunks)
    assert clients.generations == 1


async def test_closing_the_first_stream_does_not_end_the_second(
    clients: Clients,
) -> None:
    client = clients.create(MemoryCache())
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
    first = client.stream_complete("say-slowly", **options)
    await anext(first)
    second = client.stream_complete("say-slowly", **options)
    await anext(second)
    await first.aclose()
    rest = [chunk async for chunk in second]
    assert rest[-1].finish_reason == "length"
    assert clients.generations == 1


async def test_the_request_ends_when_all_streams_are_closed(clients: Clients) -> None:
    client = clients.create(MemoryCache())
    streams = [client.stream_complete("say-slowly", temperature=0) for _ in range(3)]
    for stream in streams:
        await anext(stream)
    for stream in streams:
        await stream.aclose()
    ended = [event for event in clients.events if isinstance(event, CallEnded)]
    assert [event.outcome for event in ended] == ["cancelled"] * 3
    assert clients.generations == 1
    assert (await client.cache.stats()).entries == 0
    assert client.limiter.statistics().in_flight == 0


async def test_an_error_is_raised_in_all_calls_and_not_cached(clients: Clients) -> None:
    client = clients.create(MemoryCache())
    options: dict[str, Any] = {"temperature": 0, "extra": {"max_completion_tokens": 10**6}}
    errors = await asyncio.gather(
        *(client.complete("say-hello", **options) for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(error, FoundryError) for error in errors)
    assert len({str(error) for error in errors}) == 1
    assert len({id(error) for error in errors}) == 5
    assert clients.generations == 1
    assert (await client.cache.stats()).entries == 0
    with pytest.raises(FoundryError):
        await client.complete("say-hello", **options)
    assert clients.generations == 2


async def test_each_call_has_its_own_deadline(clients: Clients) -> None:
    client = clients.create(MemoryCache())
    await client.models.load("scripted")
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    short = asyncio.create_task(client.complete("say-slowly", deadline=0.5, **options))
    await wait_until_async(lambda: clients.generations)
    long = asyncio.create_task(client.complete("say-slowly", deadline=60, **options))
    with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
        await short
    assert (await long).finish_reason == "length"
    assert clients.generations == 1


async def test_a_deadline_error_is_the_same_as_without_a_cache(clients: Clients) -> None:
    uncached_client, cached_client = clients.create(None), clients.create(MemoryCache())
    for client in (uncached_client, cached_client):  # so that the deadline passes while streaming
        await client.models.load("scripted")
    errors: list[DeadlineExceeded] = []
    for client in (uncached_client, cached_client):
        with pytest.raises(DeadlineExceeded) as caught:
            await client.complete("say-at-a-crawl", temperature=0, deadline=0.7)
        errors.append(caught.value)
    without_cache, with_cache = errors
    assert str(without_cache) == str(with_cache)
    assert (without_cache.attempts, without_cache.stage, without_cache.limit_s) == (
        with_cache.attempts,
        with_cache.stage,
        with_cache.limit_s,
    )
    ended = [event for event in clients.events if isinstance(event, CallEnded)]
    assert [type(event.error) for event in ended] == [DeadlineExceeded] * 2


async def test_closing_the_client_ends_its_calls(clients: Clients, cache: ResponseCache) -> None:
    client = clients.create(cache)
    calls = [asyncio.create_task(client.complete("say-slowly", temperature=0)) for _ in range(3)]
    await wait_until_async(lambda: clients.generations)
    await client.close()
    for call in calls:
        with pytest.raises(ClientClosed):
            await call


async def test_cached_answers_are_available_without_the_service(clients: Clients) -> None:
    client = clients.create(MemoryCache())
    await client.complete("say-hello", temperature=0)
    service = client.services[0]
    assert service.connection is not None

    async def fail_to_connect() -> Any:
        raise ServiceNotRunning("nothing answers")

    service.invalidate(service.connection)
    if service._recovery is not None:
        service._recovery.cancel()
    service._connect = fail_to_connect
    assert (await client.complete("say-hello", temperature=0)).cached
    with pytest.raises(ServiceNotRunning):
        await client.complete("say-lines", temperature=0)


async def test_request_hooks_disable_the_cache_by_default(
    clients: Clients,
) -> None:
    client = clients.create(MemoryCache(), request_hooks=[lambda request: request])
    for _ in range(2):
        await client.complete("say-hello", temperature=0)
    assert clients.generations == 2
    for _ in range(2):
        await client.complete("say-hello", temperature=0, cache="always")
    assert clients.generations == 3


async def test_cached_answers_are_parsed(clients: Clients) -> None:
    client = clients.create(MemoryCache())
    first, second = [
        await client.complete("say-json", response_model=dict[str, Any], temperature=0)
        for _ in range(2)
    ]
    assert first.parsed == second.parsed
    assert (first.cached, second.cached) == (False, True)
    chunks = client.stream_complete("say-json", response_model=dict[str, Any], temperature=0)
    *_, last = [chunk async for chunk in chunks]
    assert (last.parsed, last.cached) == (first.parsed, True)
    assert clients.generations == 1


async def test_an_unknown_cache_option_is_rejected(clients: Clients) -> None:
    with pytest.raises(InvalidRequest, match="cache is 'sometimes'") as caught:
        await clients.create(None).complete("say-hello", cache="sometimes")  # type: ignore[arg-type] # rejected
    assert caught.value.field == "cache"


async def test_the_environment_enables_the_cache(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FOUNDRY_CACHE", str(tmp_path / "answers.db"))
    client = clients.create(None)
    for _ in range(2):
        answer = await client.complete("say-hello", temperature=0)
    assert answer.cached
    assert (tmp_path / "answers.db").exists()
    assert not (await clients.create(None, settings=client.settings).cache.stats()).misses > 1


async def test_a_foreign_file_is_not_changed(clients: Clients, tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_bytes(b"not a database" * 1000)
    client = clients.create(SqliteCache(path))
    for _ in range(2):
        assert not (await client.complete("say-hello", temperature=0)).cached
    assert clients.count(CacheTrouble) == 1
    assert path.read_bytes() == b"not a database" * 1000


async def test_a_damaged_file_is_replaced(clients: Clients, tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    # The header is intact and identifies the file; the rest is damaged.
    writer = clients.create(SqliteCache(path))
    await writer.complete("say-hello", temperature=0)
    await writer.close()
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\xff" * (len(content) - 200))
    client = clients.create(SqliteCache(path))
    first, second = [await client.complete("say-hello", temperature=0) for _ in range(2)]
    assert (first.cached, second.cached) == (False, True)
    assert clients.count(CacheTrouble) == 1
    hits = [event for event in clients.events if isinstance(event, CacheHit)]
    assert [hit.source for hit in hits] == ["cache"]


# --- several processes ---

PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from foundry_api import AttemptStarted, FoundryAPIClient, SqliteCache

async def main():
    client = FoundryAPIClient(
        home=Path(os.environ["HOME_OF_ENGINE"]), model="scripted", cache=SqliteCache(sys.argv[1])
    )
    client.events.subscribe(lambda event: print("sent", flush=True), AttemptStarted)
    answer = await client.complete(sys.argv[2], temperature=0, max_tokens=int(sys.argv[3]))
    await client.close()
    print(answer.cached, len(answer.content), flush=True)

asyncio.run(main())
"""


def start_caller(path: Path, prompt: str, max_tokens: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME_OF_ENGINE", os.environ[HOME])
    return start_program(PROGRAM, str(path), prompt, str(max_tokens))


async def read_output(program: Any) -> list[str]:
    output, errors = await asyncio.to_thread(program.communicate)
    assert program.returncode == 0, errors
    return str(output).split("\n")


async def test_concurrent_programs_share_one_request(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await clients.create(None).models.load("scripted")
    path = tmp_path / "answers.db"
    first = start_caller(path, "say-slowly", 60, monkeypatch)
    assert await asyncio.to_thread(first.stdout.readline) == "sent\n"
    second = start_caller(path, "say-slowly", 60, monkeypatch)
    client = clients.create(SqliteCache(path))
    chunks = await stream_chunks(client, "say-slowly", max_tokens=60)
    assert await read_output(first) == ["False 60", ""]
    assert await read_output(second) == ["True 60", ""]
    assert sum(len(chunk.content) for chunk in chunks) == 60
    assert all(chunk.cached for chunk in chunks)
    assert clients.generations == 0


async def test_a_waiting_program_sends_when_the_first_is_killed(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await clients.create(None).models.load("scripted")
    path = tmp_path / "answers.db"
    first = start_caller(path, "say-at-a-crawl", 500, monkeypatch)
    assert await asyncio.to_thread(first.stdout.readline) == "sent\n"
    client = clients.create(SqliteCache(path))
    waiting = asyncio.create_task(stream_chunks(client, "say-at-a-crawl", max_tokens=500))
    await asyncio.sleep(0.5)
    assert clients.generations == 0
    first.kill()
    await asyncio.to_thread(first.communicate)
    await wait_until_async(lambda: clients.generations)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
