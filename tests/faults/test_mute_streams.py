"""When a stream of SDK 1.x ends without a byte, a plain request finds out why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.chat import make_chat_request
from foundry_api.types import errors
from foundry_api.types.events import AttemptStarted

from .hostile import (
    ScriptedServer,
    answer_all,
    encode_chunk,
    encode_token,
    hang_up,
    make_error_json,
    make_head,
    make_response,
    make_stream_head,
    on_request,
    send_once,
    stay_silent,
)

if TYPE_CHECKING:
    from .conftest import Caller
    from .hostile import Script

MUTE = send_once(make_head(content_type="text/event-stream"))
"""Send the head of a stream and close, as 1.2.4 does for every failure."""

TOO_LONG = make_error_json(
    "Failed to handle OpenAI completion: This request requires 100020 total tokens (20 input + "
    "100000 output), which exceeds the model's maximum context length of 8192 tokens. Please "
    "reduce 'max_tokens'or shorten your input. (Parameter 'chatRequest')"
)
TOO_MUCH = make_chat_request([{"role": "user", "content": "Hi"}], max_tokens=100_000)


@pytest.fixture(autouse=True)
def _sdk_1(caller: Caller) -> None:
    caller.service_generation = "sdk-1"


def mute_then(plain: Script) -> Script:
    """Closes streams without a byte, and answers plain requests with a script."""
    return on_request(lambda received: bool(received.json.get("stream")), MUTE, plain)


async def test_call_gets_the_error_of_the_plain_request(caller: Caller) -> None:
    async with ScriptedServer(mute_then(send_once(make_response(400, TOO_LONG)))) as server:
        with pytest.raises(errors.ContextOverflow) as caught:
            await caller.make_call(server.base_url, retries=2, request=TOO_MUCH).result()
        assert caught.value.message.startswith("This request requires 100020 total tokens")
        assert not caught.value.message.endswith("(Parameter 'chatRequest')")
        assert (caught.value.prompt_tokens, caught.value.context_length) == (20, 8192)
        assert caught.value.attempts == 1
        assert [bool(each.json.get("stream")) for each in server.requests] == [True, False]
        assert server.requests[1].json["messages"] == server.requests[0].json["messages"]


async def test_caller_error_with_status_500_is_not_retried(caller: Caller) -> None:
    body = json.dumps(
        {"error": {"message": "Invalid OpenAI JSON request: no", "type": "server_error"}}
    )
    async with ScriptedServer(mute_then(send_once(make_response(500, body.encode())))) as server:
        with pytest.raises(errors.InvalidRequest):
            await caller.make_call(server.base_url, retries=2).result()
        assert len(server.requests) == 2


async def test_stream_is_retried_if_the_plain_request_succeeds(caller: Caller) -> None:
    """The stream broke for a reason other than the request."""
    plain = send_once(make_response(200, b'{"choices":[]}'))
    async with ScriptedServer(mute_then(plain), mute_then(plain), answer_all("Hello")) as server:
        answered = await caller.make_call(server.base_url, retries=2).result()
        assert answered.content == "Hello"
        attempts = [each for each in caller.events if isinstance(each, AttemptStarted)]
        assert len(attempts) == 2
        assert isinstance(answered.attempts[0].error, errors.StreamInterrupted)


async def test_crash_during_the_plain_request_is_reported(caller: Caller) -> None:
    async with ScriptedServer(mute_then(hang_up)) as server:
        with pytest.raises(errors.ServiceCrashed):
            await caller.make_call(server.base_url).result()


async def test_plain_request_has_the_timeout_of_the_stream(caller: Caller) -> None:
    async with ScriptedServer(mute_then(stay_silent)) as server:
        with pytest.raises(errors.ReadTimeout):
            await caller.make_call(server.base_url, timeout_s=0.2).result()
        await server.wait_closed(1)


async def test_stream_with_text_is_not_repeated(caller: Caller) -> None:
    cut = send_once(make_stream_head() + encode_chunk(encode_token("Hel")))
    async with ScriptedServer(cut) as server:
        with pytest.raises(errors.StreamInterrupted) as caught:
            await caller.make_call(server.base_url).result()
        assert caught.value.partial == "Hel"
        assert len(server.requests) == 1


async def test_other_generations_get_no_plain_request(caller: Caller) -> None:
    caller.service_generation = "sdk-2.1"
    async with ScriptedServer(MUTE) as server:
        with pytest.raises(errors.StreamInterrupted):
            await caller.make_call(server.base_url).result()
        assert len(server.requests) == 1
