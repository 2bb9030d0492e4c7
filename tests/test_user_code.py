"""An error in a user's callback fails only the call that used it, with a typed error."""

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


class RustPanic(BaseException):
    """A `BaseException` that is no `Exception`, as libraries in Rust raise."""


class ExceptionWithoutText(Exception):
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
    RustPanic,
    ExceptionWithoutText,
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


async def complete(client: FoundryAPIClient) -> str:
    return (await client.complete("Hi")).content


async def stream(client: FoundryAPIClient, **options: Any) -> str:
    async with aclosing(client.stream_complete("Hi", **options)) as chunks:
        return "".join([chunk.content async for chunk in chunks])


@any_failure
async def test_an_error_in_a_parser(client: FoundryAPIClient, failure: type[BaseException]) -> None:
    with pytest.raises(StructuredOutputError, match="the parser failed") as caught:
        await client.complete("Hi", parser=raiser(failure))
    assert caught.value.partial == "One"
    assert type(caught.value.__cause__) is failure
    assert await complete(client) == "Two"


@any_failure
async def test_an_error_in_a_validator(
    client: FoundryAPIClient, failure: type[BaseException]
) -> None:
    with pytest.raises(StructuredOutputError, match="the validator fail failed") as caught:
        await client.complete("Hi", validators=[raiser(failure)])
    assert caught.value.partial == "One"
    assert await complete(client) == "Two"


@pytest.mark.parametrize("argument", ["parser", "chunk_parser"])
@any_failure
async def test_an_error_in_a_parser_of_a_stream(
    client: FoundryAPIClient, failure: type[BaseException], argument: str
) -> None:
    options: dict[str, Any] = {argument: raiser(failure)}
    with pytest.raises(StructuredOutputError, match=f"the {argument} failed") as caught:
        await stream(client, **options)
    assert caught.value.partial == "One"
    assert await complete(client) == "Two"


async def test_an_error_in_a_validator_of_a_response_model() -> None:
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


def test_an_error_in_a_parser_of_the_sync_client() -> None:
    async def service() -> None:
        async with FakeService("One", "Two") as service:
            await asyncio.to_thread(use, service.base_url)

    def use(base_url: str) -> None:
        with FoundryClient(base_url, model="fake") as client:
            with pytest.raises(StructuredOutputError):
                client.complete("Hi", parser=raiser(asyncio.CancelledError))
            assert client.complete("Hi").content == "Two"

    asyncio.run(service())


async def test_ctrl_c_in_a_parser_is_raised_unchanged() -> None:
    """A signal can arrive anywhere."""
    from foundry_api.structured.output_spec import OutputSpec  # noqa: PLC0415

    with pytest.raises(KeyboardInterrupt):
        OutputSpec.from_arguments(parser=raiser(KeyboardInterrupt)).validate("One")


def make_failing_iterator(first: object, failure: type[BaseException]) -> Iterator[Any]:
    class Items:
        def __init__(self) -> None:
            self.remaining: list[Any] = [first]

        def __iter__(self) -> Items:
            return self

        def __next__(self) -> Any:
            if self.remaining:
                return self.remaining.pop()
            raise failure("oops")

    return Items()


@pytest.mark.parametrize(
    "failure", [failure for failure in FAILURES if failure is not StopIteration]
)
@pytest.mark.parametrize("field", ["messages", "stop", "model", "texts", "input"])
async def test_an_error_while_reading_an_argument(
    client: FoundryAPIClient, field: str, failure: type[BaseException]
) -> None:
    turn = {"role": "user", "content": "Hi"}
    items: Any = make_failing_iterator(turn if field in {"messages", "input"} else "fake", failure)
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
async def test_an_error_in_a_hook(
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
            await stream(client)
        with pytest.raises(HookFailed):
            await client.models.list()


@any_failure
async def test_an_error_in_a_listener_does_not_fail_the_call(
    client: FoundryAPIClient, failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    client.events.subscribe(raiser(failure))
    assert await complete(client) == "One"
    assert await stream(client) == "Two"
    assert "a listener failed" in caplog.text


# --- tools ------------------------------------------------------------------------------------


async def run_tools(*tools: Callable[..., Any], **options: Any) -> ToolRun:
    calls = ToolCalls([(tool.__name__, {}) for tool in tools])
    async with (
        FakeService(calls, "Done") as service,
        FoundryAPIClient(service.base_url, model="fake", max_retries=0) as client,
        asyncio.timeout(10),
    ):
        return await client.run_tools("Hi", tools, **options)


def succeed() -> str:
    return "success"


def make_failing_tool(failure: type[BaseException], *, is_async: bool) -> Callable[..., Any]:
    def broken() -> str:
        raise failure("oops")

    async def broken_async() -> str:
        raise failure("oops")

    return broken_async if is_async else broken


@pytest.mark.parametrize("is_async", [False, True])
@any_failure
async def test_an_error_in_a_tool_is_sent_to_the_model(
    failure: type[BaseException], *, is_async: bool
) -> None:
    run = await run_tools(make_failing_tool(failure, is_async=is_async), succeed)
    assert run.content == "Done"
    broken, other = run.calls
    assert "failed" in broken.content
    assert broken.error is not None
    assert other.value == "success"
    assert broken.duration_s < 5


async def test_a_tool_that_cancels_itself_is_an_error_for_the_model() -> None:
    async def cancel_itself() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return "never"

    run = await run_tools(cancel_itself, succeed)
    assert run.content == "Done"
    assert "cancelled itself" in run.calls[0].content
    assert run.calls[1].value == "success"


async def test_cancelling_a_tool_run_ends_it() -> None:
    running = asyncio.Event()

    async def slow() -> str:
        running.set()
        await asyncio.Event().wait()
        return "never"

    task = asyncio.create_task(run_tools(slow))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def count() -> Any:
    yield 1
    yield 2


async def count_async() -> Any:
    yield 1
    yield 2


def fail_after_one() -> Any:
    yield 1
    raise KeyError("oops")


def count_forever() -> Any:
    while True:
        yield 0


async def count_forever_async() -> Any:
    while True:
        yield 0


def return_awaitable() -> Any:
    return asyncio.sleep(0, "awaited")


async def test_generators_and_awaitables_of_tools() -> None:
    run = await run_tools(
        count, count_async, return_awaitable, fail_after_one, count_forever, count_forever_async
    )
    contents = [call.content for call in run.calls]
    assert contents[:3] == ["[1,2]", "[1,2]", "awaited"]
    assert contents[3].startswith("Error: fail_after_one failed: KeyError")
    assert all("more than 10000 values" in content for content in contents[4:])


async def test_a_result_without_a_text_is_an_error_of_the_tool() -> None:
    class ValueWithoutText:
        def __str__(self) -> str:
            raise RustPanic

        __repr__ = __str__

    def return_value() -> Any:
        return ValueWithoutText()

    run = await run_tools(return_value)
    assert run.calls[0].content == "Error: return_value failed: RustPanic"


async def test_an_error_in_a_tool_can_be_raised() -> None:
    from foundry_api import ToolFailed  # noqa: PLC0415

    with pytest.raises(ToolFailed) as caught:
        await run_tools(make_failing_tool(RustPanic, is_async=False), on_error="raise")
    assert type(caught.value.__cause__) is RustPanic


def test_an_error_in_a_tool_of_the_sync_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def service() -> str:
        async with FakeService(ToolCalls([("broken", {})]), "Done") as service:
            return await asyncio.to_thread(use, service.base_url)

    def use(base_url: str) -> str:
        with FoundryClient(base_url, model="fake") as client:
            tool = functools.wraps(succeed)(make_failing_tool(StopIteration, is_async=False))
            tool.__name__ = "broken"
            return client.run_tools("Hi", [tool]).calls[0].content

    assert asyncio.run(service()) == "Error: broken failed: StopIteration: oops"


@pytest.mark.parametrize("argument", ["parser", "validators"])
@any_failure
async def test_an_error_in_a_batch_fails_one_request(
    client: FoundryAPIClient, failure: type[BaseException], argument: str
) -> None:
    def fail_on_two(text: str) -> str:
        if text == "Two":
            raise failure("oops")
        return text

    options: dict[str, Any] = {argument: fail_on_two if argument == "parser" else [fail_on_two]}
    results = [result async for result in client.batch(["Hi"] * 3, **options, dedupe=False)]
    assert sorted(result.unwrap().content for result in results if result.error is None) == [
        "One",
        "Three",
    ]
    [error] = [result.error for result in results if result.error is not None]
    assert isinstance(error, StructuredOutputError)
    assert error.partial == "Two"


@any_failure
async def test_an_error_in_a_source_of_requests_is_raised(
    client: FoundryAPIClient, failure: type[BaseException]
) -> None:
    async def broken() -> AsyncIterator[str]:
        yield "Hi"
        raise failure("oops")

    class Broken:
        """Not a generator, which turns StopIteration into another exception."""

        def __init__(self) -> None:
            self.remaining = 1

        def __aiter__(self) -> Broken:
            return self

        async def __anext__(self) -> str:
            self.remaining -= 1
            if self.remaining < 0:
                raise failure("oops")
            return "Hi"

    for source in (broken(), Broken()):
        answers: list[str] = []
        if failure is StopAsyncIteration and isinstance(source, Broken):
            continue  # the regular end of an async iterator
        with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012 - the user's or ours
            async for result in client.batch(source):
                answers.append(result.unwrap().content)  # noqa: PERF401 - keeps the answers before the error
        assert not isinstance(caught.value, asyncio.CancelledError | GeneratorExit)
        assert len(answers) == 1


@any_failure
async def test_an_unreadable_request_fails_alone(
    client: FoundryAPIClient, failure: type[BaseException]
) -> None:
    class UnreadableList(list[Any]):
        def __len__(self) -> int:
            raise failure("oops")

        def __iter__(self) -> Any:
            raise failure("oops")

    requests: list[Any] = [
        "Hi",
        UnreadableList(),
        BatchRequest(custom_id="a", body=cast("Any", 5)),
        "Hi",
    ]
    for dedupe in (False, True):
        results = [result async for result in client.batch(requests, ordered=True, dedupe=dedupe)]
        assert [result.error is None for result in results] == [True, False, False, True]
        assert isinstance(results[1].error, InvalidRequest)
