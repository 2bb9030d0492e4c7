"""User programs for the type checkers. mypy and pyright check this file; it is never run.

A `type: ignore` tests that the type checkers report the misuse in that line, as both report unused
ones.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, assert_type

from pydantic import BaseModel, Field, TypeAdapter

from foundry_api import (
    AlertCommand,
    AlertWebhook,
    AttemptRecord,
    BatchKeywords,
    BatchRequest,
    BatchResult,
    BreakerChanged,
    BreakerSettings,
    CacheStats,
    CallEnded,
    CallLog,
    CallTimeout,
    Canary,
    CatalogListing,
    ChatOptions,
    Chunk,
    Completion,
    CompletionOptions,
    ConfigurationError,
    ContextOverflow,
    DownloadProgress,
    Embeddings,
    Event,
    FinishReason,
    FoundryAPIClient,
    FoundryClient,
    FoundryError,
    HealthChanged,
    HealthMonitor,
    HealthSample,
    HealthStatus,
    HealthSummary,
    Hysteresis,
    InvalidRequest,
    LimiterSettings,
    MaxTurnsExceeded,
    MemoryBudgetExceeded,
    MemoryCache,
    Message,
    Model,
    ModelError,
    ModelInUse,
    ModelLoaded,
    ModelNotFound,
    ModelResidency,
    ModelUnloaded,
    ModelUser,
    ReadTimeout,
    Request,
    Response,
    ResponseCache,
    ResponseEvent,
    ResponseHead,
    ResponseItem,
    Role,
    ServiceError,
    ServiceGeneration,
    Settings,
    SqliteCache,
    StreamInterrupted,
    StructuredOptions,
    StructuredOutputError,
    SyncConversation,
    SyncModels,
    Timings,
    Tool,
    ToolCall,
    ToolCallError,
    ToolDefinition,
    ToolDefinitionError,
    ToolFailed,
    ToolResult,
    ToolRun,
    TranscriptionChunk,
    Usage,
    __version__,
    deadline,
    tool,
)
from foundry_api.testing import Disconnect, ErrorReply, FakeService, Stall, ToolCalls, skip_sleeps

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable


async def summarise(client: FoundryAPIClient, document: str) -> str:
    """Options of several calls in a typed dictionary."""
    options: ChatOptions = {"model": "phi-4-mini", "max_tokens": 200, "temperature": 0.2}
    response = await client.complete(f"Summarise:\n{document}", system="Be brief.", **options)
    if response.finish_reason == "length":
        return response.content + "…"
    return response.content


async def continue_conversation(client: FoundryAPIClient, questions: list[str]) -> list[Message]:
    """A conversation of the package's message type."""
    turns = [Message("system", "You are a patient teacher.")]
    for question in questions:
        turns.append(Message("user", question))
        answer = await client.chat(turns, stop=["\n\n"], seed=7)
        turns.append(Message("assistant", answer.content))
    return turns


async def print_story(client: FoundryAPIClient) -> float | None:
    """The last chunk has the timings of the answer."""
    last: Chunk | None = None
    async for chunk in client.stream_complete(prompt="Write a story about AI", timeout=5):
        print(chunk.content, end="", flush=True)  # noqa: T201 - as user programs do
        last = chunk
    if last is None or last.timings is None:
        return None
    assert_type(last.timings, Timings)
    return last.timings.tokens_per_second


@dataclass
class Person:
    """A response model."""

    name: str
    age: int


async def extract(client: FoundryAPIClient, letter: str) -> str:
    """The parsed value has the requested type."""
    person = await client.complete(letter, response_model=Person, max_repairs=1)
    assert_type(person.parsed, Person)
    people = await client.complete(letter, response_model=list[Person], validators=[len])
    assert_type(people.parsed, list[Person])
    plain = await client.chat(
        [Message("user", letter)], response_model={"type": "integer"}, max_tokens=20
    )
    assert_type(plain.parsed, Any)
    mood = await client.complete(letter, choice=["glad", "sad"], system="Judge.")
    assert_type(mood.parsed, str)
    number = await client.complete(letter, grammar="start: /[0-9]+/", parser=int)
    assert_type(number.parsed, int)
    text = await client.complete(letter, grammar="start: /[0-9]+/")
    assert_type(text.parsed, str)
    options: StructuredOptions[Person] = {
        "validators": [lambda person: person.age < 150],
        "max_repairs": 3,
    }
    checked = await client.chat([Message("user", letter)], response_model=Person, **options)
    unparsed = await client.complete(letter, validators=[str.isascii])
    assert_type(unparsed.parsed, None)
    return f"{person.parsed.name} {person.repairs} {mood.parsed} {checked.parsed}"


Score = Annotated[int, Field(ge=1, le=3)]


class Judgement(BaseModel):
    """A pydantic model."""

    score: Score
    kind: Literal["film"] = "film"


class Rated(TypedDict):
    """A typed dictionary with bounds."""

    score: Score


async def judge(client: FoundryAPIClient, blocking: FoundryClient, letter: str) -> int:
    """Pydantic types, bounds and schemas as response models."""
    judged = await client.complete(letter, response_model=list[Judgement])
    assert_type(judged.parsed, list[Judgement])
    assert_type(blocking.complete(letter, response_model=Rated).parsed, Rated)
    scores = await client.complete(letter, response_model=dict[str, Score])
    assert_type(scores.parsed, dict[str, int])
    adapter = TypeAdapter(list[Judgement])
    schema = {"name": "s", "schema": {"type": "integer"}}
    for model in (adapter, Judgement | None, '{"type": "integer"}', schema):
        anything = await client.complete(letter, response_model=model)
        assert_type(anything.parsed, Any)
    return sum(scores.parsed.values())


async def stream_person(client: FoundryAPIClient, letter: str) -> Person | None:
    """A stream has partial values and the final value."""
    try:
        async for chunk in client.stream_complete(letter, response_model=Person):
            assert_type(chunk.partial, Any)
            if isinstance(chunk.parsed, Person):
                return chunk.parsed
    except StructuredOutputError as error:
        assert_type(error.errors, tuple[str, ...])
        assert_type(error.repairs, int)
    return None


async def handle_errors(client: FoundryAPIClient) -> str:
    """The error classes have typed attributes."""
    try:
        return (await client.complete("Hello", download=True)).content
    except ModelNotFound as error:
        message = " or ".join(error.nearest)
    except ContextOverflow as error:
        assert_type(error.context_length, int | None)
        message = error.message
    except InvalidRequest as error:
        assert_type(error.field, str | None)
        message = error.hint
    except (StreamInterrupted, ReadTimeout) as error:
        message = error.partial
    except CallTimeout as error:
        message = f"{error.limit_s:.1f}"
    except (ModelError, ServiceError) as error:
        message = f"{error.service} {error.status} {error.attempts}"
    except FoundryError as error:
        message = str(error) if error.retryable else ""
    return message


async def handle_built_in_errors(client: FoundryAPIClient) -> str:
    """The errors are subclasses of built-in ones."""
    try:
        return (await client.complete("Hello")).content
    except TimeoutError:
        return "too slow"
    except LookupError:
        return "no such model"
    except ValueError:
        return "no such argument"


def calculate(expression: str, digits: int = 2) -> float:
    """A plain function as a tool."""
    return round(len(expression), digits)


def rate(
    score: Score, folder: Path, judgement: Judgement | int | None = None, others: Iterable[int] = ()
) -> str:
    """Parameters with bounds, paths, unions of models and iterables."""
    return f"{score} {folder} {judgement} {sum(others)}"


@tool
def rate_again(score: int = Field(3, ge=1)) -> int:
    """A parameter with a field as its default."""
    return score


@tool(name="time_of_day", description="Tell the time in a city.")
async def clock(city: str) -> str:
    return f"noon in {city}"


async def run_tools(client: FoundryAPIClient) -> ToolRun:
    """Plain functions, coroutine functions and tools."""
    assert_type(clock, Tool)
    options: CompletionOptions = {"model": "phi-4-mini", "tool_choice": "required", "deadline": 20}
    try:
        run = await client.run_tools(
            "How late is it?", [calculate, clock, rate, rate_again], max_turns=4, **options
        )
    except MaxTurnsExceeded as error:
        if error.run is None:
            raise
        run = error.run
    except ToolFailed as error:
        assert_type(error.call, ToolCall | None)
        raise
    except (ToolCallError, ToolDefinitionError) as error:
        raise SystemExit(error.hint) from error
    assert_type(run.completion, Completion[None])
    results = [(call.name, call.arguments, call.value, call.error, call.turn) for call in run.calls]
    return await client.run_tools([*run.messages, Message("user", f"{results}?")], [calculate])


async def stream_tools(client: FoundryAPIClient) -> str:
    async for item in client.stream_run_tools("How late is it?", [clock], on_error="raise"):
        if isinstance(item, ToolRun):
            return item.content
        if isinstance(item, ToolResult):
            print(item.content)  # noqa: T201 - as user programs do
        else:
            assert_type(item, Chunk)
    return ""


async def request_tool_calls(client: FoundryAPIClient) -> tuple[ToolCall, ...]:
    definition = ToolDefinition(name="clock", parameters={"type": "object", "properties": {}})
    completion = await client.complete(
        "How late?", tools=[definition, calculate], tool_choice="auto"
    )
    assert_type(completion, Completion[None])
    return completion.tool_calls


async def misuse_tools(client: FoundryAPIClient) -> None:
    await client.run_tools("How late is it?", [clock], on_error="ignore")  # type: ignore[arg-type]
    await client.run_tools("How late is it?", [clock], tools=[clock])  # type: ignore[misc]


async def complete_concurrently(client: FoundryAPIClient, prompts: list[str]) -> list[Completion]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.complete(prompt)) for prompt in prompts]
    return [task.result() for task in tasks]


async def print_samples(client: FoundryAPIClient) -> None:
    monitor = HealthMonitor(client, interval=1.0, history=10)
    async for status in monitor.samples():
        if status.status == "down":
            raise SystemExit(status.detail)
        memory: int | None = status.memory_usage
        print(memory, status.uptime, status.loaded_models)  # noqa: T201 - as above


async def run_monitor(client: FoundryAPIClient, webhook: str) -> str:
    """A monitor in the background, with alerts and a history in a file."""

    async def notify(change: HealthChanged) -> None:
        assert_type(change.sample, HealthSample)
        print(change.old, change.new, change.reason, change.at - change.since)  # noqa: T201 - as above

    async with HealthMonitor(
        client,
        interval=0.5,
        timeout=0.4,
        models=["phi-4-mini"],
        canary_every=20,
        hysteresis=Hysteresis(down_after=3),
        history=Path("health.db"),
        alerts=[notify, AlertWebhook(webhook), AlertCommand(["logger", "-t", "foundry"])],
    ) as monitor:
        ready = await monitor.wait_until_ready(timeout=60)
        unsubscribe = monitor.on_change(print)
        unsubscribe()
        canary: Canary | None = ready.canary
        speed: float | None = ready.traffic.tokens_per_second
        summary: HealthSummary = monitor.summary()
    first = summary.time_to_first_token_s
    statistics = f"{summary.availability} {summary.outages} {first.p95 if first else None}"
    return f"{monitor.state} {canary} {speed} {statistics}"


async def manage_models(client: FoundryAPIClient) -> list[str]:
    await client.models.download("phi-4-mini", print)
    await client.models.download("phi-4-mini", lambda step: print(step.remaining_s), stall_s=60)  # noqa: T201 - as above
    listing: CatalogListing = await client.models.catalog(refresh=True)
    assert_type(listing.models, tuple[Model, ...])
    freed: int = await client.models.remove("phi-4-mini")
    print(freed, [variant.publisher for variant in await client.models.show("phi")])  # noqa: T201 - as above
    model = await client.models.load("phi-4-mini")
    assert_type(model, Model)
    return [model.alias for model in await client.models.cached()]


def read_completion(response: Completion) -> tuple[int, list[str], bytes]:
    assert_type(response.usage, Usage)
    assert_type(response.attempts, tuple[AttemptRecord, ...])
    reason: FinishReason = response.finish_reason
    generation: ServiceGeneration = response.service_generation
    causes = [str(attempt.error) for attempt in response.attempts if attempt.error]
    return response.usage.total_tokens, [reason, generation, *causes], b"\n".join(response.raw)


def create_client() -> FoundryAPIClient:
    version: str = __version__
    settings = Settings(model="demo", timeout_s=5.0, max_retries=0, service="embedded")
    try:
        return FoundryAPIClient(settings=settings)
    except ConfigurationError:
        return FoundryAPIClient(
            "http://127.0.0.1:5273", api_key="secret", headers={"X-Team": version}
        )


async def configure_resilience(urls: list[str]) -> str:
    def listen(event: Event) -> None:
        if isinstance(event, CallEnded):
            assert_type(event.error, FoundryError | None)

    client = FoundryAPIClient(
        base_urls=urls,
        timeout="auto",
        deadline=60,
        limiter=LimiterSettings(concurrency=4, queue=100),
        breaker=BreakerSettings(failure_rate=0.3),
        listeners=[listen, CallLog(logging.getLogger("calls"), json=True)],
    )
    with deadline(20):
        await client.complete("Hello", model=["phi-4-mini", "demo"], deadline=5)
    unsubscribe = client.events.subscribe(print, CallEnded, BreakerChanged)
    unsubscribe()
    state: str = client.breaker.statistics().state
    limit: int = client.limiter.statistics().limit
    for series in client.metrics.snapshot().series:
        assert_type(series.time_to_first_token_s.quantile(0.95), float)
    return f"{state} {limit} {client.metrics.to_prometheus()}"


async def manage_memory(client: FoundryAPIClient) -> Model:
    """Models in memory and the programs that use them."""
    FoundryAPIClient(residency=ModelResidency(keep_alive_s=600, memory_budget_mb=8000))
    client.events.subscribe(print, ModelLoaded, ModelUnloaded)
    await client.models.ensure_loaded(["phi-4-mini", "demo"])
    for user in await client.models.users("demo"):
        assert_type(user, ModelUser)
    try:
        await client.models.unload("phi-4-mini", drain=5.0)
    except ModelInUse as error:
        assert_type(error.users, tuple[ModelUser, ...])
        await client.models.unload("phi-4-mini", force=True)
    except MemoryBudgetExceeded as error:
        assert_type(error.users, tuple[ModelUser, ...])
    return await client.models.swap("demo", "phi-4-mini")


def call_sync_client(urls: list[str], letter: str) -> list[str]:
    """The calls of the sync client."""
    with FoundryClient(base_urls=urls, timeout="auto", deadline=60) as client:
        answer = client.complete("Hello", model=["phi-4-mini", "demo"], max_tokens=5)
        assert_type(answer, Completion[None])
        person = client.complete(letter, response_model=Person, max_repairs=1)
        assert_type(person.parsed, Person)
        verdict = client.chat([{"role": "user", "content": letter}], choice=["yes", "no"])
        assert_type(verdict.parsed, str)
        for chunk in client.stream_complete("Hello", stop="."):
            assert_type(chunk, Chunk)
        stream = client.stream_chat([Message("user", "Hello")])
        stream.close()
        for step in client.models.stream_download("phi-4-mini"):
            assert_type(step, DownloadProgress)
        assert_type(client.models, SyncModels)
        assert_type(client.embed(["one"], model="demo"), Embeddings)
        with client.responses.conversation(model="demo") as conversation:
            assert_type(conversation, SyncConversation)
            assert_type(conversation.send(letter), Response)
            assert_type(conversation.last, Response | None)
        assert_type(client.models.load("demo"), Model)
        assert_type(client.health_check(), HealthStatus)
        with deadline(20):
            client.models.swap("demo", "phi-4-mini", drain=5)
        return [answer.content, client.breaker.statistics().state]


async def use_fake_service() -> None:
    async with FakeService(
        "Hello",
        ToolCalls([("clock", {"city": "Bern"})]),
        ErrorReply(503),
        Disconnect(after="Hel"),
        Stall(),
    ) as service:
        client = FoundryAPIClient(service.base_url, model="fake")
        with skip_sleeps() as waits:
            await client.complete("Hi")
        assert_type(waits, list[float])
        assert_type(service.requests, list[dict[str, Any]])


async def run_batches(client: FoundryAPIClient, letters: list[str]) -> list[str]:
    """Batch results have the types of single calls."""
    async for result in client.batch(letters, ordered=True, max_tokens=20, dedupe=True):
        assert_type(result, BatchResult[Completion[None]])
        assert_type(result.unwrap(), Completion[None])
        assert_type(result.error, FoundryError | None)
    async for person in client.batch((letter for letter in letters), response_model=Person):
        assert_type(person.unwrap().parsed, Person)
    options: BatchKeywords[str] = {
        "max_attempts": 2,
        "patience": 60,
        "errors": "raise",
        "system": "Be",
    }
    async for mood in client.batch([[Message("user", "Hi")]], choice=["glad", "sad"], **options):
        assert_type(mood.unwrap().parsed, str)
    async for number in client.batch(letters, parser=int):
        assert_type(number.answer, Completion[int] | None)
    requests = [BatchRequest(custom_id="a", body={"input": "Hi"}, url="/v1/embeddings")]
    async for any_result in client.batch(requests):
        assert_type(any_result.unwrap(), Completion[Any] | Response | Embeddings)
    return [item.custom_id async for item in client.batch(generate_letters(letters))]


async def generate_letters(letters: list[str]) -> AsyncGenerator[str]:
    for letter in letters:
        yield letter


def run_sync_batch(client: FoundryClient, letters: list[str]) -> list[Person]:
    return [result.unwrap().parsed for result in client.batch(letters, response_model=Person)]


async def misuse_batches(client: FoundryAPIClient) -> None:
    client.batch(5)  # type: ignore[call-overload]
    client.batch([5])  # type: ignore[list-item]
    client.batch(["Hi"], errors="ignore")  # type: ignore[call-overload]
    client.batch(["Hi"], max_token=5)  # type: ignore[call-overload]
    await client.batch(["Hi"])  # type: ignore[misc]


async def use_hooks(response: Completion) -> None:
    async def get_key() -> str:
        return "secret"

    def trace(request: Request) -> Request:
        assert_type(request.json(), Any)
        return request.with_headers({"X-Trace": "7"})

    async def record(request: Request, head: ResponseHead) -> None:
        assert_type(head.duration_s, float)

    FoundryAPIClient(
        "http://127.0.0.1", api_key=get_key, request_hooks=[trace], response_hooks=[record]
    )
    FoundryAPIClient("http://127.0.0.1", auth=trace)
    assert_type(response.headers, tuple[tuple[str, str], ...])
    assert_type(response.reasoning, str)
    FoundryAPIClient(auth=record)  # type: ignore[arg-type]


async def call_endpoints(client: FoundryAPIClient) -> None:
    vectors = await client.embed(["one", "two"], model="demo", batch_size=1, deadline=5)
    assert_type(vectors, Embeddings)
    assert_type(vectors[0], tuple[float, ...])
    assert_type([vector for vector in vectors], list[tuple[float, ...]])  # noqa: C416 - its type
    assert_type(vectors.usage, Usage | None)
    transcription = await client.transcribe(
        Path("recording.wav"), model="whisper-tiny", language="de"
    )
    assert_type(transcription.text, str)
    async for chunk in client.stream_transcribe(b"RIFF", model="whisper-tiny", timeout="auto"):
        assert_type(chunk, TranscriptionChunk)
    response = await client.responses.create("Hello", store=True, metadata={"user": "me"})
    assert_type(response, Response)
    assert_type(response.output_text, str)
    assert_type(response.function_calls, tuple[ToolCall, ...])
    await client.responses.create([{"role": "user", "content": "Hello"}, *response.output])
    await client.responses.create([Message("user", "Hello")], previous_response_id=response.id)
    async for event in client.responses.stream("Hello", max_output_tokens=5):
        assert_type(event, ResponseEvent)
    assert_type((await client.responses.list(order="asc", limit=5)).has_more, bool)
    assert_type(await client.responses.input_items(response.id), tuple[ResponseItem, ...])
    async with client.responses.conversation(model="demo") as conversation:
        assert_type(await conversation.send("Hello"), Response)
    reply = await client.request("GET", "/v1/models", params={"limit": 3}, timeout=5)
    assert_type(reply.status, int)
    assert_type(reply.json(), Any)


async def misuse_endpoints(client: FoundryAPIClient) -> None:
    await client.embed("Hello")  # type: ignore[call-arg]
    await client.embed([1], model="demo")  # type: ignore[list-item]
    await client.embed("Hello", model="demo", max_tokens=5)  # type: ignore[call-arg]
    await client.transcribe(5, model="demo")  # type: ignore[arg-type]
    await client.responses.create(5)  # type: ignore[arg-type]
    await client.responses.create("Hello", stop="x")  # type: ignore[call-arg]
    await client.responses.list(order="up")  # type: ignore[arg-type]
    await client.request("GET")  # type: ignore[call-arg]


async def use_cache(path: Path) -> None:
    client = FoundryAPIClient(cache=SqliteCache(path, max_bytes=2**30, max_age_s=86400))
    FoundryAPIClient(cache=MemoryCache(max_bytes=2**20, only_deterministic=False))
    answer = await client.complete("Hello", temperature=0, cache="always")
    assert_type(answer.cached, bool)
    assert_type(client.cache, ResponseCache)
    assert_type(await client.cache.stats(), CacheStats)
    assert_type(await client.cache.clear(), int)
    FoundryAPIClient(cache="memory")  # type: ignore[arg-type]
    await client.complete("Hello", cache="sometimes")  # type: ignore[call-overload]
    SqliteCache(path, 5)  # type: ignore[call-arg]


def make_message(role: Role, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def misuse_sync_client(client: FoundryClient) -> None:
    client.complete()  # type: ignore[call-overload]
    client.complete("Hello", max_token=5)  # type: ignore[call-overload]
    client.complete("Hello", temperature="warm")  # type: ignore[call-overload]
    client.complete("Hello").text  # type: ignore[attr-defined]  # noqa: B018 - the access is the misuse
    client.stream_complete(5)  # type: ignore[arg-type]
    client.models.unload("demo", 5)  # type: ignore[call-arg]
    FoundryClient(service="cloud")  # type: ignore[arg-type]


def create_own_error(model: str) -> FoundryError:
    """User code creates errors of the package, as in its own fakes."""
    if model == "busy":
        return CallTimeout("it took too long", limit_s=5, hint="Wait.", model=model, attempts=2)
    return ModelNotFound("no such model", nearest=["demo"], status=404, service="http://h")


def misuse_of_names_and_errors() -> None:
    import foundry_api  # noqa: PLC0415 - the misuse is of the module

    foundry_api.Nothing  # type: ignore[attr-defined]  # noqa: B018 - the access is the misuse
    InvalidRequest("x", limit_s=5)  # type: ignore[call-arg]
    ModelNotFound("x", nearest=5)  # type: ignore[arg-type]
    CallTimeout("x", status="404")  # type: ignore[arg-type]


async def misuse_of_awaits(client: FoundryClient) -> None:
    await client.complete("Hello")  # type: ignore[misc]
    async with client:  # type: ignore[attr-defined]
        pass
    async for _ in client.stream_complete("Hello"):  # type: ignore[attr-defined]
        pass


async def misuse(client: FoundryAPIClient, response: Completion, model: Model) -> None:
    await client.complete()  # type: ignore[call-overload]
    await client.complete(5)  # type: ignore[call-overload]
    await client.complete("Hello", max_token=5)  # type: ignore[call-overload]
    await client.complete("Hello", max_tokens=5.5)  # type: ignore[call-overload]
    await client.complete("Hello", temperature="warm")  # type: ignore[call-overload]
    await client.complete("Hello", choice=5)  # type: ignore[call-overload]
    await client.complete("Hello", response_model=Person, validators=5)  # type: ignore[call-overload]
    await client.complete("Hello", stop=5)  # type: ignore[call-overload]
    await client.complete("Hello", "phi-4-mini")  # type: ignore[call-overload]
    await client.chat("Hello")  # type: ignore[arg-type]
    await client.stream_complete("Hello")  # type: ignore[misc]
    async for _ in client.complete("Hello"):  # type: ignore[attr-defined]
        pass
    with client:  # type: ignore[attr-defined]
        pass
    await client.models.load(model)  # type: ignore[arg-type]
    await client.models.unload("demo", 5)  # type: ignore[call-arg]
    await client.models.swap("demo")  # type: ignore[call-arg]
    ModelResidency(60)  # type: ignore[call-arg]
    HealthMonitor(client, 5)  # type: ignore[call-arg]
    AlertCommand(5)  # type: ignore[arg-type]
    FoundryAPIClient(service="cloud")  # type: ignore[arg-type]
    FoundryAPIClient("http://127.0.0.1", "secret")  # type: ignore[call-arg]
    Settings("demo")  # type: ignore[call-arg]
    Message("robot", "Hello")  # type: ignore[arg-type]
    response.content = "other"  # type: ignore[misc]
    response.text  # type: ignore[attr-defined]  # noqa: B018 - the access is the misuse
    len(response.usage)  # type: ignore[arg-type]
    if response.finish_reason == "done":  # type: ignore[comparison-overlap]
        pass
