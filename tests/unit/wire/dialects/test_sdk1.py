"""The dialect of SDK 1.x, with responses recorded from version 1.2.4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from foundry_api.core.chat import make_chat_request
from foundry_api.types import errors
from foundry_api.types.messages import Chunk, Usage
from foundry_api.types.models import Model
from foundry_api.wire.dialects.base import ServiceClient
from foundry_api.wire.dialects.sdk1 import Sdk1Dialect
from support.fake_transport import FakeTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS = b"""{
  "endpoints": [
    "http://127.0.0.1:42493"
  ],
  "modelDirPath": "/models",
  "pipeName": null,
  "isAutoRegistrationResolved": true,
  "autoRegistrationStatus": "No EP bootstrappers configured."
}"""
LISTED = (
    b'{"data":[{"id":"Phi-4-mini-instruct-generic-cpu","owned_by":"tests","permission":[],'
    b'"created":1767225600,"CreatedTime":"2026-01-01T00:00:00+00:00","parent":"phi-4-mini",'
    b'"IsDelta":false,"Successful":true,"HttpStatusCode":0,"object":"model"}],'
    b'"IsDelta":false,"Successful":true,"HttpStatusCode":0,"object":"list"}'
)
CATALOG_GONE = (
    b'{"error":{"message":"Failed to retrieve model list: Connection refused (127.0.0.1:57909)",'
    b'"type":"server_error","code":null}}'
)
LOADED = b'["Phi-4-mini-instruct-generic-cpu:4"]'
PHI = Model(id="Phi-4-mini-instruct-generic-cpu", alias="phi-4-mini", catalog="public", cached=True)
HI = make_chat_request([{"role": "user", "content": "Hi"}])


def dialect(answers: Mapping[str, tuple[int, bytes]] | None = None) -> Sdk1Dialect:
    return Sdk1Dialect(ServiceClient(FakeTransport(answers or {}), "http://service"))


EVENT = (
    b'data: {"model":"phi","choices":[{"delta":%(piece)b,"message":%(piece)b,"index":0%(end)b}],'
    b'"usage":{"prompt_tokens":20,"completion_tokens":%(tokens)d,"total_tokens":%(total)d},'
    b'"created":1795560426,"CreatedAt":"2026-11-24T22:47:06+00:00","id":"chat.id.1",'
    b'"IsDelta":false,"Successful":true,"HttpStatusCode":0,"object":"chat.completion.chunk"}\n\n'
)


def event(text: bytes, tokens: int, end: bytes = b"") -> bytes:
    """Make an event, which has the text twice and a running token count."""
    piece = b'{"role":"assistant","content":"%b","tool_calls":[]}' % text
    total = 20 + tokens
    return EVENT % {b"piece": piece, b"end": end, b"tokens": tokens, b"total": total}


async def test_status_has_no_pid() -> None:
    status = await dialect({"/status": (200, STATUS)}).get_status()
    assert (status.service_generation, status.pid, status.cache_dir) == ("sdk-1", None, "/models")


async def test_models_have_alias_and_loaded_state() -> None:
    service = dialect({"/v1/models": (200, LISTED), "/models/loaded": (200, LOADED)})
    expected = [msgspec.structs.replace(PHI, loaded=True)]
    assert await service.list_local_models() == await service.list_public_models() == expected
    assert await service.get_loaded_ids() == {PHI.id}


async def test_without_catalog_only_loaded_models_are_listed() -> None:
    service = dialect({"/v1/models": (500, CATALOG_GONE), "/models/loaded": (200, LOADED)})
    (model,) = await service.list_local_models()
    assert (model.id, model.loaded) == (PHI.id, True)
    with pytest.raises(errors.CatalogUnavailable):
        await service.list_public_models()


LOAD = f"/models/load/{PHI.id}"
NOTHING = b'{"data":[],"IsDelta":false,"Successful":true,"HttpStatusCode":0,"object":"list"}'


@pytest.mark.parametrize(
    ("listing", "kind"),
    [
        ((200, LISTED), errors.ModelLoadFailed),
        ((200, NOTHING), errors.ModelNotFound),
        ((500, CATALOG_GONE), errors.CatalogUnavailable),
    ],
)
async def test_model_list_explains_a_failed_load(
    listing: tuple[int, bytes], kind: type[errors.ModelError]
) -> None:
    answers = {LOAD: (500, b""), "/models/loaded": (200, b"[]"), "/v1/models": listing}
    with pytest.raises(kind) as caught:
        await dialect(answers).load(PHI)
    assert caught.value.service == "http://service"


async def test_successful_load_has_an_empty_body() -> None:
    await dialect({LOAD: (200, b"")}).load(PHI)


def test_repeated_text_is_read_once() -> None:
    decoder = dialect().make_chat_decoder(PHI, HI)
    body = event(b"Hel", 1) + event(b"lo", 2, b',"finish_reason":"stop"') + b"data: [DONE]\n\n"
    chunks = list(decoder.feed(body))
    assert [chunk.content for chunk in chunks] == ["Hel", "lo"]
    assert isinstance(chunks[0], Chunk)
    ending = decoder.finish()
    assert (ending.finish_reason, ending.usage) == ("stop", Usage(20, 2, 22))


@pytest.mark.parametrize(
    ("tokens", "bound", "reason"),
    [
        (5, {"extra": {"max_completion_tokens": 5}}, "length"),
        (5, {"max_tokens": 9, "extra": {"max_completion_tokens": 5}}, "length"),
        (5, {"max_tokens": 6}, "stop"),
        (2048, {}, "length"),
        (2047, {}, "stop"),
    ],
)
def test_answer_at_its_limit_is_truncated(
    tokens: int, bound: dict[str, object], reason: str
) -> None:
    request = make_chat_request([{"role": "user", "content": "Hi"}], **bound)  # type: ignore[arg-type]
    decoder = dialect().make_chat_decoder(PHI, request)
    list(decoder.feed(event(b"x", tokens, b',"finish_reason":"stop"') + b"data: [DONE]\n\n"))
    assert decoder.finish().finish_reason == reason


def test_non_streaming_request() -> None:
    request = make_chat_request([{"role": "user", "content": "Hi"}], max_tokens=9, stop="x")
    plain, streamed = (
        dialect().build_non_streaming_request(PHI, request),
        dialect().build_chat_request(PHI, request),
    )
    assert plain
    assert plain.body
    assert streamed.body
    bodies = msgspec.json.decode(plain.body), msgspec.json.decode(streamed.body)
    assert bodies[1] == {**bodies[0], "stream": True, "stream_options": {"include_usage": True}}
    assert "stop" not in bodies[1]
