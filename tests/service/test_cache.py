"""The cache on the real engine: what was asked once is not asked again."""

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
    """Clients of the run's engine, and what their calls did."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.open: list[FoundryAPIClient] = []

    def one(self, cache: ResponseCache | None, **options: Any) -> FoundryAPIClient:
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
        """How often the engine was asked."""
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


async def chunks_of(
    client: FoundryAPIClient, prompt: str = "say-hello", **options: Any
) -> list[Chunk]:
    async with aclosing(client.stream_complete(prompt, temperature=0, **options)) as stream:
        return [chunk async for chunk in stream]


def cut(chunks: list[Chunk]) -> list[Chunk]:
    """What of an answer is the same each time."""
    return [
        msgspec.structs.replace(chunk, timings=None, attempts=(), cached=False) for chunk in chunks
    ]


async def test_what_was_asked_is_not_asked_again(clients: Clients, cache: ResponseCache) -> None:
    client = clients.one(cache)
    first = await client.complete("say-hello", temperature=0)
    again = await client.complete("say-hello", temperature=0)
    assert (first.content, first.cached, again.content, again.cached) == (HELLO, False, HELLO, True)
    assert clients.generations == 1
    same = {"timings", "attempts", "headers", "cached"}
    for name in {*first.__struct_fields__} - same:
        assert getattr(again, name) == getattr(first, name)
    assert again.attempts == ()
    assert again.timings.total_s < first.timings.total_s
    stats = await client.cache.stats()
    assert (stats.hits, stats.misses, stats.stores, stats.entries) == (1, 1, 1, 1)


@pytest.mark.parametrize("prompt", ["say-hello", "say-multibyte", "say-think", "say-nothing"])
async def test_a_stream_is_replayed_as_it_was_cut(
    clients: Clients, cache: ResponseCache, prompt: str
) -> None:
    client = clients.one(cache)
    first, again = await chunks_of(client, prompt), await chunks_of(client, prompt)
    assert cut(again) == cut(first)
    assert clients.generations == 1
    assert all(chunk.cached for chunk in again)
    assert not any(chunk.cached for chunk in first)


async def test_whole_answers_and_streams_serve_each_other(
    clients: Clients, cache: ResponseCache
) -> None:
    client = clients.one(cache)
    streamed = await chunks_of(client)
    whole = await client.complete("say-hello", temperature=0)
    assert (whole.content, whole.cached) == ("".join(chunk.content for chunk in streamed), True)
    other = await client.complete("say-lines", temperature=0)
    replayed = await chunks_of(client, "say-lines")
    assert "".join(chunk.content for chunk in replayed) == other.content
    assert replayed[-1].usage == other.usage
    assert clients.generations == 2


async def test_an_answer_that_was_cut_is_kept_under_its_bound(
    clients: Clients, cache: ResponseCache
) -> None:
    client = clients.one(cache)
    for _ in range(2):
        answer = await client.complete("say-forever", temperature=0, max_tokens=5)
        assert (answer.content, answer.finish_reason) == ("tick ", "length")
    await client.complete("say-forever", temperature=0, max_tokens=6)
    assert clients.generations == 2


async def test_only_calls_that_have_one_answer_are_served_unless_told_otherwise(
    clients: Clients,
) -> None:
    client = clients.one(MemoryCache())
    for options, served in (
        ({}, False),
        ({"temperature": 0.5}, False),
        ({"seed": 1}, True),
        ({"temperature": 0}, True),
        ({"temperature": 0, "cache": "never"}, False),
        ({"temperature": 0.7, "cache": "always"}, True),
    ):
        before = clients.generations
        for _ in range(2):
            await client.complete("say-hello", **options)  # type: ignore[arg-type] # options of a test
        assert clients.generations - before == (1 if served else 2), options


async def test_a_cache_may_keep_answers_of_any_call(clients: Clients) -> None:
    client = clients.one(MemoryCache(only_deterministic=False))
    for _ in range(2):
        await client.complete("say-hello")
    assert clients.generations == 1


async def test_a_hit_does_not_need_the_model_in_memory(tmp_path: Path) -> None:
    """The second engine is new: it has nothing in memory, before the hit and after it."""
    for cached in (False, True):
        cache = SqliteCache(tmp_path / "answers.db")
        async with FoundryAPIClient(service="embedded", model="demo", cache=cache) as client:
            answer = await client.complete("Hello", temperature=0, max_tokens=5)
            assert answer.cached == cached
            assert bool(await client.models.loaded()) == (not cached)


async def test_a_new_program_finds_what_another_left(clients: Clients, tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    await clients.one(SqliteCache(path)).complete("say-hello", temperature=0)
    await clients.open[0].close()
    other = clients.one(SqliteCache(path))
    assert (await other.complete("say-hello", temperature=0)).cached
    assert clients.generations == 1


async def test_names_that_mean_one_model_share_its_answers(clients: Clients) -> None:
    client = clients.one(MemoryCache())
    first = await client.complete("say-hello", temperature=0)
    again = await client.complete("say-hello", temperature=0, model=first.model.upper())
    other = await client.complete("say-hello", temperature=0, model="demo", max_tokens=3)
    assert (again.cached, other.cached) == (True, False)


@pytest.mark.parametrize("callers", [2, 20])
async def test_identical_calls_in_flight_share_one(
    clients: Clients, cache: ResponseCache, callers: int
) -> None:
    client = clients.one(cache)
    await client.models.load("scripted")
    answers = await asyncio.gather(
        *(client.complete("say-after-a-while", temperature=0) for _ in range(callers))
    )
    assert {answer.content for answer in answers} == {script("say-after-a-while").text}
    assert sorted(answer.cached for answer in answers) == [False] + [True] * (callers - 1)
    assert clients.generations == 1
    assert clients.count(CallEnded) == clients.count(CallStarted) == callers
    assert clients.count(CacheMiss) == clients.count(CacheStored) == 1
    (series,) = client.metrics.snapshot().series
    assert (series.answered, series.shared, series.cached) == (callers, callers - 1, 0)
    assert series.completion_tokens == answers[0].usage.completion_tokens


async def test_a_late_follower_of_a_stream_gets_all_of_it(clients: Clients) -> None:
    client = clients.one(MemoryCache())
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
    async with aclosing(client.stream_complete("say-slowly", **options)) as first:
        seen = [await anext(first) for _ in range(10)]
        following = asyncio.create_task(chunks_of(client, "say-slowly", max_tokens=40))
        seen += [chunk async for chunk in first]
    assert cut(await following) == cut(seen)
    assert clients.generations == 1


async def test_the_first_callers_leaving_does_not_end_the_answer_of_the_second(
    clients: Clients,
) -> None:
    client = clients.one(MemoryCache())
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
    first = client.stream_complete("say-slowly", **options)
    await anext(first)
    second = client.stream_complete("say-slowly", **options)
    await anext(second)
    await first.aclose()
    rest = [chunk async for chunk in second]
    assert rest[-1].finish_reason == "length"
    assert clients.generations == 1


async def test_when_all_have_left_the_engine_is_free(clients: Clients) -> None:
    client = clients.one(MemoryCache())
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


async def test_a_failure_reaches_everybody_and_is_not_kept(clients: Clients) -> None:
    client = clients.one(MemoryCache())
    options: dict[str, Any] = {"temperature": 0, "extra": {"max_completion_tokens": 10**6}}
    failures = await asyncio.gather(
        *(client.complete("say-hello", **options) for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(failure, FoundryError) for failure in failures)
    assert len({str(failure) for failure in failures}) == 1
    assert len({id(failure) for failure in failures}) == 5
    assert clients.generations == 1
    assert (await client.cache.stats()).entries == 0
    with pytest.raises(FoundryError):
        await client.complete("say-hello", **options)
    assert clients.generations == 2


async def test_every_caller_has_his_own_deadline(clients: Clients) -> None:
    client = clients.one(MemoryCache())
    await client.models.load("scripted")
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    short = asyncio.create_task(client.complete("say-slowly", deadline=0.5, **options))
    await wait_until_async(lambda: clients.generations)
    long = asyncio.create_task(client.complete("say-slowly", deadline=60, **options))
    with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
        await short
    assert (await long).finish_reason == "length"
    assert clients.generations == 1


async def test_a_deadline_tells_as_much_as_without_a_cache(clients: Clients) -> None:
    plain, cached = clients.one(None), clients.one(MemoryCache())
    await plain.models.load("scripted")
    told: list[DeadlineExceeded] = []
    for client in (plain, cached):
        with pytest.raises(DeadlineExceeded) as caught:
            await client.complete("say-at-a-crawl", temperature=0, deadline=0.7)
        told.append(caught.value)
    one, other = told
    assert str(one) == str(other)
    assert (one.attempts, one.stage, one.limit_s) == (other.attempts, other.stage, other.limit_s)
    ended = [event for event in clients.events if isinstance(event, CallEnded)]
    assert [type(event.error) for event in ended] == [DeadlineExceeded] * 2


async def test_closing_the_client_ends_what_is_in_the_making(
    clients: Clients, cache: ResponseCache
) -> None:
    client = clients.one(cache)
    callers = [asyncio.create_task(client.complete("say-slowly", temperature=0)) for _ in range(3)]
    await wait_until_async(lambda: clients.generations)
    await client.close()
    for caller in callers:
        with pytest.raises(ClientClosed):
            await caller


async def test_what_was_kept_is_given_also_while_the_service_is_away(clients: Clients) -> None:
    client = clients.one(MemoryCache())
    await client.complete("say-hello", temperature=0)
    service = client.services[0]
    assert service.connection is not None

    async def nothing_there() -> Any:
        raise ServiceNotRunning("nothing answers")

    service.invalidate(service.connection)
    if service._recovery is not None:
        service._recovery.cancel()
    service._connect = nothing_there
    assert (await client.complete("say-hello", temperature=0)).cached
    with pytest.raises(ServiceNotRunning):
        await client.complete("say-lines", temperature=0)


async def test_hooks_that_may_change_what_is_asked_turn_it_off_unless_it_is_asked_for(
    clients: Clients,
) -> None:
    client = clients.one(MemoryCache(), request_hooks=[lambda request: request])
    for _ in range(2):
        await client.complete("say-hello", temperature=0)
    assert clients.generations == 2
    for _ in range(2):
        await client.complete("say-hello", temperature=0, cache="always")
    assert clients.generations == 3


async def test_what_was_made_of_an_answer_is_made_again_of_the_kept_one(clients: Clients) -> None:
    client = clients.one(MemoryCache())
    first, again = [
        await client.complete("say-json", response_model=dict[str, Any], temperature=0)
        for _ in range(2)
    ]
    assert first.parsed == again.parsed
    assert (first.cached, again.cached) == (False, True)
    chunks = client.stream_complete("say-json", response_model=dict[str, Any], temperature=0)
    *_, last = [chunk async for chunk in chunks]
    assert (last.parsed, last.cached) == (first.parsed, True)
    assert clients.generations == 1


async def test_a_use_that_there_is_not_is_refused(clients: Clients) -> None:
    with pytest.raises(InvalidRequest, match="cache is 'sometimes'") as caught:
        await clients.one(None).complete("say-hello", cache="sometimes")  # type: ignore[arg-type] # refused
    assert caught.value.field == "cache"


async def test_the_environment_turns_it_on(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FOUNDRY_CACHE", str(tmp_path / "answers.db"))
    client = clients.one(None)
    for _ in range(2):
        answer = await client.complete("say-hello", temperature=0)
    assert answer.cached
    assert (tmp_path / "answers.db").exists()
    assert not (await clients.one(None, settings=client.settings).cache.stats()).misses > 1


async def test_a_file_of_another_program_is_left_alone(clients: Clients, tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_bytes(b"not a database" * 1000)
    client = clients.one(SqliteCache(path))
    for _ in range(2):
        assert not (await client.complete("say-hello", temperature=0)).cached
    assert clients.count(CacheTrouble) == 1
    assert path.read_bytes() == b"not a database" * 1000


async def test_a_damaged_file_costs_a_call_and_no_more(clients: Clients, tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    # The header says whose file it is; the rest is damaged.
    begun = clients.one(SqliteCache(path))
    await begun.complete("say-hello", temperature=0)
    await begun.close()
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"\xff" * (len(content) - 200))
    client = clients.one(SqliteCache(path))
    first, again = [await client.complete("say-hello", temperature=0) for _ in range(2)]
    assert (first.cached, again.cached) == (False, True)
    assert clients.count(CacheTrouble) == 1
    hits = [event for event in clients.events if isinstance(event, CacheHit)]
    assert [hit.source for hit in hits] == ["cache"]


# --- two programs ---

ASKS = """
import asyncio, os, sys
from pathlib import Path
from foundry_api import AttemptStarted, FoundryAPIClient, SqliteCache

async def main():
    asked = []
    client = FoundryAPIClient(
        home=Path(os.environ["HOME_OF_ENGINE"]), model="scripted", cache=SqliteCache(sys.argv[1])
    )
    client.events.subscribe(lambda event: print("asked", flush=True), AttemptStarted)
    answer = await client.complete(sys.argv[2], temperature=0, max_tokens=int(sys.argv[3]))
    await client.close()
    print(answer.cached, len(answer.content), flush=True)

asyncio.run(main())
"""


def asks(path: Path, prompt: str, max_tokens: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME_OF_ENGINE", os.environ[HOME])
    return start_program(ASKS, str(path), prompt, str(max_tokens))


async def told(program: Any) -> list[str]:
    output, errors = await asyncio.to_thread(program.communicate)
    assert program.returncode == 0, errors
    return str(output).split("\n")


async def test_two_programs_that_ask_the_same_ask_once(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await clients.one(None).models.load("scripted")
    path = tmp_path / "answers.db"
    first = asks(path, "say-slowly", 60, monkeypatch)
    assert await asyncio.to_thread(first.stdout.readline) == "asked\n"
    second = asks(path, "say-slowly", 60, monkeypatch)
    client = clients.one(SqliteCache(path))
    mine = await chunks_of(client, "say-slowly", max_tokens=60)
    assert await told(first) == ["False 60", ""]
    assert await told(second) == ["True 60", ""]
    assert sum(len(chunk.content) for chunk in mine) == 60
    assert all(chunk.cached for chunk in mine)
    assert clients.generations == 0


async def test_when_the_program_that_asked_is_killed_another_asks(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await clients.one(None).models.load("scripted")
    path = tmp_path / "answers.db"
    first = asks(path, "say-at-a-crawl", 500, monkeypatch)
    assert await asyncio.to_thread(first.stdout.readline) == "asked\n"
    client = clients.one(SqliteCache(path))
    waiting = asyncio.create_task(chunks_of(client, "say-at-a-crawl", max_tokens=500))
    await asyncio.sleep(0.5)
    assert clients.generations == 0
    first.kill()
    await asyncio.to_thread(first.communicate)
    await wait_until_async(lambda: clients.generations)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
