"""Which failures are retried, how often and how soon, and which never are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from foundry_api.core.chat import make_chat_request
from foundry_api.types import errors

from .conftest import MODEL
from .hostile import (
    ROLE,
    ScriptedServer,
    answer_all,
    break_off,
    encode_event,
    encode_events,
    encode_token,
    get_unused_url,
    hang_up,
    make_error_json,
    make_response,
    send_once,
    send_stream,
)
from .table import FAULTS, Fault

if TYPE_CHECKING:
    from .conftest import Caller
    from .hostile import Script

OVERFLOW = (
    "Invalid request: search_options.cc:108 int fl::ValidateGeneratorRequestBudget(int64_t, int, "
    "int) request requires {total} total tokens ({prompt} input + {output} output), which exceeds "
    "the model's maximum context length of 2000 tokens"
)
NOT_LOADED = make_response(
    400, make_error_json("Model not loaded: Model 'tiny:1' must be loaded first")
)

TEMPORARY = {name: fault for name, fault in FAULTS.items() if fault.error and fault.attempts > 1}


@pytest.mark.parametrize("fault", TEMPORARY.values(), ids=TEMPORARY)
async def test_temporary_failure_is_retried(caller: Caller, fault: Fault) -> None:
    """A temporary failure is retried just as a permanent one in the table."""
    async with ScriptedServer(fault.script, fault.script, answer_all("Hello")) as server:
        completion = await caller.make_call(server.base_url, retries=3).result()
    assert completion.content == "Hello"
    causes = [type(attempt.error) for attempt in completion.attempts]
    assert causes == [fault.error, fault.error, type(None)]
    asked_s = 1.0 if fault is FAULTS["503 with Retry-After"] else 0.0
    assert caller.slept == [asked_s + 0.1, asked_s + 0.2]
    assert len(server.requests) == 3


async def test_model_that_stays_unloaded_is_an_error(caller: Caller) -> None:
    async with ScriptedServer(send_once(NOT_LOADED)) as server:
        with pytest.raises(errors.ModelNotLoaded, match="after 3 attempts"):
            await caller.make_call(server.base_url, retries=2).result()


async def test_refused_connection_is_retried(caller: Caller) -> None:
    base_url = await get_unused_url()
    with pytest.raises(errors.ServiceNotRunning) as caught:
        await caller.make_call(base_url, retries=2).result()
    assert caught.value.attempts == 3
    assert caller.invalidations == 3


@pytest.mark.parametrize(
    "ending",
    [
        b"",
        encode_event(error={"message": "boom", "type": "server_error"}),
        encode_event(error={"message": OVERFLOW.format(total=9, prompt=1, output=8), "type": "x"}),
    ],
    ids=["cut", "server error", "context overflow"],
)
async def test_nothing_is_retried_after_the_first_token(caller: Caller, ending: bytes) -> None:
    async with ScriptedServer(
        send_stream(ROLE, encode_token("Hi") + ending), answer_all("Hello")
    ) as server:
        with pytest.raises(errors.FoundryError) as caught:
            await caller.make_call(server.base_url, retries=3).result()
    assert caught.value.attempts == 1
    assert len(server.requests) == 1


async def test_no_retries_means_one_attempt(caller: Caller) -> None:
    async with ScriptedServer(break_off, answer_all("Hello")) as server:
        with pytest.raises(errors.ServiceCrashed):
            await caller.make_call(server.base_url, retries=0).result()
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [hang_up, break_off, send_stream(ROLE)])
async def test_stopped_service_is_reported_lost(caller: Caller, fault: Script) -> None:
    async with ScriptedServer(fault, answer_all("Hello")) as server:
        await caller.make_call(server.base_url, retries=1).result()
    assert caller.invalidations == 1


async def test_error_response_does_not_report_a_loss(caller: Caller) -> None:
    async with ScriptedServer(send_once(make_response(500, b""))) as server:
        with pytest.raises(errors.ServerError):
            await caller.make_call(server.base_url).result()
    assert caller.invalidations == 0


async def test_unloaded_model_is_loaded_again(caller: Caller) -> None:
    async with ScriptedServer(send_once(NOT_LOADED), answer_all("Hello")) as server:
        await caller.make_call(server.base_url, retries=1).result()
    assert caller.loads == [MODEL]


async def test_default_output_limit_is_reduced_to_fit(
    caller: Caller,
) -> None:
    """The service adds its default of 2048 output tokens and then refuses the sum."""
    refusal = OVERFLOW.format(total=2068, prompt=20, output=2048)
    async with ScriptedServer(
        send_once(make_response(400, make_error_json(refusal), closes=True)), answer_all("Hello")
    ) as server:
        completion = await caller.make_call(server.base_url).result()
    assert completion.content == "Hello"
    assert "max_tokens" not in server.requests[0].json
    assert server.requests[1].json["max_tokens"] == 1980
    assert type(completion.attempts[0].error) is errors.ContextOverflow
    assert caller.slept == []


async def test_second_context_overflow_is_an_error(caller: Caller) -> None:
    refusal = OVERFLOW.format(total=2068, prompt=20, output=2048)
    response = make_response(400, make_error_json(refusal), closes=True)
    async with ScriptedServer(send_once(response)) as server:
        with pytest.raises(errors.ContextOverflow) as caught:
            await caller.make_call(server.base_url, retries=3).result()
    assert caught.value.attempts == 2
    assert "2048" not in str(caught.value)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "bound",
    [
        {"max_tokens": 9000},
        {"extra": {"max_tokens": 9000}},
        {"extra": {"max_completion_tokens": 9000}},
    ],
)
async def test_limit_of_the_caller_is_never_changed(caller: Caller, bound: dict[str, int]) -> None:
    refusal = OVERFLOW.format(total=9020, prompt=20, output=9000)
    request = make_chat_request([{"role": "user", "content": "Hi"}], **bound)
    async with ScriptedServer(send_once(make_response(400, make_error_json(refusal)))) as server:
        with pytest.raises(errors.ContextOverflow) as caught:
            await caller.make_call(server.base_url, request=request, retries=3).result()
    error = caught.value
    assert (error.prompt_tokens, error.max_tokens, error.context_length) == (20, 9000, 2000)
    assert len(server.requests) == 1


async def test_prompt_that_fills_the_context_is_not_retried(caller: Caller) -> None:
    refusal = OVERFLOW.format(total=4048, prompt=2000, output=2048)
    async with ScriptedServer(send_once(make_response(400, make_error_json(refusal)))) as server:
        with pytest.raises(errors.ContextOverflow) as caught:
            await caller.make_call(server.base_url, retries=3).result()
    assert len(server.requests) == 1
    error = caught.value
    assert (error.field, error.prompt_tokens, error.max_tokens) == ("prompt", 2000, None)
    assert "2048" not in str(error)
    assert "max_tokens" not in str(error)


async def test_connection_is_reused(caller: Caller) -> None:
    async with ScriptedServer(answer_all("Hello")) as server:
        for _ in range(3):
            await caller.make_call(server.base_url).result()
    assert [request.connection for request in server.requests] == [0, 0, 0]


async def test_unfinished_connection_is_not_reused(caller: Caller) -> None:
    half = send_stream(*encode_events("Hello"), stay=True)
    async with ScriptedServer(half, answer_all("again")) as server:
        await caller.make_call(server.base_url).result()
        await server.wait_closed()
        completion = await caller.make_call(server.base_url).result()
    assert completion.content == "again"
    assert [request.connection for request in server.requests] == [0, 1]
