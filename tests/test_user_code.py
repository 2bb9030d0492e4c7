"""Whatever the user's own code raises is the failure of the one call that it was called for."""

from __future__ import annotations

import asyncio
import functools
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import pydantic
import pytest

from foundry_api import (
    BatchRequest,
    FoundryAPIClient,
    FoundryClient,
    HookFailed,
    InvalidRequest,
    StructuredOutputError,
    ToolRun,
)
from foundry_api.testing import FakeService, ToolCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


class Panic(BaseException):
    """What a library in Rust raises: no `Exception`."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("an exception without a text")


FAILURES: list[type[BaseException]] = [
    KeyError,
    ZeroDivisionError,
    RuntimeError,
    StopIteration,
    StopAsyncIteration,
    TimeoutError,
    GeneratorExit,
    asyncio.CancelledError,
    Panic,
    Mute,
]

any_failure = pytest.mark.parametrize("failure", FAILURES)


def raiser(failure: type[BaseException]) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise failure("oops")

    return fail


def async_raiser(failure: type[BaseException]) -> Callable[..., Any]:
    async def fail(*_: Any, **__: Any) -> Any:
        raise failure("oops")

    return fail


@pytest.fixture
async def client() -> AsyncIterator[FoundryAPIClient]:
    async with (
        FakeService("One", "Two", "Three") as service,
        FoundryAPIClient(service.base_url, model="fake", max_retries=0) as client,
    ):
        yield client


async def text(client: FoundryAPIClient) -> str:
    return (await client.complete("Hi")).content


async def streamed(client: FoundryAPIClient, **options: Any) -> str:
    async with aclosing(client.stream_complete("Hi", **options)) as chunks:
        return "".join([chunk.content async for chunk in chunks])


@any_failure
async def test_a_parser_that_fails(client: FoundryAPIClient, failure: type[BaseException]) -> None:
    with pytest.raises(StructuredOutputError, match="the parser failed") as caught:
        await client.complete("Hi", parser=raiser(failure))
    assert caught.value.partial == "One"
    assert type(caught.value.__cause__) is failure
    assert await text(client) == "Two"


@any_failure
async def test_a_validator_that_fails(
    client: FoundryAPIClient, failure: type[BaseException]
) -> None:
    with pytest.raises(StructuredOutputError, match="the validator fail failed") as caught:
        await client.complete("Hi", validators=[raiser(failure)])
    assert caught.value.partial == "One"
    assert await text(client) == "Two"


@pytest.mark.parametrize("argument", ["parser", "chunk_parser"])
@any_failure
async def test_a_parser_that_fails_in_a_stream(
    client: FoundryAPIClient, failure: type[BaseException], argument: str
) -> None:
    options: dict[str, Any] = {argument: raiser(failure)}
    with pytest.raises(StructuredOutputError, match=f"the {argument} failed") as caught:
        await streamed(client, **options)
    assert caught.value.partial == "One"
    assert await text(client) == "Two"


async def test_a_validator_of_a_response_model_that_fails() -> None:
    class Person(pydantic.BaseModel):
        name: str

        @pydantic.field_validator("name")
        @classmethod
        def known(cls, name: str) -> str:
            return {"Ada": "Lovelace"}[name]

    async with (
        FakeService('{"name": "Bob"}') as service,
        FoundryAPIClient(service.base_url, model="fake") as client,
    ):
        with pytest.raises(StructuredOutputError, match="response_model failed: KeyError") as error:
            await client.complete("Hi", response_model=Person)
    assert error.value.partial == '{"name": "Bob"}'


def test_a_parser_that_fails_in_the_blocking_client() -> None:
    async def service() -> None:
        async with FakeService("One", "Two") as service:
            await asyncio.to_thread(use, service.base_url)

    def use(base_url: str) -> None:
        with FoundryClient(base_url, model="fake") as client:
            with pytest.raises(StructuredOutputError):
                client.complete("Hi", parser=raiser(asyncio.CancelledError))
            assert client.complete("Hi").content == "Two"

    asyncio.run(service())


async def test_ctrl_c_in_a_parser_is_no_failure_of_it() -> None:
    """A signal may come anywhere."""
    from foundry_api.structured.output_spec import OutputSpec  # noqa: PLC0415

    with pytest.raises(KeyboardInterrupt):
        OutputSpec.from_arguments(parser=raiser(KeyboardInterrupt)).validate("One")


def breaking_off(first: object, failure: type[BaseException]) -> Iterator[Any]:
    class Items:
        def __init__(self) -> None:
            self.left: list[Any] = [first]

        def __iter__(self) -> Items:
            return self

        def __next__(self) -> Any:
            if self.left:
                return self.left.pop()
            raise failure("oops")

    return Items()


@pytest.mark.parametrize("failure", [one for one in FAILURES if one is not StopIteration])
@pytest.mark.parametrize("field", ["messages", "stop", "model", "texts", "input"])
async def test_an_argument_that_fails_while_it_is_read(
    client: FoundryAPIClient, field: str, failure: type[BaseException]
) -> None:
    turn = {"role": "user", "content": "Hi"}
    items: Any = breaking_off(turn if field in {"messages", "input"} else "fake", failure)
    calls: dict[str, Callable[[], Any]] = {
        "messages": lambda: client.chat(items),
        "stop": lambda: client.complete("Hi", stop=items),
        "model": lambda: client.complete("Hi", model=items),
        "texts": lambda: client.embed(items, model="fake"),
        "input": lambda: client.responses.create(items),
    }
    with pytest.raises(InvalidRequest, match=f"{field} cannot be read: {failure.__name__}"):
        await calls[field]()


@pytest.mark.parametrize("make", [raiser, async_raiser])
@pytest.mark.parametrize("argument", ["request_hooks", "response_hooks", "auth", "api_key"])
@any_failure
async def test_a_hook_that_fails(
    failure: type[BaseException], argument: str, make: Callable[..., Any]
) -> None:
    hook = make(failure)
    options: dict[str, Any] = {argument: [hook] if argument.endswith("hooks") else hook}
    async with (
        FakeService("One") as service,
        FoundryAPIClient(service.base_url, model="fake", max_retries=0, **options) as client,
    ):
        with pytest.raises(HookFailed):
            await client.complete("Hi")
        with pytest.raises(HookFailed):
            await streamed(client)
        with pytest.raises(HookFailed):
            await client.models.list()


@any_failure
async def test_a_listener_that_fails_breaks_no_call(
    client: FoundryAPIClient, failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    client.events.subscribe(raiser(failure))
    assert await text(client) == "One"
    assert await streamed(client) == "Two"
    assert "a listener failed" in caplog.text


# --- tools ------------------------------------------------------------------------------------


async def run_of(*tools: Callable[..., Any], **options: Any) -> ToolRun:
    calls = ToolCalls([(tool.__name__, {}) for tool in tools])
    async with (
        FakeService(calls, "Done") as service,
        FoundryAPIClient(service.base_url, model="fake", max_retries=0) as client,
        asyncio.timeout(10),
    ):
        return await client.run_tools("Hi", tools, **options)


def fine() -> str:
    return "fine"


def failing(failure: type[BaseException], *, is_async: bool) -> Callable[..., Any]:
    def broken() -> str:
        raise failure("oops")

    async def broken_later() -> str:
        raise failure("oops")

    return broken_later if is_async else broken


@pytest.mark.parametrize("is_async", [False, True])
@any_failure
async def test_a_tool_that_fails_is_told_to_the_model(
    failure: type[BaseException], *, is_async: bool
) -> None:
    run = await run_of(failing(failure, is_async=is_async), fine)
    assert run.content == "Done"
    broken, other = run.calls
    assert "failed" in broken.content
    assert broken.error is not None
    assert other.value == "fine"
    assert broken.duration_s < 5


async def test_a_tool_that_cancels_its_own_task_is_told_to_the_model() -> None:
    async def suicide() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return "never"

    run = await run_of(suicide, fine)
    assert run.content == "Done"
    assert "cancelled itself" in run.calls[0].content
    assert run.calls[1].value == "fine"


async def test_a_caller_who_cancels_a_tool_run_ends_it() -> None:
    running = asyncio.Event()

    async def slow() -> str:
        running.set()
        await asyncio.Event().wait()
        return "never"

    task = asyncio.create_task(run_of(slow))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def counting() -> Any:
    yield 1
    yield 2


async def counting_later() -> Any:
    yield 1
    yield 2


def breaks_off() -> Any:
    yield 1
    raise KeyError("oops")


def endless() -> Any:
    while True:
        yield 0


async def endless_later() -> Any:
    while True:
        yield 0


def promises() -> Any:
    return asyncio.sleep(0, "kept")


async def test_a_tool_that_gives_values_one_after_the_other() -> None:
    run = await run_of(counting, counting_later, promises, breaks_off, endless, endless_later)
    told = [call.content for call in run.calls]
    assert told[:3] == ["[1,2]", "[1,2]", "kept"]
    assert told[3].startswith("Error: breaks_off failed: KeyError")
    assert all("more than 10000 values" in content for content in told[4:])


async def test_a_result_that_cannot_be_told_is_a_failure_of_the_tool() -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise Panic

        __repr__ = __str__

    def made() -> Any:
        return Unspeakable()

    run = await run_of(made)
    assert run.calls[0].content == "Error: made failed: Panic"


async def test_a_failure_of_a_tool_can_be_raised() -> None:
    from foundry_api import ToolFailed  # noqa: PLC0415

    with pytest.raises(ToolFailed) as caught:
        await run_of(failing(Panic, is_async=False), on_error="raise")
    assert type(caught.value.__cause__) is Panic


def test_the_tools_of_the_blocking_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def service() -> str:
        async with FakeService(ToolCalls([("broken", {})]), "Done") as service:
            return await asyncio.to_thread(use, service.base_url)

    def use(base_url: str) -> str:
        with FoundryClient(base_url, model="fake") as client:
            tool = functools.wraps(fine)(failing(StopIteration, is_async=False))
            tool.__name__ = "broken"
            return client.run_tools("Hi", [tool]).calls[0].content

    assert asyncio.run(service()) == "Error: broken failed: StopIteration: oops"


@pytest.mark.parametrize("argument", ["parser", "validators"])
@any_failure
async def test_code_that_fails_in_a_batch_fails_its_own_requests(
    client: FoundryAPIClient, failure: type[BaseException], argument: str
) -> None:
    def odd(text: str) -> str:
        if text == "Two":
            raise failure("oops")
        return text

    options: dict[str, Any] = {argument: odd if argument == "parser" else [odd]}
    results = [each async for each in client.batch(["Hi"] * 3, **options, dedupe=False)]
    assert sorted(each.unwrap().content for each in results if each.error is None) == [
        "One",
        "Three",
    ]
    [failed] = [each.error for each in results if each.error is not None]
    assert isinstance(failed, StructuredOutputError)
    assert failed.partial == "Two"


@any_failure
async def test_a_source_of_requests_that_fails_is_not_at_its_end(
    client: FoundryAPIClient, failure: type[BaseException]
) -> None:
    async def broken() -> AsyncIterator[str]:
        yield "Hi"
        raise failure("oops")

    class Broken:
        """Not a generator, which turns StopIteration into another exception."""

        def __init__(self) -> None:
            self.left = 1

        def __aiter__(self) -> Broken:
            return self

        async def __anext__(self) -> str:
            self.left -= 1
            if self.left < 0:
                raise failure("oops")
            return "Hi"

    for source in (broken(), Broken()):
        told: list[str] = []
        if failure is StopAsyncIteration and isinstance(source, Broken):
            continue  # that is how it says that it is at its end
        with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012 - its own, or ours
            async for each in client.batch(source):
                told.append(each.unwrap().content)  # noqa: PERF401 - keeps what came before
        assert not isinstance(caught.value, asyncio.CancelledError | GeneratorExit)
        assert len(told) == 1


@any_failure
async def test_a_request_that_cannot_be_read_fails_alone(
    client: FoundryAPIClient, failure: type[BaseException]
) -> None:
    class Odd(list[Any]):
        def __len__(self) -> int:
            raise failure("oops")

        def __iter__(self) -> Any:
            raise failure("oops")

    requests: list[Any] = ["Hi", Odd(), BatchRequest(custom_id="a", body=cast("Any", 5)), "Hi"]
    for dedupe in (False, True):
        results = [each async for each in client.batch(requests, ordered=True, dedupe=dedupe)]
        assert [each.error is None for each in results] == [True, False, False, True]
        assert isinstance(results[1].error, InvalidRequest)
