"""What a call measures, collects and reports, with a scripted service and clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from foundry_api.core.call import CallRequest
from foundry_api.core.chat import make_chat_call, make_chat_request
from foundry_api.core.connection import Connection
from foundry_api.engine.endpoint import Endpoint
from foundry_api.resilience.deadline import NEVER
from foundry_api.types import errors
from foundry_api.types.events import (
    AttemptStarted,
    CallEnded,
    CallStarted,
    FirstToken,
    RetryScheduled,
)
from foundry_api.types.messages import Usage
from foundry_api.types.models import Model
from support.factories import make_call_context, make_service_handle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foundry_api.core.chat import ChatCall
    from foundry_api.types.events import Event
    from foundry_api.wire.transport import Request

MODEL = Model(id="tiny:1", alias="tiny", catalog="local", cached=True)
ENDPOINT = Endpoint(base_url="http://service", service_generation="sdk-2.1", origin="explicit")
ORDER = CallRequest(("tiny",), make_chat_request([{"role": "user", "content": "Hi"}]), 5.0, NEVER)
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def token(text: str) -> bytes:
    return f'data: {{"choices":[{{"delta":{{"content":"{text}"}}}}]}}\n\n'.encode()


def usage(prompt: int, completion: int) -> bytes:
    return (
        f'data: {{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion},'
        f'"total_tokens":{prompt + completion}}}}}\n\n'
    ).encode()


@dataclass
class World:
    """A scripted transport, service and clock.

    Attributes:
        answers: Per attempt the error that it fails with, or pairs of seconds and bytes.
        now: What the clock shows.
        closed: Responses that were closed.
        has_fast_end: Whether the end of a body arrives with its last block.
    """

    answers: list[errors.FoundryError | Sequence[tuple[float, bytes]]]
    now: float = 0.0
    closed: int = 0
    events: list[Event] = field(default_factory=list)
    connects: int = 0
    losses: int = 0
    connect_error: errors.FoundryError | None = None
    has_fast_end: bool = False

    def __post_init__(self) -> None:
        self.connection = Connection(ENDPOINT, self, {}, None)
        self.connection._local = (MODEL,)
        self.connection.models.loaded.add(MODEL.id)

    def call(self, *, retries: int = 0, order: CallRequest = ORDER) -> ChatCall:
        service = make_service_handle("http://service", self.connect, self.lost)
        tools = make_call_context(
            service,
            retries=retries,
            monotonic=lambda: self.now,
            sleep=self.sleep,
            listener=self.events.append,
        )
        return make_chat_call(tools, order)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def connect(self) -> Connection:
        self.connects += 1
        self.now += 1.0
        if self.connect_error:
            raise self.connect_error
        return self.connection

    def lost(self) -> None:
        self.losses += 1

    async def send(self, _request: Request) -> Answer:
        answer = self.answers.pop(0)
        if isinstance(answer, errors.FoundryError):
            self.now += 0.25
            raise answer
        return Answer(self, answer)

    async def aclose(self) -> None:
        raise NotImplementedError


@dataclass
class Answer:
    world: World
    script: Sequence[tuple[float, bytes]]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    ended: bool = False

    def __post_init__(self) -> None:
        self.left = list(self.script)

    async def read(self) -> bytes:
        if not self.left:
            return b""
        seconds, block = self.left.pop(0)
        self.world.now += seconds
        self.ended = self.world.has_fast_end and not self.left
        return block

    def close(self) -> None:
        self.world.closed += 1


WHOLE = [(2.0, token("Hel")), (0.5, token("lo")), (0.5, STOP), (0.0, usage(7, 11)), (0.0, DONE)]


async def test_completion_has_the_complete_answer() -> None:
    world = World([WHOLE])
    completion = await world.call().result()
    assert completion.content == "Hello"
    assert completion.model == "tiny:1"
    assert (completion.service, completion.service_generation) == ("http://service", "sdk-2.1")
    assert completion.finish_reason == "stop"
    assert completion.usage == Usage(prompt_tokens=7, completion_tokens=11, total_tokens=18)
    assert completion.cached is False
    assert world.closed == 1


async def test_raw_events_are_kept_one_per_line() -> None:
    completion = await World([WHOLE]).call().result()
    assert b"\n".join(completion.raw).count(b'{"choices"') == 4
    assert (
        b"\n".join(completion.raw).splitlines()[0] == b'{"choices":[{"delta":{"content":"Hel"}}]}'
    )


async def test_timings_of_a_call() -> None:
    """Connecting takes 1 s, the first token 2 s, and the rest 1 s."""
    timings = (await World([WHOLE]).call().result()).timings
    assert timings.time_to_first_token_s == 2.0
    assert timings.total_s == 4.0
    assert timings.tokens_per_second == 10.0


async def test_failed_attempt_counts_only_in_the_total_time() -> None:
    world = World([errors.ServiceCrashed("gone"), WHOLE])
    completion = await world.call(retries=1).result()
    assert completion.timings.time_to_first_token_s == pytest.approx(2.0)
    assert completion.timings.total_s == pytest.approx(1.0 + 0.25 + 0.1 + 4.0)
    first, last = completion.attempts
    assert [first.duration_s, last.duration_s] == pytest.approx([0.25, 3.0])
    assert type(first.error) is errors.ServiceCrashed
    assert last.error is None


async def test_answer_without_text_has_no_first_token() -> None:
    script = [(1.0, STOP + usage(7, 1) + DONE)]
    timings = (await World([script]).call().result()).timings
    assert timings.time_to_first_token_s is None
    assert timings.tokens_per_second is None


@pytest.mark.parametrize(
    "script",
    [
        [(1.0, token("Hi")), (1.0, STOP + usage(7, 1) + DONE)],
        [(1.0, token("Hi")), (1.0, STOP + DONE)],
        [(1.0, token("Hi") + STOP + usage(7, 5) + DONE)],
    ],
    ids=["one token", "not counted", "no time between"],
)
async def test_rate_that_cannot_be_measured_is_none(script: list[tuple[float, bytes]]) -> None:
    timings = (await World([script]).call().result()).timings
    assert timings.tokens_per_second is None
    assert timings.time_to_first_token_s == 1.0


async def test_clock_may_start_at_any_number() -> None:
    world = World([WHOLE], now=-3.0)
    timings = (await world.call().result()).timings
    assert (timings.time_to_first_token_s, timings.total_s) == (2.0, 4.0)


async def test_only_the_last_chunk_has_the_finish_reason() -> None:
    world = World([errors.ServerError("boom"), WHOLE])
    *texts, last = [chunk async for chunk in world.call(retries=1).chunks()]
    assert [chunk.content for chunk in texts] == ["Hel", "lo"]
    assert all(chunk.finish_reason is None and chunk.attempts == () for chunk in texts)
    assert (last.content, last.finish_reason) == ("", "stop")
    assert last.usage == Usage(prompt_tokens=7, completion_tokens=11, total_tokens=18)
    assert last.timings is not None
    assert len(last.attempts) == 2


async def test_chunks_and_completion_agree() -> None:
    last = [chunk async for chunk in World([WHOLE]).call().chunks()][-1]
    completion = await World([WHOLE]).call().result()
    assert (last.model, last.finish_reason, last.usage, last.timings, last.attempts) == (
        completion.model,
        completion.finish_reason,
        completion.usage,
        completion.timings,
        completion.attempts,
    )


async def test_each_attempt_connects_again() -> None:
    world = World([errors.ServiceCrashed("gone"), errors.ServiceNotRunning("gone"), WHOLE])
    await world.call(retries=2).result()
    assert world.connects == 3
    assert world.losses == 2


async def test_service_that_is_not_found_is_searched_again() -> None:
    world = World([])
    world.connect_error = errors.ServiceNotRunning("nowhere")
    with pytest.raises(errors.ServiceNotRunning) as caught:
        await world.call(retries=2).result()
    assert caught.value.attempts == 3
    assert caught.value.model == "tiny"
    assert world.connects == 3


async def test_unknown_model_is_searched_once() -> None:
    world = World([])
    world.connect_error = errors.ModelNotFound("no such model")
    with pytest.raises(errors.ModelNotFound):
        await world.call(retries=2).result()
    assert world.connects == 1


async def test_state_that_the_engine_disproves_is_dropped() -> None:
    world = World([errors.ModelNotFound("no such model")])
    with pytest.raises(errors.ModelNotFound):
        await world.call(retries=2).result()
    assert MODEL.id not in world.connection.models.loaded


async def test_pause_between_attempts_grows() -> None:
    world = World([errors.ServerError("boom") for _ in range(4)])
    with pytest.raises(errors.ServerError, match="after 4 attempts"):
        await world.call(retries=3).result()
    waits = world.now - 1.0 - 4 * 0.25
    assert waits == pytest.approx(0.1 + 0.2 + 0.4)


async def test_response_is_closed_when_the_caller_leaves() -> None:
    world = World([WHOLE])
    chunks = world.call().chunks()
    assert (await anext(chunks)).content == "Hel"
    await chunks.aclose()
    assert world.closed == 1


async def test_response_is_closed_when_its_stream_is_invalid() -> None:
    world = World([[(0.0, b"data: garbage\n\n")]])
    with pytest.raises(errors.ProtocolError):
        await world.call().result()
    assert world.closed == 1


async def test_concurrent_calls_are_independent() -> None:
    worlds = [World([WHOLE]) for _ in range(50)]
    completions = await asyncio.gather(*(world.call().result() for world in worlds))
    assert {completion.content for completion in completions} == {"Hello"}


async def test_events_report_attempts_and_answers_without_the_prompt() -> None:
    world = World([errors.ServerError("boom"), WHOLE])
    request = make_chat_request([{"role": "user", "content": "my secret"}])
    await world.call(retries=1, order=CallRequest(("tiny",), request, 5.0, NEVER)).result()
    texts = [repr(event) for event in world.events]
    assert [type(event) for event in world.events] == [
        CallStarted,
        AttemptStarted,
        RetryScheduled,
        AttemptStarted,
        FirstToken,
        CallEnded,
    ]
    assert "my secret" not in str(texts)
    assert "Hel" not in str(texts)


async def test_blocks_have_the_chunks_that_arrived_together() -> None:
    script = [(1.0, token("Hel") + token("lo")), (1.0, token("!") + STOP + usage(3, 3) + DONE)]
    world = World([script, script])
    blocks = [block async for block in world.call().blocks()]
    assert [[chunk.content for chunk in block] for block in blocks] == [["Hel", "lo"], ["!"], [""]]
    *_, (last,) = blocks
    assert (last.finish_reason, last.usage) == ("stop", Usage(3, 3, 6))
    chunks = [chunk async for chunk in world.call().chunks()]
    assert [chunk.content for chunk in chunks] == ["Hel", "lo", "!", ""]


async def test_the_final_chunk_comes_with_the_last_block_if_the_body_has_ended() -> None:
    script = [(1.0, token("Hel")), (1.0, token("lo") + STOP + usage(3, 2) + DONE)]
    world = World([script], has_fast_end=True)
    blocks = [block async for block in world.call().blocks()]
    assert [[chunk.content for chunk in block] for block in blocks] == [["Hel"], ["lo", ""]]
    last = blocks[-1][-1]
    assert (last.finish_reason, last.usage) == ("stop", Usage(3, 2, 5))
    assert world.closed == 1
    assert [type(event) for event in world.events][-1] is CallEnded


async def test_an_error_at_the_end_comes_after_the_last_block() -> None:
    broken = b'data: {"error":{"message":"boom"}}\n\n'
    world = World([[(1.0, token("Hel") + token("lo") + broken + DONE)]], has_fast_end=True)
    blocks = world.call(retries=3).blocks()
    assert [chunk.content for chunk in await anext(blocks)] == ["Hel", "lo"]
    with pytest.raises(errors.FoundryError, match="boom") as caught:
        await anext(blocks)
    assert caught.value.partial == "Hello"


async def test_response_is_closed_when_the_reader_of_blocks_leaves() -> None:
    world = World([WHOLE])
    blocks = world.call().blocks()
    assert [chunk.content for chunk in await anext(blocks)] == ["Hel"]
    await blocks.aclose()
    assert world.closed == 1
