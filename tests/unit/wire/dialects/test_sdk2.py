"""The dialect of SDK 2.1 and later, with responses recorded from version 2.2.1."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.core.chat import make_chat_request
from foundry_api.types import errors
from foundry_api.types.messages import Chunk, Usage
from foundry_api.types.models import Model
from foundry_api.wire.dialects.base import ServiceClient, ServiceStatus
from foundry_api.wire.dialects.sdk2 import Sdk21Dialect
from foundry_api.wire.sse import MAX_EVENT_BYTES
from foundry_api.wire.transport import Request
from support.fake_transport import FakeTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.wire.chat.events import StreamEnd

LOCAL = Model(id="demo:1", alias="demo", catalog="local")
PUBLIC = Model(id="Phi-4-mini-instruct-generic-cpu:4", alias="phi-4-mini", catalog="public")
HI = make_chat_request([{"role": "user", "content": "Hi"}])


def dialect(answers: Mapping[str, tuple[int, bytes]] | None = None) -> Sdk21Dialect:
    return Sdk21Dialect(ServiceClient(FakeTransport(answers or {}), "http://service"))


def recorded(choices: bytes, more: bytes = b"") -> bytes:
    """One event as 2.2.1 sends it."""
    return (
        b'data: {"choices":[' + choices + b'],"created":1795347009,'
        b'"id":"chatcmpl-c512f410b9647a3c","model":"demo:1","object":"chat.completion.chunk",'
        b'"system_fingerprint":null' + more + b"}\n\n"
    )


def text(content: bytes) -> bytes:
    return recorded(
        b'{"delta":{"content":"' + content + b'"},"finish_reason":null,"index":0,"logprobs":null}'
    )


ROLE = recorded(
    b'{"delta":{"content":"","role":"assistant"},"finish_reason":null,"index":0,"logprobs":null}'
)
LENGTH = recorded(b'{"delta":{},"finish_reason":"length","index":0,"logprobs":null}')
USAGE = recorded(
    b"",
    b',"usage":{"completion_tokens":4,"completion_tokens_details":{"reasoning_tokens":0},'
    b'"prompt_tokens":4,"prompt_tokens_details":{"cached_tokens":0},"total_tokens":8}',
)
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
PIECES = [text(piece) for piece in (b"I", b" have", b" not", b" said")]
STREAM = b"".join([KEEP_ALIVE, ROLE, KEEP_ALIVE, *PIECES, LENGTH, USAGE, DONE])
OVERFLOW = (
    b'data: {"error":{"code":null,"message":"search_options.cc:108 int fl::ValidateGenerator'
    b"RequestBudget(int64_t, int, int) request requires 9004 total tokens (4 input + 9000 output),"
    b' which exceeds the model\'s maximum context length of 4096 tokens","param":null,'
    b'"type":"invalid_request_error"}}\n\n'
)


# --- requests -------------------------------------------------------------------------------


def test_chat_request() -> None:
    request = make_chat_request(
        [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Grüß Gott"}],
        max_tokens=5,
        temperature=0.5,
        top_p=1,
        seed=7,
        stop=["\n", "END"],
        extra={"metadata": {"top_k": "5"}},
    )
    assert dialect().build_chat_request(LOCAL, request) == Request(
        "POST",
        "http://service/catalogs/local/v1/chat/completions",
        {"Content-Type": "application/json"},
        (
            '{"metadata":{"top_k":"5"},"model":"demo:1","messages":[{"role":"system","content":'
            '"Be brief"},{"role":"user","content":"Grüß Gott"}],"stream":true,"stream_options":'
            '{"include_usage":true},"max_tokens":5,"temperature":0.5,"top_p":1,"seed":7,'
            '"stop":["\\n","END"]}'
        ).encode(),
    )


def test_unset_options_are_not_sent() -> None:
    assert dialect().build_chat_request(LOCAL, HI).body == (
        b'{"model":"demo:1","messages":[{"role":"user","content":"Hi"}],"stream":true,'
        b'"stream_options":{"include_usage":true}}'
    )


def test_extra_members_do_not_replace_required_ones() -> None:
    extra = {"model": "other", "messages": [], "stream": False, "stream_options": None}
    request = make_chat_request([{"role": "user", "content": "Hi"}], extra=extra)
    sent = dialect().build_chat_request(LOCAL, request)
    assert sent.body == dialect().build_chat_request(LOCAL, HI).body


def test_each_catalog_has_its_own_routes() -> None:
    urls = [dialect().build_chat_request(model, HI).url for model in (LOCAL, PUBLIC)]
    assert urls == [
        "http://service/catalogs/local/v1/chat/completions",
        "http://service/v1/chat/completions",
    ]


def test_credentials_are_sent_with_every_request() -> None:
    wire = ServiceClient(FakeTransport({}), "http://service", {"Authorization": "Bearer secret"})
    headers = Sdk21Dialect(wire).build_chat_request(LOCAL, HI).headers
    assert headers == {"Content-Type": "application/json", "Authorization": "Bearer secret"}
    assert "secret" not in repr(wire)


# --- streams --------------------------------------------------------------------------------


def read(blocks: list[bytes]) -> tuple[list[Chunk], StreamEnd]:
    decoder = dialect().make_chat_decoder(LOCAL, HI)
    chunks = [chunk for block in blocks for chunk in decoder.feed(block)]
    assert decoder.done == (DONE in b"".join(blocks))
    return chunks, decoder.finish()


def test_recorded_stream_is_decoded() -> None:
    chunks, ending = read([STREAM])
    assert [chunk.content for chunk in chunks] == ["I", " have", " not", " said"]
    assert {chunk.model for chunk in chunks} == {"demo:1"}
    assert ending.finish_reason == "length"
    assert ending.usage == Usage(prompt_tokens=4, completion_tokens=4, total_tokens=8)


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=20).map(sorted))
def test_any_split_gives_the_same_result(cuts: list[int]) -> None:
    edges = [0, *cuts, len(STREAM)]
    blocks = [STREAM[edges[i] : edges[i + 1]] for i in range(len(edges) - 1)]
    assert read(blocks) == read([STREAM])


def test_raw_data_is_kept_unchanged() -> None:
    chunks, ending = read([STREAM])
    sent = [event.removeprefix(b"data: ") for event in (ROLE, *PIECES, LENGTH, USAGE)]
    kept = [*(chunk.raw for chunk in chunks), *ending.raw.split(b"\n")]
    assert sorted(kept) == sorted(event.strip() for event in sent)


def test_stream_without_usage() -> None:
    _, ending = read([STREAM.replace(USAGE, b"")])
    assert ending.usage == Usage()


def test_nothing_is_read_after_the_end_mark() -> None:
    chunks, _ = read([STREAM + text(b" again") + b"data: garbage\n\n"])
    assert len(chunks) == 4


@pytest.mark.parametrize("stream", [b"", ROLE, ROLE + PIECES[0], ROLE + DONE, KEEP_ALIVE])
def test_answer_without_finish_reason_is_interrupted(stream: bytes) -> None:
    with pytest.raises(errors.StreamInterrupted) as caught:
        read([stream])
    assert caught.value.model == "demo:1"


def test_stream_error_is_typed() -> None:
    with pytest.raises(errors.ContextOverflow) as caught:
        read([OVERFLOW])
    error = caught.value
    assert (error.prompt_tokens, error.max_tokens, error.context_length) == (4, 9000, 4096)
    assert error.message.startswith("request requires 9004 total tokens")
    assert error.status == 400


@pytest.mark.parametrize(
    "message",
    [
        "tool 'calculate': instance '', keyword '/required': Required property 'x' not found",
        "tool call batch: [json.exception.out_of_range.406] number overflow parsing '1E49799310'",
    ],
)
def test_a_wrong_tool_call_of_the_model_is_typed(message: str) -> None:
    event = json.dumps({"error": {"message": message, "type": "server_error"}}).encode()
    with pytest.raises(errors.ToolCallError):
        read([b"data: " + event + b"\n\n"])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("server_error", errors.ServerError), ("invalid_request_error", errors.InvalidRequest)],
)
def test_unknown_error_is_classified_by_its_type(
    kind: str, expected: type[errors.FoundryError]
) -> None:
    event = f'data: {{"error":{{"message":"boom","type":"{kind}"}}}}\n\n'.encode()
    with pytest.raises(errors.FoundryError) as caught:
        read([event])
    assert type(caught.value) is expected


def test_text_before_an_error_is_returned() -> None:
    chunks = dialect().make_chat_decoder(LOCAL, HI).feed(ROLE + PIECES[0] + OVERFLOW)
    assert next(chunks).content == "I"
    with pytest.raises(errors.ContextOverflow):
        next(chunks)


@given(data=st.binary() | st.text().map(str.encode) | st.just(b"[" * 5000))
def test_any_event_is_a_chunk_or_a_typed_error(data: bytes) -> None:
    decoder = dialect().make_chat_decoder(LOCAL, HI)
    try:
        for _ in decoder.feed(b"data: " + data + b"\n\n"):
            pass
    except errors.FoundryError as error:
        assert isinstance(error, errors.ProtocolError)  # noqa: PT017 - or no error at all


def test_events_without_text_are_bounded() -> None:
    decoder = dialect().make_chat_decoder(LOCAL, HI)
    padded = recorded(b"", b',"padding":"' + b"a" * 2**18 + b'"')
    for _ in range(MAX_EVENT_BYTES // len(padded)):
        assert list(decoder.feed(padded)) == []
    with pytest.raises(errors.ProtocolError, match="carry no text"):
        list(decoder.feed(padded))


# --- routes ---------------------------------------------------------------------------------


async def test_status_has_pid_and_cache_dir() -> None:
    body = b'{"endpoints":["http://127.0.0.1:5391"],"modelCachePath":"/cache","pid":6230}'
    status = await dialect({"/status": (200, body)}).get_status()
    assert status == ServiceStatus("sdk-2.1", pid=6230, cache_dir="/cache")


async def test_registered_models_are_listed() -> None:
    listing = b'{"data":[{"created":1,"id":"demo:1","object":"model","owned_by":"local"},'
    listing += b'{"id":"mine:2"}],"object":"list"}'
    models = await dialect(
        {
            "/catalogs/local/v1/models": (200, listing),
            "/catalogs/local/models/loaded": (200, b'["demo:1"]'),
        }
    ).list_local_models()
    assert models == [
        Model(id="demo:1", alias="demo", catalog="local", cached=True, loaded=True),
        Model(id="mine:2", alias="mine", catalog="local", cached=True, loaded=False),
    ]


async def test_public_models_have_aliases() -> None:
    listing = b'{"data":[{"id":"Phi-4-mini-instruct-generic-cpu:4"},{"id":"other-cuda-gpu:1"}]}'
    models = await dialect(
        {
            "/v1/models": (200, listing),
            "/models/loaded": (200, b'["Phi-4-mini-instruct-generic-cpu:4"]'),
        }
    ).list_public_models()
    found = [(model.id, model.alias, model.cached, model.loaded) for model in models]
    assert found == [
        ("Phi-4-mini-instruct-generic-cpu:4", "phi-4-mini", True, True),
        ("other-cuda-gpu:1", "other", None, False),
    ]


async def test_empty_public_catalog_is_unavailable() -> None:
    """Offline, the service answers so after four attempts."""
    with pytest.raises(errors.CatalogUnavailable):
        await dialect({"/v1/models": (200, b'{"data":[],"object":"list"}')}).list_public_models()


async def test_empty_local_catalog_is_empty() -> None:
    answers = {"/catalogs/local/v1/models": (200, b'{"data":[],"object":"list"}')}
    assert await dialect(answers).list_local_models() == []


async def test_loading_and_unloading_use_the_alias() -> None:
    transport = FakeTransport(
        {
            "/catalogs/local/models/load/demo": (200, b'{"status":"loaded"}'),
            "/catalogs/local/models/loaded": (200, b'["demo:1"]'),
            "/catalogs/local/models/unload/demo": (200, b'{"status":"unloaded"}'),
        }
    )
    service = Sdk21Dialect(ServiceClient(transport, "http://service"))
    await service.load(LOCAL)
    await service.unload(LOCAL)
    assert transport.requests == [
        "GET /catalogs/local/models/load/demo",
        "GET /catalogs/local/models/loaded",
        "GET /catalogs/local/models/unload/demo",
    ]


async def test_loading_another_version_is_a_failure() -> None:
    answers = {
        "/catalogs/local/models/load/demo": (200, b'{"status":"loaded"}'),
        "/catalogs/local/models/loaded": (200, b'["demo:2"]'),
    }
    with pytest.raises(errors.ModelLoadFailed, match="another variant of demo than demo:1"):
        await dialect(answers).load(LOCAL)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, "Model not found: No model matching 'demo'", errors.ModelNotFound),
        (
            400,
            "Model not cached: Model must be downloaded before loading",
            errors.ModelNotCached,
        ),
        (500, "Load failed: out of memory", errors.ModelLoadFailed),
    ],
)
async def test_refused_load_is_a_typed_error(
    status: int, message: str, kind: type[errors.FoundryError]
) -> None:
    body = f'{{"error":{{"code":null,"message":"{message}","param":null}}}}'.encode()
    with pytest.raises(kind, match=message) as caught:
        await dialect({"/catalogs/local/models/load/demo": (status, body)}).load(LOCAL)
    assert caught.value.service == "http://service"
    assert caught.value.status == status


async def test_model_in_use_is_not_unloaded() -> None:
    message = b"Unload failed: cannot unload model 'demo:1': 2 session(s) still using it"
    body = b'{"error":{"message":"' + message + b'"}}'
    with pytest.raises(errors.ModelInUse):
        await dialect({"/catalogs/local/models/unload/demo": (500, body)}).unload(LOCAL)


NONSENSE = [b"", b"null", b"{}", b"[1]", b"<html>", b'{"data":{}}', b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("body", NONSENSE)
@pytest.mark.parametrize("path", ["/v1/models", "/models/loaded"])
async def test_unexpected_response_is_a_protocol_error(path: str, body: bytes) -> None:
    answers = {
        "/catalogs/local/v1/models": (200, b'{"data":[{"id":"demo:1"}]}'),
        "/catalogs/local/models/loaded": (200, b'{"not":"a list"}'),
        f"/catalogs/local{path}": (200, body),
    }
    with pytest.raises(errors.ProtocolError, match="is not what this generation sends") as caught:
        await dialect(answers).list_local_models()
    assert caught.value.service == "http://service"


async def test_missing_route_keeps_the_routers_message() -> None:
    page = b"server=oatpp/1.3.0\ncode=404\ndescription=Not Found\n"
    page += b"message=No mapping for HTTP-method: 'GET', URL: '/status'\n"
    with pytest.raises(errors.RouteNotFound, match="No mapping for HTTP-method"):
        await dialect({"/status": (404, page)}).get_status()


async def test_models_are_listed_from_many_tasks_at_once() -> None:
    answers = {"/catalogs/local/v1/models": (200, b'{"data":[]}')}
    service = dialect(answers)
    assert await asyncio.gather(*(service.list_local_models() for _ in range(10))) == [[]] * 10
