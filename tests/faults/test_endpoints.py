"""Endpoints other than chat completions, against a misbehaving server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api.core.call import Call, CallRequest
from foundry_api.core.embeddings import embed
from foundry_api.core.raw_request import make_raw_call, make_raw_request
from foundry_api.core.responses import build_operation
from foundry_api.core.transcriptions import AudioInput, TranscriptionOperation
from foundry_api.resilience.deadline import NEVER
from foundry_api.types import errors
from foundry_api.types.events import CallEnded

from .hostile import (
    DONE,
    LAST_CHUNK,
    ScriptedServer,
    break_off,
    encode_chunk,
    encode_event,
    get_unused_url,
    hang_up,
    make_error_json,
    make_head,
    make_response,
    make_stream_head,
    send_once,
    send_stream,
    stay_silent,
)

if TYPE_CHECKING:
    from foundry_api.core.operation import Outcome
    from foundry_api.core.raw_request import RawCall
    from foundry_api.types.results import Response, ResponseEvent, TranscriptionChunk
    from foundry_api.wire.endpoints.transcriptions import TranscriptionBody

    from .conftest import Caller
    from .hostile import Script

BUSY = make_response(503, make_error_json("try again later"))


def response(status: str = "completed", **members: Any) -> dict[str, Any]:
    return {"id": "resp_1", "status": status, "model": "tiny:1", "output": [], **members}


CREATED = encode_event(type="response.created", response=response("in_progress"))
HEL, LO = (encode_event(type="response.output_text.delta", delta=text) for text in ("Hel", "lo"))
COMPLETED = encode_event(type="response.completed", response=response())


def responds(
    caller: Caller, base_url: str, **options: Any
) -> Call[ResponseEvent, Outcome[Response]]:
    asking = build_operation("Hi", {})
    timeout_s = options.pop("timeout_s", 5.0)
    order = CallRequest(("tiny",), asking, timeout_s, NEVER)
    return Call(caller.make_context(base_url, **options), order, asking)


def raw(caller: Caller, base_url: str, method: str, *, retries: int = 3) -> RawCall:
    tools = caller.make_context(base_url, retries=retries)
    return make_raw_call(tools, make_raw_request(method, "/v1/x"), 5.0, NEVER)


class TestResponses:
    async def test_truncated_stream_is_interrupted(self, caller: Caller) -> None:
        """It is not retried: the caller already has its beginning."""
        async with ScriptedServer(send_stream(CREATED, HEL, LO)) as server:
            with pytest.raises(errors.StreamInterrupted) as caught:
                await responds(caller, server.base_url, retries=3).result()
        assert (caught.value.partial, caught.value.attempts) == ("Hello", 1)

    async def test_stream_without_its_last_event_is_interrupted(self, caller: Caller) -> None:
        body = map(encode_chunk, (CREATED, HEL, DONE))
        async with ScriptedServer(send_once(make_stream_head(), *body, LAST_CHUNK)) as server:
            with pytest.raises(errors.StreamInterrupted, match="before the response did"):
                await responds(caller, server.base_url).result()

    @pytest.mark.parametrize("script", [hang_up, break_off, send_stream(CREATED), send_once(BUSY)])
    async def test_failure_before_the_first_text_is_retried(
        self, caller: Caller, script: Script
    ) -> None:
        good = send_stream(CREATED, HEL, LO, COMPLETED, DONE)
        async with ScriptedServer(script, good) as server:
            outcome = await responds(caller, server.base_url, retries=1).result()
        assert outcome.result.status == "completed"
        assert len(outcome.attempts) == 2

    async def test_failure_after_text_keeps_the_text(self, caller: Caller) -> None:
        error = {"code": "server_error", "message": "out of memory"}
        failed = encode_event(type="response.failed", response=response("failed", error=error))
        async with ScriptedServer(send_stream(CREATED, HEL, failed, DONE)) as server:
            with pytest.raises(errors.ServerError, match="out of memory") as caught:
                await responds(caller, server.base_url, retries=3).result()
        assert caught.value.partial == "Hel"

    async def test_silence_times_out_and_closes_the_connection(self, caller: Caller) -> None:
        async with ScriptedServer(stay_silent) as server:
            with pytest.raises(errors.ReadTimeout):
                await responds(caller, server.base_url, timeout_s=0.05).result()
            await server.wait_closed()

    async def test_end_is_reported_once(self, caller: Caller) -> None:
        async with ScriptedServer(send_stream(CREATED, HEL)) as server:
            with pytest.raises(errors.StreamInterrupted):
                await responds(caller, server.base_url).result()
        (ended,) = [each for each in caller.events if isinstance(each, CallEnded)]
        assert (ended.operation, ended.outcome, ended.content) == ("response", "failed", "Hel")


class TestEmbeddings:
    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b'{"data":[]}',
            b'{"data":[{"embedding":[1],"index":0},{"embedding":[1,2],"index":1}]}',
        ],
    )
    async def test_wrong_number_of_vectors_is_refused(self, caller: Caller, body: bytes) -> None:
        async with ScriptedServer(send_once(make_response(200, body))) as server:
            with pytest.raises(errors.ProtocolError):
                await embed(
                    caller.make_context(server.base_url),
                    ["a", "b"],
                    model="tiny",
                    timeout_s=5,
                    deadline=NEVER,
                )

    async def test_vectors_of_two_lengths_are_refused(self, caller: Caller) -> None:
        def vector(*numbers: int) -> Script:
            item = {"embedding": numbers, "index": 0}
            return send_once(make_response(200, json.dumps({"data": [item]}).encode()))

        async with ScriptedServer(vector(1), vector(1, 2)) as server:
            with pytest.raises(errors.ProtocolError, match="embedded differently"):
                await embed(
                    caller.make_context(server.base_url),
                    ["a", "b"],
                    model="tiny",
                    timeout_s=5,
                    deadline=NEVER,
                    batch_size=1,
                )

    async def test_failed_embedding_batch_is_retried(self, caller: Caller) -> None:
        body = b'{"data":[{"embedding":[1],"index":0}]}'
        async with ScriptedServer(send_once(BUSY), send_once(make_response(200, body))) as server:
            tools = caller.make_context(server.base_url, retries=1)
            made = await embed(tools, ["a"], model="tiny", timeout_s=5, deadline=NEVER)
        assert made.vectors == ((1.0,),)
        assert [type(each.error) for each in made.attempts] == [
            errors.ServiceOverloaded,
            type(None),
        ]

    @pytest.mark.parametrize(
        "usage", [None, {"prompt_tokens": None}, {"prompt_tokens": 0.0, "total_tokens": "x"}, []]
    )
    async def test_odd_usage_does_not_lose_the_vectors(self, caller: Caller, usage: object) -> None:
        body = {"data": [{"embedding": [1], "index": 0}], "usage": usage}
        async with ScriptedServer(
            send_once(make_response(201, json.dumps(body).encode()))
        ) as server:
            tools = caller.make_context(server.base_url)
            made = await embed(tools, ["a"], model="tiny", timeout_s=5, deadline=NEVER)
        assert (made.vectors, made.usage) == (((1.0,),), None)

    @pytest.mark.parametrize("retries", [0, 2])
    @pytest.mark.parametrize(
        ("script", "error", "again"),
        [
            (send_once(make_response(200, b'{"data":[{"embe')), errors.ProtocolError, False),
            (
                send_once(make_head(200, length=99), b'{"data":[{"embe'),
                errors.StreamInterrupted,
                True,
            ),
        ],
    )
    async def test_truncated_body_follows_the_retry_policy(
        self,
        caller: Caller,
        script: Script,
        error: type[errors.FoundryError],
        again: bool,  # noqa: FBT001 - a column of the table
        retries: int,
    ) -> None:
        async with ScriptedServer(script) as server:
            tools = caller.make_context(server.base_url, retries=retries)
            with pytest.raises(error) as caught:
                await embed(tools, ["a"], model="tiny", timeout_s=5, deadline=NEVER)
            assert len(server.requests) == caught.value.attempts == 1 + (retries if again else 0)


class TestTranscription:
    def listens(
        self, caller: Caller, base_url: str
    ) -> Call[TranscriptionChunk, Outcome[TranscriptionBody]]:
        asking = TranscriptionOperation(AudioInput(__file__), {})
        order = CallRequest(("tiny",), asking, 5.0, NEVER)
        return Call(caller.make_context(base_url, retries=3), order, asking)

    async def test_truncated_stream_is_interrupted(self, caller: Caller) -> None:
        async with ScriptedServer(send_stream(encode_event(text="Good mor"))) as server:
            with pytest.raises(errors.StreamInterrupted) as caught:
                await self.listens(caller, server.base_url).result()
        assert (caught.value.partial, caught.value.attempts) == ("Good mor", 1)

    async def test_failure_in_the_stream_is_raised(self, caller: Caller) -> None:
        failed = encode_event(
            error={"message": "[AudioDecoder]: Cannot detect audio stream format"}
        )
        async with ScriptedServer(send_stream(failed)) as server:
            with pytest.raises(errors.InvalidRequest, match="AudioDecoder"):
                await self.listens(caller, server.base_url).result()
            assert len(server.requests) == 1


class TestRequest:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
    @pytest.mark.parametrize("script", [send_once(BUSY), break_off])
    async def test_idempotent_request_is_retried(
        self, caller: Caller, method: str, script: Script
    ) -> None:
        async with ScriptedServer(script, send_once(make_response(200, b"{}"))) as server:
            reply = await raw(caller, server.base_url, method).result()
        assert (reply.status, len(reply.attempts)) == (200, 2)

    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    @pytest.mark.parametrize("script", [send_once(BUSY), break_off, hang_up])
    async def test_other_request_is_not_retried(
        self, caller: Caller, method: str, script: Script
    ) -> None:
        async with ScriptedServer(script, send_once(make_response(200, b"{}"))) as server:
            with pytest.raises(errors.ServiceError) as caught:
                await raw(caller, server.base_url, method).result()
            assert len(server.requests) == 1
        assert caught.value.attempts == 1

    async def test_refused_connection_is_always_retried(self, caller: Caller) -> None:
        with pytest.raises(errors.ServiceNotRunning) as caught:
            await raw(caller, await get_unused_url(), "POST", retries=2).result()
        assert caught.value.attempts == 3

    async def test_error_never_contains_a_credential(self, caller: Caller) -> None:
        request = make_raw_request("GET", "/v1/x", params={"key": "s3cret"})
        async with ScriptedServer(send_once(make_response(500, b"{}"))) as server:
            call = make_raw_call(caller.make_context(server.base_url), request, 5.0, NEVER)
            with pytest.raises(errors.ServerError) as caught:
                await call.result()
        assert "s3cret" not in str(caught.value)
        assert "s3cret" not in str(caller.events)
